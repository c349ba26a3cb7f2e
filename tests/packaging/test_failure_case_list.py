"""docs/failure-cases.md against the suite: every case is there, and its tests are."""

import ast
import re

from support.paths import TESTS

DOCUMENT = TESTS.parent / "docs" / "failure-cases.md"
CASES = 72
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> dict[int, str]:
    """Return what holds each case, in words."""
    return {int(one[0]): one[2] for one in ROW.findall(DOCUMENT.read_text("utf-8"))}


def names_in(file: str) -> set[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


def test_every_case_is_there() -> None:
    """The numbers run from the first to the last, each once and in order."""
    numbers = [int(one[0]) for one in ROW.findall(DOCUMENT.read_text("utf-8"))]
    assert numbers == list(range(1, CASES + 1))


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed takes its name here along."""
    named = {one for text in rows().values() for one in NAMED.findall(text)}
    missing = [(file, test) for file, test in named if test not in names_in(file)]
    assert not missing
    assert len(named) > CASES


def test_every_case_is_held_or_said_to_be_open() -> None:
    """Where no test is named, it is said what is missing."""
    silent = [
        number
        for number, text in rows().items()
        if not NAMED.findall(text) and "Open: " not in text
    ]
    assert not silent
