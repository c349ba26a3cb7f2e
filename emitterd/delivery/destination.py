"""Whether the destination is up: a gate each for the login, the grant and the bucket.

Trouble of its own parks what has to pass there behind a probe; and it is found out how
many attempts at once it bears. `now` is passed in; nothing is done here but deciding.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.circuit_breaker import (
    STREAK,
    CircuitBreaker,
    OpenCircuit,
    Permit,
)
from emitterd.delivery.concurrency import Concurrency
from emitterd.errors import Decision, DeliveryError, Stage

WAY = tuple(Stage)
"""What an attempt passes, in this order; with a pinned grant the last stage only."""

STRAIN = frozenset(
    {
        Code.ANSWER_LOST,
        Code.API_TROUBLE,
        Code.BUCKET_TROUBLE,
        Code.CONNECTION_LOST,
        Code.CONNECT_TIMEOUT,
        Code.RATE_LIMITED,
        Code.TOO_SLOW,
    }
)
"""What a server, or a line, that bears no more may answer with."""


@dataclass(slots=True)
class AttemptPermit:
    """What an attempt may pass: a ticket for each stage that still lies before it."""

    tickets: dict[Stage, Permit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageFailure:
    """What a failed attempt means.

    `news`: the trouble, where that is to be told. `due_at`: until when it parks the
    entry at no cost; None where the trouble is the entry's own. `suspects`: the
    entries that were charged, one for each attempt, until the gate shut.
    """

    news: OpenCircuit | None
    due_at: float | None
    suspects: list[int]


class Destination:
    """The gates before every attempt. Thread-safe."""

    def __init__(self, backoff: Backoff, *, workers: int | None = STREAK) -> None:
        """`workers`: the most attempts that there may be at once; None to find it."""
        self.on_resized: Callable[[], None] = lambda: None
        """Called when `workers` has changed, by whose attempt changed it."""
        self._concurrency = Concurrency(workers)
        self._lock = threading.Lock()
        self.telling = threading.Lock()
        """Held around a change and the line that tells of it: lines keep the order."""
        self._backoff = backoff
        self._gates = {
            stage: CircuitBreaker(stage, backoff, self.workers) for stage in WAY
        }

    def adopt(self, backoff: Backoff, *, workers: int | None) -> None:
        """Go by another rule from now on; a probe that is due already stays so."""
        with self._lock:
            self._backoff = backoff
            self._concurrency.adopt(workers)
            self._resize()

    @property
    def workers(self) -> int:
        """How many attempts are to be under way at once."""
        return self._concurrency.limit

    def delivered(self, now: float, size_bytes: int) -> None:
        """Note a delivery: so much got through with so many workers."""
        with self._resizing():
            self._concurrency.delivered(now, size_bytes)

    def idle(self, now: float) -> None:
        """Note that a worker has nothing to do, or may not."""
        with self._resizing():
            self._concurrency.idle(now)

    @property
    def backoff(self) -> Backoff:
        """The rule by which what fails is put off."""
        return self._backoff

    @property
    def downs(self) -> list[OpenCircuit]:
        """The trouble of each stage that has some, in the order of the way."""
        found = [gate.down for gate in self._gates.values()]
        return [down for down in found if down is not None]

    @property
    def down(self) -> OpenCircuit | None:
        """The first trouble on the way, or None while the destination is up."""
        return next(iter(self.downs), None)

    @property
    def limited(self) -> bool:
        """Whether fewer attempts may be under way than there are workers."""
        return any(gate.limited for gate in self._gates.values())

    def at(self, stage: Stage) -> OpenCircuit | None:
        """Return the trouble of one stage, if it has any."""
        return self._gates[stage].down

    def hasten(self, codes: Collection[Code], now: float) -> bool:
        """Have probed now what is down for one of these; return whether any is."""
        with self._lock:
            found = [gate.hasten(codes, now) for gate in self._gates.values()]
        return any(found)

    def ask(self, now: float, stages: Collection[Stage] = WAY) -> AttemptPermit | float:
        """Return leave to pass these stages, or how long to wait, in seconds."""
        with self._lock:
            wait_s = max(self._gates[stage].wait_s(now) for stage in stages)
            if wait_s > 0:
                return wait_s
            return AttemptPermit(
                {stage: self._gates[stage].enter() for stage in stages}
            )

    def probes(self, leave: AttemptPermit) -> list[OpenCircuit]:
        """Return the trouble that an attempt with this leave is the probe of."""
        with self._lock:
            gates = [
                self._gates[stage]
                for stage, ticket in leave.tickets.items()
                if self._gates[stage].is_probe(ticket)
            ]
            return [gate.down for gate in gates if gate.down is not None]

    def passed(self, leave: AttemptPermit, stages: Collection[Stage] = WAY) -> None:
        """Note that these stages no longer lie before the attempt; all at its end."""
        with self._lock:
            self._pass(leave, stages)

    def answered(self, leave: AttemptPermit, stage: Stage) -> list[OpenCircuit]:
        """Note a definite answer of a stage; return the trouble that it ends."""
        with self._lock:
            ended = self._before(leave, stage)
            ended.append(self._gates[stage].answered(leave.tickets.get(stage)))
            self._pass(leave, [stage])
            return [down for down in ended if down is not None]

    def failed(
        self,
        leave: AttemptPermit,
        trouble: DeliveryError,
        now: float,
        *,
        entry: int,
        again: bool,
    ) -> tuple[StageFailure, list[OpenCircuit]]:
        """Note that an attempt failed; return what that means, and what it ends.

        `again`: the entry has met the same trouble before.
        """
        stage = trouble.stage
        # Others went through since the entry met the same trouble: it is the file's
        # own, and must not park the others again and again. A login is nobody's own.
        passing = trouble.decision is Decision.DEFER or (again and stage != Stage.LOGIN)
        with self._resizing():
            if trouble.code in STRAIN:
                self._concurrency.strained()
            ended = self._before(leave, stage)
            gate = self._gates[stage]
            ticket = leave.tickets.get(stage)
            news, suspects = gate.failed(
                trouble, ticket, now, entry=entry, passing=passing
            )
            due_at = gate.down.probe_at if gate.down is not None else None
            if due_at is None and gate.is_stale(ticket):
                due_at = now
            failure = StageFailure(news, due_at, suspects)
        return failure, [down for down in ended if down is not None]

    def _resize(self) -> None:
        for gate in self._gates.values():
            gate.adopt(self._backoff, self.workers)

    @contextmanager
    def _resizing(self) -> Iterator[None]:
        """Hold the lock; what then has become another number of workers is told."""
        with self._lock:
            before = self.workers
            yield
            if resized := self.workers != before:
                self._resize()
        if resized:
            self.on_resized()

    def _before(self, leave: AttemptPermit, stage: Stage) -> list[OpenCircuit | None]:
        """Note that an attempt came to a stage, so those before it have answered."""
        passed = [one for one in WAY[: WAY.index(stage)] if one in leave.tickets]
        ended = [
            self._gates[one].answered(leave.tickets[one], implied=True)
            for one in passed
        ]
        self._pass(leave, passed)
        return ended

    def _pass(self, leave: AttemptPermit, stages: Collection[Stage]) -> None:
        for stage in stages:
            ticket = leave.tickets.pop(stage, None)
            if ticket is not None:
                self._gates[stage].leave(ticket)
