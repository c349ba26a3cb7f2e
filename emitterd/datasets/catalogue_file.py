"""Reads the catalogue: the file that the package ships, and a user's over it.

docs/catalogue.md describes the form of both. All problems of a file are reported at once.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from emitterd.datasets.catalogue import (
    Catalogue,
    Dataset,
    DatasetKind,
    Header,
    HeaderMatch,
    ProgramCatalogue,
    ValueKind,
    ValueRule,
    Version,
    VersionRange,
    near,
)
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.text import printable, shown
from emitterd.yaml_reader import NO_SECTION, Node, YamlError, parse, read_text, unknown_key

DATASET_KEYS = ("kind", "since", "until", "delimiter", "keys", "dates", "values", "headers", "log")
HEADER_KEYS = ("variant", "match", "since", "until", "columns", "required", "assumed")
KINDS, MATCHES = tuple(DatasetKind), tuple(HeaderMatch)
VALUES = tuple(kind for kind in ValueKind if kind not in {ValueKind.DATE, ValueKind.YEAR})
VARIANTS = ("state", "udise")

_TITLE = re.compile(r"([\w-]+)/([\w-]*)")
_NO_TITLE = ValueProblem(
    "is no dataset",
    "write it as <folder>/<name>: what the name of its zips begins with, of letters,"
    " digits, _ and -",
)
_NUMBERED = re.compile(r"([0-9]{1,3})\.\.([0-9]{1,3})")
_NO_COLUMNS: tuple[str, ...] = ()
_SOME_DAY = date(2001, 2, 3)

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

Values = Mapping[str, Node]
"""The keys of a dataset or a header."""


def load_catalogue(extra: Path | None = None, *, programs: bool = False) -> Catalogue:
    """Return the catalogue that the package ships, with a user's file over it.

    `programs`: that of cQube 5.

    A dataset of the user's file replaces the shipped one with the same title. Raises `ConfigError`
    with every problem of the user's file.
    """
    name = "programs.yaml" if programs else "catalogue.yaml"
    text = files("emitterd.datasets").joinpath(name).read_text("utf-8")
    shipped = _Reader({})
    datasets = shipped.read(text)
    assert not shipped.problems  # noqa: S101  our own file
    catalogue = (ProgramCatalogue if programs else Catalogue)(datasets)
    if extra is None:
        return catalogue
    reader = _Reader({dataset.title: dataset for dataset in datasets})
    try:
        datasets = reader.read(read_text(extra, "a catalogue file")[0])
    except YamlError as error:
        reader.problems.append(error.at(printable(extra.name), error.line))
    if reader.problems:
        raise ConfigError(shown(extra), reader.problems)
    return catalogue.with_others(datasets)


class _Reader:
    """Reads the datasets of one file, and collects its problems.

    `replaced`: the datasets that this file may replace, by title. It need not repeat their kind and
    log.
    """

    def __init__(self, replaced: Mapping[str, Dataset]) -> None:
        self.problems: list[Problem] = []
        self._replaced = replaced

    def read(self, text: str) -> list[Dataset]:
        """Return the datasets; raises `YamlError` if the text has none."""
        document = parse(text, printable)
        root = document.root
        if root is None or not root.children:
            message, remedy = "holds no dataset", "begin with a line `<folder>/<name>:`"
            raise YamlError(message, root.line if root else None, remedy)
        self.problems += document.duplicates
        return [self._dataset(title, node) for title, node in root.children.items()]

    def _dataset(self, title: str, node: Node) -> Dataset:
        match = _TITLE.fullmatch(title)
        if match is None:
            self._report(node, _NO_TITLE)
        folder, name = match.groups() if match else ("", "")
        before = self._replaced.get(title)
        remedy = "give it: master, transactional or udise"
        values = self._values(node, DATASET_KEYS, "" if before else "kind", remedy)
        headers = [self._header(header) for header in self._section(values.get("headers")).values()]
        dates, rules = self._rules(values)
        keys = self._read(values.get("keys"), _columns, _NO_COLUMNS)
        if all(header.columns for header in headers):
            known = [column for header in headers for column in header.columns]
            self._check_columns([(key, values["keys"]) for key in keys], known)
            self._check_columns([(rule.name, node) for rule, node in rules], known)
        return Dataset(
            folder,
            name,
            self._read(
                values.get("kind"),
                partial(_one_of, KINDS),
                before.kind if before else DatasetKind.MASTER,
            ),
            rank=0,
            delimiter=self._read(values.get("delimiter"), _delimiter, "|"),
            headers=tuple(headers),
            keys=keys,
            dates=tuple(dates),
            values=tuple(rule for rule, _ in rules if rule.checks),
            span=self._span(values),
            log=self._read(values.get("log"), str, before.log if before else ""),
        )

    def _rules(self, values: Values) -> tuple[list[tuple[str, str]], list[tuple[ValueRule, Node]]]:
        """Return the forms of the date columns, and a rule for each column with its line."""
        forms: list[tuple[str, str]] = []
        rules: list[tuple[ValueRule, Node]] = []
        for name, node in self._section(values.get("dates")).items():
            date = self._read(node, partial(_date, name), None)
            if date is not None:
                rules.append((date[0], node))
                forms.append((date[0].name, date[1]))
        for kind, node in self._section(values.get("values")).items():
            if kind in VALUES:
                named: list[ValueRule] = []
                named = self._read(node, partial(_value_rules, ValueKind(kind)), named)
                rules += [(rule, node) for rule in named]
            else:
                self._report(node, unknown_key(near(kind, VALUES)))
        seen: set[str] = set()
        for rule, node in rules:
            if rule.name.lower() in seen:
                message = f"names {rule.name} a second time"
                self._report(node, ValueProblem(message, "name each column once"))
            seen.add(rule.name.lower())
        return forms, rules

    def _header(self, node: Node) -> Header:
        remedy = "give the columns, separated by |"
        values = self._values(node, HEADER_KEYS, "columns", remedy)
        columns = required = self._read(values.get("columns"), _columns, _NO_COLUMNS)
        match = self._read(values.get("match"), partial(_one_of, MATCHES), HeaderMatch.NAMES)
        if "required" in values:
            node = values["required"]
            required = self._read(node, _columns, _NO_COLUMNS)
            if columns:
                self._check_columns([(name, node) for name in required], columns)
        variant = self._read(values.get("variant"), partial(_one_of, VARIANTS), "")
        assumed = self._read(values.get("assumed"), partial(_one_of, ("yes", "no")), "yes")
        return Header(columns, match, required, variant, self._span(values), assumed == "yes")

    def _report(self, node: Node, problem: ValueProblem) -> None:
        shown = ValueProblem(printable(str(problem)), printable(problem.remedy))
        self.problems.append(shown.at(node.path, node.line))

    def _section(self, node: Node | None) -> Values:
        if node and node.children is None:
            self._report(node, NO_SECTION)
        return (node.children if node else None) or {}

    def _values(self, node: Node, known: Sequence[str], needed: str, remedy: str) -> Values:
        """Return the keys of a section; report unknown keys, and a missing one.

        `remedy`: what to do if the needed key is missing.
        """
        children = self._section(node)
        for key, child in children.items():
            if key not in known:
                self._report(child, unknown_key(near(key, known)))
        if needed and node.children is not None and needed not in children:
            missing = Node(f"{node.path}.{needed}", node.line)
            self._report(missing, ValueProblem("is missing", remedy))
        return children

    def _read(self, node: Node | None, read: Callable[[str], T], default: T) -> T:
        """Return a value; the default if it is not given, or wrong and reported."""
        if node is None:
            return default
        try:
            return read(_text(node))
        except ValueProblem as error:
            self._report(node, error)
            return default

    def _span(self, values: Values) -> VersionRange:
        since = self._read(values.get("since"), Version.parse, None)
        until = self._read(values.get("until"), Version.parse, None)
        if since and until and until < since:
            message = f"must not come before since, which is {since}"
            self._report(values["until"], ValueProblem(message, "exchange the two"))
        return VersionRange(since, until)

    def _check_columns(self, names: Iterable[tuple[str, Node]], known: Sequence[str]) -> None:
        """Report the names that no column has; upper and lower case are the same."""
        lower = {column.lower() for column in known}
        for name, node in names:
            if name.lower() not in lower:
                message = f"names {name}, a column that no header has"
                self._report(node, ValueProblem(message, _did_you_mean(name, known)))


def _text(node: Node) -> str:
    if node.children is not None or isinstance(node.value, list):
        message = "must be text, not a list or a section"
        raise ValueProblem(message, "write it as one text")
    if not node.value:
        raise ValueProblem("has no value", "give it one, in quotes, or remove it")
    return str(node.value)


def _delimiter(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text.isalnum() or text in '"\\\r\n .+-':
        remedy = 'write "|", "," or ";", or "\\t" for a tab'
        raise ValueProblem("must be one character", remedy)
    return text


def _columns(text: str) -> tuple[str, ...]:
    columns = tuple(name for part in text.split("|") for name in _names(part.strip()))
    if not all(columns):
        raise ValueProblem(
            f"column {columns.index('') + 1} of {len(columns)} has no name",
            "separate columns by one |, and put none at the beginning or the end",
        )
    return columns


def _names(text: str) -> Iterable[str]:
    """Return the columns that `1..31` stands for, or the one column of the text."""
    numbers = _NUMBERED.fullmatch(text)
    return map(str, range(int(numbers[1]), int(numbers[2]) + 1)) if numbers else [text]


def _value_rules(kind: ValueKind, text: str) -> list[ValueRule]:
    """Return a rule for each `Name`, `Name!` (never empty) or `Name!3.0` (not empty since 3.0)."""
    rules: list[ValueRule] = []
    for column in _columns(text):
        name, mark, since = column.partition("!")
        span = VersionRange(Version.parse(since) if since else None)
        rules.append(ValueRule(name, kind, span if mark else None))
    return rules


def _date(name: str, form: str) -> tuple[ValueRule, str]:
    (rule,) = _value_rules(ValueKind.TEXT, name)
    return rule, _date_form(form)


def _one_of(known: Sequence[Word], text: str) -> Word:
    for word in known:
        if word == text:
            return word
    message = f"must be {', '.join(known[:-1])} or {known[-1]}"
    raise ValueProblem(message, _did_you_mean(text, known))


def _date_form(form: str) -> str:
    try:
        read = time.strptime(_SOME_DAY.strftime(form), form)
    except (ValueError, re.error):
        read = None
    if read is None or read[:3] != _SOME_DAY.timetuple()[:3]:
        remedy = 'write it like "%Y-%m-%d" or "%d/%m/%Y"'
        raise ValueProblem("must be the form of a date", remedy)
    return form


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    meant = near(word, known)
    return f"did you mean {meant}?" if meant else "correct or remove it"
