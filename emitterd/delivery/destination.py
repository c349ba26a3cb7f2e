"""Whether the destination is up: a circuit breaker each for login, grant and bucket.

A failure at one stage pauses the uploads that have to pass it. `Destination` also decides how many
attempts run at once. It only decides: nothing waits here, and `now` is passed in, in seconds since
the epoch.

A failure that is the same for every file (DNS, TLS, a refused login, 403 and 404 of the API, a
wrong bucket) stops all uploads of this stage at once (the breaker opens). It also opens after
temporary failures of N files in a row. N is the number of workers, or 4 if that is larger. They are
not added to the attempts of any file. If the breaker is closed and one file meets
the same failure again, only that file is deferred. A refusal of one file (REFUSE) opens no breaker.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.circuit_breaker import (
    STREAK,
    CircuitBreaker,
    OpenCircuit,
    Permit,
    is_refusal,
)
from emitterd.delivery.concurrency import Concurrency
from emitterd.errors import Decision, DeliveryError, Stage

STAGES = tuple(Stage)
"""What an attempt passes, in this order."""

OVERLOAD = frozenset(
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
"""How an overloaded server, or line, may fail."""


AttemptPermit = dict[Stage, Permit]
"""The permits of one attempt: one for each stage that it has not passed yet."""


@dataclass(frozen=True, slots=True)
class StageFailure:
    """What a failed attempt means.

    `to_report`: the outage, if it is new. `due_at`: when the entry is tried again; this attempt is
    not counted. None if the file is the cause. `charged_entries`: an id for each attempt that was
    counted for its entry before the circuit opened. `ended`: the failures of earlier stages that
    this attempt ends.
    """

    to_report: OpenCircuit | None
    due_at: float | None
    charged_entries: list[int]
    ended: list[OpenCircuit]


OnResized = Callable[[], None]
"""Is called when `workers` has changed, in the thread that changed it."""


class Destination:
    """The circuit breakers before every attempt. Thread-safe."""

    def __init__(self, backoff: Backoff, *, workers: int | None = STREAK) -> None:
        """`workers`: the most attempts at once; None to find the number."""
        self.on_resized: OnResized = lambda: None
        self.log_lock = threading.Lock()
        """Held around a change and its log line, so that lines keep the order."""
        self.answered = False
        """Whether the server has answered this process yet."""
        self.asks_at_start = False
        """Whether an idle worker is to log in once, to find out whether the server answers."""
        self._concurrency = Concurrency(workers)
        self._lock = threading.Lock()
        self.backoff = backoff
        """The rule for the time of the next attempt."""
        self._breakers = {stage: CircuitBreaker(stage, backoff, self.workers) for stage in STAGES}

    def apply_settings(self, backoff: Backoff, *, workers: int | None) -> None:
        """Use other settings from now on; the times of the next probes stay."""
        with self._lock:
            self.backoff = backoff
            self._concurrency.apply_settings(workers)
            self._resize()

    @property
    def workers(self) -> int:
        """How many attempts should be under way at once."""
        return self._concurrency.limit

    @property
    def open_circuits(self) -> list[OpenCircuit]:
        """The failure of each stage that has one, in the order of the stages."""
        open_circuits = [breaker.down for breaker in self._breakers.values()]
        return [down for down in open_circuits if down is not None]

    @property
    def down(self) -> OpenCircuit | None:
        """The failure of the first such stage, or None while the destination is up."""
        return next(iter(self.open_circuits), None)

    @property
    def limited(self) -> bool:
        """Whether fewer attempts may be under way than there are workers."""
        return any(breaker.limited for breaker in self._breakers.values())

    def probe_now(self, codes: Collection[Code], now: float) -> bool:
        """Make the probe of each stage due that is down for one of these codes.

        Return whether there is such a stage.
        """
        breakers = self._breakers.values()
        with self._lock:
            # `any` would stop at the first stage that is down.
            return sum(breaker.probe_now(codes, now) for breaker in breakers) > 0

    def acquire_login(self, now: float) -> AttemptPermit | None:
        """Return a permit for a login that no file asks for, or None if none is due.

        It is due at the start, and as the probe of a login that fails.
        """
        with self._lock:
            wanted = self.asks_at_start or self._breakers[Stage.LOGIN].down is not None
        permit = self.acquire(now) if wanted else None
        if not isinstance(permit, dict):
            return None
        self.asks_at_start = False
        return permit

    @property
    def refusals(self) -> bool:
        """Whether uploads are paused because several files in a row were refused."""
        return any(down.refusals for down in self.open_circuits)

    def probe_untried(self, now: float) -> bool:
        """Make the probe due for a file that was not tried yet; see `CircuitBreaker`."""
        with self._lock:
            return self._breakers[Stage.BUCKET].probe_untried(now)

    def acquire(self, now: float) -> AttemptPermit | float:
        """Return a permit for all stages, or how long to wait, in seconds."""
        with self._lock:
            # All permits or none: an attempt that waits for one stage must not hold the probe of
            # another.
            wait_s = max(breaker.wait_s(now) for breaker in self._breakers.values())
            if wait_s > 0:
                return wait_s
            return {stage: self._breakers[stage].acquire() for stage in STAGES}

    def release(self, permit: AttemptPermit, stages: Collection[Stage] = STAGES) -> None:
        """Take back the permits for these stages; for all where the attempt ends."""
        with self._lock:
            self._release(permit, stages)

    def probes(self, permit: AttemptPermit) -> list[OpenCircuit]:
        """Return the failures that an attempt with this permit is the probe of."""
        with self._lock:
            return [
                down
                for stage, stage_permit in permit.items()
                if (down := self._breakers[stage].down) is not None
                and self._breakers[stage].is_probe(stage_permit)
            ]

    def record_delivery(self, now: float, size_bytes: int) -> None:
        """Count a delivery; the number of workers depends on the rate of deliveries."""
        with self._resizing():
            self._concurrency.record_delivery(now, size_bytes)

    def record_idle(self, now: float) -> None:
        """Record that a worker has nothing to do, or has to wait."""
        with self._resizing():
            self._concurrency.record_idle(now)

    def record_answer(self, permit: AttemptPermit, stage: Stage) -> list[OpenCircuit]:
        """Record a definite answer of a stage; return the failures that it ends."""
        with self._lock:
            ended = self._record_earlier_answers(permit, stage)
            answered = self._breakers[stage].record_answer(permit.get(stage))
            self._release(permit, [stage])
            return ended if answered is None else [*ended, answered]

    def record_failure(
        self, permit: AttemptPermit, error: DeliveryError, now: float, *, entry: int, again: bool
    ) -> StageFailure:
        """Record that an attempt failed, and return what the failure means.

        `again`: the entry failed with the same code before.
        """
        stage = error.stage
        # Other files were delivered since this one failed with the same code, so the file is the
        # cause, and must not pause all others again and again. A login concerns no single file.
        file_only = error.decision is Decision.DEFER or (again and stage != Stage.LOGIN)
        with self._resizing():
            if error.code in OVERLOAD:
                self._concurrency.record_overload()
            ended = self._record_earlier_answers(permit, stage)
            breaker, stage_permit = self._breakers[stage], permit.get(stage)
            to_report: OpenCircuit | None = None
            charged_entries: list[int] = []
            # A file that is refused again, after others were delivered, is the cause.
            if breaker.down is not None or not (again and is_refusal(error)):
                to_report, charged_entries = breaker.record_failure(
                    error, stage_permit, now, entry=entry, file_only=file_only
                )
            due_at = breaker.down.probe_at if breaker.down is not None else None
            # The outage that this attempt failed in is over.
            if due_at is None and breaker.is_stale(stage_permit):
                due_at = now
        return StageFailure(to_report, due_at, charged_entries, ended)

    def _resize(self) -> None:
        for breaker in self._breakers.values():
            breaker.apply_settings(self.backoff, self.workers)

    @contextmanager
    def _resizing(self) -> Iterator[None]:
        """Hold the lock; call `on_resized` without it where `workers` changed."""
        with self._lock:
            before = self.workers
            yield
            if resized := self.workers != before:
                self._resize()
        if resized:
            self.on_resized()

    def _record_earlier_answers(self, permit: AttemptPermit, stage: Stage) -> list[OpenCircuit]:
        """Record that the stages before this one have answered.

        They have, because the attempt reached this stage. Return the failures that this ends.
        """
        earlier = [item for item in STAGES[: STAGES.index(stage)] if item in permit]
        ended = [self._breakers[item].record_answer(permit[item], implied=True) for item in earlier]
        self._release(permit, earlier)
        return [down for down in ended if down is not None]

    def _release(self, permit: AttemptPermit, stages: Collection[Stage]) -> None:
        for stage in stages:
            stage_permit = permit.pop(stage, None)
            if stage_permit is not None:
                self._breakers[stage].release(stage_permit)
