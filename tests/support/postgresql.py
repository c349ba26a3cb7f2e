"""A private PostgreSQL cluster of the machine's own packages, and a database for each test.

Not pytest-postgresql: it cannot start a cluster as another user, which root must, and its process
outlives a test run that is killed.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Self

import psycopg
import pytest
from psycopg import sql

from emitterd.journal.postgresql.connection import DatabaseAddress, connect
from emitterd.journal.postgresql.schema import prepare
from support.ports import free_port
from support.tiers import need
from support.waiting import wait_until

START_DEADLINE_S = 60.0
VERSIONS = Path("/usr/lib/postgresql")
OWNER = "nobody"
"""Who runs the cluster where the tests run as root: PostgreSQL refuses root."""

SUPERUSER = "postgres"
USER = "emitterd"
"""The ordinary role that owns the databases, as the guide for administrators makes it."""

_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on"}

_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %d ",
    "autovacuum_naptime": "10s",
    "jit": "off",
    "max_wal_size": "256MB",
    "dynamic_shared_memory_type": "mmap",
}


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL programs; None if there is none."""
    found = [folder for folder in VERSIONS.glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


class Cluster:
    """A PostgreSQL server of its own, on a Unix socket, and at a port of loopback if wanted.

    It ends with the process that started it, even if that is killed.
    """

    def __init__(self, *, durable: bool = False, port: bool = False, **settings: str) -> None:
        """Prepare a server. `durable`: with fsync. `port`: at a port of 127.0.0.1 too.

        `settings` are lines of postgresql.conf.
        """
        # A socket's path has 107 bytes at most, and pytest's folders are closed to others.
        self.directory = Path(tempfile.mkdtemp(prefix="emitterd-pg-"))
        self.port = free_port() if port else 5432
        addresses = "127.0.0.1" if port else ""
        self._settings = {
            **_SETTINGS,
            **({} if durable else _FAST),
            "listen_addresses": addresses,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        try:
            self._create()
            self.start()
            self._execute(sql.SQL("create role {} login").format(sql.Identifier(USER)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "log"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own argument list
                self._as_owner("postgres", f"-D{self.data}", *settings),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self.answers, START_DEADLINE_S, "PostgreSQL answers")
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self.log.read_text(errors='replace')[-4000:]}") from None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server. SIGINT ends it in order; SIGQUIT at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_DEADLINE_S)
            self._process = None

    def answers(self) -> bool:
        """Tell whether the server accepts connections. Raises `RuntimeError` if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(self.log.read_text(errors="replace")[-4000:])
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, database: str = "postgres", user: str = SUPERUSER) -> psycopg.Connection:
        """Connect as superuser, without transactions of its own."""
        return psycopg.connect(self.url(database, user=user), autocommit=True)

    def url(self, database: str, *, user: str = USER) -> str:
        """Return `journal.url` of a database, by the Unix socket."""
        return f"postgresql:///{database}?host={self.directory}&port={self.port}&user={user}"

    def tcp_url(self, database: str, *, port: int = 0, user: str = USER) -> str:
        """Return `journal.url` of a database, by TCP; `port` is that of a proxy."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}?sslmode=disable"

    def create(self, template: str = "template1") -> str:
        """Create a database that belongs to the ordinary role; return its name."""
        name = f"journal_{next(self._numbers)}"
        command = sql.SQL("create database {} owner {} template {}")
        self._execute(command.format(*map(sql.Identifier, (name, USER, template))))
        return name

    def drop(self, name: str) -> None:
        """Drop a database, and end the connections to it."""
        self._execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _execute(self, command: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(command)

    def _create(self) -> None:
        if os.getuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(  # noqa: S603  our own argument list
            self._as_owner("initdb", f"-D{self.data}", f"--username={SUPERUSER}", *options),
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr}")

    def _as_owner(self, program: str, *arguments: str) -> list[str]:
        who: list[str] = []
        if os.getuid() == 0:
            group = pwd.getpwnam(OWNER).pw_gid
            who = ["--reuid", OWNER, "--regid", str(group), "--clear-groups"]
        setpriv = ["setpriv", *who, "--pdeathsig", "QUIT"]
        return [*setpriv, str(self._binaries / program), *arguments]

    @cached_property
    def _binaries(self) -> Path:
        folder = binaries()
        if folder is None:
            raise RuntimeError(f"no PostgreSQL below {VERSIONS}")
        return folder

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's: no PGHOST, no language."""
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.directory)}


def need_postgresql() -> None:
    """Skip the running test where PostgreSQL's programs are missing."""
    need("setpriv")
    if binaries() is None:
        pytest.skip("Debian package postgresql is missing: initdb")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """One cluster for all tests of a process, started by the first test that needs it.

    Without fsync: a test about power cuts or speed starts its own.
    """
    need_postgresql()
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def empty_database(postgresql: Cluster) -> Iterator[str]:
    """Return the name of an empty database."""
    name = postgresql.create()
    yield name
    postgresql.drop(name)


@pytest.fixture(scope="session")
def journal_template(postgresql: Cluster) -> str:
    """Return the name of a database with an empty journal: to copy it is faster than to make it."""
    name = postgresql.create()
    address = DatabaseAddress(postgresql.url(name))
    with closing(connect(address)) as connection:
        prepare(connection, address)
    return name


@pytest.fixture
def journal_address(postgresql: Cluster, journal_template: str) -> Iterator[DatabaseAddress]:
    """Return the address of an empty journal."""
    name = postgresql.create(journal_template)
    yield DatabaseAddress(postgresql.url(name))
    postgresql.drop(name)
