"""The datasets that the server knows: their order, and whether a path is one."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, finding

# The data contract of one dataset, as the catalogue states it. Pure data. Source: the
# emission documents of cQube and its NiFi templates, 1.0 to 4.1.

ACADEMIC_YEARS = frozenset(
    {"ac_year", "academicyear", "academic_year", "assessment_year"}
)
"""Columns that hold an academic year, in lower case: `2020-21`, never `2020`."""

_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of cQube, to the second number: 1.12 comes after 1.9."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3.7` or `1.8.1`; raises `ValueError` for anything else."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no version of cQube")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class VersionRange:
    """The versions from `since` to `until`, both included; None is open."""

    since: Version | None = None
    until: Version | None = None

    def holds(self, version: Version | None) -> bool:
        """Tell whether the version lies in it; an unknown one (None) always may."""
        if version is None:
            return True
        return (self.since is None or self.since <= version) and (
            self.until is None or version <= self.until
        )

    def __str__(self) -> str:
        since = self.since or "the first"
        return f"{since} to {self.until or 'the latest'}"


class DatasetKind(StrEnum):
    """What a dataset is for; kinds are sent in this order."""

    MASTER = "master"
    TRANSACTIONAL = "transactional"
    UDISE = "udise"


class HeaderMatch(StrEnum):
    """How the server compares a file's header with the documented one."""

    SEQUENCE = "sequence"
    """All columns in this order, side by side, in any case; more may stand around."""
    EXACT = "exact"
    """As `sequence`, and in this case."""
    NAMES = "names"
    """The required columns, in any order and any case; others are ignored."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header that the server accepts for a dataset.

    `columns` are the documented ones in order, `required` those that must be there
    for `Match.NAMES`. `variant`: `state` or `udise` where `static_datasource` decides
    which of two headers holds, else empty.
    """

    columns: tuple[str, ...]
    match: HeaderMatch
    required: tuple[str, ...]
    variant: str = ""
    span: VersionRange = VersionRange()


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: `<folder>/<name…>.zip`. `rank` is its place in the order.

    `headers` is empty where the header is not known or not one for the whole file;
    then no row is counted either. Where none of them holds for a version, its header
    is not known. `keys`: a row without one of these is dropped; they are those of all
    headers, and one that a file's own header does not have is passed over.
    `dates`: columns of dates by name, with the form in `strptime` notation.
    """

    folder: str
    name: str
    kind: DatasetKind
    rank: int
    delimiter: str = "|"
    headers: tuple[Header, ...] = ()
    keys: tuple[str, ...] = ()
    dates: tuple[tuple[str, str], ...] = ()
    span: VersionRange = VersionRange()

    @property
    def title(self) -> str:
        """The dataset as people write it."""
        return f"{self.folder}/{self.name}"


_NAMES_LISTED = 5


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a path stands: its rank among the datasets, and whose backlog it joins."""

    rank: int
    flow: str


class Catalogue:
    """All datasets, looked up by path; each ranks by its place among them."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = [
            replace(dataset, rank=rank) for rank, dataset in enumerate(datasets)
        ]
        self._by_folder: dict[str, list[Dataset]] = {}
        for dataset in self.datasets:
            self._by_folder.setdefault(dataset.folder, []).append(dataset)

    def with_others(self, others: Iterable[Dataset]) -> Self:
        """Return a catalogue with other datasets over these.

        One that is here already, of the same kind, is replaced in its place; any
        other goes after the last of its kind.
        """
        others = list(others)
        datasets: list[Dataset] = []
        for kind in DatasetKind:
            old = [dataset for dataset in self.datasets if dataset.kind is kind]
            by_title = {dataset.title: dataset for dataset in (*old, *others)}
            datasets += [one for one in by_title.values() if one.kind is kind]
        return type(self)(datasets)

    def dataset(self, path: bytes, version: Version | None = None) -> Dataset | None:
        """Return the dataset that the server would take the path for, or None.

        It is the one with the longest name that the base name begins with, among
        those that the version reads if there are any.
        """
        folder, base = _split(path)
        fitting = [
            dataset
            for dataset in self._by_folder.get(folder, [])
            if base.startswith(dataset.name)
        ]
        return max(
            fitting,
            key=lambda dataset: (dataset.span.holds(version), len(dataset.name)),
            default=None,
        )

    def guess(self, base: str) -> list[Dataset]:
        """Return the datasets, in any folder, that a base name is meant for.

        Those with the longest name that it begins with; one that takes any name is
        no guess.
        """
        fitting = [
            dataset
            for dataset in self.datasets
            if dataset.name and base.startswith(dataset.name)
        ]
        longest = max((len(dataset.name) for dataset in fitting), default=0)
        return [dataset for dataset in fitting if len(dataset.name) == longest]

    def place(self, path: bytes) -> QueuePosition:
        """Return rank and flow; unknown datasets go last, each folder a flow."""
        dataset = self.dataset(path)
        if dataset is not None:
            return QueuePosition(dataset.rank, dataset.title)
        return QueuePosition(len(self.datasets), _split(path)[0])

    def findings(self, path: bytes, version: Version | None = None) -> list[Finding]:
        """Return why the server would never process the path, or an empty list.

        The rules are those of the server's routes: `<folder>/<name…>.zip`, one level
        deep. Without a version no dataset is too new or too old.
        """
        found = []
        depth = path.count(b"/")
        folder, base = _split(path)
        if depth != 1:
            wanted, there = "<dataset>/<name>.zip", f"a path {depth} folders deep"
            found.append(finding(Code.WRONG_DEPTH, wanted, there))
        elif folder not in self._by_folder:
            found.append(self._unknown_folder(folder, base))
        elif (dataset := self.dataset(path, version)) is None:
            found.append(self._unknown_name(folder, base))
        elif not dataset.span.holds(version):
            wanted, there = f"cQube {dataset.span}", f"cQube {version}"
            found.append(finding(Code.OTHER_VERSION, wanted, there))
        if not base.endswith(".zip"):
            found.append(finding(Code.WRONG_ENDING, "<name>.zip", f"'{base}'"))
        return found

    def _unknown_folder(self, folder: str, base: str) -> Finding:
        meant = self._home(base) or near(folder, self._by_folder)
        wanted = "a dataset folder" + _question(meant)
        return finding(Code.UNKNOWN_FOLDER, wanted, f"folder '{folder}'")

    def _unknown_name(self, folder: str, base: str) -> Finding:
        known = [dataset.name for dataset in self._by_folder[folder]]
        # The server's routes end a name at its first dot.
        stem = base.partition(".")[0].lower()
        home = self._home(base)
        meant = f"folder {home}" if home else near(stem, known)
        # The likest first: udise has 32.
        names = difflib.get_close_matches(stem, known, n=_NAMES_LISTED, cutoff=0)
        wanted = ", ".join(f"{name}….zip" for name in names) + _question(meant)
        return finding(Code.UNKNOWN_NAME, wanted, f"'{base}' in folder '{folder}'")

    def _home(self, base: str) -> str | None:
        """Return the folder that a base name belongs in, if that is one."""
        folders = {dataset.folder for dataset in self.guess(base)}
        return folders.pop() if len(folders) == 1 else None


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the one of the known names that a word is most like, in any case."""
    by_lower = {name.lower(): name for name in known}
    likest = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[likest[0]] if likest else None


def _question(meant: str | None) -> str:
    return f" (did you mean {meant}?)" if meant else ""


def _split(path: bytes) -> tuple[str, str]:
    """Return folder and base name; what is not UTF-8 is escaped."""
    folder, _, base = path.decode("utf-8", "backslashreplace").rpartition("/")
    return folder, base
