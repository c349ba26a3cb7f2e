"""What a worker may claim now, and what the outcome means for all workers.

A `Dispatcher` connects `Destination`, which decides, with one worker, which delivers.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import UNTRIED_EVERY_S, OpenCircuit
from emitterd.delivery.destination import AttemptPermit, Destination
from emitterd.errors import Decision, DeliveryError, JournalFull, Stage
from emitterd.journal.journal import Journal
from emitterd.model import ClaimOrder, Entry, Grant, State
from emitterd.text import iso

IDLE_S = 60.0
"""The longest wait without a look: a clock that jumps must not lose a due time."""

FRESH_EVERY = 4
"""Bucket probes reuse a pinned grant. Every fourth probe uses a new one."""

SAME_FOR_ALL = frozenset(
    {Code.DNS, Code.REFUSED, Code.TLS, Code.CONNECT_TIMEOUT, Code.PROXY, Code.BUCKET_TROUBLE}
)
"""These failures do not depend on the file, so any file can be the probe. Other failures may be due
to the file, so a file that has not failed yet is the probe."""

log = structlog.get_logger()


IsUsable = Callable[[Grant, float], bool]
"""Tells whether a pinned grant is valid at an instant, in seconds since the epoch."""


class WakeUp:
    """Wakes the workers that wait for work.

    Notifications are counted. A worker takes the count before it looks for work, so a notification
    that comes during the look ends its wait at once.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def count(self) -> int:
        """Return the count to pass to `wait`; take it before looking for work."""
        with self._condition:
            return self._count

    def notify(self) -> None:
        """Wake all workers that wait."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, count: int, timeout_s: float) -> None:
        """Wait until there were more notifications than `count`, or for the time."""
        with heartbeat.silence(timeout_s), self._condition:
            self._condition.wait_for(lambda: self._count != count, timeout_s)


class Dispatcher:
    """The circuit breakers as one worker meets them; for one attempt at a time."""

    def __init__(
        self, journal: Journal, destination: Destination, usable: IsUsable, wake_up: WakeUp
    ) -> None:
        self._journal = journal
        self._destination = destination
        self._usable = usable
        self._wake_up = wake_up
        self._permit: AttemptPermit = {}

    def claim(self, now: float) -> Entry | float:
        """Claim the next entry that may go; else return how long to wait, in seconds.

        Raises `JournalFull`. Call `release` at the end of the attempt.
        """
        permit = self._destination.acquire(now)
        if not isinstance(permit, dict) and self._destination.refusals:
            # The deferred files were refused. A queued one was not tried since.
            if not self._journal.counts()[State.QUEUED]:
                return permit
            if not self._destination.probe_untried(now):
                return min(permit, UNTRIED_EVERY_S)
            permit = self._destination.acquire(now)
        if not isinstance(permit, dict):
            return permit
        self._permit = permit
        try:
            entry = self._journal.claim(now, self._claim_order(permit))
        except JournalFull:
            self.release()
            raise
        if entry is None:
            self.release()
            due_at = self._journal.next_due_at()
            # Not 0: another worker may have claimed it, and this one would spin.
            return IDLE_S if due_at is None else max(0.01, due_at - now)
        if entry.grant is not None and self._usable(entry.grant, self._journal.now()):
            # It needs only the bucket, so another attempt can probe the API.
            self._destination.release(permit, (Stage.LOGIN, Stage.GRANT))
        return entry

    def record_answer(self, stage: Stage) -> None:
        """Record a definite answer of a stage; a rejection of one file is one, too."""
        limited = self._destination.limited
        if not self._destination.answered:
            self._destination.answered = True
            with suppress(JournalFull):
                self._journal.save_fact("answered_at", self._journal.now())
        with self._destination.log_lock:
            ended = self._destination.record_answer(self._permit, stage)
            self._report(ended, None)
        # More attempts may be under way now.
        if ended or limited:
            self._wake_up.notify()

    def defer(self, entry: Entry, error: DeliveryError) -> tuple[float, bool]:
        """Put an entry off after a failed attempt.

        Return when the next attempt is due, and whether this one was charged: added to the failed
        attempts of the entry. Raises `JournalFull`.
        """
        now, again = self._journal.now(), entry.error == error.code
        # Charged under the lock, before another thread can learn that the destination was the
        # cause, and undo the charge.
        with self._destination.log_lock:
            failure = self._destination.record_failure(
                self._permit, error, now, entry=entry.id, again=again
            )
            self._report(failure.ended, failure.to_report)
            due_at = failure.due_at
            charge = due_at is None
            if due_at is None:
                due_at = self._destination.backoff.due_at(
                    now, entry.attempts + 1, error.retry_after_s
                )
            self._journal.defer(entry, error, due_at, charge=charge)
            if failure.charged_entries:
                # This attempt is recorded. On a full disk the others stay counted: they only make
                # the next backoff longer.
                with suppress(JournalFull):
                    self._journal.uncharge(failure.charged_entries)
        return due_at, charge

    def probe_login(self, login: Callable[[], float | None], now: float) -> bool:
        """Log in although no file waits, if the destination wants to know; return whether it did.

        So `status` knows at the start whether the server answers, and when an outage has ended.
        """
        permit = self._destination.acquire_login(now)
        if permit is None:
            return False
        self._permit = permit
        try:
            # With an API key there is no login, and nothing was asked.
            if login() is not None:
                self.record_answer(Stage.LOGIN)
        except DeliveryError as error:
            if error.decision is not Decision.INTERRUPT:
                self._record_outage(permit, error)
        finally:
            self.release()
        return True

    def restore_outage(self, error: DeliveryError) -> None:
        """Open the circuit for a failure that a former run has met."""
        self._record_outage({}, error)

    def _record_outage(self, permit: AttemptPermit, error: DeliveryError) -> None:
        with self._destination.log_lock:
            now = self._journal.now()
            failure = self._destination.record_failure(permit, error, now, entry=0, again=False)
            self._report(failure.ended, failure.to_report)

    def release(self) -> None:
        """Give the permit back; a second call does nothing."""
        self._destination.release(self._permit)

    def _claim_order(self, permit: AttemptPermit) -> ClaimOrder:
        probed = {down.stage: down for down in self._destination.probes(permit)}
        bucket = probed.get(Stage.BUCKET)
        # Probes of the bucket must not use up a grant each. But the one file that has a grant may
        # be the cause, and must not be every probe.
        if bucket is not None and bucket.code in SAME_FOR_ALL:
            fresh = bucket.probes % FRESH_EVERY == FRESH_EVERY - 1
            return ClaimOrder.FRESH_FIRST if fresh else ClaimOrder.PINNED_FIRST
        return ClaimOrder.FRESH_FIRST if probed else ClaimOrder.ANY

    def _report(self, ended: list[OpenCircuit], to_report: OpenCircuit | None) -> None:
        """Report a change once; the caller holds `log_lock`."""
        if not ended and to_report is None:
            return
        # The first failure, then those of all stages, for `status`.
        stages = [asdict(down.outage) for down in self._destination.open_circuits]
        # While the disk is full only `status` is out of date; the log has the outage.
        with suppress(JournalFull):
            fact = {**stages[0], "stages": stages} if stages else None
            self._journal.save_fact("destination", fact)
        for down in ended:
            duration_s = self._journal.now() - down.since
            log.info("destination.up", stage=down.stage, duration_s=duration_s)
        if to_report is not None:
            log.error(
                "destination.down",
                stage=to_report.stage,
                error=to_report.code,
                reason=to_report.reason,
                hint=to_report.remedy,
                due_at=iso(to_report.probe_at),
            )
