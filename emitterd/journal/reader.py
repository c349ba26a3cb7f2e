"""The journal for commands that only read: `status`, `list`, `receipts`, the page.

The reader is another process or thread, whether the daemon runs or not. It reads pages by id, each
in its own transaction: a long one would keep the log from shrinking.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import merge
from pathlib import Path
from typing import Any, Self

from emitterd.journal.connection import Row, open_nothing, open_reader, translate_error
from emitterd.journal.rows import Known, former_deliveries, latest
from emitterd.journal.state_folder import is_locked, refuse_lost
from emitterd.model import State
from emitterd.text import display, iso

PAGE = 1000

_COLUMNS = """path, state, bytes, sha256, md5, etag, key, earlier_keys, attempts,
    admitted_at, due_at, delivered_at, duration_s, ambiguous, verified, error, reason,
    findings, moved_to, forgotten_at, confirmation,
    (select url from server where server.id = delivered_to) as server"""
_FIELDS = [*(column.split()[-1] for column in _COLUMNS.split(",")), "server_side"]
_COLUMNS += """, (select json_object('state', state, 'looks', looks, 'looked_at', looked_at,
    'next_look_at', due_at, 'seen_at', seen_at, 'gone_at', gone_at, 'started_at', started_at,
    'ended_at', ended_at, 'rows', json(rows)) from tracked where tracked.id = entry.id)"""


class JournalReader:
    """The journal, opened for reading."""

    def __init__(self, path: Path, *, absent: bool = False) -> None:
        """Open the journal. Raises `JournalError` if that fails.

        `absent`: a missing file counts as an empty journal.
        """
        self.path = path
        missing = absent and not path.exists()
        if missing:
            refuse_lost(path)
        self._connection = open_nothing() if missing else open_reader(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def running(self) -> bool:
        """Tell whether a daemon, or a command that writes, holds the journal."""
        return is_locked(self.path)

    def entries(self, state: State | None = None) -> Iterator[dict[str, Any]]:
        """Return the entries in the order of admission, as in `list --json`."""
        where = "and state = ?" if state is not None else ""
        parameters = [state.value] if state is not None else []
        sql = f"""select id, {_COLUMNS} from entry where id > ? {where}
            order by id limit {PAGE}"""  # noqa: S608
        return self._pages(sql, (0,), parameters)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one consistent state within the block, which must be short."""
        self.read("begin")
        try:
            yield
        finally:
            self.read("rollback")

    def latest(self, path: bytes) -> Known | None:
        """Return the latest version of the path, or None if it is unknown."""
        return latest(self.read, path)

    def versions(self, path: bytes) -> list[dict[str, Any]]:
        """Return all versions of a path, the latest first."""
        sql = f"select {_COLUMNS} from entry where path = ? order by id desc"  # noqa: S608
        return [_record(row) for row in self.read(sql, (path,))]

    def actions(self, path: bytes) -> list[dict[str, Any]]:
        """Return what operators did to a path, the latest first."""
        rows = self.read(
            "select act, state, user, at from action where path = ? order by id desc", (path,)
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

    def receipts(self, since: float) -> Iterator[dict[str, Any]]:
        """Return the receipts of files delivered after `since`, the oldest first.

        Those that an operator has marked are among them, at the time of the command. `since`:
        seconds since the epoch.
        """
        delivered = self._receipts("state = 'delivered'", "delivered_at", since)
        marked = self._receipts("confirmation = 'marked'", "admitted_at", since)
        return merge(delivered, marked, key=lambda row: row.get("delivered_at", row["admitted_at"]))

    def _receipts(self, condition: str, at: str, since: float) -> Iterator[dict[str, Any]]:
        # The id decides between files of one instant: a page neither repeats nor skips one.
        sql = f"""select {at}, id, {_COLUMNS} from entry
            where {condition} and ({at}, id) > (?, ?)
            order by {at}, id limit {PAGE}"""  # noqa: S608  names are ours
        return self._pages(sql, (since, 0))

    def _pages(
        self, sql: str, after: Row, parameters: Sequence[object] = ()
    ) -> Iterator[dict[str, Any]]:
        while True:
            rows = self.read(sql, (*after, *parameters))
            yield from (_record(row[len(after) :]) for row in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1][: len(after)]

    def former_deliveries(self, url: str) -> int:
        """Return how many files were delivered to another API, and not to this one since."""
        return former_deliveries(self.read, url)

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call.

        Raises `JournalError`.
        """
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate_error(error, self.path) from error


def _record(row: Row) -> dict[str, Any]:
    record = dict(zip(_FIELDS, row, strict=True))
    # An operator's word is no delivery.
    delivered = record["delivered_at"] is not None
    record["path"] = display(record["path"])
    for digest in ("sha256", "md5"):
        record[digest] = record[digest].hex() if record[digest] else None
    for instant in ("admitted_at", "due_at", "delivered_at", "forgotten_at"):
        record[instant] = iso(record[instant])
    if record["moved_to"] is not None:
        record["moved_to"] = display(record["moved_to"])
    if record["findings"] is not None:
        record["findings"] = json.loads(record["findings"])
    if record["server_side"] is not None:
        record["server_side"] = {
            name: iso(value) if name.endswith("_at") else value
            for name, value in json.loads(record["server_side"]).items()
            if value is not None
        }
    # The journal counts failed attempts only; a delivery is one more.
    record["attempts"] += delivered
    record["ambiguous"] = bool(record["ambiguous"])
    record["verified"] = bool(record["verified"]) if delivered else None
    if record["earlier_keys"]:
        record["earlier_keys"] = record["earlier_keys"].split("\n")
    return {name: value for name, value in record.items() if value is not None}
