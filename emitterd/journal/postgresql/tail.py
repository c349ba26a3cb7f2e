"""The last pins and deliveries of this host, in a small file of its own.

An asynchronous standby that is promoted may lack the last commits, although the former server had
confirmed them. Without its receipt a file would be sent again, and without its pin under another
key, although an object may exist. So each host keeps what it has done lately, and restores what the
database lacks.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psycopg
import structlog

from emitterd.journal.postgresql.connection import Connection
from emitterd.journal.work import Deliver, Pin
from emitterd.model import Entry
from emitterd.text import display
from emitterd.units import DAY_S

KEPT = 1000
"""Records in memory. The file has up to twice as many."""

_PRESENT = """select path, key from entry
    where path = any (%s) and key = any (%s) and state = 'delivered'"""

_KNOWN_KEYS = """select path, key || coalesce(chr(10) || earlier_keys, '') from entry
    where path = any (%s) and key is not null"""

_BATCHES = "select id, batch from host where id = any (%s)"

_LATEST = """select id, state, token, "grant" is not null and granted_at >= %(granted_at)s,
    bytes = %(bytes)s and mtime_ns = %(mtime_ns)s, admitted_at > %(now)s from entry
    where path = %(path)s and forgotten_at is null order by id desc limit 1 for update"""

_VALUES = """key = %(key)s, etag = %(etag)s, sha256 = %(sha256)s, md5 = %(md5)s,
    verified = %(verified)s, ambiguous = ambiguous or %(ambiguous)s, delivered_at = %(now)s,
    confirmation = coalesce(%(confirmation)s, confirmation),
    delivered_to = %(server)s, duration_s = %(duration_s)s, disposal = %(disposal)s"""

_DELIVER = f"""update entry set state = 'delivered', changed_at = %(now)s, token = token + 1,
    {_VALUES}, "grant" = null, due_at = null, error = null, reason = null
    where id = %(id)s"""  # noqa: S608  names are ours

# The token stays: the claim may be that of the lost pin, and its worker may still deliver.
_PIN = """update entry set
    earlier_keys = case when ambiguous and key is distinct from %(key)s
        then concat_ws(chr(10), earlier_keys, key) else earlier_keys end,
    "grant" = %(packed)s, key = %(key)s, granted_at = %(granted_at)s, ambiguous = true
    where id = %(id)s"""

# The file is being sent, or was, under another key: its receipt will name this key too.
_NOTE_KEY = """update entry set ambiguous = true,
    earlier_keys = concat_ws(chr(10), earlier_keys, %(key)s::text)
    where id = %(id)s and key is distinct from %(key)s"""

_WITHDRAW = """update entry set state = 'withdrawn', changed_at = %(now)s, token = token + 1,
    "grant" = null, error = null, reason = 'a later version was sent'
    where id = %(id)s and state in ('queued', 'deferred')"""

_COLUMNS = """path, flow, rank, device, inode, bytes, mtime_ns, ctime_ns, admitted_at, changed_at,
    key"""
_NEW = """%(path)s, '/restored', 0, %(device)s, %(inode)s, %(bytes)s, %(mtime_ns)s, %(ctime_ns)s,
    %(now)s, %(now)s, %(key)s"""

_INSERT_DELIVERED = f"""insert into entry ({_COLUMNS}, state, turn, etag, sha256, md5, verified,
    ambiguous, confirmation, delivered_at, delivered_to, duration_s, disposal)
    values ({_NEW}, 'delivered', 0, %(etag)s, %(sha256)s, %(md5)s, %(verified)s, %(ambiguous)s,
    %(confirmation)s, %(now)s, %(server)s, %(duration_s)s, %(disposal)s)"""  # noqa: S608  names are ours

# The turn is not below the one that any host looks from.
_INSERT_PINNED = f"""insert into entry ({_COLUMNS}, state, turn, "grant", granted_at, ambiguous)
    values ({_NEW}, 'queued', (select coalesce(max(turn), 0) from host), %(packed)s,
    %(granted_at)s, true)"""  # noqa: S608  names are ours

_PINNABLE = frozenset({"queued", "deferred", "held"})

_DELIVERABLE = _PINNABLE | {"withdrawn"}
"""Withdrawn, because the file was moved or deleted after its delivery."""

log = structlog.get_logger()

Record = dict[str, Any]


class Tail:
    """The last pins and deliveries of this host. Thread-safe."""

    def __init__(self, file: Path) -> None:
        """Read what a former process has left."""
        self._file = file
        self._lock = threading.Lock()
        self._records: dict[tuple[bytes, str], Record] = {}
        """By path and key, the latest last: a delivery replaces its pin."""
        self._lines = 0
        with suppress(OSError):
            for line in file.read_text("utf-8").splitlines():
                # The last line may be cut: the power failed.
                with suppress(ValueError, KeyError, TypeError):
                    self._remember(_unpacked(json.loads(line)))
        self._rewrite()

    def add_delivery(self, delivery: Deliver) -> None:
        """Keep a delivery."""
        record = {**_of_entry(delivery.entry), **delivery.values(), "granted_at": delivery.now}
        self._add(record)

    def add_pin(self, pin: Pin, now: float, host: int, batch: int) -> None:
        """Keep a pin, committed as batch `batch` of the life `host`, or before.

        `now`: by the database's clock. That of a grant is this host's.
        """
        record = {
            **_of_entry(pin.entry),
            "key": pin.key,
            "packed": pin.packed,
            "granted_at": pin.granted_at,
            "now": now,
            "host": host,
            "batch": batch,
        }
        self._add(record)

    def restore(self, connection: Connection, now: float) -> int:
        """Restore what the database lacks of the last day; return how much."""
        with self._lock:
            kept = [record for record in self._records.values() if record["now"] > now - DAY_S]
        if not kept:
            return 0
        lost = [*_lost_deliveries(connection, kept), *_lost_pins(connection, kept)]
        for record in lost:
            is_pin = "packed" in record
            log.warning(
                "journal.restored_pin" if is_pin else "journal.restored_receipt",
                path=display(record["path"]),
                key=record["key"],
                result=_restore(connection, record),
            )
        return len(lost)

    def _add(self, record: Record) -> None:
        """Keep a record. It is not synced: only host and database together could lose it."""
        with self._lock:
            self._remember(record)
            try:
                if self._lines >= 2 * KEPT:
                    self._rewrite()
                else:
                    with _open(self._file, "a") as opened:
                        opened.write(_line(record))
                    self._lines += 1
            except OSError as error:
                # The database has it, or will have it soon.
                log.warning("journal.tail_failed", reason=error.strerror, path=str(self._file))

    def _remember(self, record: Record) -> None:
        key = record["path"], record["key"]
        self._records.pop(key, None)
        self._records[key] = record
        if len(self._records) > KEPT:
            del self._records[next(iter(self._records))]

    def _rewrite(self) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        with suppress(OSError):
            with _open(new, "w") as opened:
                opened.writelines(map(_line, self._records.values()))
            new.rename(self._file)
        self._lines = len(self._records)


def _lost_deliveries(connection: Connection, kept: list[Record]) -> list[Record]:
    deliveries = [record for record in kept if "packed" not in record]
    columns = [[record[name] for record in deliveries] for name in ("path", "key")]
    present = set(connection.execute(_PRESENT, columns).fetchall())
    return [record for record in deliveries if (record["path"], record["key"]) not in present]


def _lost_pins(connection: Connection, kept: list[Record]) -> list[Record]:
    """Return the pins whose commits are lost. Others were replaced, or have ended.

    Of each path only what was done last counts.
    """
    last = {record["path"]: record for record in kept}
    pins = [record for record in last.values() if "packed" in record]
    hosts = [record["host"] for record in pins]
    batches: dict[int, int] = dict(connection.execute(_BATCHES, (hosts,)).fetchall())
    pins = [record for record in pins if batches.get(record["host"], -1) < record["batch"]]
    rows = connection.execute(_KNOWN_KEYS, ([record["path"] for record in pins],)).fetchall()
    known = {(path, key) for path, keys in rows for key in keys.split("\n")}
    return [record for record in pins if (record["path"], record["key"]) not in known]


def _restore(connection: Connection, record: Record) -> str:
    """Restore a pin or a receipt in a transaction; return what was done."""
    change = _restore_pin if "packed" in record else _restore_receipt
    try:
        with connection.transaction():
            return change(connection, record)
    except psycopg.IntegrityError:
        # Another version has the key, or came at this moment: nothing may keep a host from working.
        return "superseded"


def _restore_receipt(connection: Connection, record: Record) -> str:
    rows = connection.execute(_LATEST, record).fetchall()
    if not rows:
        connection.execute(_INSERT_DELIVERED, record)
        return "delivered"
    entry_id, state, token, _, is_same, is_later = rows[0]
    values = {**record, "id": entry_id}
    if not is_same:
        return _replace(connection, values, _INSERT_DELIVERED, "delivered", is_later=is_later)
    # With the same token it is still the claim of this delivery.
    if state in _DELIVERABLE or (state == "delivering" and token == record["token"]):
        connection.execute(_DELIVER, values)
        return "delivered"
    return _note(connection, values, state)


def _restore_pin(connection: Connection, record: Record) -> str:
    rows = connection.execute(_LATEST, record).fetchall()
    if not rows:
        connection.execute(_INSERT_PINNED, record)
        return "pinned"
    entry_id, state, token, has_later_grant, is_same, is_later = rows[0]
    values = {**record, "id": entry_id}
    if not is_same:
        return _replace(connection, values, _INSERT_PINNED, "pinned", is_later=is_later)
    if state == "delivering":
        is_free = token == record["token"]
    else:
        is_free = state in _PINNABLE and not has_later_grant
    if is_free:
        connection.execute(_PIN, values)
        return "pinned"
    return _note(connection, values, state)


def _replace(
    connection: Connection, values: Record, insert: str, result: str, *, is_later: bool
) -> str:
    """Add the version to a path of which the database has another one."""
    if is_later:
        return "superseded"
    # Its worker would find another file, and only then leave the path to this version.
    connection.execute(_WITHDRAW, values)
    connection.execute(insert, values)
    return result


def _note(connection: Connection, values: Record, state: str) -> str:
    if state not in {*_PINNABLE, "delivering"}:
        return "superseded"
    connection.execute(_NOTE_KEY, values)
    return "noted"


def _of_entry(entry: Entry) -> Record:
    device, inode, size_bytes, mtime_ns, ctime_ns = entry.fingerprint
    return {
        "path": entry.path,
        "token": entry.token,
        "device": device,
        "inode": inode,
        "bytes": size_bytes,
        "mtime_ns": mtime_ns,
        "ctime_ns": ctime_ns,
    }


def _open(file: Path, mode: str) -> IO[str]:
    """Open a file that only its owner can read: a grant is a secret."""
    return open(file, mode, encoding="utf-8", opener=_opener)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_BYTES = ("path", "sha256", "md5", "packed")


def _line(record: Mapping[str, Any]) -> str:
    packed = {name: record[name].hex() for name in _BYTES if name in record}
    return json.dumps({**record, **packed}) + "\n"


def _unpacked(record: Record) -> Record:
    """Return a record of the file. Raises `KeyError` if it lacks what each record has."""
    read = {name: bytes.fromhex(record[name]) for name in _BYTES if name in record}
    return {**record, **read, "token": record["token"], "granted_at": record["granted_at"]}
