"""install.sh: from a clone to a service, again, and back."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.debian import Machine
from support.installation import DEADLINE_S, PASSWORD
from support.paths import ROOT
from support.waiting import wait_until
from support.zips import zip_bytes

pytestmark = pytest.mark.timeout(600)

CLONE = ("emitterd", "systemd", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
BUILD = "hatchling"
WHEELS = ("env", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/root/wheels")
"""What pip is reported: there is no index in the machine."""


@pytest.fixture(scope="module")
def installed(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Install from a clone, with all wheels that pip will want beside it."""
    target = machine.root / "root/clone"
    target.mkdir()
    for name in CLONE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target / name)
    wheels = tmp_path_factory.mktemp("wheels")
    for arguments in (
        ["download", "-q", f"--dest={wheels}", "-r", ROOT / "requirements.lock"],
        ["wheel", "-q", f"--wheel-dir={wheels}", BUILD],
    ):
        done = subprocess.run(  # noqa: S603  our own argument list
            [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    shutil.copytree(wheels, machine.root / "root/wheels")
    assert "systemctl start emitterd" in install(machine)
    return machine


def install(machine: Machine, *arguments: str) -> str:
    """Run install.sh without a network; return its output."""
    return machine.run(*(*WHEELS, "unshare", "--net", "/root/clone/systemd/install.sh", *arguments))


def test_installed_and_enabled(installed: Machine) -> None:
    """After one command the service is there, and waits for its configuration."""
    started = installed.call("systemctl", "start", "emitterd")
    status = installed.show("ExecMainStatus")

    assert installed.show("UnitFileState") == "enabled"
    assert "emitterd-producers" in installed.run("id", "--name", "--groups", "emitterd")
    # Its configuration is the sample: it says so, and is not started over and over.
    assert (started.returncode != 0, status) == (True, "78")
    assert "0." in installed.run("emitterd", "--version")


def test_again_it_keeps_the_operators_files(installed: Machine) -> None:
    """A second run replaces the program, and neither configuration nor secret."""
    yaml = installed.root / "etc/emitterd/emitter.yaml"
    edited = f"{yaml.read_text()}delivery:\n  workers: 3\n"
    yaml.write_text(edited)
    installed.write("/etc/emitterd/password", "secret")
    installed.write("/opt/emitterd/venv/of-an-earlier-version", "")
    installed.run("systemctl", "disable", "emitterd")
    install(installed)

    assert yaml.read_text() == edited
    assert (installed.root / "etc/emitterd/password").read_text() == "secret"
    assert not (installed.root / "opt/emitterd/venv/of-an-earlier-version").exists()
    assert installed.show("UnitFileState") == "disabled"


def test_package_is_not_mixed_in(installed: Machine, package: Path) -> None:
    """The package is refused, with a remedy, and leaves the installation as it is."""
    (installed.root / "root/emitterd.deb").write_bytes(package.read_bytes())
    done = installed.call("dpkg", "--install", "/root/emitterd.deb")

    assert done.returncode != 0
    assert "install.sh --uninstall" in done.stderr
    assert "0." in installed.run("emitterd", "--version")


def test_uninstall_keeps_the_data(installed: Machine) -> None:
    """The program and the units go; configuration, journal and files stay."""
    kept = ("srv/cqube_emission/kept.zip", "var/lib/emitterd/journal.db")
    for path in kept:
        installed.write(path, "kept")
    install(installed, "--uninstall")

    assert [(installed.root / path).read_text() for path in kept] == ["kept", "kept"]
    assert (installed.root / "etc/emitterd/emitter.yaml").exists()
    assert not (installed.root / "opt/emitterd").exists()
    assert installed.show("LoadState") == "not-found"


def readme_steps() -> str:
    """Return "Install as a service" of the README, without indentation."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## Install as a service\n")[2].partition("\n## ")[0]
    return re.sub(r"(?m)^ +", "", section)


def test_readme_word_for_word(installed: Machine, server: RehearsalServer) -> None:
    """Who follows "Install as a service" on a new machine has files delivered."""
    steps = re.findall(r"```sh\n(.*?)```", readme_steps(), re.DOTALL)
    forget(installed)
    installed.run("useradd", "asha")

    def follow(step: str, *before: str, typed: str = "") -> str:
        script = step.replace("USER", "asha")
        inside = ("env", "--chdir=/root/clone", *before, "sh", "-ec", script)
        done = installed.call(*inside, typed=typed)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    install_it, password, start, look = steps
    follow(install_it, *WHEELS)
    yaml = installed.root / "etc/emitterd/emitter.yaml"
    text = yaml.read_text()
    for old, new in {
        "https://cqube.example.org/data": server.url,
        # What nobody needs whose server is not a rehearsal.
        "  # allow_insecure_http: ": "  allow_insecure_http: ",
    }.items():
        assert old in text
        text = text.replace(old, new)
    yaml.write_text(text)
    follow(password, typed=f"{PASSWORD}\n")
    follow(start)
    (installed.root / "var/tmp/x.zip").write_bytes(zip_bytes(b"id|name\n1|one\n"))
    script = 'mkdir -p "$1/pat" && cp /var/tmp/x.zip "$1/pat"'
    folder = "/srv/cqube_emission"
    installed.run("sh", "-c", script, "sh", folder, user="asha")
    wait_until(lambda: "1 delivered" in installed.show("StatusText"), DEADLINE_S, "delivered")
    # It would follow the log until the end of time.
    status, log, errors, first = (follow(line.replace(" -f ", " ")) for line in look.splitlines())

    assert "1 delivered; destination up" in status
    assert "file.delivered" in log
    assert "file.delivered" in first
    # Only a start without a configuration, in the test before, may be reported here.
    assert "destination" not in errors


def forget(machine: Machine) -> None:
    """Remove what --uninstall keeps: the machine is new again."""
    for folder in ("/etc", "/var/lib", "/var/log"):
        machine.run("rm", "-rf", f"{folder}/emitterd")
    machine.run("rm", "-rf", "/srv/cqube_emission")
    machine.run("userdel", "emitterd")
    machine.run("groupdel", "emitterd-producers")


def test_help_and_usage(tmp_path: Path) -> None:
    """`--help` explains, and what is not understood changes nothing."""
    script = str(ROOT / "systemd" / "install.sh")
    helped, wrong = (
        subprocess.run(  # noqa: S603  our own script
            [script, option], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        for option in ("--help", "--remove")
    )

    assert (helped.returncode, wrong.returncode) == (0, 2)
    assert "--uninstall" in helped.stdout
    assert "usage:" in wrong.stderr
