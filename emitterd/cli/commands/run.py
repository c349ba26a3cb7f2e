"""The commands `run` and `once`. Functions return the exit code."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from emitterd.cli.output import Bars, complain, print_undelivered
from emitterd.codes import load_texts
from emitterd.config.settings import Config, load
from emitterd.config.sources import find
from emitterd.errors import ConfigError, Problem
from emitterd.journal.state_folder import act_as_owner
from emitterd.service.daemon import Daemon
from emitterd.service.logging import configure
from emitterd.text import shown


def run(config: Path | None) -> int:
    """Watch and deliver until a signal."""
    # A disk that is mounted late must not keep the service from starting.
    settings = load(find(config, os.environ), os.environ, awaits_folder=True)
    act_as_owner(settings.journal.path)
    _configure_log(settings)
    return Daemon(settings).run()


def once(config: Path | None, wait_s: float) -> int:
    """Deliver what is complete now."""
    settings = load(find(config, os.environ), os.environ)
    act_as_owner(settings.journal.path)
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    # Progress bars and log lines of files would overwrite each other.
    _configure_log(settings, quiet=terminal)
    with Bars() if terminal else nullcontext() as bars:
        daemon = Daemon(settings, bars)
        code, left = daemon.once(wait_s)
    if left:
        print_undelivered(left)
    if left and (down := daemon.down()) is not None:
        complain(f"the destination is down: {down.code} {down.reason}", f"  {down.remedy}")
    return code


def _configure_log(settings: Config, *, quiet: bool = False) -> None:
    # Read now: later, a daemon without a free file descriptor must still report errors.
    load_texts()
    level = settings.log.level
    if quiet and settings.log.file is None and level in {"debug", "info"}:
        level = "warning"
    try:
        configure(level, settings.log.file)
    except OSError as error:
        message = f"{shown(settings.log.file)} cannot be opened: {error.strerror}"
        problem = Problem("log.file", None, message, "correct the path or permissions")
        raise ConfigError(shown(settings.source), [problem]) from error
