"""What one value must be, and how it is written for people.

Raises `ValueProblem` or `UnitError` where a value is wrong. No message quotes a URL,
because a password may stand in it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

from emitterd.client.timetable import DAY_MIN, TimeSpan, Timetable
from emitterd.config.secrets import Secret
from emitterd.config.sources import ValueProblem
from emitterd.datasets.catalogue import Version
from emitterd.delivery.concurrency import MOST
from emitterd.monitoring.endpoint import EXAMPLES, Endpoint
from emitterd.text import display
from emitterd.units import (
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)

_HTTP_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def text(value: object) -> str:
    """Refuse a text that is empty or nothing but blanks, and what is no text."""
    checked = _text(value)
    if not checked.strip():
        raise ValueProblem("is empty", "give it a value, or remove it")
    return checked


def secret(value: object) -> Secret:
    """Take any text, and show it to nobody; what it must be `secrets_source` says."""
    return Secret(_text(value))


def flag(value: object) -> bool:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueProblem(
            "must be true or false", "write true or false, without quotes"
        )
    return value


def word(words: object) -> Callable[[object], str]:
    """Return what refuses all words but these, a `Literal`."""
    known: tuple[str, ...] = get_args(words)

    def read(value: object) -> str:
        if value not in known:
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            raise ValueProblem(f"must be {listed}", "write one of these words")
        return str(value)

    return read


def http_token(value: object) -> str:
    """Refuse what cannot stand before the token in an Authorization header."""
    checked = _text(value)
    if not _HTTP_TOKEN.fullmatch(checked):
        raise ValueProblem(
            "must be one word of ASCII", "write Bearer, or JWT for cQube 1.0"
        )
    return checked


def emission_url(value: object) -> str:
    """Normalise the emission API's base URL: no slash at its end, scheme lower-case."""
    parts = _split(value)
    if "@" in parts.netloc:
        raise ValueProblem(
            "must not carry a user name or password",
            "give them as username and password_file",
        )
    if parts.scheme not in {"http", "https"}:
        raise ValueProblem("must begin with https://", "write it as https://host/path")
    return urlunsplit(parts).rstrip("/")


def proxy(value: object) -> Secret:
    """Normalise the proxy's URL; a user name and password may stand in it."""
    parts = _split(value)
    if parts.scheme != "http" or parts.path not in {"", "/"}:
        raise ValueProblem(
            "must be an http:// URL without a path", "write it as http://host:port"
        )
    return Secret(urlunsplit(parts).rstrip("/"))


def path(value: object) -> Path:
    """Refuse what is no path. A relative one is left so."""
    if not isinstance(value, str):
        raise ValueProblem("must be a path", "put it in quotes")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueProblem("is no path", "write it in UTF-8") from None
    if not value or "\0" in value:
        raise ValueProblem("is no path", "give the path of a file or folder")
    return Path(value)


def patterns(value: object) -> tuple[str, ...]:
    """Refuse what is no list of gitignore patterns."""
    if not isinstance(value, list | tuple):
        raise ValueProblem("must be a list", 'write it as ["**/*.zip"]')
    return tuple(_pattern(item) for item in value)


def some_patterns(value: object) -> tuple[str, ...]:
    """Refuse an empty list, too."""
    if not (found := patterns(value)):
        raise ValueProblem(
            "is empty: nothing would be sent", 'write it as ["**/*.zip"]'
        )
    return found


def workers(value: object) -> object:
    """Refuse what is neither a number of workers nor `auto`."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        remedy = "write it in digits, without quotes; or auto"
        raise ValueProblem("must be a whole number", remedy)
    if value < 1:
        raise ValueProblem("is too small", "write 1 or more")
    if value > MOST:
        raise ValueProblem("is too large", f"write {MOST} or less")
    return value


def cqube_version(value: object) -> str:
    """Refuse what is no version of cQube; a number has lost the last nought of 1.10."""
    if isinstance(value, int | float):
        raise ValueProblem("must be text", f'put it in quotes: "{value}"')
    try:
        return str(Version.parse(str(value)))
    except ValueError:
        raise ValueProblem("is no version of cQube", 'write it like "3.7"') from None


def endpoint(value: object) -> Endpoint:
    """Parse where to listen; an empty host is refused, as it may mean any."""
    try:
        return Endpoint.parse(str(value))
    except ValueError as error:
        raise ValueProblem(str(error), EXAMPLES) from None


def duration(value: object) -> float:
    """Parse a duration above 0; a bare number has no unit, and none is guessed."""
    duration_s = parse_duration(_quantity(value))
    if duration_s <= 0:
        raise ValueProblem("is too short", "write more than 0s")
    return duration_s


def size(value: object) -> int:
    """Parse a size; a bare number has no unit, and none is guessed."""
    return parse_size(_quantity(value))


def value_for_people(attribute: str, value: object) -> str:
    """Write a value for people; the attribute's name says its unit."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case float() if attribute.endswith("_s"):
            return format_duration(value)
        case int() if attribute.endswith("_bytes"):
            return format_size(value)
        case tuple():
            return ", ".join(map(shown, value)) or "none"
        case _:
            return shown(value)


def shown(place: object) -> str:
    """Return a path or text for people, so that it can forge no line."""
    return display(os.fsencode(str(place)))


def _pattern(value: object) -> str:
    from emitterd.spool.selection import Selection

    if not isinstance(value, str):
        raise ValueProblem("must be a list of texts", "put each pattern in quotes")
    try:
        Selection([value], [])
    except (ValueError, re.error):
        raise ValueProblem(
            "holds a malformed pattern", "write it as in a .gitignore, like **/*.zip"
        ) from None
    return text(value)


def _text(value: object) -> str:
    """Refuse what is no text, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueProblem("must be text", "put the value in quotes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueProblem("must be text in UTF-8", "write it as UTF-8") from None
    return value


def _quantity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueProblem("must be a number with a unit", "write it like 5s or 64KiB")
    return str(value)


def _split(value: object) -> SplitResult:
    url = _text(value)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueProblem(
            "holds a character that no URL has",
            "write it in ASCII without blanks, like https://host/path",
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueProblem(
            "has a wrong host or port", "write it as host:port"
        ) from None
    if "?" in url or "#" in url:
        raise ValueProblem("must not carry ? or #", "cut it off there")
    if "://" not in url:
        raise ValueProblem("has no scheme", "put https:// before it")
    if not host:
        raise ValueProblem("names no host", "write it as https://host/path")
    return parts


# The bandwidth limit as people write it: one for all the time, or by the time of day.
# In the file a list of `{from: "08:00", to: "18:00", limit: 2MiB/s}`; as one text, for
# a variable of the environment, `08:00-18:00 2MiB/s, else 10MiB/s`.

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
