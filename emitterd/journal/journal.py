"""The journal: every durable change of an entry, one method for each.

A method returns when its change is on disk. So what follows (a byte sent, a file moved, a line
logged) never runs ahead of the record. Each crash is explained in docs/design.md, "Crash table".
Admissions, claims and operator commands begin work, and are refused while the disk is full.
Everything else records the end of something: it may use the disk reserve. Instants are seconds
since the epoch.
"""

import json
import math
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Self
from uuid import uuid4

from emitterd.codes import Code
from emitterd.errors import RETRY_AFTER_CAP_S, DeliveryError, JournalFull, JournalUnreachable
from emitterd.failpoints import Point, reach
from emitterd.journal import rows as statements
from emitterd.journal.admission import Admit
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.numbers import delivered_between
from emitterd.journal.rows import Admission, AdmissionResult, Admitted, Ended, Known
from emitterd.journal.store import Store
from emitterd.journal.work import (
    Claim,
    Defer,
    Deliver,
    DropGrant,
    Execute,
    HasGrant,
    Interrupt,
    Merge,
    Pin,
    Reject,
    SaveTracked,
    Track,
    Withdraw,
    WithdrawWaiting,
)
from emitterd.model import (
    ClaimOrder,
    Confirmation,
    Entry,
    Fingerprint,
    Grant,
    Receipt,
    State,
    Tracked,
)

_DISPOSALS = """select id, path, device, inode, bytes, mtime_ns, ctime_ns from entry
    where disposal = 'due' and id > :after_id and (host = :host or :sweeps and not exists
        (select 1 from host where host.id = entry.host and ended_at is null))
    order by id limit :limit"""
"""A page of the files that this host is to move or delete: its own, and those of nobody."""

# `attempts > 0`: the operator's `retry` may have set them to 0 meanwhile.
_UNCHARGE = """update entry set attempts = attempts - 1
    where id = ? and attempts > 0"""

# An entry that is due already keeps its place in the order.
_MAKE_DUE = """update entry set due_at = ? where state = 'deferred' and due_at > ? and error = ?"""


UNCHANGED = "unchanged"
"""The outcome of known content: it leaves no row, and no state has this name."""


class Journal:
    """The queue, the pinned grants and the receipts. Thread-safe.

    Each method raises what `Store.read` or `Store.write` raises. A change that the entry's state
    does not allow raises `IllegalTransition`.
    """

    def __init__(self, store: Store, backoff_max_s: float) -> None:
        self.store = store
        self.read = store.read
        self.now = store.clock.now
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
        self._server: int | None = None
        self.apply_settings(backoff_max_s)
        reach(Point.RECLAIMED)
        if store.restored:
            # While the disk is full, only `status` lacks this fact.
            with suppress(JournalFull):
                self.save_fact("restored_at", self.now())
        least = "select coalesce(min(turn), 0) from entry where state = 'queued'"
        last = "select flow, max(turn) from entry where state = 'queued' group by flow"
        self._fair_queue.resume(self.read(least)[0][0], self.read(last))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all writing, and close the store."""
        self.store.close()

    def is_sweeper(self) -> bool:
        """Return whether this host sweeps the folder, prunes, tracks and alerts for all hosts."""
        return self.store.host is None or self.store.host.is_sweeper()

    def alerts(self) -> bool:
        """Return whether this host alerts for all. The last one also does without the database."""
        return self.store.host is None or self.store.host.was_sweeper()

    def holds_claim(self, entry: Entry) -> bool:
        """Return whether a claimed entry is still this host's, without I/O."""
        host = self.store.host
        # In this order: meanwhile another life of this host may begin, with a lease of its own.
        return host is None or (host.holds_lease() and host.id == entry.host)

    def apply_settings(self, backoff_max_s: float) -> None:
        """Treat due times further off than this as set before a clock was set back."""
        self._due_in_max_s = backoff_max_s + RETRY_AFTER_CAP_S + 60.0

    def deliver_to(self, url: str) -> int:
        """Record all deliveries from now on as made to this API.

        Return how many files were delivered to another one, and not to this one since.
        """
        mine = "select id from server where url = ?"
        if not self.read(mine, (url,)):
            self._execute("insert into server (url) values (?) on conflict do nothing", url)
        self._server = self.read(mine, (url,))[0][0]
        return statements.former_deliveries(self.read, url)

    # Admission and claim.

    def latest(self, path: bytes) -> Known | None:
        """Return the latest version of the path, or None if it is unknown."""
        return statements.latest(self.read, path)

    def admit(self, batch: list[Admission]) -> list[Admitted]:
        """Admit complete files in one commit; return the answers in the same order."""
        answers = self.store.write(Admit(batch, self.now(), self._fair_queue))
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
        is pinned, and that commit makes the claim durable too. Raises `JournalUnreachable` while
        another host may take the claims of this one over.
        """
        host = self.store.host
        if host is not None and not host.holds_lease():
            raise JournalUnreachable("the lease of this host is over")
        due_max = now + self._due_in_max_s
        try:
            return self.store.write(Claim(now, due_max, want, self._fair_queue))
        # The first claim was rolled back. With a grant, bytes follow at once: this claim must be
        # synced.
        except HasGrant:
            return self.store.write(Claim(now, due_max, want, self._fair_queue, durable=True))

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
        merge = Merge(entry.id, entry.token, previous_id, entry.fingerprint, dispose)
        self.store.write(merge)
        self._ended(UNCHANGED, entry)

    # The grant.

    def unconfirmed(self, entry: Entry) -> list[bytes]:
        """Return the paths of other entries whose upload may be under way.

        Their grants are pinned and their answers were lost. If that is true of this entry too,
        only entries with an earlier grant count: two must not wait for each other. Also those with
        a grant that other hosts have claimed.
        """
        own = entry.grant if entry.ambiguous else None
        before = own.granted_at if own is not None else math.inf
        rows = self.read(statements.UNCONFIRMED, (entry.id, before))
        if self.store.host is not None:
            rows += self.read(statements.UNDER_WAY_ELSEWHERE, (entry.host,))
        return [row[0] for row in rows]

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
        self.store.write(Pin(entry, grant.pack(), grant.key, grant.granted_at, confirmation))

    def drop_grant(self, entry: Entry) -> None:
        """Unpin a grant that was refused; its key stays on record.

        An ended grant replaces it where its object may exist: emitterd looks for it.
        """
        self.store.write(DropGrant(entry.id, entry.token))
        reach(Point.GRANT_DROPPED)

    # The end of an attempt.

    def deliver(self, entry: Entry, receipt: Receipt, *, duration_s: float, dispose: bool) -> None:
        """Record the delivery, and erase the grant's secret.

        Also record what the server made of the file, if the receipt says so.
        """
        now, server = self.now(), self._server
        self.store.write(Deliver(entry, now, receipt, server, duration_s, dispose))
        reach(Point.DELIVERED)
        self._ended(State.DELIVERED, entry)
        self.on_attempt("", duration_s)
        if receipt.rows is not None:
            self.on_processed(entry.path, receipt.rows["dropped"])

    def defer(self, entry: Entry, error: DeliveryError, due_at: float, *, charge: bool) -> None:
        """Set the time of the next attempt; `charge` counts this one as failed."""
        ambiguous = entry.ambiguous or error.ambiguous
        claim, reason = (entry.id, entry.token), (error.code.value, error.reason)
        self.store.write(Defer(*claim, self.now(), due_at, *reason, charge, ambiguous))
        reach(Point.DEFERRED)
        self.on_attempt(error.code, None)

    def interrupt(self, entry: Entry, *, ambiguous: bool = False) -> None:
        """Requeue an entry because the daemon is stopping.

        The attempt is not counted.
        """
        ambiguous = entry.ambiguous or ambiguous
        self.store.write(Interrupt(entry.id, entry.token, self.now(), ambiguous))
        reach(Point.INTERRUPTED)

    def reject(self, entry: Entry, error: DeliveryError, *, dispose: bool = False) -> None:
        """Record that the server can never accept this version.

        `dispose`: its file is to be moved to the rejected folder.
        """
        claim, reason = (entry.id, entry.token), (error.code.value, error.reason)
        self.store.write(Reject(*claim, self.now(), *reason, dispose))
        reach(Point.REJECTED)
        self._ended(State.REJECTED, entry)
        self.on_attempt(error.code, None)

    def withdraw(self, entry: Entry, error: DeliveryError) -> None:
        """Record that the file was removed or changed before it was sent."""
        claim, reason = (entry.id, entry.token), (error.code.value, error.reason)
        self.store.write(Withdraw(*claim, self.now(), *reason))
        reach(Point.WITHDRAWN)
        self._ended(State.WITHDRAWN, entry)

    def withdraw_waiting(self, reason: str) -> list[bytes]:
        """Withdraw every entry that waits, so that its file is examined again; return the paths."""
        waiting = self.store.write(WithdrawWaiting(self.now(), reason))
        for path, size_bytes in waiting:
            self.on_ended(State.WITHDRAWN, path, size_bytes)
        return [path for path, _ in waiting]

    def _ended(self, outcome: str, entry: Entry) -> None:
        self.on_ended(outcome, entry.path, entry.fingerprint.size_bytes)

    # While entries wait.

    def uncharge(self, entry_ids: Collection[int]) -> None:
        """Take back one failed attempt for each time that an entry is named.

        The destination turned out to be the cause. Raises `JournalFull`.
        """
        # A row for each mention: `id in (...)` would take back only one attempt of an entry.
        rows = [(entry_id,) for entry_id in entry_ids]
        self.store.write(Execute(_UNCHARGE, rows))

    def make_due(self, codes: Collection[Code]) -> None:
        """Make due at once what was deferred with one of these codes.

        Raises `JournalFull`.
        """
        now = self.now()
        self.store.write(Execute(_MAKE_DUE, [(now, now, code.value) for code in codes]))

    # Disposal: the file of an ended version is moved or deleted.

    def disposals(self, after_id: int, limit: int) -> list[tuple[int, bytes, Fingerprint]]:
        """Return (id, path, fingerprint) of files to dispose of; pages by id."""
        host = self.store.host
        values = {
            "after_id": after_id,
            "limit": limit,
            "host": host.id if host is not None else 0,
            "sweeps": self.is_sweeper(),
        }
        rows = self.read(_DISPOSALS, values)
        return [(row[0], row[1], Fingerprint(*row[2:])) for row in rows]

    def ended(self, entry_id: int) -> Ended | None:
        """Return a version to dispose of; None if it was forgotten meanwhile."""
        rows = self.read(statements.ENDED, (entry_id,))
        return Ended(State(rows[0][0]), *rows[0][1:]) if rows else None

    def dispose(self, entry_id: int, moved_to: bytes | None) -> None:
        """Record that the version's file was moved or deleted, or is gone."""
        # Another host may have moved it at the same time: its place stays.
        sql = """update entry set disposal = 'done', moved_to = coalesce(?, moved_to),
            error = nullif(error, 'E211'),
            reason = case when error = 'E211' then null else reason end where id = ?"""
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
        rows = [(entry_id,) for entry_id in entry_ids]
        self.store.write(Execute("delete from entry where id = ?", rows))

    def prune_actions(self, before: float) -> None:
        """Delete the record of operator commands before an instant."""
        self._execute("delete from action where at < ?", before)

    # What the server made of delivered files.

    def track(self, since: float, now: float, open_max: int) -> None:
        """Begin to track what was delivered since an instant. Raises `JournalFull`.

        `open_max`: of so many files the next look may be due at a time.
        """
        self.store.write(Track(since, now, self._server, open_max))

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
        return self.store.write(SaveTracked(files)) if files else []

    # Facts that are not about entries, and numbers.

    def save_fact(self, name: str, value: object) -> None:
        """Save a JSON value under a name, in place of the former one."""
        self._execute(statements.SAVE_FACT, self._owner(name), name, json.dumps(value))

    def read_fact(self, name: str) -> object:
        """Return a saved value, or None if there is none."""
        rows = self.read(statements.READ_FACT, (self._owner(name), name))
        return json.loads(rows[0][0]) if rows else None

    def _owner(self, fact: str) -> str:
        host = self.store.host
        return host.name if host is not None and fact in statements.HOST_FACTS else ""

    def folder_mark(self) -> tuple[str, bool]:
        """Return the mark of the folder that all hosts of the journal share.

        Also return whether the journal is new: then the folder has no mark yet. Only the first host
        writes one: on another host an empty folder may be that of a missing mount.
        """
        mark = json.dumps(uuid4().hex)
        sql = """insert into fact (host, name, value) values ('', 'folder', ?)
            on conflict (host, name) do nothing"""
        self._execute(sql, mark)
        is_new = not sum(self.counts().values())
        return str(self.read_fact("folder")), is_new

    def expect(self, datasets: Collection[str]) -> None:
        """Save since when each of these datasets is expected; forget all others."""
        noted = self.read_fact("expected")
        known = noted if isinstance(noted, dict) else {}
        expected = {dataset: known.get(dataset, self.now()) for dataset in datasets}
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
        return delivered_between(self.read, since, math.inf)

    def dropped(self) -> list[tuple[bytes, float, str]]:
        """Return (path, delivered_at, findings) of what the server will drop: 1,000 at most."""
        return self.read(statements.DROPPED)

    def _execute(self, sql: str, *parameters: object) -> None:
        self.store.write(Execute(sql, [parameters], ends=True))
