"""Durations, sizes and speeds in the configuration: `5s`, `400d`, `64MiB`, `2MiB/s`.

A value always has a unit: no unit is guessed. This is the only module that writes durations and
sizes. `format_duration` and `exact_size` write a setting as in the configuration. `format_age` and
`format_size` round what was measured, for people. `text` writes instants.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

from emitterd.errors import ValueProblem
from emitterd.translation.text import Text

DAY_S = 86400.0

_DURATIONS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_DURATION_TEXTS = {
    "ms": Text("{number}ms"),
    "s": Text("{number}s"),
    "m": Text("{number}m"),
    "h": Text("{number}h"),
    "d": Text("{number}d"),
}
_BINARY_SIZES = {
    "B": Decimal(1),
    "KiB": Decimal(1 << 10),
    "MiB": Decimal(1 << 20),
    "GiB": Decimal(1 << 30),
    "TiB": Decimal(1 << 40),
}
_SIZES = {
    "KB": Decimal(10**3),
    "kB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "TB": Decimal(10**12),
    **_BINARY_SIZES,
}
_WHOLE_SIZES = [(unit, int(factor)) for unit, factor in _BINARY_SIZES.items()]
_DURATION_EXAMPLES = "write it like 500ms, 5s, 10m, 2h or 400d"
_INSTANT_EXAMPLES = "write it like 2026-11-24, 2026-11-24T06:00 or 24h"
_RATE_EXAMPLES = "write it in bytes per second, like 512KiB/s, 2MiB/s or 10MB/s"
_SIZE_EXAMPLES = "write it like 64KiB, 64MiB, 5GiB or 10MB"

# A century: less than the longest wait of a thread and the range of dates.
_LONGEST = 36500 * _DURATIONS["d"]
_LARGEST = 1 << 60

_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([A-Za-z]*)")


def parse_duration(text: str) -> float:
    """Return the seconds of `500ms`, `5s`, `10m`, `2h` or `400d`.

    Raises `ValueProblem` for no unit, an unknown unit, a sign, or more than a century.
    """
    seconds = _parse(text, "duration", _DURATIONS, _DURATION_EXAMPLES)
    if seconds > _LONGEST:
        raise ValueProblem("is longer than a century", _DURATION_EXAMPLES)
    return float(seconds)


def parse_size(text: str) -> int:
    """Return the bytes of `64KiB`, `5GiB` or `10MB`.

    Raises `ValueProblem` for no unit, an unknown unit, or a part of a byte.
    """
    size = _parse(text, "size", _SIZES, _SIZE_EXAMPLES)
    if size != int(size) or size > _LARGEST:
        raise ValueProblem("is not a whole number of bytes up to 1 EiB", _SIZE_EXAMPLES)
    return int(size)


def parse_rate(text: str) -> int:
    """Return the bytes per second of `512KiB/s`, `2MiB/s` or `10MB/s`.

    Raises `ValueProblem` for anything else, also for bits per second.
    """
    size, slash, unit = text.partition("/")
    try:
        rate_bytes = parse_size(size)
    except ValueProblem:
        raise ValueProblem("is not a speed", _RATE_EXAMPLES) from None
    if slash + unit != "/s":
        raise ValueProblem("is a size, not a speed", _RATE_EXAMPLES)
    return rate_bytes


def parse_instant(text: str, now: float) -> float:
    """Return the instant of `2026-11-24`, `2026-11-24 06:00+05:30` or `24h`.

    A duration counts back from `now`; an instant without an offset is local time, as `local_time`
    writes it. Raises `ValueProblem` for anything else.
    """
    try:
        if text[:1].isdigit() and "-" not in text:
            return now - parse_duration(text)
        # Without an offset, `timestamp` takes the local time.
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueProblem("is not a time", _INSTANT_EXAMPLES) from None


def midnight(day: date) -> float:
    """Return when a day begins in the time zone of this machine, in seconds since the epoch."""
    return datetime(day.year, day.month, day.day).timestamp()  # noqa: DTZ001  local time


def format_duration(seconds: float) -> Text:
    """Write a duration in seconds: exact with up to four digits, else rounded.

    `parse_duration` reads the result: `10m`, `1500ms`, `3.43h`.
    """
    # Through repr: 0.1 means a tenth, not the nearest binary fraction.
    number, unit = (
        _written(Decimal(repr(seconds)), _DURATIONS, _DURATIONS) if seconds else ("0", "s")
    )
    return Text(_DURATION_TEXTS[unit], number=number)


def format_age(seconds: float) -> Text:
    """Write how long ago something was, in the largest unit with two or more of it."""
    fitting = (unit for unit in (86400, 3600, 60) if seconds >= 2 * unit)
    unit = next(fitting, 1)
    return format_duration(max(0.0, seconds // unit * unit))


def format_size(size_bytes: float) -> str:
    """Write a size in bytes for people: `812 B`, `1.2 MiB`, `64 MiB`."""
    unit, factor = "B", 1
    for larger, factor_bytes in _WHOLE_SIZES:
        if size_bytes < factor_bytes:
            break
        unit, factor = larger, factor_bytes
    count = size_bytes / factor
    digits = 1 if count < 9.95 and count != int(count) else 0  # noqa: PLR2004  10 has two digits
    return f"{count:.{digits}f} {unit}"


def exact_size(size_bytes: int) -> str:
    """Write a size in bytes: exact with up to four digits, else rounded.

    `parse_size` reads the result if it is exact: `64MiB`, `10MB`.
    """
    if size_bytes == 0:
        return "0B"
    return "".join(_written(Decimal(size_bytes), _SIZES, _BINARY_SIZES))


def _parse(text: str, noun: str, units: Mapping[str, Decimal], examples: str) -> Decimal:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in ("", *units):
        raise ValueProblem(f"is not a {noun}", examples)
    number, unit = match.groups()
    if not unit:
        raise ValueProblem(f"is a {noun} without a unit", examples)
    return Decimal(number) * units[unit]


def _written(
    value: Decimal, exact: Mapping[str, Decimal], rounded: Mapping[str, Decimal]
) -> tuple[str, str]:
    """Return number and unit."""
    for unit, factor in sorted(exact.items(), key=lambda item: -item[1]):
        count = value / factor
        if count == int(count) and 1 <= count < 10_000:  # noqa: PLR2004  four digits
            return f"{int(count)}", unit
    fitting = [unit for unit, factor in rounded.items() if factor <= value]
    unit = fitting[-1] if fitting else next(iter(rounded))
    count = value / rounded[unit]
    digits = 2 - min(max(count.adjusted(), 0), 2)
    text = f"{count:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text, unit
