"""The commands `run` and `once`. Functions return the exit code."""

import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from emitterd.cli.console_log import ConsoleLog
from emitterd.cli.output import Bars, complain, console, print_undelivered
from emitterd.codes import load_texts
from emitterd.config.settings import Config, load
from emitterd.config.sources import find
from emitterd.delivery.attempt import UploadObserver
from emitterd.errors import ConfigError, JournalUnreachable, Problem
from emitterd.journal.opening import act_as_owner
from emitterd.model import State
from emitterd.service.daemon import Daemon, OnceReport
from emitterd.service.logging import configure, show_on_terminal
from emitterd.service.systemd import extend_timeout, notify
from emitterd.text import count, shown
from emitterd.units import format_duration, format_size

AGAIN_S, AGAIN_MAX_S = 2.0, 30.0
"""How long a start waits before it tries again to reach the database of the journal."""

SWITCH_S = 0.0005
"""How long a thread may hold the interpreter while others wait. By default it is 5 ms: an upload
would wait that long at each step while a page is made. Measured: docs/performance.md."""


def run(config: Path | None) -> int:
    """Watch and deliver until a signal."""
    # A disk that is mounted late must not keep the service from starting.
    settings = load(find(config, os.environ), os.environ, awaits_folder=True)
    act_as_owner(settings.journal.location.path)
    _configure_log(settings)
    sys.setswitchinterval(SWITCH_S)
    return _daemon(settings).run()


def once(config: Path | None, wait_s: float) -> int:
    """Deliver what is complete now."""
    settings = load(find(config, os.environ), os.environ)
    act_as_owner(settings.journal.location.path)
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    with Bars() if terminal else nullcontext() as bars:
        _configure_log(settings, bars)
        daemon = _daemon(settings, bars, wait_s)
        report = daemon.once(wait_s)
    print_undelivered(report.left)
    if report.left and (down := daemon.down()) is not None:
        complain(f"the destination is down: {down.code} {down.reason}", f"  {down.remedy}")
    _print_summary(report)
    return report.code


def _daemon(
    settings: Config, observer: UploadObserver | None = None, wait_s: float = math.inf
) -> Daemon:
    """Return the daemon, once its database can be reached, or raise `JournalUnreachable`.

    The service waits for it without an end; a signal ends the process.
    """
    until, pause_s = time.monotonic() + wait_s, AGAIN_S
    while True:
        try:
            return Daemon(settings, observer)
        except JournalUnreachable as error:
            # The store has logged it.
            if time.monotonic() >= until:
                raise
            notify(f"STATUS=waiting for the database: {error}", extend_timeout(2 * pause_s))
            time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
            pause_s = min(2 * pause_s, AGAIN_MAX_S)


def _print_summary(report: OnceReport) -> None:
    dropped = sum(status.state is State.DELIVERED for status in report.left)
    summary = (
        f"{'interrupted: ' if report.interrupted else ''}{count(report.files, 'file')} delivered"
        f" ({format_size(report.size_bytes)}) in {format_duration(report.duration_s)},"
        f" {len(report.left) - dropped:,} not delivered"
    )
    if dropped:
        summary += f", {dropped:,} delivered that the server will drop"
    colour = "red" if report.code else "green"
    console(error=True).print(f"[bold {colour}]{summary}[/]", soft_wrap=True)


def _configure_log(settings: Config, bars: Bars | None = None) -> None:
    # Read now: later, a daemon without a free file descriptor must still report errors.
    load_texts()
    if sys.stdout.isatty():
        show_on_terminal(ConsoleLog(bars))
    try:
        configure(settings.log.level, settings.log.file)
    except OSError as error:
        message = f"{shown(settings.log.file)} cannot be opened: {error.strerror}"
        problem = Problem("log.file", None, message, "correct the path or permissions")
        raise ConfigError(shown(settings.source), [problem]) from error
