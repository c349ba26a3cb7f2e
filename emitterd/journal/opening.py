"""Opens the journal. Only this module knows which stores there are.

Commands like `status` import it, so what the daemon needs is imported where it is used.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from emitterd.errors import JournalError, ValueProblem
from emitterd.journal.sqlite.connection import SqliteReader, start_remedy
from emitterd.journal.sqlite.connection import find_problem as find_file_problem
from emitterd.journal.sqlite.state_folder import act_as_owner, is_locked
from emitterd.journal.store import Store, StoreReader

if TYPE_CHECKING:
    from emitterd.journal.journal import Journal
    from emitterd.journal.rows import RebuildReport

__all__ = [
    "FORMER_SERVER",
    "JournalLocation",
    "act_as_owner",
    "check_library",
    "find_problem",
    "is_running",
    "located",
    "open_journal",
    "open_reader",
    "rebuild",
    "start_remedy",
]

FORMER_SERVER = (
    "nothing is sent again by itself; `emitterd forget PATH` sends a file to the server of"
    " emission.url too, `emitterd forget --state delivered` all files of the folder"
)
"""The remedy where files were delivered to the server of a former configuration."""


@dataclass(frozen=True, slots=True)
class JournalLocation:
    """Where a journal is: in a file at `path`, or in the PostgreSQL database at `url`.

    `url` may hold a password. With a `url`, `path` names no file; in its folder is what only this
    host needs, such as its control socket. `host` is the name of this host among those that share
    the database.
    """

    path: Path
    url: str = field(default="", repr=False)
    password_file: Path | None = None
    host: str = ""


def check_library() -> None:
    """Raise `ValueProblem` if what `journal.url` needs is not installed."""
    if find_spec("psycopg") is None:
        raise ValueProblem(
            "needs the library psycopg, which is not installed",
            "run: pip install 'emitterd[postgresql]', or on Debian: apt install python3-psycopg",
        )


def open_journal(
    place: JournalLocation | Path, backoff_max_s: float = 600.0, *, is_command: bool = False
) -> "Journal":
    """Open or create the journal, and put back into the queue what a dead process had claimed.

    `place`: a path alone is that of a file. `backoff_max_s`: see `Journal.apply_settings`.
    `is_command`: for a command of the operator, which claims nothing. Raises `JournalLocked` if
    another process has it, `JournalUnreachable` where it is in a database that does not answer, and
    other `JournalError`s.
    """
    from emitterd.journal.journal import Journal

    store = _open_store(located(place), is_command=is_command)
    try:
        return Journal(store, backoff_max_s)
    except BaseException:
        store.close()
        raise


def _open_store(location: JournalLocation, *, is_command: bool) -> Store:
    if location.url:
        from emitterd.journal.postgresql.connection import DatabaseAddress
        from emitterd.journal.postgresql.store import PostgresqlStore

        address = DatabaseAddress(location.url, location.password_file)
        tail = location.path.with_name(f"{location.path.name}.tail")
        return PostgresqlStore(
            address, location.host, tail=None if is_command else tail, is_command=is_command
        )
    from emitterd.journal.sqlite.store import SqliteStore

    return SqliteStore(location.path)


def open_reader(place: JournalLocation | Path, *, absent: bool = False) -> StoreReader:
    """Open the journal for reading only. Raises `JournalError` if that fails.

    `place`: a path alone is that of a file. `absent`: a missing file, or a database without
    tables, counts as an empty journal.
    """
    location = located(place)
    if location.url:
        from emitterd.journal.postgresql.connection import DatabaseAddress
        from emitterd.journal.postgresql.reading import PostgresqlReader
        from emitterd.journal.postgresql.schema import NoTables

        try:
            return PostgresqlReader(DatabaseAddress(location.url, location.password_file))
        except NoTables:
            if not absent:
                raise
    return SqliteReader(location.path, absent=absent)


def find_problem(location: JournalLocation) -> JournalError | None:
    """Return why a start would refuse this journal, or would wait for it; else None."""
    if not location.url:
        return find_file_problem(location.path)
    try:
        open_reader(location, absent=True).close()
    except JournalError as error:
        return error
    return None


def is_running(location: JournalLocation) -> bool:
    """Tell whether a daemon, or a command that writes, holds the journal on this host."""
    return is_locked(location.path)


def located(place: JournalLocation | Path) -> JournalLocation:
    """Return a location; a path alone is that of a file."""
    return JournalLocation(place) if isinstance(place, Path) else place


def rebuild(path: Path) -> "RebuildReport | None":
    """Replace a damaged or lost journal by a new one; None if it is undamaged.

    Nothing is changed until the new journal is complete. Raises `JournalError` if the file
    belongs to another program or a newer version, and `JournalLocked` if a daemon is running.
    """
    from emitterd.journal.sqlite import recovery

    return recovery.rebuild(path)
