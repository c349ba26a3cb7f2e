"""The candidates: files that are not settled, and so may not be queued yet.

A candidate is a path that was seen and is not in the journal yet. Candidates are kept in memory
only: after a restart they are observed again. Does no I/O; `now` is passed in.
"""

import heapq
from dataclasses import dataclass

from emitterd.model import Fingerprint
from emitterd.spool.folder import LeaseState

FIRST_WAIT_S = 0.05
"""When an open file is first checked again; the wait then doubles each time."""

FAILED_FIRST_S, FAILED_MAX_S = 1.0, 600.0
"""When a path that failed is first tried again; the wait then doubles up to the second value."""

FAILED_PATHS_MAX = 10_000
"""With more candidates than this, only the sweeps try a path that failed again."""

NOTHING_SEEN = Fingerprint(0, 0, -1, 0, 0)


@dataclass(slots=True)
class Candidate:
    """A path that is not settled, and what was last seen of it."""

    fingerprint: Fingerprint
    since: float
    lease: LeaseState
    wait_s: float
    due_at: float
    incomplete: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class SettleRule:
    """The rule: `quiet_s` without a change where no lease proves that it is closed."""

    quiet_s: float
    check_max_s: float
    incomplete_after_s: float


class Tracker:
    """The candidates, and when each is due for another check."""

    def __init__(self, rule: SettleRule) -> None:
        self._rule = rule
        self._candidates: dict[bytes, Candidate] = {}
        self._due: list[tuple[float, bytes]] = []

    def apply_settings(self, rule: SettleRule) -> None:
        """Use another rule; checks that are already scheduled stay scheduled."""
        self._rule = rule

    def __contains__(self, path: bytes) -> bool:
        return path in self._candidates

    def settling(self) -> bool:
        """Tell whether a candidate waits only for its quiet period."""
        return any(
            candidate.lease is LeaseState.NONE and not (candidate.incomplete or candidate.failed)
            for candidate in tuple(self._candidates.values())
        )

    def observe(self, path: bytes, seen: Fingerprint, lease: LeaseState, now: float) -> bool:
        """Note what was seen; return whether nobody is writing the file any more."""
        if lease is LeaseState.CLOSED:
            return True
        candidate = self._same_version(path, seen)
        if candidate is None or candidate.lease is not lease:
            candidate = self._track(path, seen, lease, now)
        if lease is LeaseState.OPEN:
            candidate.wait_s = min(candidate.wait_s * 2, self._rule.check_max_s)
            self._check_again(path, candidate, now + candidate.wait_s)
            return False
        quiet_at = candidate.since + self._rule.quiet_s
        if now < quiet_at:
            self._check_again(path, candidate, quiet_at)
        return now >= quiet_at

    def stalled(self, path: bytes, now: float) -> bool:
        """Tell whether a file has been open for writing, unchanged, for too long."""
        candidate = self._candidates.get(path)
        return (
            candidate is not None
            and candidate.lease is LeaseState.OPEN
            and now >= candidate.since + self._rule.incomplete_after_s
        )

    def incomplete(self, path: bytes, seen: Fingerprint, lease: LeaseState, now: float) -> bool:
        """Note a settled file that is not a whole zip; return whether to give it up.

        It is given up when it has not changed for `incomplete_after_s`.
        """
        candidate = self._same_version(path, seen)
        if candidate is None or not candidate.incomplete:
            candidate = self._track(path, seen, lease, now)
            candidate.incomplete = True
        give_up_at = candidate.since + self._rule.incomplete_after_s
        if now < give_up_at:
            self._check_again(path, candidate, give_up_at)
        return now >= give_up_at

    def postpone(self, path: bytes, seen: Fingerprint, due_at: float) -> None:
        """Schedule a check at `due_at`; later observations do not change this time."""
        candidate = self._candidates.get(path)
        if candidate is None:
            candidate = self._track(path, seen, LeaseState.NONE, due_at)
        self._check_again(path, candidate, due_at)

    def failed(self, path: bytes, now: float) -> None:
        """Schedule another look at a path that failed: each wait is twice the last one."""
        candidate = self._candidates.get(path)
        if candidate is None or not candidate.failed:
            if len(self._candidates) >= FAILED_PATHS_MAX:
                return
            candidate = self._track(path, NOTHING_SEEN, LeaseState.NONE, now)
            candidate.failed, candidate.wait_s = True, FAILED_FIRST_S / 2
        candidate.wait_s = min(candidate.wait_s * 2, FAILED_MAX_S)
        self._check_again(path, candidate, now + candidate.wait_s)

    def has_failed(self, path: bytes) -> bool:
        """Tell whether a path failed, and waits for another look."""
        candidate = self._candidates.get(path)
        return candidate is not None and candidate.failed

    def forget(self, path: bytes) -> None:
        """Drop a path that was admitted, is ignored, or is gone."""
        self._candidates.pop(path, None)

    def due(self, now: float) -> list[bytes]:
        """Return the paths to check now, each once."""
        paths = []
        while self._due and self._due[0][0] <= now:
            due_at, path = heapq.heappop(self._due)
            candidate = self._candidates.get(path)
            # The heap keeps superseded checks; the candidate has the current one.
            if candidate is not None and candidate.due_at == due_at:
                candidate.due_at = float("inf")
                paths.append(path)
        return paths

    def next_due_at(self) -> float:
        """Return the time of the next check, or infinity."""
        return self._due[0][0] if self._due else float("inf")

    def _same_version(self, path: bytes, seen: Fingerprint) -> Candidate | None:
        candidate = self._candidates.get(path)
        return candidate if candidate and candidate.fingerprint.same_version(seen) else None

    def _track(self, path: bytes, seen: Fingerprint, lease: LeaseState, now: float) -> Candidate:
        candidate = Candidate(seen, now, lease, FIRST_WAIT_S / 2, float("inf"))
        self._candidates[path] = candidate
        return candidate

    def _check_again(self, path: bytes, candidate: Candidate, due_at: float) -> None:
        if candidate.due_at != due_at:
            candidate.due_at = due_at
            heapq.heappush(self._due, (due_at, path))
