"""docs/failure-cases.md and the suite: every case is listed, and its tests exist."""

import ast
import re

import pytest

from support.paths import TESTS

DOCUMENT = TESTS.parent / "docs" / "failure-cases.md"
CASES = 72
ROW = re.compile(r"^\| (\d+|K\d+\.\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> dict[str, str]:
    """Return the tests of each case, as the table names them."""
    return {number: tests for number, _, tests in ROW.findall(DOCUMENT.read_text("utf-8"))}


def names_in(file: str) -> set[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_case_is_there() -> None:
    """The cases are numbered from 1 to the last, without a gap; later ones by their kind."""
    numbers = [row[0] for row in ROW.findall(DOCUMENT.read_text("utf-8"))]
    assert [int(number) for number in numbers if number.isdecimal()] == list(range(1, CASES + 1))
    assert len(set(numbers)) == len(numbers)


@pytest.mark.slow
def test_every_test_that_is_named_exists() -> None:
    """Each test that the table names exists; a rename must change the table too."""
    named = {test for text in rows().values() for test in NAMED.findall(text)}
    missing = [(file, test) for file, test in named if test not in names_in(file)]
    assert not missing
    assert len(named) > CASES


def test_every_case_has_a_test_or_is_open() -> None:
    """A case without a test says what is missing."""
    incomplete = [
        number
        for number, text in rows().items()
        if not NAMED.findall(text) and "Open: " not in text
    ]
    assert not incomplete
