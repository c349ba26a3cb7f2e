"""The catalogues are complete, and fit the code of now."""

import re
import string
from pathlib import Path

import pytest
from babel import Locale
from babel.messages.catalog import Message

from emitterd.config.settings import LanguageCode
from emitterd.translation.languages import LANGUAGES, SOURCE
from support.paths import ROOT
from tools import translations
from tools.translations import strings

CODES = sorted(LANGUAGES.keys() - {SOURCE})
TEMPLATES = sorted((ROOT / "emitterd" / "web" / "templates").glob("*.html"))

languages = pytest.mark.parametrize("code", CODES)


def messages(code: str) -> list[Message]:
    """Return the messages of a catalogue."""
    return [message for message in translations.read(code) if message.id]


def placeholders(text: str, *, is_template: bool) -> set[str]:
    """Return the names of the values in a message, and its commands and tags."""
    marks = set(re.findall(r"`[^`]*`|</?\w+[^>]*>|\bE\d{3}\b|(?<!\w)--?[a-z]+(?:-[a-z]+)*", text))
    if is_template:
        return marks | set(re.findall(r"%\((\w+)\)s", text))
    if "{" not in text or "${" in text:
        return marks
    return marks | {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_the_collected_messages_are_those_of_the_code() -> None:
    """`python -m tools.translations` corrects a difference."""
    file = translations.LOCALE / "emitterd.pot"

    assert file.read_bytes() == translations.written(translations.template())


@languages
def test_a_catalogue_is_current(code: str) -> None:
    """`python -m tools.translations` corrects a difference: in the .po file and the .mo file."""
    file = translations.file_of(code)
    updated = translations.updated(code)

    assert file.read_bytes() == translations.written(updated)
    assert file.with_suffix(".mo").read_bytes() == translations.compiled(updated)


@languages
def test_a_catalogue_is_complete(code: str) -> None:
    """Each message has a translation for each plural form, and none is only proposed."""
    missing = [m.id for m in messages(code) if m.fuzzy or not all(strings(m.string))]

    assert missing == []


@languages
def test_a_translation_has_the_values_and_commands_of_its_message(code: str) -> None:
    """Nothing that a program reads is lost or translated."""
    for message in messages(code):
        one, *many = strings(message.id)
        is_template = any(file.endswith(".html") for file, _ in message.locations)
        for text in strings(message.string):
            expected = [placeholders(item, is_template=is_template) for item in (one, *many)]
            assert placeholders(text, is_template=is_template) in expected, message.id


@languages
def test_the_plural_forms_are_those_of_cldr(code: str) -> None:
    """For each number the catalogue takes the form that the language has."""
    catalogue, rule = translations.read(code), Locale(code).plural_form
    forms = ["one", "other"]

    assert catalogue.num_plurals == len(forms)
    for number in (*range(200), 1000, 100_000):
        shown = LANGUAGES[code].ngettext("{number} file waits", "{number} files wait", number)
        message = catalogue.get("{number} file waits")
        assert message is not None
        expected = strings(message.string)
        assert shown == expected[forms.index(rule(number))]


def test_the_settings_know_the_languages() -> None:
    """`alerts.language` accepts each."""
    assert set(LanguageCode.__args__) == set(LANGUAGES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_marks_all_its_words(path: Path) -> None:
    """Outside of marks there is no English; only literals are marked, since others are HTML."""
    text = path.read_text("utf-8")
    assert not re.findall(r"\b(?:_|gettext|ngettext)\((?!\s*[\"'])[^)]*\)", text)
    # Marked, code, comments, and what is no text.
    text = re.sub(r"(?s)\{%-? *trans.*?endtrans *-?%\}|\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", " ", text)
    text = re.sub(r"(?s)<(code|script|style|title)\b.*?</\1>", " ", text)
    labels = re.findall(r'(?:aria-label|title|alt|placeholder)="([^"]*)"', text)
    words = " ".join([re.sub(r"(?s)<[^>]*>", " ", text), *labels])
    words = re.sub(r"\bemitterd\b|CSV|JSON|&\w+;|school_master/school_mst.zip", " ", words)

    assert re.findall(r"[A-Za-z]{2,}", words) == []
