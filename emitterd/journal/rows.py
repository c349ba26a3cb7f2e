"""The data that the journal takes and returns, and its longer SQL statements."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from emitterd.codes import Code
from emitterd.datasets.findings import Finding
from emitterd.errors import DeliveryError
from emitterd.journal.store import Read, Row, Transaction
from emitterd.model import TRANSITIONS, Entry, Fingerprint, Grant, ServerState, State, Tracked, Verb
from emitterd.text import display, iso


class AdmissionResult(StrEnum):
    """What `Journal.admit` did with a file."""

    ADMITTED = "admitted"
    KNOWN = "known"
    BUSY = "busy"
    """An older version is being delivered: admit the file again afterwards."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A complete file for the journal; with `error` it is rejected at once.

    `dispose`: a rejected file is to be moved to the rejected folder.
    """

    path: bytes
    fingerprint: Fingerprint
    flow: str
    rank: int
    error: DeliveryError | None = None
    findings: tuple[Finding, ...] = ()
    dispose: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to one admission.

    `replaced_bytes`: the size of the older version that was withdrawn, if any. `held`: an operator
    holds the path, or a rebuilt journal may lack its receipt.
    """

    result: AdmissionResult
    replaced_bytes: int | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """The latest version of a path in the journal."""

    id: int
    state: State
    fingerprint: Fingerprint
    disposal: str | None
    error: str | None
    reason: str | None
    token: int

    def matches(self, seen: Fingerprint) -> bool:
        """Tell whether the file as seen needs no new entry."""
        return self.state is not State.WITHDRAWN and self.fingerprint.same_version(seen)


@dataclass(frozen=True, slots=True)
class Ended:
    """A version that was delivered or rejected, at `at`, and awaits its disposal."""

    state: State
    at: float
    size_bytes: int
    error: str | None
    reason: str | None
    findings: str | None
    sha256: bytes | None

    def rejection(self, path: bytes) -> dict[str, object]:
        """Return why it was rejected: the content of `<name>.reason.json`."""
        return {
            "path": display(path),
            "bytes": self.size_bytes,
            "rejected_at": iso(self.at),
            "error": self.error,
            "reason": self.reason,
            "hint": Code(self.error).remedy if self.error else None,
            "findings": json.loads(self.findings or "[]"),
        }


@dataclass(frozen=True, slots=True)
class Salvaged:
    """How many entries were copied, and whether the copy is complete.

    `of`: how many there were, by the journal's own count; None where that is lost.
    """

    entries: int
    of: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """The result of a rebuild.

    `backup`: the new name of the damaged file, None if there was no file.
    """

    backup: Path | None
    salvaged: Salvaged


ENTRY = """id, path, device, inode, bytes, mtime_ns, ctime_ns, attempts, error,
    "grant", ambiguous, token, host"""

_KNOWN = """id, state, device, inode, bytes, mtime_ns, ctime_ns, disposal, error,
    reason, token"""

LATEST = f"""select {_KNOWN} from entry where path = ? and forgotten_at is null
    order by id desc limit 1"""  # noqa: S608  names are ours
"""The latest version of a path, unless the operator has marked it for re-upload."""

NEWEST = f"""select {_KNOWN}, forgotten_at is null from entry where path = ?
    order by id desc limit 1"""  # noqa: S608  names are ours
"""The latest version, forgotten or not; the last column is 0 if it is forgotten."""

DROPPED_MAX = 1000

PROBE_MAX = 5000
"""A probe of another flow is looked for among so many queued entries: these are several turns."""

ASKED = 500
"""Paths in one query: enough to make its fixed cost small for each."""

_LATEST_OF_MANY = f"""select path, state, disposal, bytes, mtime_ns, ctime_ns from entry
    where path in ({", ".join("?" * ASKED)}) and forgotten_at is null
    and not exists (select 1 from entry later where later.path = entry.path
        and later.id > entry.id and later.forgotten_at is null)"""  # noqa: S608  no input

READ_FACT = "select value from fact where host = ? and name = ?"
"""The host is its name, or empty for a fact of all hosts."""

SAVE_FACT = """insert into fact (host, name, value) values (?, ?, ?)
    on conflict (host, name) do update set value = excluded.value"""

HOST_FACTS = frozenset({"destination", "answered_at", "alarms", "not_sent"})
"""The facts that each host has of its own: what only it can see."""

SUPERSEDED = """exists (select 1 from entry later
    where later.path = entry.path and later.id > entry.id)"""
"""True where a later version of the path exists."""

# The condition on `findings` is the same expression as in the index `entry_dropped`: otherwise
# SQLite would not use that partial index.
DROPPED = f"""select path, delivered_at, findings from entry
    where state = 'delivered' and instr(findings, '"level": "error"') > 0
    and forgotten_at is null and not {SUPERSEDED} order by delivered_at desc limit {DROPPED_MAX}"""  # noqa: S608  names are ours
"""Delivered files that the server will drop, for which no later version came. Uses an index."""

_CLAIM = f"""update entry set state = '{TRANSITIONS[Verb.CLAIM][1]}', changed_at = :now,
    token = token + 1
    where id = (select id from (
        select * from (select id, turn, rank, false as again, "grant" is not null as pinned,
                true as probed from entry
            where state = 'queued' order by turn, rank, id limit 1) as queued
        union all
        select * from (select id, turn, rank, true, "grant" is not null, true from entry
            where state = 'deferred' and due_at <= :now order by due_at limit 1) as due
        union all
        select * from (select id, turn, rank, true, "grant" is not null, true from entry
            where state = 'deferred' and due_at > :due_max order by due_at limit 1) as late
        union all
        select id, turn, rank, false, "grant" is not null, false from entry
            where id = (select id from (select id, flow from entry
                where :want = 'fresh-first' and state = 'queued'
                order by turn, rank, id limit {PROBE_MAX}) as near
            where %s limit 1)
        union all
        select * from (select id, turn, rank, false, true, true from entry
            where :want <> 'any' and "grant" is not null
            and state in ('queued', 'deferred')
            and (state = 'queued' or due_at <= :now or due_at > :due_max)
            order by due_at limit 1) as pinned
    ) as next order by case :want when 'pinned-first' then not pinned
                        when 'fresh-first' then pinned end,
        (:want <> 'any' and again), probed, turn, rank, id limit 1
) returning turn, flow, {ENTRY}, granted_at is null and not exists (
    select 1 from entry other where other.path = cast(entry.path as blob) and other.id <> entry.id)
"""  # noqa: S608  no input


def claim(probed: Sequence[str]) -> str:
    """Return the statement that claims the next entry; `probed` names parameters that are flows.

    Of the queued it takes the one with the lowest turn, and of the deferred one that is due; where
    `:want` is not `any`, also the entry with a grant that waited longest; where it is
    `fresh-first`, also one of a flow that no probe was of yet. A due time after `:due_max` is later
    than any backoff can set: it was written before the clock was set back, so the entry is due.
    Most paths have one version: the last column spares them three more queries.
    """
    names = ", ".join(f":{name}" for name in probed)
    return _CLAIM % (f"flow not in ({names})" if names else "true")


RECLAIM = """update entry set state = 'queued', changed_at = ?, token = token + 1,
    ambiguous = ambiguous or "grant" is not null where state = 'delivering'"""
"""The dead process may have sent the whole body if it had a grant."""

PIN = """update entry set
    earlier_keys = case when ambiguous and key <> :key
        then coalesce(earlier_keys || '
', '') || key else earlier_keys end,
    "grant" = :packed, key = :key, granted_at = :granted_at,
    confirmation = coalesce(:confirmation, confirmation)
    where id = :id and token = :token"""
"""Pin a grant. An earlier key is kept where its object may exist."""

UNCONFIRMED = """select path from entry where "grant" is not null
    and state in ('queued', 'delivering', 'deferred', 'held')
    and ambiguous and id <> ? and granted_at < ?"""
"""Entries that did not end, and of which an upload may be under way at the server.

Also a claimed one, whose worker may not have begun, and a held one: its look-up would take the next
upload of its name for its own.
"""

UNDER_WAY_ELSEWHERE = """select path from entry
    where state = 'delivering' and "grant" is not null and host <> ?"""
"""Entries with a grant that other hosts have claimed, or lives of this host that are over."""

PROCESSED = """insert into tracked (id, state, looks, looked_at, rows)
    values (?, 'processed', 1, ?, ?)"""
"""What the server made of a file that it processed before it was recorded as delivered."""

ENDED = """select state, coalesce(delivered_at, changed_at), bytes, error, reason,
    findings, sha256 from entry where id = ? and disposal = 'due'
    and state in ('delivered', 'rejected')"""
"""A version whose file is to be moved or deleted."""

PREVIOUS = """select id, bytes, sha256, state, forgotten_at, delivered_to from entry
    where path = ? and id < ? and (state = 'delivered' or ambiguous)
    order by id desc limit 1"""
"""The last earlier version of the path of which the server may have an object."""

_FORMER = f"""select count(*) from entry
    where exists (select 1 from server where url <> :url)
    and state = 'delivered' and forgotten_at is null and not {SUPERSEDED}
    and delivered_to <> coalesce((select id from server where url = :url), 0)"""  # noqa: S608  names are ours
"""How many files were delivered to another server than this one; at once where there is none."""

TRACKED_OPEN = """select count(*) from tracked where due_at is not null
    and (select delivered_to from entry where entry.id = tracked.id) = ?"""
"""How many files of a server are tracked that are not decided.

No join: SQLite would read every entry."""

TRACK = """insert into tracked (id, state, due_at) select id, 'waiting', :now from entry
    where state = 'delivered' and delivered_at > :since and delivered_to = :server
    and key is not null and not exists (select 1 from tracked where tracked.id = entry.id)
    order by delivered_at desc limit :more"""
"""Begin to track what was delivered to this server since an instant, the latest first.

Without a limit on the files that are not decided, each round would sort a whole backlog."""

_TRACKED = [field.name for field in fields(Tracked)][4:]

# A look that is due after `:longest` was planned before the clock was set back.
TRACKED_DUE = f"""select entry.id, path, key, delivered_at,
    {", ".join(f"tracked.{name}" for name in _TRACKED)}
    from tracked join entry on entry.id = tracked.id
    where (tracked.due_at <= :now or tracked.due_at > :longest) and delivered_to = :server
    order by tracked.due_at, looked_at limit :limit"""  # noqa: S608  names are ours

SAVE_TRACKED = f"""update tracked set {", ".join(f"{name} = :{name}" for name in _TRACKED)}
    where id = :id"""  # noqa: S608  names are ours

ENDINGS = f"""select id, path, {SUPERSEDED}
    from entry where id > ? and changed_at < ?
    and state in ('delivered', 'rejected', 'withdrawn') order by id limit ?"""  # noqa: S608  names are ours
"""A page of the versions that ended before an instant."""


def change_state(
    transaction: Transaction,
    verb: Verb,
    entry_id: int,
    token: int,
    assignments: str,
    values: Mapping[str, object],
) -> bool:
    """Apply a verb to an entry, in the caller's transaction.

    `assignments` sets more columns, from `values`, which has the instant `now`. False if the token
    is not that of the entry; nothing is changed then. The caller knows that the transition table
    allows the verb in the state that the entry had with this token.
    """
    # No condition on the state: on old statistics PostgreSQL would choose its index for this.
    sql = (
        f"update entry set state = '{TRANSITIONS[verb][1]}', changed_at = :now,"  # noqa: S608
        f" token = token + 1, {assignments} where id = :id and token = :token"
    )
    return transaction.execute(sql, {**values, "id": entry_id, "token": token}) == 1


def unchanged_paths(read: Read, seen: Mapping[bytes, Fingerprint]) -> set[bytes]:
    """Return the paths, of up to `ASKED`, whose latest version needs no more work.

    A version whose file is still to be moved or deleted needs that.
    """
    # One length: Python compiles the statement once. NULL equals no path.
    asked = [*seen, *[None] * (ASKED - len(seen))]
    return {
        path
        for path, state, disposal, *version in read(_LATEST_OF_MANY, asked)
        if state != State.WITHDRAWN and disposal != "due" and tuple(version) == seen[path][2:]
    }


def entries_by_state(read: Read) -> dict[State, int]:
    """Return the number of entries by state."""
    return {
        State(state): entries for state, entries in read("select state, entries from tally", ())
    }


def former_deliveries(read: Read, url: str) -> int:
    """Return how many files were delivered to another API, and not to this one since."""
    return int(read(_FORMER, {"url": url})[0][0])


def latest(read: Read, path: bytes) -> Known | None:
    """Return the latest version of a path, or None if it is unknown."""
    rows = read(LATEST, (path,))
    return known_of(rows[0]) if rows else None


def known_of(row: Row) -> Known:
    """Read a row of `LATEST`."""
    return Known(row[0], State(row[1]), Fingerprint(*row[2:7]), *row[7:])


def entry_of(row: Row) -> Entry:
    """Read a row of the columns `ENTRY`."""
    entry_id, path, *fingerprint, attempts, error, packed, ambiguous, token, host, first = row
    grant = Grant.unpack(packed) if packed is not None else None
    seen, flags = Fingerprint(*fingerprint), (bool(ambiguous), bool(first))
    return Entry(entry_id, path, seen, attempts, error, grant, *flags, token, host)


def tracked_of(row: Row) -> Tracked:
    """Read a row of `TRACKED_DUE`."""
    values = [*row]
    values[4] = ServerState(values[4])
    values[-1] = json.loads(values[-1]) if values[-1] else None
    return Tracked(*values)
