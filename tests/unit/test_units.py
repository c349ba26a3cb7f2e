"""Durations and sizes: what is read, what is refused, and what comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.units import (
    UnitError,
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


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("5", "write 5s"),
        ("0.5", "write 0.5s"),
        (" 5 s ", "write 5s"),
        ("5s\n", "write 5s"),
        ("5sec", "write 5s"),
        ("5 Minutes", "write 5m"),
        ("3 hours", "write 3h"),
        ("1 day", "write 1d"),
        ("20millis", "write 20ms"),
        ("5M", "write 5m"),
    ],
)
def test_a_duration_that_is_nearly_right_is_refused_with_the_right_one(
    text: str, remedy: str
) -> None:
    """What a person meant is suggested, and never guessed."""
    with pytest.raises(UnitError) as caught:
        parse_duration(text)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    "text", ["", "s", "-5s", "+5s", "5w", "1h30m", "\u0665s", "1e3s", "fast", "inf"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    """Signs, compounds, exponents and other digits are no durations."""
    with pytest.raises(UnitError) as caught:
        parse_duration(text)
    assert "500ms" in caught.value.remedy


def test_a_duration_has_an_upper_limit() -> None:
    """More than a century is refused, since no clock here can wait for it."""
    assert parse_duration("36500d") == 36500 * 86400
    with pytest.raises(UnitError, match="century"):
        parse_duration("36501d")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("1024", "write 1024B"), ("64mib", "write 64MiB"), ("5 GiB", "write 5GiB")],
)
def test_a_size_that_is_nearly_right_is_refused_with_the_right_one(
    text: str, remedy: str
) -> None:
    """A size without a unit, or with a blank or wrong case, is corrected in words."""
    with pytest.raises(UnitError) as caught:
        parse_size(text)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize("text", ["0.5B", "999999999999999999TiB", "64", "5s", "-1B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Parts of a byte, sizes beyond any disk, and other units are refused."""
    with pytest.raises(UnitError):
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
def test_a_duration_is_written_exactly_if_that_is_short(
    seconds: float, text: str
) -> None:
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
    assert parse_size(format_size(size_bytes)) == size_bytes
