"""What happens to the file of a version that has ended: it is kept, moved or deleted.

A file is touched only after its delivery or rejection is on disk in the journal, and only while the
path still has the same file that was sent or rejected.
"""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISREG

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import FileError, JournalError, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.journal.rows import Ended
from emitterd.model import Fingerprint, State
from emitterd.permissions import permission_command
from emitterd.shutdown import Shutdown
from emitterd.spool.files import FileMover, folder_below, put_back
from emitterd.spool.folder import OPEN_FOLDERS, LeaseState, Spool, digests
from emitterd.spool.mounts import leases_prove
from emitterd.text import display, iso

PAGE = 500
IDLE_S = 60.0

MOVERS = 3
"""Threads that move and delete files. One slow folder leaves the others free."""

HANDED_MAX = 10_000
"""Beyond this number the files that wait are known from the journal only."""

REPORTED_MAX = 10_000
"""Beyond this number of files that stay, the log may name a file again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DisposalRule:
    """Where files go: `spool.after_delivery` and `spool.rejected_directory`.

    A delivered file goes to `archive`, is deleted, or stays. A rejected file goes to `rejected`, or
    stays.
    """

    archive: Path | None = None
    delete: bool = False
    rejected: Path | None = None

    def keeps(self, state: State) -> bool:
        """Return whether files of versions in this state stay where they are."""
        if state is State.DELIVERED:
            return self.archive is None and not self.delete
        return state is not State.REJECTED or self.rejected is None

    def folder(self, state: State) -> Path | None:
        """Return the folder for files of versions in this state, or None."""
        return self.rejected if state is State.REJECTED else self.archive


class Disposal:
    """Moves or deletes files by a rule. Thread-safe."""

    def __init__(self, spool: Spool, journal: Journal, rule: DisposalRule) -> None:
        self._spool = spool
        self._journal = journal
        self._rule = rule
        self._lock = threading.Lock()
        self._in_progress: set[bytes] = set()
        self._reported: dict[bytes, str] = {}
        self._wake = threading.Event()
        self._handed: deque[tuple[int, bytes, Fingerprint]] = deque()
        self._handing = threading.Condition()
        self._movers = 0

    def apply_settings(self, rule: DisposalRule) -> None:
        """Use another rule from now on."""
        self._rule = rule
        # A disposal that failed before may be possible now.
        self.resume_soon()

    def keeps(self, state: State) -> bool:
        """Return whether files of versions in this state stay where they are."""
        return self._rule.keeps(state)

    def hand_over(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        """Have `move_handed` dispose of the file of an ended version.

        A slow or hanging folder must not keep the caller from the next upload. While no thread runs
        `move_handed`, the caller does it.
        """
        with self._handing:
            moved_elsewhere = self._movers > 0
            full = len(self._handed) >= HANDED_MAX
            if moved_elsewhere and not full:
                self._handed.append((entry_id, path, sent))
                self._handing.notify()
        if not moved_elsewhere:
            self.dispose(entry_id, path, sent)
        elif full:
            self.resume_soon()

    def move_handed(self, shutdown: Shutdown) -> None:
        """Dispose of what is handed over, until the daemon drains and nothing waits."""
        with self._handing:
            self._movers += 1
        shutdown.on_drain(self._notify_movers)
        while (item := self._next(shutdown)) is not None:
            with suppress(JournalFull):
                self.dispose(*item)

    def _notify_movers(self) -> None:
        with self._handing:
            self._handing.notify_all()

    def _next(self, shutdown: Shutdown) -> tuple[int, bytes, Fingerprint] | None:
        with self._handing:
            while not self._handed:
                if shutdown.draining:
                    self._movers -= 1
                    return None
                with heartbeat.silence(IDLE_S):
                    self._handing.wait(IDLE_S)
            return self._handed.popleft()

    def dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        """Move or delete the file of an ended version and record it.

        If it fails it stays due in the journal, and is tried again after the next sweep.
        """
        # The sweep may meet a file that its worker is just about to dispose of.
        with self._lock:
            if path in self._in_progress:
                return
            self._in_progress.add(path)
        try:
            self._dispose(entry_id, path, sent)
        finally:
            self._in_progress.discard(path)

    def resume_soon(self) -> None:
        """Ask `run` to do what is due in the journal. Thread-safe."""
        self._wake.set()

    def run(self, shutdown: Shutdown) -> None:
        """Do what is due, again and again, until the daemon drains.

        In a thread of its own: a copy to a slow archive must delay neither the start nor new files.
        """
        shutdown.on_drain(self._wake.set)
        while True:
            self._wake.clear()
            if shutdown.draining:
                return
            with suppress(JournalFull):
                self.resume(lambda: shutdown.draining)
            with heartbeat.silence(IDLE_S):
                self._wake.wait(IDLE_S)

    def resume(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Do what is due in the journal, after a rejection, a failure or a crash.

        `stopped` is asked before each file.
        """
        if self._spool.lost():
            return
        after_id = 0
        while page := self._journal.disposals(after_id, PAGE):
            for entry_id, path, sent in page:
                if stopped():
                    return
                heartbeat.record()
                self.dispose(entry_id, path, sent)
                after_id = entry_id

    def _dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        ended = self._journal.ended(entry_id)
        if ended is None:
            return
        try:
            moved_to = self._move_or_delete(entry_id, path, ended, sent)
            target = os.fsencode(moved_to) if moved_to else None
            if moved_to is not None:
                reach(Point.DISPOSED)
                shown = display(target) if target else None
                log.info("file.disposed", path=display(path), moved_to=shown)
            self._journal.dispose(entry_id, target)
            reach(Point.DISPOSAL_RECORDED)
        except JournalFull:
            # The file is gone already; the next attempt finds that and records it.
            return
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001  one path must not stop the others
            self._note_failure(entry_id, path, error)
        else:
            self._reported.pop(path, None)

    def _move_or_delete(
        self, entry_id: int, path: bytes, ended: Ended, sent: Fingerprint
    ) -> Path | str | None:
        """Return where the file is now, or "" where it is deleted.

        None if it stays, or another file has replaced it.
        """
        # Read once: the rule may change meanwhile.
        rule = self._rule
        try:
            with self._spool.stable_path(path) as source:
                # If a process died here, the file still has its private name, and the path says
                # nothing about it.
                private = _private_name(source, entry_id, sent)
                is_private = os.path.lexists(private)
                if rule.keeps(ended.state):
                    if is_private:
                        put_back(private, source)
                    return None
                # Another file under the same path is a version of its own.
                stat = None if is_private else self._spool.stat(path)
                if stat is not None and not Fingerprint.of(stat).same_version(sent):
                    return None
                reach(Point.DISPOSAL_DUE)
                is_same = partial(self._is_same, sent, ended.sha256, stat and stat.st_ino)
                mover = FileMover(source, private, is_same)
                folder = rule.folder(ended.state)
                if folder is None:
                    return "" if mover.delete() else None
                return self._move(mover, folder, path, ended)
        except FileError as error:
            if error.code not in {Code.GONE, Code.NOT_REGULAR} or self._spool.lost():
                raise
            # The file, or its folder, is gone.
            return None

    def _move(self, mover: FileMover, folder: Path, path: bytes, ended: Ended) -> Path | None:
        # The day that it ended, not today: a second attempt finds the file of the first one.
        target = folder / iso(ended.at)[:10] / os.fsdecode(path)
        reason = ended.rejection(path) if ended.state is State.REJECTED else None
        root = self._spool.root
        # Producers can put links anywhere in the watched folder.
        top = root if folder.is_relative_to(root) else folder
        with folder_below(top, target.parent) as place:
            moved = mover.move(place / target.name, reason)
        return moved and target.with_name(moved.name)

    def _is_same(
        self, sent: Fingerprint, sha256: bytes | None, inode: int | None, path: Path
    ) -> bool:
        """Tell whether a file that has lost its name is the version that ended.

        Raises `FileError` where a program has it open for writing: what it writes is not delivered.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:
            return Fingerprint.of(path.lstat()).same_times(sent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise
        with os.fdopen(fd, "rb", buffering=0) as file:
            stat = os.fstat(fd)
            if not S_ISREG(stat.st_mode) or not Fingerprint.of(stat).same_times(sent):
                return False
            if self._spool.lease(file) is LeaseState.OPEN:
                raise FileError("a program has it open for writing", code=Code.STILL_WRITTEN)
            # Elsewhere inodes, and after a rename the ctime, prove nothing.
            if sha256 is None or (inode == stat.st_ino and leases_prove(fd)):
                return True
            return digests(file, heartbeat.record)[1] == sha256

    def _note_failure(self, entry_id: int, path: bytes, error: Exception) -> None:
        """Note and log why a file stays; each sweep tries again, and logs only a new reason."""
        reason, hint = _reason(error), str(Code.NOT_DISPOSED.remedy)
        folder = (self._spool.root / os.fsdecode(path)).parent
        # A move needs both folders; the error names the other one.
        if isinstance(error, PermissionError) and not os.access(folder, os.W_OK | os.X_OK):
            reason, hint = f"{error.strerror}: {folder}", permission_command(folder, "wx")
        if self._reported.get(path) == reason:
            return
        with suppress(JournalFull):
            self._journal.not_disposed(entry_id, f"{reason}: {hint}")
        if len(self._reported) >= REPORTED_MAX:
            self._reported.clear()
        self._reported[path] = reason
        log.warning(
            "file.disposed", path=display(path), error=Code.NOT_DISPOSED, reason=reason, hint=hint
        )


def _private_name(source: Path, entry_id: int, sent: Fingerprint) -> Path:
    """Return the private name that a crash has left, or the first that is free."""
    private, number = source.with_name(f".emitterd-{entry_id}"), 0
    while os.path.lexists(private):
        stat = private.lstat()
        # Without a source it may be a newer file, which a dead process has renamed.
        same = Fingerprint.of(stat).same_times(sent) or not os.path.lexists(source)
        if S_ISREG(stat.st_mode) and same:
            break
        number += 1
        private = source.with_name(f".emitterd-{entry_id}.{number}")
    return private


def _reason(error: Exception) -> str:
    """Return what failed, and where; not the path through the open folder."""
    if not isinstance(error, OSError):
        return str(error) if isinstance(error, FileError) else repr(error)
    names = [str(name) for name in (error.filename, error.filename2) if name]
    shown = [name for name in names if not Path(name).is_relative_to(OPEN_FOLDERS)]
    return ": ".join([error.strerror or str(error), *shown[-1:]])
