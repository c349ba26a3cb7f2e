"""What SQLite complains of, in the words of those who have to mend it."""

import sqlite3
from pathlib import Path

from emitterd.errors import JournalDamaged, JournalError, JournalFull

_FULL = frozenset(
    # The log's shared memory is a file too: on a full disk it cannot be made.
    {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
    | {"SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMMAP"}
)


def translate_error(error: sqlite3.Error, path: Path | None = None) -> JournalError:
    """Return SQLite's error as the journal's: full, damaged, or not to be opened."""
    name = getattr(error, "sqlite_errorname", "")
    if name in _FULL:
        return JournalFull(f"the journal cannot grow: {error}")
    if name in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
        return JournalDamaged(f"{path or 'the journal'} is damaged: {error}")
    if name == "SQLITE_CANTOPEN":
        return JournalError(
            f"cannot open {path}: it is not there, or this user may not read it",
            hint="start the daemon once, or run as the daemon's user",
        )
    return JournalError(f"{path or 'the journal'}: {error}")
