"""Reads the catalogue: the file that the package ships, and a user's over it.

docs/catalogue.md describes the form of both. All problems of a file are reported at
once.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

from emitterd.datasets.catalogue import (
    Catalogue,
    Dataset,
    DatasetKind,
    Header,
    HeaderMatch,
    Version,
    VersionRange,
    near,
)
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.text import printable, shown
from emitterd.yaml_reader import (
    NO_SECTION,
    Node,
    YamlError,
    parse_untyped,
    read_text,
    unknown_key,
)

DATASET_KEYS = ("kind", "since", "until", "delimiter", "keys", "dates", "headers")
HEADER_KEYS = ("variant", "match", "since", "until", "columns", "required")
KINDS, MATCHES = tuple(DatasetKind), tuple(HeaderMatch)
VARIANTS = ("state", "udise")

_TITLE = re.compile(r"([\w-]+)/([\w-]*)")
_SOME_DAY = date(2001, 2, 3)


Values = Mapping[str, Node]
"""The keys of a dataset or a header."""


def load_catalogue(extra: Path | None = None) -> Catalogue:
    """Return the catalogue that the package ships, with a user's file over it.

    A dataset of the user's file replaces the shipped one with the same title. Raises
    `ConfigError` with every problem of the user's file.
    """
    text = files("emitterd.datasets").joinpath("catalogue.yaml").read_text("utf-8")
    shipped = _Reader({})
    datasets = shipped.read(text)
    assert not shipped.problems  # noqa: S101  our own file
    catalogue = Catalogue(datasets)
    if extra is None:
        return catalogue
    reader = _Reader({dataset.title: dataset.kind for dataset in datasets})
    try:
        datasets = reader.read(read_text(extra, "a catalogue file")[0])
    except YamlError as error:
        reader.problems.append(error.at(printable(extra.name), error.line))
    if reader.problems:
        raise ConfigError(shown(extra), reader.problems)
    return catalogue.with_others(datasets)


class _Reader:
    """Reads the datasets of one file, and collects its problems.

    `kinds`: the kinds of the datasets that this file may replace, by title.
    """

    def __init__(self, kinds: Mapping[str, DatasetKind]) -> None:
        self.problems: list[Problem] = []
        self._kinds = kinds

    def read(self, text: str) -> list[Dataset]:
        """Return the datasets; raises `YamlError` if the text has none."""
        document = parse_untyped(text)
        root = document.root
        if root is None or not root.children:
            message, remedy = "holds no dataset", "begin with a line `<folder>/<name>:`"
            raise YamlError(message, root.line if root else None, remedy)
        self.problems += document.duplicates
        return [self._dataset(title, node) for title, node in root.children.items()]

    def _dataset(self, title: str, node: Node) -> Dataset:
        match = _TITLE.fullmatch(title)
        if match is None:
            self._report(
                node,
                "is no dataset",
                "write it as <folder>/<name>: what the name of its zips begins with, of"
                " letters, digits, _ and -",
            )
        folder, name = match.groups() if match else ("", "")
        kind = self._kinds.get(title)
        needed = {} if kind else {"kind": f"give it: {_alternatives(KINDS)}"}
        values = self._values(node, DATASET_KEYS, needed)
        headers = [
            self._header(header) for header in self._section(values, "headers").values()
        ]
        dates = self._section(values, "dates")
        keys = self._columns(values, "keys")
        if all(header.columns for header in headers):
            known = [column for header in headers for column in header.columns]
            self._check_columns([(key, values["keys"]) for key in keys], known)
            self._check_columns(dates.items(), known)
        return Dataset(
            folder,
            name,
            DatasetKind(
                self._word(values, "kind", KINDS) or kind or DatasetKind.MASTER
            ),
            rank=0,
            delimiter=self._delimiter(values),
            headers=tuple(headers),
            keys=keys,
            dates=tuple((key, self._date_form(form)) for key, form in dates.items()),
            span=self._span(values),
        )

    def _header(self, node: Node) -> Header:
        needed = {"columns": "give the columns, separated by |"}
        values = self._values(node, HEADER_KEYS, needed)
        columns = required = self._columns(values, "columns")
        match = HeaderMatch(self._word(values, "match", MATCHES) or HeaderMatch.NAMES)
        if "required" in values:
            node = values["required"]
            required = self._columns(values, "required")
            if match is not HeaderMatch.NAMES:
                self._report(
                    node,
                    f"has no meaning with match: {match}, which requires all columns",
                    "remove it, or write match: names",
                )
            elif columns:
                self._check_columns([(name, node) for name in required], columns)
        variant = self._word(values, "variant", VARIANTS)
        return Header(columns, match, required, variant, self._span(values))

    def _report(self, node: Node, message: str, remedy: str) -> None:
        problem = ValueProblem(printable(message), printable(remedy))
        self.problems.append(problem.at(node.path, node.line))

    def _children(self, node: Node) -> Values:
        if node.children is None:
            self.problems.append(NO_SECTION.at(node.path, node.line))
        return node.children or {}

    def _section(self, values: Values, key: str) -> Values:
        return self._children(values[key]) if key in values else {}

    def _values(
        self, node: Node, known: Sequence[str], needed: Mapping[str, str]
    ) -> Values:
        """Return the keys of a section; report those that are unknown or missing.

        `needed`: the keys that must be there, each with the remedy if it is missing.
        """
        children = self._children(node)
        for key, child in children.items():
            if key not in known:
                problem = unknown_key(near(key, known))
                self.problems.append(problem.at(child.path, child.line))
        for key, remedy in needed.items():
            if node.children is not None and key not in children:
                self._report(
                    Node(f"{node.path}.{key}", node.line), "is missing", remedy
                )
        return children

    def _text(self, values: Values, key: str) -> str:
        """Return the text of a key; empty if it is not given, or wrong."""
        return self._text_of(values[key]) if key in values else ""

    def _text_of(self, node: Node) -> str:
        if node.children is not None or isinstance(node.value, list):
            message = "must be text, not a list or a section"
            self._report(node, message, "write it as one text")
        elif not node.value:
            self._report(node, "has no value", "give it one, in quotes, or remove it")
        return node.value if isinstance(node.value, str) else ""

    def _word(self, values: Values, key: str, known: Sequence[str]) -> str:
        """Return one of the known words; empty if it is not given, or wrong."""
        word = self._text(values, key)
        if not word or word in known:
            return word
        message = f"must be {_alternatives(known)}"
        self._report(values[key], message, _did_you_mean(word, known))
        return ""

    def _span(self, values: Values) -> VersionRange:
        since, until = self._version(values, "since"), self._version(values, "until")
        if since and until and until < since:
            message = f"must not come before since, which is {since}"
            self._report(values["until"], message, "exchange the two")
        return VersionRange(since, until)

    def _version(self, values: Values, key: str) -> Version | None:
        text = self._text(values, key)
        try:
            return Version.parse(text) if text else None
        except ValueError:
            message = "must be a version of cQube"
            self._report(values[key], message, "write it like 3.7")
            return None

    def _delimiter(self, values: Values) -> str:
        if "delimiter" not in values:
            return "|"
        text = self._text(values, "delimiter")
        if text and (len(text) != 1 or not text.isascii() or text in '"\\\r\n'):
            remedy = 'write "|", "," or ";", or "\\t" for a tab'
            self._report(values["delimiter"], "must be one character", remedy)
        return text

    def _columns(self, values: Values, key: str) -> tuple[str, ...]:
        """Return the column names in a text; none if it is not given, or wrong."""
        text = self._text(values, key)
        columns = tuple(part.strip() for part in text.split("|")) if text else ()
        if all(columns):
            return columns
        self._report(
            values[key],
            f"column {columns.index('') + 1} of {len(columns)} has no name",
            "separate columns by one |, and put none at the beginning or the end",
        )
        return ()

    def _check_columns(
        self, names: Iterable[tuple[str, Node]], known: Sequence[str]
    ) -> None:
        """Report the names that no column has; upper and lower case are the same."""
        lower = {column.lower() for column in known}
        for name, node in names:
            if name.lower() not in lower:
                message = f"names {name}, a column that no header has"
                self._report(node, message, _did_you_mean(name, known))

    def _date_form(self, node: Node) -> str:
        form = self._text_of(node)
        if form and not _is_date_form(form):
            remedy = 'write it like "%Y-%m-%d" or "%d/%m/%Y"'
            self._report(node, "must be the form of a date", remedy)
        return form


def _is_date_form(form: str) -> bool:
    """Tell whether a date written in this form can be read again."""
    try:
        read = time.strptime(_SOME_DAY.strftime(form), form)
    except (ValueError, re.error):
        return False
    return read[:3] == _SOME_DAY.timetuple()[:3]


def _alternatives(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    meant = near(word, known)
    return f"did you mean {meant}?" if meant else "correct or remove it"
