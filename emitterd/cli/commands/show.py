"""The commands that only read: `status`, `list`, `receipts` and `explain`.

They work with or without a daemon. Each function returns the exit code. The columns and the layout
of all tables are in `output`.
"""

import csv
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emitterd.cli.output import (
    DONE,
    WRONG,
    load_as_owner,
    print_array,
    print_datasets,
    print_entries,
    print_explanation,
    print_object,
    print_receipts,
    print_skipped,
    print_status,
    say,
)
from emitterd.errors import ConfigError
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.alarms import (
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
    queue_status,
    status_record,
)
from emitterd.text import display, printable

if TYPE_CHECKING:
    from emitterd.config.settings import Config
    from emitterd.intake.file_status import FileStatusReader

LOOK_MAX_S = 2.0
"""How long `status --check` looks through the folder where no daemon does: monitoring waits."""

SILENT_S = 3.0
"""A daemon that takes longer to answer `status --check` has stopped, or hangs."""

PROOF = """path bytes sha256 md5 etag key attempts admitted_at delivered_at duration_s
    ambiguous verified earlier_keys confirmation findings server server_state rows_total
    rows_accepted rows_dropped reason"""
"""The columns of `receipts --csv`."""


def status(config: Path | None, *, as_json: bool) -> int:
    """Print the alarms, counts, the oldest waiting file and the destination."""
    from emitterd.service.control_socket import ask_once

    settings = load_as_owner(config, "journal", "alerts", "datasets")
    journal = settings.journal.path
    with JournalReader(journal) as reader:
        health = judge(_alarms(settings, queue_status(reader), running=reader.running()))
        sent = None
        if all(alarm.code != AlarmCode.DAEMON_SILENT for alarm in health.alarms):
            # Only the daemon knows how much of the files under way is sent.
            sent = ask_once(journal, "sent", timeout_s=LOOK_MAX_S)
        record = status_record(reader, (sent["files"], sent["bytes"]) if sent else (0.0, 0))
    record |= {"health": health_record(health)}
    (print_object if as_json else print_status)(record)
    return DONE


def check_status(config: Path | None, *, as_json: bool) -> int:
    """Print one line for monitoring; return 1 where there is an alarm."""
    settings, now = load_as_owner(config, "journal", "alerts", "datasets"), time.time()
    with JournalReader(settings.journal.path) as reader:
        queue, running = queue_status(reader), reader.running()
    alarms = _alarms(settings, queue, running=running)
    if not (running or queue.waiting) and (path := _first_unknown(config)) is not None:
        alarms.append(stopped_alarm(path, now))
    health = judge(alarms)
    if as_json:
        print_object(health_record(health))
    else:
        say(check_line(health, queue, settings.alarm_limits, running=running, now=now))
    return DONE if health.ok else WRONG


def _alarms(settings: "Config", queue: QueueStatus, *, running: bool) -> list[Alarm]:
    """Return all alarms but that of a file in the folder while no daemon runs."""
    now = time.time()
    alarms = queue_alarms(queue, queue.outages, settings.alarm_limits, now, running=running)
    if running:
        free_bytes = shutil.disk_usage(settings.journal.path.parent).free
        own = _own_alarms(settings.journal.path, queue.noted, now)
        alarms += [*own, *unnoted_alarms(free_bytes, own, now)]
    return alarms


def datasets(config: Path | None, *, as_json: bool) -> int:
    """Print when files of each dataset last came, and when the next are due."""
    from emitterd.datasets.catalogue_file import load_catalogue

    settings = load_as_owner(config, "journal", "spool", "datasets")
    titles = [item.title for item in load_catalogue(settings.spool.catalogue_file).datasets]
    with JournalReader(settings.journal.path) as reader:
        queue, now = queue_status(reader), time.time()
    arrivals, since = queue.arrivals, queue.expected_since
    expected = expected_datasets(settings.datasets.expect, arrivals, since, now)
    records = [status.record(now) for status in all_datasets(titles, arrivals, expected)]
    (print_array if as_json else print_datasets)(records)
    return DONE


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


def _first_unknown(config: Path | None) -> bytes | None:
    """Return a file in the folder that the journal does not know, if there is one."""
    from emitterd.intake.file_status import first_unknown

    try:
        with _open_sources(config) as (status_reader, reader):
            return first_unknown(status_reader, reader.read, time.monotonic() + LOOK_MAX_S)
    except ConfigError:
        # `check` reports it; the journal can be read without it.
        return None


def list_entries(config: Path | None, state: State | None, *, as_json: bool) -> int:
    """List the versions in the journal."""
    with JournalReader(journal_path(config)) as reader:
        (print_array if as_json else print_entries)(reader.entries(state))
    return DONE


def receipts(config: Path | None, since: float, form: str) -> int:
    """Print the proof of delivery: `form` is json, csv or table."""
    print_rows = {"csv": _print_csv, "json": print_array, "table": print_receipts}
    with JournalReader(journal_path(config)) as reader:
        print_rows[form](reader.receipts(since))
    return DONE


def journal_path(config: Path | None) -> Path:
    """Return where the journal is; raises `ConfigError`."""
    return load_as_owner(config, "journal").journal.path


def _print_csv(rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, PROOF.split(), extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        row["earlier_keys"] = " ".join(row.get("earlier_keys", []))
        findings = row.get("findings", [])
        side = row.get("server_side", {})
        row["server_state"] = side.get("state", "")
        row |= {f"rows_{name}": number for name, number in side.get("rows", {}).items()}
        row["findings"] = "; ".join(f"{item['code']} {item['level']}" for item in findings)
        # For people; JSON has every byte of a key as it is.
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> str:
    """Escape a value that a spreadsheet would interpret as a formula."""
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def list_skipped(config: Path | None, *, as_json: bool) -> int:
    """List the files in the folder that will never be sent, and why."""
    from emitterd.intake.file_status import skipped
    from emitterd.service.control_socket import ask

    with _open_sources(config) as (status_reader, reader):
        if status_reader.spool.lost():
            folder = display(os.fsencode(status_reader.spool.root))
            raise click.ClickException(f"E105 the watched folder {folder} is not there")
        # The daemon may read less, or more, than this user.
        records = ask(reader.path, "skipped")
        if records is None:
            records = (status.record() for status in skipped(status_reader))
        (print_array if as_json else print_skipped)(records)
    return DONE


def explain_path(config: Path | None, text: str, *, as_json: bool) -> int:
    """Print why a file is, or is not, delivered; return 1 for an unknown file."""
    from emitterd.monitoring.explain import Explanation, OutsideSpool, explain, locate
    from emitterd.service.control_socket import ask_once

    with _open_sources(config) as (status_reader, reader):
        try:
            path = locate(status_reader.spool, reader, text)
        except OutsideSpool as error:
            raise click.UsageError(str(error)) from error
        answer = ask_once(reader.path, "explain", path)
        if answer is None:
            explanation = explain(status_reader, reader, path)
        else:
            explanation = Explanation.of(answer)
    if as_json:
        print_object(explanation.record())
    else:
        print_explanation(explanation)
    return DONE if explanation.known else WRONG


@contextmanager
def _open_sources(config: Path | None) -> Iterator[tuple["FileStatusReader", JournalReader]]:
    from emitterd.datasets.catalogue_file import load_catalogue
    from emitterd.intake.file_status import FileStatusReader
    from emitterd.spool.folder import Spool, ignore_lease_breaks
    from emitterd.spool.selection import Selection

    settings = load_as_owner(config, "journal", "spool")
    # The look at a file takes a lease, which a writer that opens it breaks by a signal.
    ignore_lease_breaks()
    rule = settings.spool
    spool, selection = Spool(rule.directory), Selection(rule.include, rule.exclude)
    spool.trusts_leases = rule.completion == "auto"
    catalogue = cache(partial(load_catalogue, rule.catalogue_file))
    with JournalReader(settings.journal.path, absent=True) as reader:
        yield (FileStatusReader(spool, selection, reader.latest, rule.settle_s, catalogue), reader)
