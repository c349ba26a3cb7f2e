"""The circuit breaker of one stage of an attempt: login, grant or bucket.

Closed, it lets attempts pass. Once the destination fails it is open, and uploads pause. When the
pause is over it is half-open: one attempt at a time passes as a probe, whose outcome closes it or
sets the time of the next probe. Closed again, it lets one attempt pass, then two, then four (slow
start): a server that has just come back would fail again under all uploads that waited for it.

Does no I/O; `now` is passed in. Not thread-safe: `Destination` has the lock.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.errors import RETRY_AFTER_CAP_S, Decision, DeliveryError, Outage, Stage

STREAK = 4
"""Failures of at least this many files in a row are a failure of the destination."""

UNTRIED_EVERY_S = 0.25
"""How soon the next file that was not tried yet may be a probe after refusals."""

RECHECK_S = 1.0
"""How soon to ask again where the wait depends on another attempt, not on the clock."""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """The failure of a stage, since when it lasts, and until when uploads pause."""

    stage: Stage
    code: Code
    reason: str
    remedy: str
    since: float
    probe_at: float
    probes: int = 0
    """How many probes have failed."""
    refusals: bool = False
    """Whether several files in a row were refused, each perhaps for its own sake."""

    @property
    def outage(self) -> Outage:
        """The part of it that other components report."""
        return Outage(self.stage, self.code, self.reason, self.since)


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Permission for one attempt to pass one stage.

    `closings`: how often the circuit had closed by then.
    """

    closings: int


class CircuitBreaker:
    """The circuit breaker of one stage."""

    def __init__(self, stage: Stage, backoff: Backoff, workers: int) -> None:
        """Begin closed. `workers`: the most attempts at once."""
        self._stage = stage
        self.down: OpenCircuit | None = None
        """The failure, or None while the circuit is closed."""
        self._probe: Permit | None = None
        self._closings = 0
        self._streak: list[int] = []
        self._limit = self._workers = workers
        self._under_way = 0
        self._untried_at = 0.0
        self.apply_settings(backoff, workers)

    def apply_settings(self, backoff: Backoff, workers: int) -> None:
        """Use other settings from now on; the time of the next probe stays."""
        self._backoff = backoff
        self._longest_s = RETRY_AFTER_CAP_S + backoff.max_s
        # A shorter streak than workers would pause all uploads for one bad moment, in which each
        # worker lost its connection.
        self._streak_max = max(workers, STREAK)
        # Without slow start, there is none after a change of the workers either.
        self._limit = min(self._limit, workers) if self.limited else workers
        self._workers = workers

    @property
    def limited(self) -> bool:
        """Whether fewer attempts may pass at once than there are workers."""
        return self._limit < self._workers

    def probe_now(self, codes: Collection[Code], now: float) -> bool:
        """Make the probe due if the circuit is open for one of these codes.

        Return whether it is.
        """
        if self.down is None or self.down.code not in codes:
            return False
        self.down = replace(self.down, probe_at=now)
        return True

    def probe_untried(self, now: float) -> bool:
        """Make the probe due for a file that was not tried yet; return whether it is.

        After refusals only, and not too often: the files that were refused may be the cause, and a
        good file must not wait until the pause is over.
        """
        if self.down is None or not self.down.refusals or self._probe is not None:
            return False
        if 0 <= now - self._untried_at < UNTRIED_EVERY_S:
            return False
        self._untried_at = now
        self.down = replace(self.down, probe_at=now)
        return True

    def wait_s(self, now: float) -> float:
        """Return how long to wait, in seconds; 0.0 where an attempt may pass now."""
        if self.down is None:
            return 0.0 if self._under_way < self._limit else RECHECK_S
        wait_s = max(self.down.probe_at - now, 0.0)
        if wait_s > self._longest_s:
            # No pause is that long, so the clock was set back.
            wait_s = 0.0
        return wait_s if self._probe is None else max(wait_s, RECHECK_S)

    def acquire(self) -> Permit:
        """Return a permit for an attempt, which must not have to wait."""
        self._under_way += 1
        permit = Permit(self._closings)
        if self.down is not None:
            self._probe = permit
        return permit

    def release(self, permit: Permit) -> None:
        """Take a permit back: the attempt has passed this stage, or ended."""
        self._under_way -= 1
        if self.is_probe(permit):
            self._probe = None

    def is_probe(self, permit: Permit | None) -> bool:
        """Return whether this is the permit of the probe that is under way."""
        return permit is not None and permit is self._probe

    def is_stale(self, permit: Permit | None) -> bool:
        """Return whether the circuit has opened and closed since this permit."""
        return permit is not None and permit.closings != self._closings

    def record_answer(self, permit: Permit | None, *, implied: bool = False) -> OpenCircuit | None:
        """Record a definite answer; return the failure that it ends, if any.

        `implied`: only a later stage has answered. If this circuit opened while the attempt was
        under way, that proves nothing about this stage.
        """
        ended = self.down
        if ended is None:
            self._streak.clear()
            # An attempt from before the outage is no proof that the server can take more attempts
            # after it.
            if permit is not None and not self.is_stale(permit):
                self._limit = min(2 * self._limit, self._workers)
            return None
        if implied and not self.is_probe(permit):
            return None
        self.down = self._probe = None
        self._closings += 1
        self._limit = 1
        return ended

    def record_failure(
        self,
        error: DeliveryError,
        permit: Permit | None,
        now: float,
        *,
        entry: int,
        file_only: bool,
    ) -> tuple[OpenCircuit | None, list[int]]:
        """Record that an attempt for an entry failed at this stage.

        `file_only`: the file may be the cause. Several such files in a row open the circuit. Return
        the failure to report, if it is new, and the entries whose attempts were counted as failed
        (charged) during the streak.
        """
        before = self.down
        if before is not None:
            # An attempt that was under way when the circuit opened tells nothing new, and must not
            # lengthen the pause.
            if not self.is_probe(permit):
                return None, []
            down = self._open(error, now, before)
            # The first digit of a code names the stage. A line that fails in another way at each
            # probe is still one outage.
            return (down if before.code[:2] != down.code[:2] else None), []
        if self.is_stale(permit):
            return None, []
        if file_only:
            # It may be a sign of overload.
            self._limit = max(1, self._limit // 2)
            # One file whose body is refused again and again proves nothing about others.
            if error.decision is not Decision.DEFER or entry not in self._streak:
                self._streak.append(entry)
            if len(self._streak) < self._streak_max:
                return None, []
            self._streak.remove(entry)
        charged_entries, self._streak = self._streak, []
        return self._open(error, now, None), charged_entries

    def _open(self, error: DeliveryError, now: float, before: OpenCircuit | None) -> OpenCircuit:
        probes = before.probes + 1 if before is not None else 0
        retry_after_s = error.retry_after_s
        if error.code is Code.CREDENTIALS:
            # The wait after a refused login already grows from try to try. The longer of both waits
            # counts, not their sum.
            due_at = self._backoff.due_at(now, probes + 1, None)
            due_at = max(due_at, now + (retry_after_s or 0.0))
        else:
            due_at = self._backoff.due_at(now, probes + 1, retry_after_s)
        self._probe = None
        self.down = OpenCircuit(
            self._stage,
            error.code,
            error.reason,
            error.remedy,
            before.since if before is not None else now,
            due_at,
            probes,
            refusals=is_refusal(error),
        )
        return self.down


def is_refusal(error: DeliveryError) -> bool:
    """Return whether an answer refuses one file, or all of them: only other files can tell."""
    refused = error.code in {Code.GRANT_REFUSED, Code.NOT_A_BUCKET}
    return error.decision is Decision.DEFER and refused
