"""Text for people: file names, times and counts, as messages show them.

This is the only module that writes instants: `iso` for programs, `local_time` for people. `units`
writes durations and sizes.
"""

import base64
import html
import json
import math
import os
import re
import sys
import urllib.parse
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Self, overload

from emitterd.translation.text import Instant


def printable(text: str) -> str:
    """Escape control characters, and what UTF-8 cannot encode.

    File names and texts of the server come from outside: they must not forge a line of the log or
    control a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


MASK = "********"

_PLAIN_LENGTH = 8
"""A shorter secret is masked as a word only: as a part of words it would mask half a text."""

_secrets: dict[str, tuple[str, ...]] = {}


def keep_secret(kind: str, secret: str) -> None:
    """Mask this secret in all texts that come from outside, from now on.

    Of a kind the last two are masked: a token may be quoted while the next one is in use.
    """
    known = _secrets.get(kind, ())
    if secret and known[:1] != (secret,):
        _secrets[kind] = (secret, *known[:1])


def masked(text: str, *more: str) -> str:
    """Mask all known secrets, and `more`, in a text from outside, in each form of a quotation."""
    known = [secret for secrets in _secrets.values() for secret in secrets]
    forms = {form for secret in (*known, *more) for form in _forms(secret)}
    # The longest first: a short secret may be a part of a long one.
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _PLAIN_LENGTH:
            text = text.replace(form, MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", MASK, text)
    return text


def _forms(secret: str) -> set[str]:
    encoded = base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode()
    return {
        secret,
        urllib.parse.quote(secret, safe="", errors="surrogateescape"),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        encoded.rstrip("="),
    }


class ShownPath(str):
    r"""A path made printable: a byte that is not UTF-8 becomes `\xNN`.

    `raw` is the path itself, because two paths may be shown alike.
    """

    __slots__ = ("raw",)
    raw: bytes

    def __new__(cls, path: bytes) -> Self:
        """Escape what cannot be shown."""
        text = super().__new__(cls, printable(path.decode("utf-8", "backslashreplace")))
        text.raw = path
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.raw,)


def display(path: bytes) -> ShownPath:
    """Make a path printable."""
    return ShownPath(path)


def shown(value: object) -> ShownPath:
    """Make a path, or any text that came from outside, printable as `display` does."""
    return display(os.fsencode(str(value)))


_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([nrt]))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}


def undisplay(shown: str) -> list[bytes]:
    r"""Return the paths that `display` shows like this, as people copy it from a log.

    Usually there is one. The text itself comes first. `\xe9` is a byte that is not
    UTF-8, or a control character, or a name with this backslash.
    """

    def plain(match: re.Match[str], *, as_byte: bool) -> str:
        byte, short, long, letter = match.groups()
        if letter is not None:
            return _LETTERS[letter]
        code = int(byte or short or long, 16)
        high = byte is not None and code > 0x7F  # noqa: PLR2004  the end of ASCII
        # Python decodes such a byte of a file name to a lone surrogate.
        return chr(0xDC00 + code if high and as_byte else min(code, sys.maxunicode))

    texts = [shown] + [
        _ESCAPE.sub(partial(plain, as_byte=as_byte), shown) for as_byte in (True, False)
    ]
    paths = dict.fromkeys(map(_encoded, texts))
    return [path for path in paths if display(path) == display(_encoded(shown))]


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair: no file name has it, so no path will match.
        return text.encode("utf-8", "backslashreplace")


_FIRST_AT, _LAST_AT = -62_135_596_800.0, 253_402_300_799.0


@overload
def iso(at: float) -> str: ...
@overload
def iso(at: None) -> None: ...
def iso(at: float | None) -> str | None:
    """Return an instant as ISO 8601 in UTC, to the millisecond; None stays None.

    Files may have dates outside the years 1 to 9999: they get the first or last instant of these.
    """
    if at is None:
        return None
    at = min(max(at, _FIRST_AT), _LAST_AT)
    second = math.floor(at)
    milliseconds = round((at - second) * 1_000_000) // 1000
    if milliseconds == 1000:  # noqa: PLR2004  rounded up
        second, milliseconds = second + 1, 0
    return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(1024)
def _second(second: int) -> str:
    # In a long list many instants are of one second.
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def local_time(at: float | str) -> Instant:
    """Return an instant in the time zone of this machine: `2026-11-30 18:11:05+05:30`.

    `at`: seconds since the epoch, or the text of `iso`.
    """
    if isinstance(at, str):
        instant = datetime.fromisoformat(at)
    else:
        # A day less: the local time of the first and last instants has no year.
        instant = datetime.fromtimestamp(min(max(at, _FIRST_AT + 86400), _LAST_AT - 86400), UTC)
    return Instant(instant.astimezone())


def count(number: int, noun: str) -> str:
    """Write a number of things: `1 file`, `12,000 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def files_are(number: int) -> str:
    """Write the subject of a sentence about files: `1 file is`, `12 files are`."""
    return "1 file is" if number == 1 else f"{number} files are"


def share(part: float, whole: float) -> int:
    """Return the part of the whole in per cent, rounded down."""
    return int(100 * min(part, whole) / whole) if whole else 100
