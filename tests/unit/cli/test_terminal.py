"""What a terminal, a pipe and an odd locale get: widths, colours, signs."""

import pytest

from emitterd.cli import terminal
from emitterd.cli.main import SORT_COLUMNS
from emitterd.cli.terminal import cells, is_coloured, shorten, wrapped
from emitterd.journal.reader import SORT_KEYS


@pytest.fixture(autouse=True)
def _ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_ellipsis", lambda: "…")


@pytest.mark.parametrize(
    ("text", "size", "middle", "expected"),
    [
        ("pat/marks.zip", 13, True, "pat/marks.zip"),
        ("pat/marks.zip", 12, True, "pat/…rks.zip"),
        ("a long reason", 8, False, "a long …"),
        # Each of these letters takes two columns.
        ("漢字漢字漢字.zip", 9, True, "漢字….zip"),
        # A vowel sign goes with its letter.
        ("शिक्षा/परीक्षा.zip", 9, True, "शिक्ष….zip"),
        ("abc", 0, False, ""),
    ],
)
def test_a_long_text_is_cut_to_a_number_of_columns(
    text: str,
    size: int,
    middle: bool,  # noqa: FBT001  a table
    expected: str,
) -> None:
    """A path is cut in its middle, so that its name stays; other texts at the end."""
    cut = shorten(text, size, middle=middle)

    assert cells(cut) <= size
    assert cut == expected


def test_what_people_copy_is_not_broken() -> None:
    """A command in backticks and a time stay on one line; the next line is indented."""
    text = "it failed at 2026-11-30 18:11:05+05:30: run `emitterd inspect --full FILE` again"

    assert wrapped(text, 30, 2) == [
        "it failed at",
        "  2026-11-30 18:11:05+05:30:",
        "  run",
        "  `emitterd inspect --full FILE`",
        "  again",
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"CLICOLOR_FORCE": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
    ids=str,
)
def test_variables_decide_about_colours(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: bool,  # noqa: FBT001  a table
) -> None:
    """A pipe gets colours only on request, and NO_COLOR wins."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert is_coloured() is expected


def test_the_columns_of_sort_are_those_of_the_journal() -> None:
    """`--sort` offers what the journal can sort by."""
    assert set(SORT_COLUMNS) == set(SORT_KEYS)
