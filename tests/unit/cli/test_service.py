"""`service` and `check` of root, as far as they need neither root nor systemd."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import NOBODY, Python
from emitterd.cli.setup.as_service import _settings, run_as_service
from emitterd.cli.setup.machine import _escaped, _written
from emitterd.config.settings import load_part
from emitterd.interpreter import module_command
from emitterd.share import UNITS, places, shared

NOT_PLACED = {
    *(f"systemd/{unit}" for unit in UNITS),
    # `service setup` puts it beside the units, where systemd knows it.
    "systemd/notify-reload.conf",
    "monitoring/emitterd.rules.test.yml",
}


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_every_shared_file_has_a_place(prefix: str) -> None:
    """No manual page, completion, rule or catalog of the wheel is forgotten by an installation."""
    folder = shared("")
    # Not rglob: the folders are links in the repository.
    names = {
        str(path.relative_to(folder))
        for path in (*folder.glob("*/*"), *folder.glob("*.yaml"))
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert set(places(Path(prefix))) == names - NOT_PLACED


def test_only_root_installs(python: Python, tmp_path: Path) -> None:
    """Another user gets the command for root, and nothing is changed."""
    script = f"""
from click import ClickException
from emitterd.cli.setup import machine, service
{NOBODY}
for action in (service.install, machine.setup, service.uninstall):
    try:
        action()
    except ClickException as error:
        print(error.message)
"""
    printed = python(script, cwd=tmp_path)

    assert [line.partition(": ")[2] for line in printed.splitlines()] == [
        f"emitterd service {action}" for action in ("install", "setup", "uninstall")
    ]


def test_folders_outside_srv_become_writable(tmp_path: Path) -> None:
    """The unit allows the archive, and the watched folder from which files are moved there."""
    file = tmp_path / "emitter.yaml"
    file.write_text(
        "spool: {directory: /data/in, after_delivery: archive, archive_directory: /data/sent}\n"
        "log: {file: /var/log/emitterd/emitterd.jsonl}\n"
    )
    config = load_part(file, {}, "spool", "log")

    assert list(_written(config)) == [Path("/data/in"), Path("/data/sent")]


def test_folders_of_other_configurations_stay_read_only(tmp_path: Path) -> None:
    """A service that moves no file writes to no folder of the producers."""
    file = tmp_path / "emitter.yaml"
    file.write_text("spool: {directory: /data/in}\n")

    assert list(_written(load_part(file, {}, "spool", "log"))) == []


def test_path_in_a_file_of_systemd() -> None:
    """No character of a path ends the quoted word or names a specifier."""
    assert _escaped(Path('/data/100% "in"\\')) == '/data/100%% \\"in\\"\\\\'


def test_check_takes_access_and_secrets_from_the_unit() -> None:
    """What decides on access is passed on for the instance, also what an empty line resets."""
    unit = """\
[Service]
User=emitterd
ExecStart=/usr/bin/emitterd run
LoadCredential=password:/etc/emitterd/%i.password
ReadWritePaths="-/data/100%% in"
CapabilityBoundingSet=
"""

    assert list(_settings(unit, "north")) == [
        "User=emitterd",
        "LoadCredential=password:/etc/emitterd/north.password",
        'ReadWritePaths="-/data/100% in"',
        "CapabilityBoundingSet=",
    ]


def test_check_of_another_configuration_stays_in_this_process(tmp_path: Path) -> None:
    """Only the configurations in /etc/emitterd belong to a service."""
    assert run_as_service(tmp_path / "emitter.yaml") is None


def test_module_runs_with_the_libraries_of_this_process(tmp_path: Path) -> None:
    """A child finds emitterd from any folder, and takes no module from there."""
    (tmp_path / "emitterd.py").write_text("raise SystemExit('wrong module')\n")
    done = subprocess.run(  # noqa: S603  ourselves
        [*module_command("emitterd"), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert module_command("emitterd")[0] == sys.executable
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("emitterd ")
