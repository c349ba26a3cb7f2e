"""SIGHUP: the configuration is read again; the old one stays if that one is wrong.

Everything that can fail comes first. Then each component gets its new settings, a frozen value, in
one assignment. Running work keeps its settings. A new `emission.url` or `spool.directory` waits for
a restart with its whole section, because a password belongs to its server and an archive to its
folder. Several SIGHUPs need only one reload.
"""

import os
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from emitterd.config.settings import Config, LogSettings, every_key, load
from emitterd.datasets.inspection import load_inspector
from emitterd.errors import ConfigError, Problem
from emitterd.service.components import Components, load_tls
from emitterd.service.logging import configure, reopen
from emitterd.text import printable

FIXED = frozenset(
    {
        "emission.allow_insecure_http",
        "emission.protocol",
        "emission.proxy",
        "emission.url",
        "journal.host",
        "journal.password_file",
        "journal.path",
        "journal.state_directory",
        "journal.url",
        "tracking.enabled",
        "web.client_address_header",
        "web.listen",
        "web.public_url",
        "web.token_file",
        "spool.directory",
        "spool.watcher",
    }
)
"""Keys that apply only at the start: for open files, the watch, and connections."""

ANCHORS = {"emission.url": "emission", "emission.protocol": "emission", "spool.directory": "spool"}
"""While one of these keys waits for a restart, its whole section waits too: a password belongs to
its server, and the archive was checked against the watched folder."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a new configuration changes; `waiting` are keys that need a restart."""

    effective: Config
    """The new configuration, but with the old values of what waits."""
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def change(old: Config, new: Config) -> Change:
    """Compare what is in effect with what was read."""
    paths = {f"{section}.{key}": (section, name) for section, key, name in every_key()}
    differing = [
        path
        for path, (section, name) in paths.items()
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name)
    ]
    moved = {section for path, section in ANCHORS.items() if path in differing}
    waiting = [path for path in differing if path in FIXED or path.partition(".")[0] in moved]
    effective = new
    for section, name in map(paths.__getitem__, waiting):
        kept = {name: getattr(getattr(old, section), name)}
        merged = replace(getattr(effective, section), **kept)
        effective = replace(effective, **{section: merged})
    changed = tuple(path for path in differing if path not in waiting)
    if new.notify_urls != old.notify_urls and "alerts.notify_file" not in changed:
        changed += ("alerts.notify_file",)
    return Change(effective, changed, tuple(waiting))


CHECK = "the old configuration stays in effect; run `emitterd check`, correct it, reload"
RESTART = "these keys apply only at the start: run `systemctl restart emitterd`"

log = structlog.get_logger()


def reload(components: Components) -> None:
    """Read the configuration again and apply it to these parts.

    All or nothing: errors are logged, and then nothing is changed. The log's file is opened again
    in either case, because another program may have moved it away. Also read again: certificates
    that were renewed in place, and the time zone of this machine.
    """
    before = components.config
    time.tzset()
    try:
        read = load(before.source, os.environ, awaits_folder=True)
        after = change(before, read)
        inspector = load_inspector(
            after.effective.spool, programs=after.effective.emission.takes_programs
        )
        tls = _load_tls(after.effective)
        _open_log(after.effective.log)
    except ConfigError as error:
        _refuse(error)
        return
    components.apply_settings(after.effective, inspector, tls)
    log.info("daemon.reloaded", changed=list(after.changed))
    if after.waiting:
        log.warning("daemon.restart_due", keys=list(after.waiting), hint=RESTART)


def _load_tls(config: Config) -> ssl.SSLContext:
    try:
        return load_tls(config)
    except OSError as error:
        message = f"certificates cannot be used: {error.strerror or error}"
        problem = Problem("emission", None, message, "correct ca_file, client_cert or client_key")
        raise ConfigError(str(config.source), [problem]) from error


def _open_log(settings: LogSettings) -> None:
    try:
        configure(settings.level, settings.file)
    except OSError as error:
        message = f"cannot be opened: {error.strerror or error}"
        problem = Problem("log.file", None, message, "name a file that can be written")
        raise ConfigError(str(settings.file), [problem]) from error


def _refuse(error: ConfigError) -> None:
    # If the log cannot be opened again, the old file stays in use.
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
