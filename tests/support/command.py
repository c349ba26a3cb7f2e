"""Helpers that several tests share."""

import subprocess
import sys
from pathlib import Path


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
