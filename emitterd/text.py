"""Numbers as a person reads them on the page: `1.2 MB`, `3 files`, `4 minutes`.

Rounded, for looking at; what is to be parsed again is written by `units`.
"""

_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_STEP = 1000

_SPANS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))
_FINE_BELOW = 3
"""Below this many of a unit the next smaller one is told too."""


def amount(size_bytes: float) -> str:
    """Write a size in bytes in three digits."""
    size, unit = float(size_bytes), 0
    # What rounds to a thousand is one of the next unit.
    while round(size) >= _STEP and unit < len(_SIZES) - 1:
        size, unit = size / _STEP, unit + 1
    if unit == 0:
        return "1 byte" if round(size) == 1 else f"{size:.0f} bytes"
    digits = max(0, 3 - len(str(int(size))))
    return f"{size:.{digits}f} {_SIZES[unit]}"


def span(seconds: float) -> str:
    """Write a duration in seconds in words, the smaller units left out."""
    left = max(0.0, seconds)
    for position, (unit_s, name) in enumerate(_SPANS):
        units = int(left // unit_s)
        if not units:
            continue
        said = count(units, name)
        if units < _FINE_BELOW and position < len(_SPANS) - 1:
            finer_s, finer = _SPANS[position + 1]
            rest = int(left % unit_s // finer_s)
            said += f" {count(rest, finer)}" if rest else ""
        return said
    return "less than a minute"


def count(number: int, noun: str) -> str:
    """Write a number of things: `1 file`, `12,000 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def share(part: float, whole: float) -> int:
    """Return which part of the whole that is, in whole per cent rounded down."""
    return int(100 * min(part, whole) / whole) if whole else 100


def sentence(text: str) -> str:
    """Return lower-case words as a sentence, with a capital and a full stop."""
    said = text[:1].upper() + text[1:]
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."
