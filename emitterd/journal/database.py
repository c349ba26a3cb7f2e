"""The SQLite file of the journal: lock, opening, migrations, reading, and the group commit.

One connection writes. `Database.write` is a group commit: all waiting work becomes one transaction,
so N workers share one fsync. `synchronous=FULL` makes each commit durable before `write` returns,
unless all work of the commit allows otherwise.
"""

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from emitterd.errors import JournalError, JournalFull, JournalLocked
from emitterd.failpoints import Point, reach
from emitterd.journal.connection import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    VERSION,
    Row,
    check,
    closed_on_failure,
    identify,
    open_reader,
    translate_error,
)
from emitterd.journal.disk_reserve import PAGE_BYTES, DiskReserve
from emitterd.spool.mounts import NETWORK, file_system

LOCK_WAIT_S = 2.0
"""A short command that holds the journal must not make the daemon's start fail."""

LOCK_POLL_S = 0.05

WAL_LIMIT_BYTES = 64 * 1024 * 1024
_SYNC = {True: "pragma synchronous = full", False: "pragma synchronous = normal"}
"""By whether the next commits are synced, or only written to the log."""

CLOSE_WAIT_S = 5.0

T = TypeVar("T")


class Lock:
    """The single-instance lock: a flock, which the kernel releases with its process."""

    def __init__(self, journal: Path) -> None:
        """Take the lock beside a journal.

        Raises `JournalLocked` if another process has it, and `JournalError` where its file
        cannot be created.
        """
        path = journal.with_name(journal.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise JournalFull(f"cannot create {path}: its disk is full") from error
            raise JournalError(
                f"cannot create {path}: {error.strerror}",
                remedy=f"give the daemon's user write permission on {path.parent}",
            ) from error
        try:
            self._take(time.monotonic() + LOCK_WAIT_S)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise JournalLocked(f"{journal} is held by process {holder or 'unknown'}") from error
        # The process number is only for error messages; a full disk may refuse it.
        with suppress(OSError):
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def _take(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOCK_POLL_S)
            else:
                return

    def close(self) -> None:
        """Release the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(slots=True, eq=False)
class PendingWrite(Generic[T]):
    """Work that waits for its commit, and its result."""

    work: Callable[[sqlite3.Connection], T]
    may_use_reserve: bool
    durable: bool
    done: bool = False
    result: T | None = None
    error: BaseException | None = None
    wake_up: threading.Lock = field(default_factory=threading.Lock)
    """Free once it is done, or once its thread must commit."""

    def __post_init__(self) -> None:
        self.wake_up.acquire()


Batch = list[PendingWrite[Any]]


class Database:
    """The journal's file, locked for this process. Thread-safe.

    One thread commits the work of all waiting threads. New work waits; then the first thread of the
    new work commits it. A thread wakes up only for its own result or to commit: with one shared
    lock, 8 workers lost a third of their time.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises `JournalLocked` if another process has it, `JournalError` if it is on a network
        file system, is not a journal of emitterd, is from a newer version, or is damaged.
        """
        self._queue: Batch = []
        self._queue_lock = threading.Lock()
        self._has_leader = False
        self._writing = threading.Lock()
        """Held during each commit: its holder prevents all writing."""
        self._synced = True
        self._reading = threading.Lock()
        self.committing_since: float | None = None
        """When the current commit began, monotonic; None while there is none."""
        self.commits = 0
        """Number of commits: while it does not change, neither does the content."""
        _refuse_network(path)
        self._lock = Lock(path)
        self._reserve = DiskReserve(path)
        try:
            try:
                self._writer, self._reader = _open(path)
            except JournalFull as full:
                self._reserve.release(full)
                self._writer, self._reader = _open(path)
        except BaseException:
            self._lock.close()
            raise
        self._reserve.renew()
        log_pages = max(1, self._reserve.size_bytes // PAGE_BYTES)
        self._writer.execute(f"pragma wal_autocheckpoint = {log_pages}")

    def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        may_use_reserve: bool = False,
        durable: bool = True,
    ) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        An exception of `work` undoes only its own changes and is raised here. Raises `JournalFull`
        where the disk is full; nothing is changed then.

        `may_use_reserve`: the work records the end of something. If the disk is full, it runs
        again, with the space of the reserve. Work that is not `durable` may be undone by a power
        cut, until a durable commit follows.
        """
        mine = PendingWrite(work, may_use_reserve, durable)
        with self._queue_lock:
            self._queue.append(mine)
            is_follower, self._has_leader = self._has_leader, True
        if is_follower:
            mine.wake_up.acquire()
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[return-value]  # T may itself be None

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call."""
        try:
            with self._reading:
                return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise translate_error(error) from error

    @property
    def full_since(self) -> float | None:
        """Since when the disk is full, seconds since the epoch; None if it is not."""
        return self._reserve.full_since

    def close(self) -> None:
        """Close the file and release the lock."""
        reach(Point.CLOSING)
        if not self._writing.acquire(timeout=CLOSE_WAIT_S):
            # The commit hangs: the end of the process closes the file.
            return
        try:
            with self._reading:
                self._reader.close()
                self._writer.close()
                self._reserve.remove()
                self._lock.close()
        finally:
            self._writing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lead(self, mine: PendingWrite[T]) -> None:
        batch: Batch = []
        try:
            with self._writing:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        except BaseException as error:
            # No caller may believe that uncommitted work is done.
            for pending in batch:
                pending.error = pending.error or error
            raise
        finally:
            with self._queue_lock:
                next_leader = self._queue[0] if self._queue else None
                self._has_leader = next_leader is not None
            if next_leader is not None:
                next_leader.wake_up.release()
            for pending in batch:
                pending.done = True
                if pending is not mine:
                    pending.wake_up.release()

    def _commit(self, batch: Batch) -> None:
        self.committing_since = time.monotonic()
        try:
            full = self._reserve.renew() or self._transact(batch)
            if full is not None:
                self._reserve.release(full)
                for pending in batch:
                    pending.error = full
                if again := [pending for pending in batch if pending.may_use_reserve]:
                    self._transact(again)
        finally:
            self.committing_since = None

    def _transact(self, batch: Batch) -> JournalFull | None:
        """Run a batch in one transaction; return the error if the disk is full."""
        synced = any(pending.durable for pending in batch)
        try:
            if synced is not self._synced:
                self._writer.execute(_SYNC[synced])
                self._synced = synced
            self._writer.execute("begin immediate")
            for pending in batch:
                self._run(pending)
            reach(Point.COMMIT_DUE)
            self._writer.execute("commit")
            self.commits += 1
            reach(Point.COMMITTED)
        except sqlite3.Error as error:
            failure = translate_error(error)
            for pending in batch:
                pending.error = failure
            # Every caller has its error already, even if the rollback fails.
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
            return failure if isinstance(failure, JournalFull) else None
        return None

    def _run(self, pending: PendingWrite[Any]) -> None:
        pending.error = None
        self._writer.execute("savepoint work")
        try:
            pending.result = pending.work(self._writer)
        except BaseException as error:
            # A refused row concerns its caller only; a disk error concerns all.
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            pending.error = error
            self._writer.execute("rollback to work")
        self._writer.execute("release work")


def _open(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    writer = _open_writer(path)
    with closed_on_failure(writer, path):
        return writer, open_reader(path)


def _open_writer(path: Path) -> sqlite3.Connection:
    # A leftover write-ahead log means that the last process did not close the file.
    unclean = path.with_name(path.name + "-wal").exists()
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if unclean:
            check(path, "quick_check")
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"cannot open {path}: {error}") from error
    with closed_on_failure(connection, path):
        _prepare(connection, path)
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = identify(connection, path)
    connection.execute("pragma journal_mode = wal")
    connection.execute(_SYNC[True])
    connection.execute(f"pragma journal_size_limit = {WAL_LIMIT_BYTES}")
    connection.execute("pragma temp_store = memory")
    if version == VERSION:
        return
    steps = range(version + 1, VERSION + 1) if version else ()
    names = [f"migrations/{step:04}.sql" for step in steps] or ["schema.sql"]
    scripts = [files("emitterd.journal").joinpath(name).read_text("utf-8") for name in names]
    connection.executescript(
        "begin immediate;\n" + "\n".join(scripts) + "\n"
        f"pragma application_id = {APPLICATION_ID};\n"
        f"pragma user_version = {VERSION};"
    )
    reach(Point.SCHEMA_MADE)
    connection.execute("commit")
    reach(Point.SCHEMA_COMMITTED)


def _refuse_network(path: Path) -> None:
    kind = file_system(path.parent)
    if kind in NETWORK:
        raise JournalError(
            f"{path} is on a network file system ({kind}), which SQLite's"
            " write-ahead log cannot use",
            remedy="name a local directory in journal.path",
        )
