"""A CSV's first line, against the headers that the server accepts for the dataset.

Source: the header checks and selects of cQube's NiFi templates, 1.0 to 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial

from emitterd.codes import Code
from emitterd.datasets.catalogue import Dataset, Header, HeaderMatch, Version
from emitterd.datasets.csv_text import BLANKS, server_rows
from emitterd.datasets.findings import Finding, finding, quoted
from emitterd.translation.text import Text

COLUMNS_MAX = 2000
"""The widest documented header has 230 columns; a wider line is not split."""

_DELIMITERS = {
    "|": Text("| (pipe)"),
    ",": Text(", (comma)"),
    ";": Text("; (semicolon)"),
    "\t": Text("a tab"),
}
_SHOWN_MAX = 5
_COMPARED_MAX = 100
_CLOSE = 0.75
_BLANKS = BLANKS.decode()


@dataclass(frozen=True, slots=True)
class CheckedHeader:
    """A file's columns, trimmed and unquoted, and what is wrong with them.

    `columns` is empty if the line is blank or has too many columns.
    """

    columns: tuple[str, ...]
    finding: Finding | None = None


@lru_cache(maxsize=32)
def check_header(
    line: str, dataset: Dataset | None, version: Version | None, variant: str, *, first: bool = True
) -> CheckedHeader:
    """Return the columns of a header, checked where the dataset has headers.

    `version` and `variant` select the headers that apply. `first`: whether no empty line precedes
    it. Results are cached, because a dataset has the same header every day. Raises `csv.Error` for
    a wrong quote.
    """
    if dataset is None:
        return CheckedHeader(_split(line, max(_DELIMITERS, key=line.count)))
    columns = _split(line, dataset.delimiter)
    applicable = [header for header in dataset.headers if header.applies(version, variant)]
    raw = line if first else ""
    accepts = partial(_accepts, columns=columns, raw=raw, delimiter=dataset.delimiter)
    if not applicable or any(map(accepts, applicable)):
        return CheckedHeader(columns)
    delimiter = _other_delimiter(line, dataset.delimiter, columns, applicable)
    if delimiter is not None:
        expected = _DELIMITERS.get(dataset.delimiter, quoted(dataset.delimiter))
        wrong = finding(Code.WRONG_DELIMITER, expected, _DELIMITERS[delimiter])
        return CheckedHeader(_split(line, delimiter), wrong)
    nearest = max(applicable, key=lambda header: _similarity(header, columns))
    if not raw.strip():
        found: str = Text("a blank first line")
    elif columns:
        found = _other_header(dataset, columns, raw) or _difference(nearest, columns, raw)
    else:
        found = f"more than {COLUMNS_MAX} columns"
    for header in dataset.headers:
        if version is None and not header.assumed and accepts(header):
            found += f" (cQube {header.span} accepts it: set spool.cqube_version if that is yours)"
    expected = _description(nearest, dataset.delimiter)
    return CheckedHeader(columns, finding(Code.WRONG_HEADER, expected, found))


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    if not line.strip() or line.count(delimiter) >= COLUMNS_MAX:
        return ()
    return tuple(column.strip(_BLANKS) for column in next(server_rows([line], delimiter)))


def _accepts(header: Header, columns: Sequence[str], raw: str, delimiter: str) -> bool:
    """Tell whether the server accepts a header.

    Where it does not select by name it compares the raw line, in which no name has a quote or a
    blank. The columns are compared too: a longer name at either end hides a missing column.
    """
    wanted = _keys(header, _wanted(header))
    there = _keys(header, columns)
    if header.match is HeaderMatch.NAMES:
        return set(wanted) <= set(there)
    exact = header.match is HeaderMatch.EXACT
    if delimiter.join(wanted) not in (raw if exact else raw.lower()):
        return False
    width = len(wanted)
    if header.match is HeaderMatch.ONLY and len(there) != width:
        return False
    starts = range(len(there) - width + 1)
    return any(there[start : start + width] == wanted for start in starts)


def _wanted(header: Header) -> tuple[str, ...]:
    return header.required if header.match is HeaderMatch.NAMES else header.columns


def _keys(header: Header, columns: Sequence[str]) -> list[str]:
    return list(columns) if header.match is HeaderMatch.EXACT else _lower(columns)


def _lower(columns: Sequence[str]) -> list[str]:
    return [column.lower() for column in columns]


def _similarity(header: Header, columns: Sequence[str]) -> float:
    wanted = set(_lower(_wanted(header)))
    return len(wanted & set(_lower(columns))) / max(1, len(wanted))


def _other_delimiter(
    line: str, delimiter: str, columns: Sequence[str], applicable: Sequence[Header]
) -> str | None:
    others = [other for other in _DELIMITERS if other != delimiter and other in line]
    others.sort(key=line.count, reverse=True)
    for other in others:
        parts = _split(line, other)
        if any(_accepts(header, parts, line, other) for header in applicable):
            return other
    wide = any(len(_wanted(header)) > 1 for header in applicable)
    return others[0] if wide and others and len(columns) == 1 else None


def _other_header(dataset: Dataset, columns: Sequence[str], line: str) -> str | None:
    for header in dataset.headers:
        if header.assumed and _accepts(header, columns, line, dataset.delimiter):
            if header.variant:
                return f"the {header.variant} header"
            return f"the header of cQube {header.span}"
    return None


def _difference(header: Header, columns: Sequence[str], line: str) -> str:
    wanted, there = _wanted(header), set(_keys(header, columns))
    pairs = zip(wanted, _keys(header, wanted), strict=True)
    missing = [name for name, key in pairs if key not in there]
    if not missing:
        return _order_difference(header, columns, line)
    documented = set(_keys(header, header.columns))
    pairs = zip(columns, _keys(header, columns), strict=True)
    spare = {name.lower(): name for name, key in pairs if key not in documented}
    misspelled, absent = [], missing[_COMPARED_MAX:]
    for name in missing[:_COMPARED_MAX]:
        candidates = list(spare)[:_COMPARED_MAX]
        near = get_close_matches(name.lower(), candidates, n=1, cutoff=_CLOSE)
        if near:
            misspelled.append(f"{quoted(spare.pop(near[0]))} in place of {name}")
        else:
            absent.append(name)
    if len(absent) == len(wanted):
        return f"other columns: {_listed([quoted(column) for column in columns])}"
    without = [f"no {_listed(absent)}"] if absent else []
    return "; ".join([_listed(misspelled), *without] if misspelled else without)


def _order_difference(header: Header, columns: Sequence[str], line: str) -> str:
    wanted, there = _keys(header, header.columns), _keys(header, columns)
    if header.match is HeaderMatch.ONLY and len(there) > len(wanted):
        more = [name for name, key in zip(columns, there, strict=True) if key not in wanted]
        return f"{len(there)} columns, {len(there) - len(wanted)} too many: " + _listed(
            [quoted(name) for name in more]
        )
    if any(there[at : at + len(wanted)] == wanted for at in range(len(there))):
        marks = "quotes" if '"' in line else "blanks"
        return f"{marks} around the names; the server compares the line as it is"
    start = next(at for at, key in enumerate(there) if key in wanted)
    at = next(at for at, key in enumerate(wanted) if there[start + at] != key)
    place = f"column {start + at + 1} is {quoted(columns[start + at])}"
    return f"another order: {place}, where {header.columns[at]} belongs"


def _description(header: Header, delimiter: str) -> str:
    if header.match is HeaderMatch.NAMES:
        return f"columns named {_listed(header.required)}"
    count = len(header.columns)
    more = ["…"] if count > _SHOWN_MAX else []
    shown = delimiter.join([*header.columns[:_SHOWN_MAX], *more])
    case = "this order and case" if header.match is HeaderMatch.EXACT else "this order"
    if header.match is HeaderMatch.ONLY:
        case += " and no others"
    return f"{shown} ({count} columns, in {case})" if count > 1 else shown


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_MAX
    shown = ", ".join(names[:_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
