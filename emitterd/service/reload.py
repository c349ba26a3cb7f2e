"""SIGHUP: the configuration is read again; the old one stays if that one is wrong."""

import os
from contextlib import suppress

import structlog

from emitterd.config.settings import LogSettings, load
from emitterd.datasets.inspector import load_inspector
from emitterd.errors import ConfigError, Problem, printable
from emitterd.service.change import change
from emitterd.service.components import Components
from emitterd.service.logging import configure, reopen

CHECK = "the former configuration still holds; run `emitterd check`, mend it, reload"
RESTART = "these keys hold from start to stop: restart the daemon to change them"

log = structlog.get_logger()


def reload(parts: Components) -> None:
    """Read the configuration of these parts again, and have them go by it.

    All or nothing: what is wrong is logged, and nothing is changed then. The log's
    file is opened anew in either case, for whoever has moved it away.
    """
    before = parts.config
    try:
        read = load(before.source, os.environ, awaits_folder=True)
        after = change(before, read)
        inspector = load_inspector(after.effective.spool)
        _open_log(after.effective.log)
    except ConfigError as error:
        _refuse(error)
        return
    parts.adopt(after.effective, inspector)
    log.info("daemon.reloaded", changed=list(after.changed))
    if after.waiting:
        log.warning("daemon.restart_due", keys=list(after.waiting), hint=RESTART)


def _open_log(settings: LogSettings) -> None:
    try:
        configure(settings.level, settings.file)
    except OSError as error:
        message = f"cannot be opened: {error.strerror or error}"
        problem = Problem("log.file", None, message, "name a file that can be written")
        raise ConfigError(str(settings.file), [problem]) from error


def _refuse(error: ConfigError) -> None:
    # What cannot be opened anew goes on as it is.
    with suppress(OSError):
        reopen()
    first, count = error.problems[0], len(error.problems)
    where = f"{first.key}, line {first.line}" if first.line else first.key
    more = f" (and {count - 1} more)" if count > 1 else ""
    log.error(
        "daemon.reload_refused",
        error=error.code,
        reason=printable(f"{error.source}: {where}: {first.message}{more}"),
        hint=CHECK,
    )
