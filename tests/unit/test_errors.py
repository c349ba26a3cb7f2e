"""The stable error codes: title, remedy, and their place in docs/errors.md."""

import re

import pytest

from emitterd.codes import Code
from emitterd.datasets.findings import LOSSES
from emitterd.errors import (
    ConfigError,
    Decision,
    DeliveryError,
    EmitterError,
    FileError,
    IllegalTransition,
    JournalError,
    JournalFull,
    JournalLocked,
    Problem,
)
from support.paths import ROOT

DOCUMENT = ROOT / "docs" / "errors.md"
ROW = re.compile(r"^\| \[`(E\d{3})`\]\(#(\w+)\) \| (.+) \| (.+) \|$", re.MULTILINE)
HEADING = re.compile(r"^####? (E\d{3}): (.+)$", re.MULTILINE)


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_title_and_a_remedy(code: Code) -> None:
    """Neither is empty, ends in a full stop or breaks a table row."""
    assert code.remedy
    assert code.title
    for text in (code.title, code.remedy):
        assert text == text.strip()
        assert not text.endswith(".")
        assert "|" not in text


def test_no_two_codes_say_the_same() -> None:
    """The codes are in order, and each title stands for one of them."""
    assert sorted(Code) == list(Code)
    assert len({code.title for code in Code}) == len(Code)


@pytest.mark.parametrize("code", Code)
def test_a_code_is_a_letter_and_three_digits(code: Code) -> None:
    """The first digit says where: installation, file, line, API or bucket."""
    assert re.fullmatch(r"E[1-5]\d\d", code.value)


def as_read() -> str:
    """Return the document as it is seen: Markdown escapes what looks like HTML."""
    return DOCUMENT.read_text("utf-8").replace("\\<", "<")


def test_the_document_lists_every_code() -> None:
    """docs/errors.md has one row a code, in order, with link, title and remedy."""
    rows = ROW.findall(as_read())

    assert rows == [(code.value, code.lower(), code.title, code.remedy) for code in Code]


def test_the_document_has_a_place_for_every_code() -> None:
    """Each code has one heading, with its title, right below the anchor."""
    text = as_read()

    assert HEADING.findall(text) == [(code.value, code.title) for code in Code]
    for code in Code:
        place = rf'^<a id="{code.lower()}"></a>\n\n####? {code}: '
        assert len(re.findall(place, text, re.MULTILINE)) == 1


def test_the_document_puts_each_code_under_its_digit() -> None:
    """A section holds the codes of one first digit and no others."""
    _, *sections = as_read().split("\n## E")

    assert [section[0] for section in sections] == ["1", "2", "3", "4", "5"]
    for section in sections:
        assert {code[1] for code, _ in HEADING.findall(section)} == {section[0]}


def test_the_document_keeps_the_findings_together() -> None:
    """What the inspection finds stands under a heading of its own, in the file's."""
    first, last = min(LOSSES), max(LOSSES)
    _, _, rest = as_read().partition(f"### Findings: {first} to {last}\n")
    section, _, _ = rest.partition("\n## ")

    assert [code for code, _ in HEADING.findall(section)] == sorted(LOSSES)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ConfigError("x.yaml", []), EmitterError, Code.CONFIG),
        (JournalError("broken"), EmitterError, Code.JOURNAL),
        (JournalLocked("held"), JournalError, Code.JOURNAL_LOCKED),
        (JournalFull("full"), JournalError, Code.JOURNAL_FULL),
        (IllegalTransition("no"), JournalError, Code.JOURNAL),
        (FileError("gone", code=Code.GONE), EmitterError, Code.GONE),
        (DeliveryError(Decision.PAUSE, Code.DNS, "no host"), EmitterError, Code.DNS),
    ],
)
def test_every_error_carries_a_code_and_its_remedy(
    error: EmitterError, kind: type[EmitterError], code: Code
) -> None:
    """What is caught as emitterd's own has a code, and a remedy by default."""
    assert isinstance(error, kind)
    assert error.code is code
    assert error.remedy == code.remedy


def test_a_hint_of_its_own_is_kept() -> None:
    """Who knows better than the table says so."""
    assert JournalError("x", remedy="mount it").remedy == "mount it"


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "x.yaml: 1 problem"), (3, "x.yaml: 3 problems")]
)
def test_a_configuration_error_counts_its_problems(count: int, expected: str) -> None:
    """The message has the number; the problems themselves are kept in order."""
    problems = [Problem(f"key{at}", at, "is wrong", "mend it") for at in range(count)]
    error = ConfigError("x.yaml", problems)

    assert str(error) == expected
    assert error.problems == problems


def test_trouble_is_data_for_the_journal() -> None:
    """Verdict, reason, wait and ambiguity are there to be read."""
    trouble = DeliveryError(
        Decision.DEFER, Code.ANSWER_LOST, "lost", retry_after_s=7.0, ambiguous=True
    )

    assert str(trouble) == trouble.reason == "lost"
    assert (trouble.decision, trouble.retry_after_s) == (Decision.DEFER, 7.0)
    assert trouble.ambiguous
