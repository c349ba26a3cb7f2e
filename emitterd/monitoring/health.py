"""The daemon's look at itself: the verdict, the forecast, `/healthz` and `/readyz`.

One look serves all who ask within a second, so that nobody can make the journal busy
by asking.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from emitterd.delivery.destination import Destination
from emitterd.errors import JournalError, JournalFull
from emitterd.intake.loop import Intake
from emitterd.journal.journal import Journal
from emitterd.monitoring.alarms import (
    AlarmLevel,
    AlarmLimits,
    Health,
    Watch,
    daemon_alarms,
    judge,
    queue_alarms,
    sweep_limit_s,
)
from emitterd.monitoring.status import QueueReading, QueueStatus, read_queue, record
from emitterd.spool.watcher import WatchKeeper

LOOK_S = 1.0

AGED_S = 60.0
"""How long what the journal said holds while nothing is committed: what was delivered a
day ago ceases to count for the forecast."""


class HealthMonitor:
    """Looks and judges. Thread-safe but for `beat`."""

    def __init__(
        self,
        journal: Journal,
        intake: Intake,
        watch_keeper: WatchKeeper,
        destination: Destination,
        limits: Callable[[], tuple[AlarmLimits, float]],
    ) -> None:
        """`limits` returns the alarm limits and `spool.sweep_every_s` now in force."""
        self._journal = journal
        self._intake = intake
        self._watch_keeper = watch_keeper
        self._destination = destination
        self._limits = limits
        self._began_at = time.time()
        self._lock = threading.Lock()
        self._reading: QueueReading | None = None
        self._looked_at = 0.0
        self._progress: QueueStatus | None = None
        self._progress_of = (0, 0.0)
        self._noted: list[tuple[str, float]] = []

    def read(self) -> QueueReading:
        """Return what stands, at most a second old. Raises `JournalError`."""
        with self._lock:
            now = time.monotonic()
            if self._reading is None or now - self._looked_at >= LOOK_S:
                self._reading = self._look(time.time())
                self._looked_at = now
            return self._reading

    def verdict(self) -> Health:
        """Return whether all is well. Raises `JournalError`."""
        return self.read().verdict

    def begin(self) -> None:
        """Forget what a former process noted of itself. Raises `JournalError`."""
        if self.read().progress.noted:
            self._journal.save_fact("alarms", [])

    def beat(self) -> None:
        """Note for `status --check` what only this process knows, where it changed."""
        alarms = daemon_alarms(self._watch(self._limits()[1]), time.time())
        # How long ago the last sweep was is told anew each time, and noted once.
        known = [(one.code, one.since) for one in alarms]
        if known != self._noted:
            # Without room for it, it is noted as soon as there is some.
            with suppress(JournalFull):
                self._journal.save_fact("alarms", [asdict(one) for one in alarms])
                self._noted = known

    def healthz(self) -> WSGIApplication:
        """Return what tells whether all is well: 503 where an alarm is critical."""

        def application(_: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            try:
                judged = self.verdict()
            except JournalError as error:
                reason = {"level": AlarmLevel.CRITICAL, "reason": str(error)}
                return _answer(start, HTTPStatus.SERVICE_UNAVAILABLE, reason)
            critical = judged.level is AlarmLevel.CRITICAL
            status = HTTPStatus.SERVICE_UNAVAILABLE if critical else HTTPStatus.OK
            return _answer(start, status, record(judged))

        return application

    def _asked(self, now: float) -> QueueStatus:
        """Return what the journal says, without asking where it says the same."""
        database, (asked_of, at) = self._journal.database, self._progress_of
        # Counted first: what is committed meanwhile is asked for again.
        commits = database.commits
        stale = commits != asked_of or not 0 <= now - at < AGED_S
        if self._progress is None or stale:
            self._progress = read_queue(database.read, now)
            self._progress_of = commits, now
        return self._progress

    def _look(self, now: float) -> QueueReading:
        progress = self._asked(now)
        outages = tuple(down.outage for down in self._destination.downs)
        queue = progress.queue(outages, running=True)
        limits, sweep_every_s = self._limits()
        alarms = queue_alarms(queue, limits, now)
        alarms += daemon_alarms(self._watch(sweep_every_s), now)
        eta_s = progress.eta_s(moving=not outages)
        swept_at = self._intake.swept_at
        return QueueReading(progress, judge(alarms), outages, eta_s, swept_at)

    def _watch(self, sweep_every_s: float) -> Watch:
        intake, watch_keeper = self._intake, self._watch_keeper
        return Watch(
            swept_at=intake.swept_at or self._began_at,
            sweep_limit_s=sweep_limit_s(sweep_every_s, intake.sweep_took_s),
            root_lost_since=watch_keeper.lost_since,
            degraded_since=watch_keeper.degraded_since,
            degraded=watch_keeper.degraded,
            journal_full_since=self._journal.database.full_since,
        )


def readyz(ready: Callable[[], bool]) -> WSGIApplication:
    """Return what tells whether the daemon has begun, and is not about to end."""

    def application(_: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if ready():
            return _answer(start, HTTPStatus.OK, {"ready": True})
        return _answer(start, HTTPStatus.SERVICE_UNAVAILABLE, {"ready": False})

    return application


def _answer(
    start: StartResponse, status: HTTPStatus, said: Mapping[str, object]
) -> list[bytes]:
    body = (json.dumps(said, indent=2) + "\n").encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    start(f"{status.value} {status.phrase}", headers)
    return [body]
