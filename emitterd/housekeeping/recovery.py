"""A damaged or lost journal is rebuilt: by an operator, never by itself.

What is left of it is set aside, what can be read is saved, and receipts that were
kept elsewhere are taken over. A file that may have been delivered all the same is
not sent again: the daemon will hold it.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from emitterd.codes import Code
from emitterd.errors import FileError, JournalDamaged, JournalError
from emitterd.journal.connection import Row, check, read_only
from emitterd.journal.database import Database, Lock
from emitterd.journal.rows import LATEST, NOTE, known_of
from emitterd.model import LIVE, Fingerprint
from emitterd.spool.files import sync
from emitterd.spool.folder import Spool, sha256
from emitterd.spool.selection import Selection
from emitterd.text import printable, undisplay

# Receipts kept outside of the journal: what `receipts --json` printed, or the log.


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """One receipt. `paths`: which it may mean, the likeliest first."""

    paths: list[bytes]
    size_bytes: int
    sha256: bytes
    md5: bytes | None
    key: str
    etag: str | None
    verified: bool
    ambiguous: bool
    delivered_at: float


def kept_receipts(source: Path) -> Iterator[KeptReceipt]:
    """Yield the receipts in a file, in its order; lines of anything else are passed by.

    Raises `OSError`, and `JournalError` where a list is not whole.
    """
    with source.open(encoding="utf-8", errors="replace") as file:
        listed = file.read(1) == "["
        file.seek(0)
        for record in _list(source, file.read()) if listed else map(_parse, file):
            if isinstance(record, dict) and _is_receipt(record):
                # A line that was cut off or altered is no proof.
                with suppress(KeyError, ValueError, TypeError):
                    yield _kept(record)


def _list(source: Path, text: str) -> list[object]:
    try:
        return list(json.loads(text))
    except ValueError as error:
        raise JournalError(
            f"{printable(str(source))} is not a whole list of receipts: {error}",
            hint="print it anew by `emitterd receipts --json`, or give the log",
        ) from error


def _parse(line: str) -> object:
    # journalctl and other programs write lines of their own between.
    with suppress(ValueError):
        return json.loads(line)
    return None


def _is_receipt(record: dict[str, Any]) -> bool:
    if "event" in record:
        return bool(record["event"] == "file.delivered")
    return record.get("state") == "delivered"


def _kept(record: dict[str, Any]) -> KeptReceipt:
    at = record["timestamp"] if "event" in record else record["delivered_at"]
    md5 = record.get("md5")
    return KeptReceipt(
        undisplay(record["path"]),
        int(record["bytes"]),
        _digest(record["sha256"], 32),
        _digest(md5, 16) if md5 else None,
        str(record["key"]),
        record.get("etag"),
        bool(record.get("verified")),
        bool(record.get("ambiguous")),
        datetime.fromisoformat(at).timestamp(),
    )


def _digest(text: str, size_bytes: int) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != size_bytes:
        raise ValueError(f"no digest of {size_bytes} bytes: {text}")
    return digest


# Saves what can still be read of a damaged journal into a new one. SQLite stops at the
# first damaged page; what lies beyond is reached from the other end, and by halving
# what is left between. Each row must still satisfy today's schema.

BATCH = 500
ROW_BYTES_MIN = 64
"""No row takes less: so many could lie in a file whose end cannot be asked."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What came of it: entries that were read, and whether those are all.

    `of`: how many there were, by the journal's own count; None where that is lost.
    """

    entries: int
    of: int | None
    whole: bool


def salvage(damaged: Path, fresh: Database) -> Salvaged:
    """Copy the operator's acts and all entries that can be read; nothing is changed."""
    with closing(
        sqlite3.connect(read_only(damaged), uri=True, isolation_level=None)
    ) as connection:
        # What is not UTF-8 any more must not hide the rest of its row.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # A file that is shorter than it says is read as far as it goes.
        connection.execute("pragma writable_schema = on")
        _Table(connection, "action").copy(fresh)
        entries = _Table(connection, "entry")
        copied = entries.copy(fresh)
        of = _count(connection)
        _copy_facts(connection, fresh)
    return Salvaged(copied, of, whole=entries.intact and of in {None, copied})


class _Table:
    """A table of the damaged journal; `intact` tells whether all of it was read."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.intact = True
        self._connection = connection
        self._name = name
        self._columns: list[str] = []

    def copy(self, fresh: Database) -> int:
        """Copy every row that can be read; return how many could."""
        known = [row[1] for row in fresh.read(f"pragma table_info({self._name})")]
        try:
            there = self._ask(f"pragma table_info({self._name})")
            # An older journal lacks some: these take their defaults.
            self._columns = [row[1] for row in there if row[1] in known]
            self._ask(f"select * from {self._name} limit 0")  # noqa: S608  names are ours
        except sqlite3.DatabaseError:
            self._columns = []
        if "id" not in self._columns:
            self.intact = False
            return 0
        names = ", ".join(f'"{one}"' for one in self._columns)
        marks = ", ".join("?" for _ in self._columns)
        sql = f"insert into {self._name} ({names}) values ({marks})"  # noqa: S608
        copied, batch = 0, []
        for row in self._rows(names):
            batch.append(row)
            if len(batch) == BATCH:
                copied += self._insert(fresh, sql, batch)
                batch = []
        return copied + self._insert(fresh, sql, batch)

    def _insert(self, fresh: Database, sql: str, rows: list[Row]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            copied = 0
            for row in rows:
                # What no longer is a row of ours is lost like one that is not read.
                with suppress(sqlite3.IntegrityError):
                    copied += connection.execute(sql, row).rowcount
            return copied

        copied = fresh.write(work)
        self.intact &= copied == len(rows)
        return copied

    def _rows(self, names: str) -> Iterator[Row]:
        """Yield the rows in no order; damage is stepped over."""
        sql = f"select {names} from {self._name} where id between ? and ? order by id"  # noqa: S608
        left = [(0, self._highest_id())]
        while left:
            low, high = left.pop()
            try:
                for row in self._connection.execute(sql, (low, high)):
                    low = row[self._columns.index("id")] + 1
                    yield row
                continue
            except sqlite3.DatabaseError:
                self.intact = False
            with suppress(sqlite3.DatabaseError):
                for row in self._connection.execute(f"{sql} desc", (low, high)):
                    high = row[self._columns.index("id")] - 1
                    yield row
                continue
            if low < high:
                middle = (low + high) // 2
                left += [(middle + 1, high), (low, middle)]

    def _highest_id(self) -> int:
        """Return a number that no id exceeds."""
        name = self._name
        for hint in ("not indexed", f"indexed by {name}_path"):
            with suppress(sqlite3.DatabaseError):
                ((highest,),) = self._ask(f"select max(id) from {name} {hint}")  # noqa: S608
                return highest or 0
        highest = 0
        with suppress(sqlite3.DatabaseError):
            for (one,) in self._connection.execute(
                f"select id from {name} not indexed order by id"  # noqa: S608
            ):
                highest = one
        pages, page_bytes = (
            self._ask(f"pragma {one}")[0][0] for one in ("page_count", "page_size")
        )
        return int(highest + pages * page_bytes // ROW_BYTES_MIN)

    def _ask(self, sql: str) -> list[Row]:
        return self._connection.execute(sql).fetchall()


def _copy_facts(connection: sqlite3.Connection, fresh: Database) -> None:
    with suppress(sqlite3.DatabaseError):
        facts = connection.execute("select name, value from fact").fetchall()
        fresh.write(lambda new: new.executemany(NOTE, facts))


def _count(connection: sqlite3.Connection) -> int | None:
    with suppress(sqlite3.DatabaseError, TypeError):
        rows = connection.execute("select sum(entries) from tally").fetchall()
        return int(rows[0][0])
    return None


_UNSEEN = Fingerprint(0, 0, 0, 0, 0)
"""No file has it: what is in the folder is looked at anew."""

_LATER = f"""select 1 from entry where path = :path and (sha256 = :sha256
    or changed_at > :at or state in ({", ".join(f"'{one}'" for one in sorted(LIVE))}))
    limit 1"""  # noqa: S608  no input

_ENTER = """insert into entry (path, state, flow, turn, rank, device, inode, bytes,
    mtime_ns, ctime_ns, admitted_at, changed_at, delivered_at, sha256, md5, key, etag,
    verified, ambiguous) values (:path, 'delivered', '', 0, 0, :device, :inode, :bytes,
    :mtime_ns, :ctime_ns, :at, :at, :at, :sha256, :md5, :key, :etag, :verified,
    :ambiguous)"""

_NOTHING = Salvaged(0, None, whole=False)


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What became of it.

    `aside`: where the damaged file is now, None where none was there. `receipts`: how
    many were taken over. `doubtful`: files in the folder that will be held.
    """

    aside: Path | None
    salvaged: Salvaged
    receipts: int
    doubtful: int


def rebuild(
    journal: Path, spool: Spool, selection: Selection, kept: Sequence[Path]
) -> RebuildReport | None:
    """Put a new journal in the place of one that is damaged, or lost.

    None where it is sound, and no receipts are to be taken over. Until the new one is
    whole nothing is changed. Raises `JournalError` (`JournalLocked` where a daemon
    runs) where it is another program's or newer, and `OSError` where a file of
    receipts cannot be read.
    """
    lock = Lock(journal)
    try:
        if _sound(journal) and not kept:
            return None
        return _rebuild(journal, spool, selection, kept)
    finally:
        lock.close()


def _sound(journal: Path) -> bool:
    if not journal.exists() or not journal.stat().st_size:
        return False
    try:
        check(journal, "integrity_check")
    except JournalDamaged:
        return False
    return True


def _rebuild(
    journal: Path, spool: Spool, selection: Selection, kept: Sequence[Path]
) -> RebuildReport:
    made = journal.with_name(journal.name + ".rebuilt")
    aside: Path | None = None
    try:
        _remove(made)
        aside = _set_aside(journal)
        with Database(made) as fresh:
            salvaged = salvage(aside, fresh) if aside else _NOTHING
            writer = _Rebuild(fresh, spool)
            receipts = sum(
                writer.take_over(one)
                for source in kept
                for one in kept_receipts(source)
            )
            if not salvaged.whole:
                writer.doubt()
            doubtful = writer.unknown(selection)
        _put_in_place(made, journal)
    except BaseException:
        _remove(made)
        if aside is not None:
            _remove(aside)
        raise
    if aside is not None:
        aside.with_name(aside.name + "-shm").unlink(missing_ok=True)
    return RebuildReport(aside, salvaged, receipts, doubtful)


class _Rebuild:
    """Writes into the new journal what others know of the folder."""

    def __init__(self, fresh: Database, spool: Spool) -> None:
        self._fresh = fresh
        self._spool = spool

    def take_over(self, kept: KeptReceipt) -> bool:
        """Enter a receipt, unless the journal knows better; tell whether it did."""
        path = next((one for one in kept.paths if self._stat(one)), kept.paths[0])
        seen = self._fingerprint(path, kept)
        return self._fresh.write(lambda c: _enter(c, path, kept, seen))

    def doubt(self) -> None:
        """Have the door hold what is here already and was not known to be delivered."""
        ((last,),) = self._fresh.read("select max(admitted_at) from entry")
        fact = "rebuilt_at", json.dumps(max(time.time(), last or 0.0))
        self._fresh.write(lambda connection: connection.execute(NOTE, fact))

    def unknown(self, selection: Selection) -> int:
        """Return how many files of the folder the new journal does not know."""
        found = 0
        for path, stat in self._spool.walk(selection.hidden, lambda _, __: None):
            if selection.ignored(path) is None:
                rows = self._fresh.read(LATEST, (path,))
                known = known_of(rows[0]) if rows else None
                found += known is None or not known.settles(Fingerprint.of(stat))
        return found

    def _stat(self, path: bytes) -> os.stat_result | None:
        with suppress(FileError):
            return self._spool.stat(path)
        return None

    def _fingerprint(self, path: bytes, kept: KeptReceipt) -> Fingerprint:
        """Return that of the file in the folder, if it is what the receipt says."""
        stat = self._stat(path)
        if stat is None or stat.st_size != kept.size_bytes:
            return _UNSEEN
        with suppress(FileError, OSError), self._spool.open(path) as file:
            seen = Fingerprint.of(os.fstat(file.fileno()))
            same = sha256(file, lambda: None) == kept.sha256
            if same and Fingerprint.of(os.fstat(file.fileno())) == seen:
                return seen
        return _UNSEEN


def _enter(
    connection: sqlite3.Connection, path: bytes, kept: KeptReceipt, seen: Fingerprint
) -> bool:
    if seen != _UNSEEN:
        # Held in doubt by an earlier rebuild, which had not this receipt.
        connection.execute(
            "delete from entry where path = ? and state = 'held' and error = ?",
            (path, Code.RECEIPT_LOST),
        )
    row = {
        **seen._asdict(),
        "path": path,
        "bytes": kept.size_bytes,
        "at": kept.delivered_at,
        "sha256": kept.sha256,
        "md5": kept.md5,
        "key": kept.key,
        "etag": kept.etag,
        "verified": kept.verified,
        "ambiguous": kept.ambiguous,
    }
    # What ended later, or is still to be sent, has the last word.
    if connection.execute(_LATER, row).fetchall():
        return False
    connection.execute(_ENTER, row)
    return True


def _set_aside(journal: Path) -> Path | None:
    """Give the damaged file and its log a second name; None where there is none."""
    if not journal.exists():
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = journal.with_name(f"{journal.name}.before-{stamp}")
    for end in ("", "-wal"):
        one = journal.with_name(journal.name + end)
        if one.exists():
            aside.with_name(aside.name + end).hardlink_to(one)
    return aside


def _put_in_place(made: Path, journal: Path) -> None:
    """Let the new journal take the name of the old one, with nothing beside it.

    The old log goes first. Killed in between this leaves the damaged file, beside an
    empty log: a start looks for damage then.
    """
    owner = (journal if journal.exists() else journal.parent).stat()
    for one in (made, journal.with_name(journal.name + ".lock")):
        # As root: it is the daemon's user that will use them.
        with suppress(PermissionError):
            os.chown(one, owner.st_uid, owner.st_gid)
    log, empty = (one.with_name(one.name + "-wal") for one in (journal, made))
    empty.touch(0o600)
    empty.rename(log)
    journal.with_name(journal.name + "-shm").unlink(missing_ok=True)
    made.rename(journal)
    log.unlink()
    sync(journal.parent)
    _remove(made)


def _remove(made: Path) -> None:
    for end in ("", "-wal", "-shm", ".lock", ".ballast"):
        made.with_name(made.name + end).unlink(missing_ok=True)
