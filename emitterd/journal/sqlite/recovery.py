"""Rebuild a damaged or lost journal. Only an operator starts this.

The damaged file is kept under another name, and what can be read of it is copied into a new
journal. If anything is lost, the daemon holds each file that may have been delivered already: only
an operator can release it.
"""

import json
import time
from contextlib import closing
from pathlib import Path

from emitterd.errors import JournalDamaged
from emitterd.journal.rows import SAVE_FACT, RebuildReport, Salvaged
from emitterd.journal.sqlite.connection import check
from emitterd.journal.sqlite.disk_reserve import PAGE_BYTES
from emitterd.journal.sqlite.salvage import salvage
from emitterd.journal.sqlite.state_folder import Lock, generation, next_to
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.work import Execute
from emitterd.spool.files import sync

_NOTHING = Salvaged(0, None, whole=False)


def rebuild(journal: Path) -> RebuildReport | None:
    """Replace a damaged or lost journal by a new one; None if it is undamaged.

    Nothing is changed until the new journal is complete. Raises `JournalError` if the file
    belongs to another program or a newer version, and `JournalLocked` if a daemon is running.
    """
    with closing(Lock(journal)) as lock:
        if _is_sound(journal):
            return None
        report = _rebuild(journal)
        lock.save(generation(journal))
        return report


def _is_sound(journal: Path) -> bool:
    if not journal.exists() or not journal.stat().st_size:
        return False
    try:
        check(journal, "integrity_check")
    except JournalDamaged:
        return False
    return True


def _rebuild(journal: Path) -> RebuildReport:
    rebuilt = next_to(journal, ".rebuilt")
    backup: Path | None = None
    try:
        _remove(rebuilt)
        backup = _back_up(journal)
        with SqliteStore(rebuilt) as fresh:
            salvaged = salvage(backup, fresh) if backup else _NOTHING
            if not salvaged.whole:
                _save_rebuild_time(fresh)
        _put_in_place(rebuilt, journal)
    except BaseException:
        _remove(rebuilt)
        if backup is not None:
            _remove(backup)
        raise
    if backup is not None:
        next_to(backup, "-shm").unlink(missing_ok=True)
    return RebuildReport(backup, salvaged)


def _save_rebuild_time(fresh: SqliteStore) -> None:
    """Make admission hold files that are older than now and not known as delivered."""
    ((last,),) = fresh.read("select max(admitted_at) from entry")
    fact = "", "rebuilt_at", json.dumps(max(fresh.clock.now(), last or 0.0))
    fresh.write(Execute(SAVE_FACT, [fact]))


def _back_up(journal: Path) -> Path | None:
    """Give the damaged file and its log a second name; None if there is neither."""
    files = [file for file in (journal, next_to(journal, "-wal")) if file.exists()]
    if not files:
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    backup = next_to(journal, f".before-{stamp}")
    for source in files:
        if source.stat().st_size:
            backup.with_name(source.name.replace(journal.name, backup.name)).hardlink_to(source)
    if not backup.exists():
        # SQLite deletes the log of an empty file, and reads the log of a page of zeros.
        backup.write_bytes(bytes(PAGE_BYTES))
    return backup


def _put_in_place(rebuilt: Path, journal: Path) -> None:
    """Rename the new journal to the name of the old one.

    The old log must not be applied to the new file, so an empty log replaces it first. A crash in
    between leaves the damaged file beside an empty log: the next start then checks the file for
    damage.
    """
    log = next_to(journal, "-wal")
    empty = next_to(rebuilt, "-wal")
    empty.touch(0o600)
    empty.rename(log)
    next_to(journal, "-shm").unlink(missing_ok=True)
    rebuilt.rename(journal)
    log.unlink()
    sync(journal.parent)
    _remove(rebuilt)


def _remove(journal: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock", ".ballast"):
        next_to(journal, suffix).unlink(missing_ok=True)
