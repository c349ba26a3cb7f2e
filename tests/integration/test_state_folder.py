"""The journal's place, seen from outside: lost, moved, locked, damaged, and owned by a user."""

import os
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.installation import Installation
from support.paths import ROOT
from support.tiers import need
from support.waiting import wait_until

USER = 65534

COMMANDS = [
    ("status",),
    ("status", "--check"),
    ("list",),
    ("receipts",),
    ("explain", "pat/a.zip"),
    ("check",),
    ("once",),
    ("hold", "pat/a.zip"),
]


def objects(server: RehearsalServer) -> int:
    """Return how many objects were stored, and how often."""
    return sum(item.posts for item in server.objects.values())


@pytest.mark.slow
def test_a_daemon_stops_when_its_journal_is_renamed(
    site: Installation, server: RehearsalServer
) -> None:
    """It says so and ends; the next start refuses with 78, and nothing is sent again."""
    site.drop("pat/a.zip")
    daemon = site.start()
    site.wait_delivered(1)
    away = site.journal.rename(site.folder / "away")
    site.drop("pat/b.zip")

    assert daemon.wait() == 1
    [event] = site.events("journal.moved")
    assert str(site.journal) in event["reason"]
    assert not site.journal.exists()
    assert site.call("once").returncode == 78
    before = objects(server)
    away.rename(site.journal)
    assert site.call("once").returncode == 0
    assert site.counts()["delivered"] == 2
    assert objects(server) <= before + 1


@pytest.mark.slow
def test_a_foreign_lock_costs_only_time(site: Installation, server: RehearsalServer) -> None:
    """The daemon lives on, a start ends with a code that systemd restarts, and all is sent."""
    site.drop("pat/a.zip")
    with site.running():
        site.wait_delivered(1)
        with closing(sqlite3.connect(site.journal, isolation_level=None)) as other:
            other.execute("begin immediate")
            site.drop("pat/b.zip")
            wait_until(lambda: site.events("journal.busy"), 30, "journal.busy")
        site.wait_delivered(2)
    assert objects(server) == 2
    with closing(sqlite3.connect(site.journal, isolation_level=None)) as other:
        other.execute("begin immediate")
        done = site.call("once")
    assert done.returncode == 1
    assert "E108" in done.stderr


def garbage(journal: Path) -> None:
    """Overwrite the file."""
    journal.write_bytes(b"no database " * 1000)


def first_page_only(journal: Path) -> None:
    """Damage what follows the header and the schema's own page."""
    content = journal.read_bytes()
    journal.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(garbage, "damaged"), (first_page_only, "damaged"), (Path.unlink, "there was one")],
)
@pytest.mark.slow
def test_every_command_refuses_a_journal_that_it_cannot_use(
    site: Installation, harm: Callable[[Path], None], reason: str
) -> None:
    """Exit code 78, the reason and the remedy; no traceback, and nothing is changed."""
    site.drop("pat/a.zip")
    assert site.call("once").returncode == 0
    harm(site.journal)
    before = site.journal.read_bytes() if site.journal.exists() else None
    for command in COMMANDS:
        if (harm, command[0]) == (first_page_only, "once"):
            # A clean stop costs no check of all pages; only what is read is found.
            continue
        done = site.call(*command)
        assert done.returncode == 78, (command, done.stderr)
        assert reason in done.stderr
        assert "emitterd rebuild" in done.stderr
        assert "Traceback" not in done.stderr
    assert (site.journal.read_bytes() if site.journal.exists() else None) == before


PYTHONS = (sys.executable, "/usr/bin/python3")
LIBRARIES = f"{ROOT}:{sysconfig.get_path('purelib')}"
"""Not the standard library: the other interpreter has its own."""


def python_for_all() -> str:
    """Return an interpreter that can import emitterd as any user; skip if there is none."""
    for python in PYTHONS:
        script = "import emitterd.service.daemon, importlib.readers, sys; print(sys.base_prefix)"
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", python]
        done = subprocess.run(  # noqa: S603  our own argument list
            [*command, "-c", script],
            env={"PYTHONPATH": LIBRARIES},
            capture_output=True,
            text=True,
            check=False,
        )
        own = subprocess.run(  # noqa: S603  our own argument list
            [python, "-c", "import sys; print(sys.base_prefix)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout == own.stdout:
            return python
    pytest.skip("no interpreter here can be read by every user")


@pytest.fixture
def owned(site: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """Return an installation whose state folder belongs to a user."""
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    need("setpriv")
    python = python_for_all()
    site.settings["PYTHONPATH"] = LIBRARIES
    monkeypatch.setattr(sys, "executable", python)
    state = tmp_path / "state"
    state.mkdir()
    site.journal = state / "journal.db"
    site.settings["EMITTERD_JOURNAL_PATH"] = str(site.journal)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)
    for path in (site.folder, site.spool, state, site.folder / "password"):
        os.chown(path, USER, USER)
    return site


@pytest.mark.slow
def test_commands_of_root_leave_nothing_of_root(owned: Installation) -> None:
    """Each one acts as the owner of the state folder, with and without a daemon."""
    owned.drop("pat/a.zip")
    assert owned.call("once").returncode == 0
    for command in (*COMMANDS, ("rebuild",), ("release", "pat/a.zip"), ("forget", "pat/a.zip")):
        assert "Traceback" not in owned.call(*command).stderr
    state = owned.journal.parent
    assert {path.stat().st_uid for path in (state, *state.iterdir())} == {USER}
    assert owned.journal.exists()
    [action] = owned.ask("explain", "pat/a.zip")["actions"]
    assert action["user"].startswith("root")


@pytest.mark.slow
def test_root_follows_no_link_of_the_services_user(owned: Installation) -> None:
    """Links in the state folder neither change nor create a file elsewhere."""
    target = owned.folder / "shadow"
    target.write_text("root:secret\n")
    target.chmod(0o600)
    os.chown(target, 0, 0)
    for suffix in (".lock", ".ballast", "-wal", ".rebuilt", ".rebuilt.lock"):
        link = owned.journal.with_name(owned.journal.name + suffix)
        link.symlink_to(target)
        os.chown(link, USER, USER, follow_symlinks=False)
    for command in ("hold", "rebuild", "once"):
        owned.call(command, *(["pat/a.zip"] if command == "hold" else []))
        stat = target.stat()
        assert (target.read_text(), stat.st_uid, stat.st_mode & 0o777) == (
            "root:secret\n",
            0,
            0o600,
        )
