"""One worker's way past the gates: what it may claim, and what is told of the outcome.

Between `Destination`, which decides, and the worker, which delivers.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import structlog

from emitterd import heartbeat
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.delivery.destination import AttemptPermit, Destination
from emitterd.errors import Decision, DeliveryError, JournalFull, Stage
from emitterd.journal.journal import Journal
from emitterd.model import ClaimOrder, Entry, Grant
from emitterd.text import iso

# A bell for N waiting threads: nobody sleeps over a ring that came while it looked.


class WakeUp:
    """Rings are counted, so `wait` compares instead of clearing."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    def rings(self) -> int:
        """Return the count to hand to `wait`; take it before looking for work."""
        with self._condition:
            return self._rings

    def ring(self) -> None:
        """Wake all who wait."""
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, rings: int, timeout_s: float) -> None:
        """Wait until it rang more often than `rings`, or the time is over."""
        heartbeat.silence(timeout_s)
        with self._condition:
            self._condition.wait_for(lambda: self._rings != rings, timeout_s)
        heartbeat.record()


IDLE_S = 60.0
"""The longest wait without a look: a clock that jumps must not lose a due time."""

FRESH_EVERY = 4
"""Each probe of the bucket but every so manieth goes by a grant that is pinned."""

_API = (Stage.LOGIN, Stage.GRANT)

log = structlog.get_logger()


class Dispatcher:
    """The gates as one worker meets them; for one attempt at a time."""

    def __init__(
        self,
        journal: Journal,
        destination: Destination,
        usable: Callable[[Grant, float], bool],
        wake: WakeUp,
    ) -> None:
        """`usable` tells whether a pinned grant holds; `wake` calls the others."""
        self._journal = journal
        self._destination = destination
        self._usable = usable
        self._wake = wake
        self._leave = AttemptPermit()

    def claim(self, now: float) -> Entry | float:
        """Take the next entry that may go; else return how long to wait, in seconds.

        Raises `JournalFull`. What is claimed ends with `ended`.
        """
        leave = self._destination.ask(now)
        if isinstance(leave, AttemptPermit):
            entry = self._take(leave, self._want(leave), now)
            return self._idle_s(now) if entry is None else entry
        wait_s = leave
        if not any(self._destination.at(stage) for stage in _API):
            return wait_s
        # The bucket may be up, and what has its grant needs nothing else.
        leave = self._destination.ask(now, [Stage.BUCKET])
        if not isinstance(leave, AttemptPermit):
            return min(wait_s, leave)
        entry = self._take(leave, ClaimOrder.PINNED, now)
        return wait_s if entry is None else entry

    def answered(self, stage: Stage) -> None:
        """Note a definite answer of a stage, be it a refusal of this one file."""
        slow = self._destination.limited
        with self._destination.telling:
            ended = self._destination.answered(self._leave, stage)
            self._tell(ended, None)
        if ended or slow:
            self._wake.ring()

    def failed(self, entry: Entry, trouble: DeliveryError) -> tuple[float, bool]:
        """Put the entry off after an attempt that failed.

        Return when the next is due, and whether this one was charged to the entry.
        Raises `JournalFull`.
        """
        now, again = time.time(), entry.error == trouble.code
        # Charged before another can find out that it must be taken back.
        with self._destination.telling:
            failure, ended = self._destination.failed(
                self._leave, trouble, now, entry=entry.id, again=again
            )
            self._tell(ended, failure.news)
            due_at = failure.due_at
            charge = due_at is None
            if due_at is None:
                due_at = self._destination.backoff.due_at(
                    now, entry.attempts + 1, trouble.retry_after_s
                )
            self._journal.defer(entry, trouble, due_at, charge=charge)
            if failure.suspects:
                self._journal.uncharge(failure.suspects)
        return due_at, charge

    def recall(self, trouble: DeliveryError) -> None:
        """Shut a gate for what a former run has met."""
        with self._destination.telling:
            failure, _ = self._destination.failed(
                AttemptPermit(), trouble, time.time(), entry=0, again=False
            )
            self._tell([], failure.news)

    def ended(self) -> None:
        """Note that the attempt, or the look, is over; at no harm again."""
        self._destination.passed(self._leave)

    def _want(self, leave: AttemptPermit) -> ClaimOrder:
        probed = {down.stage: down for down in self._destination.probes(leave)}
        bucket = probed.get(Stage.BUCKET)
        # A bucket that is down must not use up a grant a probe; but the one file that
        # has a grant may be a bad one, and must not be every probe.
        if bucket is not None and bucket.probes % FRESH_EVERY != FRESH_EVERY - 1:
            return ClaimOrder.PINNED_FIRST
        return ClaimOrder.FRESH_FIRST if probed else ClaimOrder.ANY

    def _take(self, leave: AttemptPermit, want: ClaimOrder, now: float) -> Entry | None:
        self._leave = leave
        try:
            entry = self._journal.claim(now, want)
        except JournalFull:
            self.ended()
            raise
        if entry is None:
            self.ended()
            return None
        if entry.grant is not None and self._usable(entry.grant, time.time()):
            self._destination.passed(leave, _API)
        elif want is ClaimOrder.PINNED:
            self._put_back(entry, now)
            return None
        return entry

    def _put_back(self, entry: Entry, now: float) -> None:
        """Let an entry wait for the API whose grant has run out."""
        down = self._destination.down
        if down is None:
            self._journal.interrupt(entry)
        else:
            trouble = DeliveryError(Decision.PAUSE, down.code, down.reason)
            due_at = max(down.probe_at, now)
            self._journal.defer(entry, trouble, due_at, charge=False)
        self.ended()

    def _idle_s(self, now: float) -> float:
        due_at = self._journal.next_due_at()
        return IDLE_S if due_at is None else max(0.01, due_at - now)

    def _tell(self, ended: list[OpenCircuit], news: OpenCircuit | None) -> None:
        """Say what has changed, once; the caller holds `telling`."""
        if not ended and news is None:
            return
        downs = self._destination.downs
        # Only `status` lags while the journal's disk is full; the log has the news.
        with suppress(JournalFull):
            self._journal.save_fact("destination", _fact(downs))
        for down in ended:
            duration_s = time.time() - down.since
            log.info("destination.up", stage=down.stage, duration_s=duration_s)
        if news is not None:
            log.error(
                "destination.down",
                stage=news.stage,
                error=news.code,
                reason=news.reason,
                hint=news.hint,
                due_at=iso(news.probe_at),
            )


def _fact(downs: list[OpenCircuit]) -> dict[str, object] | None:
    """Return what `status` tells: the first trouble on the way, then all of them."""
    stages = [asdict(one.outage) for one in downs]
    return {**stages[0], "stages": stages} if stages else None
