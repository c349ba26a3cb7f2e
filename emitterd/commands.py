"""What the commands of an installation do: `run`, `once`, `check`.

Functions return the exit code.
"""

import os
import sys
from pathlib import Path

from emitterd.config import Config, describe, load
from emitterd.config_layers import find
from emitterd.daemon import Daemon
from emitterd.inspector import load_inspector
from emitterd.logs import configure, silence
from emitterd.machine import diagnoses
from emitterd.online import online as ask_online
from emitterd.tables import Bars, print_diagnoses, print_settings, print_undelivered
from emitterd.terminal import CONFIGURATION, DONE, WRONG, complain


def run(config: Path | None) -> int:
    """Watch and deliver until a signal."""
    # A disk that is mounted late must not leave the service off for ever.
    settings = _load(config, awaits_folder=True)
    return _configure_log(settings) or Daemon(settings).run()


def once(config: Path | None, wait_s: float) -> int:
    """Deliver what is complete now."""
    settings = _load(config)
    people = sys.stdout.isatty() and sys.stderr.isatty()
    # Bars and lines of single files would spoil each other.
    if code := _configure_log(settings, quiet=people):
        return code
    if people:
        with Bars() as bars:
            daemon = Daemon(settings, bars)
            code, left = daemon.once(wait_s)
    else:
        daemon = Daemon(settings)
        code, left = daemon.once(wait_s)
    if left:
        print_undelivered(left)
    if left and (down := daemon.down()) is not None:
        complain(
            f"the destination is down: {down.code} {down.reason}", f"  {down.hint}"
        )
    return code


def check(config: Path | None, *, online: bool) -> int:
    """Check the configuration, the machine, and with `online` the server."""
    settings = _load(config)
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


def _load(path: Path | None, *, awaits_folder: bool = False) -> Config:
    place = find(path, os.environ)
    return load(place, os.environ, awaits_folder=awaits_folder)


def _configure_log(settings: Config, *, quiet: bool = False) -> int:
    """Open the log; return an exit code where that fails, else 0."""
    level = settings.log.level
    if quiet and settings.log.file is None and level in {"debug", "info"}:
        level = "warning"
    try:
        configure(level, settings.log.file)
    except OSError as error:
        complain(f"cannot open {settings.log.file}: {error.strerror}")
        return CONFIGURATION
    return DONE
