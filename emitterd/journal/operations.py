"""Operator commands on entries: hold, release, retry, forget, mark-delivered.

Each change is recorded with time and user, in the same transaction. A command applies to the latest
version of a path. An entry that is being uploaded is not changed: its outcome is not known yet.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from emitterd.errors import JournalError
from emitterd.journal.rows import LATEST, SUPERSEDED, Known, change_state, known_of
from emitterd.model import LIVE, TRANSITIONS, Fingerprint, State, Verb
from emitterd.shutdown import Shutdown
from emitterd.text import display
from emitterd.translation.text import Text

if TYPE_CHECKING:
    # The command line reads `Operation` and must start fast: no log, no database.
    from emitterd.journal.database import Database

BATCH = 500
"""Entries in one commit: workers need not wait for a command on a whole state."""

SHOWN = 1000
"""Results that the report of a command on a whole state contains."""


class Operation(StrEnum):
    """A command of the operator on an entry."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    FORGET = "forget"
    MARK = "mark-delivered"


@dataclass(frozen=True, slots=True)
class MarkedFile:
    """A complete file of the folder, as the caller of `mark-delivered` has read it."""

    path: bytes
    fingerprint: Fingerprint
    flow: str
    rank: int
    md5: bytes
    sha256: bytes

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Read what JSON makes of it; raises `ValueError` and `TypeError` for anything else."""
        path, md5, sha256 = (os.fsencode(record[name]) for name in ("path", "md5", "sha256"))
        seen = Fingerprint(*map(int, record["fingerprint"]))
        return cls(path, seen, str(record["flow"]), int(record["rank"]), md5, sha256)


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """A command on these paths, or on every path whose latest version is in `state`.

    `mark-delivered` has `files` instead, and the emission API `server` that has them. `caller`: who
    runs the command, as it says itself: root acts as the daemon's user.
    """

    operation: Operation
    paths: tuple[bytes, ...] = ()
    state: State | None = None
    caller: str = ""
    files: tuple[MarkedFile, ...] = ()
    server: str = ""

    def pack(self) -> bytes:
        """Return it as one line of JSON."""
        return _line(self)

    @classmethod
    def unpack(cls, line: bytes) -> Self:
        """Read what `pack` wrote; raises `ValueError` for anything else."""
        try:
            message = json.loads(line)
            return cls(
                Operation(message["operation"]),
                tuple(os.fsencode(path) for path in message["paths"]),
                _state(message["state"]),
                str(message["caller"]),
                tuple(map(MarkedFile.of, message.get("files", ()))),
                str(message.get("server", "")),
            )
        # json raises RecursionError for deep nesting.
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not an operator command: {error!r}") from error


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What a command did to one path.

    `before` is None if the journal does not know the path. `refusal` says why nothing was
    changed; it is empty if the entry was changed.
    """

    path: bytes
    before: State | None
    after: State | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class OperationReport:
    """What a command did. On a whole state, `results` holds only the first ones."""

    done: int
    results: tuple[OperationResult, ...]
    trouble: str = ""
    """Why the command ended early; changes before that stay."""

    def pack(self) -> bytes:
        """Return it as one line of JSON."""
        return _line(self)

    @classmethod
    def unpack(cls, line: bytes) -> Self:
        """Read what `pack` wrote; raises `ValueError` for anything else."""
        try:
            message = json.loads(line)
            results = tuple(
                OperationResult(
                    os.fsencode(result["path"]),
                    _state(result["before"]),
                    _state(result["after"]),
                    result["refusal"],
                )
                for result in message["results"]
            )
            return cls(message["done"], results, message["trouble"])
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a report: {error!r}") from error


def _state(text: str | None) -> State | None:
    return None if text is None else State(text)


def _line(message: OperationRequest | OperationReport) -> bytes:
    # ASCII: bytes of a name that are not UTF-8 are escaped as lone surrogates.
    line = json.dumps(asdict(message), default=os.fsdecode)
    return line.encode("ascii") + b"\n"


VERBS: dict[Operation, tuple[Verb, ...]] = {
    Operation.HOLD: (Verb.HOLD,),
    Operation.RELEASE: (Verb.RELEASE,),
    Operation.RETRY: (Verb.RETRY, Verb.REOPEN),
}
"""The verbs of a command: the one that the entry's state allows is applied."""

REMEDIES: dict[tuple[Operation, State], Text] = {
    (Operation.RELEASE, State.DEFERRED): Text("not held; `retry` tries it now"),
    (Operation.RETRY, State.HELD): Text("`release` it"),
    (Operation.RETRY, State.DELIVERED): Text("`forget` it to send it again"),
    (Operation.HOLD, State.DELIVERING): Text("hold it when the attempt has ended"),
}

_OF_STATE = f"""select id, path from entry where id > ? and id <= ? and state = ?
    and forgotten_at is null and not {SUPERSEDED} order by id limit ?"""  # noqa: S608  names are ours
"""A page of the paths whose latest version is in a state."""

# The operator has decided, so E107 ends, and a file that is to be sent is not moved away.
_CHANGE = "due_at = null, disposal = null, error = nullif(error, 'E107')"

# A retried entry backs off from the beginning again.
_ASSIGNMENTS = {
    Verb.HOLD: _CHANGE,
    Verb.RELEASE: _CHANGE,
    Verb.RETRY: f"{_CHANGE}, attempts = 0",
    Verb.REOPEN: f"""{_CHANGE}, attempts = 0,
        reason = 'taken back by retry; before: ' || reason""",
}

_FORGET = """update entry set forgotten_at = ?, disposal = null
    where path = ? and forgotten_at is null"""
"""All versions of the path become receipts only: the file counts as a new one."""

_WITHDRAW_MARKED = '"grant" = null, error = null, reason = :reason'

_MARK = """insert into entry (path, state, flow, turn, rank, device, inode, bytes, mtime_ns,
    ctime_ns, admitted_at, changed_at, md5, sha256, confirmation, reason, delivered_to)
    values (?, 'delivered', ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'marked', ?,
    (select id from server where url = ?))"""

_RECORD = """insert into action (path, entry, act, state, user, at)
    values (?, ?, ?, ?, ?, ?)"""


class Operations:
    """Applies operator commands to the journal. Thread-safe."""

    def __init__(self, database: "Database", shutdown: Shutdown) -> None:
        """`shutdown.now` ends a command on a whole state between two commits."""
        self._database = database
        self._shutdown = shutdown

    def apply(
        self, request: OperationRequest, user: str, report: Callable[[OperationResult], None]
    ) -> OperationReport:
        """Carry out a command, recorded under the name of `user`.

        `report` is called with each result once it is on disk. An error of the journal ends the
        command early; the report says so, and changes before that stay.
        """
        done, trouble = 0, ""
        shown: list[OperationResult] = []
        try:
            for paths in self._batches(request):
                if self._shutdown.now.is_set():
                    trouble = Text("emitterd is stopping")
                    break
                for result in self._database.write(self._work(request, user, paths)):
                    report(result)
                    done += not result.refusal
                    if request.state is None or len(shown) < SHOWN:
                        shown.append(result)
        except JournalError as error:
            trouble = f"{error.code} {error}: {error.remedy}"
        return OperationReport(done, tuple(shown), trouble)

    @staticmethod
    def _work(
        request: OperationRequest, user: str, paths: Sequence[bytes | MarkedFile]
    ) -> Callable[[sqlite3.Connection], list[OperationResult]]:
        def work(connection: sqlite3.Connection) -> list[OperationResult]:
            return [
                _mark(connection, path, request.server, user)
                if isinstance(path, MarkedFile)
                else _change(connection, path, request.operation, user)
                for path in paths
            ]

        return work

    def _batches(self, request: OperationRequest) -> Iterator[Sequence[bytes | MarkedFile]]:
        if request.operation is Operation.MARK:
            for at in range(0, len(request.files), BATCH):
                yield request.files[at : at + BATCH]
            return
        if request.state is None:
            for at in range(0, len(request.paths), BATCH):
                yield list(request.paths[at : at + BATCH])
            return
        # Entries that enter the state meanwhile, also by this command, are not meant.
        ((last_id,),) = self._database.read("select coalesce(max(id), 0) from entry")
        after_id = 0
        while rows := self._database.read(_OF_STATE, (after_id, last_id, request.state, BATCH)):
            after_id = rows[-1][0]
            yield [path for _, path in rows]


def _change(
    connection: sqlite3.Connection, path: bytes, operation: Operation, user: str
) -> OperationResult:
    """Apply a command to one path, in the transaction of `connection`."""
    rows = connection.execute(LATEST, (path,)).fetchall()
    if not rows:
        return OperationResult(path, None, None, Text("the journal does not know it"))
    known, now = known_of(rows[0]), time.time()
    before = known.state
    if operation is Operation.RETRY:
        sql = "select moved_to from entry where id = ?"
        ((moved_to,),) = connection.execute(sql, (known.id,)).fetchall()
        if moved_to:
            place = display(bytes(moved_to))
            refusal = Text("it was moved to {path}: put it back into the folder", path=place)
            return OperationResult(path, before, before, refusal)
    if operation is Operation.FORGET:
        after = _forget(connection, known, path, now)
    else:
        after = _apply_verb(connection, known.id, operation, now)
    if after is None:
        if before is State.DELIVERING:
            refusal = Text("it is being uploaded")
        else:
            refusal = Text("it is {state}", state=Text(before))
        if remedy := REMEDIES.get((operation, before)):
            refusal = Text("{reason}: {remedy}", reason=refusal, remedy=remedy)
        return OperationResult(path, before, before, refusal)
    connection.execute(_RECORD, (path, known.id, operation, before, user, now))
    return OperationResult(path, before, after)


def _mark(
    connection: sqlite3.Connection, file: MarkedFile, server: str, user: str
) -> OperationResult:
    """Record a file as delivered to `server` without an upload: a version of its own."""
    rows = connection.execute(LATEST, (file.path,)).fetchall()
    known, now = known_of(rows[0]) if rows else None, time.time()
    before = known.state if known is not None else None
    if known is not None and before is State.DELIVERED and known.matches(file.fingerprint):
        return OperationResult(file.path, before, before, Text("it is delivered already"))
    if before is State.DELIVERING:
        return OperationResult(file.path, before, before, Text("it is being uploaded"))
    reason = f"marked as delivered by {user}, not sent"
    if known is not None and before in LIVE:
        values = {"now": now, "reason": reason}
        change_state(connection, Verb.WITHDRAW, known.id, _WITHDRAW_MARKED, values)
    connection.execute("insert or ignore into server (url) values (?)", (server,))
    seen = file.fingerprint
    row = connection.execute(
        _MARK,
        (file.path, file.flow, file.rank, *seen, now, now, file.md5, file.sha256, reason, server),
    )
    record = (file.path, row.lastrowid, Operation.MARK, before or "new", user, now)
    connection.execute(_RECORD, record)
    return OperationResult(file.path, before, State.DELIVERED)


def _apply_verb(
    connection: sqlite3.Connection, entry_id: int, operation: Operation, now: float
) -> State | None:
    for verb in VERBS[operation]:
        if change_state(connection, verb, entry_id, _ASSIGNMENTS[verb], {"now": now}):
            return TRANSITIONS[verb][1]
    return None


def _forget(connection: sqlite3.Connection, known: Known, path: bytes, now: float) -> State | None:
    """Mark the path for re-upload; None while it is being uploaded."""
    if known.state is State.DELIVERING:
        return None
    live = known.state in LIVE
    if live:
        change_state(connection, Verb.WITHDRAW, known.id, '"grant" = null', {"now": now})
    else:
        # Retention counts from the command on.
        sql = 'update entry set changed_at = ?, "grant" = null where id = ?'
        connection.execute(sql, (now, known.id))
    connection.execute(_FORGET, (now, path))
    return State.WITHDRAWN if live else known.state
