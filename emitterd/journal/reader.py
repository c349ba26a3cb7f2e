"""The journal for commands that only read: `status`, `list`, `receipts`, the page.

The reader is another process or thread, whether the daemon runs or not. It reads pages by id, each
in its own transaction: a long one would keep the log from shrinking.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from emitterd.journal.opening import JournalLocation, located, open_reader
from emitterd.journal.rows import Known, former_deliveries, latest
from emitterd.journal.store import Read, Row
from emitterd.model import State
from emitterd.text import display, iso

PAGE = 1000

RECORD_COLUMNS = """path, state, bytes, sha256, md5, etag, key, earlier_keys, attempts,
    admitted_at, changed_at, due_at, delivered_at, duration_s, ambiguous, verified, error, reason,
    findings, moved_to, forgotten_at, confirmation,
    (select url from server where server.id = delivered_to) as server"""
_FIELDS = [*(column.split()[-1] for column in RECORD_COLUMNS.split(",")), "host", "server_side"]
_DELIVERED_AT, _ADMITTED_AT = _FIELDS.index("delivered_at"), _FIELDS.index("admitted_at")
RECORD_COLUMNS += """, (select name from host where host.id = entry.host),
    (select cast(json_object('state', state, 'looks', looks, 'looked_at', looked_at,
    'next_look_at', due_at, 'seen_at', seen_at, 'gone_at', gone_at,
    'started_at', started_at, 'ended_at', ended_at, 'rows', json(rows)) as text)
    from tracked where tracked.id = entry.id)"""


LAST_CHANGE = "coalesce(delivered_at, changed_at)"
"""When the state of an entry last changed; of a delivered file, when it was delivered."""

SORT_KEYS = {
    "path": "path",
    "state": "state",
    "size": "bytes",
    "time": LAST_CHANGE,
    "attempts": "attempts",
    "error": "coalesce(error, '')",
}
"""By what entries can be sorted."""


_SUMMARY_COLUMNS = """path, state, bytes,
    case when state = 'deferred' and due_at is not null then due_at
        when state in ('queued', 'delivering') then admitted_at
        else coalesce(delivered_at, changed_at) end,
    error, reason, findings, forgotten_at is not null"""


class EntrySummary(NamedTuple):
    """What a table shows of an entry.

    `at`: the time that matters in its state, in seconds since the epoch. `findings`: JSON.
    """

    path: bytes
    state: str
    size_bytes: int
    at: float
    error: str | None
    reason: str | None
    findings: str | None
    forgotten: bool


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """Which entries to read, and in which order.

    `since` and `until`: the state changed at or after, and before this time, in seconds since the
    epoch. `matches` takes a path. `sort`: one of `SORT_KEYS`, `-` before it for descending; empty
    for the usual order.
    """

    state: State | None = None
    since: float | None = None
    until: float | None = None
    matches: Callable[[bytes], bool] | None = None
    sort: str = ""
    limit: int | None = None

    def where(self, at: str = LAST_CHANGE) -> tuple[str, list[object]]:
        """Return the condition in SQL, with its parameters; `at` is the column of the time."""
        # Not a parameter: SQLite would not use the partial index of the state.
        state = f"state = '{self.state}'" if self.state else "true"
        limits = {f"{at} >= ?": self.since, f"{at} < ?": self.until}
        used = {limit: value for limit, value in limits.items() if value is not None}
        return " and ".join([state, *used]), [*used.values()]


class JournalReader:
    """The journal, opened for reading."""

    def __init__(self, place: JournalLocation | Path, *, absent: bool = False) -> None:
        """Open the journal. Raises `JournalError` if that fails.

        `place`: a path alone is that of a file. `absent`: a missing file counts as an empty
        journal.
        """
        self.location = located(place)
        self._store = open_reader(place, absent=absent)
        self.now = self._store.clock.now
        self.read = self._store.read
        self.snapshot = self._store.snapshot
        self.running = self._store.is_running
        self.now = self._store.clock.now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def entries(self, query: EntryQuery = EntryQuery()) -> Iterator[dict[str, Any]]:
        """Return entries as in `list --json`, usually in the order of admission."""
        return map(record_of, self._entry_rows(query, RECORD_COLUMNS))

    def summaries(self, query: EntryQuery = EntryQuery()) -> Iterator["EntrySummary"]:
        """Return what a table shows of the entries, in a third of the time of `entries`."""
        return map(EntrySummary._make, self._entry_rows(query, _SUMMARY_COLUMNS))

    def _entry_rows(self, query: EntryQuery, columns: str) -> Iterator[Row]:
        where, parameters = query.where()
        sql = f"""select id, {columns} from entry where id > ? and {where}
            order by id limit {PAGE}"""  # noqa: S608
        if query.sort:
            return _chosen(query, self._sorted(query, columns))
        return _chosen(query, self._pages(sql, (0,), parameters))

    def latest(self, path: bytes) -> Known | None:
        """Return the latest version of the path, or None if it is unknown."""
        return latest(self.read, path)

    def versions(self, path: bytes) -> list[dict[str, Any]]:
        """Return all versions of a path, the latest first."""
        sql = f"select {RECORD_COLUMNS} from entry where path = ? order by id desc"  # noqa: S608
        return [record_of(row) for row in self.read(sql, (path,))]

    def named(self, name: bytes) -> list[bytes]:
        """Return the paths with this name in any folder."""
        tail = b"/" + name
        sql = "select distinct path from entry where path = ? or substr(path, length(path) - ?) = ?"
        return [path for (path,) in self.read(sql, (name, len(tail) - 1, tail))]

    def latest_paths(self, limit: int) -> list[bytes]:
        """Return the paths of the latest entries."""
        rows = self.read("select path from entry order by id desc limit ?", (limit,))
        return [path for (path,) in rows]

    def actions(self, path: bytes) -> list[dict[str, Any]]:
        """Return what operators did to a path, the latest first."""
        rows = self.read(
            'select act, state, "user", at from action where path = ? order by id desc', (path,)
        )
        return [
            {"act": act, "state": state, "user": user, "at": iso(at)}
            for act, state, user, at in rows
        ]

    def ahead(self, path: bytes) -> int:
        """Return how many entries are before that of the path in the queue."""
        rows = self.read(
            """select count(*) from entry other join entry mine
               on mine.path = ? and mine.state = 'queued'
               where other.state = 'queued'
               and (other.turn, other.rank, other.id)
                   < (mine.turn, mine.rank, mine.id)""",
            (path,),
        )
        return int(rows[0][0])

    def receipts(self, query: EntryQuery = EntryQuery()) -> Iterator[dict[str, Any]]:
        """Return the receipts of delivered files, usually the oldest first.

        Those that an operator has marked are among them, at the time of the command.
        """
        query = replace(query, state=State.DELIVERED)
        streams = (
            self._receipt_rows(query, "delivered_at", "true"),
            self._receipt_rows(query, "admitted_at", "confirmation = 'marked'"),
        )
        if query.sort:
            return map(record_of, _chosen(query, self._sorted(query, RECORD_COLUMNS)))
        rows = merge(*streams, key=lambda row: row[_DELIVERED_AT] or row[_ADMITTED_AT])
        return map(record_of, _chosen(query, rows))

    def _receipt_rows(self, query: EntryQuery, at: str, condition: str) -> Iterator[Row]:
        where, parameters = query.where(at)
        # The id decides between files of one instant: a page neither repeats nor skips one.
        sql = f"""select {at}, id, {RECORD_COLUMNS} from entry
            where {condition} and ({at}, id) > (?, ?) and {where}
            order by {at}, id limit {PAGE}"""  # noqa: S608  names are ours
        return self._pages(sql, (query.since or 0.0, 0), parameters)

    def _pages(self, sql: str, after: Row, parameters: Sequence[object]) -> Iterator[Row]:
        while True:
            rows = self.read(sql, (*after, *parameters))
            yield from (row[len(after) :] for row in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1][: len(after)]

    def _sorted(self, query: EntryQuery, columns: str) -> Iterator[Row]:
        """Yield the rows in the order of the query.

        Only the ids are sorted at once: eight bytes each.
        """
        where, parameters = query.where()
        direction = "desc" if query.sort.startswith("-") else "asc"
        key = SORT_KEYS[query.sort.removeprefix("-")]
        sql = f"select id from entry where {where} order by {key} {direction}, id {direction}"  # noqa: S608
        ids = array("q", (row[0] for row in self._store.stream(sql, parameters)))
        for start in range(0, len(ids), PAGE):
            yield from rows_of(self.read, ids[start : start + PAGE], columns)

    def former_deliveries(self, url: str) -> int:
        """Return how many files were delivered to another API, and not to this one since."""
        return former_deliveries(self.read, url)


def rows_of(read: Read, ids: Sequence[int], columns: str) -> Iterator[Row]:
    """Yield the rows of these entries, in this order. An entry may have been removed since."""
    asked = ", ".join("?" * len(ids))
    sql = f"select id, {columns} from entry where id in ({asked})"  # noqa: S608
    rows = {row[0]: row[1:] for row in read(sql, ids)}
    yield from (rows[id_] for id_ in ids if id_ in rows)


def _chosen(query: EntryQuery, rows: Iterator[Row]) -> Iterator[Row]:
    """Return the rows whose path the query names, up to its limit. The path is the first column."""
    if matches := query.matches:
        rows = (row for row in rows if matches(row[0]))
    return islice(rows, query.limit)


def record_of(row: Row) -> dict[str, Any]:
    """Return a row of `RECORD_COLUMNS` as in `list --json`."""
    record: dict[str, Any] = {
        name: _READ[name](value) if name in _READ else value
        for name, value in zip(_FIELDS, row, strict=True)
        if value is not None
    }
    if "delivered_at" in record:
        # The journal counts failed attempts only; a delivery is one more.
        record["attempts"] += 1
    else:
        # An operator's word is no delivery.
        record.pop("verified", None)
    return record


def _server_side(text: str) -> dict[str, Any]:
    return {
        name: iso(value) if name.endswith("_at") else value
        for name, value in json.loads(text).items()
        if value is not None
    }


_READ: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("path", "moved_to"), display),
    **dict.fromkeys(("sha256", "md5"), bytes.hex),
    **dict.fromkeys(("admitted_at", "changed_at", "due_at", "delivered_at", "forgotten_at"), iso),
    **dict.fromkeys(("ambiguous", "verified"), bool),
    "earlier_keys": lambda keys: keys.split("\n") if keys else keys,
    "findings": json.loads,
    "server_side": _server_side,
}
"""What turns the value of a column into that of the record. A million rows need it to be quick."""
