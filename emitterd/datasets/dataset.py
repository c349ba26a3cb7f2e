"""The data contract of one dataset, as the catalogue states it. Pure data.

Source: the emission documents of cQube and its NiFi templates, 1.0 to 4.1.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

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
