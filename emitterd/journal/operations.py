"""Operator commands on entries: hold, release, retry, forget, mark-delivered.

Each change is recorded with time and user, in the same transaction. A command applies to the latest
version of a path. An entry that is being uploaded is not changed: its outcome is not known yet.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from emitterd.errors import JournalError
from emitterd.journal.rows import LATEST, SUPERSEDED, Known, change_state, known_of
from emitterd.journal.store import Store, Transaction
from emitterd.model import LIVE, TRANSITIONS, Fingerprint, State, Verb
from emitterd.shutdown import Shutdown
from emitterd.text import display
from emitterd.translation.text import Text

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
    (select id from server where url = ?)) returning id"""

_RECORD = """insert into action (path, entry, act, state, "user", at)
    values (?, ?, ?, ?, ?, ?)"""


@dataclass(frozen=True, slots=True)
class Operate:
    """Apply a command to some paths, recorded under the name of `user`."""

    operation: Operation
    paths: Sequence[bytes | MarkedFile]
    server: str
    user: str
    now: float
    durable: bool = True
    ends: bool = False

    def run(self, transaction: Transaction) -> list[OperationResult]:
        """Make the change."""
        return [
            _mark(transaction, self, path)
            if isinstance(path, MarkedFile)
            else _change(transaction, self, path)
            for path in self.paths
        ]


class Operations:
    """Applies operator commands to the journal. Thread-safe."""

    def __init__(self, store: Store, shutdown: Shutdown) -> None:
        """`shutdown.now` ends a command on a whole state between two commits."""
        self._store = store
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
                operate = Operate(
                    request.operation, paths, request.server, user, self._store.clock.now()
                )
                for result in self._store.write(operate):
                    report(result)
                    done += not result.refusal
                    if request.state is None or len(shown) < SHOWN:
                        shown.append(result)
        except JournalError as error:
            trouble = f"{error.code} {error}: {error.remedy}"
        return OperationReport(done, tuple(shown), trouble)

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
        ((last_id,),) = self._store.read("select coalesce(max(id), 0) from entry")
        after_id = 0
        while rows := self._store.read(_OF_STATE, (after_id, last_id, request.state, BATCH)):
            after_id = rows[-1][0]
            yield [path for _, path in rows]


def _change(transaction: Transaction, work: Operate, path: bytes) -> OperationResult:
    """Apply a command to one path."""
    rows = transaction.query(LATEST, (path,))
    if not rows:
        return OperationResult(path, None, None, Text("the journal does not know it"))
    known, operation = known_of(rows[0]), work.operation
    before = known.state
    if operation is Operation.RETRY:
        ((moved_to,),) = transaction.query("select moved_to from entry where id = ?", (known.id,))
        if moved_to:
            place = display(bytes(moved_to))
            refusal = Text("it was moved to {path}: put it back into the folder", path=place)
            return OperationResult(path, before, before, refusal)
    if operation is Operation.FORGET:
        after = _forget(transaction, known, path, work.now)
    else:
        after = _apply_verb(transaction, known, operation, work.now)
    if after is None:
        if before is State.DELIVERING:
            refusal = Text("it is being uploaded")
        else:
            refusal = Text("it is {state}", state=Text(before))
        if remedy := REMEDIES.get((operation, before)):
            refusal = Text("{reason}: {remedy}", reason=refusal, remedy=remedy)
        return OperationResult(path, before, before, refusal)
    transaction.execute(_RECORD, (path, known.id, operation, before, work.user, work.now))
    return OperationResult(path, before, after)


def _mark(transaction: Transaction, work: Operate, file: MarkedFile) -> OperationResult:
    """Record a file as delivered to a server without an upload: a version of its own."""
    rows = transaction.query(LATEST, (file.path,))
    known, now = known_of(rows[0]) if rows else None, work.now
    before = known.state if known is not None else None
    if known is not None and before is State.DELIVERED and known.matches(file.fingerprint):
        return OperationResult(file.path, before, before, Text("it is delivered already"))
    if before is State.DELIVERING:
        return OperationResult(file.path, before, before, Text("it is being uploaded"))
    reason = f"marked as delivered by {work.user}, not sent"
    if known is not None and before in LIVE:
        values = {"now": now, "reason": reason}
        change_state(transaction, Verb.WITHDRAW, known.id, known.token, _WITHDRAW_MARKED, values)
    url = (work.server,)
    transaction.execute("insert into server (url) values (?) on conflict do nothing", url)
    seen, hashes = file.fingerprint, (file.md5, file.sha256)
    row = (file.path, file.flow, file.rank, *seen, now, now, *hashes, reason, work.server)
    ((entry_id,),) = transaction.query(_MARK, row)
    record = (file.path, entry_id, Operation.MARK, before or "new", work.user, now)
    transaction.execute(_RECORD, record)
    return OperationResult(file.path, before, State.DELIVERED)


def _apply_verb(
    transaction: Transaction, known: Known, operation: Operation, now: float
) -> State | None:
    for verb in VERBS[operation]:
        sources, target = TRANSITIONS[verb]
        if known.state in sources:
            values = {"now": now}
            change_state(transaction, verb, known.id, known.token, _ASSIGNMENTS[verb], values)
            return target
    return None


def _forget(transaction: Transaction, known: Known, path: bytes, now: float) -> State | None:
    """Mark the path for re-upload; None while it is being uploaded."""
    if known.state is State.DELIVERING:
        return None
    live = known.state in LIVE
    if live:
        no_grant, values = '"grant" = null', {"now": now}
        change_state(transaction, Verb.WITHDRAW, known.id, known.token, no_grant, values)
    else:
        # Retention counts from the command on.
        sql = 'update entry set changed_at = ?, "grant" = null where id = ?'
        transaction.execute(sql, (now, known.id))
    transaction.execute(_FORGET, (now, path))
    return State.WITHDRAWN if live else known.state
