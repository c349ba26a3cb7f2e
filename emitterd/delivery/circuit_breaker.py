"""One gate on the way to the bucket: open, or shut behind a probe.

Pure, with `now` passed in, and not thread-safe: `Destination` has the lock. While it
is shut one attempt at a time may pass, as a probe; its outcome opens the gate, or
sets the next probe's time. Once open again it lets one pass, then ever more.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.errors import RETRY_AFTER_CAP_S, DeliveryError, Outage, Stage

# How many attempts may be under way at once: one after an outage, then ever more. A
# server that has just come back would fall over again under all that waited for it.
# Pure, and not thread-safe.


class SlowStart:
    """Doubled by a success up to the most there may be, halved by a failure."""

    def __init__(self, most: int) -> None:
        """`most`: the number of workers."""
        self._most = self._limit = most
        self._under_way = 0

    @property
    def limited(self) -> bool:
        """Whether fewer may be under way than there may be at the most."""
        return self._limit < self._most

    def adopt(self, most: int) -> None:
        """Go by another number of workers; what was unlimited stays so."""
        full = not self.limited
        self._most = most
        self._limit = most if full else min(self._limit, most)

    def room(self) -> bool:
        """Tell whether one more may begin."""
        return self._under_way < self._limit

    def enter(self) -> None:
        """Note that an attempt begins."""
        self._under_way += 1

    def leave(self) -> None:
        """Note that an attempt ends, however."""
        self._under_way -= 1

    def restart(self) -> None:
        """Begin with one."""
        self._limit = 1

    def grow(self) -> None:
        """Note a success."""
        self._limit = min(2 * self._limit, self._most)

    def shrink(self) -> None:
        """Note a failure that may be one of overload."""
        self._limit = max(1, self._limit // 2)


STREAK = 4
"""This many passing failures in a row, at least, are trouble of the destination."""

LOOK_S = 1.0
"""How soon to ask again where that hangs on another's attempt, not on the clock."""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Where the trouble lies, what it is, since when, and until when it parks."""

    stage: Stage
    code: Code
    reason: str
    hint: str
    since: float
    probe_at: float
    probes: int = 0
    """How many probes have failed."""

    @property
    def outage(self) -> Outage:
        """What of it is told to others."""
        return Outage(self.stage, self.code, self.reason, self.since)


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Leave to pass one gate; `opening` counts how often it had opened by then."""

    opening: int


class CircuitBreaker:
    """The gate of one stage."""

    def __init__(self, stage: Stage, backoff: Backoff, workers: int) -> None:
        """Begin open. `workers`: the most attempts that there may be at once."""
        self._stage = stage
        self._down: OpenCircuit | None = None
        self._probe: Permit | None = None
        self._opening = 0
        self._streak: list[int] = []
        self._allowance = SlowStart(workers)
        self.adopt(backoff, workers)

    def adopt(self, backoff: Backoff, workers: int) -> None:
        """Go by another rule from now on; a probe that is due already stays so."""
        self._backoff = backoff
        self._longest_s = RETRY_AFTER_CAP_S + backoff.max_s
        # With fewer than the workers one bad moment would park all.
        self._streak_max = max(workers, STREAK)
        self._allowance.adopt(workers)

    @property
    def down(self) -> OpenCircuit | None:
        """The trouble, or None while the gate is open."""
        return self._down

    @property
    def limited(self) -> bool:
        """Whether fewer may pass at once than there are workers."""
        return self._allowance.limited

    def hasten(self, codes: Collection[Code], now: float) -> bool:
        """Have it probed now if it is shut for one of these; return whether it is."""
        if self._down is None or self._down.code not in codes:
            return False
        self._down = replace(self._down, probe_at=now)
        return True

    def wait_s(self, now: float) -> float:
        """Return how long to wait, in seconds; 0.0 where one more may pass now."""
        if self._down is None:
            return 0.0 if self._allowance.room() else LOOK_S
        wait_s = max(self._down.probe_at - now, 0.0)
        if wait_s > self._longest_s:
            # The clock was set back since: nothing waits longer than that.
            wait_s = 0.0
        return wait_s if self._probe is None else max(wait_s, LOOK_S)

    def enter(self) -> Permit:
        """Let an attempt pass, where there is nothing to wait for."""
        self._allowance.enter()
        ticket = Permit(self._opening)
        if self._down is not None:
            self._probe = ticket
        return ticket

    def leave(self, ticket: Permit) -> None:
        """Note that an attempt is past this stage, or at its end."""
        self._allowance.leave()
        if self.is_probe(ticket):
            self._probe = None

    def is_probe(self, ticket: Permit | None) -> bool:
        """Tell whether this is the probe that is under way."""
        return ticket is not None and ticket is self._probe

    def is_stale(self, ticket: Permit | None) -> bool:
        """Tell whether the gate has shut and opened since."""
        return ticket is not None and ticket.opening != self._opening

    def answered(
        self, ticket: Permit | None, *, implied: bool = False
    ) -> OpenCircuit | None:
        """Note a definite answer; return the trouble that it ends, if any.

        `implied`: only a later stage has answered, so of a gate that was shut while
        the attempt was under way that says nothing.
        """
        ended = self._down
        if ended is None:
            self._streak.clear()
            # What began before an outage is no proof that more can be borne after it.
            if ticket is not None and not self.is_stale(ticket):
                self._allowance.grow()
            return None
        if implied and not self.is_probe(ticket):
            return None
        self._down = self._probe = None
        self._opening += 1
        self._allowance.restart()
        return ended

    def failed(
        self,
        trouble: DeliveryError,
        ticket: Permit | None,
        now: float,
        *,
        entry: int,
        passing: bool,
    ) -> tuple[OpenCircuit | None, list[int]]:
        """Note that an attempt of an entry failed here.

        `passing`: it may be the entry's own trouble; a streak of such shuts the gate.
        Return the trouble if that is news, and the entries that were taken to be to
        blame until now.
        """
        before = self._down
        if before is not None:
            # Who was under way when another shut the gate brings no news, and must
            # not lengthen the wait.
            if not self.is_probe(ticket):
                return None, []
            down = self._shut(trouble, now, before)
            # The first digit says where the trouble lies; a line that breaks in
            # another way at each probe is one outage.
            return (down if before.code[:2] != down.code[:2] else None), []
        if self.is_stale(ticket):
            return None, []
        if passing:
            self._allowance.shrink()
            if len(self._streak) + 1 < self._streak_max:
                self._streak.append(entry)
                return None, []
        suspects, self._streak = self._streak, []
        return self._shut(trouble, now, None), suspects

    def _shut(
        self, trouble: DeliveryError, now: float, before: OpenCircuit | None
    ) -> OpenCircuit:
        probes = before.probes + 1 if before is not None else 0
        self._probe = None
        self._down = OpenCircuit(
            self._stage,
            trouble.code,
            trouble.reason,
            trouble.hint,
            before.since if before is not None else now,
            self._probe_at(trouble, now, probes),
            probes,
        )
        return self._down

    def _probe_at(self, trouble: DeliveryError, now: float, probes: int) -> float:
        if trouble.code is not Code.CREDENTIALS:
            return self._backoff.due_at(now, probes + 1, trouble.retry_after_s)
        # How long a refused login waits is no wish but a rule, and grows by itself.
        due_at = self._backoff.due_at(now, probes + 1, None)
        return max(due_at, now + (trouble.retry_after_s or 0.0))
