"""SQLite underneath the journal: opening, locking, and the one way to write.

One connection writes. `Database.write` is a group commit: all the work that waits is
one transaction, so N workers share one fsync. `synchronous=FULL` makes each commit
durable before `write` returns, unless all that is in it can do without.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Self, TypeVar

from emitterd.errors import JournalError, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal.complaints import translate_error
from emitterd.journal.connection import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    VERSION,
    Row,
    check,
    closed_on_failure,
    identify,
    open_reader,
)
from emitterd.journal.disk_reserve import PAGE_BYTES, DiskReserve
from emitterd.journal.grouping import Batch, GroupCommit, PendingWrite
from emitterd.journal.lock import Lock
from emitterd.spool.mounts import NETWORK, file_system

T = TypeVar("T")
WAL_LIMIT_BYTES = 64 * 1024 * 1024
_SYNC = {True: "pragma synchronous = full", False: "pragma synchronous = normal"}
"""By whether the commits that follow are synced, or only written to the log."""

CLOSE_WAIT_S = 5.0


class Database:
    """The journal's file, locked for this process. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises `JournalLocked` where another process has it, `JournalError` where it
        lies on a network file system, is foreign, newer, or damaged.
        """
        self._group = GroupCommit(self._commit)
        self._synced = True
        self._reading = threading.Lock()
        self.committing_since: float | None = None
        """When the commit under way began, monotonic; None while there is none."""
        self.commits = 0
        """How many there were: while it stays the same, so does what the file says."""
        _refuse_network(path)
        self._lock = Lock(path)
        self._ballast = DiskReserve(path)
        try:
            try:
                self._writer, self._reader = _open(path)
            except JournalFull as full:
                self._ballast.release(full)
                self._writer, self._reader = _open(path)
        except BaseException:
            self._lock.close()
            raise
        self._ballast.renew()
        log_pages = max(1, self._ballast.size_bytes // PAGE_BYTES)
        self._writer.execute(f"pragma wal_autocheckpoint = {log_pages}")

    def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        final: bool = False,
        durable: bool = True,
    ) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        What `work` raises undoes only its own changes and is raised here. Raises
        `JournalFull` where the disk is full; nothing is changed then. What is `final`
        ends something under way: it is done with the ballast's room, and twice. What
        is not `durable` a power cut may undo, though only from the end: a durable
        commit after it makes it durable too.
        """
        mine = PendingWrite(work, final=final, durable=durable)
        self._group.join(mine)  # type: ignore[arg-type]  # whatever it returns
        return mine.outcome()

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call."""
        try:
            with self._reading:
                return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise translate_error(error) from error

    @property
    def full_since(self) -> float | None:
        """Since when its disk is full, seconds since the epoch; None if it is not."""
        return self._ballast.full_since

    def close(self) -> None:
        """Close the file and let another process have it."""
        reach(Point.CLOSING)
        if not self._group.writing.acquire(timeout=CLOSE_WAIT_S):
            # A commit that never returns: the process's end closes the file.
            return
        try:
            with self._reading:
                self._reader.close()
                self._writer.close()
                self._ballast.close()
                self._lock.close()
        finally:
            self._group.writing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, batch: Batch) -> None:
        self.committing_since = time.monotonic()
        try:
            full = self._ballast.renew() or self._transact(batch)
            if full is not None:
                self._ballast.release(full)
                for pending in batch:
                    pending.error = full
                if final := [pending for pending in batch if pending.final]:
                    self._transact(final)
        finally:
            self.committing_since = None

    def _transact(self, batch: Batch) -> JournalFull | None:
        """Run a batch in one transaction; return the trouble if the disk is full."""
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
            # A rollback that fails leaves nobody believing in a success.
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("rollback")
            return failure if isinstance(failure, JournalFull) else None
        return None

    def _run(self, pending: PendingWrite[object]) -> None:
        pending.error = None
        self._writer.execute("savepoint one")
        try:
            pending.result = pending.work(self._writer)
        except BaseException as error:
            # A row that is refused is its owner's trouble; the disk's is everybody's.
            if isinstance(error, sqlite3.Error) and not isinstance(
                error, sqlite3.IntegrityError
            ):
                raise
            pending.error = error
            self._writer.execute("rollback to one")
        self._writer.execute("release one")


def _open(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Return the connection that writes, and the one that reads."""
    writer = _open_writer(path)
    with closed_on_failure(writer, path):
        return writer, open_reader(path)


def _open_writer(path: Path) -> sqlite3.Connection:
    # A write-ahead log beside the file tells of a process that did not end well.
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
    if version < VERSION:
        steps = range(version + 1, VERSION + 1) if version else ()
        _apply(
            connection,
            [f"migrations/{step:04}.sql" for step in steps] or ["schema.sql"],
        )


def _apply(connection: sqlite3.Connection, names: list[str]) -> None:
    """Run scripts of the package, all or none of them."""
    scripts = [
        files("emitterd.journal").joinpath(name).read_text("utf-8") for name in names
    ]
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
            f"{path} lies on a network file system ({kind}), which SQLite's"
            " write-ahead log cannot use",
            hint="name a local directory in journal.path",
        )
