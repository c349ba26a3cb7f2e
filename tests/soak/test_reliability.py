"""The command that makes the table of docs/reliability.md, and the table's place."""

import re
from pathlib import Path

import pytest

from soak.reliability import DOCUMENT, HEADER, PARTS, RULE, Found, Unusable, row, run_tests, written

SUITE = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_good(number, record_property):
    record_property("kills", number)

def test_bad(record_property):
    record_property("kills", 4)
    assert False

def test_skipped():
    pytest.skip("not here")
"""


def test_document_has_the_table() -> None:
    """Header and parts between the marks are those of the command, in its order."""
    text = DOCUMENT.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    place = lines.index(HEADER)
    names = [line.split("|")[1].strip() for line in lines[place + 2 :]]

    assert lines[place + 1] == RULE
    assert names[: len(PARTS)] == list(PARTS)
    assert written(written(text, "once\n"), "twice\n") == written(text, "twice\n")


def test_only_what_is_between_the_marks_is_written() -> None:
    """All around the table stays as it is, and without marks nothing is written."""
    text = DOCUMENT.read_text("utf-8")
    outside = re.sub(r"(?s)(<!-- begin.*?-->).*(<!-- end)", r"\1\2", text)
    other = written(text, "| another |\n")

    assert "| another |" in other
    assert re.sub(r"(?s)(<!-- begin.*?-->).*(<!-- end)", r"\1\2", other) == outside
    with pytest.raises(Unusable):
        written("no mark", "| another |")


@pytest.mark.slow
def test_tests_are_tallied(tmp_path: Path) -> None:
    """Passed and failed ones by name, skipped ones not at all, records summed up."""
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    found = run_tests(tmp_path, str(suite))

    # The order of the tests is random.
    assert sorted(name.partition("::")[2] for name in found.passed) == [
        "test_good[1]",
        "test_good[2]",
    ]
    assert [name.partition("::")[2] for name in found.failed] == ["test_bad"]
    assert found.recorded == {"kills": 7}


@pytest.mark.slow
def test_tests_that_do_not_run_are_no_success(tmp_path: Path) -> None:
    """Where no test ran, nothing is concluded."""
    with pytest.raises(Unusable):
        run_tests(tmp_path, str(tmp_path / "test_none.py"))


@pytest.mark.parametrize(
    ("name", "found", "numbers"),
    [
        ("kills", Found("", []), "0 | 0 | 0 | 0"),
        ("kills", Found("", ["test_one"]), "1 | ? | ? | ?"),
        ("soak", Found("", ["lost: a.zip"], (1, 0, 0)), "1 | 1 | 0 | 0"),
    ],
    ids=["passed", "failed", "counted"],
)
def test_numbers_of_a_part(name: str, found: Found, numbers: str) -> None:
    """Nothing is called none that was not shown to be none."""
    assert row(name, found, 90.0) == f"| {name} |  | {numbers} | 1.5 |"


def test_rows_fit_the_header() -> None:
    """Each row has as many cells as the header."""
    cells = {item.count("|") for item in (HEADER, RULE, row("model", Found("", []), 0))}
    assert len(cells) == 1
