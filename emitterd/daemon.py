"""The daemon: builds the parts, starts and stops them in order, watches over them.

Start: journal (lock, reclaim) → watch → intake, whose first act is a sweep → workers.
Stop: watch → intake and workers drain together → abort at the deadline → journal last.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from emitterd import __version__
from emitterd.assembly import Parts
from emitterd.config import Config
from emitterd.control import Control
from emitterd.destination import Down
from emitterd.entry import LIVE, State, display
from emitterd.instruction import Deed, Instruction, Outcome
from emitterd.notify import notify
from emitterd.signals import Signals
from emitterd.spool import ignore_lease_breaks
from emitterd.survey import Undelivered, undelivered
from emitterd.worker import Observer

BEAT_S = 1.0
AT_ONCE = 2
"""So many signals stop without a drain."""

ABORT_GRACE_S = 3.0
"""How long threads may take to notice an abort: `sockets.POLL_S` and a commit."""

READY_S = 5.0
"""How long ready waits for the first sweep to begin; longer only with the root lost."""

ONCE_LOOK_S = 0.1

log = structlog.get_logger()


class Unobserved:
    """Nobody looks on."""

    def began(self, entry: object) -> None:
        """Note nothing."""

    def sent(self, entry: object, size_bytes: int) -> None:
        """Note nothing."""

    def ended(self, entry: object) -> None:
        """Note nothing."""


class Daemon:
    """All parts of one installation. Use as `run` or as `once`, then throw away."""

    def __init__(self, config: Config, observer: Observer | None = None) -> None:
        """Open the journal and put the parts together; no thread starts here.

        Raises `JournalError` (`JournalLocked` where another instance runs), and
        `OSError` where a TLS file cannot be used.
        """
        self._config = config
        self._parts = Parts(config, observer or Unobserved())
        self._journal = self._parts.journal
        self._failed = threading.Event()
        self._drain = threading.Event()
        self._threads: list[threading.Thread] = []
        self._control: Control | None = None

    def run(self) -> int:
        """Deliver until SIGTERM or SIGINT; return the exit code."""
        with Signals() as signals:
            ignore_lease_breaks()
            self._start(watch=True)
            self._listen()
            self._parts.intake.sweeping.wait(READY_S)
            notify("READY=1", f"STATUS={self._status()}")
            log.info("daemon.ready", **self._counts())
            while not signals.stops and not self._failed.is_set():
                signals.wait(BEAT_S)
                self._parts.lookout.beat()
                notify(f"STATUS={self._status()}")
            self._stop(signals)
        return 70 if self._failed.is_set() else 0

    def once(self, wait_s: float) -> tuple[int, list[Undelivered]]:
        """Deliver what is complete now; return the exit code and what is left.

        `wait_s`: how long nothing may move, in seconds, before it gives up.
        """
        began_at = time.time()
        with Signals() as signals:
            ignore_lease_breaks()
            self._start(watch=False)
            patience = _Patience(wait_s)
            while not (signals.stops or self._failed.is_set() or self._done(patience)):
                signals.wait(ONCE_LOOK_S)
            self._stop(signals, keep_journal=True)
            rejected = self._journal.rejections(began_at)
            left = undelivered(self._parts.standings(), rejected)
            self._journal.close()
        if self._failed.is_set():
            return 70, left
        return 1 if left or signals.stops else 0, left

    def _start(self, *, watch: bool) -> None:
        log.info(
            "daemon.started",
            version=__version__,
            path=str(self._parts.spool.root),
            workers=len(self._parts.workers),
        )
        if self._journal.reclaimed:
            log.info("journal.recovered", reclaimed=self._journal.reclaimed)
        self._parts.disposal.resume()
        # What a former run knew of the destination holds no longer.
        self._journal.note("destination", None)
        # Watch first, sweep after: a file that comes in between is seen twice
        # rather than never.
        if watch:
            self._parts.lookout.start()
        self._spawn("intake", lambda: self._parts.intake.run(self._drain))
        for number, worker in enumerate(self._parts.workers):
            self._spawn(f"worker-{number}", lambda one=worker: one.run(self._drain))  # type: ignore[misc]

    def _stop(self, signals: Signals, *, keep_journal: bool = False) -> None:
        notify("STOPPING=1")
        log.info("daemon.stopping", **self._counts())
        self._parts.lookout.stop()
        if self._control is not None:
            self._control.stop()
        self._drain.set()
        self._parts.intake.wake()
        self._parts.wake.ring()
        deadline = time.monotonic() + self._config.delivery.drain_timeout_s
        # The second signal may have come before anything here noticed the first.
        while self._alive() and time.monotonic() < deadline and signals.stops < AT_ONCE:
            signals.wait(0.05)
        self._parts.abort.set()
        deadline = time.monotonic() + ABORT_GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        log.info("daemon.stopped", **self._counts())
        self._parts.wire.close()
        if not keep_journal:
            self._journal.close()

    def _listen(self) -> None:
        """Let the operator's hand in; without it deliveries go on all the same."""
        try:
            self._control = Control(self._config.journal.path, self._obey)
        except OSError as error:
            log.warning("operator.unheard", reason=error.strerror or str(error))
        else:
            self._spawn("control", self._control.run)

    def _obey(self, instruction: Instruction, user: str) -> Outcome:
        outcome = self._parts.hand.obey(instruction, user, self._done_by_hand)
        done = (display(one.path) for one in outcome.deeds if not one.refusal)
        if outcome.done:
            log.info(
                "operator.acted",
                act=instruction.act,
                count=outcome.done,
                path=next(done, None),
                user=user,
            )
            self._parts.wake.ring()
        return outcome

    def _done_by_hand(self, deed: Deed) -> None:
        if deed.refusal or deed.after in LIVE:
            return
        if deed.before in LIVE:
            reason = "forgotten by the operator"
            log.info("file.withdrawn", path=display(deed.path), reason=reason)
        # What lies in the folder passes the door again, as a new file.
        self._parts.intake.hint(deed.path)

    def _done(self, patience: "_Patience") -> bool:
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

    def _spawn(self, name: str, loop: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                loop()
            except Exception:
                # The state is undetermined: end, be restarted, and reclaim.
                log.critical("daemon.stopping", thread=name, exc_info=True)
                self._failed.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _counts(self) -> dict[str, int]:
        counts = self._journal.counts()
        return {
            "queued": counts[State.QUEUED] + counts[State.DEFERRED],
            "delivering": counts[State.DELIVERING],
            "delivered": counts[State.DELIVERED],
        }

    def _status(self) -> str:
        counts, down = self._counts(), self._parts.destination.down
        where = f"down: {down.code} {down.reason}" if down else "up"
        return (
            f"{counts['queued']} queued, {counts['delivering']} uploading,"
            f" {counts['delivered']} delivered; destination {where}"
        )


@dataclass(slots=True)
class _Patience:
    """How long nothing has moved, against how long that may last."""

    wait_s: float
    since: float = 0.0
    ended: int = -1

    def over(
        self,
        counts: dict[State, int],
        *,
        moving: bool,
        down: Down | None,
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
