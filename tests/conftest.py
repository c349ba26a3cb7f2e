"""Fixtures of all tests: real files, real SQLite, and where root runs them real mounts.

Nothing of the package is replaced. What this machine does not allow is skipped with
the reason.
"""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import chain, count
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from emitterd import text
from emitterd.client.presigned.client import PresignedClient
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.rehearsal.server import RehearsalServer
from emitterd.service import logging as logs
from emitterd.spool.folder import ignore_lease_breaks
from support.client import emission_to, http_client
from support.installation import Installation

pytest_plugins = ["support.debian", "support.postgresql", "support.seaweed", "support.tiers"]

# On a busy machine one example may take long. That is no error.
settings.register_profile("emitterd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("emitterd")

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

DISK_BYTES = 2 * 2**20

SKIP = 77
"""The exit code of a script that may not do what it is about, as in automake."""

NOBODY = f"""
import os
from emitterd.codes import load_texts
load_texts()
try:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
except OSError:
    os._exit({SKIP})
"""
"""What a script does to be nobody.

Imports and texts come before: another user may not be able to read the checkout.
"""

Mount = Callable[..., None]
NoThreads = Callable[[], AbstractContextManager[None]]
Python = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def _lease_breaks_ignored() -> None:
    """Survive SIGIO, which would end the test run."""
    ignore_lease_breaks()


@pytest.fixture(autouse=True)
def _no_secret_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask only the secrets of this test: the process keeps those of the tests before it."""
    monkeypatch.setattr(text, "_secrets", {})


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Restore structlog's defaults after a test: its settings are global."""
    yield
    logs.close()
    structlog.reset_defaults()


@pytest.fixture
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the proxy settings out of the environment."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def spool_root(tmp_path: Path) -> Path:
    """Make an empty folder to be watched."""
    root = tmp_path / "cqube_emission"
    root.mkdir()
    return root


@pytest.fixture
def store_kind() -> str:
    """Name the store of the journal; tests that run on both have a fixture of their own."""
    return "sqlite"


@pytest.fixture
def new_place(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], JournalLocation]]:
    """Return what makes an empty database; each call makes another one."""
    if store_kind == "sqlite":
        folders = chain(["state"], (f"state-{number}" for number in count(2)))
        yield lambda: JournalLocation(tmp_path / next(folders) / "journal.db")
        return
    cluster = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("journal_template")
    made: list[str] = []

    def make() -> JournalLocation:
        made.append(cluster.create(template))
        return JournalLocation(tmp_path / "state" / "journal", cluster.url(made[-1]), host="host-1")

    yield make
    for name in made:
        cluster.drop(name)


@pytest.fixture
def place(new_place: Callable[[], JournalLocation]) -> JournalLocation:
    """Make an empty database."""
    return new_place()


@pytest.fixture
def journal(place: JournalLocation) -> Iterator[Journal]:
    """Open an empty journal; it is closed at the end."""
    with open_journal(place) as journal:
        yield journal


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RehearsalServer]:
    """Run a rehearsal server."""
    with RehearsalServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Lay out an installation that sends to the rehearsal server."""
    return Installation(tmp_path, server.url)


@pytest.fixture
def emission(server: RehearsalServer) -> Iterator[PresignedClient]:
    """Build the way to the rehearsal server, with generous limits."""
    with http_client() as client:
        yield emission_to(client, server.url)


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount with these options at a folder, until the end of the test."""
    mounted: list[Path] = []

    def mount(*options: str, at: Path) -> None:
        if os.getuid() != 0:
            pytest.skip("only root may mount")
        done = subprocess.run(  # noqa: S603  our own argument list
            ["mount", *options, str(at)],  # noqa: S607  wherever it is
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(at)

    yield mount
    for point in reversed(mounted):
        subprocess.run(  # noqa: S603  our own argument list
            ["umount", "--lazy", "--quiet", str(point)],  # noqa: S607
            check=False,
            capture_output=True,
        )


class SmallDisk:
    """A file system of 2 MiB that can be filled and freed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self, *, spare: bool = True, log: bool = False) -> None:
        """Take the last byte; without `spare` also what the journal keeps.

        The write-ahead log is emptied first, so that no write can use its room; with `log` it is
        left as it is.
        """
        for path in () if log else self.root.rglob("*.db"):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("pragma wal_checkpoint(truncate)")
        if not spare:
            for kept in self.root.rglob("*.db.ballast"):
                kept.unlink()
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def free(self) -> None:
        """Give it all back."""
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path, mount: Mount) -> SmallDisk:
    """Mount a small file system of its own."""
    root = tmp_path / "small"
    root.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at=root)
    return SmallDisk(root)


@pytest.fixture
def no_threads() -> NoThreads:
    """Return what lets no thread start while its block runs: there is no room for a stack."""

    @contextmanager
    def block() -> Iterator[None]:
        threading.stack_size(2**47)
        try:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                threading.Thread(target=print).start()
            yield
        finally:
            threading.stack_size(0)

    return block


@pytest.fixture
def python() -> Python:
    """Run a script in a process of its own; return what it printed."""

    def run(script: str, *arguments: object, before: str = "", cwd: Path) -> str:
        """`before`: shell commands to be done first; the test is skipped if they fail.

        They may `unshare`, and run the script by `"$@"`.
        """
        command = [sys.executable, "-c", script, *map(str, arguments)]
        if before:
            command = ["sh", "-ec", before, "sh", *command]
        done = subprocess.run(  # noqa: S603  our own argument list
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
        )
        if before and done.stderr.startswith(("sh:", "unshare:", "mount:")):
            pytest.skip(f"the kernel refuses namespaces: {done.stderr.splitlines()[0]}")
        if done.returncode == SKIP:
            pytest.skip("not allowed to become another user")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the time zone of India."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
