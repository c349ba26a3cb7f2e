"""The unit files: systemd accepts them, and they are alike."""

import subprocess
from pathlib import Path

import pytest

from emitterd.config.settings import DeliverySettings
from emitterd.service.daemon import ABORT_GRACE_S
from support.paths import ROOT

SYSTEMD = ROOT / "systemd"
UNITS = ("emitterd.service", "emitterd@.service")
EXPOSURE = 1.3
OF_AN_INSTANCE = (
    ("files (%i)", "files"),
    ("/etc/emitterd/%i.yaml", "/etc/emitterd/emitter.yaml"),
    ("/etc/emitterd/%i.", "/etc/emitterd/"),
    ("emitterd/%i", "emitterd"),
)
"""What stands in the template, and in its place in the unit."""

SCRIPTS = [
    ROOT / "debian" / name
    for name in ("build-deb", "preinst", "postinst", "prerm", "postrm", "rtupdate")
]


@pytest.mark.tools("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    """No line is ignored, and nothing is missing but the program."""
    text = (SYSTEMD / unit).read_text()
    # What is not installed on this machine is not the unit's fault.
    placed = tmp_path / unit
    placed.write_text(text.replace("/usr/bin/emitterd", "/bin/true"))
    done = subprocess.run(  # noqa: S603  our own argument list
        ["systemd-analyze", "verify", "--man=no", str(placed)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert placed.read_text() != text
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.tools("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_low(unit: str) -> None:
    """The sandbox leaves open what emitterd needs, and no more."""
    done = subprocess.run(  # noqa: S603  our own argument list
        [
            *("systemd-analyze", "security", "--offline=true", "--no-pager"),
            *(f"--threshold={round(EXPOSURE * 10)}", str(SYSTEMD / unit)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_template_is_the_unit() -> None:
    """An instance differs by its configuration, secrets and places only."""
    unit, template = (settings((SYSTEMD / name).read_text()) for name in UNITS)
    for instance, item in OF_AN_INSTANCE:
        template = [line.replace(instance, item) for line in template]

    assert unit == template


def test_stop_may_take_as_long_as_the_drain() -> None:
    """The time to stop is drain_timeout's default, the abort, and a margin."""
    (line,) = (
        line
        for line in settings((SYSTEMD / UNITS[0]).read_text())
        if line.startswith("TimeoutStopSec=")
    )
    drain_s = DeliverySettings().drain_timeout_s

    assert int(line.removeprefix("TimeoutStopSec=")) == drain_s + ABORT_GRACE_S + 12


def settings(text: str) -> list[str]:
    """Return the lines of a unit that say something."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.tools("shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_sound(script: Path) -> None:
    """No script has what shellcheck objects to."""
    done = subprocess.run(  # noqa: S603  our own argument list
        ["shellcheck", str(script)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
