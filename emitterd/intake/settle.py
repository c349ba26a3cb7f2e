"""Which paths are complete enough to be admitted: pure, `now` is passed in.

A candidate is a path that was seen and is not in the journal yet. It lives in
memory only: before admission the folder is the truth, and a restart observes again.
"""

import heapq
from dataclasses import dataclass

from emitterd.model import Fingerprint
from emitterd.spool.folder import LeaseState

FIRST_LOOK_S = 0.05
"""A file still open for writing is looked at again this soon; then ever later."""


@dataclass(slots=True)
class Candidate:
    """A path that is not settled, and what was last seen of it."""

    fingerprint: Fingerprint
    since: float
    proof: LeaseState
    wait_s: float
    due_at: float
    incomplete: bool = False
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Settling:
    """The rule: `quiet_s` without a change where no lease proves that it is closed."""

    quiet_s: float
    look_max_s: float
    incomplete_after_s: float


class Tracker:
    """The candidates, and when each is to be looked at again."""

    def __init__(self, rule: Settling) -> None:
        self._rule = rule
        self._candidates: dict[bytes, Candidate] = {}
        self._due: list[tuple[float, bytes]] = []

    def adopt(self, rule: Settling) -> None:
        """Go by another rule; looks that are due already stay so."""
        self._rule = rule

    def __contains__(self, path: bytes) -> bool:
        return path in self._candidates

    def __len__(self) -> int:
        return len(self._candidates)

    def settling(self) -> bool:
        """Tell whether a candidate waits for nothing but its quiet period."""
        return any(
            one.proof is LeaseState.NONE and not one.incomplete
            for one in tuple(self._candidates.values())
        )

    def observe(
        self, path: bytes, seen: Fingerprint, proof: LeaseState, now: float
    ) -> bool:
        """Note what was seen; return whether nobody is writing the file any more."""
        known = self._candidates.get(path)
        if proof is LeaseState.CLOSED:
            return True
        if known is None or known.fingerprint != seen or known.proof is not proof:
            known = self._track(path, seen, proof, now)
        if proof is LeaseState.NONE:
            quiet = now >= known.since + self._rule.quiet_s
            if not quiet:
                self._look_again(path, known, known.since + self._rule.quiet_s)
            return quiet
        known.wait_s = min(known.wait_s * 2, self._rule.look_max_s)
        self._look_again(path, known, now + known.wait_s)
        return False

    def stalled(self, path: bytes, now: float) -> bool:
        """Tell whether a file has been open for writing, unchanged, for too long."""
        known = self._candidates.get(path)
        return (
            known is not None
            and known.proof is LeaseState.OPEN
            and now >= known.since + self._rule.incomplete_after_s
        )

    def incomplete(
        self, path: bytes, seen: Fingerprint, proof: LeaseState, now: float
    ) -> tuple[bool, bool]:
        """Note a file that nobody writes and that is no whole zip.

        Return (say so now, give up now): each version is reported once, and given
        up when it has not changed for `incomplete_after_s`.
        """
        known = self._candidates.get(path)
        if known is None or known.fingerprint != seen or not known.incomplete:
            known = self._track(path, seen, proof, now)
            known.incomplete = True
        report, known.reported = not known.reported, True
        give_up_at = known.since + self._rule.incomplete_after_s
        if now < give_up_at:
            self._look_again(path, known, give_up_at)
        return report, now >= give_up_at

    def postpone(self, path: bytes, seen: Fingerprint, due_at: float) -> None:
        """Look at the path again at `due_at`, whatever happens."""
        known = self._candidates.get(path)
        if known is None:
            known = self._track(path, seen, LeaseState.NONE, due_at)
        self._look_again(path, known, due_at)

    def forget(self, path: bytes) -> None:
        """Drop a path that was admitted, ignored, or is gone."""
        self._candidates.pop(path, None)

    def due(self, now: float) -> list[bytes]:
        """Return the paths to look at now, each once."""
        paths = []
        while self._due and self._due[0][0] <= now:
            due_at, path = heapq.heappop(self._due)
            known = self._candidates.get(path)
            # A heap keeps what was superseded; the candidate says which is current.
            if known is not None and known.due_at == due_at:
                known.due_at = float("inf")
                paths.append(path)
        return paths

    def next_due_at(self) -> float:
        """Return the instant of the next look, or infinity."""
        return self._due[0][0] if self._due else float("inf")

    def _track(
        self, path: bytes, seen: Fingerprint, proof: LeaseState, now: float
    ) -> Candidate:
        candidate = Candidate(seen, now, proof, FIRST_LOOK_S / 2, float("inf"))
        self._candidates[path] = candidate
        return candidate

    def _look_again(self, path: bytes, known: Candidate, due_at: float) -> None:
        if known.due_at != due_at:
            known.due_at = due_at
            heapq.heappush(self._due, (due_at, path))
