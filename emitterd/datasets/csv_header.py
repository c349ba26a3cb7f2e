"""A CSV's first line, against the headers that the server accepts for the dataset.

Source: the header checks and selects of cQube's NiFi templates, 1.0 to 4.1.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from emitterd.codes import Code
from emitterd.datasets.catalogue import Dataset, Header, HeaderMatch, Version
from emitterd.datasets.csv_text import ServerDialect
from emitterd.datasets.findings import Finding, finding, quoted

COLUMNS_MAX = 2000
"""The widest documented header has 230 columns; a wider line is not taken apart."""

_DELIMITERS = {"|": "| (pipe)", ",": ", (comma)", ";": "; (semicolon)", "\t": "a tab"}
_SHOWN_MAX = 5
_COMPARED_MAX = 100
_CLOSE = 0.75


@dataclass(frozen=True, slots=True)
class Heading:
    """A file's columns, trimmed and unquoted, and what is wrong with them.

    `columns` is empty where the line is blank or absurdly wide.
    """

    columns: tuple[str, ...]
    finding: Finding | None = None


@lru_cache(maxsize=32)
def read_heading(
    line: str, dataset: Dataset | None, version: Version | None, variant: str
) -> Heading:
    """Return the columns of a first line, judged where the dataset has headers.

    Remembered, since day by day a dataset's first line is the same. `version` and
    `variant` say which of the headers apply. Raises `csv.Error` for a
    line that holds a CR elsewhere than at its end.
    """
    line = line.rstrip("\r\n")
    if dataset is None:
        return Heading(_split(line, max(_DELIMITERS, key=line.count)))
    columns = _split(line, dataset.delimiter)
    applicable = [
        one
        for one in dataset.headers
        if one.span.holds(version)
        and (one.variant == variant or "" in {one.variant, variant})
    ]
    if not applicable or any(_accepts(one, columns) for one in applicable):
        return Heading(columns)
    delimiter = _other_delimiter(line, dataset.delimiter, columns, applicable)
    if delimiter is not None:
        expected = _DELIMITERS.get(dataset.delimiter, quoted(dataset.delimiter))
        wrong = finding(Code.WRONG_DELIMITER, expected, _DELIMITERS[delimiter])
        return Heading(_split(line, delimiter), wrong)
    nearest = max(applicable, key=lambda one: _likeness(one, columns))
    if columns:
        found = _other_header(dataset, columns) or _difference(nearest, columns)
    else:
        found = f"more than {COLUMNS_MAX} columns" if line else "a blank first line"
    expected = _words(nearest, dataset.delimiter)
    return Heading(columns, finding(Code.WRONG_HEADER, expected, found))


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    if not line or line.count(delimiter) >= COLUMNS_MAX:
        return ()
    rows = csv.reader([line], ServerDialect, delimiter=delimiter)
    return tuple(column.strip() for column in next(rows))


def _accepts(header: Header, columns: Sequence[str]) -> bool:
    wanted, there = _keys(header, _wanted(header)), _keys(header, columns)
    if header.match is HeaderMatch.NAMES:
        return set(wanted) <= set(there)
    width = len(wanted)
    starts = range(len(there) - width + 1)
    return any(there[start : start + width] == wanted for start in starts)


def _wanted(header: Header) -> tuple[str, ...]:
    return header.required if header.match is HeaderMatch.NAMES else header.columns


def _keys(header: Header, columns: Sequence[str]) -> list[str]:
    """Return the columns in the form that they are compared in."""
    return list(columns) if header.match is HeaderMatch.EXACT else _lower(columns)


def _lower(columns: Sequence[str]) -> list[str]:
    return [one.lower() for one in columns]


def _likeness(header: Header, columns: Sequence[str]) -> float:
    wanted = set(_lower(_wanted(header)))
    return len(wanted & set(_lower(columns))) / max(1, len(wanted))


def _other_delimiter(
    line: str, delimiter: str, columns: Sequence[str], applicable: Sequence[Header]
) -> str | None:
    """Return the delimiter that the file has in place of its dataset's, if it has."""
    others = [one for one in _DELIMITERS if one != delimiter and one in line]
    others.sort(key=line.count, reverse=True)
    for other in others:
        parts = _split(line, other)
        if any(_accepts(one, parts) for one in applicable):
            return other
    wide = any(len(_wanted(one)) > 1 for one in applicable)
    return others[0] if wide and others and len(columns) == 1 else None


def _other_header(dataset: Dataset, columns: Sequence[str]) -> str | None:
    """Say which of the dataset's headers it is, where that one does not apply here."""
    for one in dataset.headers:
        if _accepts(one, columns):
            if one.variant:
                return f"the {one.variant} header"
            return f"the header of cQube {one.span}"
    return None


def _difference(header: Header, columns: Sequence[str]) -> str:
    """Say in few words what makes the columns another header."""
    wanted, there = _wanted(header), set(_keys(header, columns))
    pairs = zip(wanted, _keys(header, wanted), strict=True)
    missing = [name for name, key in pairs if key not in there]
    if not missing:
        return _disorder(header, columns)
    documented = set(_keys(header, header.columns))
    pairs = zip(columns, _keys(header, columns), strict=True)
    spare = {name.lower(): name for name, key in pairs if key not in documented}
    misspelt, absent = [], missing[_COMPARED_MAX:]
    for name in missing[:_COMPARED_MAX]:
        candidates = list(spare)[:_COMPARED_MAX]
        near = get_close_matches(name.lower(), candidates, n=1, cutoff=_CLOSE)
        if near:
            misspelt.append(f"{quoted(spare.pop(near[0]))} in place of {name}")
        else:
            absent.append(name)
    if len(absent) == len(wanted):
        return f"other columns: {_listed([quoted(one) for one in columns])}"
    without = [f"no {_listed(absent)}"] if absent else []
    return "; ".join([_listed(misspelt), *without] if misspelt else without)


def _disorder(header: Header, columns: Sequence[str]) -> str:
    """Say where columns that are all there leave their order."""
    wanted, there = _keys(header, header.columns), _keys(header, columns)
    start = next(at for at, key in enumerate(there) if key in wanted)
    at = next(at for at, key in enumerate(wanted) if there[start + at] != key)
    place = f"column {start + at + 1} is {quoted(columns[start + at])}"
    return f"another order: {place}, where {header.columns[at]} belongs"


def _words(header: Header, delimiter: str) -> str:
    if header.match is HeaderMatch.NAMES:
        return f"columns named {_listed(header.required)}"
    count = len(header.columns)
    more = ["…"] if count > _SHOWN_MAX else []
    shown = delimiter.join([*header.columns[:_SHOWN_MAX], *more])
    case = "this order and case" if header.match is HeaderMatch.EXACT else "this order"
    return f"{shown} ({count} columns, in {case})" if count > 1 else shown


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_MAX
    shown = ", ".join(names[:_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
