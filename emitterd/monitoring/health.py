"""The health of the running daemon: the journal's alarms and those of the daemon.

The journal is read at most once a second, so that requests cannot keep it busy.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from emitterd.delivery.destination import Destination
from emitterd.errors import JournalFull, JournalUnreachable
from emitterd.intake.loop import Intake
from emitterd.journal.journal import Journal
from emitterd.monitoring.alarms import (
    Alarm,
    AlarmCode,
    AlarmLimits,
    DaemonFacts,
    Health,
    daemon_alarms,
    judge,
    queue_alarms,
    sweep_limit_s,
)
from emitterd.monitoring.status import QueueReading, QueueStatus, read_queue
from emitterd.monitoring.uploads import UploadTracker
from emitterd.spool.watcher import WatchKeeper

READING_S = 1.0
"""After a commit the queue's status is read again, if it is at least this old."""

AGED_S = 60.0
"""Without a commit it is read again after this time: the forecast must not count what was delivered
more than an hour ago."""


class HealthMonitor:
    """Reads the journal and the daemon's parts. Thread-safe but for `note_alarms`."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        watch_keeper: WatchKeeper,
        destination: Destination,
        uploads: UploadTracker,
        limits: Callable[[], tuple[AlarmLimits, float]],
    ) -> None:
        """`limits` returns the alarm limits and `spool.sweep_every_s` now in force."""
        self._journal = journal
        self._intake = intake
        self._watch_keeper = watch_keeper
        self._destination = destination
        self._uploads = uploads
        self._limits = limits
        self._started_at = time.time()
        self._lock = threading.Lock()
        self._queue: QueueStatus | None = None
        self._queue_read = (0, 0.0)
        self._noted: list[tuple[str, float, str]] = []

    def read(self) -> QueueReading:
        """Return what is known now. Raises `JournalError`."""
        with self._lock:
            return self._read(self._journal.now())

    def health(self) -> Health:
        """Return all alarms. Raises `JournalError`."""
        return self.read().health

    def clear_noted_alarms(self) -> None:
        """Clear the alarms that a former process noted. Raises `JournalError`."""
        if self.read().queue.noted:
            self._journal.save_fact("alarms", [])
            self._journal.save_fact("not_sent", {})

    def note_alarms(self) -> None:
        """Note the alarms that only this process can see, for users who may not ask it."""
        facts, alarms = self._own_alarms()
        # The words of a missed sweep change all the time; it is noted once.
        current = [
            (alarm.code, alarm.since, alarm.words if alarm.code == AlarmCode.NOT_SENT else "")
            for alarm in alarms
        ]
        if current != self._noted:
            # On a full disk it is noted as soon as there is room.
            with suppress(JournalFull):
                self._journal.save_fact("alarms", [asdict(alarm) for alarm in alarms])
                counts = facts.not_sent.counts if facts.not_sent is not None else {}
                self._journal.save_fact("not_sent", dict(counts))
                self._noted = current

    def own_alarms(self) -> list[Alarm]:
        """Return the alarms that only this process can see."""
        return self._own_alarms()[1]

    def _own_alarms(self) -> tuple[DaemonFacts, list[Alarm]]:
        facts = self._daemon_facts(self._limits()[1])
        return facts, daemon_alarms(facts, time.time())

    def _read_queue(self, now: float) -> QueueStatus:
        commits_read, read_at = self._queue_read
        # Before the reading: a commit during it causes another one.
        commits = self._journal.store.commits
        limit_s = AGED_S if commits == commits_read else READING_S
        if self._queue is None or not 0 <= now - read_at < limit_s:
            try:
                self._queue = read_queue(self._journal.read, now)
            except JournalUnreachable:
                # What was known last is better than nothing; an alarm says that it is old.
                if self._queue is None:
                    raise
            self._queue_read = commits, now
        return self._queue

    def _read(self, now: float) -> QueueReading:
        queue = self._read_queue(now)
        outages = tuple(down.outage for down in self._destination.open_circuits)
        limits, sweep_every_s = self._limits()
        alarms = queue_alarms(queue, outages, limits, now, running=True)
        facts = self._daemon_facts(sweep_every_s)
        # Their instants are of this host's clock.
        alarms += daemon_alarms(facts, time.time())
        host = self._journal.store.host
        if host is not None:
            alarms += [alarm for alarm in queue.noted if alarm.host not in {"", host.name}]
        eta_s = queue.eta_s(moving=not outages, sent=self._uploads.sent_share())
        not_sent = facts.not_sent.counts if facts.not_sent is not None else {}
        health, swept_at = judge(alarms), self._intake.swept_at
        return QueueReading(queue, health, outages, eta_s, swept_at, not_sent)

    def _daemon_facts(self, sweep_every_s: float) -> DaemonFacts:
        store = self._journal.store.state
        return DaemonFacts(
            swept_at=self._intake.swept_at or self._started_at,
            sweep_limit_s=sweep_limit_s(sweep_every_s, self._intake.sweep_took_s),
            root_lost_since=self._watch_keeper.lost_since,
            degraded_since=self._watch_keeper.degraded_since,
            degraded=self._watch_keeper.degraded,
            journal_full_since=store.full_since,
            journal_busy_since=store.busy_since,
            not_sent=self._intake.not_sent(),
            shared_since=self._watch_keeper.shared_since,
            journal_unreachable_since=self._journal.store.state.unreachable_since,
        )
