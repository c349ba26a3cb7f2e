"""Records of the journal as CSV and as JSON, row by row: a million rows need no memory."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from emitterd.text import printable

RECEIPT_FIELDS = """path bytes sha256 md5 etag key attempts admitted_at delivered_at duration_s
    ambiguous verified earlier_keys confirmation findings server server_state rows_total
    rows_accepted rows_dropped reason"""
"""The columns of `receipts --csv`."""

FILE_FIELDS = f"{RECEIPT_FIELDS} state changed_at due_at error moved_to"
"""The columns for files of any state."""


class _Line:
    """A file for `csv.writer`, which returns what is written."""

    @staticmethod
    def write(text: str) -> str:
        return text


def csv_lines(records: Iterable[Mapping[str, Any]], fields: str) -> Iterator[str]:
    """Yield the header, and one line for each record; `fields`: the names of the columns.

    For people: JSON has every byte of a key as it is.
    """
    writer, names = csv.writer(_Line()), fields.split()
    yield writer.writerow(names)
    for record in records:
        row = _flat(record)
        yield writer.writerow([_cell(row.get(name, "")) for name in names])


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with one value in each field."""
    findings, side = record.get("findings", []), record.get("server_side", {})
    return {
        **record,
        "earlier_keys": " ".join(record.get("earlier_keys", [])),
        "findings": "; ".join(f"{item['code']} {item['level']}" for item in findings),
        "server_state": side.get("state", ""),
        **{f"rows_{name}": number for name, number in side.get("rows", {}).items()},
    }


def _cell(value: object) -> str:
    """Escape a value that a spreadsheet would interpret as a formula."""
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a JSON array, one line for each record."""
    separator = "[\n"
    for record in records:
        yield separator + json.dumps(record)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
