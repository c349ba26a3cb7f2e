"""Durations and sizes as people write them: `5s`, `400d`, `64MiB`."""

import re
from datetime import UTC, datetime
from decimal import Decimal

_DURATIONS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_BINARY_SIZES = {
    "B": Decimal(1),
    "KiB": Decimal(1 << 10),
    "MiB": Decimal(1 << 20),
    "GiB": Decimal(1 << 30),
    "TiB": Decimal(1 << 40),
}
_SIZES = {
    "B": Decimal(1),
    "KB": Decimal(10**3),
    "kB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "TB": Decimal(10**12),
    **_BINARY_SIZES,
}
_DURATION_EXAMPLES = "write it like 500ms, 5s, 10m, 2h or 400d"
_INSTANT_EXAMPLES = "write it like 2026-11-24, 2026-11-24T06:00+05:30 or 24h"
_RATE_EXAMPLES = "write it like 512KiB/s, 2MiB/s or 10MB/s"
_SIZE_EXAMPLES = "write it like 64KiB, 64MiB, 5GiB or 10MB"

# A century: below what a thread can wait, and what a date can be moved by.
_LONGEST = 36500 * _DURATIONS["d"]
_LARGEST = 1 << 60

_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([A-Za-z]+)")
_BITS = re.compile(
    r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kKMG]?)b(?:it)?s?(?:/s|ps)?\s*"
)
_LOOSE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")


class UnitError(ValueError):
    """The text is no such quantity; `remedy` says what to write instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def parse_duration(text: str) -> float:
    """Return the seconds that `500ms`, `5s`, `10m`, `2h` or `400d` stands for.

    Raises `UnitError` for anything else: no unit, a unit it does not know, a sign,
    more than a century.
    """
    seconds = _parse(text, _DURATIONS)
    if seconds is None:
        raise _refusal(text, "duration", "s", _DURATIONS, _DURATION_EXAMPLES)
    if seconds > _LONGEST:
        raise UnitError("is longer than a century", _DURATION_EXAMPLES)
    return float(seconds)


def parse_size(text: str) -> int:
    """Return the bytes that `64KiB`, `5GiB` or `10MB` stands for.

    Raises `UnitError` for anything else, and for a part of a byte.
    """
    size = _parse(text, _SIZES)
    if size is None:
        raise _refusal(text, "size", "B", _SIZES, _SIZE_EXAMPLES)
    if size != int(size) or size > _LARGEST:
        raise UnitError("is no whole number of bytes up to 1 EiB", _SIZE_EXAMPLES)
    return int(size)


def parse_rate(text: str) -> int:
    """Return the bytes a second that `512KiB/s`, `2MiB/s` or `10MB/s` stands for.

    Raises `UnitError` for anything else; for bits with the bytes that they are.
    """
    if bits := _BITS.fullmatch(text):
        unit = f"{bits[2].upper()}B" if bits[2] else "B"
        rate = Decimal(bits[1]) * _SIZES[unit] / 8
        remedy = f"write {_format(rate, _SIZES, _BINARY_SIZES)}/s"
        raise UnitError("is in bits", remedy)
    number = text.removesuffix("/s")
    try:
        rate_bytes = parse_size(number)
    except UnitError as error:
        plain = error.remedy == _SIZE_EXAMPLES or number.isdigit()
        remedy = _RATE_EXAMPLES if plain else f"{error.remedy}/s"
        raise UnitError("is no speed", remedy) from None
    if number == text:
        raise UnitError("is a size, and no speed", f"write {text}/s")
    return rate_bytes


def parse_since(text: str, now: float) -> float:
    """Return the instant that `2026-11-24`, `2026-11-24T06:00+05:30` or `24h` means.

    A duration counts back from `now`; an instant without an offset is UTC, as in the
    log. Raises `UnitError` for anything else.
    """
    if text[:1].isdigit() and "-" not in text:
        return now - parse_duration(text)
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise UnitError("is no instant", _INSTANT_EXAMPLES) from None
    return since.replace(tzinfo=since.tzinfo or UTC).timestamp()


def format_duration(seconds: float) -> str:
    """Write a duration in seconds for people: exact in four digits, or else rounded.

    What comes out can be parsed again: `10m`, `1500ms`, `3.43h`.
    """
    if seconds == 0:
        return "0s"
    # Through repr: 0.1 is meant as a tenth, not as the nearest binary fraction.
    return _format(Decimal(repr(seconds)), _DURATIONS, _DURATIONS)


def format_size(size_bytes: int) -> str:
    """Write a size in bytes for people: exact in four digits, or else rounded.

    What comes out can be parsed again where it is exact: `64MiB`, `10MB`.
    """
    if size_bytes == 0:
        return "0B"
    return _format(Decimal(size_bytes), _SIZES, _BINARY_SIZES)


def _parse(text: str, units: dict[str, Decimal]) -> Decimal | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    return Decimal(match[1]) * units[match[2]]


def _refusal(
    text: str, noun: str, usual: str, units: dict[str, Decimal], examples: str
) -> UnitError:
    match = _LOOSE.fullmatch(text)
    if match is None:
        return UnitError(f"is no {noun}", examples)
    number, unit = match.groups()
    if not unit:
        return UnitError(f"is a {noun} without a unit", f"write {number}{usual}")
    meant = _meant(unit, units)
    remedy = f"write {number}{meant}" if meant else examples
    return UnitError(f"is no {noun}", remedy)


def _meant(unit: str, units: dict[str, Decimal]) -> str | None:
    """Guess the unit behind `sec`, `Minutes` or `mib`."""
    for known in units:
        if unit.lower() == known.lower():
            return known
    words = {"sec": "s", "min": "m", "hour": "h", "hr": "h", "day": "d", "mill": "ms"}
    for word, known in words.items():
        if known in units and unit.lower().startswith(word):
            return known
    return None


def _format(
    value: Decimal, exact: dict[str, Decimal], rounded: dict[str, Decimal]
) -> str:
    for unit, factor in sorted(exact.items(), key=lambda item: -item[1]):
        count = value / factor
        if count == int(count) and 1 <= count < 10_000:  # noqa: PLR2004  four digits
            return f"{int(count)}{unit}"
    fitting = [unit for unit, factor in rounded.items() if factor <= value]
    unit = fitting[-1] if fitting else next(iter(rounded))
    count = value / rounded[unit]
    digits = 2 - min(max(count.adjusted(), 0), 2)
    text = f"{count:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}{unit}"
