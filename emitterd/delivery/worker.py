"""The second loop: claim an entry, deliver it once, record what became of it.

N threads run it. What fails is a row with a due time, never a sleep; what the failure
means was decided below, here it is only carried out.
"""

import os
import time
from collections.abc import Callable
from io import FileIO
from typing import Protocol

import structlog

from emitterd import heartbeat
from emitterd.client.api import EmissionClient
from emitterd.codes import Code
from emitterd.delivery.attempt import Attempter
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import IDLE_S, Dispatcher, WakeUp
from emitterd.errors import Decision, DeliveryError, FileError, JournalFull, Stage
from emitterd.failpoints import Point, reach
from emitterd.housekeeping.disposal import Disposal
from emitterd.journal.journal import Journal
from emitterd.model import Entry, Fingerprint, Receipt
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool, sha256
from emitterd.text import iso

ROOT_LOST_S = 1.0
FULL_S = 5.0

_SPENT_GRANTS = frozenset(
    {Code.GRANT_REFUSED, Code.NO_SUCH_BUCKET, Code.REDIRECT_REFUSED}
)

log = structlog.get_logger()


class Observer(Protocol):
    """Who wants to see uploads go by; called in the workers' threads."""

    def began(self, entry: Entry) -> None:
        """Note that an attempt began."""

    def sent(self, entry: Entry, size_bytes: int) -> None:
        """Note that bytes of the file went out."""

    def ended(self, entry: Entry) -> None:
        """Note that an attempt ended, well or not."""


class Worker:
    """One worker; `run` is its thread, `step` one turn of it."""

    def __init__(  # noqa: PLR0913  the parts that the daemon puts together
        self,
        spool: Spool,
        journal: Journal,
        emission: EmissionClient,
        destination: Destination,
        disposal: Disposal,
        *,
        wake: WakeUp,
        shutdown: Shutdown,
        on_changed: Callable[[bytes], None],
        observer: Observer,
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._destination = destination
        self._passage = Dispatcher(journal, destination, emission.usable, wake)
        self._disposal = disposal
        self._wake = wake
        self._shutdown = shutdown
        self._on_changed = on_changed
        self._observer = observer
        self._leave = emission.close_thread
        self._attempts = Attempter(
            journal,
            emission,
            shutdown,
            on_granted=lambda: self._passage.answered(Stage.GRANT),
            on_sent=observer.sent,
        )

    def run(self, surplus: Callable[[], bool] = lambda: False) -> None:
        """Deliver until the daemon drains or this worker is `surplus`.

        The current attempt ends first.
        """
        try:
            while True:
                # Counted first: no wake-up that comes during the look is lost.
                rings = self._wake.rings()
                if self._shutdown.draining or surplus():
                    return
                heartbeat.record()
                wait_s = self.step(time.time())
                if wait_s > 0:
                    self._wake.wait(rings, min(wait_s, IDLE_S))
        finally:
            self._leave()

    def step(self, now: float) -> float:
        """Do one attempt if one is due; return how long to wait, in seconds."""
        if self._spool.lost():
            return ROOT_LOST_S
        try:
            entry = self._passage.claim(now)
        except JournalFull:
            return FULL_S
        if not isinstance(entry, Entry):
            self._destination.idle(now)
            return entry
        reach(Point.CLAIMED)
        self._observer.began(entry)
        try:
            self._try(entry)
        finally:
            self._observer.ended(entry)
        return 0.0

    def _try(self, entry: Entry) -> None:
        """Deliver, and record what became of it, also while the disk is full."""
        try:
            self._attempt(entry)
        except JournalFull:
            self._passage.ended()
            self._give_back(entry)
        finally:
            self._passage.ended()

    def _attempt(self, entry: Entry) -> None:
        started_at = time.monotonic()
        try:
            receipt = self._deliver(entry)
        except DeliveryError as trouble:
            self._troubled(entry, trouble)
        except FileError as error:
            self._source_failed(entry, error)
        except OSError as error:
            self._source_failed(entry, _unreadable(error))
        except JournalFull:
            raise
        except Exception as error:
            # A bug met this file: put it off, so that it cannot block the others.
            log.exception("file.deferred", path=entry.name, error=Code.INTERNAL)
            self._defer(
                entry, DeliveryError(Decision.DEFER, Code.INTERNAL, repr(error))
            )
        else:
            if receipt is not None:
                self._delivered(entry, receipt, time.monotonic() - started_at)

    def _deliver(self, entry: Entry) -> Receipt | None:
        """Deliver the entry; None where the server has this content already."""
        with self._spool.open(entry.path) as file:
            if Fingerprint.of(os.fstat(file.fileno())) != entry.fingerprint:
                raise FileError("changed before it was sent", code=Code.CHANGED)
            if self._unchanged(entry, file):
                return None
            return self._attempts.make(entry, file)

    def _unchanged(self, entry: Entry, file: FileIO) -> bool:
        previous = None if entry.first else self._journal.previous(entry)
        if previous is None or previous[1] != entry.fingerprint.size_bytes:
            return False
        digest = sha256(file, self._attempts.check_abort)
        if digest != previous[2]:
            return False
        keeps = self._disposal.keeps
        self._journal.merge_unchanged(entry, previous[0], dispose=not keeps)
        reach(Point.UNCHANGED)
        log.info("file.unchanged", path=entry.name, sha256=digest.hex())
        if not keeps:
            self._disposal.dispose(entry.id, entry.path, entry.fingerprint)
        return True

    def _delivered(self, entry: Entry, receipt: Receipt, duration_s: float) -> None:
        reach(Point.ANSWERED)
        keeps = self._disposal.keeps
        self._journal.deliver(entry, receipt, duration_s=duration_s, dispose=not keeps)
        self._passage.answered(Stage.BUCKET)
        self._destination.delivered(time.time(), receipt.size_bytes)
        log.info(
            "file.delivered",
            path=entry.name,
            bytes=receipt.size_bytes,
            key=receipt.key,
            etag=receipt.etag,
            verified=receipt.verified,
            sha256=receipt.sha256.hex(),
            attempt=entry.attempts + 1,
            ambiguous=entry.ambiguous or None,
            confirmed=receipt.confirmed or None,
            duration_s=duration_s,
        )
        if not keeps:
            self._disposal.dispose(entry.id, entry.path, entry.fingerprint)

    def _troubled(self, entry: Entry, trouble: DeliveryError) -> None:
        reach(Point.FAILED)
        match trouble.decision:
            case Decision.REJECT:
                self._reject(entry, trouble)
            case Decision.INTERRUPT:
                self._journal.interrupt(entry, ambiguous=trouble.ambiguous)
            case _:
                self._put_off(entry, trouble)

    def _put_off(self, entry: Entry, trouble: DeliveryError) -> None:
        if trouble.code in _SPENT_GRANTS:
            self._journal.drop_grant(entry)
        due_at, charged = self._passage.failed(entry, trouble)
        # Trouble of the destination is told as such, once.
        if charged or (trouble.ambiguous and not entry.ambiguous):
            self._tell_deferred(entry, trouble, due_at)

    def _defer(self, entry: Entry, trouble: DeliveryError) -> None:
        now, attempts = time.time(), entry.attempts + 1
        due_at = self._destination.backoff.due_at(now, attempts, trouble.retry_after_s)
        self._journal.defer(entry, trouble, due_at, charge=True)
        self._tell_deferred(entry, trouble, due_at)

    def _tell_deferred(
        self, entry: Entry, trouble: DeliveryError, due_at: float
    ) -> None:
        event = "file.ambiguous" if trouble.ambiguous else "file.deferred"
        log.warning(
            event,
            path=entry.name,
            attempt=entry.attempts + 1,
            error=trouble.code,
            reason=trouble.reason,
            due_at=iso(due_at),
        )

    def _reject(self, entry: Entry, trouble: DeliveryError) -> None:
        keeps = self._disposal.keeps_rejected
        self._journal.reject(entry, trouble, dispose=not keeps)
        # A refusal of this file is an answer: the destination is up.
        self._passage.answered(trouble.stage)
        log.error(
            "file.rejected",
            path=entry.name,
            bytes=entry.fingerprint.size_bytes,
            error=trouble.code,
            reason=trouble.reason,
            hint=trouble.hint,
        )
        if not keeps:
            self._disposal.dispose(entry.id, entry.path, entry.fingerprint)

    def _source_failed(self, entry: Entry, error: FileError) -> None:
        if error.code is Code.UNREADABLE:
            self._defer(entry, DeliveryError(Decision.DEFER, error.code, str(error)))
            return
        if error.code is Code.GONE and self._spool.lost():
            self._journal.interrupt(entry)
            return
        trouble = DeliveryError(Decision.WITHDRAW, error.code, str(error))
        self._journal.withdraw(entry, trouble)
        log.info("file.withdrawn", path=entry.name, error=error.code, reason=str(error))
        self._on_changed(entry.path)

    def _give_back(self, entry: Entry) -> None:
        """Put an entry back whose outcome the full journal could not take.

        It may have been delivered: the same grant is used again, so it overwrites.
        """
        while not self._shutdown.now.wait(FULL_S):
            heartbeat.record()
            try:
                self._journal.interrupt(entry, ambiguous=True)
            except JournalFull:
                continue
            return


def _unreadable(error: OSError) -> FileError:
    return FileError(f"cannot be read: {error.strerror or error}", code=Code.UNREADABLE)
