"""The SQLite file of the journal: opening, migrations, reading, and writing.

One connection writes, by a group commit. `synchronous=FULL` makes each commit durable before
`write` returns, unless all work of the commit allows otherwise.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog

from emitterd.errors import (
    JournalBusy,
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalMoved,
)
from emitterd.failpoints import Point, reach
from emitterd.journal.group_commit import Batch, GroupCommit, PendingWrite
from emitterd.journal.sqlite.connection import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    VERSION,
    SystemClock,
    check,
    closed_on_failure,
    identify,
    open_reader,
    translate_error,
)
from emitterd.journal.sqlite.disk_reserve import DiskReserve
from emitterd.journal.sqlite.state_folder import (
    Lock,
    cannot_open,
    generation,
    lock_generation,
    next_to,
    open_file,
    refuse_lost,
    refuse_mixture,
)
from emitterd.journal.store import Clock, Parameters, Read, Row, StoreState, Work
from emitterd.journal.work import Reclaim
from emitterd.spool.mounts import NETWORK, file_system

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""SQLite cuts the log to this size when it begins it again. A reader that holds a transaction open
makes the log grow."""

_SYNC = {True: "pragma synchronous = full", False: "pragma synchronous = normal"}
"""By whether the next commits are synced, or only written to the log."""

_SEQUENCE = 12
"""Offset of the log's number, which changes when SQLite has copied the log into the file and begins
it again. Source: sqlite.org/fileformat2, 4.1."""

CLOSE_WAIT_S = 5.0
"""How long the end of the process waits for a commit that hangs."""

BUSY_AGAIN_MS = 1000
"""How long a commit waits while it is known that another program locks the file."""

T = TypeVar("T")

log = structlog.get_logger()


class SqliteTransaction:
    """A `Transaction` on the connection that writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a statement, also of one with RETURNING."""
        return self._connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run a statement; return how many rows it changed."""
        return self._connection.execute(sql, parameters).rowcount

    def execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Run a statement once for each of `rows`."""
        self._connection.executemany(sql, rows)


class SqliteStore:
    """The journal's file, locked for this process. Thread-safe."""

    clock: Clock = SystemClock()
    host = None
    """No other host can share the file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, and put back into the queue what a dead process had claimed.

        Raises `JournalLocked` if another process has it, `JournalError` if it is on a network
        file system, is not a journal of emitterd, is from a newer version, is damaged, or if
        there are signs of another journal.
        """
        self._path = path
        self._group = GroupCommit(self._commit)
        self._synced = True
        self._reading = threading.Lock()
        self._committing_since: float | None = None
        self._busy_since: float | None = None
        self.commits = 0
        """Number of commits: while it does not change, neither does the content."""
        _refuse_network(path)
        # The lock before all else: another process may be using the files.
        self._lock = Lock(path)
        self._reserve = DiskReserve(path)
        try:
            self._open_or_make_room()
        except BaseException:
            self._lock.close()
            raise
        self._reserve.renew()
        self._writer.execute(f"pragma wal_autocheckpoint = {self._reserve.log_pages}")
        self._transaction = SqliteTransaction(self._writer)
        self.reclaimed = self.write(Reclaim(self.clock.now()))
        """How many claims of dead processes were taken back."""

    def write(self, work: Work[T]) -> T:
        """Run the work in a transaction, and return its result once that is durable.

        An exception of the work undoes only its own changes and is raised here. Raises
        `JournalFull`, `JournalBusy`, `JournalMoved` and other `JournalError`s; nothing is changed
        then. If the disk is full, work that ends something runs again, with the space of the
        reserve.
        """
        return self._group.write(work)

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call.

        Raises `JournalError`.
        """
        try:
            with self._reading:
                return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._checked(translate_error(error)) from error

    @contextmanager
    def snapshot(self) -> Iterator[Read]:
        """Return a context with a `Read` of one consistent state. It must be short."""
        with self._reading:
            try:
                self._reader.execute("begin")
                yield lambda sql, parameters: self._reader.execute(sql, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._checked(translate_error(error)) from error
            finally:
                with suppress(sqlite3.Error):
                    self._reader.execute("rollback")

    def _checked(self, failure: JournalError) -> JournalError:
        """Return the error; for a damaged file only if a check finds damage.

        A disk that fails may read like a damaged file, and pass: a restart must be possible.
        """
        if not isinstance(failure, JournalDamaged):
            return failure
        try:
            check(self._path, "quick_check")
        except JournalError as found:
            return found
        return JournalIOError(str(failure))

    @property
    def state(self) -> StoreState:
        """What keeps the store from writing."""
        return StoreState(self._committing_since, self._busy_since, self._reserve.full_since)

    @property
    def moved(self) -> JournalMoved | None:
        """The error if the file or its log has another place now, or is gone."""
        for path, identity in self._identity.items():
            # Where it cannot be looked at, nothing is known.
            with suppress(PermissionError):
                if _identity(path) != identity:
                    words = "was moved, removed or replaced while it was in use"
                    return JournalMoved(f"{path} {words}")
        return None

    def on_work(self, call: Callable[[], None]) -> None:
        """Never call this: no other host has the file."""

    def close(self) -> None:
        """Close the file and release the lock."""
        reach(Point.CLOSING)
        if not self._group.writing.acquire(timeout=CLOSE_WAIT_S):
            # The commit hangs: the end of the process closes the file.
            return
        try:
            with self._reading:
                # Before the connections close: SQLite deletes the log then.
                moved = self.moved
                self._reader.close()
                # The writer last: only as the last connection it copies the log into the file and
                # deletes it.
                self._writer.close()
                os.close(self._log)
                # Still under the lock: afterwards the reserve may be another process's.
                self._reserve.remove()
                # Without a log the file holds every commit, and its own generation is the newest.
                if moved is None and not next_to(self._path, "-wal").exists():
                    self._lock.save(generation(self._path))
                self._lock.close()
        finally:
            self._group.writing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_or_make_room(self) -> None:
        try:
            self._open()
        except JournalBusy:
            raise
        except JournalFull as full:
            self._reserve.release(full)
            self._open()

    def _open(self) -> None:
        path, log_path = self._path, next_to(self._path, "-wal")
        # Before the file is created or opened: SQLite applies any log of this name.
        refuse_lost(path)
        refuse_mixture(path)
        # A leftover write-ahead log means that the last process did not close the file.
        unclean = log_path.exists()
        try:
            # SQLite would follow a link, and let others read a new file.
            os.close(open_file(path, os.O_RDWR | os.O_CREAT))
            # Not later: each close of the file ends the locks that SQLite has on it (POSIX).
            in_file, at_least = generation(path), lock_generation(path)
            if unclean:
                check(path, "quick_check")
            self._writer = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
            )
            with closed_on_failure(self._writer, path):
                _prepare(self._writer, path)
                # A second connection: on the writer's own, a read waits for the fsync of a commit,
                # and sees changes that are not committed.
                self._reader = open_reader(path)
                ((cookie,),) = self._writer.execute("pragma schema_version").fetchall()
                self._log = open_file(log_path, os.O_RDONLY)
        except OSError as error:
            raise cannot_open(path, error) from error
        except sqlite3.Error as error:
            raise translate_error(error, path) from error
        self.restored = in_file < at_least
        self._generation = max(int(cookie), at_least)
        self._log_sequence = os.pread(self._log, 4, _SEQUENCE)
        self._identity = {file: _identity(file) for file in (path, log_path)}
        self._lock.save(in_file)

    def _commit(self, batch: Batch) -> None:
        self._committing_since = time.monotonic()
        try:
            # SQLite writes without an error to a file that was renamed or removed.
            if (moved := self.moved) is not None:
                raise moved
            # While the disk is known to be full, only the ends of work under way are tried.
            full = self._reserve.renew() or self._transact(batch)
            if full is not None:
                self._reserve.release(full)
                # The second try sets the errors of its own work again.
                for pending in batch:
                    pending.error = full
                if again := [pending for pending in batch if pending.work.ends]:
                    self._transact(again)
        finally:
            self._committing_since = None

    def _transact(self, batch: Batch) -> JournalFull | None:
        """Run a batch in one transaction; return the error if the disk is full."""
        synced = any(pending.work.durable for pending in batch)
        try:
            # Before `begin`: SQLite refuses this pragma in a transaction.
            if synced is not self._synced:
                self._writer.execute(_SYNC[synced])
                self._synced = synced
            # A plain `begin` takes no lock. If another program then wrote first, the first write of
            # this transaction would fail at once (SQLITE_BUSY_SNAPSHOT), without the timeout.
            self._writer.execute("begin immediate")
            for pending in batch:
                self._run(pending)
            reach(Point.COMMIT_DUE)
            self._writer.execute("commit")
            self.commits += 1
            reach(Point.COMMITTED)
            self._end_busy()
            self._raise_generation()
        except sqlite3.Error as error:
            failure = translate_error(error)
            for pending in batch:
                pending.error = failure
            # Every caller has its error already, even if the rollback fails.
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
            if isinstance(failure, JournalBusy):
                self._note_busy(failure)
            elif isinstance(failure, JournalFull):
                return failure
        return None

    def _note_busy(self, busy: JournalBusy) -> None:
        if self._busy_since is None:
            self._busy_since = self.clock.now()
            log.error("journal.busy", error=busy.code, reason=str(busy), hint=busy.remedy)
            # Each wait holds up all callers, and none of them sees a stop meanwhile.
            self._writer.execute(f"pragma busy_timeout = {BUSY_AGAIN_MS}")

    def _end_busy(self) -> None:
        if self._busy_since is not None:
            log.info("journal.recovered", duration_s=self.clock.now() - self._busy_since)
            self._busy_since = None
            self._writer.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")

    def _raise_generation(self) -> None:
        """Raise the generation if SQLite has begun the log again.

        The file has the former generation then, and the lock may say so.
        """
        if os.pread(self._log, 4, _SEQUENCE) == self._log_sequence:
            return
        self._lock.save(self._generation)
        # The batch is committed: this may wait for the next one.
        with suppress(sqlite3.Error):
            # The generation is SQLite's schema cookie: it is in the header, and readable without
            # SQLite.
            self._writer.execute(f"pragma schema_version = {self._generation + 1}")
            self._generation += 1
            self._log_sequence = os.pread(self._log, 4, _SEQUENCE)

    def _run(self, pending: PendingWrite[Any]) -> None:
        # Set anew: the work may run a second time, with the reserve.
        pending.error = None
        self._writer.execute("savepoint work")
        try:
            pending.result = pending.work.run(self._transaction)
        except BaseException as error:
            # A refused row concerns its caller only; a disk error concerns all.
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            pending.error = error
            self._writer.execute("rollback to work")
        # Also after `rollback to`, which keeps the savepoint open.
        self._writer.execute("release work")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.lstat()
    except PermissionError:
        raise
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = identify(connection, path)
    if version == 0:
        refuse_lost(path, no_tables=True)
    connection.execute("pragma journal_mode = wal")
    connection.execute(_SYNC[True])
    connection.execute(f"pragma journal_size_limit = {WAL_LIMIT_BYTES}")
    # A temporary file would need room on a disk that may be full.
    connection.execute("pragma temp_store = memory")
    if version == VERSION:
        return
    steps = range(version + 1, VERSION + 1) if version else ()
    names = [f"migrations/{step:04}.sql" for step in steps] or ["schema.sql"]
    scripts = [files("emitterd.journal.sqlite").joinpath(name).read_text("utf-8") for name in names]
    # One transaction: a kill leaves an empty file or a whole journal. `begin` is in the script,
    # because `executescript` commits a transaction that was begun before it.
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
