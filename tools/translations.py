"""The catalogues of the page and the alerts: messages from the code, translations in locale/.

`python -m tools.translations` collects the messages in `emitterd.pot`, brings each `emitterd.po` up
to date, and compiles it. docs/translation.md is the guide for translators.
"""

import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from emitterd.codes import load_texts
from emitterd.translation.languages import LANGUAGES, SOURCE

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "emitterd"
LOCALE = PACKAGE / "translation" / "locale"

Keywords = dict[str, tuple[int, ...] | None]
"""The functions that mark messages, and which of their arguments are one."""

_PYTHON: Keywords = {"Text": None, "plural": (1, 2)}
_TEMPLATE: Keywords = {"_": None, "gettext": None, "ngettext": (1, 2)}
_JINJA = {"newstyle_gettext": "true", "trimmed": "true", "silent": "false"}
_FIELDS = ("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Language", "Plural-Forms")
_HEADER = """\
# Translations for emitterd.
# This file is distributed under the same license as emitterd."""

Message = tuple[str | tuple[str, ...], str, list[str]]
"""A message with its plural, the file that has it, and comments for translators."""


class _Catalog(Catalog):
    """A catalogue whose header has no dates, names and versions: it changes with its messages."""

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """The fields of the header."""
        return [item for item in super().mime_headers if item[0] in _FIELDS]

    @mime_headers.setter
    def mime_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Ignore the fields of a file: they are always the same."""


def messages() -> Iterator[Message]:
    """Yield every message of the code."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent == LOCALE.parent or "emitterd.translation" in path.read_text("utf-8"):
            yield from _extracted("python", path, _PYTHON)
    for path in sorted(PACKAGE.rglob("templates/*.html")):
        yield from _extracted("jinja2", path, _TEMPLATE)
    for code, texts in load_texts()["codes"].items():
        for kind in ("title", "remedy"):
            yield texts[kind], "emitterd/error_codes.yaml", [f"{code}, {kind}"]


def _extracted(method: str, path: Path, keywords: Keywords) -> Iterator[Message]:
    place = str(path.relative_to(ROOT))
    found = extract_from_file(method, path, keywords, ["Translators:"], _JINJA)
    for _, message, comments, _ in found:
        yield message, place, [comment.removeprefix("Translators: ") for comment in comments]


def template() -> Catalog:
    """Return the messages, without translations."""
    catalog = _catalog(None)
    for message, place, comments in messages():
        catalog.add(message, locations=[(place, 0)], auto_comments=comments)
    return catalog


def read(language: str) -> Catalog:
    """Return the translations of a language as they are in its file."""
    with file_of(language).open("rb") as file:
        return read_po(file, locale=language)


def updated(language: str) -> Catalog:
    """Return the translations of a language for the messages of now."""
    catalog = _catalog(language)
    old = read(language) if file_of(language).exists() else Catalog()
    for message in template():
        if message.id:
            known = old.get(message.id)
            string = known.string if known is not None and not known.fuzzy else None
            catalog.add(message.id, string, message.locations, message.flags, message.auto_comments)
    return catalog


def written(catalog: Catalog) -> bytes:
    """Return a catalogue as a .po or .pot file."""
    file = BytesIO()
    write_po(file, catalog, width=88, include_lineno=False)
    return file.getvalue()


def compiled(catalog: Catalog) -> bytes:
    """Return a catalogue as a .mo file."""
    file = BytesIO()
    write_mo(file, catalog)
    return file.getvalue()


def _catalog(language: str | None) -> Catalog:
    return _Catalog(language, header_comment=_HEADER, fuzzy=False)


def file_of(language: str) -> Path:
    """Return the file of the translations of a language."""
    return LOCALE / language / "LC_MESSAGES" / "emitterd.po"


def main() -> None:
    """Write all files, and say what is left to translate."""
    (LOCALE / "emitterd.pot").write_bytes(written(template()))
    for language in LANGUAGES.keys() - {SOURCE}:
        catalog = updated(language)
        file = file_of(language)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(written(catalog))
        file.with_suffix(".mo").write_bytes(compiled(catalog))
        missing = sum(not all(strings(message.string)) for message in catalog if message.id)
        sys.stdout.write(f"{language}: {len(catalog)} messages, {missing} without translation\n")


def strings(string: str | tuple[str, ...] | list[str] | None) -> list[str]:
    """Return the translations of a message, one for each plural form."""
    return [string or ""] if string is None or isinstance(string, str) else list(string)


if __name__ == "__main__":
    main()
