"""Runs a command of root as the service would run it.

systemd starts it with the user of the unit, its secrets, and its view of the folders.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CONFIGURATIONS = Path("/etc/emitterd")
"""Each file NAME.yaml in it is the configuration of one service."""

_SETTING = re.compile(
    r"(User|Group|(Ambient)?Capabilit[a-zA-Z]+|(Load|Set)Credential|UMask|Environment(File)?"
    r"|(State|Logs)Directory(Mode)?|Protect(System|Home)|PrivateTmp"
    r"|(ReadWrite|ReadOnly|Bind)Paths)="
)
"""The settings that decide on access to files and secrets."""

_PASSED_ON = ("TERM", "LANG", "LC_ALL", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS")


def unit_of(config: Path) -> str:
    """Return the unit of the service that has this configuration."""
    return "emitterd.service" if config.stem == "emitter" else f"emitterd@{config.stem}.service"


def run_as_service(config: Path) -> int | None:
    """Run this command again as the service of a configuration; return its exit code.

    Returns None if this is not root, or if no unit of systemd uses the configuration.
    """
    config = config.absolute()
    # Set in a service of systemd, and so in the second run.
    if (
        os.geteuid() != 0
        or config.parent != CONFIGURATIONS
        or "CREDENTIALS_DIRECTORY" in os.environ
    ):
        return None
    unit = unit_of(config)
    try:
        found = subprocess.run(  # noqa: S603
            ["systemctl", "cat", "--", unit],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    settings = list(_settings(found.stdout, config.stem))
    if found.returncode or not settings:
        return None
    command = [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        *(f"--property={setting}" for setting in settings),
        *(f"--setenv={variable}" for variable in _PASSED_ON if variable in os.environ),
        *(str(Path(sys.argv[0]).resolve()), *sys.argv[1:], "--config", str(config)),
    ]
    return subprocess.run(command, check=False).returncode  # noqa: S603


def _settings(unit: str, name: str) -> Iterator[str]:
    for line in unit.splitlines():
        if _SETTING.match(line):
            yield line.replace("%i", name).replace("%%", "%")
