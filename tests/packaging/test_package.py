"""The Debian package: what it puts where, upgrades, removes, and leaves alone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.debian import Machine
from support.paths import ROOT

pytestmark = pytest.mark.timeout(600)

KEPT = "/srv/cqube_emission/pat/kept.zip"
MODES = {
    "/etc/emitterd/emitter.yaml": "640 root:emitterd",
    "/etc/emitterd/password": "600 emitterd:emitterd",
    "/srv/cqube_emission": "2770 emitterd:emitterd-producers",
}
UNITS = ("emitterd.service", "emitterd@second.service")
CONFIGURATION = """\
emission:
  # Nobody is there, which keeps no service from running.
  url: http://127.0.0.1:9
  username: emission
  password_file: /etc/emitterd/password
  allow_insecure_http: true
spool:
  directory: /srv/{name}
journal:
  path: /var/lib/emitterd/{name}/journal.db
"""


def modes(machine: Machine) -> dict[str, str]:
    """Return mode and owners of what MODES names."""
    return {path: machine.run("stat", "-c", "%a %U:%G", path).strip() for path in MODES}


def states(machine: Machine) -> list[str]:
    """Return whether each of UNITS runs."""
    return [machine.show("ActiveState", unit) for unit in UNITS]


def processes(machine: Machine) -> list[str]:
    """Return the service's processes, also those that systemd does not know of."""
    find = ("find", "/proc", "-maxdepth", "1", "-user", "emitterd", "-printf", "%f\\n")
    return machine.run(*find).split()


def upgrade(machine: Machine) -> None:
    """Install the package as a later version than the one that is there."""
    extracted = machine.root / "root/next"
    if not extracted.exists():
        machine.run("dpkg-deb", "--raw-extract", "/root/emitterd.deb", "/root/next")
    control = extracted / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: ", "Version: 9"))
    machine.run("dpkg-deb", "--build", "-Znone", "/root/next", "/root/next.deb")
    machine.run("dpkg", "--install", "/root/next.deb")


@pytest.mark.tools("lintian")
def test_lintian_finds_nothing(package: Path) -> None:
    """Each override has its reason in the file, and no other error or warning is left."""
    done = subprocess.run(  # noqa: S603  our own argument list
        ["lintian", "--allow-root", "--fail-on=warning", str(package)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "unused-override" not in done.stdout


@pytest.fixture(scope="module")
def installed(machine: Machine, package: Path) -> Machine:
    """Install the package where there is no network."""
    (machine.root / "root/emitterd.deb").write_bytes(package.read_bytes())
    machine.run("unshare", "--net", "dpkg", "--install", "/root/emitterd.deb")
    return machine


def test_installed_and_not_started(installed: Machine) -> None:
    """The service is enabled and waits for its configuration."""
    assert installed.show("UnitFileState") == "enabled"
    assert installed.show("ActiveState") == "inactive"
    assert modes(installed) == MODES
    assert "emitterd-producers" in installed.run("id", "--name", "--groups", "emitterd")


def test_command_can_be_called(installed: Machine) -> None:
    """`emitterd` is in everybody's path, and goes the whole way by itself."""
    assert "delivered" in installed.run("emitterd", "demo", user="nobody")


def test_unconfigured_it_says_what_is_missing(installed: Machine) -> None:
    """Started too early the service ends with 78 and says, as an error, what to do."""
    done = installed.call("systemctl", "start", "emitterd")
    errors = installed.run("journalctl", "--unit=emitterd", "--priority=err", "--output=cat")
    installed.run("systemctl", "reset-failed", "emitterd")

    assert done.returncode != 0
    assert "emission.password_file" in errors
    assert "emitterd set-password" in errors


def test_upgrade_keeps_what_is_the_operators(installed: Machine) -> None:
    """Configuration, secret, modes and a disabled service stay as they were."""
    yaml = installed.root / "etc/emitterd/emitter.yaml"
    edited = f"{yaml.read_text()}delivery:\n  workers: 3\n"
    yaml.write_text(edited)
    installed.write("/etc/emitterd/password", "secret")
    installed.run("systemctl", "disable", "emitterd")
    upgrade(installed)

    assert yaml.read_text() == edited
    assert (installed.root / "etc/emitterd/password").read_text() == "secret"
    assert modes(installed) == MODES
    assert installed.show("UnitFileState") == "disabled"


def test_longer_drain_is_given_its_time(installed: Machine) -> None:
    """After setup the unit lets a stop last as long as the configuration says."""
    yaml = installed.root / "etc/emitterd/emitter.yaml"
    before = yaml.read_text()
    yaml.write_text(before.replace("workers: 3", "drain_timeout: 5m"))
    installed.run("emitterd", "service", "setup")
    longer = installed.show("TimeoutStopUSec")
    yaml.write_text(before)
    installed.run("emitterd", "service", "setup")

    assert longer == "5min 15s"
    assert installed.show("TimeoutStopUSec") == "45s"


def test_upgrade_of_the_package_that_owned_the_configuration(installed: Machine) -> None:
    """An edited configuration that was a conffile survives upgrade and downgrade unasked."""
    installed.run("dpkg", "--purge", "emitterd")
    tree = installed.root / "root/former"
    installed.run("dpkg-deb", "--raw-extract", "/root/emitterd.deb", "/root/former")
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("(?m)^Version: .*", "Version: 0.0.1", control.read_text()))
    (tree / "etc/emitterd").mkdir()
    shutil.copy(ROOT / "emitter.yaml", tree / "etc/emitterd/emitter.yaml")
    with (tree / "DEBIAN/conffiles").open("a") as file:
        file.write("/etc/emitterd/emitter.yaml\n")
    installed.run("dpkg-deb", "--build", "-Znone", "/root/former", "/root/former.deb")
    yaml = installed.root / "etc/emitterd/emitter.yaml"
    texts: list[str] = []
    for package in ("former", "emitterd", "former", "emitterd"):
        installed.run("dpkg", "--install", f"/root/{package}.deb")
        if not texts:
            yaml.write_text("edited")
        texts.append(yaml.read_text())
    installed.run("dpkg", "--purge", "emitterd")
    purged = not yaml.exists()
    installed.run("dpkg", "--install", "/root/emitterd.deb")

    assert texts == ["edited"] * 4
    assert purged


@pytest.fixture(scope="module")
def configured(installed: Machine) -> Machine:
    """Configure the service and an instance, so that both can be started."""
    for file, name in (("emitter", "cqube_emission"), ("second", "second")):
        text = CONFIGURATION.format(name=name)
        installed.write(f"/etc/emitterd/{file}.yaml", text)
    installed.write("/etc/emitterd/password", "secret")
    installed.run("systemctl", "enable", *UNITS)
    installed.run("emitterd", "service", "setup")
    return installed


def test_upgrade_starts_nothing_that_is_stopped(configured: Machine) -> None:
    """Enabled and stopped they are stopped after an upgrade, too."""
    upgrade(configured)

    assert states(configured) == ["inactive", "inactive"]


def test_upgrade_restarts_what_runs(configured: Machine) -> None:
    """After an upgrade the service and an instance run the new program, once each."""
    configured.run("systemctl", "start", *UNITS)
    before = [configured.show("MainPID", unit) for unit in UNITS]
    configured.run("systemctl", "disable", UNITS[0])
    upgrade(configured)
    after = [configured.show("MainPID", unit) for unit in UNITS]

    assert states(configured) == ["active", "active"]
    assert configured.show("UnitFileState") == "disabled"
    assert not {*before} & {*after}
    assert {*after} == {*processes(configured)}


def test_removal_stops_what_runs(configured: Machine) -> None:
    """Nothing runs on without its program, or again when the package is back."""
    configured.run("systemctl", "start", *UNITS)
    configured.run("dpkg", "--remove", "emitterd")
    stopped = states(configured), processes(configured)
    configured.run("dpkg", "--install", "/root/emitterd.deb")

    assert stopped == (["inactive", "inactive"], [])
    assert states(configured) == ["inactive", "inactive"]


def test_purge_leaves_the_producers_files(installed: Machine) -> None:
    """Removal keeps configuration and journal, purge does not; the folder stays."""
    installed.write(KEPT, "a producer's")
    installed.write("/var/lib/emitterd/journal.db", "a journal")
    installed.run("dpkg", "--remove", "emitterd")
    removed = [
        (installed.root / name).exists()
        for name in ("usr/lib/emitterd", "etc/emitterd/password", "var/lib/emitterd")
    ]
    installed.run("dpkg", "--purge", "emitterd")
    left = installed.run("find", "/etc", "/usr", "/var/lib", "-path", "*/emitterd*")

    assert removed == [False, True, True]
    # What dpkg itself remembers of a unit is gone too.
    assert left == ""
    assert (installed.root / KEPT.lstrip("/")).read_text() == "a producer's"
