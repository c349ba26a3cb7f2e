"""What one value must be, and how it is written for people.

Raises `Refusal` where a value is wrong. No message quotes a URL, because a password
may stand in it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from emitterd.concurrency import MOST
from emitterd.config_layers import Refusal
from emitterd.dataset import Version
from emitterd.endpoint import EXAMPLES, Endpoint
from emitterd.entry import display
from emitterd.selection import Selection
from emitterd.units import (
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

_WRONG_TYPE = {
    "string_type": ("must be text", "put the value in quotes"),
    "string_unicode": ("must be text in UTF-8", "write it as UTF-8"),
    "bool_type": ("must be true or false", "write true or false, without quotes"),
    "int_type": ("must be a whole number", "write it in digits, without quotes"),
    "is_instance_of": ("must be a path", "put it in quotes"),
    "path_type": ("must be a path", "put it in quotes"),
    "too_short": ("is empty: nothing would be sent", 'write it as ["**/*.zip"]'),
}
_BOUNDS = {
    "greater_than_equal": ("ge", "is too small", "write {} or more"),
    "less_than_equal": ("le", "is too large", "write {} or less"),
    "greater_than": ("gt", "is too short", "write more than 0s"),
}
_HTTP_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def text(value: str) -> str:
    """Refuse a text that is empty or nothing but blanks."""
    if not value.strip():
        raise Refusal("is empty", "give it a value, or remove it")
    return value


def http_token(value: str) -> str:
    """Refuse what cannot stand before the token in an Authorization header."""
    if not _HTTP_TOKEN.fullmatch(value):
        raise Refusal("must be one word of ASCII", "write Bearer, or JWT for cQube 1.0")
    return value


def emission_url(value: str) -> str:
    """Normalise the emission API's base URL: no slash at its end, scheme lower-case."""
    parts = _split(value)
    if "@" in parts.netloc:
        raise Refusal(
            "must not carry a user name or password",
            "give them as username and password_file",
        )
    if parts.scheme not in {"http", "https"}:
        raise Refusal("must begin with https://", "write it as https://host/path")
    return urlunsplit(parts).rstrip("/")


def proxy_url(value: str) -> str:
    """Normalise the proxy's URL; a user name and password may stand in it."""
    parts = _split(value)
    if parts.scheme != "http" or parts.path not in {"", "/"}:
        raise Refusal(
            "must be an http:// URL without a path", "write it as http://host:port"
        )
    return urlunsplit(parts).rstrip("/")


def path(value: str, base: Path) -> Path:
    """Make a path absolute: a relative one starts at `base`."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise Refusal("is no path", "write it in UTF-8") from None
    if not value or "\0" in value:
        raise Refusal("is no path", "give the path of a file or folder")
    return base / value


def pattern(value: object) -> str:
    """Refuse what is no gitignore pattern."""
    if not isinstance(value, str):
        raise Refusal("must be a list of texts", "put each pattern in quotes")
    try:
        Selection([value], [])
    except (ValueError, re.error):
        raise Refusal(
            "holds a malformed pattern", "write it as in a .gitignore, like **/*.zip"
        ) from None
    return text(value)


def workers(value: object) -> object:
    """Refuse what is neither a number of workers nor `auto`."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        remedy = "write it in digits, without quotes; or auto"
        raise Refusal("must be a whole number", remedy)
    if value < 1:
        raise Refusal("is too small", "write 1 or more")
    if value > MOST:
        raise Refusal("is too large", f"write {MOST} or less")
    return value


def cqube_version(value: object) -> str:
    """Refuse what is no version of cQube; a number has lost the last nought of 1.10."""
    if isinstance(value, int | float):
        raise Refusal("must be text", f'put it in quotes: "{value}"')
    try:
        return str(Version.parse(str(value)))
    except ValueError:
        raise Refusal("is no version of cQube", 'write it like "3.7"') from None


def endpoint(value: object) -> Endpoint:
    """Parse where to listen; an empty host is refused, as it may mean any."""
    try:
        return Endpoint.parse(str(value))
    except ValueError as error:
        raise Refusal(str(error), EXAMPLES) from None


def duration(value: object) -> float:
    """Parse a duration; a bare number has no unit, and none is guessed."""
    return parse_duration(_quantity(value))


def size(value: object) -> int:
    """Parse a size; a bare number has no unit, and none is guessed."""
    return parse_size(_quantity(value))


def explain(kind: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return message and remedy for what pydantic found wrong.

    Its own words are not used, because they would quote the value.
    """
    cause = context.get("error")
    if isinstance(cause, Refusal | UnitError):
        return str(cause), cause.remedy
    if kind == "literal_error":
        words = str(context["expected"]).replace("'", "")
        return f"must be {words}", "write one of these words"
    if kind in _BOUNDS:
        name, message, remedy = _BOUNDS[kind]
        return message, remedy.format(context[name])
    return _WRONG_TYPE.get(kind, ("has a wrong value", "see docs/configuration.md"))


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


def _quantity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refusal("must be a number with a unit", "write it like 5s or 64KiB")
    return str(value)


def _split(value: str) -> SplitResult:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise Refusal(
            "holds a character that no URL has",
            "write it in ASCII without blanks, like https://host/path",
        )
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Refusal("has a wrong host or port", "write it as host:port") from None
    if "?" in value or "#" in value:
        raise Refusal("must not carry ? or #", "cut it off there")
    if "://" not in value:
        raise Refusal("has no scheme", "put https:// before it")
    if not host:
        raise Refusal("names no host", "write it as https://host/path")
    return parts
