"""The last deliveries of this host, in a small file of its own.

An asynchronous standby that is promoted may lack the last commits, although the former server had
confirmed them. Without their receipts the files would be sent again. So each host keeps what it has
delivered lately, and restores what the database lacks.
"""

import json
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from emitterd.journal.postgresql.connection import Connection
from emitterd.journal.work import Deliver
from emitterd.text import display
from emitterd.units import DAY_S

KEPT = 1000
"""Deliveries in memory. The file has up to twice as many."""

_PRESENT = """select path, key from entry
    where path = any (%s) and key = any (%s) and state = 'delivered'"""

_LATEST = """select id, state, token, bytes, mtime_ns from entry
    where path = %(path)s and forgotten_at is null order by id desc limit 1 for update"""

_VALUES = """key = %(key)s, etag = %(etag)s, sha256 = %(sha256)s, md5 = %(md5)s,
    verified = %(verified)s, ambiguous = ambiguous or %(ambiguous)s, delivered_at = %(now)s,
    delivered_to = %(server)s, duration_s = %(duration_s)s, disposal = %(disposal)s"""

_DELIVER = f"""update entry set state = 'delivered', changed_at = %(now)s, token = token + 1,
    {_VALUES}, "grant" = null, due_at = null, error = null, reason = null
    where id = %(id)s and token = %(token)s"""  # noqa: S608  names are ours

# Another host is sending the file again: its receipt will name this key too.
_NOTE_KEY = """update entry set ambiguous = true,
    earlier_keys = coalesce(earlier_keys || chr(10), '') || %(key)s
    where id = %(id)s and key is distinct from %(key)s"""

_INSERT = """insert into entry (path, state, flow, turn, rank, device, inode, bytes, mtime_ns,
    ctime_ns, admitted_at, changed_at, key, etag, sha256, md5, verified, ambiguous, delivered_at,
    delivered_to, duration_s, disposal)
    values (%(path)s, 'delivered', '/restored', 0, 0, %(device)s, %(inode)s, %(bytes)s,
    %(mtime_ns)s, %(ctime_ns)s, %(now)s, %(now)s, %(key)s, %(etag)s, %(sha256)s, %(md5)s,
    %(verified)s, %(ambiguous)s, %(now)s, %(server)s, %(duration_s)s, %(disposal)s)"""

log = structlog.get_logger()

Record = dict[str, Any]


class Tail:
    """The last deliveries of this host. Thread-safe."""

    def __init__(self, file: Path) -> None:
        """Read what a former process has left."""
        self._file = file
        self._lock = threading.Lock()
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._lines = 0
        with suppress(OSError):
            for line in file.read_text("utf-8").splitlines():
                # The last line may be cut: the power failed.
                with suppress(ValueError, KeyError, TypeError):
                    self._records.append(_unpacked(json.loads(line)))
        self._rewrite()

    def add(self, delivery: Deliver) -> None:
        """Keep a delivery. It is not synced: only host and database together could lose it."""
        record = _record(delivery)
        with self._lock:
            self._records.append(record)
            try:
                if self._lines >= 2 * KEPT:
                    self._rewrite()
                else:
                    with self._file.open("a", encoding="utf-8") as opened:
                        opened.write(_line(record))
                    self._lines += 1
            except OSError as error:
                # The database has it, or will have it soon.
                log.warning("journal.tail_failed", reason=error.strerror, path=str(self._file))

    def restore(self, connection: Connection, now: float) -> int:
        """Restore the receipts of the last day that the database lacks; return how many."""
        with self._lock:
            kept = [record for record in self._records if record["now"] > now - DAY_S]
        if not kept:
            return 0
        columns = [[record[name] for record in kept] for name in ("path", "key")]
        present = set(connection.execute(_PRESENT, columns).fetchall())
        lost = [record for record in kept if (record["path"], record["key"]) not in present]
        for record in lost:
            with connection.transaction():
                result = _restore(connection, record)
            log.warning(
                "journal.restored_receipt",
                path=display(record["path"]),
                key=record["key"],
                result=result,
            )
        return len(lost)

    def _rewrite(self) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        with suppress(OSError):
            new.touch(0o600)
            with new.open("w", encoding="utf-8") as opened:
                opened.writelines(map(_line, self._records))
            new.rename(self._file)
        self._lines = len(self._records)


def _restore(connection: Connection, record: Record) -> str:
    """Restore one receipt; return what was done."""
    rows = connection.execute(_LATEST, record).fetchall()
    if not rows:
        connection.execute(_INSERT, record)
        return "delivered"
    entry_id, state, token, *version = rows[0]
    same = version == [record["bytes"], record["mtime_ns"]]
    values = {**record, "id": entry_id, "token": token}
    if same and state in {"queued", "deferred"}:
        connection.execute(_DELIVER, values)
        return "delivered"
    if same and state == "delivering":
        connection.execute(_NOTE_KEY, values)
        return "noted"
    return "superseded"


def _record(delivery: Deliver) -> Record:
    entry = delivery.entry
    device, inode, size_bytes, mtime_ns, ctime_ns = entry.fingerprint
    return {
        **delivery.values(),
        "path": entry.path,
        "device": device,
        "inode": inode,
        "bytes": size_bytes,
        "mtime_ns": mtime_ns,
        "ctime_ns": ctime_ns,
    }


_BYTES = ("path", "sha256", "md5")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({**record, **{name: record[name].hex() for name in _BYTES}}) + "\n"


def _unpacked(record: Record) -> Record:
    return {**record, **{name: bytes.fromhex(record[name]) for name in _BYTES}}
