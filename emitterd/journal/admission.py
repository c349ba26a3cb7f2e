"""The journal's door: whether a complete file is a new version, and how it enters."""

import json
import sqlite3

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
    known_of,
)
from emitterd.model import LIVE, State


def admit(
    connection: sqlite3.Connection, turns: FairQueue, batch: list[Admission], now: float
) -> list[Admitted]:
    """Enter files, in the transaction of `connection`; the caller commits.

    A file whose path is new costs one query and one insert.
    """
    # Set by a rebuild that could not save everything.
    rows = connection.execute(READ_FACT, ("rebuilt_at",)).fetchall()
    rebuilt_at = float(rows[0][0]) if rows else None
    return [_admit(connection, turns, one, now, rebuilt_at) for one in batch]


def _admit(
    connection: sqlite3.Connection,
    turns: FairQueue,
    one: Admission,
    now: float,
    rebuilt_at: float | None,
) -> Admitted:
    known, earlier_keys = _before(connection, one.path)
    if known is not None and known.matches(one.fingerprint):
        return Admitted(AdmissionResult.KNOWN)
    if known is not None and known.state is State.DELIVERING:
        return Admitted(AdmissionResult.BUSY)
    replaced = known is not None and known.state in LIVE
    if known is not None and replaced:
        connection.execute(
            """update entry set state = 'withdrawn', changed_at = ?, "grant" = null,
               error = 'E204', reason = 'replaced by a later version'
               where id = ?""",
            (now, known.id),
        )
        reach(Point.REPLACED)
    state, doubtful = _beginning(connection, known, one, rebuilt_at)
    _insert(connection, turns, one, now, state, earlier_keys)
    if doubtful:
        connection.execute(
            "update entry set error = ?, reason = ? where path = ? and state = 'held'",
            (Code.RECEIPT_LOST, Code.RECEIPT_LOST.title, one.path),
        )
    replaced_bytes = known.fingerprint.size_bytes if known and replaced else 0
    held = state is State.HELD
    return Admitted(AdmissionResult.ADMITTED, replaced, replaced_bytes, held)


def _before(
    connection: sqlite3.Connection, path: bytes
) -> tuple[Known | None, str | None]:
    """Return the latest version, or the keys that forgotten ones may have used."""
    rows = connection.execute(NEWEST, (path,)).fetchall()
    if not rows:
        return None, None
    *row, remembered = rows[0]
    if remembered:
        return known_of(tuple(row)), None
    rows = connection.execute(LATEST, (path,)).fetchall()
    if rows:
        return known_of(rows[0]), None
    # Only where everything is forgotten can there be a forgotten attempt last.
    return None, _keys_forgotten(connection, path)


def _beginning(
    connection: sqlite3.Connection,
    known: Known | None,
    one: Admission,
    rebuilt_at: float | None,
) -> tuple[State, bool]:
    """Return the state to begin in, and whether that is for a doubt."""
    if one.trouble is not None:
        return State.REJECTED, False
    doubted = known is not None and known.error == Code.RECEIPT_LOST
    if known is not None and not doubted and _held(connection, known, one.path):
        # The operator held the file, not its bytes; a doubt is about the bytes.
        return State.HELD, False
    doubtful = _in_doubt(connection, one, rebuilt_at)
    return State.HELD if doubtful else State.QUEUED, doubtful


def _held(connection: sqlite3.Connection, known: Known, path: bytes) -> bool:
    """Tell whether the operator holds the path, be it with a broken copy between."""
    if known.state is not State.REJECTED:
        return known.state is State.HELD
    last = "select act from action where path = ? order by id desc limit 1"
    return connection.execute(last, (path,)).fetchall() == [("hold",)]


def _in_doubt(
    connection: sqlite3.Connection, one: Admission, rebuilt_at: float | None
) -> bool:
    """Tell whether a file may have been delivered by what a rebuilt journal has lost.

    It lay there before the journal was rebuilt, and the operator has not decided
    about it since.
    """
    if rebuilt_at is None or one.fingerprint.ctime_ns > rebuilt_at * 1e9:
        return False
    since = "select 1 from entry where path = ? and admitted_at > ? limit 1"
    return not connection.execute(since, (one.path, rebuilt_at)).fetchall()


def _insert(
    connection: sqlite3.Connection,
    turns: FairQueue,
    one: Admission,
    now: float,
    state: State,
    earlier_keys: str | None,
) -> None:
    trouble = one.trouble
    findings = json.dumps([finding.record() for finding in one.findings])
    connection.execute(
        """insert into entry (path, state, flow, turn, rank, device, inode, bytes,
           mtime_ns, ctime_ns, admitted_at, changed_at, error, reason, disposal,
           findings, ambiguous, earlier_keys)
           values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            one.path,
            state,
            one.flow,
            0 if trouble else turns.assign(one.flow),
            one.rank,
            *one.fingerprint,
            now,
            now,
            trouble.code if trouble else None,
            trouble.reason if trouble else None,
            "due" if one.dispose else None,
            findings if one.findings else None,
            earlier_keys is not None,
            earlier_keys,
        ),
    )


def _keys_forgotten(connection: sqlite3.Connection, path: bytes) -> str | None:
    """Return the keys that a forgotten attempt may have left an object under.

    The file is a new version now, but its receipt has to name them all the same.
    """
    rows = connection.execute(
        """select coalesce(earlier_keys || char(10), '') || key from entry
           where path = ? and id = (select max(id) from entry where path = ?)
           and state = 'withdrawn' and ambiguous and forgotten_at is not null
           and key is not null""",
        (path, path),
    ).fetchall()
    return rows[0][0] if rows else None
