"""Admission: whether a complete file is a new version, and the state it begins in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from emitterd.codes import Code
from emitterd.failpoints import Point, reach
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.rows import (
    LATEST,
    NEWEST,
    READ_FACT,
    Admission,
    AdmissionResult,
    Admitted,
    Known,
    change_state,
    known_of,
)
from emitterd.journal.store import Transaction
from emitterd.model import LIVE, State, Verb

# Runs before the insert: a unique index allows one live version of a path.
_REPLACE = """"grant" = null, error = 'E204',
    reason = 'replaced by a later version'"""

_REFRESH = """update entry set device = ?, inode = ?, bytes = ?, mtime_ns = ?, ctime_ns = ?,
    findings = ? where id = ?"""

COLUMNS = """path, state, flow, turn, rank, device, inode, bytes, mtime_ns, ctime_ns,
    admitted_at, changed_at, error, reason, disposal, findings, ambiguous, earlier_keys"""
"""What the row of a new version has: the values of `new_row`."""

_INSERT = f"insert into entry ({COLUMNS}) values ({', '.join('?' * 18)})"  # noqa: S608  names are ours

# An attempt for the last version may have left an object under these keys. If the version was
# forgotten or has the same size, the file may have the same content: its receipt must name them.
_LOST_KEYS = """select trim(coalesce(earlier_keys, '') || '\n' || coalesce(key, ''), '\n')
    from entry where id = (select max(id) from entry where path = ?)
    and state <> 'delivered' and ambiguous and coalesce(key, earlier_keys) is not null
    and (forgotten_at is not null or bytes = ?)"""

FirstState = tuple[State, Code | None, str | None]
"""The state of a new version, its error and the reason."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Admit complete files; returns the answers in the same order.

    A file with a new path costs one query and one insert. `queue` assigns the turns.
    """

    files: Sequence[Admission]
    now: float
    queue: FairQueue = field(compare=False)
    durable: bool = True
    ends: bool = False

    def run(self, transaction: Transaction) -> list[Admitted]:
        """Make the change."""
        rebuilt_at = read_rebuilt_at(transaction)
        return [
            admit_file(transaction, self.queue, file, self.now, rebuilt_at) for file in self.files
        ]


def read_rebuilt_at(transaction: Transaction) -> float | None:
    """Return when a rebuild could not save everything; None if none did."""
    rows = transaction.query(READ_FACT, ("", "rebuilt_at"))
    return float(rows[0][0]) if rows else None


def admit_file(
    transaction: Transaction,
    queue: FairQueue,
    file: Admission,
    now: float,
    rebuilt_at: float | None,
) -> Admitted:
    """Admit a file, whatever is known of its path."""
    known, earlier_keys = _known_version(transaction, file)
    if known is not None and known.matches(file.fingerprint):
        return Admitted(AdmissionResult.KNOWN)
    if known is not None and known.state is State.DELIVERING:
        return Admitted(AdmissionResult.BUSY)
    if known is not None and _refresh(transaction, known, file):
        return Admitted(AdmissionResult.KNOWN)
    replaced_bytes = None
    if known is not None and known.state in LIVE:
        replaced_bytes = known.fingerprint.size_bytes
        change_state(transaction, Verb.WITHDRAW, known.id, known.token, _REPLACE, {"now": now})
        reach(Point.REPLACED)
    begins = _first_state(transaction, known, file, rebuilt_at)
    row = new_row(file, begins, queue, now, earlier_keys)
    transaction.execute(_INSERT, row)
    return Admitted(AdmissionResult.ADMITTED, replaced_bytes, held=begins[0] is State.HELD)


def new_row(
    file: Admission,
    begins: FirstState,
    queue: FairQueue,
    now: float,
    earlier_keys: str | None = None,
) -> tuple[object, ...]:
    """Return the values of `COLUMNS` for a new version."""
    state, error, reason = begins
    return (
        file.path,
        state,
        file.flow,
        # A rejected file is never claimed, so it takes no place in the queue.
        0 if file.error else queue.assign(file.flow),
        file.rank,
        *file.fingerprint,
        now,
        now,
        error,
        reason,
        "due" if file.dispose else None,
        _pack_findings(file),
        earlier_keys is not None,
        earlier_keys,
    )


def _refresh(transaction: Transaction, known: Known, file: Admission) -> bool:
    """Update the ctime of a waiting file whose size and mtime are the same; return whether it did.

    The entry keeps its place in the queue, its grant and its attempts. The content is read when it
    is sent.
    """
    same = file.fingerprint.same_times(known.fingerprint)
    if file.error is not None or known.state not in LIVE or not same:
        return False
    transaction.execute(_REFRESH, (*file.fingerprint, _pack_findings(file), known.id))
    return True


def _pack_findings(file: Admission) -> str | None:
    records = [finding.record() for finding in file.findings]
    return json.dumps(records) if records else None


def _known_version(transaction: Transaction, file: Admission) -> tuple[Known | None, str | None]:
    """Return the latest version, and the keys that an attempt for it may have used."""
    rows = transaction.query(NEWEST, (file.path,))
    if not rows:
        return None, None
    *row, remembered = rows[0]
    size_bytes = file.fingerprint.size_bytes
    keys = transaction.query(_LOST_KEYS, (file.path, size_bytes))
    if not remembered:
        rows = transaction.query(LATEST, (file.path,))
        row = list(rows[0]) if rows else []
    return known_of(tuple(row)) if row else None, keys[0][0] if keys else None


def _first_state(
    transaction: Transaction, known: Known | None, file: Admission, rebuilt_at: float | None
) -> FirstState:
    # A hold applies to the path. E107 applies to this content only.
    certain = known if known is None or known.error != Code.RECEIPT_LOST else None
    if file.error is None and certain is not None and _is_held(transaction, certain, file.path):
        return State.HELD, None, None
    since = "select 1 from entry where path = ? and admitted_at > ? limit 1"
    if rebuilt_at is not None and transaction.query(since, (file.path, rebuilt_at)):
        # A version of it was admitted since.
        rebuilt_at = None
    return first_state(file, rebuilt_at)


def first_state(file: Admission, rebuilt_at: float | None) -> FirstState:
    """Return the state, the error and the reason of the first version of a path.

    A rebuilt journal may have lost the receipt of a file that is older than the rebuild.
    """
    if file.error is not None:
        return State.REJECTED, file.error.code, file.error.reason
    # The ctime: `cp -p` and `unzip` give a new file an old mtime.
    if rebuilt_at is not None and file.fingerprint.ctime_ns <= rebuilt_at * 1e9:
        return State.HELD, Code.RECEIPT_LOST, Code.RECEIPT_LOST.title
    return State.QUEUED, None, None


def _is_held(transaction: Transaction, known: Known, path: bytes) -> bool:
    """Tell whether the operator holds the path, even if a rejected version followed."""
    if known.state is not State.REJECTED:
        return known.state is State.HELD
    last = "select act from action where path = ? order by id desc limit 1"
    return transaction.query(last, (path,)) == [("hold",)]
