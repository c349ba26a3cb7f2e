"""What the server would object to in a whole zip, before it is sent.

Bounded in time and memory whatever the zip claims, and nothing is extracted to disk.
Source: cQube's NiFi templates, 1.0 to 4.1, which delete the object first and look at
it afterwards.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from emitterd.codes import Code
from emitterd.datasets.catalogue import Catalogue, Dataset, QueuePosition, Version
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.csv_header import Heading, read_heading
from emitterd.datasets.csv_rows import Rows
from emitterd.datasets.csv_text import LINE_MAX_BYTES, Lines
from emitterd.datasets.findings import Finding, finding
from emitterd.datasets.zip_integrity import ReadAt, zip_directory
from emitterd.datasets.zip_members import (
    DIRECTORY_MAX_BYTES,
    ENTRIES_MAX,
    Archive,
    Damage,
    choose,
    obstacle,
)
from emitterd.text import printable

if TYPE_CHECKING:
    from emitterd.config.settings import SpoolSettings


_LEAST_BYTES = LINE_MAX_BYTES + 100_000
"""Read of any CSV if need be: so much shows that the first line is too long."""
_NAME_MAX = 200


@dataclass(frozen=True, slots=True)
class Contract:
    """What the installation says of its server."""

    version: Version | None = None
    """cQube's, where it is known."""
    variant: str = ""
    """`state` or `udise`: which of two headers holds; empty where it is not known."""
    budget_bytes: int = 8 * 1024**2
    """How much of the CSV is read, uncompressed; 0: header and first record only."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an inspection found, and how far it looked; everything is printable."""

    findings: tuple[Finding, ...]
    """In the order of their codes: the zip, then the text, the header, the rows."""
    member: str | None
    """The name of the CSV in the zip; None where it is not known which one it is."""
    columns: tuple[str, ...]
    """The header as it stands; empty where it was not read."""
    rows: int | None
    """The records; None where they were not counted to the end of the CSV."""
    read_bytes: int
    """How much of the CSV was read, uncompressed."""
    whole: bool
    """Whether the CSV was read to its end; then its checksum was compared too."""


def inspect(
    read_at: ReadAt, size_bytes: int, dataset: Dataset | None, contract: Contract
) -> Report:
    """Return what the server would object to in a zip that `container` calls whole.

    `dataset` is None where the server knows none of the file's name: then only what
    holds for all is looked at. Raises nothing but what `read_at` does.
    """
    look = _Inspection(dataset, contract)
    try:
        look.at_zip(read_at, size_bytes)
    except Damage as damage:
        look.findings.append(finding(Code.DAMAGED, "a whole zip", str(damage)))
    return look.report()


class _Inspection:
    """One inspection under way."""

    def __init__(self, dataset: Dataset | None, contract: Contract) -> None:
        self.findings: list[Finding] = []
        self._dataset = dataset
        self._contract = contract
        self._member: str | None = None
        self._columns: tuple[str, ...] = ()
        self._rows: int | None = None
        self._lines: Lines | None = None

    def at_zip(self, read_at: ReadAt, size_bytes: int) -> None:
        directory = zip_directory(read_at, size_bytes)
        if directory is None:
            raise Damage("no end record")
        entries = directory.entries
        if entries > ENTRIES_MAX or directory.size_bytes > DIRECTORY_MAX_BYTES:
            found = f"a directory of {entries} entries, {directory.size_bytes} bytes"
            self.findings.append(finding(Code.SEVERAL_FILES, "one CSV", found))
            return
        with Archive(read_at, size_bytes) as archive:
            if len(archive.entries) != entries:
                raise Damage(
                    f"{len(archive.entries)} entries where the end record has {entries}"
                )
            entry, findings = choose(archive.entries, self._contract.version)
            self.findings += findings
            if entry is None:
                return
            self._member = printable(entry.filename[:_NAME_MAX])
            barrier = obstacle(entry)
            if barrier is not None:
                self.findings.append(barrier)
                return
            limit_bytes = max(self._contract.budget_bytes, _LEAST_BYTES)
            read = archive.open(entry, limit_bytes)
            self._lines = Lines(read, entry.file_size, limit_bytes)
            self._at_text(self._lines)

    def report(self) -> Report:
        lines = self._lines
        findings = self.findings + (lines.findings if lines else [])
        return Report(
            tuple(sorted(findings, key=lambda one: one.code)),
            self._member,
            tuple(map(printable, self._columns)),
            self._rows,
            read_bytes=lines.read_bytes if lines else 0,
            whole=lines is not None and lines.whole,
        )

    def _at_text(self, lines: Lines) -> None:
        blocks = lines.blocks()
        text = next(blocks, None)
        if text is None:
            self._tell_empty(lines, "an empty file")
            return
        line, _, rest = text.partition("\n")
        blocks = chain([rest], blocks)
        try:
            heading = read_heading(
                line, self._dataset, self._contract.version, self._contract.variant
            )
        except csv.Error:
            expected = "a header and records, in lines that end in LF or CRLF"
            found = "a CR alone in the first line, which ends no line"
            self.findings.append(finding(Code.NO_RECORDS, expected, found))
            return
        self._columns = heading.columns
        findings = [heading.finding] if heading.finding else []
        if line.strip():
            self.findings += findings
        recorded = self._at_records(lines, blocks, heading)
        if not recorded:
            self._tell_empty(lines, "a header only" if line.strip() else "blank lines")
        elif not line.strip():
            self.findings += findings

    def _at_records(
        self, lines: Lines, blocks: Iterator[str], heading: Heading
    ) -> bool:
        """Look at the rest of the text; tell whether there is anything in it."""
        dataset = self._dataset
        if self._contract.budget_bytes == 0:
            return any(block.strip() for block in blocks)
        wrong = heading.finding and heading.finding.code is Code.WRONG_DELIMITER
        if dataset is None or not dataset.headers or not heading.columns or wrong:
            recorded = any(block.strip() for block in blocks)
            deque(blocks, maxlen=0)
            return recorded
        rows = Rows(dataset, heading.columns)
        rows.read(blocks, lambda: lines.whole and lines.sound)
        deque(blocks, maxlen=0)
        self._rows = rows.count if rows.complete else None
        where = "" if lines.whole else f" in the first {_size(lines.read_bytes)}"
        self.findings += rows.findings(where)
        return rows.count > 0 or not rows.complete

    def _tell_empty(self, lines: Lines, found: str) -> None:
        if lines.whole and lines.sound:
            expected = "a header and at least one record"
            self.findings.append(finding(Code.NO_RECORDS, expected, found))


def _size(count: int) -> str:
    if count < 1024**2:
        return f"{count} bytes"
    return f"{count / 1024**2:.3g} MiB"


# Holds a file to the data contract: its path to the catalogue, its content to both.


class Inspector:
    """The catalogue and what the installation says of its server."""

    def __init__(self, catalogue: Catalogue, contract: Contract) -> None:
        self.catalogue = catalogue
        self._contract = contract

    def place(self, path: bytes) -> QueuePosition:
        """Return rank and flow of a path."""
        return self.catalogue.place(path)

    def dataset(self, path: bytes) -> Dataset | None:
        """Return the dataset that this server takes a path for, or None."""
        return self.catalogue.dataset(path, self._contract.version)

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Inspect a whole zip that lies, or is to lie, at this path.

        Raises nothing but what `read_at` does.
        """
        dataset = self.dataset(path)
        report = inspect(read_at, size_bytes, dataset, self._contract)
        named = self.catalogue.findings(path, self._contract.version)
        return replace(report, findings=(*named, *report.findings))


def load_inspector(rule: "SpoolSettings") -> Inspector:
    """Return the inspector that the configuration describes.

    Raises `ConfigError` where the user's catalogue is wrong.
    """
    contract = Contract(
        version=Version.parse(rule.cqube_version) if rule.cqube_version else None,
        variant=rule.static_datasource or "",
        budget_bytes=rule.inspection_budget_bytes,
    )
    return Inspector(load_catalogue(rule.catalogue_file), contract)
