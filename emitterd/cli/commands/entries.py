"""`list` and `receipts`: what the journal has of each file, as tables, JSON and CSV.

They work with or without a daemon. Each function returns the exit code.
"""

import json
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
from emitterd.journal.reader import EntryQuery, EntrySummary, JournalReader
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

_RIGHT = frozenset({"bytes", "attempts"})


def list_entries(
    config: Path | None, query: EntryQuery, patterns: Sequence[str], *, as_json: bool, wide: bool
) -> int:
    """List the versions in the journal."""
    with _open_journal(config, query, patterns) as (reader, chosen):
        if as_json:
            print_array(reader.entries(chosen))
            return DONE
        if wide:
            printed = _print_wide(reader.entries(chosen))
        else:
            now = reader.now()
            rows = (_entry_row(entry, now) for entry in reader.summaries(chosen))
            printed = print_table(rows, ENTRY_COLUMNS)
        if not printed:
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
        records = ask(reader.location.path, "skipped")
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
    if wide:
        return _print_wide(records)
    now = time.time()
    return print_table((_receipt_row(receipt, now) for receipt in records), RECEIPT_COLUMNS)


def _print_wide(records: Iterable[Record]) -> bool:
    names = WIDE_COLUMNS.split()
    rows = ([_whole(record, name) for name in names] for record in records)
    return print_table(rows, [TableColumn(name, right=name in _RIGHT) for name in names], wide=True)


def _entry_row(entry: EntrySummary, now: float) -> Sequence[str]:
    problem = ""
    if entry.reason is not None:
        problem = f"{entry.error or ''} {entry.reason}"
    elif entry.findings is not None:
        problem = _codes(json.loads(entry.findings))
    if entry.forgotten:
        problem = f"{problem} (forgotten)"
    size, at = format_size(entry.size_bytes), when(entry.at, now)
    return display(entry.path), entry.state, size, at, problem.strip()


def _receipt_row(receipt: Record, now: float) -> Sequence[str]:
    # A file that an operator has marked was not sent: the reason names the operator.
    codes = _codes(receipt.get("findings", []))
    server = word(receipt.get("server_side")) or codes or receipt.get("reason", "")
    at = when(receipt.get("delivered_at", receipt["changed_at"]), now)
    return receipt["path"], format_size(receipt["bytes"]), at, server


def _skipped_row(file: Record) -> Sequence[str]:
    reason = "; ".join(filter(None, (file["reason"], file.get("hint"))))
    return file["path"], file.get("state", ""), f"{file.get('error', '')} {reason}".strip()


def _codes(findings: Iterable[Record]) -> str:
    return " ".join(dict.fromkeys(finding["code"] for finding in findings))


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
    with JournalReader(settings.journal.location) as reader:
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
