"""The cost of a start, a command and an idle second: counted, not timed."""

import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.config.settings import load
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.rows import ASKED, Admission, AdmissionResult, unchanged_paths
from emitterd.journal.work import Execute
from emitterd.model import Fingerprint, State
from emitterd.monitoring.health import AGED_S
from emitterd.monitoring.uploads import UploadTracker
from emitterd.rehearsal.server import RehearsalServer
from emitterd.service.components import Components
from support.installation import DEADLINE_S, Installation
from support.intake import IntakeDriver
from support.journal import deliver, sqlite_store
from support.zips import make_zip

NOBODY_LISTENS = "http://127.0.0.1:9/"

DAEMONS = frozenset({"httpx", "httpcore", "watchdog", "tenacity", "structlog", "pathspec"})
SERVERS = frozenset({"jinja2", "prometheus_client"})
HTTP_SERVER = frozenset({"starlette", "uvicorn"})
ELSEWHERE = HTTP_SERVER | {"anyio", "trio", "rich"}


@pytest.fixture
def office(tmp_path: Path) -> Installation:
    """Have an installation whose server is away, and whose imports are reported."""
    office = Installation(tmp_path, NOBODY_LISTENS)
    office.settings["PYTHONPROFILEIMPORTTIME"] = "1"
    return office


def loaded(text: str) -> set[str]:
    """Return the packages of which a process says that it has imported modules.

    It names what was looked for and not found, too, but nothing below that.
    """
    return set(re.findall(r"^import time:.*\|\s+(\w+)\.", text, re.MULTILINE))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["status"], ["list"]], ids=str)
def test_a_command_loads_what_it_uses(office: Installation, arguments: list[str]) -> None:
    """A query command imports nothing of the daemon, and a file needs no colours.

    While no daemon runs, `status` looks for files that wait, by the patterns of the configuration.
    """
    open_journal(office.journal).close()
    command = office.command(*arguments)
    if arguments[0].startswith("--"):
        command = command[:-2]
    done = subprocess.run(  # noqa: S603  our own command line
        command,
        env=office.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )

    patterns = {"pathspec"} if arguments == ["status"] else set()
    unwanted = DAEMONS - patterns | SERVERS | ELSEWHERE
    assert "click" in loaded(done.stderr)
    assert loaded(done.stderr) & unwanted == set()


@pytest.mark.parametrize("command", ["run", "once"])
def test_the_daemon_loads_what_it_serves(office: Installation, command: str) -> None:
    """Without `web.listen` and channels neither their libraries nor their modules come."""
    with subprocess.Popen(  # noqa: S603  our own command line
        office.command(command),
        env=office.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        assert daemon.stdout is not None
        for line in daemon.stdout:
            if '"daemon.ready"' in line:
                daemon.send_signal(signal.SIGTERM)
        _, output = daemon.communicate(timeout=DEADLINE_S)

    assert daemon.returncode == 0
    assert loaded(output) >= DAEMONS
    assert loaded(output) & (SERVERS | HTTP_SERVER) == set()
    assert "emitterd.monitoring.alerts" not in output


@contextmanager
def counting(connection: sqlite3.Connection) -> Iterator[list[str]]:
    """Keep the statements that a connection runs."""
    statements: list[str] = []

    def keep(statement: str) -> None:
        # A trigger's own are reported as the statement that set it off, once more.
        if statement not in statements[-1:]:
            statements.append(statement)

    connection.set_trace_callback(keep)
    try:
        yield statements
    finally:
        connection.set_trace_callback(None)


@contextmanager
def reading(journal: Journal) -> Iterator[list[str]]:
    """Keep the queries of the connection that reads."""
    with counting(sqlite_store(journal)._reader) as statements:
        yield statements


def admissions(count: int, first: int = 0) -> list[Admission]:
    """Return admissions of files of as many paths."""
    return [
        Admission(b"pat/%d.zip" % n, Fingerprint(1, n, 3, 4, 5), "pat", 0)
        for n in range(first, first + count)
    ]


def test_a_new_path_costs_two_statements(journal: Journal) -> None:
    """Each file of a batch costs one query and one insert, in one transaction."""
    with counting(sqlite_store(journal)._writer) as few:
        journal.admit(admissions(10))
    with counting(sqlite_store(journal)._writer) as many:
        journal.admit(admissions(110, first=10))

    assert len(many) - len(few) == 2 * 100


def test_a_forgotten_version_is_no_later_one(journal: Journal) -> None:
    """Behind a forgotten version the one that is known is still found."""
    admission, other = admissions(2)
    journal.admit([admission])
    journal.store.write(
        Execute(
            """insert into entry select id + 1, path, 'withdrawn', flow, turn, rank,
               device, inode, bytes, mtime_ns, ctime_ns, admitted_at, changed_at,
               attempts, due_at, error, reason, "grant", key, granted_at, ambiguous,
               earlier_keys, delivered_at, duration_s, sha256, md5, etag, verified,
               disposal, findings, 1.0, moved_to, confirmation, delivered_to,
               token, host
               from entry"""
        )
    )
    answers = [answer.result for answer in journal.admit([admission, other])]

    assert answers == [AdmissionResult.KNOWN, AdmissionResult.ADMITTED]


@pytest.fixture
def delivered(spool_root: Path, journal: Journal) -> IntakeDriver:
    """Watch a folder of more files than one query asks for, all delivered."""
    for number in range(ASKED + 200):
        make_zip(spool_root / "pat" / f"{number}.zip")
    driver = IntakeDriver(spool_root, journal)
    driver.sweep()
    while (entry := journal.claim(time.time())) is not None:
        deliver(journal, entry)
    return driver


def test_a_sweep_asks_for_many_at_once(delivered: IntakeDriver) -> None:
    """A known file costs no query of its own."""
    with reading(delivered.journal) as queries:
        swept = delivered.sweep()

    assert (swept["files"], swept["admitted"]) == (ASKED + 200, 0)
    # Two, and another for each slice that a busy machine ends early.
    assert len(queries) < 20


def test_a_sweep_finds_what_has_changed(delivered: IntakeDriver) -> None:
    """Among many known files a changed one is admitted."""
    make_zip(delivered.root / "pat" / "7.zip", b"id\n2\n")
    swept = delivered.sweep()

    entry = delivered.journal.claim(time.time())
    assert swept["admitted"] == 1
    assert entry is not None
    assert entry.path == b"pat/7.zip"


def test_a_hint_does_not_wait_for_a_sweep(delivered: IntakeDriver) -> None:
    """Between slices of a sweep of known files a new one is looked at."""
    delivered.intake.sweep_soon()
    delivered.intake.step(delivered.now)
    make_zip(delivered.root / "pat" / "new.zip")
    events = delivered.step(1, b"pat/new.zip")

    assert [event["path"] for event in events] == ["pat/new.zip"]


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ("state = 'delivered'", True),
        ("state = 'rejected'", True),
        ("state = 'withdrawn'", False),
        ("state = 'delivered', disposal = 'due'", False),
        ("state = 'delivered', disposal = 'done'", True),
        ("forgotten_at = 1.0", False),
        ("bytes = bytes + 1", False),
        ("ctime_ns = ctime_ns + 1", False),
    ],
)
def test_what_is_settled(journal: Journal, change: str, known: object) -> None:
    """A version is settled if it is the latest, as it was seen, and needs nothing."""
    (admission,) = admissions(1)
    update = f"update entry set {change}"  # noqa: S608  a table above
    journal.admit([admission])
    journal.store.write(Execute(update))

    seen = {admission.path: admission.fingerprint, b"other": admission.fingerprint}
    assert unchanged_paths(journal.read, seen) == ({admission.path} if known else set())


@pytest.mark.slow
def test_no_known_file_is_read_at_a_start(tmp_path: Path) -> None:
    """A start over delivered files reads less than they have bytes."""
    noise, count, size = random.Random(1), 24, 2**20  # noqa: S311  filling
    with RehearsalServer(tmp_path / "server") as server:
        office = Installation(tmp_path, server.url)
        for number in range(count):
            office.drop(f"pat/{number}.zip", noise.randbytes(2 * size))
        with office.running():
            office.wait_delivered(count)
        with office.running() as daemon:
            daemon.wait_for_event("sweep.finished")
            output = Path(f"/proc/{daemon.pid}/io").read_text("ascii")

    read_bytes = int(output.split("rchar:")[1].split()[0])
    assert office.events("sweep.finished")[-1]["files"] == count
    assert read_bytes < count * size


@contextmanager
def parts(office: Installation) -> Iterator[Components]:
    """Put the daemon's parts together; no thread runs."""
    parts = Components(load(office.config, office.environment()), UploadTracker())
    try:
        yield parts
    finally:
        parts.http_client.close()
        parts.journal.close()


def test_a_look_asks_nothing_while_nothing_changes(office: Installation) -> None:
    """An answer of the journal is cached until a commit or until it is old."""
    now = time.time()
    with parts(office) as all_parts, reading(all_parts.journal) as queries:
        health = all_parts.health
        health._read(now)
        first = len(queries)
        health._read(now + 1)
        unchanged = len(queries) - first
        all_parts.journal.admit(admissions(1))
        after = health._read(now + 2).queue.counts
        changed = len(queries) - first
        health._read(now + 2 + AGED_S)
        aged = len(queries) - first - changed

    assert (unchanged, after[State.QUEUED]) == (0, 1)
    assert first == changed == aged > 0
