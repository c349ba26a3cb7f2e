"""Reads the server's log of a dataset: the files that it has begun, and their rows.

The log is a JSON array with an object for each file. It is not trusted: what has an unexpected type
counts as absent. Times are Indian, by the server's clock. Source: cQube's NiFi templates, 1.12 to
4.1.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from emitterd.text import printable

COUNT_MAX = 10**15
COLUMNS_MAX = 20
"""So many columns with null values are kept for a file."""
NAME_MAX = 100

_INDIA = timezone(timedelta(hours=5, minutes=30))
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_BETWEEN = re.compile(r"[\s,]*")
_REASONS = {
    "blank": "blank_lines",
    "duplicate": "duplicate_records",
    "datatype": "datatype_mismatch",
}


@dataclass(frozen=True, slots=True)
class LogRecord:
    """What the log says about a file. `ended_at` is None while the server has not ended it.

    `overtaken`: the server has ended a file that it began later. `rows`: the counts of a file that
    has ended.
    """

    started_at: float | None
    ended_at: float | None
    overtaken: bool
    rows: dict[str, Any]


def parse(content: bytes, file_names: Collection[str]) -> dict[str, LogRecord]:
    """Return the records of these files. Raises `ValueError` if this is no log.

    A file that was processed twice has two objects: the last one counts.
    """
    wanted: dict[str, Mapping[str, Any]] = {}
    last_ended = ""
    for item in _objects(content.decode("utf-8", "replace")):
        if not isinstance(item, dict):
            continue
        started = _time(item.get("process_start_time"))
        if _time(item.get("process_end_time")):
            # The form makes the order of texts that of times.
            last_ended = max(last_ended, started)
        name = item.get("filename")
        if isinstance(name, str) and name in file_names:
            wanted[name] = item
    return {name: _record(item, last_ended) for name, item in wanted.items()}


def _objects(text: str) -> Iterator[object]:
    """Yield the items of an array one by one: the whole would need ten times the memory."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    if position == len(text):
        # The server writes an empty file where it has none.
        return
    if text[position] != "[":
        raise ValueError("it is no array")
    position = _skip(text, position + 1)
    while text[position : position + 1] != "]":
        try:
            item, position = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        yield item
        position = _skip(text, position)


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position


def _record(item: Mapping[str, Any], last_ended: str) -> LogRecord:
    started = _time(item.get("process_start_time"))
    ended_at = _instant(_time(item.get("process_end_time")))
    overtaken = bool(started) and started < last_ended
    # Before the end the counts mean nothing: a dropped file may show all its rows as accepted.
    rows = _rows(item) if ended_at is not None else {}
    return LogRecord(_instant(started), ended_at, overtaken, rows)


def _rows(item: Mapping[str, Any]) -> dict[str, Any]:
    total, accepted = _count(item.get("total_records")), _count(item.get("processed_records"))
    rows: dict[str, Any] = {"total": total, "accepted": accepted}
    if total is not None and accepted is not None:
        # The server subtracts a row with two problems twice.
        rows["dropped"] = max(total - accepted, 0)
    rows |= {reason: _count(item.get(name)) for reason, name in _REASONS.items()}
    nulls = item.get("records_with_null_value")
    counts = {
        printable(name)[:NAME_MAX]: number
        for name, value in (nulls.items() if isinstance(nulls, dict) else ())
        if (number := _count(value))
    }
    if counts:
        most = sorted(counts.items(), key=lambda pair: -pair[1])[:COLUMNS_MAX]
        rows["null_values"] = dict(most)
    return {name: value for name, value in rows.items() if value is not None}


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return min(max(value, 0), COUNT_MAX)


def _time(value: object) -> str:
    return value if isinstance(value, str) and _TIME.fullmatch(value) else ""


def _instant(text: str) -> float | None:
    """Return an Indian time in seconds since the epoch; None if it is none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=_INDIA).timestamp()
    except (ValueError, OverflowError):
        return None
