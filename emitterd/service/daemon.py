"""The daemon: starts and stops its components in order, and checks them each second.

Start: journal (lock, reclaim), watch, intake with its first sweep, workers. Stop: the watch, then
intake and workers drain together, then everything ends at the deadline, the journal last.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import structlog

from emitterd import __version__
from emitterd.config.settings import Config, load
from emitterd.delivery.attempt import UploadObserver
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import ConfigError, JournalMoved
from emitterd.housekeeping.disposal import MOVERS
from emitterd.intake.file_status import FileStatus, dropped_status, skipped, undelivered
from emitterd.journal.opening import FORMER_SERVER
from emitterd.journal.operations import OperationReport, OperationRequest, OperationResult
from emitterd.journal.reader import JournalReader
from emitterd.model import LIVE, State
from emitterd.monitoring.explain import explain
from emitterd.service.components import Components, open_http_server
from emitterd.service.control_socket import ControlServer
from emitterd.service.reload import reload
from emitterd.service.signals import Signals
from emitterd.service.systemd import (
    Watchdog,
    extend_timeout,
    notify,
    reloading,
    status_line,
    watchdog_s,
)
from emitterd.service.threads import Threads
from emitterd.spool.folder import ignore_lease_breaks
from emitterd.text import display

if TYPE_CHECKING:
    from emitterd.monitoring.alerts.loop import Alerts

CHECK_S = 1.0
"""How often the main thread checks the others; more often for a short WatchdogSec."""

SIGNALS_TO_ABORT = 2

ABORT_GRACE_S = 3.0
"""How long threads may take to notice an abort: `sockets.POLL_S` and a commit."""

END_S = 10.0
"""How long, after the drain and the abort, it may take until the process is gone."""

READY_S = 5.0
"""How long the ready message waits for the first sweep. Only a lost root takes longer."""

ONCE_CHECK_S = 0.1
DRAIN_CHECK_S = 0.05

INTERNAL_ERROR = 70

RESTORED = "files delivered since that copy was made are sent again: see `emitterd receipts`"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OnceReport:
    """What one `once` did. `left`: not delivered, or delivered although the server drops it."""

    code: int
    files: int
    size_bytes: int
    duration_s: float
    left: list[FileStatus]
    interrupted: bool


class Daemon:
    """A running installation. Call `run` or `once`, and only once."""

    def __init__(self, config: Config, observer: UploadObserver | None = None) -> None:
        """Open the journal and build the components; no thread starts here.

        Raises `JournalError` (`JournalLocked` if another instance runs), and `OSError` if a TLS
        file cannot be used.
        """
        self._components = components = Components(config, observer)
        self._journal = components.journal
        self._shutdown = components.shutdown
        self._threads = Threads(components.worker, components.wake_up, self._shutdown)
        every_s = watchdog_s(os.environ, os.getpid())
        self._watchdog = Watchdog(
            self._threads.heartbeat, lambda: self._journal.store.state.committing_since, every_s
        )
        self._alerts: Alerts | None = None
        self._check_s = min(CHECK_S, every_s / 4) if every_s else CHECK_S

    def run(self) -> int:
        """Deliver until SIGTERM or SIGINT; return the exit code."""
        components, threads = self._components, self._threads
        with Signals(hangup=True) as signals:
            ignore_lease_breaks()
            http_server = open_http_server(components, self._apply)
            self._start(watch=True)
            self._threads.start_watched("disposal", lambda: components.disposal.run(self._shutdown))
            tracker = components.tracker() if components.config.tracking.enabled else None
            if tracker is not None:
                threads.start_side("tracking", tracker.run)
            self._start_control_server()
            components.intake.sweeping.wait(READY_S)
            notify("READY=1", f"STATUS={self._status()}")
            log.info("daemon.ready", **self._counts())
            self._alert()
            if http_server is not None:
                threads.start("listener", lambda: http_server.run(self._shutdown))
            with suppress(JournalMoved):
                self._supervise(signals)
            moved = self._stop(signals)
            self._journal.close()
        return 1 if moved else INTERNAL_ERROR if threads.failed else 0

    def _supervise(self, signals: Signals) -> None:
        """Check the threads and the journal each second, until something ends the daemon."""
        components, hangups = self._components, 0
        while not (signals.stops or self._threads.failed or self._journal.store.moved):
            if signals.hangups != hangups:
                # Several SIGHUPs need only one reload.
                hangups = signals.hangups
                self._reload()
            self._resize_workers()
            components.watch_keeper.check()
            components.health.note_alarms()
            components.uploads.log_long(time.time())
            self._watchdog.check(self._status())
            signals.wait(self._check_s)

    def once(self, wait_s: float) -> OnceReport:
        """Deliver what is complete now; return what was delivered, and what is left.

        It gives up after `wait_s` seconds without progress.
        """
        began_at = self._journal.now()
        # SIGHUP of a terminal that goes away is ignored.
        with Signals(hangup=True) as signals:
            ignore_lease_breaks()
            # It promises to look at the folder, also where another host sweeps it for all.
            self._components.intake.always_sweeps = True
            self._start(watch=False)
            timeout = _OnceTimeout(wait_s)
            while not (signals.stops or self._threads.failed or self._done(timeout)):
                self._components.uploads.log_long(time.time())
                signals.wait(ONCE_CHECK_S)
            moved = self._stop(signals)
            if not (moved or self._threads.failed):
                self._components.disposal.resume(lambda: signals.stops > 0)
            left = self._left(began_at)
            files, size_bytes = self._journal.deliveries(began_at)
            self._journal.close()
        interrupted = signals.stops > 0
        code = 1 if left or interrupted or moved else 0
        if self._threads.failed and not moved:
            code = INTERNAL_ERROR
        return OnceReport(
            code, files, size_bytes, self._journal.now() - began_at, left, interrupted
        )

    def _left(self, since: float) -> list[FileStatus]:
        """Return what is not delivered, or was although the server will drop it."""
        rejected = [
            FileStatus(path, State.REJECTED, error, reason)
            for path, error, reason in self._journal.rejections(since)
        ]
        rows = self._journal.dropped()
        dropped = {path: dropped_status(path, findings) for path, _, findings in rows}
        now = [dropped[path] for path, delivered_at, _ in rows if delivered_at >= since]
        return undelivered(self._components.status_reader(), [*rejected, *now], dropped)

    def down(self) -> OpenCircuit | None:
        """Return what is wrong with the destination, if anything is."""
        return self._components.destination.down

    def _start(self, *, watch: bool) -> None:
        components = self._components
        log.info(
            "daemon.started",
            version=__version__,
            path=str(components.config.spool.directory),
            workers=components.destination.workers,
        )
        if self._journal.store.reclaimed:
            log.info("journal.recovered", reclaimed=self._journal.store.reclaimed)
        if components.former_deliveries:
            log.warning(
                "journal.former_server", count=components.former_deliveries, hint=FORMER_SERVER
            )
        if self._journal.store.restored:
            log.warning(
                "journal.restored", path=str(components.config.journal.location.path), hint=RESTORED
            )
        # Hosts that share a journal share the folder too.
        if self._journal.store.host is None and not components.spool.claim():
            log.warning(
                "watch.shared",
                path=str(components.config.spool.directory),
                hint="end the other emitterd: with a journal of its own it sends each file again",
            )
        components.restore_destination()
        components.note_expectations()
        components.health.clear_noted_alarms()
        # Watch first, sweep after: a file that arrives in between is seen twice rather than never.
        if watch:
            components.watch_keeper.start()
        self._threads.start_watched("intake", lambda: components.intake.run(self._shutdown))
        for number in range(MOVERS):
            self._threads.start_watched(
                f"mover-{number}", lambda: components.disposal.move_handed(self._shutdown)
            )
        components.destination.on_resized = self._resize_workers
        components.destination.asks_at_start = watch
        self._resize_workers()

    def _start_control_server(self) -> None:
        journal = self._components.config.journal.location.path
        try:
            server = ControlServer(journal, self._apply, self._shutdown, self._answer)
        except OSError as error:
            # Files are delivered without it.
            log.warning("operator.unheard", reason=error.strerror or str(error))
        else:
            self._threads.start("control", server.run)

    def _resize_workers(self) -> None:
        destination = self._components.destination
        self._threads.resize_workers(lambda: destination.workers)

    def _reload(self) -> None:
        notify(reloading())
        reload(self._components)
        self._alert()
        notify("READY=1")

    def _alert(self) -> None:
        """Notify the channels that are configured now of alarms."""
        config = self._components.config
        if self._alerts is None and not config.alerting:
            return
        # Not at the top: an installation without channels needs no memory for this.
        from emitterd.service import alerting

        if self._alerts is not None:
            self._alerts.apply_rules(alerting.alert_rules(config, self._shutdown))
        else:
            self._alerts = alerting.open_alerts(self._components)
            self._threads.start("alerts", self._alerts.run)

    def _stop(self, signals: Signals) -> bool:
        """Drain and end all threads; return whether that is because the journal was moved."""
        if (moved := self._journal.store.moved) is not None:
            log.critical("journal.moved", error=moved.code, reason=str(moved), hint=moved.remedy)
            # No result could be recorded.
            self._shutdown.now.set()
        drain_s = self._components.config.delivery.drain_timeout_s
        longest = extend_timeout(drain_s + ABORT_GRACE_S + END_S)
        notify("STOPPING=1", longest, f"STATUS=stopping: {self._status()}")
        log.info("daemon.stopping", **self._counts())
        self._components.watch_keeper.stop()
        self._shutdown.drain(drain_s)
        # The second signal may have come before anything here noticed the first.
        while signals.stops < SIGNALS_TO_ABORT and not self._shutdown.overdue:
            if not self._threads.alive():
                break
            self._watchdog.feed()
            signals.wait(DRAIN_CHECK_S)
        self._shutdown.now.set()
        self._threads.join(ABORT_GRACE_S)
        log.info("daemon.stopped", **self._counts())
        self._components.http_client.close()
        self._components.spool.release()
        return moved is not None

    def _apply(self, request: OperationRequest, user: str) -> OperationReport:
        """Carry out an operator command, in the thread of its caller."""
        components = self._components
        report = components.operations.apply(request, user, self._applied)
        done = (display(result.path) for result in report.results if not result.refusal)
        if report.done:
            log.info(
                "operator.acted",
                act=request.operation,
                count=report.done,
                path=next(done, None),
                user=user,
            )
            components.wake_up.notify()
        return report

    def _answer(self, question: str, path: bytes) -> Iterator[dict[str, Any]]:
        """Answer a command that only reads, by this process's rights."""
        components = self._components
        if question == "alarms":
            yield from map(asdict, components.health.own_alarms())
            return
        if question == "notify-test":
            yield from self._try_channels()
            return
        with JournalReader(components.config.journal.location) as reader:
            status_reader = components.status_reader(reader.latest)
            if question == "sent":
                files, size_bytes = components.uploads.sent_share()
                yield {"files": files, "bytes": size_bytes}
            elif question == "skipped":
                yield from (status.record() for status in skipped(status_reader))
            elif question == "explain":
                yield explain(status_reader, reader, path).record()

    def _try_channels(self) -> Iterator[dict[str, Any]]:
        """Send a test alert by what the configuration names now, also before a reload."""
        from emitterd.service.alerting import try_channels

        try:
            config = load(self._components.config.source, os.environ, awaits_folder=True)
        except ConfigError as error:
            yield {"name": "configuration", "reason": f"{error}: run emitterd check"}
            return
        for name, reason in try_channels(config, self._shutdown):
            yield {"name": name, "reason": reason}

    def _applied(self, result: OperationResult) -> None:
        if result.refusal or result.after in LIVE:
            return
        if result.before in LIVE:
            marked = result.after is State.DELIVERED
            reason = f"{'marked as delivered' if marked else 'forgotten'} by the operator"
            log.info("file.withdrawn", path=display(result.path), reason=reason)
        # Intake admits the files in the folder again, as a new file.
        self._components.intake.hint(result.path)

    def _done(self, timeout: "_OnceTimeout") -> bool:
        """Tell whether `once` is done.

        All is delivered, or nothing changes any more.
        """
        components = self._components
        if components.spool.lost():
            return True
        if components.intake.swept_at is None:
            return False
        counts, settling = self._journal.counts(), components.intake.settling()
        live = sum(counts[state] for state in (State.QUEUED, State.DELIVERING))
        if not (live or settling or counts[State.DEFERRED]):
            return True
        down = components.destination.down
        # A slow upload is progress. A file that settles is given its time, but not again and again.
        moving = bool(counts[State.DELIVERING] and down is None)
        settle_s = components.config.spool.settle_s if settling else 0.0
        due_at = None if live or settling else self._journal.next_due_at()
        retry_at = down.probe_at if down is not None else due_at
        retry_in_s = None if retry_at is None else retry_at - self._journal.now()
        return timeout.over(counts, moving=moving, settle_s=settle_s, retry_in_s=retry_in_s)

    def _counts(self) -> dict[str, int]:
        counts = self._journal.counts()
        return {
            "queued": counts[State.QUEUED] + counts[State.DEFERRED],
            "delivering": counts[State.DELIVERING],
            "delivered": counts[State.DELIVERED],
        }

    def _status(self) -> str:
        reading = self._components.health.read()
        oldest_at = reading.queue.oldest_waiting_at
        return status_line(
            reading.queue.counts,
            None if oldest_at is None else self._journal.now() - oldest_at,
            self._components.destination.down,
            lost=self._components.spool.lost(),
            answered=self._components.destination.answered,
        )


@dataclass(slots=True)
class _OnceTimeout:
    """Whether nothing has changed for `wait_s` seconds."""

    wait_s: float
    since: float = 0.0
    ended: int = -1

    def over(
        self, counts: dict[State, int], *, moving: bool, settle_s: float, retry_in_s: float | None
    ) -> bool:
        now = time.monotonic()
        ended = sum(counts[state] for state in (State.DELIVERED, State.REJECTED, State.WITHDRAWN))
        if moving or ended != self.ended:
            self.since, self.ended = now, ended
        left_s = self.since + self.wait_s + settle_s - now
        # A retry that is due after the timeout needs no wait.
        return left_s <= 0 or (retry_in_s is not None and retry_in_s > left_s)
