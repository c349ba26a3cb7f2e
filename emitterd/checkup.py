"""What `check` does: the configuration, the machine, and with `--online` the server."""

import os
from pathlib import Path

from emitterd.config import describe, load
from emitterd.config_layers import find
from emitterd.inspector import load_inspector
from emitterd.logs import silence
from emitterd.machine import diagnoses
from emitterd.online import online as ask_online
from emitterd.tables import print_diagnoses, print_settings
from emitterd.terminal import DONE, WRONG


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
