"""Reads the catalogue: the file that the package ships, and a user's over it.

Both have the form that docs/catalogue.md describes; all that is wrong with a file is
found at once.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from emitterd.errors import ConfigError, Problem
from emitterd.text import printable
from emitterd.yaml_reader import Node, YamlError, parse_untyped, read_text

DATASET_KEYS = ("kind", "since", "until", "delimiter", "keys", "dates", "headers")
HEADER_KEYS = ("variant", "match", "since", "until", "columns", "required")
KINDS, MATCHES = tuple(DatasetKind), tuple(HeaderMatch)
VARIANTS = ("state", "udise")

_TITLE = re.compile(r"([\w-]+)/([\w-]*)")
_SOME_DAY = date(2001, 2, 3)


def load_catalogue(extra: Path | None = None) -> Catalogue:
    """Return the catalogue that the package ships, with a user's file over it.

    A dataset of the user's file replaces the shipped one of the same title whole.
    Raises `ConfigError`, with every problem, where the user's file is wrong.
    """
    text = files("emitterd.datasets").joinpath("catalogue.yaml").read_text("utf-8")
    datasets, problems = _datasets(text, {})
    assert not problems  # noqa: S101  our own file
    catalogue = Catalogue(datasets)
    if extra is None:
        return catalogue
    kinds = {dataset.title: dataset.kind for dataset in datasets}
    try:
        datasets, problems = _datasets(read_text(extra, "catalogue")[0], kinds)
    except YamlError as error:
        name = printable(extra.name)
        problems = [Problem(name, error.line, str(error), error.remedy)]
    if problems:
        in_order = sorted(problems, key=lambda problem: problem.line or 0)
        raise ConfigError(printable(str(extra)), in_order)
    return catalogue.with_others(datasets)


def _datasets(
    text: str, kinds: Mapping[str, DatasetKind]
) -> tuple[list[Dataset], list[Problem]]:
    """Return the datasets of a file, and what is wrong with them.

    `kinds` are those of the datasets that are there already, by title. Raises
    `YamlError` where the text has no dataset at all.
    """
    document = parse_untyped(text)
    root = document.root
    if root is None or not root.children:
        message, remedy = "holds no dataset", "begin with a line `<folder>/<name>:`"
        raise YamlError(message, root.line if root else None, remedy)
    problems: list[Problem] = []
    for one in document.duplicates:
        again = _CatalogueNode(".".join(one.path), Node(one.second), problems)
        message = f"is given twice, on line {one.first} and line {one.second}"
        again.report(message, "keep one of the two")
    datasets = [
        _dataset(_CatalogueNode(title, marked, problems), kinds.get(title))
        for title, marked in root.children.items()
    ]
    return datasets, problems


@dataclass(frozen=True, slots=True)
class _CatalogueNode:
    """A value of the file under its key path, and where its problems are noted."""

    path: str
    marked: Node
    problems: list[Problem]

    def report(self, message: str, remedy: str) -> None:
        """Note what is wrong here."""
        said = (printable(message), printable(remedy))
        self.problems.append(Problem(printable(self.path), self.marked.line, *said))

    def below(self, key: str, marked: Node) -> "_CatalogueNode":
        """Return what stands under a key."""
        return _CatalogueNode(f"{self.path}.{key}", marked, self.problems)

    def children(self) -> dict[str, "_CatalogueNode"]:
        """Return what stands below it; a value has nothing, and is reported."""
        if self.marked.children is None:
            self.report(
                "must be a section of keys",
                "indent its keys by two spaces below it, each as `key: value`",
            )
        children = self.marked.children or {}
        return {key: self.below(key, marked) for key, marked in children.items()}

    def section(
        self, known: Sequence[str], needed: Mapping[str, str]
    ) -> dict[str, "_CatalogueNode"]:
        """Return what stands below it, and report keys that are unknown or missing.

        `needed`: the keys that must be there, and what to do where one is not.
        """
        children = self.children()
        for key, child in children.items():
            if key not in known:
                child.report("there is no such key", _did_you_mean(key, known))
        for key, remedy in needed.items():
            if self.marked.children is not None and key not in children:
                self.below(key, Node(self.marked.line)).report("is missing", remedy)
        return children

    def text(self) -> str:
        """Return its text; what is none, or is empty, is reported and empty."""
        value = self.marked.value
        if self.marked.children is not None or isinstance(value, list):
            self.report("must be text, not a list or a section", "write it as one text")
        elif not value:
            self.report("has no value", "give it one, in quotes, or remove it")
        return value if isinstance(value, str) else ""


def _dataset(node: _CatalogueNode, before: DatasetKind | None) -> Dataset:
    """Read one dataset; `before` is the kind of the one that it replaces."""
    folder, name = _title(node)
    needed = {} if before else {"kind": f"give it: {_alternatives(KINDS)}"}
    values = node.section(DATASET_KEYS, needed)
    headers: list[Header] = []
    if "headers" in values:
        headers += map(_header, values["headers"].children().values())
    dates = values["dates"].children() if "dates" in values else {}
    keys = _columns(values, "keys")
    if all(header.columns for header in headers):
        known = [column for header in headers for column in header.columns]
        _check_columns([(name, values["keys"]) for name in keys], known)
        _check_columns(dates.items(), known)
    return Dataset(
        folder,
        name,
        DatasetKind(_word(values, "kind", KINDS) or before or DatasetKind.MASTER),
        rank=0,
        delimiter=_delimiter(values),
        headers=tuple(headers),
        keys=keys,
        dates=tuple((column, _date_form(form)) for column, form in dates.items()),
        span=_span(values),
    )


def _header(node: _CatalogueNode) -> Header:
    needed = {"columns": "give the columns, separated by |"}
    values = node.section(HEADER_KEYS, needed)
    columns = required = _columns(values, "columns")
    match = HeaderMatch(_word(values, "match", MATCHES) or HeaderMatch.NAMES)
    if "required" in values:
        required = _columns(values, "required")
        if match is not HeaderMatch.NAMES:
            message = f"has no meaning with match: {match}, which requires all columns"
            values["required"].report(message, "remove it, or write match: names")
        elif columns:
            _check_columns([(name, values["required"]) for name in required], columns)
    variant = _word(values, "variant", VARIANTS)
    return Header(columns, match, required, variant, _span(values))


def _title(node: _CatalogueNode) -> tuple[str, str]:
    match = _TITLE.fullmatch(node.path)
    if match is None:
        node.report(
            "is no dataset",
            "write it as <folder>/<name>: what the name of its zips begins with, of"
            " letters, digits, _ and -",
        )
        return "", ""
    return match[1], match[2]


def _word(values: Mapping[str, _CatalogueNode], key: str, known: Sequence[str]) -> str:
    """Return a value that is one of the known words; empty if not given, or wrong."""
    word = values[key].text() if key in values else ""
    if not word or word in known:
        return word
    values[key].report(f"must be {_alternatives(known)}", _did_you_mean(word, known))
    return ""


def _span(values: Mapping[str, _CatalogueNode]) -> VersionRange:
    since, until = _version(values, "since"), _version(values, "until")
    if since and until and until < since:
        values["until"].report(
            f"must not come before since, which is {since}", "exchange the two"
        )
    return VersionRange(since, until)


def _version(values: Mapping[str, _CatalogueNode], key: str) -> Version | None:
    text = values[key].text() if key in values else ""
    try:
        return Version.parse(text) if text else None
    except ValueError:
        values[key].report("must be a version of cQube", "write it like 3.7")
        return None


def _delimiter(values: Mapping[str, _CatalogueNode]) -> str:
    if "delimiter" not in values:
        return "|"
    text = values["delimiter"].text()
    if text and (len(text) != 1 or not text.isascii() or text in '"\\\r\n'):
        values["delimiter"].report(
            "must be one character", 'write "|", "," or ";", or "\\t" for a tab'
        )
    return text


def _columns(values: Mapping[str, _CatalogueNode], key: str) -> tuple[str, ...]:
    """Return the names of columns in a text; none if not given, or wrong."""
    text = values[key].text() if key in values else ""
    if not text:
        return ()
    columns = tuple(part.strip() for part in text.split("|"))
    if all(columns):
        return columns
    values[key].report(
        f"column {columns.index('') + 1} of {len(columns)} has no name",
        "separate columns by one |, and put none at the beginning or the end",
    )
    return ()


def _check_columns(
    names: Iterable[tuple[str, _CatalogueNode]], known: Sequence[str]
) -> None:
    """Report, each in its place, the names that no column has, in whatever case."""
    lower = {column.lower() for column in known}
    for name, node in names:
        if name.lower() not in lower:
            message = f"names {name}, a column that no header has"
            node.report(message, _did_you_mean(name, known))


def _date_form(node: _CatalogueNode) -> str:
    form = node.text()
    if form and not _is_date_form(form):
        node.report(
            "must be the form of a date", 'write it like "%Y-%m-%d" or "%d/%m/%Y"'
        )
    return form


def _is_date_form(form: str) -> bool:
    """Tell whether a day that is written in this form can be read again."""
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
