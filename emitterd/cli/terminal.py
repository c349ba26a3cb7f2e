"""What standard output can show: its width, colours and characters, and a pager.

A terminal gets lines of its width. A pipe or a file gets one line a record, however long it is.
"""

import codecs
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate, chain, islice, repeat
from typing import TextIO

import click

from emitterd.text import printable

COLOURS = {
    "OK": "green",
    "WARNING": "yellow",
    "CRITICAL": "red",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
    "delivered": "green",
    "rejected": "red",
    "incomplete": "red",
    "unreadable": "red",
    "unsuitable": "red",
    "held": "yellow",
    "deferred": "yellow",
    "overdue": "yellow",
}
"""The colours of words that tell a state or a level."""

PAGER_OPTIONS = "FRX"
"""Of `less`, as in Git: show colours, and leave the screen as it is."""

_UNBROKEN = re.compile(r"`[^`]*`|\d{4}-\d\d-\d\d \d\d:")
_NO_BREAK = "\xa0"

_PLAIN = {"…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "×": "x"}  # noqa: RUF001


def prepare() -> None:
    """Let the output escape what its encoding cannot show: no name ends a command."""
    codecs.register_error("emitterd", _replace)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="emitterd")  # type: ignore[union-attr]  # real files


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in _PLAIN:
        return _PLAIN[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)


def is_terminal() -> bool:
    """Tell whether people read standard output as it is printed."""
    return sys.stdout.isatty()


def width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size().columns


def is_coloured(stream: TextIO | None = None) -> bool:
    """Tell whether to write colours to a stream, or to standard output.

    Sources: no-color.org, force-color.org, bixense.com/clicolors.
    """
    if os.environ.get("NO_COLOR"):
        return False
    forced = (os.environ.get(name) for name in ("FORCE_COLOR", "CLICOLOR_FORCE"))
    if any(value not in {None, "", "0"} for value in forced):
        return True
    return (stream or sys.stdout).isatty() and os.environ.get("TERM", "dumb") != "dumb"


def coloured(text: str, colour: str | None = None) -> str:
    """Return a text in a colour; without one, in that of the state or level that it tells."""
    colour = colour or COLOURS.get(text.strip())
    if colour is None or not is_coloured():
        return text
    return click.style(text, bold=True) if colour == "bold" else click.style(text, fg=colour)


@cache
def _ellipsis() -> str:
    """Return what stands for text that is left out."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    # Python writes UTF-8 in this locale, but a terminal with it may not show it.
    if next(filter(None, names), "C") in {"C", "POSIX"}:
        return "..."
    try:
        "…".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return "..."
    return "…"


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, size: int, *, middle: bool = False) -> str:
    """Cut a text to a number of columns, at its end or in the middle.

    The end of a path tells more than its beginning, so it keeps two thirds.
    """
    if cells(text) <= size:
        return text
    mark = _ellipsis()[:size]
    left = size - len(mark)
    if not middle:
        return _beginning(text, left) + mark
    tail = _beginning(text[::-1], left * 2 // 3)[::-1]
    # A sign above a letter is not shown without the letter.
    while tail and unicodedata.category(tail[0]).startswith("M"):
        tail = tail[1:]
    return _beginning(text, left - cells(tail)) + mark + tail


def _beginning(text: str, size: int) -> str:
    if text.isascii():
        return text[:size]
    sizes = accumulate(map(cells, text))
    return text[: sum(1 for total in sizes if total <= size)]


def wrapped(text: str, size: int, indent: int = 0) -> list[str]:
    """Break a text into lines between words, but not in a command or a time: people copy them.

    `indent`: that of all lines but the first.
    """
    whole = _UNBROKEN.sub(lambda part: part[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(
        whole, size, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def print_text(text: str, label: str = "", *, indent: int = 0, colour: str | None = None) -> None:
    """Print one paragraph, with a label before it. Only a terminal breaks it, between words."""
    begin = label.ljust(indent)
    lines = [begin + printable(text)]
    if is_terminal():
        lines = wrapped(lines[0], width(), indent)
    if label:
        lines[0] = coloured(label, colour) + lines[0].removeprefix(label)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def print_lines(lines: Iterable[str], *, wide: bool = False) -> None:
    """Print lines as they come; more than a screen of them through a pager.

    `wide`: a line may be longer than a line of the terminal.
    """
    rest = iter(lines)
    if is_terminal() and sys.stdin is not None and sys.stdin.isatty():
        screen = list(islice(rest, shutil.get_terminal_size().lines - 1))
        if following := list(islice(rest, 1)):
            _page(chain(screen, following, rest), wide=wide)
            return
        rest = iter(screen)
    for line in rest:
        sys.stdout.write(f"{line}\n")


def _page(lines: Iterator[str], *, wide: bool) -> None:
    os.environ.setdefault("LESS", f"{PAGER_OPTIONS}S" if wide else PAGER_OPTIONS)
    if "SUDO_USER" in os.environ:
        # The pager of root must not start a shell.
        os.environ["LESSSECURE"] = "1"
    sys.stdout.flush()
    # click ends the last line itself.
    ends = chain([""], repeat("\n"))
    click.echo_via_pager(map(str.__add__, ends, lines), color=is_coloured())
