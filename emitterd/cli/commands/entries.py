"""`list` and `receipts`: what the journal has of each file, as tables, JSON and CSV.

They work with or without a daemon. Each function returns the exit code.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click

from emitterd.cli.output import DONE, complain, load_as_owner, open_sources, print_array
from emitterd.cli.tables import TableColumn, print_table, when
from emitterd.journal.reader import EntryQuery, JournalReader
from emitterd.model import State
from emitterd.monitoring.export import RECEIPT_FIELDS, csv_lines
from emitterd.text import display, local_time
from emitterd.tracking.texts import word
from emitterd.units import format_size

Record = Mapping[str, Any]

_PATH, _SIZE = TableColumn("path", cut="middle"), TableColumn("size", right=True)
_TIME, _PROBLEM = TableColumn("time"), TableColumn("problem", cut="end")
ENTRY_COLUMNS = (_PATH, TableColumn("state"), _SIZE, _TIME, _PROBLEM)
RECEIPT_COLUMNS = (_PATH, _SIZE, TableColumn("delivered"), TableColumn("at the server", cut="end"))
SKIPPED_COLUMNS = (_PATH, TableColumn("state"), _PROBLEM)
WIDE_COLUMNS = """path state bytes attempts admitted_at changed_at due_at delivered_at error reason
    findings server_side server key sha256 md5 etag"""
"""The columns of `list --wide` and `receipts --wide`: fields of the JSON."""

_ADMITTED = frozenset({State.QUEUED, State.DELIVERING})
_RIGHT = frozenset({"bytes", "attempts"})


def list_entries(
    config: Path | None, query: EntryQuery, patterns: Sequence[str], *, as_json: bool, wide: bool
) -> int:
    """List the versions in the journal."""
    with _open_journal(config, query, patterns) as (reader, chosen):
        records = reader.entries(chosen)
        if as_json:
            print_array(records)
        elif not _print_records(records, _entry_row, ENTRY_COLUMNS, wide=wide):
            _complain_empty(query, patterns, "entry", "emitterd list")
    return DONE


def receipts(
    config: Path | None, query: EntryQuery, patterns: Sequence[str], form: str = "table"
) -> int:
    """Print the proof of delivery: `form` is json, csv, wide or table."""
    with _open_journal(config, query, patterns) as (reader, chosen):
        records = reader.receipts(chosen)
        if form == "json":
            print_array(records)
        elif form == "csv":
            sys.stdout.writelines(csv_lines(records, RECEIPT_FIELDS))
        elif not print_receipts(records, wide=form == "wide"):
            _complain_empty(query, patterns, "receipt", "emitterd receipts")
    return DONE


def list_skipped(
    config: Path | None, patterns: Sequence[str], limit: int | None, *, as_json: bool
) -> int:
    """List the files in the folder that will never be sent, and why."""
    from emitterd.intake.file_status import skipped
    from emitterd.service.control_socket import ask

    with open_sources(config) as (status_reader, reader):
        folder = display(os.fsencode(status_reader.spool.root))
        if status_reader.spool.lost():
            raise click.ClickException(f"E105 the watched folder {folder} is not there")
        # The daemon may read less, or more, than this user.
        records = ask(reader.path, "skipped")
        if records is None:
            records = (status.record() for status in skipped(status_reader))
        if matches := _matcher(patterns, status_reader.spool.root):
            records = (record for record in records if matches(os.fsencode(record["path"])))
        records = islice(records, limit)
        if as_json:
            print_array(records)
        elif not print_table(map(_skipped_row, records), SKIPPED_COLUMNS):
            named = " that matches" if patterns else ""
            complain(f"emitterd skips no file{named} in {folder}: `emitterd list` shows the others")
    return DONE


def print_receipts(records: Iterable[Record], *, wide: bool = False) -> bool:
    """Print receipts as a table; return False if there is none."""
    return _print_records(records, _receipt_row, RECEIPT_COLUMNS, wide=wide)


def _print_records(
    records: Iterable[Record],
    row: Callable[[Record, float], Sequence[str]],
    columns: Sequence[TableColumn],
    *,
    wide: bool,
) -> bool:
    now = time.time()
    if not wide:
        return print_table((row(record, now) for record in records), columns)
    names = WIDE_COLUMNS.split()
    rows = ([_whole(record, name) for name in names] for record in records)
    return print_table(rows, [TableColumn(name, right=name in _RIGHT) for name in names], wide=True)


def _entry_row(entry: Record, now: float) -> Sequence[str]:
    problem = _codes(entry)
    if "reason" in entry:
        problem = f"{entry.get('error', '')} {entry['reason']}"
    if "forgotten_at" in entry:
        problem = f"{problem} (forgotten)"
    at = when(_time_of(entry), now)
    return entry["path"], entry["state"], format_size(entry["bytes"]), at, problem.strip()


def _receipt_row(receipt: Record, now: float) -> Sequence[str]:
    # A file that an operator has marked was not sent: the reason names the operator.
    server = word(receipt.get("server_side")) or _codes(receipt) or receipt.get("reason", "")
    at = when(_time_of(receipt), now)
    return receipt["path"], format_size(receipt["bytes"]), at, server


def _skipped_row(file: Record) -> Sequence[str]:
    reason = "; ".join(filter(None, (file["reason"], file.get("hint"))))
    return file["path"], file.get("state", ""), f"{file.get('error', '')} {reason}".strip()


def _codes(entry: Record) -> str:
    return " ".join(dict.fromkeys(finding["code"] for finding in entry.get("findings", [])))


def _time_of(entry: Record) -> str:
    """Return the time that matters in the state of an entry."""
    state = entry["state"]
    if state == State.DEFERRED and "due_at" in entry:
        return str(entry["due_at"])
    waits = state in _ADMITTED
    return str(entry["admitted_at"] if waits else entry.get("delivered_at", entry["changed_at"]))


def _whole(record: Record, name: str) -> str:
    """Return a field unabridged, in one word or, last, in several."""
    value = record.get(name, "")
    if name == "server_side":
        return word(value or None)
    if name == "findings":
        return ",".join(dict.fromkeys(finding["code"] for finding in value))
    if name.endswith("_at") and value:
        return local_time(value).replace(" ", "T")
    return str(value)


@contextmanager
def _open_journal(
    config: Path | None, query: EntryQuery, patterns: Sequence[str]
) -> Iterator[tuple[JournalReader, EntryQuery]]:
    settings = load_as_owner(config, "journal", "spool.directory")
    with JournalReader(settings.journal.path) as reader:
        yield reader, replace(query, matches=_matcher(patterns, settings.spool.directory))


def _matcher(patterns: Sequence[str], root: Path | None) -> Callable[[bytes], bool] | None:
    """Return what tells whether patterns name a path; they may be absolute. None without any."""
    if not patterns:
        return None
    from emitterd.spool.selection import path_matcher

    return path_matcher(patterns, root)


def _complain_empty(query: EntryQuery, patterns: Sequence[str], noun: str, command: str) -> None:
    if patterns or query != EntryQuery():
        complain(f"no {noun} matches: `{command}` shows all")
    else:
        complain(
            f"there is no {noun} yet: put a zip into a dataset folder, and see `emitterd status`"
        )
