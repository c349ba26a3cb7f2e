"""Texts are English for all code that knows nothing of languages, and can be translated later."""

import copy
import json
import pickle
from datetime import UTC, datetime

import pytest

from emitterd.translation.languages import ENGLISH, LANGUAGES
from emitterd.translation.text import Instant, Text, joined, plural, text_from_record, text_record

HINDI = LANGUAGES["hi"]
AT = Instant(datetime(2026, 11, 3, 9, 5, 7, tzinfo=UTC))

TEXTS = [
    Text("the journal's disk is full"),
    Text("see why: emitterd explain {path}", path="pat/मार्च {0}.zip"),
    plural("{number} file waits", "{number} files wait", number=1_234_567),
    Text(
        "no daemon runs, and {files_wait}", files_wait=plural("{number} a", "{number} b", number=1)
    ),
    joined([Text("last delivered {time}", time=AT), Text("never delivered")]),
]


def test_a_text_is_its_english() -> None:
    """It is equal to the plain text, and JSON has it as one."""
    text = Text("see why: emitterd explain {path}", path="pat/a.zip")

    assert text == "see why: emitterd explain pat/a.zip"
    assert json.dumps([text]) == '["see why: emitterd explain pat/a.zip"]'


def test_the_number_decides_between_one_and_many() -> None:
    """Numbers are grouped by thousands, as in all English texts."""
    texts = [plural("{number} file waits", "{number} files wait", number=n) for n in (0, 1, 12345)]

    assert texts == ["0 files wait", "1 file waits", "12,345 files wait"]


def test_braces_without_values_are_no_placeholders() -> None:
    """A remedy may show a name like `${filename}`."""
    assert Text("without the characters ${") == "without the characters ${"


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_a_copy_can_still_be_translated(text: Text) -> None:
    """Copies, pickles and JSON keep the message and its values."""
    record = json.loads(json.dumps(text_record(text)))

    for twin in (copy.deepcopy(text), pickle.loads(pickle.dumps(text)), text_from_record(record)):  # noqa: S301  our own
        assert twin == text
        assert HINDI.translate(twin) == HINDI.translate(text)


def test_a_value_is_translated_if_it_is_a_text() -> None:
    """Names stay as they are, also where they look like placeholders or messages."""
    text = Text("{files} ({path})", files=Text("never delivered"), path="{files} unknown")

    assert HINDI.translate(text) == "कभी नहीं पहुँचा ({files} unknown)"


def test_the_plural_is_that_of_the_language() -> None:
    """In Hindi 0 is like 1, as CLDR says."""
    texts = [plural("{number} file waits", "{number} files wait", number=n) for n in (0, 1, 2)]

    assert list(map(HINDI.translate, texts)) == [
        "0 फ़ाइल प्रतीक्षा में है",
        "1 फ़ाइल प्रतीक्षा में है",
        "2 फ़ाइलें प्रतीक्षा में हैं",
    ]


def test_an_instant_is_written_by_the_language() -> None:
    """English has ISO 8601 as the commands do; Hindi has the month's name, and 0 to 9 as digits."""
    assert ENGLISH.translate(AT) == "2026-11-03 09:05:07+00:00"
    assert HINDI.translate(AT) == "3 नवंबर 2026, 09:05"


def test_a_text_of_the_journal_is_translated_if_it_is_a_message() -> None:
    """Another text stays English, and an empty one empty."""
    assert HINDI.translate("the zip is encrypted") == "zip पर पासवर्ड लगा है"
    assert HINDI.translate("quota exceeded") == "quota exceeded"
    assert HINDI.translate("") == ""
