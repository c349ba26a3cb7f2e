"""Connect to the journal's database, and translate the errors of PostgreSQL.

psycopg uses PostgreSQL's own client library, so all of it holds here: URLs and keywords, service
files, password files, TLS, several servers in one URL.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Loader, PyFormat
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int4, Int4Dumper, Int8, Int8Dumper, IntDumper

from emitterd.errors import (
    JournalBusy,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalUnreachable,
)

Connection = psycopg.Connection[tuple[Any, ...]]

log = structlog.get_logger()

OLDEST_SERVER = 15
"""The oldest major version of PostgreSQL that the tests run against."""

CONNECT_TIMEOUT_S = 5
"""For each address of a server: a host that is off does not answer at all."""

AGAIN_S = 1.0
"""How long this host does not try to connect after a failure."""

IDLE_IN_TRANSACTION_S = 5
"""A host that was stopped in a transaction gives up its locks after this time."""

_DEFAULTS: dict[str, object] = {
    "application_name": "emitterd",
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A cut line is noticed within the grace of the lease.
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # After a failover: of several servers, the one that accepts writes.
    "target_session_attrs": "read-write",
}

_SESSION = f"""select set_config('timezone', 'UTC', false),
    set_config('lock_timeout', '5s', false),
    set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_S}s', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', %s, false),
    set_config('synchronous_commit', case current_setting('synchronous_commit')
        when 'off' then 'on' else current_setting('synchronous_commit') end, false),
    set_config('jit', 'off', false)"""
"""By a statement, not by `options`: pgbouncer refuses those."""

_UNREACHABLE = (
    errors.ReadOnlySqlTransaction,
    errors.TooManyConnections,
    errors.OutOfMemory,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.ConnectionException,
)

_ERRORS: tuple[tuple[tuple[type[psycopg.Error], ...], type[JournalError], str], ...] = (
    ((errors.DiskFull,), JournalFull, "free space on the disk of the database server"),
    (
        (
            errors.LockNotAvailable,
            errors.QueryCanceled,
            errors.DeadlockDetected,
            errors.SerializationFailure,
        ),
        JournalBusy,
        "end the session that holds the lock: see pg_locks",
    ),
    (
        (errors.InsufficientPrivilege,),
        JournalError,
        "make the user of journal.url owner of the database",
    ),
    (
        (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction),
        JournalError,
        "restore the database from a backup",
    ),
    (
        (errors.SystemError, errors.InternalError_),
        JournalIOError,
        "read the log of the database server",
    ),
)
"""Errors of statements: what they are for the journal, and the remedy."""

# libpq gives no SQLSTATE for these: only words, which are English unless the server's are not. One
# that is not recognised counts as unreachable: emitterd waits, and shows the words.
_REFUSALS: tuple[tuple[str, str], ...] = (
    (
        r"password authentication failed|no password supplied",
        "check the user in journal.url and the password in journal.password_file",
    ),
    (r'database ".*" does not exist', "create it: createdb --owner=USER DATABASE"),
    (r'role ".*" does not exist', "create the user: createuser USER"),
    (
        r"no pg_hba\.conf entry|authentication failed for user|permission denied for database",
        "let this user and host connect to the database: see pg_hba.conf of the server",
    ),
    (
        r"server does not support SSL|certificate verify failed|root certificate file",
        "check sslmode and sslrootcert in journal.url, and the server's certificate",
    ),
    (r"service file|definition of service", "check the service named in journal.url"),
)


@dataclass(frozen=True)
class DatabaseAddress:
    """Where the database is. `url`: a URL or keywords of libpq; it may contain a password."""

    url: str
    password_file: Path | None = None

    @cached_property
    def name(self) -> str:
        """Database and server, for messages: without user and password."""
        known = self._parameters
        where = known.get("host") or known.get("hostaddr")
        where = where or (f"service {known['service']}" if "service" in known else "this host")
        return f"{known.get('dbname', 'the default database')} on {where}"

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        try:
            return {key: value for key, value in conninfo_to_dict(self.url).items() if value}
        except psycopg.ProgrammingError:
            # The reason may quote the password.
            raise JournalError(
                "journal.url is not a connection URL of PostgreSQL",
                remedy="write it like postgresql://emitterd@db.example.org/emitterd",
            ) from None

    def connection_string(self) -> str:
        """Return it with the password and emitterd's defaults. Raises `JournalError`."""
        known = {**_DEFAULTS, **self._parameters}
        if self.password_file is not None:
            known["password"] = self._password(self.password_file)
        return make_conninfo("", **known)

    @staticmethod
    def _password(path: Path) -> str:
        try:
            return path.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise JournalError(
                f"cannot read journal.password_file {path}: {reason}",
                remedy="let the service's user read it: chown root:emitterd, chmod 640",
            ) from error


class _IntDumper(IntDumper):
    """Without the type of two bytes: each combination of types is prepared anew."""

    _four, _eight = Int4Dumper(Int4), Int8Dumper(Int8)

    def upgrade(self, obj: int, format: PyFormat) -> Any:  # noqa: A002, ANN401, ARG002  psycopg's
        return self._four if -(2**31) <= obj < 2**31 else self._eight


class _NumericLoader(Loader):
    """Sums of integers are integers, as in SQLite."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode("ascii")
        return float(text) if "." in text else int(text)


def connect(address: DatabaseAddress, *, read_only: bool = False) -> Connection:
    """Connect, each statement being a transaction of its own.

    Raises `JournalUnreachable` where waiting may help, and `JournalError` if the server is older
    than 15, or refuses the user, the password or the database.
    """
    try:
        connection = psycopg.connect(address.connection_string(), autocommit=True)
    except psycopg.OperationalError as error:
        raise _refused(error, address) from error
    with closed_on_failure(connection, address):
        server = connection.info.server_version // 10_000
        if server < OLDEST_SERVER:
            raise JournalError(
                f"{address.name}: PostgreSQL {server} is too old",
                remedy=f"emitterd needs PostgreSQL {OLDEST_SERVER} or later",
            )
        connection.execute(_SESSION, ("on" if read_only else "off",))
    connection.adapters.register_dumper(int, _IntDumper)
    connection.adapters.register_loader("numeric", _NumericLoader)
    return connection


class Connector:
    """Connects, and says since when that fails. Thread-safe.

    After a failure it fails for a second without a try: a host that is off answers to nobody, and
    each reader would wait for it.
    """

    def __init__(self, address: DatabaseAddress) -> None:
        self.address = address
        self.unreachable_since: float | None = None
        """Since when the database cannot be reached, seconds since the epoch."""
        self._failure: JournalUnreachable | None = None
        self._again_at = 0.0
        self._has_connected = False

    def connect(self, *, read_only: bool = False) -> Connection:
        """Connect. Raises what `connect` raises; after the first time only `JournalUnreachable`."""
        if self._failure is not None and time.monotonic() < self._again_at:
            raise JournalUnreachable(str(self._failure), remedy=self._failure.remedy)
        try:
            connection = connect(self.address, read_only=read_only)
        except JournalError as error:
            if not self._has_connected and not isinstance(error, JournalUnreachable):
                raise
            # A password that is being changed must not end a daemon that runs.
            failure = JournalUnreachable(str(error), remedy=error.remedy)
            self.lost(failure)
            raise failure from error
        if self.unreachable_since is not None:
            duration_s = time.time() - self.unreachable_since
            log.info("journal.recovered", duration_s=duration_s)
        self._has_connected, self._failure, self.unreachable_since = True, None, None
        return connection

    def lost(self, failure: JournalUnreachable) -> None:
        """Record that the database could not be reached."""
        self._failure, self._again_at = failure, time.monotonic() + AGAIN_S
        if self.unreachable_since is None:
            self.unreachable_since = time.time()
            log.error(
                "journal.unreachable", error=failure.code, reason=str(failure), hint=failure.remedy
            )


@contextmanager
def translated(address: DatabaseAddress) -> Iterator[None]:
    """Raise PostgreSQL's errors as our own."""
    try:
        yield
    except psycopg.Error as error:
        raise translate_error(error, address) from error


@contextmanager
def closed_on_failure(connection: Connection, address: DatabaseAddress) -> Iterator[None]:
    """Close the connection if the block fails; raise PostgreSQL's errors as our own."""
    try:
        with translated(address):
            yield
    except BaseException:
        close(connection)
        raise


def close(connection: Connection) -> None:
    """Close a connection that may be lost already."""
    with suppress(psycopg.Error, OSError):
        connection.close()


def is_lost(error: psycopg.Error) -> bool:
    """Tell whether the error says that the server is gone, or refuses all work for now."""
    if isinstance(error, _UNREACHABLE):
        return True
    # Without a SQLSTATE the error is of the line, not of the server.
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None
    )


def translate_error(error: psycopg.Error, address: DatabaseAddress) -> JournalError:
    """Return the `JournalError` for an error of PostgreSQL."""
    text = f"{address.name}: {_first_line(error)}"
    if is_lost(error):
        return JournalUnreachable(text)
    for kinds, journal_error, remedy in _ERRORS:
        if isinstance(error, kinds):
            return journal_error(text, remedy=remedy)
    return JournalError(text, remedy="read the log of the database server")


def _refused(error: psycopg.OperationalError, address: DatabaseAddress) -> JournalError:
    text = f"{address.name}: {_first_line(error)}"
    for pattern, remedy in _REFUSALS:
        if re.search(pattern, str(error)):
            return JournalError(text, remedy=remedy)
    return JournalUnreachable(text)


def _first_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary if error.sqlstate else None
    return primary or next(iter(str(error).splitlines()), type(error).__name__)
