"""Open the journal read-only, recognise its file, and translate SQLite's errors.

Commands like `status` import only this, without the daemon's libraries.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

from emitterd.errors import JournalBusy, JournalDamaged, JournalError, JournalFull, JournalIOError
from emitterd.journal.sqlite.state_folder import is_locked, refuse_lost, refuse_unusable
from emitterd.journal.store import Clock, Parameters, Row
from emitterd.permissions import as_root, current_user
from emitterd.translation.text import Text

_FULL = frozenset(
    # The shared memory of the log is a file too: a full disk prevents its creation.
    {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
    | {"SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMMAP"}
)


# SQLITE_PROTOCOL: the start of a transaction has lost the race for a lock of the log too often.
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
# A restart may help after these, so the exit code is not 78, after which systemd starts nothing.
_PASSING = ("SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_INTERRUPT")


def translate_error(error: sqlite3.Error, path: Path | None = None) -> JournalError:
    """Return the `JournalError` for an error of SQLite: full, busy, damaged, or other."""
    name = getattr(error, "sqlite_errorname", "")
    if name in _FULL:
        return JournalFull(f"the journal cannot grow: {error}")
    if name.startswith(_BUSY):
        return JournalBusy(f"another program locks {path or 'the journal'}: {error}")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return JournalDamaged(f"{path or 'the journal'} is damaged: {error}")
    if name.startswith("SQLITE_CANTOPEN"):
        return _cannot_open(path, error)
    kind = JournalIOError if name.startswith(_PASSING) else JournalError
    return kind(f"{path or 'the journal'}: {error}")


def _cannot_open(path: Path | None, error: sqlite3.Error) -> JournalError:
    if path is not None and os.access(path, os.R_OK | os.W_OK):
        return _cannot_create(path, error)
    if path is not None and _is_missing(path):
        message = f"the journal {path} does not exist yet: the first start makes it"
        return JournalError(message, remedy=start_remedy(path))
    message = f"cannot open {path}: the user {current_user()} may not read it"
    return JournalError(message, remedy=as_root())


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return not isinstance(error, PermissionError)
    return False


def _cannot_create(path: Path, error: sqlite3.Error) -> JournalError:
    """Return the error where SQLite cannot create the log or its shared memory: it may pass."""
    reason = f"cannot create the files next to {path}: {error}"
    disk = os.statvfs(path.parent)
    if disk.f_files and not disk.f_favail:
        return JournalFull(
            reason, remedy=f"delete files on the disk of {path}: it has no free inode"
        )
    return JournalIOError(reason)


APPLICATION_ID = 0x454D4954
"""`EMIT`: marks the file as a journal of emitterd."""

VERSION = 11
"""`user_version` of `schema.sql`; `migrations/N.sql` leads to version N."""

BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for a lock of another program, such as a backup tool."""


class SystemClock:
    """The clock of this host."""

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()


SERVICES = Path("/var/lib/emitterd")
"""The folder of the service's journal. That of an instance is in a folder below it."""


def start_remedy(journal: Path) -> Text:
    """Return how to start the daemon of a journal. Perhaps its last start has failed."""
    folder = journal.parent
    if SERVICES in {folder, folder.parent}:
        unit = "emitterd" if folder == SERVICES else f"emitterd@{folder.name}"
        return Text(
            "systemctl start {unit}; if it ends, see why: journalctl -u {unit} -p err", unit=unit
        )
    return Text("run `emitterd run`, or `emitterd once` to deliver what is there now")


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the journal for reading only; each query is a transaction of its own.

    Raises `JournalError` if it is absent, foreign, newer, or damaged.
    """
    refuse_unusable(path)
    try:
        connection = sqlite3.connect(
            read_only(path),
            uri=True,
            isolation_level=None,
            # The daemon's threads share it, one at a time: `SqliteStore.read` has a lock.
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
        )
    except sqlite3.Error as error:
        raise translate_error(error, path) from error
    with closed_on_failure(connection, path):
        version = identify(connection, path)
        if version == 0:
            message = f"{path} is empty: no daemon has written to it yet"
            raise JournalError(message, remedy=start_remedy(path))
        if version < VERSION:
            raise JournalError(
                f"{path} was written by an older emitterd (schema {version})",
                remedy="restart the daemon: it upgrades the journal",
            )
    return connection


def open_nothing() -> sqlite3.Connection:
    """Open an empty journal in memory, for commands that only read."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(files("emitterd.journal.sqlite").joinpath("schema.sql").read_text())
    return connection


class SqliteReader:
    """The file opened for reading only, or an empty journal in memory."""

    clock: Clock = SystemClock()

    def __init__(self, path: Path, *, absent: bool = False) -> None:
        """Open the file. `absent`: a missing file counts as an empty journal."""
        self._path = path
        missing = absent and not path.exists()
        if missing:
            refuse_lost(path)
        self._connection = open_nothing() if missing else open_reader(path)

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call, or with `snapshot`.

        Raises `JournalError`.
        """
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Row]:
        """Yield the rows of a query that has too many for `read`."""
        with self._errors():
            yield from self._connection.execute(sql, parameters)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Return a context in which all reads see one consistent state. It must be short."""
        self.read("begin")
        try:
            yield
        finally:
            self.read("rollback")

    def is_running(self) -> bool:
        """Tell whether a daemon, or a command that writes, holds the journal."""
        return is_locked(self._path)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate_error(error, self._path) from error


@contextmanager
def closed_on_failure(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Close the connection if the block fails; raise SQLite's errors as our own."""
    try:
        yield
    except sqlite3.Error as error:
        connection.close()
        raise translate_error(error, path) from error
    except JournalError:
        connection.close()
        raise


def check(path: Path, how: str) -> None:
    """Check the file with `quick_check` or `integrity_check`, without changing it.

    Raises `JournalDamaged`, and `JournalError` if the file belongs to another program or a newer
    version.
    """
    # A writing connection would copy the log into the file, damaged or not, and remove it: the next
    # start would have no sign of the crash.
    try:
        connection = sqlite3.connect(read_only(path), uri=True, timeout=BUSY_TIMEOUT_S)
    except sqlite3.Error as error:
        raise translate_error(error, path) from error
    with closing(connection), closed_on_failure(connection, path):
        identify(connection, path)
        # The first problem is enough: SQLite would list a hundred.
        if connection.execute(f"pragma {how}(1)").fetchone()[0] != "ok":
            raise JournalDamaged(f"{path} is damaged")


def find_problem(path: Path) -> JournalError | None:
    """Return why a start would refuse this journal, or None."""
    try:
        refuse_unusable(path)
        # An empty file without signs of a former journal is a first start that was killed.
        if path.exists() and path.stat().st_size:
            check(path, "quick_check")
    except JournalError as error:
        return error
    return None


def read_only(path: Path) -> str:
    """Return the URI by which SQLite opens a file for reading only."""
    return f"{path.resolve().as_uri()}?mode=ro"


def identify(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version: 0 for an empty file.

    Raises `JournalError` if it belongs to another program or a newer version.
    """
    version = int(connection.execute("pragma user_version").fetchone()[0])
    application = int(connection.execute("pragma application_id").fetchone()[0])
    tables = int(connection.execute("select count(*) from sqlite_schema").fetchone()[0])
    # A file without tables has no mark yet: SQLite has just created it.
    if tables and application != APPLICATION_ID:
        raise JournalError(
            f"{path} is a database of another program", remedy="name another file in journal.path"
        )
    if version > VERSION:
        raise JournalError(
            f"{path} was written by a newer emitterd (schema {version})",
            remedy="install that version again; this one would damage the journal",
        )
    return version
