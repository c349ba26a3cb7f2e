"""The command `emitterd`: run as a process, and its options as data."""

import subprocess
import sys
from pathlib import Path

from emitterd.cli.main import command


def emitterd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that needs no installation."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "emitterd", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command_options() -> dict[str, set[str]]:
    """Return the options of every command, by the command's name."""
    commands = getattr(command, "commands", {})
    return {
        name: {option for param in known.params for option in param.opts}
        for name, known in commands.items()
    }
