"""`check`: validates the configuration and this machine, with `--online` the server."""

import os
import shutil
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from stat import S_IROTH

from emitterd.cli.commands import check_online
from emitterd.cli.output import CONFIGURATION, DONE, WRONG, Diagnosis, print_diagnoses, print_object
from emitterd.cli.setup.as_service import run_as_service
from emitterd.cli.tables import print_pairs
from emitterd.cli.terminal import COLOURS, print_text
from emitterd.client.timetable import format_rate
from emitterd.config.secrets import DatabaseUrl
from emitterd.config.settings import Config, describe, load
from emitterd.config.sources import find
from emitterd.datasets.inspection import load_inspector
from emitterd.errors import ConfigError, JournalError, Problem, ValueProblem
from emitterd.journal.opening import FORMER_SERVER, act_as_owner, find_problem, is_running
from emitterd.journal.reader import JournalReader
from emitterd.permissions import current_user, permission_command
from emitterd.service.logging import silence
from emitterd.spool.mounts import NETWORK, file_system, shared_by
from emitterd.spool.watcher import folders_below, watch_limit
from emitterd.text import count, local_time, shown
from emitterd.units import format_duration, format_size

FREE_FLOOR_BYTES = 64 * 1024 * 1024
_LEVELS = ("error", "warning", "ok")
CLOCK_TOLERANCE_S = 30.0
"""Hosts that share a journal go by its clock. The logs of each host have its own."""

RELEASED_AT = 1767225600.0
"""2026-01-01: a clock that says earlier is wrong, and TLS will not work."""


def check(config: Path | None, *, online: bool, verbose: bool, as_json: bool) -> int:
    """Print the diagnoses, the worst first, and a summary; return the exit code.

    `verbose`: also the settings in force.
    """
    path, results = find(config, os.environ), list[Diagnosis]()
    if (code := run_as_service(path)) is not None:
        return code
    try:
        settings = load(path, os.environ)
        act_as_owner(settings.journal.location.path)
        load_inspector(settings.spool, programs=settings.emission.takes_programs)
    except ConfigError as error:
        if not as_json:
            raise
        print_object(_record([*map(_of_problem, error.problems)]))
        return CONFIGURATION
    for diagnosis in _steps(settings, online=online):
        results.append(diagnosis)
        if not as_json:
            print_diagnoses([diagnosis])
    described = describe(settings) if verbose else []
    if as_json:
        print_object(_record(results, described))
    else:
        print_pairs(described)
        _print_summary(results, settings.source)
    failed = any(diagnosis.level == "error" for diagnosis in results)
    if failed and (problem := find_problem(settings.journal.location)) is not None:
        raise problem
    return WRONG if failed else DONE


def _steps(settings: Config, *, online: bool) -> Iterator[Diagnosis]:
    """Yield the diagnoses of this machine, the worst first, and then each of the server."""
    yield from sorted(diagnoses(settings), key=lambda item: _LEVELS.index(item.level))
    if online:
        # The log lines of the login would come between the diagnoses.
        silence()
        yield from check_online.online(settings)


def _record(
    results: Sequence[Diagnosis], described: Sequence[tuple[str, str]] = ()
) -> dict[str, object]:
    """Return the JSON of `check`."""
    levels = Counter(diagnosis.level for diagnosis in results)
    return {
        "errors": levels["error"],
        "warnings": levels["warning"],
        "diagnoses": [asdict(diagnosis) for diagnosis in results],
    } | ({"settings": dict(described)} if described else {})


def _of_problem(problem: Problem) -> Diagnosis:
    where = f"line {problem.line}: " if problem.line else ""
    return Diagnosis("error", problem.key, f"{where}{problem.message}", problem.remedy)


def _print_summary(results: Sequence[Diagnosis], source: Path) -> None:
    levels = Counter(diagnosis.level for diagnosis in results)
    numbers = f"{count(levels['error'], 'error')}, {count(levels['warning'], 'warning')}"
    worst = next((level for level in _LEVELS if levels[level]), "ok")
    print_text(f"in {shown(source)} and on this machine", f"{numbers} ", colour=COLOURS[worst])


def diagnoses(config: Config) -> list[Diagnosis]:
    """Return the state of this machine, in the order of the configuration."""
    return [
        *_tls(config),
        *_folder(config),
        *_watch(config),
        *(_database(config, config.journal.url) if config.journal.url else _journal(config)),
        *_output_folders(config),
        *_bandwidth(config, time.time()),
        *_metrics(config),
        *_users(config),
        *_alerts(config),
        _clock(time.time()),
    ]


def _tls(config: Config) -> Iterator[Diagnosis]:
    url = config.emission.url
    if not url.startswith("https:"):
        if not check_online.stays_here(url):
            message = "http: everybody on the way can read password, token and data"
            yield Diagnosis("warning", "emission.url", message, "use https")
    elif config.emission.ca_file is None:
        known = ssl.create_default_context().cert_store_stats()["x509_ca"]
        if not known and not ssl.get_default_verify_paths().capath:
            yield Diagnosis(
                "error",
                "TLS",
                "this machine knows no certificate authority",
                "install the package ca-certificates, or set emission.ca_file",
            )


def _folder(config: Config) -> Iterator[Diagnosis]:
    root = config.spool.directory
    rejects = config.spool.rejected_directory is not None
    writes = config.spool.after_delivery != "keep" or rejects
    need = os.R_OK | os.X_OK | (os.W_OK if writes else 0)
    if os.access(root, need):
        yield Diagnosis("ok", "spool.directory", f"{root} can be read")
    else:
        wanted = "read and written" if writes else "read"
        yield Diagnosis(
            "error",
            "spool.directory",
            f"{root} cannot be {wanted} by the user {current_user()}",
            permission_command(root, "rwx" if writes else "rx"),
        )
    if writes:
        for folder in sorted(filter(Path.is_dir, root.iterdir())):
            if not os.access(folder, os.W_OK | os.X_OK):
                message = f"{shown(folder)} cannot be written: delivered files stay in it"
                command = permission_command(folder, "wx")
                yield Diagnosis("error", "spool.directory", message, command)
    kind = file_system(root)
    if kind in NETWORK:
        yield Diagnosis(
            "warning",
            "spool.directory",
            f"{root} is on {kind}: files of other hosts are found by sweeps only",
            f"expect up to {format_duration(config.spool.sweep_every_s)} (spool.sweep_every)",
        )
    servers = shared_by(root)
    if servers and config.spool.completion == "auto":
        yield Diagnosis(
            "warning",
            "spool.completion",
            f"{', '.join(servers)} shares {root}: between two writes of a client nobody has the"
            " file open here",
            "set spool.completion: quiet",
        )


def _watch(config: Config) -> Iterator[Diagnosis]:
    limit = watch_limit()
    if limit is None or config.spool.watcher == "polling":
        return
    folders = folders_below(config.spool.directory)
    message = f"{folders} folders to watch, {limit} watches allowed to a user"
    if folders * 2 > limit:
        yield Diagnosis(
            "warning",
            "inotify",
            message,
            f"sysctl fs.inotify.max_user_watches={max(folders * 4, 524288)}",
        )
    else:
        yield Diagnosis("ok", "inotify", message)


def _journal(config: Config) -> Iterator[Diagnosis]:
    path = config.journal.path
    folder = _existing(path.parent)
    kind = file_system(path.parent)
    if kind in NETWORK:
        yield Diagnosis(
            "error",
            "journal.path",
            f"{path} is on a network file system ({kind})",
            "name a local directory",
        )
        return
    # SQLite's log is a file beside the journal: the folder must be writable too.
    writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    if not writable:
        yield _not_writable("journal.path", path, folder)
        return
    free = shutil.disk_usage(folder).free
    if free < FREE_FLOOR_BYTES:
        yield Diagnosis(
            "error",
            "journal.path",
            f"only {format_size(free)} free on the disk of {path}",
            "free some space: the journal must be able to grow",
        )
    else:
        problem = find_problem(config.journal.location)
        if problem is not None:
            yield Diagnosis("error", "journal.path", f"{problem.code} {problem}", problem.remedy)
            return
        yield Diagnosis("ok", "journal.path", f"{path} on {kind}, {format_size(free)} free")
    # A journal of an earlier version does not know its servers yet.
    if path.exists():
        with suppress(JournalError), JournalReader(path) as journal:
            yield from _former_server(config, journal)


def _former_server(config: Config, journal: JournalReader) -> Iterator[Diagnosis]:
    if former := journal.former_deliveries(config.emission.url):
        message = f"{count(former, 'file')} delivered to a former server only"
        yield Diagnosis("warning", "emission.url", message, FORMER_SERVER)


def _database(config: Config, url: DatabaseUrl) -> Iterator[Diagnosis]:
    if url.has_password:
        # Programs that show a configuration, and backups of it, would show the password.
        yield Diagnosis(
            "warning",
            "journal.url",
            f"{url} holds the password",
            "put it into a file of mode 0640, and name that in journal.password_file",
        )
    location = config.journal.location
    if (problem := find_problem(location)) is not None:
        yield Diagnosis("error", "journal.url", f"{problem.code} {problem}", problem.remedy)
        return
    # A database without tables is a first start.
    with JournalReader(location, absent=True) as journal:
        ahead_s = time.time() - journal.now()
        yield from _former_server(config, journal)
    yield Diagnosis("ok", "journal.url", f"{url} answers; this host is {location.host}")
    if abs(ahead_s) > CLOCK_TOLERANCE_S:
        direction = "ahead of" if ahead_s > 0 else "behind"
        by = format_duration(abs(round(ahead_s)))
        yield Diagnosis(
            "warning",
            "clock",
            f"this host's clock is {by} {direction} that of the database",
            "set it, for example with: timedatectl set-ntp true",
        )


def _output_folders(config: Config) -> Iterator[Diagnosis]:
    folders = {
        "spool.archive_directory": config.spool.archive_directory,
        "spool.rejected_directory": config.spool.rejected_directory,
        "log.file": config.log.file.parent if config.log.file else None,
    }
    for key, folder in folders.items():
        if folder is not None and not os.access(_existing(folder), os.W_OK):
            yield _not_writable(key, folder, _existing(folder))


def _not_writable(key: str, path: Path, folder: Path) -> Diagnosis:
    return Diagnosis(
        "error",
        key,
        f"{path} cannot be written by the user {current_user()}",
        permission_command(folder, "wx"),
    )


def _bandwidth(config: Config, now: float) -> Iterator[Diagnosis]:
    bandwidth = config.delivery.bandwidth
    if bandwidth is None:
        return
    limit = bandwidth.limit(now)
    rate = "no limit" if limit is None else format_rate(limit)
    spans = f" now ({time.strftime('%Z')}), of {bandwidth}" if bandwidth.spans else ""
    yield Diagnosis("ok", "delivery.bandwidth", f"{rate}{spans}")


def _metrics(config: Config) -> Iterator[Diagnosis]:
    listen = config.web.listen
    if listen is None:
        return
    if is_running(config.journal.location):
        yield Diagnosis("ok", "web.listen", f"{listen}, if the daemon has it")
        return
    try:
        listen.probe()
    except OSError as error:
        yield Diagnosis(
            "warning",
            "web.listen",
            f"emitterd cannot listen on {listen}: {error.strerror or error}",
            "free the address, or use another one; files are delivered without it",
        )
    else:
        yield Diagnosis("ok", "web.listen", str(listen))


def _users(config: Config) -> Iterator[Diagnosis]:
    file, listen, key = config.web.operators_file, config.web.listen, "web.operators_file"
    if file is None:
        return
    from emitterd.web.access.users import load, summary

    if listen is None or not listen.local:
        reason = "is not set" if listen is None else f"{listen} can be reached from other machines"
        yield Diagnosis(
            "warning",
            key,
            f"nobody can log in: web.listen {reason}",
            "set web.listen: 127.0.0.1:9464, and use an SSH tunnel or a TLS proxy",
        )
    try:
        users = load(file)
    except ValueProblem as error:
        yield Diagnosis("error", key, f"{error}; nobody can log in", error.remedy)
        return
    if users:
        yield Diagnosis("ok", key, summary(users))
    else:
        yield Diagnosis("warning", key, "names no user", "emitterd operator add NAME")


def _alerts(config: Config) -> Iterator[Diagnosis]:
    """Check who can read the heartbeat's URL, and ask Apprise about the others."""
    heartbeat, source = config.alerts.heartbeat_url, config.source
    if heartbeat and source.stat().st_mode & S_IROTH and heartbeat.reveal() in source.read_text():
        message = "every user of this machine can read it, and can fake the heartbeat with it"
        yield Diagnosis("warning", "alerts.heartbeat_url", message, f"chmod o-r {shown(source)}")
    urls = config.notify_urls
    if not urls:
        return
    from emitterd.monitoring.alerts.channels import judge

    try:
        problems = judge([notify.url.reveal() for notify in urls])
    except OSError as error:
        yield Diagnosis("error", "alerts.notify_file", f"Apprise cannot be asked: {error}")
        return
    for notify, problem in zip(urls, problems, strict=True):
        if problem:
            remedy = "correct the line as https://appriseit.com/services/ shows"
            yield Diagnosis("error", "alerts.notify_file", f"{notify.name}: {problem}", remedy)
        else:
            yield Diagnosis("ok", "alerts.notify_file", f"{notify.name} is a URL of Apprise")


def _clock(now: float) -> Diagnosis:
    instant = local_time(now)
    if now >= RELEASED_AT:
        return Diagnosis("ok", "clock", instant)
    remedy = "set the clock, and run an NTP service"
    return Diagnosis("error", "clock", f"this machine's clock says {instant}", remedy)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
