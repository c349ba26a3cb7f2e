"""The bandwidth limit as people write it: one for all the time, or by the time of day.

In the file a list of `{from: "08:00", to: "18:00", limit: 2MiB/s}`; as one text, for
a variable of the environment, `08:00-18:00 2MiB/s, else 10MiB/s`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from emitterd.client.timetable import DAY_MIN, TimeSpan, Timetable
from emitterd.config.sources import ValueProblem
from emitterd.units import UnitError, parse_rate

OFF = "off"

_KEYS = ("from", "to", "limit")
_EXAMPLE = 'write it like {from: "08:00", to: "18:00", limit: 2MiB/s}'
_TEXT_EXAMPLE = "write it like 2MiB/s, off, or 08:00-18:00 2MiB/s, else 10MiB/s"
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_PART = re.compile(r"\s*(?:else\s+|(\S+?)\s*-\s*(\S+)\s+)?(\S.*?)\s*")


class _SpanText(NamedTuple):
    """An entry as it was written; `begin` and `end` are None where it has none."""

    begin: str | None
    end: str | None
    limit: str


def timetable(value: object) -> Timetable:
    """Read what stands behind `bandwidth:`."""
    if isinstance(value, list):
        entries = list(_listed(value))
    else:
        entries = list(_split_spans(str(value)))
    spans, rest = [], []
    for number, entry in enumerate(entries, 1):
        try:
            limit = _limit(entry.limit)
            if entry.begin is None or entry.end is None:
                rest.append(limit)
            else:
                spans.append(_span(entry.begin, entry.end, limit))
        except (ValueProblem, UnitError) as error:
            which = f"entry {number} " if len(entries) > 1 else ""
            raise ValueProblem(f"{which}{error}", error.remedy) from None
    if len(rest) > 1:
        raise ValueProblem(
            "has two limits without from and to",
            "keep one of them, for the time that no range has",
        )
    return _disjoint(Timetable(tuple(spans), rest[0] if rest else None))


def _disjoint(found: Timetable) -> Timetable:
    overlap = found.overlap()
    if overlap is not None:
        one, other = overlap
        raise ValueProblem(
            f"has ranges that overlap: {one.hours} and {other.hours}",
            "let one end where the next begins",
        )
    return found


def _listed(value: Iterable[object]) -> Iterator[_SpanText]:
    entries = list(value)
    if not entries:
        raise ValueProblem("is empty", "remove it, or write off")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or "limit" not in entry:
            raise ValueProblem(f"entry {number} has no limit", _EXAMPLE)
        if set(entry) - set(_KEYS):
            raise ValueProblem(
                f"entry {number} has other keys than from, to and limit", _EXAMPLE
            )
        if ("from" in entry) != ("to" in entry):
            raise ValueProblem(
                f"entry {number} has only one of from and to",
                "give both, or neither: then it is for the time that no range has",
            )
        texts = {key: str(one) for key, one in entry.items()}
        yield _SpanText(texts.get("from"), texts.get("to"), texts["limit"])


def _split_spans(text: str) -> Iterator[_SpanText]:
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueProblem("is no limit", _TEXT_EXAMPLE)
        yield _SpanText(*match.groups())


def _span(begin: str, end: str, limit: int | None) -> TimeSpan:
    begin_min, end_min = _minute(begin), _minute(end)
    if begin_min == end_min:
        raise ValueProblem(
            "ends when it begins",
            "leave from and to out where the limit is for all the time",
        )
    if begin_min == DAY_MIN:
        raise ValueProblem("begins at 24:00", "write 00:00")
    return TimeSpan(begin_min, end_min or DAY_MIN, limit)


def _minute(text: str) -> int:
    if text == "24:00":
        return DAY_MIN
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueProblem("has a time that is none", "write it like 08:00, in quotes")
    return 60 * int(match[1]) + int(match[2])


def _limit(text: str) -> int | None:
    if text == OFF:
        return None
    if re.fullmatch(r"0+(\.0*)?([A-Za-z]+(/s)?)?", text):
        raise ValueProblem(
            "has a limit of nothing, which servers end uploads for",
            "write off for no limit; to pause, `emitterd hold --all queued`",
        )
    return parse_rate(text)
