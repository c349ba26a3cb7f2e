"""The changes of the journal as data: one frozen dataclass for each.

`run` makes the change by portable SQL. A store may run many of one kind as one statement instead:
the fields say all that it needs. `entry_id` and `token` name a claim: a change that finds another
token raises `IllegalTransition`. `now` is an instant of the store's clock. Two more are in
`admission` and `operations`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from emitterd.errors import IllegalTransition
from emitterd.failpoints import Point, reach
from emitterd.journal import rows as statements
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.rows import change_state
from emitterd.journal.store import Parameters, Transaction
from emitterd.model import (
    ClaimOrder,
    Confirmation,
    Entry,
    Fingerprint,
    Grant,
    Receipt,
    Tracked,
    Verb,
)

# Columns that each verb sets in addition to the state.

_DELIVER = """key = :key, etag = :etag, sha256 = :sha256, md5 = :md5,
    verified = :verified, ambiguous = ambiguous or :ambiguous,
    confirmation = coalesce(:confirmation, confirmation),
    delivered_at = :now, delivered_to = :server, duration_s = :duration_s, disposal = :disposal,
    "grant" = null, due_at = null, error = null, reason = null"""
"""The receipt. The grant is deleted, because it contains a secret."""

_DEFER = """due_at = :due_at, error = :error, reason = :reason,
    attempts = attempts + :charge, ambiguous = :ambiguous"""
"""Adds to the attempts of now, not of the claim: some may be uncharged meanwhile."""

_REJECT = 'error = :error, reason = :reason, "grant" = null, disposal = :disposal'

_WITHDRAW = 'error = :error, reason = :reason, "grant" = null'

_WITHDRAW_WAITING = """update entry set state = 'withdrawn', changed_at = :now, token = token + 1,
    error = null, reason = :reason, "grant" = null
    where state in ('queued', 'deferred') returning path, bytes"""

_MERGE = """update entry set device = ?, inode = ?, bytes = ?, mtime_ns = ?, ctime_ns = ?,
    disposal = coalesce(?, disposal) where id = ?"""
"""Gives the delivered version the fingerprint of a file with the same content."""


class _Beginning:
    """Work that begins something: it is refused while the disk is full."""

    __slots__ = ()
    durable = True
    ends = False


class _Ending:
    """Work that records the end of something."""

    __slots__ = ()
    durable = True
    ends = True


class HasGrant(Exception):
    """The entry to be claimed has a grant: its claim must be durable."""


@dataclass(frozen=True, slots=True)
class Execute:
    """One statement, run once for each of `rows`; returns how many rows one run has changed."""

    sql: str
    rows: Sequence[Parameters] = ((),)
    ends: bool = False
    durable: bool = True

    def run(self, transaction: Transaction) -> int:
        """Make the change."""
        if len(self.rows) == 1:
            return transaction.execute(self.sql, self.rows[0])
        transaction.execute_many(self.sql, self.rows)
        return 0


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim the next entry that is due. Raises `HasGrant` unless `durable` where it has a grant.

    `due_max`: a due time after this instant was set before a clock was set back. `queue` holds what
    is not stored: the current turn, and the flows that probes were of.
    """

    now: float
    due_max: float
    want: ClaimOrder
    queue: FairQueue = field(compare=False)
    durable: bool = False
    ends: bool = False

    def run(self, transaction: Transaction) -> Entry | None:
        """Make the change."""
        fresh_first = self.want is ClaimOrder.FRESH_FIRST
        probed = self.queue.probed if fresh_first else []
        names = {f"probed_{number}": flow for number, flow in enumerate(probed)}
        values = {"now": self.now, "due_max": self.due_max, "want": self.want.value, **names}
        rows = transaction.query(statements.claim([*names]), values)
        if not rows:
            return None
        turn, flow, *row = rows[0]
        entry = statements.entry_of(tuple(row))
        if entry.grant is not None and not self.durable:
            raise HasGrant
        self.queue.served(turn)
        if fresh_first:
            self.queue.probe(flow)
        return entry


@dataclass(frozen=True, slots=True)
class Pin(_Ending):
    """Pin a grant, packed, to a claimed entry."""

    entry: Entry
    packed: bytes
    key: str
    granted_at: float
    confirmation: Confirmation | None = None

    @property
    def entry_id(self) -> int:
        """The id of the entry."""
        return self.entry.id

    @property
    def token(self) -> int:
        """The number of its claim."""
        return self.entry.token

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        values = {
            "id": self.entry_id,
            "token": self.token,
            "packed": self.packed,
            "key": self.key,
            "granted_at": self.granted_at,
            "confirmation": self.confirmation,
        }
        if transaction.execute(statements.PIN, values) != 1:
            raise _lost("pin", self.entry_id)


@dataclass(frozen=True, slots=True)
class DropGrant(_Ending):
    """Unpin the grant of a claimed entry; its key stays.

    An ended grant replaces it where its object may exist.
    """

    entry_id: int
    token: int

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        ambiguous = 'select "grant" from entry where id = ? and ambiguous'
        rows = transaction.query(ambiguous, (self.entry_id,))
        packed = rows[0][0] if rows else None
        ended = Grant.unpack(packed).ended().pack() if packed else None
        sql = 'update entry set "grant" = ? where id = ? and token = ?'
        if transaction.execute(sql, (ended, self.entry_id, self.token)) != 1:
            raise _lost("drop-grant", self.entry_id)


@dataclass(frozen=True, slots=True)
class Deliver(_Ending):
    """Record the delivery of a claimed entry. `server`: the id of the API in the table `server`."""

    entry: Entry
    now: float
    receipt: Receipt
    server: int | None
    duration_s: float
    dispose: bool

    @property
    def entry_id(self) -> int:
        """The id of the entry."""
        return self.entry.id

    @property
    def token(self) -> int:
        """The number of its claim."""
        return self.entry.token

    def values(self) -> dict[str, object]:
        """Return the values of the columns, by name."""
        receipt = self.receipt
        return {
            "now": self.now,
            "key": receipt.key,
            "etag": receipt.etag or None,
            "sha256": receipt.sha256,
            "md5": receipt.md5,
            "verified": receipt.verified,
            "ambiguous": receipt.ambiguous,
            "confirmation": Confirmation.FOUND if receipt.confirmed else None,
            "server": self.server,
            "duration_s": self.duration_s,
            "disposal": "due" if self.dispose else None,
        }

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        _change(transaction, Verb.DELIVER, self, _DELIVER, self.values())
        if (rows := self.receipt.rows) is not None:
            processed = (self.entry_id, self.now, json.dumps(rows))
            transaction.execute(statements.PROCESSED, processed)


@dataclass(frozen=True, slots=True)
class Defer(_Ending):
    """Set the time of the next attempt; `charge` counts this one as failed."""

    entry_id: int
    token: int
    now: float
    due_at: float
    error: str
    reason: str
    charge: bool
    ambiguous: bool

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        values = {
            "now": self.now,
            "due_at": self.due_at,
            "error": self.error,
            "reason": self.reason,
            "charge": int(self.charge),
            "ambiguous": self.ambiguous,
        }
        _change(transaction, Verb.DEFER, self, _DEFER, values)


@dataclass(frozen=True, slots=True)
class Interrupt(_Ending):
    """Put a claimed entry back into the queue; the attempt is not counted."""

    entry_id: int
    token: int
    now: float
    ambiguous: bool

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        values = {"now": self.now, "ambiguous": self.ambiguous}
        _change(transaction, Verb.INTERRUPT, self, "ambiguous = :ambiguous", values)


@dataclass(frozen=True, slots=True)
class Reject(_Ending):
    """Record that the server can never accept this version."""

    entry_id: int
    token: int
    now: float
    error: str
    reason: str
    dispose: bool

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        values = {
            "now": self.now,
            "error": self.error,
            "reason": self.reason,
            "disposal": "due" if self.dispose else None,
        }
        _change(transaction, Verb.REJECT, self, _REJECT, values)


@dataclass(frozen=True, slots=True)
class Withdraw(_Ending):
    """Record that a file was removed or changed before it was sent."""

    entry_id: int
    token: int
    now: float
    error: str
    reason: str

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        values = {"now": self.now, "error": self.error, "reason": self.reason}
        _change(transaction, Verb.WITHDRAW, self, _WITHDRAW, values)


@dataclass(frozen=True, slots=True)
class WithdrawWaiting(_Ending):
    """Withdraw every entry that waits; return (path, bytes) of each."""

    now: float
    reason: str

    def run(self, transaction: Transaction) -> list[tuple[bytes, int]]:
        """Make the change."""
        values = {"now": self.now, "reason": self.reason}
        return [(path, size) for path, size in transaction.query(_WITHDRAW_WAITING, values)]


@dataclass(frozen=True, slots=True)
class Reclaim(_Ending):
    """Put back into the queue what a dead process had claimed; return how many entries."""

    now: float

    def run(self, transaction: Transaction) -> int:
        """Make the change."""
        return transaction.execute(statements.RECLAIM, (self.now,))


@dataclass(frozen=True, slots=True)
class Merge(_Ending):
    """Merge a claimed entry of known content into the version that was delivered.

    `dispose`: move or delete its file like that of the delivered version.
    """

    entry_id: int
    token: int
    previous_id: int
    fingerprint: Fingerprint
    dispose: bool

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        disposal = "due" if self.dispose else None
        transaction.execute(_MERGE, (*self.fingerprint, disposal, self.previous_id))
        reach(Point.UNCHANGED_HALF)
        claimed = "delete from entry where id = ? and token = ?"
        if transaction.execute(claimed, (self.entry_id, self.token)) != 1:
            raise _lost("merge", self.entry_id)
        # It becomes the latest version again: others may be between the two.
        ids = (self.entry_id, self.previous_id)
        transaction.execute("update entry set id = ? where id = ?", ids)
        transaction.execute("update action set entry = ? where entry = ?", ids)


@dataclass(frozen=True, slots=True)
class Track:
    """Begin to track what was delivered to a server since an instant.

    `open_max`: of so many files the next look may be due at a time.
    """

    since: float
    now: float
    server: int | None
    open_max: int
    durable: bool = False
    ends: bool = False

    def run(self, transaction: Transaction) -> None:
        """Make the change."""
        ((tracked,),) = transaction.query(statements.TRACKED_OPEN, (self.server,))
        if tracked < self.open_max:
            values = {
                "since": self.since,
                "now": self.now,
                "server": self.server,
                "more": self.open_max - tracked,
            }
            transaction.execute(statements.TRACK, values)


@dataclass(frozen=True, slots=True)
class SaveTracked(_Beginning):
    """Save what was seen of delivered files; return those that are still in the journal."""

    files: Sequence[Tracked]

    def run(self, transaction: Transaction) -> list[Tracked]:
        """Make the change."""
        return [file for file in self.files if _save_tracked(transaction, file)]


def _save_tracked(transaction: Transaction, file: Tracked) -> bool:
    values = asdict(file)
    values["rows"] = json.dumps(file.rows) if file.rows is not None else None
    return transaction.execute(statements.SAVE_TRACKED, values) == 1


def _change(
    transaction: Transaction,
    verb: Verb,
    work: Deliver | Defer | Interrupt | Reject | Withdraw,
    assignments: str,
    values: Mapping[str, object],
) -> None:
    if not change_state(transaction, verb, work.entry_id, work.token, assignments, values):
        raise _lost(verb, work.entry_id)


def _lost(change: str, entry_id: int) -> IllegalTransition:
    return IllegalTransition(f"{change}: entry {entry_id} is in another state")
