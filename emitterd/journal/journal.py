"""The journal: every durable change of an entry, one method for each.

A method returns when its change is on disk. So what follows (a byte sent, a file moved, a line
logged) never runs ahead of the record. Each crash is explained in docs/design.md, "Crash table".
Admissions, claims and operator commands begin work, and are refused while the disk is full.
Everything else records the end of something: it may use the disk reserve. Instants are seconds
since the epoch.
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from emitterd.codes import Code
from emitterd.errors import RETRY_AFTER_CAP_S, DeliveryError, IllegalTransition, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal import rows as statements
from emitterd.journal.admission import admit
from emitterd.journal.database import Database
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.rows import Admission, AdmissionResult, Admitted, Ended, Known, change_state
from emitterd.model import (
    ClaimOrder,
    Confirmation,
    Entry,
    Fingerprint,
    Grant,
    Receipt,
    State,
    Tracked,
    Verb,
)

# Columns that each verb sets in addition to the state.

_RECLAIM = 'ambiguous = ambiguous or "grant" is not null'
"""The dead process may have sent the whole body if it had a grant."""

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

_MERGE = """update entry set device = ?, inode = ?, bytes = ?, mtime_ns = ?,
    ctime_ns = ?, disposal = iif(?, 'due', disposal) where id = ?"""
"""Gives the delivered version the fingerprint of a file with the same content."""

_DISPOSALS = """select id, path, device, inode, bytes, mtime_ns, ctime_ns from entry
    where disposal = 'due' and id > ? order by id limit ?"""
"""A page of the files that are to be moved or deleted."""

# `attempts > 0`: the operator's `retry` may have set them to 0 meanwhile.
_UNCHARGE = """update entry set attempts = attempts - 1
    where id = ? and attempts > 0"""

# `min`: an entry that is due already keeps its place in the order.
_MAKE_DUE = """update entry set due_at = min(due_at, ?)
    where state = 'deferred' and error = ?"""


UNCHANGED = "unchanged"
"""The outcome of known content: it leaves no row, and no state has this name."""


class _HasGrant(Exception):
    """The entry to be claimed has a grant: the claim must be durable."""


class Journal(Database):
    """The queue, the pinned grants and the receipts. Thread-safe.

    As a `Database` it also runs the statements of `Operations` and of readers. Each method raises
    what `read` or `write` raises. A change that the entry's state does not allow raises
    `IllegalTransition`.
    """

    def __init__(self, path: Path, *, backoff_max_s: float = 600.0) -> None:
        """Open the journal and requeue what a dead process had claimed.

        Raises what `Database` raises.
        """
        super().__init__(path)
        self.on_ended: Callable[[str, bytes, int], None] = lambda *_: None
        """Called after a version has ended: outcome, path, bytes. Must not raise."""
        self.on_attempt: Callable[[str, float | None], None] = lambda *_: None
        """Called after an attempt: the code of its error, or empty, and its seconds."""
        self.on_processed: Callable[[bytes, int], None] = lambda *_: None
        """Called after a delivery that the server has processed: the path, and how many of its rows
        the server dropped. Must not raise."""
        self.on_findings: Callable[[set[Code]], None] = lambda _: None
        """Called after the admission of a file with findings: their codes. Must not raise."""
        self._fair_queue = FairQueue()
        self._probed: list[str] = []
        """The flows that probes were of: a folder of bad files must not give every probe."""
        self._server: int | None = None
        self.apply_settings(backoff_max_s)
        self.reclaimed = self.write(_reclaim, may_use_reserve=True)
        reach(Point.RECLAIMED)
        if self.restored:
            # While the disk is full, only `status` lacks this fact.
            with suppress(JournalFull):
                self.save_fact("restored_at", time.time())
        least = "select coalesce(min(turn), 0) from entry where state = 'queued'"
        last = "select flow, max(turn) from entry where state = 'queued' group by flow"
        self._fair_queue.resume(self.read(least)[0][0], self.read(last))

    def apply_settings(self, backoff_max_s: float) -> None:
        """Treat due times further off than this as set before a clock was set back."""
        self._due_in_max_s = backoff_max_s + RETRY_AFTER_CAP_S + 60.0

    def deliver_to(self, url: str) -> int:
        """Record all deliveries from now on as made to this API.

        Return how many files were delivered to another one, and not to this one since.
        """
        mine = "select id from server where url = ?"
        if not self.read(mine, (url,)):
            self._execute("insert into server (url) values (?)", url)
        self._server = self.read(mine, (url,))[0][0]
        return statements.former_deliveries(self.read, url)

    # Admission and claim.

    def latest(self, path: bytes) -> Known | None:
        """Return the latest version of the path, or None if it is unknown."""
        return statements.latest(self.read, path)

    def admit(self, batch: list[Admission]) -> list[Admitted]:
        """Admit complete files in one commit; return the answers in the same order."""
        now = time.time()
        answers = self.write(lambda connection: admit(connection, self._fair_queue, batch, now))
        for admission, answer in zip(batch, answers, strict=True):
            if answer.result is not AdmissionResult.ADMITTED:
                continue
            if answer.replaced_bytes is not None:
                self.on_ended(State.WITHDRAWN, admission.path, answer.replaced_bytes)
            if admission.error is not None:
                size_bytes = admission.fingerprint.size_bytes
                self.on_ended(State.REJECTED, admission.path, size_bytes)
            if admission.findings:
                self.on_findings({finding.code for finding in admission.findings})
        return answers

    def claim(self, now: float, want: ClaimOrder = ClaimOrder.ANY) -> Entry | None:
        """Claim the next entry that is due, or return None.

        A power cut may undo the claim of an entry without a grant: nothing is sent before its grant
        is pinned, and that commit makes the claim durable too.
        """
        order = {"now": now, "due_max": now + self._due_in_max_s, "want": want}
        try:
            return self.write(partial(self._claim, order), durable=False)
        # The first claim was rolled back. With a grant, bytes follow at once: this claim must be
        # synced.
        except _HasGrant:
            return self.write(partial(self._claim, order, pinned=True))

    def _claim(
        self, order: Mapping[str, object], connection: sqlite3.Connection, *, pinned: bool = False
    ) -> Entry | None:
        probed = json.dumps(self._probed)
        rows = connection.execute(statements.CLAIM, {**order, "probed": probed}).fetchall()
        if not rows:
            return None
        turn, flow, *row = rows[0]
        entry = statements.entry_of(tuple(row))
        if entry.grant is not None and not pinned:
            raise _HasGrant
        self._fair_queue.served(turn)
        if order["want"] is ClaimOrder.FRESH_FIRST:
            # After the last flow the first one follows again.
            self._probed = [flow] if flow in self._probed else [*self._probed, flow]
        return entry

    def next_due_at(self) -> float | None:
        """Return when the next deferred entry is due, or None if none is."""
        rows = self.read("select min(due_at) from entry where state = 'deferred'")
        return rows[0][0] if rows else None

    def previous(self, entry: Entry) -> tuple[int, int, bytes] | None:
        """Return (id, size in bytes, SHA-256) of the version that the server has.

        None if it has none, or may have received a later one. After `forget` even known content
        is sent, and so is content that only another server has.
        """
        rows = self.read(statements.PREVIOUS, (entry.path, entry.id))
        if not rows or rows[0][3:] != (State.DELIVERED, None, self._server):
            return None
        return rows[0][0], rows[0][1], rows[0][2]

    def merge_unchanged(self, entry: Entry, previous_id: int, *, dispose: bool) -> None:
        """Merge an entry of known content into the version that was delivered.

        `dispose`: move or delete its file like that of the delivered version.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_MERGE, (*entry.fingerprint, dispose, previous_id))
            reach(Point.UNCHANGED_HALF)
            connection.execute("delete from entry where id = ?", (entry.id,))
            # It becomes the latest version again: others may be between the two.
            ids = (entry.id, previous_id)
            connection.execute("update entry set id = ? where id = ?", ids)
            connection.execute("update action set entry = ? where entry = ?", ids)

        self.write(work, may_use_reserve=True)
        self._ended(UNCHANGED, entry)

    # The grant.

    def unconfirmed(self, entry: Entry) -> list[bytes]:
        """Return the paths of other entries whose upload may be under way.

        Their grants are pinned and their answers were lost. If that is true of this entry too,
        only entries with an earlier grant count: two must not wait for each other.
        """
        own = entry.grant if entry.ambiguous else None
        before = own.granted_at if own is not None else math.inf
        return [row[0] for row in self.read(statements.UNCONFIRMED, (entry.id, before))]

    def granted_at(self, path: bytes) -> float:
        """Return when the last grant for the path was given; 0.0 if none was."""
        rows = self.read("select max(granted_at) from entry where path = ?", (path,))
        return rows[0][0] or 0.0

    def has_key(self, entry: Entry, key: str) -> bool:
        """Tell whether the key was given for another version of the entry's path."""
        others = "select 1 from entry where path = ? and key = ? and id <> ?"
        return bool(self.read(others, (entry.path, key, entry.id)))

    def pin(self, entry: Entry, grant: Grant, confirmation: Confirmation | None = None) -> None:
        """Pin the grant: each attempt from now on uploads to its key.

        `confirmation` is what the bucket showed under the key of the former grant.
        """

        def work(connection: sqlite3.Connection) -> None:
            values = {
                "id": entry.id,
                "packed": grant.pack(),
                "key": grant.key,
                "granted_at": grant.granted_at,
                "confirmation": confirmation,
            }
            if connection.execute(statements.PIN, values).rowcount != 1:
                raise IllegalTransition(f"pin: entry {entry.id} is not delivering")

        self.write(work, may_use_reserve=True)

    def drop_grant(self, entry: Entry) -> None:
        """Unpin a grant that was refused; its key stays on record.

        An ended grant replaces it where its object may exist: emitterd looks for it.
        """

        def work(connection: sqlite3.Connection) -> None:
            ambiguous = 'select "grant" from entry where id = ? and ambiguous'
            rows = connection.execute(ambiguous, (entry.id,)).fetchall()
            packed = rows[0][0] if rows else None
            ended = Grant.unpack(packed).ended().pack() if packed else None
            connection.execute('update entry set "grant" = ? where id = ?', (ended, entry.id))

        self.write(work, may_use_reserve=True)
        reach(Point.GRANT_DROPPED)

    # The end of an attempt.

    def deliver(self, entry: Entry, receipt: Receipt, *, duration_s: float, dispose: bool) -> None:
        """Record the delivery, and erase the grant's secret.

        Also record what the server made of the file, if the receipt says so.
        """
        values = asdict(receipt) | {
            "etag": receipt.etag or None,
            "confirmation": Confirmation.FOUND if receipt.confirmed else None,
            "server": self._server,
            "duration_s": duration_s,
            "disposal": "due" if dispose else None,
        }
        rows = values.pop("rows")
        processed = (entry.id, time.time(), json.dumps(rows)) if rows is not None else None
        self._change_state(Verb.DELIVER, entry, _DELIVER, values, processed)
        reach(Point.DELIVERED)
        self._ended(State.DELIVERED, entry)
        self.on_attempt("", duration_s)
        if rows is not None:
            self.on_processed(entry.path, rows["dropped"])

    def defer(self, entry: Entry, error: DeliveryError, due_at: float, *, charge: bool) -> None:
        """Set the time of the next attempt; `charge` counts this one as failed."""
        values = _reason(error) | {
            "due_at": due_at,
            "charge": charge,
            "ambiguous": entry.ambiguous or error.ambiguous,
        }
        self._change_state(Verb.DEFER, entry, _DEFER, values)
        reach(Point.DEFERRED)
        self.on_attempt(error.code, None)

    def interrupt(self, entry: Entry, *, ambiguous: bool = False) -> None:
        """Requeue an entry because the daemon is stopping.

        The attempt is not counted.
        """
        values = {"ambiguous": entry.ambiguous or ambiguous}
        self._change_state(Verb.INTERRUPT, entry, "ambiguous = :ambiguous", values)
        reach(Point.INTERRUPTED)

    def reject(self, entry: Entry, error: DeliveryError, *, dispose: bool = False) -> None:
        """Record that the server can never accept this version.

        `dispose`: its file is to be moved to the rejected folder.
        """
        values = _reason(error) | {"disposal": "due" if dispose else None}
        self._change_state(Verb.REJECT, entry, _REJECT, values)
        reach(Point.REJECTED)
        self._ended(State.REJECTED, entry)
        self.on_attempt(error.code, None)

    def withdraw(self, entry: Entry, error: DeliveryError) -> None:
        """Record that the file was removed or changed before it was sent."""
        self._change_state(Verb.WITHDRAW, entry, _WITHDRAW, _reason(error))
        reach(Point.WITHDRAWN)
        self._ended(State.WITHDRAWN, entry)

    def withdraw_waiting(self, reason: str) -> list[bytes]:
        """Withdraw every entry that waits, so that its file is examined again; return the paths."""

        def work(connection: sqlite3.Connection) -> list[Any]:
            sql = "select id, path, bytes from entry where state in ('queued', 'deferred')"
            waiting = connection.execute(sql).fetchall()
            for entry_id, *_ in waiting:
                values = {"error": None, "reason": reason}
                change_state(connection, Verb.WITHDRAW, entry_id, _WITHDRAW, values)
            return waiting

        waiting = self.write(work, may_use_reserve=True)
        for _, path, size_bytes in waiting:
            self.on_ended(State.WITHDRAWN, path, size_bytes)
        return [path for _, path, _ in waiting]

    def _change_state(
        self,
        verb: Verb,
        entry: Entry,
        assignments: str,
        values: Mapping[str, object],
        processed: tuple[object, ...] | None = None,
    ) -> None:
        """Apply a verb; `processed`: the values of `PROCESSED`, in the same transaction."""

        def work(connection: sqlite3.Connection) -> None:
            if not change_state(connection, verb, entry.id, assignments, values):
                raise IllegalTransition(f"{verb}: entry {entry.id} is in another state")
            if processed is not None:
                connection.execute(statements.PROCESSED, processed)

        self.write(work, may_use_reserve=True)

    def _ended(self, outcome: str, entry: Entry) -> None:
        self.on_ended(outcome, entry.path, entry.fingerprint.size_bytes)

    # While entries wait.

    def uncharge(self, entry_ids: Collection[int]) -> None:
        """Take back one failed attempt for each time that an entry is named.

        The destination turned out to be the cause. Raises `JournalFull`.
        """
        # A row for each mention: `id in (...)` would take back only one attempt of an entry.
        rows = [(entry_id,) for entry_id in entry_ids]
        self.write(lambda writer: writer.executemany(_UNCHARGE, rows))

    def make_due(self, codes: Collection[Code]) -> None:
        """Make due at once what was deferred with one of these codes.

        Raises `JournalFull`.
        """
        now = time.time()
        rows = [(now, code.value) for code in codes]
        self.write(lambda writer: writer.executemany(_MAKE_DUE, rows))

    # Disposal: the file of an ended version is moved or deleted.

    def disposals(self, after_id: int, limit: int) -> list[tuple[int, bytes, Fingerprint]]:
        """Return (id, path, fingerprint) of files to dispose of; pages by id."""
        rows = self.read(_DISPOSALS, (after_id, limit))
        return [(row[0], row[1], Fingerprint(*row[2:])) for row in rows]

    def ended(self, entry_id: int) -> Ended | None:
        """Return a version to dispose of; None if it was forgotten meanwhile."""
        rows = self.read(statements.ENDED, (entry_id,))
        return Ended(State(rows[0][0]), *rows[0][1:]) if rows else None

    def dispose(self, entry_id: int, moved_to: bytes | None) -> None:
        """Record that the version's file was moved or deleted, or is gone."""
        sql = """update entry set disposal = 'done', moved_to = ?, error = nullif(error, 'E211'),
            reason = iif(error = 'E211', null, reason) where id = ?"""
        self._execute(sql, moved_to, entry_id)

    def not_disposed(self, entry_id: int, reason: str) -> None:
        """Record why the file of a delivered version stays in the folder."""
        sql = """update entry set error = 'E211', reason = ?
            where id = ? and state = 'delivered' and disposal = 'due'"""
        self._execute(sql, reason, entry_id)

    # Retention.

    def ended_before(
        self, before: float, after_id: int, limit: int
    ) -> list[tuple[int, bytes, bool]]:
        """Return (id, path, superseded) of versions that ended before an instant.

        `superseded`: a later version of the path is on record. Pages by id.
        """
        return self.read(statements.ENDINGS, (after_id, before, limit))

    def prune(self, entry_ids: Collection[int]) -> None:
        """Delete ended versions. Raises `JournalFull`."""
        sql, rows = "delete from entry where id = ?", [(key,) for key in entry_ids]
        self.write(lambda writer: writer.executemany(sql, rows))

    def prune_actions(self, before: float) -> None:
        """Delete the record of operator commands before an instant."""
        self._execute("delete from action where at < ?", before)

    # What the server made of delivered files.

    def track(self, since: float, now: float, open_max: int) -> None:
        """Begin to track what was delivered since an instant. Raises `JournalFull`.

        `open_max`: of so many files the next look may be due at a time.
        """
        values = {"since": since, "now": now, "server": self._server, "open_max": open_max}
        self.write(lambda writer: writer.execute(statements.TRACK, values), durable=False)

    def tracked_due(self, now: float, longest: float, limit: int) -> list[Tracked]:
        """Return the files whose next look is due, the one that waited longest first.

        `longest`: no look can be due later than this instant, unless the clock was set back.
        """
        values = {"now": now, "longest": longest, "server": self._server, "limit": limit}
        return list(map(statements.tracked_of, self.read(statements.TRACKED_DUE, values)))

    def save_tracked(self, files: list[Tracked]) -> list[Tracked]:
        """Save what was seen; return the files that are still in the journal.

        Raises `JournalFull`.
        """

        def work(connection: sqlite3.Connection) -> list[Tracked]:
            return [file for file in files if _save_tracked(connection, file)]

        return self.write(work) if files else []

    # Facts that are not about entries, and numbers.

    def save_fact(self, name: str, value: object) -> None:
        """Save a JSON value under a name, in place of the former one."""
        self._execute(statements.SAVE_FACT, name, json.dumps(value))

    def read_fact(self, name: str) -> object:
        """Return a saved value, or None if there is none."""
        rows = self.read(statements.READ_FACT, (name,))
        return json.loads(rows[0][0]) if rows else None

    def expect(self, datasets: Collection[str]) -> None:
        """Save since when each of these datasets is expected; forget all others."""
        noted = self.read_fact("expected")
        known = noted if isinstance(noted, dict) else {}
        expected = {dataset: known.get(dataset, time.time()) for dataset in datasets}
        if expected != known:
            self.save_fact("expected", expected)

    def counts(self) -> dict[State, int]:
        """Return the number of entries by state."""
        return statements.entries_by_state(self.read)

    def rejections(self, since: float) -> list[tuple[bytes, str, str]]:
        """Return (path, error, reason) of what was rejected at an instant or later."""
        rejected = "select path, error, reason from entry where state = 'rejected'"
        return self.read(f"{rejected} and changed_at >= ?", (since,))

    def deliveries(self, since: float) -> tuple[int, int]:
        """Return the number and the bytes of the files delivered at an instant or later."""
        delivered = "select count(*), coalesce(sum(bytes), 0) from entry where state = 'delivered'"
        ((files, size_bytes),) = self.read(f"{delivered} and delivered_at >= ?", (since,))
        return files, size_bytes

    def dropped(self) -> list[tuple[bytes, float, str]]:
        """Return (path, delivered_at, findings) of what the server will drop: 1,000 at most."""
        return self.read(statements.DROPPED)

    def _execute(self, sql: str, *parameters: object) -> None:
        self.write(lambda writer: writer.execute(sql, parameters), may_use_reserve=True)


def _reason(error: DeliveryError) -> dict[str, object]:
    return {"error": error.code.value, "reason": error.reason}


def _save_tracked(connection: sqlite3.Connection, file: Tracked) -> bool:
    values = asdict(file)
    values["rows"] = json.dumps(file.rows) if file.rows is not None else None
    return connection.execute(statements.SAVE_TRACKED, values).rowcount == 1


def _reclaim(connection: sqlite3.Connection) -> int:
    rows = connection.execute("select id from entry where state = 'delivering'")
    claimed = [entry_id for (entry_id,) in rows]
    for entry_id in claimed:
        change_state(connection, Verb.RECLAIM, entry_id, _RECLAIM)
    return len(claimed)
