"""Markdown as this repository writes it, turned into man(7) for `man`.

Paragraphs, lists, tables and fenced code; a table becomes a list of its first column.
"""

import re
import textwrap
from collections.abc import Callable, Iterator

Row = Callable[[list[str]], tuple[str, str]]
"""Tells of a table's row, by its cells, what stands at the margin and what beside."""

BULLET = r"\(bu"
WIDTH = 78
"""mandoc's limit for a line of text is 80."""

_FENCE = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"(-|\d+\.) +")
_SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-Z\\])")
_SPAN = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^]]+)\]\([^)]+\)")


def sections(markdown: str) -> dict[str, str]:
    """Return the text below each `##` heading; what comes before the first is at ""."""
    body = re.sub(r"\A# .*\n", "", markdown)
    first, *others = re.split(r"^## ", body, flags=re.MULTILINE)
    return {"": first} | dict(other.split("\n", 1) for other in others)


def plain(cells: list[str]) -> tuple[str, str]:
    """Tell a row: the first cell, and the others as sentences."""
    return cells[0], " ".join(map(sentence, cells[1:]))


def roff(markdown: str, row: Row = plain) -> str:
    """Return the text as lines of man(7), to stand below a heading."""
    lines: list[str] = []
    for number, part in enumerate(_FENCE.split(markdown)):
        if number % 2:
            lines += [".PP", ".RS 4", ".nf", escaped(part.rstrip()), ".fi", ".RE"]
        else:
            for block in re.split(r"\n\s*\n", part.strip()):
                lines += _block(block, row)
    return "\n".join(lines).removeprefix(".PP\n")


def entry(margin: str, beside: str) -> list[str]:
    """Return an entry of a list, as Markdown within a line each."""
    return [".TP", inline(margin), *text(beside)]


def text(markdown: str) -> list[str]:
    """Return a paragraph as lines: each sentence on its own, and none too long."""
    return [
        _guarded(line)
        for item in _SENTENCE.split(inline(markdown))
        for line in textwrap.wrap(item, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def inline(markdown: str) -> str:
    """Return a line with code and stress in bold, and links as their words."""
    reported, at = "", 0
    for match in _SPAN.finditer(markdown):
        code, stress, words = match.groups()
        reported += _plain(markdown[at : match.start()])
        reported += inline(words) if words else rf"\fB{_verbatim(code or stress)}\fR"
        at = match.end()
    return _guarded(reported + _plain(markdown[at:]))


def escaped(text: str) -> str:
    """Return text as it is: nothing in it is a request, a hyphen can be pasted."""
    return "\n".join(_guarded(_verbatim(line)) for line in text.split("\n"))


def sentence(words: str) -> str:
    """Return the words with a capital and a full stop; code keeps its letters."""
    reported = words[:1].upper() + words[1:]
    return reported if reported.endswith((".", "…", ":")) else f"{reported}."


def _block(block: str, row: Row) -> Iterator[str]:
    if block.startswith("|"):
        for line in block.split("\n")[2:]:
            yield from entry(*row(_cells(line)))
    elif _ITEM.match(block):
        for line in block.split("\n"):
            mark, words = _ITEM.split(line, maxsplit=1)[1:]
            sign = BULLET if mark == "-" else mark
            yield from (f".IP {sign} 4", *text(words))
    elif block:
        yield from (".PP", *text(block.replace("\n", " ")))


def _cells(line: str) -> list[str]:
    # A bar within a cell is written \| there.
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace(r"\|", "|") for cell in cells]


def _plain(text: str) -> str:
    return text.replace("\\", r"\e")


def _verbatim(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-")


def _guarded(line: str) -> str:
    """Return a line that does not begin with what would make it a request."""
    return rf"\&{line}" if line[:1] in {".", "'"} else line
