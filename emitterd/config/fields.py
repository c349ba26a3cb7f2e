"""How each kind of value is read from the configuration, and written for people.

Each reader raises `ValueProblem` for a wrong value. No message quotes a URL, because it may hold a
password.
"""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

from emitterd.client.timetable import DAY_MIN, TimeSpan, Timetable
from emitterd.config.secrets import DatabaseUrl, Secret
from emitterd.datasets.catalogue import Version
from emitterd.delivery.concurrency import MOST
from emitterd.errors import ValueProblem
from emitterd.text import shown
from emitterd.units import exact_size, format_duration, parse_duration, parse_rate, parse_size
from emitterd.web.endpoint import EXAMPLES, Endpoint

_DIGITS_MAX = 9
OFF = "off"
"""A bandwidth without a limit."""

_RANGE_KEYS = {"from", "to", "limit"}
_RANGE_EXAMPLE = 'write it like {from: "08:00", to: "18:00", limit: 2MiB/s}'

_HTTP_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SERVER = r"([^/?#@:,\[\] ]*|\[[0-9A-Fa-f:.%]+\])(:[0-9]*)?"
_DATABASE_URL = re.compile(
    rf"postgres(ql)?://([^/?#@: ]*(:[^/?#@ ]*)?@)?{_SERVER}(,{_SERVER})*(/[!-\"$->@-~]*)?"
    r"(\?[!-\"$-~]*)?",
    re.ASCII,
)
"""Source: section 34.1.1.2 of the manual of PostgreSQL 15."""
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def text(value: object) -> str:
    """Read text that is not blank."""
    checked = _text(value)
    if not checked.strip():
        raise ValueProblem("is empty", "give it a value, or remove it")
    return checked


def secret(value: object) -> Secret:
    """Read any text as a secret; `secrets` checks it later."""
    return Secret(_text(value))


def flag(value: object) -> bool:
    """Read true or false."""
    if value not in ("true", "false"):
        raise ValueProblem("must be true or false", "write one of these words")
    return value == "true"


def word(words: object) -> Callable[[object], str]:
    """Return a reader of these words, given as a `Literal`."""
    known: tuple[str, ...] = get_args(words)

    def read(value: object) -> str:
        if value not in known:
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            raise ValueProblem(f"must be {listed}", "write one of these words")
        return str(value)

    return read


def http_token(value: object) -> str:
    """Read the word before the token in an Authorization header (RFC 9110)."""
    checked = _text(value)
    if not _HTTP_TOKEN.fullmatch(checked):
        raise ValueProblem("must be one word of ASCII", "write Bearer, or JWT for cQube 1.0")
    return checked


def header_name(value: object) -> str:
    """Read the name of an HTTP header."""
    checked = _text(value)
    if not _HTTP_TOKEN.fullmatch(checked):
        raise ValueProblem("must be the name of a header", "write it as X-Real-IP")
    return checked


def emission_url(value: object) -> str:
    """Read the emission API's base URL; the slash at its end is removed."""
    parts = _split(value)
    if "@" in parts.netloc:
        raise ValueProblem(
            "must not carry a user name or password", "give them as username and password_file"
        )
    if parts.scheme not in {"http", "https"}:
        raise ValueProblem("must begin with https://", "write it as https://host/path")
    return urlunsplit(parts).rstrip("/")


def public_url(value: object) -> str:
    """Read the address of a TLS proxy: a host, and a port unless it is 443."""
    parts = _split(value)
    if parts.scheme != "https" or parts.path not in {"", "/"} or "@" in parts.netloc:
        raise ValueProblem(
            "must be an https:// URL without a path", "write it as https://emitterd.example.org"
        )
    return f"https://{parts.netloc.lower().removesuffix(':443')}"


def proxy(value: object) -> Secret:
    """Read the proxy's URL, which may hold a user name and password."""
    parts = _split(value)
    if parts.scheme != "http" or parts.path not in {"", "/"}:
        raise ValueProblem("must be an http:// URL without a path", "write it as http://host:port")
    return Secret(urlunsplit(parts).rstrip("/"))


def database_url(value: object) -> DatabaseUrl:
    """Read the URL of a PostgreSQL database, as libpq takes it; it may name several servers."""
    url = _text(value)
    if not _DATABASE_URL.fullmatch(url):
        raise ValueProblem(
            "is no URL of a PostgreSQL database",
            "write it as postgresql://user@host/database; other characters as %40 for @",
        )
    return DatabaseUrl(url)


def host_name(value: object) -> str:
    """Read the name of a host that shares a journal."""
    checked = _text(value)
    if not _HOST_NAME.fullmatch(checked):
        raise ValueProblem(
            "must be a name of up to 63 letters, digits, dots, hyphens and underscores",
            "write it as hub-1",
        )
    return checked


def path(value: object) -> Path:
    """Read a path; a relative one stays relative."""
    try:
        if isinstance(value, str) and value and b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass
    raise ValueProblem("is no path", "give the path of a file or folder, in UTF-8")


def command(value: object) -> tuple[str, ...]:
    """Read a program and its arguments: a list, or text as a shell would split it."""
    try:
        words = value if isinstance(value, list) else shlex.split(_text(value))
    except ValueError:
        raise ValueProblem("has a quote without its end", "write it as a list") from None
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueProblem("is no command", "write it as [/usr/local/bin/alert, argument]")
    return tuple(words)


def secret_url(value: object) -> Secret:
    """Read an http:// or https:// URL that is requested as it is, with its query."""
    url = _text(value)
    _split(url.partition("?")[0])
    if not url.startswith(("https://", "http://")) or not url.isprintable() or set(url) & set(" #"):
        raise ValueProblem("is not a plain URL", "write it as https://host/path, in ASCII")
    return Secret(url)


def patterns(value: object) -> tuple[str, ...]:
    """Read a list of gitignore patterns, or text with commas between them."""
    if not isinstance(value, list | tuple):
        value = [part.strip() for part in str(value).split(",")]
    return tuple(_pattern(item) for item in value)


def some_patterns(value: object) -> tuple[str, ...]:
    """Read a list of gitignore patterns that is not empty."""
    checked = patterns(value)
    if not checked:
        raise ValueProblem("is empty: nothing would be sent", 'write it as ["**/*.zip"]')
    return checked


def workers(value: object) -> object:
    """Read a number of workers, or `auto`."""
    if value == "auto":
        return value
    digits = str(value)
    if not digits.isdecimal() or not digits.isascii() or len(digits) > _DIGITS_MAX:
        raise ValueProblem("must be a whole number", "write it in digits; or auto")
    if not 1 <= int(digits) <= MOST:
        raise ValueProblem("is too small or too large", f"write 1 to {MOST}")
    return int(digits)


def cqube_version(value: object) -> str:
    """Read a version of cQube."""
    return str(Version.parse(str(value)))


def endpoint(value: object) -> Endpoint:
    """Read an address to listen at. The host is required: an empty one means all."""
    try:
        return Endpoint.parse(str(value))
    except ValueError as error:
        raise ValueProblem(str(error), EXAMPLES) from None


def duration(value: object) -> float:
    """Read a duration above 0, in seconds."""
    duration_s = parse_duration(_text(value))
    if duration_s <= 0:
        raise ValueProblem("is too short", "write more than 0s")
    return duration_s


def size(value: object) -> int:
    """Read a size in bytes."""
    return parse_size(_text(value))


def timetable(value: object) -> Timetable:
    """Read `bandwidth`: one limit, or a list of `{from, to, limit}`.

    An entry without `from` and `to` is the limit for the rest of the day.
    """
    if not isinstance(value, list):
        return Timetable((), _limit(str(value)))
    if not value:
        raise ValueProblem("is empty", "remove it, or write off")
    spans: list[TimeSpan] = []
    rest: list[int | None] = []
    for number, entry in enumerate(value, 1):
        try:
            _check_range(entry)
            limit = _limit(str(entry["limit"]))
            if "from" in entry:
                spans.append(_time_span(str(entry["from"]), str(entry["to"]), limit))
            else:
                rest.append(limit)
        except ValueProblem as error:
            raise ValueProblem(f"entry {number} {error}", error.remedy) from None
    if len(rest) > 1:
        raise ValueProblem(
            "has two limits without from and to", "keep one of them, for the rest of the day"
        )
    table = Timetable(tuple(spans), rest[0] if rest else None)
    if overlap := table.overlap():
        raise ValueProblem(
            f"has ranges that overlap: {overlap[0].hours} and {overlap[1].hours}",
            "let one end where the next begins",
        )
    return table


def value_for_people(attribute: str, value: object) -> str:
    """Format a value for people; its unit follows from the attribute's name."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case float() if attribute.endswith("_s"):
            return format_duration(value)
        case int() if attribute.endswith("_bytes"):
            return exact_size(value)
        case tuple():
            return ", ".join(map(shown, value)) or "none"
        case _:
            return shown(value)


def _pattern(value: object) -> str:
    from emitterd.spool.selection import Selection

    pattern = text(value)
    try:
        Selection([pattern], [])
    except (ValueError, re.error):
        raise ValueProblem(
            "holds a malformed pattern", "write it as in a .gitignore, like **/*.zip"
        ) from None
    return pattern


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueProblem("must be text, not a list", "put the value in quotes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueProblem("must be text in UTF-8", "write it as UTF-8") from None
    return value


def _split(value: object) -> SplitResult:
    url = _text(value)
    try:
        parts = urlsplit(url)
        # `port` raises for anything but a number.
        valid = parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or set(url) & set(" ?#"):
        raise ValueProblem(
            "is not a plain URL", "write it as https://host/path, in ASCII, without blanks, ? and #"
        )
    parts = urlsplit(url)
    if "%" in (parts.hostname or ""):
        raise ValueProblem(
            "has an IPv6 zone, which works on one link only",
            "name the host, or an address without a zone",
        )
    return parts


def _check_range(entry: object) -> None:
    if not isinstance(entry, dict) or set(entry) not in ({"limit"}, _RANGE_KEYS):
        raise ValueProblem("must have limit, and from and to or none", _RANGE_EXAMPLE)


def _time_span(begin: str, end: str, limit: int | None) -> TimeSpan:
    begin_min = _minute(begin)
    end_min = DAY_MIN if end == "24:00" else _minute(end)
    if begin_min == end_min:
        raise ValueProblem("ends when it begins", "remove from and to if the limit applies all day")
    return TimeSpan(begin_min, end_min or DAY_MIN, limit)


def _minute(time: str) -> int:
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueProblem("has a wrong time", "write it like 08:00, in quotes")
    return 60 * int(match[1]) + int(match[2])


def _limit(rate: str) -> int | None:
    return None if rate == OFF else parse_rate(rate)
