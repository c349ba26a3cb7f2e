"""The playbook: what emitterd does about a code by itself, and what people do.

`emitterd explain-error` and docs/errors.md are both made here, so that they say the
same; `python -m emitterd.cli.error_codes > docs/errors.md` writes the document anew.
Title
and remedy are those of `codes`; the longer texts are package data, read only where
they are asked for: the daemon does without.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import NotRequired, TypedDict, cast

from emitterd.codes import Code
from emitterd.datasets.findings import CONSEQUENCE
from emitterd.text import printable
from emitterd.yaml_reader import load_data

FINDINGS = "findings"
"""The section of what the inspection finds; other codes stand by their first digit."""

_COMMAND = re.compile(r"`[^`]*`")
_NEAR = 3


class UnknownCodeError(ValueError):
    """There is no such code; the message says which there are."""


class _Section(TypedDict):
    title: str
    introduction: str


class _Page(TypedDict):
    outcome: NotRequired[str]
    meanwhile: NotRequired[str]
    steps: list[str]


class _Book(TypedDict):
    introduction: list[str]
    sections: dict[str, _Section]
    outcomes: dict[str, str]
    codes: dict[str, _Page]


@dataclass(frozen=True, slots=True)
class CodeHelp:
    """One code, and all there is to say about it.

    `meanwhile`: what emitterd does by itself. `consequence`: what the server would do
    with the file, where the code is a finding.
    """

    code: Code
    title: str
    remedy: str
    meanwhile: str
    consequence: str | None
    steps: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Return the play as `explain-error --json` prints it."""
        return {name: said for name, said in asdict(self).items() if said is not None}

    def text(self, width: int = 80) -> str:
        """Return the play for a terminal of so many columns; no command is broken."""
        said = [f"Meanwhile: {self.meanwhile}"]
        if self.consequence is not None:
            said.append(f"If it is sent: {self.consequence}.")
        said.append(f"What to do: {self.remedy}.")
        lines = [f"{self.code}: {self.title}"]
        lines += [f"\n{_wrapped(one, width)}" for one in said]
        lines += [
            _wrapped(f"  {number}. {step}", width, indent="     ")
            for number, step in enumerate(self.steps, 1)
        ]
        return "\n".join(lines)


def explain(code: str) -> CodeHelp:
    """Return the play for a code, written like `E210`, `e210` or `210`.

    Raises `UnknownCodeError`.
    """
    digits = code.strip().upper().removeprefix("E")
    try:
        return _play(Code(f"E{digits}"))
    except ValueError:
        raise UnknownCodeError(
            f"there is no error code '{printable(code.strip())}': {_near(digits)};"
            " `emitterd explain-error` without a code lists all"
        ) from None


def all_codes() -> list[CodeHelp]:
    """Return the play for every code, in order."""
    return [_play(code) for code in Code]


def document() -> str:
    """Return docs/errors.md."""
    book, plays = _book(), all_codes()
    rows = [
        f"| [`{play.code}`](#{play.code.lower()}) | {_escaped(play.title)} |"
        f" {_escaped(play.remedy)} |"
        for play in plays
    ]
    table = ["| code | what it means | what to do |", "|---|---|---|", *rows]
    blocks = ["# Error codes", *book["introduction"], "\n".join(table)]
    for name, section in book["sections"].items():
        found = name == FINDINGS
        title = section["title"] if found else f"E{name}xx: {section['title']}"
        blocks += [f"{'###' if found else '##'} {title}", section["introduction"]]
        for play in plays:
            if (play.code[1] if play.consequence is None else FINDINGS) == name:
                blocks += _blocks(play, "####" if found else "###")
    return "\n\n".join(blocks) + "\n"


def _blocks(play: CodeHelp, heading: str) -> Iterator[str]:
    yield f'<a id="{play.code.lower()}"></a>'
    yield f"{heading} {play.code}: {_escaped(play.title)}"
    yield f"**Meanwhile:** {play.meanwhile}"
    if play.consequence is not None:
        yield f"**If it is sent:** {play.consequence}."
    yield "**What to do:**"
    yield "\n".join(f"{number}. {step}" for number, step in enumerate(play.steps, 1))


def _play(code: Code) -> CodeHelp:
    book = _book()
    page = book["codes"][code]
    common = book["outcomes"][page["outcome"]] if "outcome" in page else ""
    return CodeHelp(
        code,
        code.title,
        code.remedy,
        f"{common} {page.get('meanwhile', '')}".strip(),
        CONSEQUENCE[code][1] if code in CONSEQUENCE else None,
        tuple(page["steps"]),
    )


@cache
def _book() -> _Book:
    text = files("emitterd.cli").joinpath("error_codes.yaml").read_text("utf-8")
    return cast("_Book", load_data(text))


def _near(digits: str) -> str:
    if not digits.isdecimal():
        return "codes are written like E210"
    wanted = int(digits[:3].ljust(3, "0"))
    nearest = sorted(Code, key=lambda code: abs(int(code[1:]) - wanted))[:_NEAR]
    return f"near are {', '.join(sorted(nearest))}"


def _wrapped(text: str, width: int, indent: str = "") -> str:
    # A line break in a command would go where the command is pasted.
    joined = _COMMAND.sub(lambda command: command[0].replace(" ", "\xa0"), text)
    lines = textwrap.wrap(
        joined,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\xa0", " ")


def _escaped(text: str) -> str:
    """Keep Markdown from taking `<name>` for HTML."""
    return text.replace("<", r"\<")


if __name__ == "__main__":
    sys.stdout.write(document())
