"""A batch of work in one transaction: of each frequent kind all as one statement.

What remains runs one at a time, each in a savepoint.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from emitterd.errors import HostFenced, IllegalTransition, KeyTaken
from emitterd.journal import rows as statements
from emitterd.journal.admission import Admit
from emitterd.journal.group_commit import Batch, PendingWrite
from emitterd.journal.operations import Operate
from emitterd.journal.postgresql.admitting import (
    admit_together,
    lock_turns,
    save_turns,
    was_admitted,
)
from emitterd.journal.postgresql.connection import DatabaseAddress, is_lost, translate_error
from emitterd.journal.postgresql.listening import CHANNEL
from emitterd.journal.postgresql.transaction import PostgresqlTransaction
from emitterd.journal.store import Row
from emitterd.journal.work import Claim, Deliver, Pin
from emitterd.model import ClaimOrder, Entry

FLOOR_S = 1.0
"""How long an entry may wait that came back into the queue below the floor."""

SPARE = 64
"""Candidates beside the wanted ones: other hosts may be claiming the first ones."""

# Of each source more than are wanted; of these the first ones that no other host has locked. The
# state is looked at again after a lock was waited for. The token holds the time: after a failover
# that has lost the last claims, no new one gets the token of a lost one.
_CLAIM = f"""with candidates as materialized (
    select * from (select id, turn, rank, false as again, "grant" is not null as pinned,
            true as probed from entry
        where state = 'queued' and turn >= %(floor)s order by turn, rank, id limit %(many)s) queued
    union all
    select * from (select id, turn, rank, true, "grant" is not null, true from entry
        where state = 'deferred' and due_at <= %(now)s order by due_at limit %(many)s) due
    union all
    select * from (select id, turn, rank, true, "grant" is not null, true from entry
        where state = 'deferred' and due_at > %(due_max)s order by due_at limit %(many)s) late
    {{more}}
), next as (
    select entry.id as chosen from candidates join entry using (id)
    where entry.state in ('queued', 'deferred')
    order by {{order}} candidates.turn, candidates.rank, candidates.id
    limit %(wanted)s for update of entry skip locked
)
update entry set state = 'delivering', changed_at = %(now)s, host = %(host)s,
    token = greatest(token + 1, (extract(epoch from clock_timestamp()) * 1e6)::bigint)
    from next where id = chosen
    returning turn, flow, rank, {statements.ENTRY}, granted_at is null and not exists (
        select 1 from entry other where other.path = entry.path and other.id <> entry.id)
"""  # noqa: S608  no input

_PINNED = """union all
    select * from (select id, turn, rank, false, true, true from entry
        where "grant" is not null and state in ('queued', 'deferred')
        and (state = 'queued' or due_at <= %(now)s or due_at > %(due_max)s)
        order by due_at nulls first limit %(many)s) waited"""

_FRESH = f"""union all
    select * from (select id, turn, rank, false, "grant" is not null, false
        from (select id, turn, rank, "grant", flow from entry
            where state = 'queued' order by turn, rank, id limit {statements.PROBE_MAX}) first_ones
        where flow <> all (%(probed)s::text[]) limit %(many)s) fresh"""  # noqa: S608  no input

_CLAIMS: dict[ClaimOrder, str] = {
    ClaimOrder.ANY: _CLAIM.format(more="", order=""),
    ClaimOrder.PINNED_FIRST: _CLAIM.format(more=_PINNED, order="not pinned, again, probed,"),
    ClaimOrder.FRESH_FIRST: _CLAIM.format(
        more=f"{_PINNED} {_FRESH}", order="pinned, again, probed,"
    ),
}

_PIN = """update entry set
    earlier_keys = case when ambiguous and entry.key <> new.key
        then coalesce(earlier_keys || chr(10), '') || entry.key else earlier_keys end,
    "grant" = packed, key = new.key, granted_at = new.granted_at,
    confirmation = coalesce(new.confirmation, entry.confirmation)
    from unnest(%s::bigint[], %s::bigint[], %s::bytea[], %s::text[], %s::double precision[],
        %s::text[]) as new (id, token, packed, key, granted_at, confirmation)
    where entry.id = new.id and entry.token = new.token returning entry.id"""

_DELIVERED: Final = {
    "now": "double precision",
    "key": "text",
    "etag": "text",
    "sha256": "bytea",
    "md5": "bytea",
    "verified": "boolean",
    "ambiguous": "boolean",
    "confirmation": "text",
    "server": "bigint",
    "duration_s": "double precision",
    "disposal": "text",
}
"""The values of a delivery, and their types."""

_DELIVER = f"""update entry set state = 'delivered', changed_at = now, token = entry.token + 1,
    key = new.key, etag = new.etag, sha256 = new.sha256, md5 = new.md5, verified = new.verified,
    ambiguous = entry.ambiguous or new.ambiguous,
    confirmation = coalesce(new.confirmation, entry.confirmation),
    delivered_at = now, delivered_to = server, duration_s = new.duration_s,
    disposal = new.disposal, "grant" = null, due_at = null, error = null, reason = null
    from unnest(%s::bigint[], %s::bigint[], {", ".join(f"%s::{kind}[]" for kind in _DELIVERED.values())})
        as new (id, token, {", ".join(_DELIVERED)})
    where entry.id = new.id and entry.token = new.token returning entry.id"""  # noqa: S608, E501  names are ours

C = TypeVar("C", Pin, Deliver)
W = TypeVar("W", Admit, Claim, Pin, Deliver)


class SharedQueue:
    """What a host remembers of the queue that all hosts claim from."""

    def __init__(self) -> None:
        self.current = 0
        """The last turn that this host claimed from."""
        self._floor = 0
        self._floor_until = 0.0

    @property
    def floor(self) -> int:
        """The turn to look from: below it are only entries that came back into the queue.

        Dead rows of earlier turns stay while any session has a transaction open, and each claim
        would read all of them.
        """
        return self._floor if time.monotonic() < self._floor_until else 0

    def look_from(self, turn: int) -> None:
        """Look from this turn next: the last look found nothing below it."""
        if self.floor == 0:
            self._floor_until = time.monotonic() + FLOOR_S
        self._floor = turn

    def lower(self) -> None:
        """Look from the beginning next: an entry may have come back into the queue."""
        self._floor_until = 0.0


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs a batch in the transaction that its connection is in."""

    transaction: PostgresqlTransaction
    host: int
    queue: SharedQueue
    address: DatabaseAddress

    def run(self, batch: Batch) -> bool:
        """Run all work, and set its results and errors; return whether the commit must be durable.

        Raises what concerns the whole batch.
        """
        for pending in batch:
            pending.result = pending.error = None
            if not isinstance(pending.work, Admit | Claim | Pin | Deliver):
                self._run_one(pending)
                self.queue.lower()
        self._admit(_of_kind(batch, Admit))
        if any(isinstance(pending.work, Operate) for pending in batch):
            # Sent at the commit, to workers of other hosts that wait for work.
            self.transaction.connection.execute(f"notify {CHANNEL}")
        self._run_together(_of_kind(batch, Pin), self._pin)
        self._run_together(_of_kind(batch, Deliver), self._deliver)
        is_durable = any(pending.work.durable for pending in batch)
        # With a grant, bytes follow at once.
        return self._claim(_of_kind(batch, Claim)) or is_durable

    def _run_one(
        self, pending: PendingWrite[Any], run: Callable[[PostgresqlTransaction], Any] | None = None
    ) -> None:
        connection, work = self.transaction.connection, pending.work
        connection.execute("savepoint work")
        try:
            pending.result = (run or work.run)(self.transaction)
        except psycopg.Error as error:
            if _concerns_all(error):
                raise
            connection.execute("rollback to work")
            pending.error = self._refused(error)
        except BaseException as error:  # noqa: BLE001  its caller gets it
            connection.execute("rollback to work")
            pending.error = error
            if isinstance(error, IllegalTransition):
                pending.error = self._lost(work, error)
        # Also after `rollback to`, which keeps the savepoint open.
        connection.execute("release work")

    def _refused(self, error: psycopg.Error) -> Exception:
        if isinstance(error, psycopg.IntegrityError):
            if error.diag.constraint_name == "entry_key":
                return KeyTaken("another host was given the same object key")
            return error
        return translate_error(error, self.address)

    def _run_together(
        self, group: list[tuple[PendingWrite[Any], C]], statement: Callable[[list[C]], list[Row]]
    ) -> None:
        """Run work of one kind as one statement, which returns the ids of the entries changed."""
        if not group:
            return
        connection = self.transaction.connection
        connection.execute("savepoint work")
        try:
            changed = {row[0] for row in statement([work for _, work in group])}
        except (psycopg.IntegrityError, psycopg.DataError):
            # One of them is refused. Which one shows only when each runs alone.
            connection.execute("rollback to work")
            for pending, _ in group:
                self._run_one(pending)
            return
        connection.execute("release work")
        for pending, work in group:
            pending.result = None
            if work.entry_id not in changed:
                verb = type(work).__name__.lower()
                lost = IllegalTransition(f"{verb}: entry {work.entry_id} is in another state")
                pending.error = self._lost(work, lost)

    def _lost(self, work: Any, error: IllegalTransition) -> Exception:  # noqa: ANN401  any work
        """Return why the token of a claim is not that of its entry any more."""
        entry_id = getattr(work, "entry_id", None)
        rows = self.transaction.query("select host from entry where id = ?", (entry_id,))
        if rows == [(self.host,)]:
            return error
        return HostFenced(f"another host has taken over entry {entry_id}")

    def _admit(self, group: list[tuple[PendingWrite[Any], Admit]]) -> None:
        if not group:
            return
        turns = lock_turns(self.transaction, [work for _, work in group], self.queue.current)
        for pending, work in group:
            self._run_one(pending, partial(admit_together, admit=work, queue=turns))
        if any(was_admitted(pending.result) for pending, _ in group):
            save_turns(self.transaction, turns)

    def _pin(self, pins: list[Pin]) -> list[Row]:
        names = ("entry_id", "token", "packed", "key", "granted_at", "confirmation")
        columns = [[*map(attrgetter(name), pins)] for name in names]
        return self.transaction.connection.execute(_PIN, columns).fetchall()

    def _deliver(self, deliveries: list[Deliver]) -> list[Row]:
        values = [delivery.values() for delivery in deliveries]
        columns = [[row[name] for row in values] for name in _DELIVERED]
        claims = [[d.entry_id for d in deliveries], [d.token for d in deliveries]]
        changed = self.transaction.connection.execute(_DELIVER, [*claims, *columns]).fetchall()
        processed = [
            (delivery.entry_id, delivery.now, json.dumps(delivery.receipt.rows))
            for delivery in deliveries
            if delivery.receipt.rows is not None and (delivery.entry_id,) in changed
        ]
        if processed:
            self.transaction.execute_many(statements.PROCESSED, processed)
        return changed

    def _claim(self, claims: list[tuple[PendingWrite[Any], Claim]]) -> bool:
        """Claim for all of them; return whether an entry has a grant."""
        together = [claim for _, claim in claims if claim.want is ClaimOrder.ANY]
        # The entry that waited longest comes first, as if they were claimed in this order.
        rows = iter(self._claimed(together) if together else ())
        has_grant = False
        for pending, claim in claims:
            if claim.want is not ClaimOrder.ANY:
                entry = self._entry(claim, next(iter(self._claimed([claim])), None))
            else:
                entry = self._entry(claim, next(rows, None))
            pending.result = entry
            has_grant |= entry is not None and entry.grant is not None
        return has_grant

    def _entry(self, claim: Claim, row: Row | None) -> Entry | None:
        if row is None:
            return None
        turn, flow, _, *columns = row
        claim.queue.served(turn)
        if claim.want is ClaimOrder.FRESH_FIRST:
            claim.queue.probe(flow)
        return statements.entry_of(tuple(columns))

    def _claimed(self, claims: Sequence[Claim]) -> list[Row]:
        """Claim as many entries as there are claims of one order, if there are as many."""
        want, queue = claims[0].want, self.queue
        floor = queue.floor if want is ClaimOrder.ANY else 0
        values = {
            "floor": floor,
            "wanted": len(claims),
            "many": len(claims) + SPARE,
            "now": max(claim.now for claim in claims),
            "due_max": min(claim.due_max for claim in claims),
            "host": self.host,
            "probed": claims[0].queue.probed,
        }
        execute = self.transaction.connection.execute
        rows = execute(_CLAIMS[want], values).fetchall()
        if floor and len(rows) < len(claims):
            queue.lower()
            values |= {"floor": 0, "wanted": len(claims) - len(rows)}
            rows += execute(_CLAIMS[want], values).fetchall()
        rows.sort(key=lambda row: (row[0], row[2], row[3]))
        if rows:
            queue.current = max(queue.current, rows[-1][0])
            if want is ClaimOrder.ANY:
                queue.look_from(rows[-1][0])
        return rows


def _of_kind(batch: Batch, kind: type[W]) -> list[tuple[PendingWrite[Any], W]]:
    """Return the work of a kind."""
    return [(pending, pending.work) for pending in batch if isinstance(pending.work, kind)]


def _concerns_all(error: psycopg.Error) -> bool:
    """Tell whether the whole batch has failed, and not one work of it."""
    whole = errors.DeadlockDetected | errors.SerializationFailure | errors.DiskFull
    return is_lost(error) or isinstance(error, whole)
