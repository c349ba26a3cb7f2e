"""The journal in a PostgreSQL database that several hosts share.

One connection writes, by a group commit; a few read. A commit raises `host.batch`. So it fails if
another host has ended this one, and after a lost connection the number says whether it was done.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
import structlog
from psycopg import errors

from emitterd import heartbeat
from emitterd.errors import HostFenced, JournalBusy, JournalError, JournalFull, JournalUnreachable
from emitterd.failpoints import Point, reach
from emitterd.journal.group_commit import Batch, GroupCommit, PendingWrite
from emitterd.journal.postgresql.batches import Runner, SharedQueue
from emitterd.journal.postgresql.clock import DatabaseClock
from emitterd.journal.postgresql.connection import (
    AGAIN_S,
    Connection,
    Connector,
    DatabaseAddress,
    close,
    closed_on_failure,
    is_lost,
    translated,
)
from emitterd.journal.postgresql.hosts import HostHeartbeat, HostLease, Timing, begin_life, end_life
from emitterd.journal.postgresql.listening import Listener
from emitterd.journal.postgresql.reading import Readers
from emitterd.journal.postgresql.schema import identify, prepare
from emitterd.journal.postgresql.tail import Tail
from emitterd.journal.postgresql.transaction import PostgresqlTransaction
from emitterd.journal.store import Parameters, Read, Row, StoreState, Work
from emitterd.journal.work import Claim, Deliver, Pin
from emitterd.model import Entry

TRIES = 6
"""How often a batch is tried that deadlocks, or whose connection is lost."""

CLOSE_WAIT_S = 5.0
"""How long the end of the process waits for a commit that hangs."""

_BEGIN = """update host set batch = %s, turn = greatest(turn, %s)
    where id = %s and ended_at is null and batch < %s"""

_BATCH = "select batch from host where id = %s"

_LAST_BATCH = "select batch from host where id = %s for update"
"""The lock waits for the former connection, whose commit may still be under way."""

_UNCLAIM = """update entry set state = 'queued', token = token + 1, host = null
    where id = %s and token = %s and host = %s and state = 'delivering'"""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Commit:
    """A commit whose answer was lost."""

    batch: Batch
    number: int
    host: int
    is_done: bool | None = None
    """Whether it was done; None while nobody knows."""


class Undecided(JournalUnreachable):
    """Nobody knows whether the work was committed; the results are those if it was."""

    def __init__(self, cause: str, commit: Commit, pending: PendingWrite[Any]) -> None:
        super().__init__(cause)
        self.commit = commit
        self.result: Any = pending.result
        self.error = pending.error


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Work that only finds out whether the last commit was done."""

    durable: bool = False
    ends: bool = False

    def run(self, _: object) -> None:
        """Change nothing."""


class PostgresqlStore:
    """The journal's database, and this process as one of its hosts. Thread-safe."""

    moved: JournalError | None = None
    restored = False

    def __init__(
        self,
        address: DatabaseAddress,
        name: str,
        timing: Timing = Timing(),  # noqa: B008  it never changes
        *,
        tail: Path | None = None,
        is_command: bool = False,
    ) -> None:
        """Connect, make the schema if there is none, and begin a life as host `name`.

        `tail`: the file of its last pins and deliveries. `is_command`: a command that ends soon and
        claims nothing. It renews no lease, and has a name of its own, because the daemon of this
        host may be running.

        Raises `JournalUnreachable` where waiting may help, `JournalLocked` if another living host
        has the name, and `JournalError` if the database cannot be used.
        """
        name = f"{name}/{os.getpid()}" if is_command else name
        self.address, self.host = address, HostLease(name, timing)
        self.clock = DatabaseClock()
        self.queue = SharedQueue()
        self._connector = Connector(address)
        self._readers = Readers(self._connector)
        self._group = GroupCommit(self._commit)
        self._committing_since: float | None = None
        self._busy_since: float | None = None
        self._full_since: float | None = None
        self._commits = 0
        self._closing = threading.Event()
        self._undecided: Commit | None = None
        self._call = _do_nothing
        self._connection: Connection | None = self._connector.connect()
        self._tail = Tail(tail) if tail is not None else None
        with closed_on_failure(self._connection, address):
            self._begin(self._connection)
        self._listener = Listener(self._connector, self._notify)
        self._heartbeat: HostHeartbeat | None = None
        if not is_command:
            self._heartbeat = self._start_heartbeat()

    @property
    def commits(self) -> int:
        """How many changes there were. Those of other hosts are not known: one for each second."""
        return self._commits + int(time.monotonic())

    @property
    def state(self) -> StoreState:
        """What keeps the store from writing."""
        return StoreState(
            self._committing_since,
            self._busy_since,
            self._full_since,
            self._connector.unreachable_since,
        )

    def write(self, work: Work[T]) -> T:
        """Run the work in a transaction, and return its result once that is durable.

        An exception of the work undoes only its own changes and is raised here. Raises
        `HostFenced` where another host has taken over the claim, and `JournalError`s; nothing is
        changed then. Work that ends something waits for a database that cannot be reached.
        """
        self._keep_delivery(work)
        result = self._write(work)
        self._keep_pin(work)
        return result

    def _write(self, work: Work[T]) -> T:
        while True:
            try:
                return self._group.write(work)
            except Undecided as undecided:
                if not work.ends:
                    raise
                if self._was_done(undecided):
                    if undecided.error is not None:
                        raise undecided.error from undecided
                    result: T = undecided.result
                    return result
            except JournalUnreachable:
                if not work.ends:
                    raise
                self._pause()

    def _keep_delivery(self, work: object) -> None:
        """Keep a delivery in the tail before it is offered: the database may lose it again."""
        if self._tail is not None and isinstance(work, Deliver):
            self._tail.add_delivery(work)

    def _keep_pin(self, work: object) -> None:
        """Keep a pin once it is done, because it may be refused. No byte was sent yet."""
        if self._tail is not None and isinstance(work, Pin):
            self._tail.add_pin(work, self.clock.now(), self.host.id, self._number)

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call.

        Raises `JournalError`.
        """
        return self._readers.read(sql, parameters)

    def snapshot(self) -> AbstractContextManager[Read]:
        """Return a context with a `Read` of one consistent state. It must be short."""
        return self._readers.snapshot()

    def on_work(self, call: Callable[[], None]) -> None:
        """Call this when another host has admitted files, and now and then. It must not raise."""
        self._call = call

    def close(self) -> None:
        """End this life as a host, and close all connections."""
        if self._closing.is_set():
            return
        reach(Point.CLOSING)
        self._closing.set()
        self._listener.close()
        if self._heartbeat is not None:
            self._heartbeat.close()
        self.host.end()
        if not self._group.writing.acquire(timeout=CLOSE_WAIT_S):
            # The commit hangs: the lease of this life ends by itself.
            return
        try:
            with suppress(JournalError), translated(self.address):
                connection = self._connected()
                end_life(connection, self.host)
            if self._connection is not None:
                close(self._connection)
            self._readers.close()
        finally:
            self._group.writing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _notify(self) -> None:
        self._call()

    # The connection, and this life.

    def _begin(self, connection: Connection) -> None:
        prepare(connection, self.address)
        self._set_up(connection)
        self._begin_life(connection)
        if self._tail is not None:
            # The database may have lost something while this host was off.
            self._tail.restore(connection, self.clock.now())

    def _set_up(self, connection: Connection) -> None:
        connection.execute("select set_config('emitterd.host', %s, false)", (self.host.name,))
        self.clock.measure(connection)

    def _begin_life(self, connection: Connection) -> None:
        with connection.transaction():
            self.reclaimed = begin_life(connection, self.host)
        self._number = 0
        log.info("host.joined", host=self.host.name)

    def _start_heartbeat(self) -> HostHeartbeat:
        try:
            with translated(self.address):
                return HostHeartbeat(
                    self._connector, self.host, self.clock, self._rejoin, self._notify
                )
        except BaseException:
            self.close()
            raise

    def _rejoin(self) -> None:
        """Begin another life if this one was ended: each commit finds that out."""
        with suppress(JournalError):
            self._group.write(_Nothing())

    def _connected(self) -> Connection:
        """Return the connection that writes; connect again if it was lost."""
        if self._connection is None:
            connection = self._connector.connect()
            with closed_on_failure(connection, self.address):
                if identify(connection, self.address) is None:
                    raise JournalError(
                        f"{self.address.name} has lost its tables",
                        remedy="restore the database from a backup",
                    )
                self._set_up(connection)
                self._find_lost_commits(connection)
            self._connection = connection
        return self._connection

    def _find_lost_commits(self, connection: Connection) -> None:
        """Begin another life if the server lacks commits that it had confirmed.

        It was promoted before it had received them, or has lost those that need not be durable.
        Nothing that this life holds can be trusted then.
        """
        rows = connection.execute(_BATCH, (self.host.id,)).fetchall()
        if rows and rows[0][0] >= self._number:
            return
        if rows:
            log.warning("journal.lost_commits", count=self._number - rows[0][0])
            self._begin_life(connection)
        if self._tail is not None:
            self._tail.restore(connection, self.clock.now())

    def _lose_connection(self) -> None:
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    # A commit.

    def _commit(self, batch: Batch) -> None:
        self._committing_since = time.monotonic()
        try:
            for number in range(TRIES):
                if self._is_committed(batch, is_last=number == TRIES - 1):
                    break
            self._commits += 1
            self._full_since = None
            self._note_busy(
                next((p.error for p in batch if isinstance(p.error, JournalBusy)), None)
            )
        except JournalBusy as busy:
            self._note_busy(busy)
            raise
        except JournalUnreachable:
            raise
        except JournalFull:
            self._full_since = self._full_since or time.time()
            raise
        finally:
            self._committing_since = None

    def _note_busy(self, busy: JournalBusy | None) -> None:
        if busy is None:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = time.time()
            log.error("journal.busy", error=busy.code, reason=str(busy), hint=busy.remedy)

    def _is_committed(self, batch: Batch, *, is_last: bool) -> bool:
        """Try a batch in one transaction; False if it should be tried again."""
        try:
            with translated(self.address):
                connection = self._connected()
                if self._undecided is not None:
                    self._decide(connection, self._undecided)
                return self._transact(connection, batch)
        except Undecided as lost:
            return self._is_done_after_all(batch, lost)
        except JournalUnreachable:
            was_connected = self._connection is not None
            self._lose_connection()
            # A server that was restarted answers at once.
            if is_last or not was_connected:
                raise
        except JournalBusy as busy:
            self._roll_back()
            passes = errors.DeadlockDetected | errors.SerializationFailure
            if is_last or not isinstance(busy.__cause__, passes):
                raise
            self._closing.wait(random.uniform(0.01, 0.1))  # noqa: S311  no secret
        except BaseException:
            self._roll_back()
            raise
        return False

    def _transact(self, connection: Connection, batch: Batch) -> bool:
        connection.execute("begin")
        number = self._number + 1
        mine = (number, self.queue.current, self.host.id, number)
        if connection.execute(_BEGIN, mine).rowcount != 1:
            connection.execute("rollback")
            # Another host has ended this life. What it held may be sent by others now.
            log.warning("host.fenced", error=HostFenced.default_code, host=self.host.name)
            self._begin_life(connection)
            return False
        transaction = PostgresqlTransaction(connection)
        is_durable = Runner(transaction, self.host.id, self.queue, self.address).run(batch)
        if not is_durable:
            connection.execute("set local synchronous_commit = off")
        reach(Point.COMMIT_DUE)
        try:
            connection.execute("commit")
        except psycopg.Error as error:
            if not is_lost(error):
                raise
            self._undecided = Commit(batch, number, self.host.id)
            raise Undecided(str(error), self._undecided, batch[0]) from error
        self._number = number
        reach(Point.COMMITTED)
        return True

    def _roll_back(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute("rollback")
            if self._connection.broken or self._connection.closed:
                self._lose_connection()

    # After a lost connection.

    def _is_done_after_all(self, batch: Batch, lost: Undecided) -> bool:
        """Find out whether a commit was done, if the database answers soon."""
        for _ in range(TRIES):
            self._lose_connection()
            with suppress(JournalUnreachable, JournalBusy), translated(self.address):
                self._decide(self._connected(), lost.commit, told=False)
                return bool(lost.commit.is_done)
            heartbeat.record()
            if self._closing.wait(AGAIN_S / 2):
                break
        for pending in batch:
            pending.error = Undecided(str(lost), lost.commit, pending)
        raise lost

    def _decide(self, connection: Connection, commit: Commit, *, told: bool = True) -> None:
        """Find out whether a commit was done.

        `told`: its callers were told that the database cannot be reached. So nobody has what it
        claimed.
        """
        rows = connection.execute(_LAST_BATCH, (commit.host,)).fetchall()
        is_done = bool(rows) and rows[0][0] >= commit.number
        if is_done and told:
            claims = [
                (pending.result.id, pending.result.token, commit.host)
                for pending in commit.batch
                if isinstance(pending.work, Claim) and isinstance(pending.result, Entry)
            ]
            with connection.cursor() as cursor:
                cursor.executemany(_UNCLAIM, claims)
        if is_done and commit.host == self.host.id:
            self._number = max(self._number, commit.number)
        commit.is_done, self._undecided = is_done, None

    def _was_done(self, undecided: Undecided) -> bool:
        while undecided.commit.is_done is None:
            self._pause()
            with suppress(JournalUnreachable, JournalBusy):
                self._group.write(_Nothing())
        return undecided.commit.is_done

    def _pause(self) -> None:
        """Wait for the next try. Raises `JournalUnreachable` if the store is being closed."""
        heartbeat.record()
        if self._closing.wait(AGAIN_S):
            raise JournalUnreachable(f"{self.address.name}: closed before it was reached")


def _do_nothing() -> None:
    """Wake nobody: the daemon calls `on_work`."""
