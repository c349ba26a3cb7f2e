"""The manual pages and completions: as generated, complete, and clean."""

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.config import settings as config
from emitterd.config.sources import variable
from support.paths import ROOT
from tools.manual import commands, files, released
from tools.roff import inline, roff, sections, text

DOCS = ROOT / "docs"
PAGES = ["man/emitterd.1", "man/emitter.yaml.5"]
GENERATED = files(DOCS)


def plainly(page: str) -> str:
    """Return a page's words: neither hyphens escaped nor fonts."""
    return re.sub(r"\\f[BR]", "", GENERATED[page]).replace(r"\-", "-")


def checked(*checker: str) -> list[str]:
    """Return what a checker reports about a page."""
    done = subprocess.run(  # noqa: S603  our own argument list
        checker,
        stdout=subprocess.PIPE if checker[0] == "mandoc" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return [*(done.stdout or "").splitlines(), *done.stderr.splitlines()]


@pytest.mark.parametrize("place", GENERATED)
def test_each_is_as_generated(place: str) -> None:
    """`python -m tools.manual docs` corrects a difference."""
    assert (DOCS / place).read_text("utf-8") == GENERATED[place]


def test_nothing_else_lies_there() -> None:
    """A page or completion that is no longer made is not installed either."""
    there = {
        str(path.relative_to(DOCS))
        for folder in ("man", "completions")
        for path in (DOCS / folder).iterdir()
    }
    assert there == {place for place in GENERATED if "/" in place}


def test_every_command_and_option_is_described() -> None:
    """emitterd(1) has each command's heading, and an entry for each option."""
    page = plainly("man/emitterd.1")
    for command in commands():
        assert f"\n.SS {command.name}\nemitterd {command.name}" in page
        for option in command.options:
            assert f"\n.TP\n{', '.join(option.names)}" in page
            assert option.usage.replace("`", "") in page.replace("\n", " ")


def test_every_key_is_described() -> None:
    """emitter.yaml(5) has each key below its section, with its variable."""
    page = plainly("man/emitter.yaml.5")
    for section, key, _ in config.every_key():
        part = page.partition(f"\n.SH {section.upper()}\n")[2].partition("\n.SH")[0]
        assert f".TP\n{key} (" in part
        assert variable(section, key) in part


@pytest.mark.tools("man")
@pytest.mark.parametrize("page", PAGES)
def test_man_has_nothing_to_say(page: str) -> None:
    """groff, as `man` calls it, warns of nothing."""
    assert checked("man", "--warnings", "-l", str(DOCS / page)) == []


@pytest.mark.tools("mandoc")
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_nothing_to_say(page: str) -> None:
    """Its lint finds nothing. Before the first release there is no date."""
    output = checked("mandoc", "-T", "lint", str(DOCS / page))
    undated = '""' in (DOCS / page).read_text("utf-8")
    assert [item for item in output if not undated or "missing date" not in item] == []


def test_date_is_that_of_the_newest_release() -> None:
    """The pages have the date of the release, and not of the day they are made."""
    assert released("## [Unreleased]\n\n## 0.2.0 - 2026-11-30\n\n## 0.1.0 - 2026-01-02\n") == (
        "2026-11-30"
    )


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("`a-b` and c-d", r"\fBa\-b\fR and c-d"),
        ("see [the `log`](events.md)", r"see the \fBlog\fR"),
        ("**never** `x`", r"\fBnever\fR \fBx\fR"),
        (r"a\b", r"a\eb"),
        (".gitignore", r"\&.gitignore"),
        ("'quoted'", r"\&'quoted'"),
    ],
    ids=["code", "link", "stress", "backslash", "full stop", "quote"],
)
def test_words_become_roff(markdown: str, expected: str) -> None:
    """Code and stress are bold, links are words, and nothing is taken for a request."""
    assert inline(markdown) == expected


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" ")))
def test_no_text_is_a_request(markdown: str) -> None:
    """No line of a text begins as a request of roff's does."""
    assert not [line for line in text(markdown) if line[:1] in {".", "'"}]


def test_blocks_become_roff() -> None:
    """Lists, tables and code have their macros; the first paragraph needs none."""
    markdown = (
        "One. Two.\n\nThree.\n\n- a\n- b\n\n1. c\n\n"
        "| key | does |\n|---|---|\n| `k` | this \\| that |\n\n```sh\n.x -y\n```\n"
    )
    assert roff(markdown).split("\n") == [
        *("One.", "Two.", ".PP", "Three."),
        *(r".IP \(bu 4", "a", r".IP \(bu 4", "b", ".IP 1. 4", "c"),
        *(".TP", r"\fBk\fR", "This | that."),
        *(".PP", ".RS 4", ".nf", r"\&.x \-y", ".fi", ".RE"),
    ]


def test_sections_are_distinguished() -> None:
    """A document is its introduction and what stands below each heading."""
    reported = sections("# Title\n\nFirst.\n\n## A\n\na\n\n## B\n\nb\n")
    assert {name: part.strip() for name, part in reported.items()} == {
        "": "First.",
        "A": "a",
        "B": "b",
    }
