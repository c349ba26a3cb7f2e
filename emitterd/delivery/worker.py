"""The second loop: claim an entry, deliver it once, record the outcome.

N threads run it. A failed attempt becomes a row with a due time, never a sleep. The error says what
to do; the worker only does it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from io import FileIO

import structlog

from emitterd import heartbeat
from emitterd.client.emission import EmissionClient
from emitterd.codes import Code
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.delivery.attempt import Attempter, HoldsClaim, UploadObserver
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import IDLE_S, Dispatcher, WakeUp
from emitterd.errors import (
    Decision,
    DeliveryError,
    FileError,
    HostFenced,
    JournalBusy,
    JournalFull,
    JournalMoved,
    Stage,
)
from emitterd.failpoints import Point, reach
from emitterd.housekeeping.disposal import Disposal
from emitterd.journal.journal import Journal
from emitterd.model import Entry, Fingerprint, Receipt, State
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import LeaseState, Spool, digests, read_at
from emitterd.spool.selection import AT_THE_TOP, at_the_top
from emitterd.text import iso

ROOT_LOST_S = 1.0
FULL_S = 5.0
BUSY_S = 1.0

# With the same grant each retry would fail in the same way.
_SPENT_GRANTS = frozenset({Code.GRANT_REFUSED, Code.NO_SUCH_BUCKET, Code.REDIRECT_REFUSED})

log = structlog.get_logger()


OnChanged = Callable[[bytes], None]
"""Gets the path of a file that is not as admitted: the intake must examine it."""

IsSurplus = Callable[[], bool]
"""Tells whether fewer workers are wanted, so that this one is to end."""


class Worker:
    """One worker; `run` is its thread, `step` one pass of the loop."""

    def __init__(  # noqa: PLR0913  the parts that the daemon puts together
        self,
        spool: Spool,
        journal: Journal,
        emission: EmissionClient,
        destination: Destination,
        disposal: Disposal,
        *,
        wake_up: WakeUp,
        shutdown: Shutdown,
        on_changed: OnChanged,
        observer: UploadObserver,
        holds_claim: HoldsClaim | None = None,
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._destination = destination
        self._dispatcher = Dispatcher(journal, destination, emission.usable, wake_up)
        self._disposal = disposal
        self._wake_up = wake_up
        self._shutdown = shutdown
        self._on_changed = on_changed
        self._observer = observer
        self._emission = emission
        self._attempter = Attempter(
            journal, emission, shutdown, self._dispatcher, observer, holds_claim
        )

    def run(self, surplus: IsSurplus = lambda: False) -> None:
        """Deliver until the daemon drains or this worker is `surplus`.

        The current attempt ends first.
        """
        try:
            while True:
                # Counted first: no wake-up that comes during the look is lost.
                count = self._wake_up.count()
                if self._shutdown.draining or surplus():
                    return
                heartbeat.record()
                wait_s = self.step(self._journal.now())
                if wait_s > 0:
                    self._wake_up.wait(count, min(wait_s, IDLE_S))
        finally:
            # Connections belong to their thread: nobody else would close them.
            self._emission.close_thread()

    def step(self, now: float) -> float:
        """Do one attempt if one is due; return how long to wait, in seconds."""
        if self._spool.lost():
            return ROOT_LOST_S
        try:
            entry = self._dispatcher.claim(now)
        except JournalFull:
            return FULL_S
        if not isinstance(entry, Entry):
            self._destination.record_idle(now)
            return 0.0 if self._dispatcher.probe_login(self._emission.login, now) else entry
        reach(Point.CLAIMED)
        self._observer.began(entry)
        try:
            self._attempt(entry)
        except JournalFull:
            # Released first: other attempts must not wait until the disk has room.
            self._dispatcher.release()
            self._return_to_queue(entry)
        except HostFenced as fenced:
            # The other host sends the file; what this one has done of it counts for nothing.
            log.warning("host.fenced", path=entry.name, error=fenced.code, reason=str(fenced))
        finally:
            self._dispatcher.release()
            self._observer.ended()
        return 0.0

    def _attempt(self, entry: Entry) -> None:
        started_at = time.monotonic()
        try:
            receipt = self._deliver(entry)
        except DeliveryError as error:
            self._record_failure(entry, error)
        except FileError as error:
            self._record_file_error(entry, error)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            self._defer(entry, DeliveryError(Decision.DEFER, Code.UNREADABLE, reason))
        # Not the file's: `step` waits for room; a journal that was moved ends the daemon.
        except (JournalFull, JournalMoved, HostFenced):
            raise
        except Exception as error:
            # A bug of ours concerns this file only: deferred, it cannot block others.
            log.exception("file.deferred", path=entry.name, error=Code.INTERNAL)
            self._defer(entry, DeliveryError(Decision.DEFER, Code.INTERNAL, repr(error)))
        else:
            if receipt is not None:
                self._record_delivery(entry, receipt, time.monotonic() - started_at)

    def _deliver(self, entry: Entry) -> Receipt | None:
        """Deliver the entry; return None if the server has this content already."""
        if at_the_top(entry.path):
            # Queued by a version before 0.2. The intake reports it from now on.
            raise FileError(AT_THE_TOP, code=Code.WRONG_DEPTH)
        # The version must be the only one that these time stamps can mean.
        self._shutdown.now.wait(entry.fingerprint.young_s(time.time()))
        with self._spool.open(entry.path) as file:
            entry = self._as_it_is(entry, file)
            if self._is_unchanged(entry, file):
                return None
            return self._attempter.run(entry, file)

    def _as_it_is(self, entry: Entry, file: FileIO) -> Entry:
        """Return the entry with the present fingerprint of its file.

        Raises `FileError` (CHANGED) where size or mtime differ, or the ctime, and the file is not
        complete. A complete file whose ctime alone has changed is sent.
        """
        seen, expected = Fingerprint.of(os.fstat(file.fileno())), entry.fingerprint
        if seen.same_version(expected):
            return entry
        touched = seen.same_times(expected) and self._spool.lease(file) is not LeaseState.OPEN
        if not touched or zip_flaw(read_at(file, seen.size_bytes), seen.size_bytes) is not None:
            raise FileError("changed before it was sent", code=Code.CHANGED)
        return replace(entry, fingerprint=seen)

    def _is_unchanged(self, entry: Entry, file: FileIO) -> bool:
        """Return whether the path was delivered with this content; record that."""
        previous = None if entry.first else self._journal.previous(entry)
        if previous is None or previous[1] != entry.fingerprint.size_bytes:
            return False
        # The size is known; only a digest has to read the file.
        _, digest = digests(file, self._attempter.check_shutdown)
        if digest != previous[2]:
            return False
        keeps = self._disposal.keeps(State.DELIVERED)
        self._journal.merge_unchanged(entry, previous[0], dispose=not keeps)
        reach(Point.UNCHANGED)
        log.info("file.unchanged", path=entry.name, sha256=digest.hex())
        if not keeps:
            self._disposal.hand_over(entry.id, entry.path, entry.fingerprint)
        return True

    def _record_delivery(self, entry: Entry, receipt: Receipt, duration_s: float) -> None:
        reach(Point.ANSWERED)
        keeps = self._disposal.keeps(State.DELIVERED)
        while True:
            try:
                self._journal.deliver(entry, receipt, duration_s=duration_s, dispose=not keeps)
                break
            except JournalBusy:
                # The server has the file: waiting for the lock is better than a second upload.
                if self._shutdown.now.wait(BUSY_S):
                    raise
                heartbeat.record()
        # After the receipt is on disk: a crash here costs a probe, not a second upload.
        self._dispatcher.record_answer(Stage.BUCKET)
        self._destination.record_delivery(self._journal.now(), receipt.size_bytes)
        log.info(
            "file.delivered",
            path=entry.name,
            bytes=receipt.size_bytes,
            key=receipt.key,
            etag=receipt.etag or None,
            verified=receipt.verified,
            sha256=receipt.sha256.hex(),
            attempt=entry.attempts + 1,
            ambiguous=entry.ambiguous or receipt.ambiguous or None,
            confirmed=receipt.confirmed or None,
            duration_s=duration_s,
        )
        if receipt.rows is not None:
            (log.warning if receipt.rows.get("dropped") else log.info)(
                "file.processed", path=entry.name, key=receipt.key, rows=receipt.rows
            )
        if not keeps:
            self._disposal.hand_over(entry.id, entry.path, entry.fingerprint)

    def _record_failure(self, entry: Entry, error: DeliveryError) -> None:
        reach(Point.FAILED)
        if error.decision is Decision.REJECT:
            self._reject(entry, error)
            return
        if error.decision is Decision.WAIT:
            due_at = self._journal.now() + (error.retry_after_s or 0.0)
            self._journal.defer(entry, error, due_at, charge=False)
            return
        if error.decision is Decision.REFUSE:
            self._defer(entry, error)
            # A server that refuses one file has answered: it is up.
            self._dispatcher.record_answer(error.stage)
            return
        if error.decision is Decision.INTERRUPT:
            self._journal.interrupt(entry, ambiguous=error.ambiguous)
            return
        if error.code in _SPENT_GRANTS:
            # Before the deferral, after which another worker may claim the entry.
            self._journal.drop_grant(entry)
        due_at, charged = self._dispatcher.defer(entry, error)
        # A failure of the destination has its own log line, one for all entries.
        if charged or (error.ambiguous and not entry.ambiguous):
            self._log_deferred(entry, error, due_at)

    def _defer(self, entry: Entry, error: DeliveryError) -> None:
        """Put an entry off for a cause that does not concern the destination."""
        due_at = self._destination.backoff.due_at(
            self._journal.now(), entry.attempts + 1, error.retry_after_s
        )
        self._journal.defer(entry, error, due_at, charge=True)
        self._log_deferred(entry, error, due_at)

    def _log_deferred(self, entry: Entry, error: DeliveryError, due_at: float) -> None:
        log.warning(
            "file.ambiguous" if error.ambiguous else "file.deferred",
            path=entry.name,
            attempt=entry.attempts + 1,
            error=error.code,
            reason=error.reason,
            due_at=iso(due_at),
        )

    def _reject(self, entry: Entry, error: DeliveryError) -> None:
        keeps = self._disposal.keeps(State.REJECTED)
        self._journal.reject(entry, error, dispose=not keeps)
        # A server that rejects one file has answered: it is up.
        self._dispatcher.record_answer(error.stage)
        log.error(
            "file.rejected",
            path=entry.name,
            bytes=entry.fingerprint.size_bytes,
            error=error.code,
            reason=error.reason,
            hint=error.remedy,
        )
        if not keeps:
            self._disposal.hand_over(entry.id, entry.path, entry.fingerprint)

    def _record_file_error(self, entry: Entry, error: FileError) -> None:
        if error.code in {Code.UNREADABLE, Code.PATH_FAILED, Code.STILL_WRITTEN}:
            self._defer(entry, DeliveryError(Decision.DEFER, error.code, str(error)))
            return
        # Without its root, every file seems to be gone.
        if error.code is Code.GONE and self._spool.lost():
            self._journal.interrupt(entry)
            return
        withdrawal = DeliveryError(Decision.WITHDRAW, error.code, str(error))
        self._journal.withdraw(entry, withdrawal)
        log.info("file.withdrawn", path=entry.name, error=error.code, reason=str(error))
        self._on_changed(entry.path)

    def _return_to_queue(self, entry: Entry) -> None:
        """Put an entry back whose outcome the journal had no room for.

        It may have been delivered. The next attempt uses the same grant, so it overwrites the
        object.
        """
        while not self._shutdown.now.wait(FULL_S):
            heartbeat.record()
            try:
                self._journal.interrupt(entry, ambiguous=True)
            except JournalFull:
                continue
            return
