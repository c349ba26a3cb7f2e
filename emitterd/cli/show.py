"""What the operator asks of the journal: `status`, `list`, `receipts`.

Each needs no daemon, and a running one is not disturbed. Functions return the exit
code.
"""

import csv
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emitterd.cli.output import (
    DONE,
    USAGE,
    WRONG,
    complain,
    print_array,
    print_entries,
    print_explanation,
    print_object,
    print_receipts,
    print_skipped,
    print_status,
)
from emitterd.config.settings import load_part
from emitterd.config.sources import find
from emitterd.intake.file_status import FileStatuses, skipped
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.alarms import AlarmCode, journal_full, judge, queue_alarms
from emitterd.monitoring.explain import OutsideSpool, explain, locate
from emitterd.monitoring.status import (
    check_line,
    health_record,
    queue_status,
    status_record,
)
from emitterd.spool.folder import Spool, ignore_lease_breaks
from emitterd.spool.selection import Selection
from emitterd.text import display, printable

FULL_BYTES = 64 * 1024
"""With less room than this on its disk the journal cannot grow."""

PROOF = """path bytes sha256 md5 etag key attempts admitted_at delivered_at duration_s
    ambiguous verified earlier_keys confirmation"""
"""The columns of `receipts --csv`."""


def status(config: Path | None, *, as_json: bool) -> int:
    """Show counts, the oldest waiting file and the destination."""
    with JournalReader(journal_path(config)) as records:
        said = status_record(records)
    (print_object if as_json else print_status)(said)
    return DONE


def check_status(config: Path | None, *, as_json: bool) -> int:
    """Say in one line whether all is well, for monitoring; 1 where it is not."""
    settings = load_part(find(config, os.environ), os.environ, "journal", "metrics")
    rule, now = settings.metrics.limits, time.time()
    with JournalReader(settings.journal.path) as records:
        progress, running = queue_status(records), records.running()
    alarms = queue_alarms(progress.queue(progress.outages, running=running), rule, now)
    if running:
        alarms += progress.noted
        noted = {one.code for one in progress.noted}
        free_bytes = shutil.disk_usage(settings.journal.path.parent).free
        if AlarmCode.JOURNAL_FULL not in noted and free_bytes < FULL_BYTES:
            # Others took even the room that was kept to note it.
            alarms.append(journal_full(now))
    judged = judge(alarms)
    if as_json:
        print_object(health_record(judged))
    else:
        line = check_line(judged, progress, rule, running=running, now=now)
        sys.stdout.write(f"{line}\n")
    return DONE if judged.ok else WRONG


def list_entries(config: Path | None, state: State | None, *, as_json: bool) -> int:
    """List the versions that the journal knows."""
    with JournalReader(journal_path(config)) as records:
        (print_array if as_json else print_entries)(records.entries(state))
    return DONE


def receipts(config: Path | None, since: float, form: str) -> int:
    """Print the proof of delivery: `form` is json, csv or table."""
    with JournalReader(journal_path(config)) as records:
        rows = records.receipts(since)
        if form == "csv":
            _print_csv(rows)
        else:
            (print_array if form == "json" else print_receipts)(rows)
    return DONE


def journal_path(config: Path | None) -> Path:
    """Return where the journal is; raises `ConfigError`."""
    return load_part(find(config, os.environ), os.environ, "journal").journal.path


def _print_csv(rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, PROOF.split(), extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        row["earlier_keys"] = " ".join(row.get("earlier_keys", []))
        # A sheet is looked at; who needs the very bytes of an odd key reads JSON.
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> str:
    """Return a value for a sheet, which would take some names for formulas."""
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# What the operator asks of files: `explain`, and `list --skipped`. Each needs journal
# and folder, and no daemon; a running one is not disturbed. Functions return the exit
# code.


def list_skipped(config: Path | None, *, as_json: bool) -> int:
    """List what lies under the folder and will never be sent, and why."""
    with _looking(config) as (file_statuses, _):
        if file_statuses.spool.lost():
            folder = display(os.fsencode(file_statuses.spool.root))
            complain(f"E105 the watched folder {folder} is not there")
            return WRONG
        found = (one.record() for one in skipped(file_statuses))
        (print_array if as_json else print_skipped)(found)
    return DONE


def explain_path(config: Path | None, said: str, *, as_json: bool) -> int:
    """Say why a file is, or is not, delivered; 1 where nothing is known of it."""
    with _looking(config) as (file_statuses, records):
        try:
            path = locate(file_statuses.spool, records, said)
        except OutsideSpool as error:
            complain(str(error))
            return USAGE
        explanation = explain(file_statuses, records, path)
    if as_json:
        print_object(explanation.record())
    else:
        print_explanation(explanation)
    return DONE if explanation.known else WRONG


@contextmanager
def _looking(config: Path | None) -> Iterator[tuple[FileStatuses, JournalReader]]:
    settings = load_part(find(config, os.environ), os.environ, "journal", "spool")
    # A look asks for a lease, and a writer that comes in just then breaks it.
    ignore_lease_breaks()
    rule = settings.spool
    with JournalReader(settings.journal.path, absent=True) as records:
        yield (
            FileStatuses(
                Spool(rule.directory),
                Selection(rule.include, rule.exclude),
                records.latest,
                rule.settle_s,
            ),
            records,
        )
