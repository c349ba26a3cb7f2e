"""What `check` does: the configuration, the machine, and with `--online` the server."""

import os
from pathlib import Path

from emitterd.cli.check import diagnoses
from emitterd.cli.check_online import online as ask_online
from emitterd.cli.output import print_diagnoses, print_settings
from emitterd.cli.terminal import DONE, WRONG
from emitterd.config.settings import describe, load
from emitterd.config.sources import find
from emitterd.datasets.inspector import load_inspector
from emitterd.service.logging import silence


def check(config: Path | None, *, online: bool) -> int:
    """Print what is in force, and what was found; return the exit code."""
    settings = load(find(config, os.environ), os.environ)
    load_inspector(settings.spool)
    print_settings(describe(settings))
    found = diagnoses(settings)
    print_diagnoses(found)
    if online:
        # The login's own lines would come between the answers.
        silence()
        for one in ask_online(settings):
            print_diagnoses([one])
            found.append(one)
    wrong = any(one.level == "error" for one in found)
    return WRONG if wrong else DONE
