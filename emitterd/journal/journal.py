"""Every durable change of state: one method a verb.

A method returns when its change is on disk, so what follows (a byte sent, a file
moved, a line logged) never runs ahead of the record. Crashes are argued in
docs/design.md, "Crash table". Admissions, claims and the operator's acts begin
something, and wait while the disk is full; all else ends it, and is `final`.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from emitterd.codes import Code
from emitterd.errors import RETRY_AFTER_CAP_S, DeliveryError, IllegalTransition
from emitterd.failpoints import Point, reach
from emitterd.journal import rows as statements
from emitterd.journal.admission import admit
from emitterd.journal.database import Database
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.rows import Admission, Admitted, Ended, Known
from emitterd.model import (
    TRANSITIONS,
    ClaimOrder,
    Confirmation,
    Entry,
    Fingerprint,
    Grant,
    Receipt,
    State,
    Verb,
)

# Not to what there was at the claim: an attempt may have been taken back meanwhile.
_ADD = {"attempts": "attempts + "}

_Asked = Mapping[str, object]


class _Pinned(Exception):
    """What was to be claimed has a grant: the claim must be durable."""


class Journal:
    """The queue, the pinned grants and the receipts. Thread-safe."""

    def __init__(self, path: Path, *, backoff_max_s: float = 600.0) -> None:
        """Open the journal and take back what a dead process had claimed.

        Raises what `Database` raises.
        """
        self.database = Database(path)
        """What `Hand` writes to beside."""
        self._turns = FairQueue()
        self.adopt(backoff_max_s)
        self.reclaimed = self.database.write(self._reclaim, final=True)
        reach(Point.RECLAIMED)
        least = "select coalesce(min(turn), 0) from entry where state = 'queued'"
        last = "select flow, max(turn) from entry where state = 'queued' group by flow"
        self._turns.resume(self.database.read(least)[0][0], self.database.read(last))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal and release its lock."""
        self.database.close()

    def adopt(self, backoff_max_s: float) -> None:
        """Take due times that lie further off than this for a clock set back."""
        self._horizon_s = backoff_max_s + RETRY_AFTER_CAP_S + 60.0

    def latest(self, path: bytes) -> Known | None:
        """Return the latest version of the path, or None where it is unknown."""
        rows = self.database.read(statements.LATEST, (path,))
        return statements.known_of(rows[0]) if rows else None

    def admit(self, batch: list[Admission]) -> list[Admitted]:
        """Enter complete files, in one commit; answers in the order of the batch."""
        now = time.time()
        return self.database.write(
            lambda connection: admit(connection, self._turns, batch, now)
        )

    def claim(self, now: float, want: ClaimOrder = ClaimOrder.ANY) -> Entry | None:
        """Take the next entry that is due, or None.

        A power cut may undo the claim of an entry without a grant: nothing is sent
        before its grant is pinned, and that makes the claim durable too.
        """
        asked = {"now": now, "horizon": now + self._horizon_s, "want": want}
        try:
            return self.database.write(partial(self._claim, asked), durable=False)
        except _Pinned:
            return self.database.write(partial(self._claim, asked, pinned=True))

    def next_due_at(self) -> float | None:
        """Return when the next deferred entry is due, or None where none is."""
        rows = self.database.read(
            "select min(due_at) from entry where state = 'deferred'"
        )
        return rows[0][0] if rows else None

    def pin(
        self, entry: Entry, grant: Grant, confirmation: Confirmation | None = None
    ) -> None:
        """Pin the grant: from now on each attempt goes to its key.

        The key of a former grant is kept beside it where its object may exist;
        `confirmation` is what the bucket showed under it.
        """

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                statements.PIN,
                {
                    "id": entry.id,
                    "packed": grant.pack(),
                    "key": grant.key,
                    "granted_at": grant.granted_at,
                    "confirmation": confirmation,
                },
            ).rowcount
            if changed != 1:
                raise IllegalTransition(f"pin: entry {entry.id} is not delivering")

        self.database.write(work, final=True)

    def granted_at(self, path: bytes) -> float:
        """Return when the last grant for the path was given; 0.0 where none was."""
        rows = self.database.read(
            "select max(granted_at) from entry where path = ?", (path,)
        )
        return rows[0][0] or 0.0

    def has_key(self, entry: Entry, key: str) -> bool:
        """Tell whether the key was given for another version of the entry's path."""
        others = "select 1 from entry where path = ? and key = ? and id <> ?"
        return bool(self.database.read(others, (entry.path, key, entry.id)))

    def deliver(
        self, entry: Entry, receipt: Receipt, *, duration_s: float, dispose: bool
    ) -> None:
        """Record the delivery; the grant's secret is erased."""
        now = time.time()
        found = {"confirmation": Confirmation.FOUND} if receipt.confirmed else {}
        self._move(
            Verb.DELIVER,
            entry.id,
            {
                "key": receipt.key,
                "etag": receipt.etag,
                "sha256": receipt.sha256,
                "md5": receipt.md5,
                "verified": receipt.verified,
                **found,
                "delivered_at": now,
                "duration_s": duration_s,
                "disposal": "due" if dispose else None,
                "grant": None,
                "due_at": None,
                "error": None,
                "reason": None,
            },
        )
        reach(Point.DELIVERED)

    def ended(self, entry_id: int) -> Ended | None:
        """Return an ended version for its disposal; None where it is forgotten."""
        rows = self.database.read(statements.ENDED, (entry_id,))
        return Ended(State(rows[0][0]), *rows[0][1:]) if rows else None

    def disposals(
        self, after_id: int, limit: int
    ) -> list[tuple[int, bytes, Fingerprint]]:
        """Return (id, path, fingerprint) of what is to be disposed of. Pages by id."""
        rows = self.database.read(
            """select id, path, device, inode, bytes, mtime_ns, ctime_ns from entry
               where disposal = 'due' and id > ? order by id limit ?""",
            (after_id, limit),
        )
        return [(row[0], row[1], Fingerprint(*row[2:])) for row in rows]

    def dispose(self, entry_id: int, moved_to: bytes | None) -> None:
        """Record that the ended version's file was moved or deleted, or is gone."""
        sql = "update entry set disposal = 'done', moved_to = ? where id = ?"
        self._put(sql, moved_to, entry_id)

    def defer(
        self, entry: Entry, trouble: DeliveryError, due_at: float, *, charge: bool
    ) -> None:
        """Put off the next attempt; `charge` counts this one."""
        self._move(
            Verb.DEFER,
            entry.id,
            {
                "due_at": due_at,
                "error": trouble.code.value,
                "reason": trouble.reason,
                "attempts": charge,
                "ambiguous": entry.ambiguous or trouble.ambiguous,
            },
        )
        reach(Point.DEFERRED)

    def drop_grant(self, entry: Entry) -> None:
        """Unpin a grant that was refused; its key stays on record.

        It is kept as a spent one where its object may exist, which is looked for.
        """

        def work(connection: sqlite3.Connection) -> None:
            ambiguous = 'select "grant" from entry where id = ? and ambiguous'
            rows = connection.execute(ambiguous, (entry.id,)).fetchall()
            packed = rows[0][0] if rows else None
            spent = Grant.unpack(packed).spent().pack() if packed else None
            connection.execute(
                'update entry set "grant" = ? where id = ?', (spent, entry.id)
            )

        self.database.write(work, final=True)
        reach(Point.GRANT_DROPPED)

    def interrupt(self, entry: Entry, *, ambiguous: bool = False) -> None:
        """Give an entry back to the queue at no cost: the daemon is stopping."""
        self._move(
            Verb.INTERRUPT, entry.id, {"ambiguous": entry.ambiguous or ambiguous}
        )
        reach(Point.INTERRUPTED)

    def reject(
        self, entry: Entry, trouble: DeliveryError, *, dispose: bool = False
    ) -> None:
        """Record that this version can never be accepted; `dispose`: it is moved."""
        due = "due" if dispose else None
        self._end(Verb.REJECT, entry, trouble, disposal=due)
        reach(Point.REJECTED)

    def withdraw(self, entry: Entry, trouble: DeliveryError) -> None:
        """Record that this version went or changed before it was sent."""
        self._end(Verb.WITHDRAW, entry, trouble)
        reach(Point.WITHDRAWN)

    def previous(self, entry: Entry) -> tuple[int, int, bytes] | None:
        """Return (id, size in bytes, SHA-256) of what the server has of the path.

        None where it has nothing, or where a later version may have reached it, were
        it a forgotten one: then even known content is sent.
        """
        rows = self.database.read(
            """select id, bytes, sha256, state, forgotten_at from entry
               where path = ? and id < ? and (state = 'delivered' or ambiguous)
               order by id desc limit 1""",
            (entry.path, entry.id),
        )
        if not rows or rows[0][3:] != (State.DELIVERED, None):
            return None
        return rows[0][0], rows[0][1], rows[0][2]

    def unchanged(self, entry: Entry, previous_id: int, *, dispose: bool) -> None:
        """Fold an entry of known content into the version that was delivered.

        `dispose`: the file that brought it is to be disposed of like the first.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                """update entry set device = ?, inode = ?, bytes = ?, mtime_ns = ?,
                   ctime_ns = ?, disposal = iif(?, 'due', disposal) where id = ?""",
                (*entry.fingerprint, dispose, previous_id),
            )
            reach(Point.UNCHANGED_HALF)
            connection.execute("delete from entry where id = ?", (entry.id,))
            # It is the latest version again, whatever came between.
            ids = (entry.id, previous_id)
            connection.execute("update entry set id = ? where id = ?", ids)
            connection.execute("update action set entry = ? where entry = ?", ids)

        self.database.write(work, final=True)

    def note(self, name: str, value: object) -> None:
        """Keep a fact in place of the former: JSON under a name."""
        self._put(statements.SAVE_FACT, name, json.dumps(value))

    def noted(self, name: str) -> object:
        """Return a fact, or None where there is none."""
        rows = self.database.read(statements.READ_FACT, (name,))
        return json.loads(rows[0][0]) if rows else None

    def counts(self) -> dict[State, int]:
        """Return the number of entries by state."""
        rows = self.database.read("select state, entries from tally")
        return {State(state): entries for state, entries in rows}

    def rejections(self, since: float) -> list[tuple[bytes, str, str]]:
        """Return (path, error, reason) of what was rejected at an instant or later."""
        rejected = "select path, error, reason from entry where state = 'rejected'"
        return self.database.read(f"{rejected} and changed_at >= ?", (since,))

    def _claim(
        self, asked: _Asked, connection: sqlite3.Connection, *, pinned: bool = False
    ) -> Entry | None:
        rows = connection.execute(statements.CLAIM, asked).fetchall()
        if not rows:
            return None
        entry = statements.entry_of(rows[0][1:])
        if entry.grant is not None and not pinned:
            raise _Pinned
        self._turns.served(rows[0][0])
        return entry

    def _put(self, sql: str, *parameters: object) -> None:
        self.database.write(lambda one: one.execute(sql, parameters), final=True)

    def _end(
        self, verb: Verb, entry: Entry, trouble: DeliveryError, **more: str | None
    ) -> None:
        columns = {"error": trouble.code.value, "reason": trouble.reason, "grant": None}
        self._move(verb, entry.id, columns | more)

    def _move(self, verb: Verb, entry_id: int, columns: Mapping[str, object]) -> None:
        """Apply a verb; raises `IllegalTransition` from any state it is not for."""
        sources, target = TRANSITIONS[verb]
        values = {**columns, "state": target, "changed_at": time.time()}
        sets = ", ".join(f'"{name}" = {_ADD.get(name, "")}:{name}' for name in values)
        states = ", ".join(f"'{state}'" for state in sorted(sources))
        sql = f"update entry set {sets} where id = :id and state in ({states})"  # noqa: S608  names are ours

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(sql, {**values, "id": entry_id}).rowcount != 1:
                raise IllegalTransition(f"{verb}: entry {entry_id} is not {states}")

        self.database.write(work, final=True)

    def _reclaim(self, connection: sqlite3.Connection) -> int:
        # Whether the dead process had sent the whole body is not known; with a
        # pinned grant it may have.
        return connection.execute(
            """update entry set state = 'queued', changed_at = ?,
               ambiguous = ambiguous or "grant" is not null
               where state = 'delivering'""",
            (time.time(),),
        ).rowcount


# What waits in the journal, made due sooner.


class Waiting:
    """The entries that are neither ended nor held. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forgive(self, entry_ids: Collection[int]) -> None:
        """Take back an attempt each, once for every time that it is named.

        They were charged before it was known whose trouble it was. Raises
        `JournalFull`.
        """
        self._database.write(
            lambda connection: connection.executemany(
                """update entry set attempts = attempts - 1
                   where id = ? and attempts > 0""",
                [(one,) for one in entry_ids],
            )
        )

    def hasten(self, codes: Collection[Code]) -> None:
        """Make due at once what was deferred for one of these reasons.

        Raises `JournalFull`.
        """
        now = time.time()
        self._database.write(
            lambda connection: connection.executemany(
                """update entry set due_at = min(due_at, ?)
                   where state = 'deferred' and error = ?""",
                [(now, code.value) for code in codes],
            )
        )


# What has ended, and is to be forgotten one day: the journal's past.


class History:
    """The versions and the deeds that are history. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def endings(
        self, before: float, after_id: int, limit: int
    ) -> list[tuple[int, bytes, bool]]:
        """Return (id, path, superseded) of versions that ended before an instant.

        `superseded`: a later version of the path is on record. Pages by id.
        """
        return self._database.read(statements.ENDINGS, (after_id, before, limit))

    def prune(self, entry_ids: list[int]) -> None:
        """Forget ended versions. Raises `JournalFull`."""
        sql, ids = "delete from entry where id = ?", [(one,) for one in entry_ids]
        self._database.write(lambda connection: connection.executemany(sql, ids))

    def prune_actions(self, before: float) -> None:
        """Forget what the operator did before an instant."""
        sql = "delete from action where at < ?"
        self._database.write(lambda one: one.execute(sql, (before,)), final=True)
