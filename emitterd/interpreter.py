"""Starts modules of emitterd in a Python process of their own."""

import sys
from pathlib import Path


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module in isolation, with the libraries of this process.

    `-m` does not find those of the Debian package, which lie in a folder of their own.
    """
    folder = str(Path(__file__).parents[1])
    code = (
        f"import runpy, sys; sys.path.insert(0, {folder!r});"
        f" runpy.run_module({module!r}, run_name='__main__')"
    )
    return (sys.executable, "-I", "-c", code)
