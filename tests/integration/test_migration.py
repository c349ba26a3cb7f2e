"""An installation of client.py moves over to the service."""

import grp
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Python
from emitterd.cli.setup.init import shipped
from emitterd.journal.reader import JournalReader
from emitterd.rehearsal.server import RehearsalServer
from support.keyboard import Terminal
from support.paths import ROOT
from support.zips import make_zip

SENT_AT = 1_700_000_000

REACHABLE = all(
    folder.stat().st_mode & stat.S_IXOTH
    for place in (ROOT, Path(os.__file__))
    for folder in place.parents
)
ACCOUNT = "nobody" if REACHABLE else "root"
"""The user of the service: root where no other user can reach Python and the checkout."""

SCRIPT = f"""
import os
from pathlib import Path
import click
from emitterd.cli.output import report_errors
from emitterd.cli.setup.migration import Service, migrate
from emitterd.config.upstream_config import read_upstream_config
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
etc = Path("etc").absolute()
service = Service(etc / "emitter.yaml", etc, {ACCOUNT!r}, "nogroup")
client, folder = Path("client/config.py").absolute(), Path("cqube_emission").absolute()
def run():
    try:
        return migrate(folder, read_upstream_config(client), client, SENT, service)
    except click.ClickException as error:
        print(error.message)
        return error.exit_code
print(report_errors(run))
"""


@pytest.fixture
def machine(server: RehearsalServer) -> Iterator[Path]:
    """Lay out a machine on which client.py has sent 20 of 24 files."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for number in range(24):
            file = make_zip(folder / "cqube_emission" / "pat" / f"periodic_exam_mst_{number}.zip")
            if number < 20:
                os.utime(file, (SENT_AT, SENT_AT))
        (folder / "etc").mkdir()
        (folder / "etc" / "emitter.yaml").write_text(shipped())
        (folder / "etc" / "password").touch(0o600)
        (folder / "client").mkdir()
        (folder / "client" / "config.py").write_text(
            f"emission_url='{server.url}'\nusername='emission'\npassword='rehearsal'\n"
            f"file_path='{folder}/cqube_emission/'\n"
        )
        yield folder


def owner(path: Path) -> tuple[str, str, int]:
    """Return user, group and mode."""
    status = path.stat()
    user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    return user, group, status.st_mode & 0o7777


def migrated(machine: Path, python: Python, sent: str | None) -> str:
    """Move the installation over, with nobody to ask; return the output."""
    return python(SCRIPT.replace("SENT", repr(sent)), cwd=machine)


def test_what_client_py_has_sent_is_not_sent_again(
    machine: Path, python: Python, server: RehearsalServer
) -> None:
    """Owners and modes are those of the service. A shipped configuration is not kept."""
    output = migrated(machine, python, "2024-01-01")

    assert output.endswith("\n0\n"), output
    assert "mark-delivered: 20 files" in output
    assert "ok" in output
    assert "start the service: systemctl start emitterd" in output
    assert "sudo" not in output
    assert "waiting" not in output
    assert "created" not in output
    assert "client.py" in output
    etc, folder = machine / "etc", machine / "cqube_emission"
    group = grp.getgrgid(pwd.getpwnam(ACCOUNT).pw_gid).gr_name
    assert owner(etc / "emitter.yaml") == ("root", group, 0o640)
    assert owner(etc / "password") == (ACCOUNT, group, 0o600)
    for place in (folder, folder / "pat", folder / "school_master"):
        assert owner(place) == (ACCOUNT, "nogroup", 0o2770)
    assert not list(etc.glob("*.before-*"))
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "emitterd", "once", "-c", str(etc / "emitter.yaml")], check=False
    )
    assert len(server.objects) == 4
    with JournalReader(etc / "journal.db") as journal:
        said = [receipt.get("confirmation") for receipt in journal.receipts()]
    assert sorted(said, key=str) == [None] * 4 + ["marked"] * 20


@pytest.mark.slow
def test_the_former_owner_may_drop_files_again(machine: Path, python: Python) -> None:
    """The steps name this user. The wait for files with new permissions is announced."""
    daemon = pwd.getpwnam("daemon")
    for path in [machine / "cqube_emission", *machine.glob("cqube_emission/pat/*")]:
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
        path.chmod(0o700 if path.is_dir() else 0o600)
    output = migrated(machine, python, "all")

    assert "waiting 6 s, until the files count as complete" in output
    assert "mark-delivered: 24 files" in output
    assert "allow daemon to drop files into " in output
    assert "usermod -aG nogroup daemon\n" in output
    assert "USER" not in output


def test_a_wrong_answer_is_asked_again(machine: Path) -> None:
    """The message says what is wrong, and nothing is lost: the next answer counts."""
    at_a_terminal = f"os.chdir({str(machine)!r})"
    script = SCRIPT.replace('os.dup2(os.open("/dev/null", os.O_RDONLY), 0)', at_a_terminal)
    terminal = Terminal(
        sys.executable, "-c", script.replace("SENT", "None"), env={**os.environ, "TERM": "dumb"}
    )
    try:
        terminal.type("", "sent: ")
        terminal.type("29.11.2026\r", "sent: ")
        assert "29.11.2026 is not a time: write it like 2026-11-24" in terminal.shown
        terminal.type("2024-01-01\r", "mark-delivered: 20 files")
        terminal.type("", "start the service")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_an_answer_that_fits_no_file_is_the_first_next_step(machine: Path, python: Python) -> None:
    """Otherwise the files that were sent are sent once more when the service starts."""
    output = migrated(machine, python, "pta/*.zip")

    assert output.endswith("\n1\n"), output
    assert "1. mark what client.py has sent" in output
    assert "emitterd mark-delivered 'pta/*.zip'" in output


@pytest.mark.parametrize(
    ("sent", "text", "message"),
    [
        ("all", "mine\n", "was changed, and nobody can be asked here; move it away"),
        ("yes", shipped(), "yes is not a time"),
        ("29.11.2026 18:00", shipped(), "is not a time: write it like 2026-11-24"),
        (None, shipped(), "Which has client.py sent already? Say --sent: all, none, a time"),
    ],
)
def test_without_a_person_to_ask_nothing_changes(
    machine: Path, python: Python, sent: str | None, text: str, message: str
) -> None:
    """An edited configuration is not replaced, and no file is taken for sent."""
    (machine / "etc" / "emitter.yaml").write_text(text)

    output = migrated(machine, python, sent)

    assert message in output
    assert (machine / "etc" / "emitter.yaml").read_text() == text
    assert owner(machine / "cqube_emission")[0] == "root"
