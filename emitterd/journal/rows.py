"""What is handed to the journal at its door, and what it knows of a path."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.datasets.findings import Finding
from emitterd.errors import DeliveryError
from emitterd.journal.connection import Read, Row
from emitterd.model import (
    Entry,
    Fingerprint,
    Grant,
    State,
)
from emitterd.text import display, iso


class AdmissionResult(StrEnum):
    """What became of a file that was handed to `admit`."""

    ADMITTED = "admitted"
    KNOWN = "known"
    BUSY = "busy"
    """An older version is being delivered: hand it in again afterwards."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A complete file to be entered; with `trouble` it is rejected at the door.

    `dispose`: a rejected file is to be moved away.
    """

    path: bytes
    fingerprint: Fingerprint
    flow: str
    rank: int
    trouble: DeliveryError | None = None
    findings: tuple[Finding, ...] = ()
    dispose: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to one admission; `replaced` if an older version was withdrawn.

    `held`: it is kept back, as the operator, or a rebuild of the journal, has it.
    """

    admittance: AdmissionResult
    replaced: bool = False
    replaced_bytes: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """The latest version of a path that the journal has."""

    id: int
    state: State
    fingerprint: Fingerprint
    disposal: str | None
    error: str | None
    reason: str | None

    def matches(self, seen: Fingerprint) -> bool:
        """Tell whether the file as seen needs no new entry."""
        return self.state is not State.WITHDRAWN and self.fingerprint == seen


@dataclass(frozen=True, slots=True)
class Ended:
    """A version that ended, as its disposal needs it; `at` is when."""

    state: State
    at: float
    size_bytes: int
    error: str | None
    reason: str | None
    findings: str | None

    def explained(self, path: bytes) -> dict[str, object]:
        """Return why it was rejected, for who finds the file put aside."""
        return {
            "path": display(path),
            "bytes": self.size_bytes,
            "rejected_at": iso(self.at),
            "error": self.error,
            "reason": self.reason,
            "hint": Code(self.error).remedy if self.error else None,
            "findings": json.loads(self.findings or "[]"),
        }


# The journal's longer statements, and how the rows they return are read.

ENTRY = """id, path, device, inode, bytes, mtime_ns, ctime_ns, attempts, error,
    "grant", ambiguous"""

_KNOWN = """id, state, device, inode, bytes, mtime_ns, ctime_ns, disposal, error,
    reason"""

LATEST = f"""select {_KNOWN} from entry where path = ? and forgotten_at is null
    order by id desc limit 1"""  # noqa: S608  names are ours

NEWEST = f"""select {_KNOWN}, forgotten_at is null from entry where path = ?
    order by id desc limit 1"""  # noqa: S608  names are ours
"""The same, but one that is forgotten comes too; its last column tells."""

ASKED = 500
"""Paths a query of many: what one costs by itself is by then nothing to each."""

_LATEST_OF_MANY = f"""select path, max(id), state, disposal, device, inode, bytes,
    mtime_ns, ctime_ns from entry
    where path in ({", ".join("?" * ASKED)}) and forgotten_at is null
    group by path"""  # noqa: S608  no input

READ_FACT = "select value from fact where name = ?"
SAVE_FACT = "insert or replace into fact (name, value) values (?, ?)"

SUPERSEDED = """exists (select 1 from entry later
    where later.path = entry.path and later.id > entry.id)"""
"""Of a path that has come again since, a version is history."""

# The entry of the lowest turn among the queued, and among the deferred that are due;
# where not just any is wanted, also the pinned one that waited longest. One whose due
# time lies beyond any that backoff can give was set by a clock that has been set back
# since: it is due. Most paths have one version, and one look tells what else would take
# three; a value that RETURNING has computed is looked for in an index only by a cast.
CLAIM = f"""update entry set state = 'delivering', changed_at = :now where id = (
    select id from (
        select * from (select id, turn, rank, 0 as again, "grant" is not null as pinned
            from entry
            where state = 'queued' order by turn, rank, id limit 1)
        union all
        select * from (select id, turn, rank, 1, "grant" is not null from entry
            where state = 'deferred' and due_at <= :now order by due_at limit 1)
        union all
        select * from (select id, turn, rank, 1, "grant" is not null from entry
            where state = 'deferred' and due_at > :horizon order by due_at limit 1)
        union all
        select * from (select id, turn, rank, 0, 1 from entry
            where :want <> 'any' and "grant" is not null
            and state in ('queued', 'deferred')
            and (state = 'queued' or due_at <= :now or due_at > :horizon)
            order by due_at limit 1)
    ) where pinned or :want <> 'pinned'
    order by case :want when 'pinned-first' then not pinned
                        when 'fresh-first' then pinned end,
        (:want <> 'any' and again), turn, rank, id limit 1
) returning turn, {ENTRY}, granted_at is null and not exists (
    select 1 from entry other
    where other.path = cast(entry.path as blob) and other.id <> entry.id)
"""  # noqa: S608  no input


PIN = """update entry set
    earlier_keys = case when ambiguous and key <> :key
        then coalesce(earlier_keys || char(10), '') || key else earlier_keys end,
    "grant" = :packed, key = :key, granted_at = :granted_at,
    confirmation = coalesce(:confirmation, confirmation)
    where id = :id and state = 'delivering'"""

ENDED = """select state, coalesce(delivered_at, changed_at), bytes, error, reason,
    findings from entry where id = ? and disposal = 'due'
    and state in ('delivered', 'rejected')"""

ENDINGS = f"""select id, path, {SUPERSEDED}
    from entry where id > ? and changed_at < ?
    and state in ('delivered', 'rejected', 'withdrawn') order by id limit ?"""  # noqa: S608  names are ours


def unchanged_paths(read: Read, seen: Mapping[bytes, Fingerprint]) -> set[bytes]:
    """Return the paths, of up to `ASKED`, that need nothing more as they were seen.

    What stands of one path is what `LATEST` says of it. A version whose file is to be
    moved or deleted still needs that.
    """
    asked = [*seen, *[None] * (ASKED - len(seen))]
    return {
        path
        for path, _, state, disposal, *fingerprint in read(_LATEST_OF_MANY, asked)
        if state != State.WITHDRAWN
        and disposal != "due"
        and tuple(fingerprint) == seen[path]
    }


def known_of(row: Row) -> Known:
    """Read a row of `LATEST`."""
    return Known(row[0], State(row[1]), Fingerprint(*row[2:7]), *row[7:])


def entry_of(row: Row) -> Entry:
    """Read a row of the columns `ENTRY`."""
    return Entry(
        id=row[0],
        path=row[1],
        fingerprint=Fingerprint(*row[2:7]),
        attempts=row[7],
        error=row[8],
        grant=Grant.unpack(row[9]) if row[9] is not None else None,
        ambiguous=bool(row[10]),
        first=bool(row[11]),
    )
