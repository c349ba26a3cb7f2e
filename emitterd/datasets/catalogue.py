"""The datasets that the server knows, their order, and the dataset of a path.

Source: the emission documents of cQube and its NiFi templates, 1.0 to 4.1.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, Loss, finding
from emitterd.errors import ValueProblem

ACADEMIC_YEARS = frozenset({"ac_year", "academicyear", "academic_year", "assessment_year"})
"""Columns that hold an academic year, in lower case: `2020-21`, never `2020`."""

_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of cQube, of two numbers: 1.12 comes after 1.9."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3.7` or `1.8.1`; raises `ValueProblem` for anything else."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueProblem("is no version of cQube", 'write it like "3.7"')
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The versions from `since` to `until`, both included; None is no limit."""

    since: Version | None = None
    until: Version | None = None

    def holds(self, version: Version | None) -> bool:
        """Tell whether the version is in the range; an unknown one (None) always is."""
        if version is None:
            return True
        return (self.since is None or self.since <= version) and (
            self.until is None or version <= self.until
        )

    def __str__(self) -> str:
        since = self.since or "the first"
        return f"{since} to {self.until or 'the latest'}"


class DatasetKind(StrEnum):
    """What a dataset is for.

    `catalogue.yaml` and `with_others` list the datasets in this order of kinds, and the list is the
    order of sending.
    """

    MASTER = "master"
    TRANSACTIONAL = "transactional"
    UDISE = "udise"


class HeaderMatch(StrEnum):
    """How the server compares a file's header with the documented one."""

    SEQUENCE = "sequence"
    """All columns in this order, in any case; others may come before and after."""
    EXACT = "exact"
    """As `sequence`, and in the same case."""
    ONLY = "only"
    """As `sequence`, and no other columns."""
    NAMES = "names"
    """The required columns, in any order and any case; others are ignored."""


class ValueKind(StrEnum):
    """What the server accepts as a value of a column. An empty value is right for every kind."""

    INT32 = "int32"
    INT64 = "int64"
    DECIMAL = "decimal"
    COORDINATE = "coordinate"
    """A decimal; 0 is no value."""
    BOOL = "bool"
    TEXT = "text"
    DATE = "date"
    YEAR = "year"
    """An academic year."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header that the server accepts for a dataset.

    `columns` are the documented ones in order. `required` are those that `HeaderMatch.NAMES`
    requires. `variant`: `state` or `udise` where `static_datasource` decides which of two headers
    applies, else empty. `assumed`: whether the header also applies if the version of the server is
    not known.
    """

    columns: tuple[str, ...]
    match: HeaderMatch
    required: tuple[str, ...]
    variant: str = ""
    span: VersionRange = VersionRange()
    assumed: bool = True

    def applies(self, version: Version | None, variant: str) -> bool:
        """Tell whether a server of this version and variant accepts the header."""
        known = self.assumed if version is None else self.span.holds(version)
        return known and (self.variant == variant or "" in {self.variant, variant})


@dataclass(frozen=True, slots=True)
class ValueRule:
    """The kind of a column's values. `needed`: the versions that drop a row without a value."""

    name: str
    kind: ValueKind
    needed: VersionRange | None = None

    @property
    def checks(self) -> bool:
        """Whether some value is wrong."""
        return self.kind is not ValueKind.TEXT or self.needed is not None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: `<folder>/<name…>.zip`. `rank` is its position in the order.

    `headers` is empty if the header is not known or differs within a file; then the rows are not
    checked. Where none of them applies to a version, the header of that version is not known.
    `keys`: the columns that identify a row. The server drops a row that has no value for one,
    unless a rule of `values` says otherwise, and rows with one key and other values. Keys that the
    file's header does not have are ignored. `dates`: columns of dates, each with its `strptime`
    format. `log`: the key of the server's log about files of this dataset, in its output bucket;
    empty if there is none.
    """

    folder: str
    name: str
    kind: DatasetKind
    rank: int
    delimiter: str = "|"
    headers: tuple[Header, ...] = ()
    keys: tuple[str, ...] = ()
    dates: tuple[tuple[str, str], ...] = ()
    values: tuple[ValueRule, ...] = ()
    span: VersionRange = VersionRange()
    log: str = ""

    @property
    def title(self) -> str:
        """The dataset as people write it."""
        return f"{self.folder}/{self.name}"


_NAMES_LISTED = 5
_ALIKE = 0.75
"""How similar a name must be to that of a dataset folder to count as misspelt."""


class Catalogue:
    """All datasets, looked up by path; their order is their rank."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = [replace(dataset, rank=rank) for rank, dataset in enumerate(datasets)]
        self._by_folder: dict[str, list[Dataset]] = {}
        for dataset in self.datasets:
            self._by_folder.setdefault(dataset.folder, []).append(dataset)

    @property
    def names(self) -> list[str]:
        """The folders, and the titles of the datasets, in order."""
        return [*self._by_folder, *(dataset.title for dataset in self.datasets)]

    def with_others(self, others: Iterable[Dataset]) -> Self:
        """Return a catalogue with other datasets added.

        A dataset of the same title and kind is replaced in its position. Any other is added after
        the last of its kind.
        """
        others = list(others)
        datasets: list[Dataset] = []
        for kind in DatasetKind:
            old = [dataset for dataset in self.datasets if dataset.kind is kind]
            by_title = {dataset.title: dataset for dataset in (*old, *others)}
            datasets += [new for new in by_title.values() if new.kind is kind]
        return type(self)(datasets)

    def dataset(self, path: bytes, version: Version | None = None) -> Dataset | None:
        """Return the dataset that the server would take the path for, or None.

        The base name begins with its name. The longest name wins; datasets that the version reads
        come first.
        """
        folder, base = _split(path)
        matching = [
            dataset for dataset in self._by_folder.get(folder, []) if base.startswith(dataset.name)
        ]
        return max(
            matching,
            key=lambda dataset: (dataset.span.holds(version), len(dataset.name)),
            default=None,
        )

    def guess(self, base: str) -> list[Dataset]:
        """Return the datasets, in any folder, to which a base name may belong.

        These are the datasets with the longest name that the base name begins with. A dataset
        without a name, which takes any file, is never guessed.
        """
        matching = [
            dataset for dataset in self.datasets if dataset.name and base.startswith(dataset.name)
        ]
        longest = max((len(dataset.name) for dataset in matching), default=0)
        return [dataset for dataset in matching if len(dataset.name) == longest]

    def place(self, base: bytes, title: str) -> bytes:
        """Return the path in the dataset with this title that a file with this base name gets.

        The title gives the folder and how the name begins.
        """
        folder, _, name = title.encode().partition(b"/")
        return folder + b"/" + (base if base.startswith(name) else name + b".zip")

    def is_meant(self, folder: str, base: str) -> bool:
        """Tell whether a folder is meant as a dataset folder, perhaps by a wrong name."""
        if folder in self._by_folder:
            return True
        names = {name for guess in self.guess(base) for name in (guess.folder, guess.name)}
        return bool(difflib.get_close_matches(folder.lower(), names, n=1, cutoff=_ALIKE))

    def queue_position(self, path: bytes, version: Version | None = None) -> tuple[int, str]:
        """Return the rank of a path among the datasets, and the flow that it joins.

        A flow is a backlog of its own in the fair queue: the title of a dataset. Unknown datasets
        go last, and each folder is a flow, which begins with a slash, as no title does.
        """
        dataset = self.dataset(path, version)
        if dataset is not None:
            return dataset.rank, dataset.title
        return len(self.datasets), f"/{_split(path)[0]}"

    def findings(self, path: bytes, version: Version | None = None) -> list[Finding]:
        """Return why the server would never process the path, or an empty list.

        The server's routes want `<folder>/<name…>.zip`, one level deep. Without a version no
        dataset is too new or too old.
        """
        findings = []
        depth = path.count(b"/")
        folder, base = _split(path)
        if depth != 1:
            found = f"a path {depth} folders deep"
            findings.append(finding(Code.WRONG_DEPTH, "<dataset>/<name>.zip", found))
        elif folder not in self._by_folder:
            findings.append(self._unknown_folder(folder, base))
        elif (dataset := self.dataset(path, version)) is None:
            findings.append(self._unknown_name(folder, base))
        elif not dataset.span.holds(version):
            expected = f"cQube {dataset.span}"
            found = f"cQube {version}"
            findings.append(finding(Code.OTHER_VERSION, expected, found))
        if not base.endswith(".zip"):
            findings.append(finding(Code.WRONG_ENDING, "<name>.zip", f"'{base}'"))
        return findings

    def _unknown_folder(self, folder: str, base: str) -> Finding:
        meant = self._only_folder(base) or near(folder, self._by_folder)
        wanted = "a dataset folder" + _did_you_mean(meant)
        return finding(Code.UNKNOWN_FOLDER, wanted, f"folder '{folder}'")

    def _unknown_name(self, folder: str, base: str) -> Finding:
        known = [dataset.name for dataset in self._by_folder[folder]]
        # The server's routes end a name at its first dot.
        stem = base.partition(".")[0].lower()
        home = self._only_folder(base)
        meant = f"folder {home}" if home else near(stem, known)
        # The most similar first: udise has 32.
        names = difflib.get_close_matches(stem, known, n=_NAMES_LISTED, cutoff=0)
        wanted = ", ".join(f"{name}….zip" for name in names) + _did_you_mean(meant)
        return finding(Code.UNKNOWN_NAME, wanted, f"'{base}' in folder '{folder}'")

    def _only_folder(self, base: str) -> str | None:
        folders = {dataset.folder for dataset in self.guess(base)}
        return folders.pop() if len(folders) == 1 else None


class ProgramCatalogue(Catalogue):
    """The programs of cQube 5: the name of the zip decides, in any folder.

    The server reads every CSV with commas, so the delimiter of a dataset does not count.
    """

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        super().__init__(replace(dataset, delimiter=",") for dataset in datasets)
        self._by_name = {f"{dataset.name}.zip": dataset for dataset in self.datasets}

    def dataset(self, path: bytes, version: Version | None = None) -> Dataset | None:  # noqa: ARG002
        """Return the program of a path, or None."""
        return self._by_name.get(_split(path)[1])

    def guess(self, base: str) -> list[Dataset]:
        """Return the program with this base name, if there is one."""
        dataset = self._by_name.get(base)
        return [dataset] if dataset is not None else []

    def place(self, base: bytes, title: str) -> bytes:  # noqa: ARG002
        """Return the only path in the program with this title."""
        return f"{title}.zip".encode()

    def is_meant(self, folder: str, base: str) -> bool:
        """Return True: the server does not see the folder."""
        del folder, base
        return True

    def findings(self, path: bytes, version: Version | None = None) -> list[Finding]:
        """Return why the server would refuse the path, or an empty list."""
        if self.dataset(path, version) is not None:
            return []
        base = _split(path)[1]
        names = difflib.get_close_matches(base, self._by_name, n=_NAMES_LISTED, cutoff=0)
        wanted = f"the name of a program: {', '.join(names)}, …"
        return [finding(Code.UNKNOWN_NAME, wanted, f"'{base}'", Loss.SERVICE)]


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a word, in any case."""
    by_lower = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[nearest[0]] if nearest else None


def _did_you_mean(meant: str | None) -> str:
    return f" (did you mean {meant}?)" if meant else ""


def _split(path: bytes) -> tuple[str, str]:
    """Return folder and base name; bytes that are not UTF-8 are escaped."""
    folder, _, base = path.decode("utf-8", "backslashreplace").rpartition("/")
    return folder, base
