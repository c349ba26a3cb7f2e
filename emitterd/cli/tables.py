"""Tables: on a terminal one line a row, cut to its width; elsewhere aligned and whole."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice

from emitterd.cli.terminal import (
    cells,
    coloured,
    is_coloured,
    is_terminal,
    print_lines,
    shorten,
    width,
)
from emitterd.text import local_time, printable
from emitterd.units import format_age

PAGE = 1000
"""The first rows decide the widths of the columns: a million rows need no memory."""

GAP = "  "
EMPTY = "-"
"""An empty cell: each line of a table has the same number of words."""

LEAST = 20
"""A column that is cut keeps this width, as long as there is room."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column: `right` for numbers; `cut` is where its text may be cut, "middle" or "end"."""

    head: str
    right: bool = False
    cut: str = ""


def print_table(
    rows: Iterable[Sequence[str]], columns: Sequence[TableColumn], *, wide: bool = False
) -> bool:
    """Print a header and rows of plain text; nothing without rows, and return False then.

    `wide`: cut nothing on a terminal.
    """
    rest = iter(rows)
    first = list(islice(rest, PAGE))
    if first:
        cut = is_terminal() and not wide
        print_lines(_lines(first, chain(first, rest), columns, cut=cut), wide=wide)
    return bool(first)


def print_pairs(pairs: Iterable[Sequence[str]]) -> None:
    """Print names and values, without a header."""
    rows = [(name, value) for name, value in pairs]
    size = max((cells(name) for name, _ in rows), default=0)
    print_lines(f"{_padded(printable(name), size)}{GAP}{printable(value)}" for name, value in rows)


def when(instant: str | float | None, now: float) -> str:
    """Return how long ago an instant is, or how far off; outside a terminal the local time.

    `instant`: as `local_time` takes it.
    """
    if instant is None:
        return ""
    if not is_terminal():
        # One word, for programs.
        return local_time(instant).replace(" ", "T")
    at = datetime.fromisoformat(instant).timestamp() if isinstance(instant, str) else instant
    ago_s = now - at
    return f"{format_age(ago_s)} ago" if ago_s >= 0 else f"in {format_age(-ago_s)}"


def _lines(
    first: Sequence[Sequence[str]],
    rows: Iterable[Sequence[str]],
    columns: Sequence[TableColumn],
    *,
    cut: bool,
) -> Iterator[str]:
    widths = [
        max(cells(column.head), *(cells(printable(row[place] or EMPTY)) for row in first))
        for place, column in enumerate(columns)
    ]
    spare = _fit(widths, columns, width()) if cut else 0
    heads = (
        _padded(column.head, size, right=column.right)
        for column, size in zip(columns, widths, strict=True)
    )
    yield coloured(GAP.join(heads).rstrip(), "bold")
    # Asked once: the answer needs several system calls.
    colours = is_coloured()
    for row in rows:
        parts = []
        for cell, column, size in zip(row, columns, widths, strict=True):
            text = printable(cell) or EMPTY
            if cut and column.cut:
                # A later row may need more room than the first ones.
                room = size + spare if column.cut == "middle" else size
                text = shorten(text, room, middle=column.cut == "middle")
            text = _padded(text, size, right=column.right)
            parts.append(coloured(text) if colours else text)
        yield GAP.join(parts).rstrip()


def _fit(widths: list[int], columns: Sequence[TableColumn], size: int) -> int:
    """Narrow the columns that may be cut until the table has this width; return what is left."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - size
    for least in (LEAST, 1):
        for cut in ("end", "middle"):
            for place, column in enumerate(columns):
                if column.cut == cut and excess > 0:
                    taken = min(excess, max(widths[place] - least, 0))
                    widths[place] -= taken
                    excess -= taken
    return max(-excess, 0)


def _padded(text: str, size: int, *, right: bool = False) -> str:
    if text.isascii():
        return text.rjust(size) if right else text.ljust(size)
    blank = " " * (size - cells(text))
    return blank + text if right else text + blank
