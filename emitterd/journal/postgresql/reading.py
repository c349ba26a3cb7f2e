"""Reading the journal's database: a few connections that cannot write."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from emitterd.errors import JournalUnreachable
from emitterd.journal.postgresql.clock import DatabaseClock
from emitterd.journal.postgresql.connection import (
    Connection,
    Connector,
    DatabaseAddress,
    close,
    closed_on_failure,
    is_lost,
    translate_error,
    translated,
)
from emitterd.journal.postgresql.schema import NoTables, identify
from emitterd.journal.postgresql.transaction import PostgresqlTransaction, translated_sql
from emitterd.journal.store import Parameters, Read, Row

READERS = 3
"""Connections for reading: the page, the intake and the workers."""

PAGE = 2000
"""Rows that `stream` fetches at a time."""

_SNAPSHOT = "begin transaction isolation level repeatable read, read only"

T = TypeVar("T")


class Readers:
    """A small pool of connections for reading. Thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._free = threading.BoundedSemaphore(READERS)
        self._idle: list[Connection] = []
        self._closed = False

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query, which is a transaction of its own."""
        text = translated_sql(sql)
        return self._again(lambda connection: connection.execute(text, parameters).fetchall())

    @contextmanager
    def snapshot(self) -> Iterator[Read]:
        """Return a context with a `Read` of one consistent state. It must be short."""
        with self._connection() as connection:
            connection.execute(_SNAPSHOT)
            try:
                yield PostgresqlTransaction(connection).query
            finally:
                if not connection.closed:
                    connection.execute("rollback")

    def close(self) -> None:
        """Close all connections; those in use when they are given back."""
        self._closed = True
        while self._idle:
            close(self._idle.pop())

    def _again(self, query: Callable[[Connection], T]) -> T:
        """Run a query, and once more if the server had closed the connection since the last one."""
        fresh = not self._idle
        try:
            with self._connection() as connection:
                return query(connection)
        except JournalUnreachable:
            if fresh:
                raise
        with self._connection() as connection:
            return query(connection)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        address = self._connector.address
        with self._free:
            connection = self._idle.pop() if self._idle else self._connect()
            try:
                yield connection
            except psycopg.Error as error:
                failure = translate_error(error, address)
                if is_lost(error):
                    close(connection)
                    # The others were lost with it.
                    while self._idle:
                        close(self._idle.pop())
                raise failure from error
            finally:
                if not connection.closed and not self._closed:
                    self._idle.append(connection)
                elif not connection.closed:
                    close(connection)

    def _connect(self) -> Connection:
        return self._connector.connect(read_only=True)


class PostgresqlReader:
    """The journal's database, opened for reading only: for commands and the page."""

    def __init__(self, address: DatabaseAddress) -> None:
        """Connect. Raises `NoTables` if no host has started yet, and other `JournalError`s."""
        self._address = address
        self.clock = DatabaseClock()
        self._connection = Connector(address).connect(read_only=True)
        with closed_on_failure(self._connection, address):
            self.clock.measure(self._connection)
            if identify(self._connection, address) is None:
                raise NoTables(
                    f"{address.name} is empty: no host has written to it yet",
                    remedy="run `emitterd run`, or `emitterd once` to deliver what is there now",
                )

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call, or with `snapshot`.

        Raises `JournalError`.
        """
        with translated(self._address):
            return self._connection.execute(translated_sql(sql), parameters).fetchall()

    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Row]:
        """Yield the rows of a query that has too many for `read`."""
        with (
            translated(self._address),
            self._connection.transaction(),
            self._connection.cursor("stream") as cursor,
        ):
            cursor.itersize = PAGE
            yield from cursor.execute(translated_sql(sql), parameters)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Return a context in which all reads see one consistent state. It must be short."""
        with translated(self._address):
            self._connection.execute(_SNAPSHOT)
            try:
                yield
            finally:
                if not self._connection.closed:
                    self._connection.execute("rollback")

    def is_running(self) -> bool:
        """Tell whether a host writes to the journal."""
        sql = """select 1 from host where ended_at is null
            and until_at > extract(epoch from clock_timestamp()) limit 1"""
        return bool(self.read(sql))

    def close(self) -> None:
        """Close the connection."""
        close(self._connection)
