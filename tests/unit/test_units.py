"""Durations and sizes: what is read, what is refused, and what is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.errors import ValueProblem
from emitterd.units import (
    exact_size,
    format_age,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("0s", 0),
        ("10m", 600),
        ("1.5h", 5400),
        ("2h", 7200),
        ("400d", 34_560_000),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    """A number with a unit of time is that many seconds, as a float."""
    parsed = parse_duration(text)
    assert parsed == seconds
    assert isinstance(parsed, float)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0B", 0),
        ("64KiB", 65_536),
        ("64MiB", 67_108_864),
        ("5GiB", 5_368_709_120),
        ("10MB", 10_000_000),
        ("1kB", 1000),
        ("1.5KiB", 1536),
    ],
)
def test_a_size_is_read_as_bytes(text: str, size_bytes: int) -> None:
    """KiB and its like are powers of 1024, KB and its like powers of 1000."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["5", "0.5"])
def test_a_duration_without_a_unit_is_refused(text: str) -> None:
    """No unit is guessed; the remedy shows examples."""
    with pytest.raises(ValueProblem, match="is a duration without a unit") as caught:
        parse_duration(text)
    assert "500ms" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "-5s", "+5s", "5w", "1h30m", "\u0665s", "1e3s", "fast", "inf"),
        *(" 5 s ", "5s\n", "5sec", "5 Minutes", "3 hours", "20millis", "5M"),
    ],
)
def test_a_wrong_duration_is_refused_with_examples(text: str) -> None:
    """Signs, compounds, exponents, other digits, blanks and long units are refused."""
    with pytest.raises(ValueProblem, match="is not a duration") as caught:
        parse_duration(text)
    assert "500ms" in caught.value.remedy


def test_a_duration_has_an_upper_limit() -> None:
    """More than a century is refused, since no clock here can wait for it."""
    assert parse_duration("36500d") == 36500 * 86400
    with pytest.raises(ValueProblem, match="century"):
        parse_duration("36501d")


@pytest.mark.parametrize(
    ("text", "message"),
    [("1024", "is a size without a unit"), ("64mib", "is not a size"), ("5 GiB", "is not a size")],
)
def test_a_size_that_is_nearly_right_is_refused_with_examples(text: str, message: str) -> None:
    """A size without a unit, with a blank, or in the wrong case is refused."""
    with pytest.raises(ValueProblem, match=message) as caught:
        parse_size(text)
    assert "64KiB" in caught.value.remedy


@pytest.mark.parametrize("text", ["0.5B", "999999999999999999TiB", "64", "5s", "-1B"])
def test_a_wrong_size_is_refused(text: str) -> None:
    """Parts of a byte, sizes beyond any disk, and other units are refused."""
    with pytest.raises(ValueProblem):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.1, "100ms"),
        (1.5, "1500ms"),
        (90.0, "90s"),
        (600.0, "10m"),
        (34_560_000.0, "400d"),
        (12_345.678, "3.43h"),
        (59.9999, "60s"),
        (0.0004, "0.4ms"),
    ],
)
def test_a_duration_is_written_exactly_if_that_is_short(seconds: float, text: str) -> None:
    """Up to four digits are exact; a measured duration is rounded to three."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (1, "1B"),
        (1024, "1KiB"),
        (5 << 30, "5GiB"),
        (10_000_000, "10MB"),
        (1_234_567, "1.18MiB"),
        (123_456_789, "118MiB"),
    ],
)
def test_a_size_is_written_exactly_if_that_is_short(size_bytes: int, text: str) -> None:
    """Up to four digits are exact; a measured size is rounded to three."""
    assert exact_size(size_bytes) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1_234_567, "1.2 MiB"),
        (10_440_000, "10 MiB"),
        (5 << 30, "5 GiB"),
        (123 << 50, "125952 TiB"),
    ],
)
def test_people_read_sizes_in_binary_units(size_bytes: int, text: str) -> None:
    """A size for people has one decimal below ten, and a blank before the unit."""
    assert format_size(size_bytes) == text


@given(st.integers(1, 9999), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_written_duration_reads_back(count: int, unit: str) -> None:
    """Writing what was read and reading it again changes nothing."""
    seconds = parse_duration(f"{count}{unit}")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 9999), st.sampled_from(["B", "KiB", "MiB", "GiB", "MB"]))
def test_a_written_size_reads_back(count: int, unit: str) -> None:
    """Writing what was read and reading it again changes nothing."""
    size_bytes = parse_size(f"{count}{unit}")
    assert parse_size(exact_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0s"),
        (0.9, "0s"),
        (35.9, "35s"),
        (119.0, "119s"),
        (179.0, "2m"),
        (7300.0, "2h"),
        (172_800.0, "2d"),
        (200 * 86400.0, "200d"),
    ],
)
def test_an_age_has_whole_units_of_which_there_are_two_or_more(seconds: float, text: str) -> None:
    """A clock that was set back makes no negative age."""
    assert format_age(seconds) == text
