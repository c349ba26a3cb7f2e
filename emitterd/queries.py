"""What the operator asks: `status`, `list`, `explain`, `receipts`.

Each needs the journal only, or journal and folder, and no daemon; a running one is
not disturbed. Functions return the exit code.
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

from emitterd.config import load_part
from emitterd.config_layers import find
from emitterd.entry import State, display
from emitterd.errors import printable
from emitterd.explanation import OutsideSpool, explain, locate
from emitterd.records import Records
from emitterd.selection import Selection
from emitterd.spool import Spool, ignore_lease_breaks
from emitterd.standing import Standings
from emitterd.survey import skipped
from emitterd.tables import (
    print_entries,
    print_explanation,
    print_receipts,
    print_skipped,
    print_status,
)
from emitterd.terminal import DONE, USAGE, WRONG, complain, print_array, print_object
from emitterd.verdict import Cause, journal_full, judge_queue, verdict
from emitterd.wording import check_line, record

FULL_BYTES = 64 * 1024
"""With less room than this on its disk the journal cannot grow."""

PROOF = """path bytes sha256 md5 etag key attempts admitted_at delivered_at duration_s
    ambiguous verified earlier_keys confirmation"""
"""The columns of `receipts --csv`."""


def status(config: Path | None, *, as_json: bool) -> int:
    """Show counts, the oldest waiting file and the destination."""
    with Records(journal_path(config)) as records:
        said = records.status()
    (print_object if as_json else print_status)(said)
    return DONE


def check_status(config: Path | None, *, as_json: bool) -> int:
    """Say in one line whether all is well, for monitoring; 1 where it is not."""
    settings = load_part(find(config, os.environ), os.environ, "journal", "metrics")
    rule, now = settings.metrics.limits, time.time()
    with Records(settings.journal.path) as records:
        progress, running = records.progress(), records.running()
    alarms = judge_queue(progress.queue(progress.outages, running=running), rule, now)
    if running:
        alarms += progress.noted
        noted = {one.code for one in progress.noted}
        free_bytes = shutil.disk_usage(settings.journal.path.parent).free
        if Cause.JOURNAL_FULL not in noted and free_bytes < FULL_BYTES:
            # Others took even the room that was kept to note it.
            alarms.append(journal_full(now))
    judged = verdict(alarms)
    if as_json:
        print_object(record(judged))
    else:
        line = check_line(judged, progress, rule, running=running, now=now)
        sys.stdout.write(f"{line}\n")
    return DONE if judged.ok else WRONG


def list_entries(config: Path | None, state: State | None, *, as_json: bool) -> int:
    """List the versions that the journal knows."""
    with Records(journal_path(config)) as records:
        (print_array if as_json else print_entries)(records.entries(state))
    return DONE


def list_skipped(config: Path | None, *, as_json: bool) -> int:
    """List what lies under the folder and will never be sent, and why."""
    with _looking(config) as (standings, _):
        if standings.spool.lost():
            folder = display(os.fsencode(standings.spool.root))
            complain(f"E105 the watched folder {folder} is not there")
            return WRONG
        found = (one.record() for one in skipped(standings))
        (print_array if as_json else print_skipped)(found)
    return DONE


def explain_path(config: Path | None, said: str, *, as_json: bool) -> int:
    """Say why a file is, or is not, delivered; 1 where nothing is known of it."""
    with _looking(config) as (standings, records):
        try:
            path = locate(standings.spool, records, said)
        except OutsideSpool as error:
            complain(str(error))
            return USAGE
        explanation = explain(standings, records, path)
    if as_json:
        print_object(explanation.record())
    else:
        print_explanation(explanation)
    return DONE if explanation.known else WRONG


def receipts(config: Path | None, since: float, form: str) -> int:
    """Print the proof of delivery: `form` is json, csv or table."""
    with Records(journal_path(config)) as records:
        rows = records.receipts(since)
        if form == "csv":
            _print_csv(rows)
        else:
            (print_array if form == "json" else print_receipts)(rows)
    return DONE


def journal_path(config: Path | None) -> Path:
    """Return where the journal is; raises `ConfigError`."""
    return load_part(find(config, os.environ), os.environ, "journal").journal.path


@contextmanager
def _looking(config: Path | None) -> Iterator[tuple[Standings, Records]]:
    settings = load_part(find(config, os.environ), os.environ, "journal", "spool")
    # A look asks for a lease, and a writer that comes in just then breaks it.
    ignore_lease_breaks()
    rule = settings.spool
    with Records(settings.journal.path, absent=True) as records:
        yield (
            Standings(
                Spool(rule.directory),
                Selection(rule.include, rule.exclude),
                records.latest,
                rule.settle_s,
            ),
            records,
        )


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
