"""The daemon: builds the parts, starts and stops them in order, watches over them.

Start: journal (lock, reclaim) → watch → intake, whose first act is a sweep → workers.
Stop: watch → intake and workers drain together → abort at the deadline → journal last.
"""

import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from emitterd import __version__
from emitterd.config.settings import Config
from emitterd.delivery.attempt import UploadObserver
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.intake.file_status import FileStatus, undelivered
from emitterd.journal.operations import (
    OperationReport,
    OperationRequest,
    OperationResult,
)
from emitterd.model import LIVE, State
from emitterd.monitoring.uploads import UploadReporter, UploadTracker
from emitterd.service.components import Components
from emitterd.service.control_socket import ControlServer
from emitterd.service.memory import HeapTrimmer
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
    from emitterd.monitoring.http_server import HttpServer

BEAT_S = 1.0
"""How often the main thread looks around; oftener for a watchdog that is in a hurry."""

AT_ONCE = 2
"""So many signals stop without a drain."""

ABORT_GRACE_S = 3.0
"""How long threads may take to notice an abort: `sockets.POLL_S` and a commit."""

END_S = 10.0
"""How long, after the drain and the abort, it may take until the process is gone."""

READY_S = 5.0
"""How long ready waits for the first sweep to begin; longer only with the root lost."""

ONCE_LOOK_S = 0.1
DRAIN_LOOK_S = 0.05

log = structlog.get_logger()


class Daemon:
    """All parts of one installation. Use as `run` or as `once`, then throw away."""

    def __init__(self, config: Config, observer: UploadObserver | None = None) -> None:
        """Open the journal and put the parts together; no thread starts here.

        Raises `JournalError` (`JournalLocked` where another instance runs), and
        `OSError` where a TLS file cannot be used.
        """
        self._arena = HeapTrimmer()
        self._uploads = UploadTracker()
        self._parts = Components(config, observer or self._uploads)
        self._journal = self._parts.journal
        self._bulletin = UploadReporter(self._uploads, self._journal)
        self._crew = Threads(
            self._parts.worker, self._parts.wake_up, self._parts.shutdown
        )
        database = self._journal.database
        every_s = watchdog_s(os.environ, os.getpid())
        self._supervision = Watchdog(
            self._crew.heartbeat, lambda: database.committing_since, every_s
        )
        self._beat_s = min(BEAT_S, every_s / 4) if every_s else BEAT_S
        self._listener: HttpServer | None = None

    def run(self) -> int:
        """Deliver until SIGTERM or SIGINT; return the exit code."""
        with Signals(hangup=True) as signals:
            ignore_lease_breaks()
            self._listener = self._open_listener()
            self._start(watch=True)
            self._listen()
            self._parts.intake.sweeping.wait(READY_S)
            notify("READY=1", f"STATUS={self._status()}")
            log.info("daemon.ready", **self._counts())
            if self._listener is not None:
                serve = partial(self._listener.run, self._parts.shutdown)
                self._crew.start("listener", serve)
            hangups = 0
            while not signals.stops and not self._crew.failed:
                if signals.hangups != hangups:
                    # However many came: what is read now is what all of them meant.
                    hangups = signals.hangups
                    self._reload()
                self._man()
                self._parts.watch_keeper.check()
                self._parts.health.note_alarms()
                self._arena.beat(time.monotonic())
                self._bulletin.beat(time.time())
                self._supervision.beat(self._status())
                signals.wait(self._beat_s)
            self._stop(signals)
        return 70 if self._crew.failed else 0

    def once(self, wait_s: float) -> tuple[int, list[FileStatus]]:
        """Deliver what is complete now; return the exit code and what is left.

        `wait_s`: how long nothing may move, in seconds, before it gives up.
        """
        began_at = time.time()
        # Signals of a terminal that goes away are counted, and nobody looks.
        with Signals(hangup=True) as signals:
            ignore_lease_breaks()
            self._start(watch=False)
            patience = _OnceTimeout(wait_s)
            while not (signals.stops or self._crew.failed or self._done(patience)):
                self._bulletin.beat(time.time())
                signals.wait(ONCE_LOOK_S)
            self._stop(signals, keep_journal=True)
            rejected = self._journal.rejections(began_at)
            left = undelivered(self._parts.file_statuses(), rejected)
            self._journal.close()
        if self._crew.failed:
            return 70, left
        return 1 if left or signals.stops else 0, left

    def down(self) -> OpenCircuit | None:
        """Return what is wrong with the destination, if anything is."""
        return self._parts.destination.down

    def _start(self, *, watch: bool) -> None:
        log.info(
            "daemon.started",
            version=__version__,
            path=str(self._parts.spool.root),
            workers=self._parts.destination.workers,
        )
        if self._journal.reclaimed:
            log.info("journal.recovered", reclaimed=self._journal.reclaimed)
        self._parts.disposal.resume()
        self._parts.recall()
        self._parts.health.clear_noted_alarms()
        # Watch first, sweep after: a file that comes in between is seen twice
        # rather than never.
        if watch:
            self._parts.watch_keeper.start()
        run = partial(self._parts.intake.run, self._parts.shutdown)
        self._crew.start_watched("intake", run)
        self._parts.destination.on_resized = self._man
        self._man()

    def _man(self) -> None:
        destination = self._parts.destination
        self._crew.resize_workers(lambda: destination.workers)

    def _reload(self) -> None:
        notify(reloading())
        reload(self._parts)
        notify("READY=1")

    def _stop(self, signals: Signals, *, keep_journal: bool = False) -> None:
        drain_s = self._parts.config.delivery.drain_timeout_s
        longest = extend_timeout(drain_s + ABORT_GRACE_S + END_S)
        notify("STOPPING=1", longest, f"STATUS=stopping: {self._status()}")
        log.info("daemon.stopping", **self._counts())
        self._parts.watch_keeper.stop()
        self._parts.shutdown.drain(drain_s)
        # The second signal may have come before anything here noticed the first.
        while signals.stops < AT_ONCE and not self._parts.shutdown.overdue:
            if not self._crew.alive():
                break
            self._supervision.feed()
            signals.wait(DRAIN_LOOK_S)
        self._parts.shutdown.now.set()
        self._crew.join(ABORT_GRACE_S)
        log.info("daemon.stopped", **self._counts())
        self._parts.http_client.close()
        if not keep_journal:
            self._journal.close()

    def _open_listener(self) -> "HttpServer | None":
        """Return what serves metrics, health and page, where that is configured."""
        if self._parts.metrics is None:
            return None
        from emitterd.service.components import open_listener

        return open_listener(
            self._parts, self._uploads, lambda: not self._parts.shutdown.draining
        )

    def _listen(self) -> None:
        """Let the operator's hand in; without it deliveries go on all the same."""
        try:
            control = ControlServer(
                self._parts.config.journal.path, self._obey, self._parts.shutdown
            )
        except OSError as error:
            log.warning("operator.unheard", reason=error.strerror or str(error))
        else:
            self._crew.start("control", control.run)

    def _obey(self, instruction: OperationRequest, user: str) -> OperationReport:
        outcome = self._parts.hand.apply(instruction, user, self._done_by_hand)
        done = (display(one.path) for one in outcome.results if not one.refusal)
        if outcome.done:
            log.info(
                "operator.acted",
                act=instruction.operation,
                count=outcome.done,
                path=next(done, None),
                user=user,
            )
            self._parts.wake_up.notify()
        return outcome

    def _done_by_hand(self, deed: OperationResult) -> None:
        if deed.refusal or deed.after in LIVE:
            return
        if deed.before in LIVE:
            reason = "forgotten by the operator"
            log.info("file.withdrawn", path=display(deed.path), reason=reason)
        # What lies in the folder passes the door again, as a new file.
        self._parts.intake.hint(deed.path)

    def _done(self, patience: "_OnceTimeout") -> bool:
        """Tell whether `once` can do no more: all is settled, or nothing moves."""
        if self._parts.spool.lost():
            return True
        if not self._parts.intake.swept.is_set():
            return False
        counts, settling = self._journal.counts(), self._parts.intake.settling()
        live = sum(counts[state] for state in (State.QUEUED, State.DELIVERING))
        if not (live or settling or counts[State.DEFERRED]):
            return True
        down = self._parts.destination.down
        # Settling takes its time, and a slow upload moves; neither is a standstill.
        moving = settling or bool(counts[State.DELIVERING] and down is None)
        due_at = None if live or settling else self._journal.next_due_at()
        return patience.over(counts, moving=moving, down=down, due_at=due_at)

    def _counts(self) -> dict[str, int]:
        counts = self._journal.counts()
        return {
            "queued": counts[State.QUEUED] + counts[State.DEFERRED],
            "delivering": counts[State.DELIVERING],
            "delivered": counts[State.DELIVERED],
        }

    def _status(self) -> str:
        reading = self._parts.health.read()
        oldest_at = reading.queue.oldest_waiting_at
        oldest_s = None if oldest_at is None else time.time() - oldest_at
        return status_line(
            reading.queue.counts,
            oldest_s,
            self._parts.destination.down,
            lost=self._parts.spool.lost(),
            eta_s=reading.eta_s,
        )


@dataclass(slots=True)
class _OnceTimeout:
    """How long nothing has moved, against how long that may last."""

    wait_s: float
    since: float = 0.0
    ended: int = -1

    def over(
        self,
        counts: dict[State, int],
        *,
        moving: bool,
        down: OpenCircuit | None,
        due_at: float | None,
    ) -> bool:
        now = time.monotonic()
        ended = sum(
            counts[state]
            for state in (State.DELIVERED, State.REJECTED, State.WITHDRAWN)
        )
        if moving or ended != self.ended:
            self.since, self.ended = now, ended
        left_s = self.since + self.wait_s - now
        # What is not tried again in time need not be waited for.
        next_at = down.probe_at if down is not None else due_at
        return left_s <= 0 or (next_at is not None and next_at - time.time() > left_s)
