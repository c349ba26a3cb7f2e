"""`status`: the health first, then what is in the queue, and the state of each dataset.

It works with or without a daemon. Each function returns the exit code.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emitterd.cli.output import (
    DONE,
    WRONG,
    load_as_owner,
    open_sources,
    print_array,
    print_object,
    say,
)
from emitterd.cli.tables import TableColumn, print_table, when
from emitterd.cli.terminal import COLOURS, print_text
from emitterd.errors import ConfigError
from emitterd.journal.numbers import read_hosts
from emitterd.journal.opening import start_remedy
from emitterd.journal.reader import JournalReader
from emitterd.model import WAITING
from emitterd.monitoring.alarms import (
    STAGE_NAMES,
    Alarm,
    AlarmCode,
    judge,
    queue_alarms,
    silent_alarm,
    stopped_alarm,
    unnoted_alarms,
)
from emitterd.monitoring.arrivals import all_datasets, expected_datasets
from emitterd.monitoring.status import (
    QueueStatus,
    check_line,
    health_record,
    host_record,
    queue_status,
    status_record,
    without_alarm,
)
from emitterd.text import local_time, shown
from emitterd.units import format_age, format_size

if TYPE_CHECKING:
    from emitterd.config.settings import Config

Record = Mapping[str, Any]

LOOK_S, CHECK_LOOK_S = 0.1, 2.0
"""How long `status` and `status --check` look through the folder where no daemon does."""

SENT_S = 2.0
"""How long `status` waits for the daemon to say how much is sent."""

SILENT_S = 3.0
"""A daemon that takes longer to answer `status --check` has stopped, or hangs."""

_SECTIONS = ("journal", "alerts", "datasets")

_LABEL = 16
"""The width of the names on the left."""


def status(config: Path | None, *, as_json: bool) -> int:
    """Print the health, the counts, the oldest waiting file and the destination."""
    from emitterd.service.control_socket import ask_once

    settings = load_as_owner(config, *_SECTIONS, "emission.url", "spool.directory")
    with JournalReader(settings.journal.location) as reader:
        now, queue, running = reader.now(), queue_status(reader), reader.running()
        health = judge(_alarms(settings, queue, now, running=running, config=config, look_s=LOOK_S))
        sent = None
        if all(alarm.code != AlarmCode.DAEMON_SILENT for alarm in health.alarms):
            # Only the daemon knows how much of the files under way is sent.
            sent = ask_once(settings.journal.location.path, "sent", timeout_s=SENT_S)
        record = status_record(reader, (sent["files"], sent["bytes"]) if sent else (0.0, 0))
    record |= {"health": health_record(health)}
    if as_json:
        print_object(record)
        return DONE
    _print_health(record, now)
    for label, text in _rows(record, settings, now):
        print_text(text, label, indent=_LABEL, colour=_colour(label, record))
    return DONE


def _print_health(record: Record, now: float) -> None:
    """Print one line if all is well, or each alarm with what to do about it.

    Alarms with the same remedy stand together before it.
    """
    alarms = record["health"]["alarms"]
    for hint in dict.fromkeys(alarm["hint"] for alarm in alarms):
        for alarm in alarms:
            if alarm["hint"] == hint:
                level, words = alarm["level"], f"{alarm['words']}, {_for(alarm['since'], now)}"
                print_text(words, f"{level}: ", indent=2, colour=COLOURS[level])
        print_text(f"what to do: {hint}", indent=2)
    if not alarms:
        waiting = sum(record["counts"][state] for state in WAITING)
        words = without_alarm(waiting, running=record["running"])
        print_text(words, "OK: ", indent=2, colour=COLOURS["OK"])


def _host(record: Record) -> str:
    """Return a host in a word or two."""
    name, state = record["name"], record["state"]
    if record["sweeps"]:
        return f"{name} (looks at the folder)"
    return str(name) if state == "living" else f"{name} ({state})"


def _rows(record: Record, settings: "Config", now: float) -> Iterator[tuple[str, str]]:
    """Yield what is known, each with its name; no count of zero."""
    yield "daemon", _daemon(record, start_remedy(settings.journal.location.path))
    if hosts := record.get("hosts"):
        yield "hosts", ", ".join(map(_host, hosts))
    yield "folder", shown(settings.spool.directory)
    yield "destination", f"{settings.emission.url}, {_destination(record, now)}"
    if at := record["journal_restored_at"]:
        yield "journal", f"an older copy is in use {_for(at, now)}; see emitterd receipts"
    yield from ((state, f"{number:,}") for state, number in record["counts"].items() if number)
    if counts := record["not_sent"]:
        by_code = ", ".join(f"{number} {code}" for code, number in sorted(counts.items()))
        yield "not sent", f"{sum(counts.values())} ({by_code}): see emitterd list --skipped"
    if at := record["oldest_waiting_at"]:
        eta_s, size = record["eta_s"], format_size(record["waiting_bytes"])
        done = "time left unknown" if eta_s is None else f"done in {format_age(eta_s)}"
        yield "waiting", f"{size}, {done}; the oldest file {_for(at, now)}"
    at = record["last_delivered_at"]
    yield "last delivered", "never" if at is None else _ago(at, now)


def _daemon(record: Record, start: str) -> str:
    alarms = record["health"]["alarms"]
    if record["running"]:
        silent = any(alarm["code"] == AlarmCode.DAEMON_SILENT for alarm in alarms)
        return "running, but it does not answer" if silent else "running"
    known = any(alarm["hint"] == start for alarm in alarms)
    return "not running" if known else f"not running: {start}"


def _destination(record: Record, now: float) -> str:
    stages = record["destination"].get("stages", [])
    downs = [
        f"down at the {STAGE_NAMES[stage['stage']]} {_for(stage['since'], now)}:"
        f" {stage['error']} {stage['reason']}"
        for stage in stages
    ]
    state = record["destination"]["state"]
    return "; ".join(downs) or ("not used yet" if state == "unknown" else state)


def _colour(label: str, record: Record) -> str | None:
    if label == "destination" and record["destination"]["state"] == "down":
        return COLOURS["error"]
    warns = label == "not sent" or (label == "daemon" and not record["running"])
    return COLOURS["warning"] if warns else COLOURS.get(label)


def _age(instant: str, now: float) -> str:
    return format_age(now - datetime.fromisoformat(instant).timestamp())


def _ago(instant: str, now: float) -> str:
    return f"{_age(instant, now)} ago ({local_time(instant)})"


def _for(instant: str, now: float) -> str:
    return f"for {_age(instant, now)}, since {local_time(instant)}"


def check_status(config: Path | None, *, as_json: bool) -> int:
    """Print one line for monitoring; return 1 where there is an alarm."""
    settings = load_as_owner(config, *_SECTIONS)
    with JournalReader(settings.journal.location) as reader:
        now, queue, running = reader.now(), queue_status(reader), reader.running()
    alarms = _alarms(settings, queue, now, running=running, config=config, look_s=CHECK_LOOK_S)
    health = judge(alarms)
    if as_json:
        print_object(health_record(health))
    else:
        say(check_line(health, queue, settings.alarm_limits, running=running, now=now))
    return DONE if health.ok else WRONG


def _alarms(
    settings: "Config",
    queue: QueueStatus,
    now: float,
    *,
    running: bool,
    config: Path | None,
    look_s: float,
) -> list[Alarm]:
    """Return all alarms; without a daemon, look for a new file in the folder for this time."""
    start, limits = start_remedy(settings.journal.location.path), settings.alarm_limits
    alarms = queue_alarms(queue, queue.outages, limits, now, running=running, start=start)
    if running:
        free_bytes = shutil.disk_usage(settings.journal.location.path.parent).free
        own = _own_alarms(settings.journal.location.path, queue.noted, now)
        alarms += [*own, *unnoted_alarms(free_bytes, own, now)]
    elif not queue.waiting and (path := _first_unknown(config, look_s)) is not None:
        alarms.append(stopped_alarm(path, now, start))
    return alarms


def datasets(config: Path | None, *, as_json: bool) -> int:
    """Print when files of each dataset last came, and when the next are due."""
    from emitterd.datasets.catalogue_file import load_catalogue

    settings = load_as_owner(config, "journal", "spool", "datasets", "emission.protocol")
    catalogue = load_catalogue(
        settings.spool.catalogue_file, programs=settings.emission.takes_programs
    )
    titles = [item.title for item in catalogue.datasets]
    with JournalReader(settings.journal.location) as reader:
        queue, now = queue_status(reader), reader.now()
    arrivals, since = queue.arrivals, queue.expected_since
    expected = expected_datasets(settings.datasets.expect, arrivals, since, now)
    records = [status.record(now) for status in all_datasets(titles, arrivals, expected)]
    if as_json:
        print_array(records)
    else:
        _print_datasets(records, now)
    return DONE


def _print_datasets(records: Sequence[Record], now: float) -> None:
    """Print when files of each dataset last came; those that never came in one line."""
    shown = [row for row in records if row["last_arrival_at"] or row["due_at"]]
    heads = ("arrived", "delivered", "accepted", "due")
    names = ("last_arrival_at", "last_delivered_at", "last_accepted_at", "due_at")
    rows = (
        (
            row["dataset"],
            *(when(row[name], now) for name in names),
            "overdue" if row["overdue"] else "",
        )
        for row in shown
    )
    print_table(
        rows, (TableColumn("dataset", cut="middle"), *map(TableColumn, heads), TableColumn("state"))
    )
    if never := [row["dataset"] for row in records if row not in shown]:
        print_text(f"never arrived: {', '.join(never)}", indent=2)


def _own_alarms(journal: Path, noted: Sequence[Alarm], now: float) -> list[Alarm]:
    """Return the alarms that only the daemon can see; `noted`: those that it has noted."""
    from emitterd.service.control_socket import ask

    records = ask(journal, "alarms", timeout_s=SILENT_S)
    if records is None:
        # Another user runs this.
        return [*noted]
    try:
        return [Alarm(**record) for record in records]
    except TimeoutError:
        return [*noted, silent_alarm(now)]
    except OSError:
        # It is just ending.
        return [*noted]


def _first_unknown(config: Path | None, look_s: float) -> bytes | None:
    """Return a file in the folder that the journal does not know, if there is one."""
    from emitterd.intake.file_status import first_unknown

    try:
        with open_sources(config) as (status_reader, reader):
            return first_unknown(status_reader, reader.read, time.monotonic() + look_s)
    except ConfigError:
        # `check` reports it; the journal can be read without it.
        return None


_HOST_COLUMNS = (
    TableColumn("host"),
    TableColumn("state"),
    TableColumn("since"),
    TableColumn("version"),
    TableColumn("delivering", right=True),
    TableColumn(""),
)


def hosts(config: Path | None, *, as_json: bool) -> int:
    """Print the hosts that share the journal; return 1 if one of them is lost."""
    settings = load_as_owner(config, "journal")
    with JournalReader(settings.journal.location) as reader:
        records, now = [host_record(host) for host in read_hosts(reader.read)], reader.now()
    if as_json:
        print_array(records)
    elif not records:
        say("the journal is a file: no other host can share it (see journal.url)")
    else:
        rows = (
            (
                record["name"],
                record["state"],
                when(record["since" if record["state"] == "living" else "ended_at"], now),
                record["version"],
                f"{record['delivering']:,}",
                "looks at the folder" if record["sweeps"] else "",
            )
            for record in records
        )
        print_table(rows, _HOST_COLUMNS)
    return WRONG if any(record["state"] == "lost" for record in records) else DONE
