"""What one value must be, and how it is written for people.

Raises `ValueProblem` or `UnitError` where a value is wrong. No message quotes a URL,
because a password may stand in it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

from emitterd.config.secret import Secret
from emitterd.config.sources import ValueProblem
from emitterd.datasets.dataset import Version
from emitterd.delivery.concurrency import MOST
from emitterd.model import display
from emitterd.monitoring.endpoint import EXAMPLES, Endpoint
from emitterd.units import format_duration, format_size, parse_duration, parse_size

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
