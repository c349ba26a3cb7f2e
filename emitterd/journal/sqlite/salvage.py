"""Copy what can still be read of a damaged journal into a new one.

SQLite stops at the first damaged page. The rows behind it are read from the other end, and by
halving the range that remains. Each row must still satisfy today's schema. `sqlite3 .recover` fails
on this schema, even where the file is undamaged.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from emitterd.journal.rows import SAVE_FACT, Salvaged
from emitterd.journal.sqlite.connection import read_only
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.store import Row, Transaction
from emitterd.journal.work import Execute

BATCH = 500
ROW_BYTES_MIN = 64
"""The size of the smallest possible row: limits how many rows a file can have."""

_ARRIVAL = """insert or replace into arrival (dataset, admitted_at, delivered_at, accepted_at)
    values (?, ?, ?, ?)"""

_ORPHANS = "delete from tracked where id not in (select id from entry)"


def salvage(damaged: Path, fresh: SqliteStore) -> Salvaged:
    """Copy all tables but the counts; the damaged file is only read."""
    uri = read_only(damaged)
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        # Text that is no longer UTF-8 must not hide the rest of its row.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # Lets SQLite read a file that is shorter than its header says.
        connection.execute("pragma writable_schema = on")
        _Table(connection, "action").copy(fresh)
        _Table(connection, "server").copy(fresh)
        entries = _Table(connection, "entry")
        copied = entries.copy(fresh)
        _Table(connection, "tracked").copy(fresh)
        # The entry of such a row could not be read.
        fresh.write(Execute(_ORPHANS))
        of: int | None = None
        with suppress(sqlite3.DatabaseError, TypeError):
            rows = connection.execute("select sum(entries) from tally").fetchall()
            of = int(rows[0][0])
        with suppress(sqlite3.DatabaseError):
            # The triggers saw the entries only, and retention may have deleted the last of a
            # dataset.
            arrivals = connection.execute("select * from arrival").fetchall()
            fresh.write(Execute(_ARRIVAL, arrivals))
        with suppress(sqlite3.DatabaseError):
            facts = connection.execute("select '', name, value from fact").fetchall()
            fresh.write(Execute(SAVE_FACT, facts))
    return Salvaged(copied, of, whole=entries.intact and of in {None, copied})


@dataclass(frozen=True, slots=True)
class _Insert:
    """Insert rows, but those that break the schema; returns how many were inserted."""

    sql: str
    rows: list[Row]
    durable: bool = True
    ends: bool = False

    def run(self, transaction: Transaction) -> int:
        """Make the change."""
        copied = 0
        for row in self.rows:
            # A row that breaks the schema is lost like one that is unreadable.
            with suppress(sqlite3.IntegrityError):
                copied += transaction.execute(self.sql, row)
        return copied


class _Table:
    """A table of the damaged journal; `intact`: every row was copied."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.intact = True
        self._connection = connection
        self._name = name
        self._columns: list[str] = []

    def copy(self, fresh: SqliteStore) -> int:
        """Copy every readable row; return how many."""
        known = [row[1] for row in fresh.read(f"pragma table_info({self._name})")]
        try:
            present = self._query(f"pragma table_info({self._name})")
            # An older journal lacks some columns; they get their defaults.
            self._columns = [row[1] for row in present if row[1] in known]
            self._query(f"select * from {self._name} limit 0")  # noqa: S608  names are ours
        except sqlite3.DatabaseError:
            self._columns = []
        if "id" not in self._columns:
            self.intact = False
            return 0
        names = ", ".join(f'"{column}"' for column in self._columns)
        marks = ", ".join("?" for _ in self._columns)
        sql = f"insert into {self._name} ({names}) values ({marks})"  # noqa: S608
        copied, batch = 0, []
        for row in self._rows(names):
            batch.append(row)
            if len(batch) == BATCH:
                copied += self._insert(fresh, sql, batch)
                batch = []
        return copied + self._insert(fresh, sql, batch)

    def _insert(self, fresh: SqliteStore, sql: str, rows: list[Row]) -> int:
        copied = fresh.write(_Insert(sql, rows))
        self.intact &= copied == len(rows)
        return copied

    def _rows(self, names: str) -> Iterator[Row]:
        sql = f"select {names} from {self._name} where id between ? and ? order by id"  # noqa: S608
        position = self._columns.index("id")
        # `low` and `high` move with each row that was read: what is left could not be read from
        # that end.
        ranges = [(0, self._highest_id())]
        while ranges:
            low, high = ranges.pop()
            try:
                for row in self._connection.execute(sql, (low, high)):
                    low = row[position] + 1
                    yield row
                continue
            except sqlite3.DatabaseError:
                self.intact = False
            with suppress(sqlite3.DatabaseError):
                for row in self._connection.execute(f"{sql} desc", (low, high)):
                    high = row[position] - 1
                    yield row
                continue
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]

    def _highest_id(self) -> int:
        name = self._name
        # The table's last page or the index may be damaged; each of them knows the highest id.
        for hint in ("not indexed", f"indexed by {name}_path"):
            with suppress(sqlite3.DatabaseError):
                ((highest,),) = self._query(f"select max(id) from {name} {hint}")  # noqa: S608
                return highest or 0
        highest = 0
        with suppress(sqlite3.DatabaseError):
            for (row_id,) in self._connection.execute(
                f"select id from {name} not indexed order by id"  # noqa: S608
            ):
                highest = row_id
        # Both are damaged. After the last readable row no more rows follow than fit into the file.
        pages = self._query("pragma page_count")[0][0]
        page_bytes = self._query("pragma page_size")[0][0]
        return int(highest + pages * page_bytes // ROW_BYTES_MIN)

    def _query(self, sql: str) -> list[Row]:
        return self._connection.execute(sql).fetchall()
