"""The server's logs: upstream's shapes, and what no server should send."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from emitterd.tracking.server_log import COUNT_MAX, parse

NAME = "periodic_exam_mst_20261130164005.zip"


def item(**changes: object) -> dict[str, Any]:
    """Return an object as cQube writes it, with these changes."""
    return {
        "filename": NAME,
        "ff_uuid": "5f6c",
        "total_records": 100,
        "blank_lines": 1,
        "duplicate_records": 2,
        "datatype_mismatch": 3,
        "records_with_null_value": {"exam_id": 4, "grade": 0},
        "processed_records": 90,
        "process_start_time": "2026-11-30 16:40:05",
        "process_end_time": "2026-11-30 16:41:00",
    } | changes


def read(*items: object) -> dict[str, Any]:
    """Return what a log with these objects says about the file."""
    records = parse(json.dumps(items).encode(), {NAME})
    return {name: (record.overtaken, record.rows) for name, record in records.items()}


def test_a_file_that_has_ended_has_its_rows_and_indian_times() -> None:
    """Columns without an empty value are not kept."""
    record = parse(json.dumps([item()]).encode(), {NAME})[NAME]
    assert record.rows == {
        "total": 100,
        "accepted": 90,
        "dropped": 10,
        "blank": 1,
        "duplicate": 2,
        "datatype": 3,
        "null_values": {"exam_id": 4},
    }
    started = datetime(2026, 11, 30, 11, 10, 5, tzinfo=UTC)
    assert record.started_at == started.timestamp()
    assert record.ended_at == started.timestamp() + 55


def test_the_counts_of_a_file_without_an_end_are_ignored() -> None:
    """A dropped file may show all its rows as processed."""
    content = json.dumps([item(process_end_time=None)]).encode()
    record = parse(content, {NAME})[NAME]
    assert (record.ended_at, record.rows, record.overtaken) == (None, {}, False)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"processed_records": -5}, {"accepted": 0, "dropped": 100}),
        ({"processed_records": 120}, {"accepted": 120, "dropped": 0}),
        ({"total_records": 10**30}, {"total": COUNT_MAX}),
        ({"total_records": "100"}, {"total": None, "dropped": None}),
        ({"total_records": True}, {"total": None}),
        ({"processed_records": 1.5}, {"accepted": None, "dropped": None}),
        ({"datatype_mismatch": []}, {"datatype": None}),
        ({"records_with_null_value": "x"}, {"null_values": None}),
        ({"records_with_null_value": {"a\n": 1, "b": "2"}}, {"null_values": {"a\\n": 1}}),
    ],
)
def test_counts_are_bounded_and_wrong_types_count_as_absent(
    changes: dict[str, Any], rows: dict[str, Any]
) -> None:
    """A count is at least 0; what is no whole number is no count."""
    (_, found) = read(item(**changes))[NAME]
    assert {name: found.get(name) for name in rows} == rows


def test_at_most_twenty_columns_are_kept() -> None:
    """Those with the most empty values."""
    nulls = {f"column {number}" + "x" * 200: number for number in range(1000)}
    (_, rows) = read(item(records_with_null_value=nulls))[NAME]
    assert len(rows["null_values"]) == 20
    assert max(rows["null_values"].values()) == 999
    assert max(map(len, rows["null_values"])) == 100


@pytest.mark.parametrize("other", [NAME.upper(), f"pat/{NAME}", NAME[:-4], f"{NAME} ", None, 7])
def test_only_the_exact_name_is_the_file(other: object) -> None:
    """Not the path, nor the name without its ending."""
    assert read(item(filename=other)) == {}


@pytest.mark.parametrize(
    ("started", "ended", "overtaken"),
    [
        ("2026-11-30 16:40:06", "2026-11-30 16:40:07", True),
        ("2026-11-30 16:40:05", "2026-11-30 18:00:00", False),
        ("2026-11-30 16:40:06", None, False),
        ("2026-11-30 16:40:06", "soon", False),
        (None, "2026-11-30 18:00:00", False),
    ],
)
def test_a_later_file_with_an_end_overtakes(
    started: str | None, ended: str | None, *, overtaken: bool
) -> None:
    """Later: the server began it later, by its own clock."""
    other = item(filename="other.zip", process_start_time=started, process_end_time=ended)
    found, _ = read(item(process_end_time=None), other)[NAME]
    assert found is overtaken


def test_of_a_file_processed_twice_the_last_object_counts() -> None:
    """The server appends to its log."""
    _, rows = read(item(), item(processed_records=50))[NAME]
    assert rows["accepted"] == 50


@pytest.mark.parametrize("content", [b"", b"  \n", b"[]", b'[1, "x", null, []]'])
def test_an_empty_log_names_no_file(content: bytes) -> None:
    """The server writes an empty file where it has no log."""
    assert parse(content, {NAME}) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"null",
        b"<html>",
        b"[",
        b'[{"filename": "x"}',
        b"[" * 100_000,
        b'[{"a":' * 100_000,
        b"[" + b"9" * 5000 + b"]",
        b'["\xff',
        b"[{} x]",
    ],
)
def test_what_is_no_log_is_an_error(content: bytes) -> None:
    """Nothing is concluded from a part of a log."""
    with pytest.raises(ValueError):  # noqa: PT011  json has many messages
        parse(content, {NAME})


def test_a_year_that_no_calendar_has_is_no_time() -> None:
    """The end still counts as an end only if it is an instant."""
    content = json.dumps([item(process_end_time="0000-13-40 25:61:61")]).encode()
    assert parse(content, {NAME})[NAME].ended_at is None
