"""Which language a reader gets, and how it writes numbers and sentences."""

import pytest

from emitterd.translation.languages import ENGLISH, LANGUAGES, negotiate
from emitterd.units import format_age

HINDI = LANGUAGES["hi"]


@pytest.mark.parametrize(
    ("accepted", "code"),
    [
        ("hi-IN,hi;q=0.9,en-US;q=0.8", "hi"),
        ("en-IN,hi;q=0.9", "en"),
        ("en;q=0.5, hi;q=0.7", "hi"),
        ("HI", "hi"),
        ("mr-IN,hi;q=0.8,en;q=0.6", "hi"),
        ("hi;q=0,en;q=0.1", "en"),
        ("hi;q=0.5;x=1,en;q=0.2", "en"),
        ("hi;q=much,en", "en"),
        ("fr", "en"),
        ("*", "en"),
        (",;=q," * 500, "en"),
        ("", "en"),
    ],
)
def test_the_browser_decides(accepted: str, code: str) -> None:
    """The preferred language that emitterd has; English if there is none."""
    assert negotiate(None, accepted).code == code


def test_the_choice_on_the_page_comes_first() -> None:
    """A language that emitterd does not have is no choice."""
    assert negotiate("hi", "en").code == "hi"
    assert negotiate("en", "hi").code == "en"
    assert negotiate("../hi", "hi").code == "hi"


@pytest.mark.parametrize(
    ("value", "english", "hindi"),
    [
        (999, "999", "999"),
        (1000, "1,000", "1,000"),
        (99_999, "99,999", "99,999"),
        (100_000, "100,000", "1,00,000"),
        (1_234_567, "1,234,567", "12,34,567"),
        (123_456_789, "123,456,789", "12,34,56,789"),
    ],
)
def test_numbers_are_grouped_as_the_readers_expect(value: int, english: str, hindi: str) -> None:
    """Hindi groups by lakh and crore; English like the commands and the downloads."""
    assert (ENGLISH.number(value), HINDI.number(value)) == (english, hindi)


def test_durations_have_their_units_in_words() -> None:
    """The configuration's `2h` is no Hindi."""
    assert [HINDI.translate(format_age(age)) for age in (7200, 600, 3 * 86400)] == [
        "2 घंटे",
        "10 मिनट",
        "3 दिन",
    ]
