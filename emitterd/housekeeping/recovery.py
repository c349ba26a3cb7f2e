"""A damaged or lost journal is rebuilt: by an operator, never by itself.

What is left of it is set aside, what can be read is saved, and receipts that were
kept elsewhere are taken over. A file that may have been delivered all the same is
not sent again: the daemon will hold it.
"""

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emitterd.codes import Code
from emitterd.errors import FileError, JournalDamaged
from emitterd.fingerprint import Fingerprint
from emitterd.housekeeping.receipts import KeptReceipt, kept_receipts
from emitterd.housekeeping.salvage import Salvaged, salvage
from emitterd.journal.connection import check
from emitterd.journal.database import Database
from emitterd.journal.lock import Lock
from emitterd.journal.statements import LATEST, NOTE, known_of
from emitterd.model import LIVE
from emitterd.spool.files import sync
from emitterd.spool.folder import Spool, sha256
from emitterd.spool.selection import Selection

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
