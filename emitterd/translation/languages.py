"""The languages of the page and the alerts, and how each writes texts, numbers and times.

A catalogue is `locale/LANGUAGE/LC_MESSAGES/emitterd.mo`, which tools/translations.py compiles. What
a catalogue lacks is shown in English.
"""

import gettext
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from emitterd.translation.text import Instant, Text, fill

SOURCE = "en"
"""The language of the code. It needs no catalogue."""

_MONTHS = (
    *(Text("January"), Text("February"), Text("March"), Text("April"), Text("May"), Text("June")),
    *(Text("July"), Text("August"), Text("September"), Text("October"), Text("November")),
    Text("December"),
)

ENDS = (".", "!", "?", "…", "।")
"""What a sentence may end with, in any language."""

_HEADER_MAX = 1000

_SENTENCE = Text("{words}.")


class _Missing(gettext.NullTranslations):
    """Returns nothing for a message that the catalogue lacks."""

    def gettext(self, _message: str) -> str:
        return ""

    def ngettext(self, _one: str, _many: str, _number: int) -> str:
        return ""


@dataclass(frozen=True)
class Language:
    """One language. `code` is that of BCP 47, `name` what its readers call it."""

    code: str
    name: str

    @cached_property
    def _catalogue(self) -> gettext.NullTranslations:
        if self.code == SOURCE:
            return gettext.NullTranslations()
        path = files("emitterd.translation").joinpath("locale", self.code, "LC_MESSAGES")
        with path.joinpath("emitterd.mo").open("rb") as file:
            catalogue = gettext.GNUTranslations(file)
        catalogue.add_fallback(_Missing())
        return catalogue

    def gettext(self, message: str) -> str:
        """Return a message of a template."""
        return self._catalogue.gettext(message) or message

    def ngettext(self, one: str, many: str, number: int) -> str:
        """Return a message of a template about a number of things."""
        return self._catalogue.ngettext(one, many, number) or (one if number == 1 else many)

    def pattern(self, text: str) -> str:
        """Return the message of a text in this language, values not filled in.

        Empty if the catalogue lacks it. A text from the journal may be a whole message.
        """
        if isinstance(text, Instant):
            return str(text) if self.code == SOURCE else self._instant(text)
        if not isinstance(text, Text):
            # The empty message is the header of a catalogue.
            return self._catalogue.gettext(text) if text else ""
        if not text.plural:
            return self._catalogue.gettext(text.message)
        number = text.values["number"]
        return self._catalogue.ngettext(text.message, text.plural, number)

    def translate(self, text: str) -> str:
        """Return a text in this language, or as it is if the catalogue lacks it."""
        pattern = self.pattern(text)
        if not pattern:
            return str(text)
        return fill(pattern, text.values if isinstance(text, Text) else {}, self._show)

    @property
    def full_stop(self) -> str:
        """The pattern of `{words}` as a sentence."""
        return self.pattern(_SENTENCE) or _SENTENCE

    def number(self, value: int) -> str:
        """Write a number: in English by thousands like the commands, else by lakh and crore."""
        if self.code == SOURCE:
            return f"{value:,}"
        return re.sub(r"(\d)(?=(?:\d\d)+\d$)", r"\1,", str(value))

    def _show(self, value: object) -> str:
        if isinstance(value, Text | Instant):
            return self.translate(value)
        return self.number(value) if isinstance(value, int) else str(value)

    def _instant(self, instant: Instant) -> str:
        at, clock = instant.at, f"{instant.at:%H:%M}"
        return self.translate(
            Text(
                "{day} {month} {year}, {clock}",
                day=str(at.day),
                month=_MONTHS[at.month - 1],
                year=str(at.year),
                clock=clock,
            )
        )


ENGLISH = Language(SOURCE, "English")
LANGUAGES = {language.code: language for language in (ENGLISH, Language("hi", "हिन्दी"))}
"""All languages, in the order of the page's switch."""


def negotiate(chosen: str | None, accepted: str) -> Language:
    """Return the language of a reader.

    `chosen`: the code that the reader chose on the page, if any; `accepted`: the browser's header
    Accept-Language.
    """
    if chosen in LANGUAGES:
        return LANGUAGES[chosen]
    preferences = [_preference(part) for part in accepted[:_HEADER_MAX].split(",")]
    # The sort is stable: of equals the first in the header comes first.
    for weight, code in sorted(preferences, key=lambda item: -item[0]):
        if weight > 0 and code in LANGUAGES:
            return LANGUAGES[code]
    return ENGLISH


def _preference(part: str) -> tuple[float, str]:
    """Return weight and language of `hi-IN;q=0.8`."""
    tag, _, weight = part.partition(";")
    code = tag.strip().partition("-")[0].lower()
    match = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", weight)
    return (float(match[1]) if match else 0.0 if weight else 1.0), code
