"""Inspects a whole zip before it is sent: finds what the server would not accept.

An inspection of any zip is bounded in time and memory, and extracts nothing to disk. Source:
cQube's NiFi templates, 1.0 to 4.1. They delete the object first and read it afterwards, so a wrong
file is lost without a message.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from emitterd.codes import Code
from emitterd.datasets.catalogue import Catalogue, Dataset, Version
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.csv_header import CheckedHeader, check_header
from emitterd.datasets.csv_rows import RowChecker
from emitterd.datasets.csv_text import LINE_MAX_BYTES, CsvTextReader
from emitterd.datasets.findings import Finding, Loss, Severity, finding, quoted
from emitterd.datasets.zip_integrity import FileHeader, ReadAt, single_file_flaw
from emitterd.datasets.zip_members import (
    Content,
    DamagedZip,
    choose_csv,
    listed,
    not_inspected,
    server_files,
    shown_name,
    unpack_problem,
)
from emitterd.text import printable
from emitterd.translation.text import Text
from emitterd.units import format_size

if TYPE_CHECKING:
    from emitterd.config.settings import SpoolSettings

_MINIMUM_BYTES = LINE_MAX_BYTES + 100_000
"""Read of every CSV: enough to see that the first line is too long."""
_NAME_MAX = 200
_BAD_TEXT = frozenset({Code.NOT_UTF8, Code.LONG_LINE, Code.QUOTES})
"""What cQube 5 may read all the same: it has no limits of NiFi."""
_PROGRAM_METHODS = (0, 8)
"""No compression, and deflate."""
_ZIP_MAX_BYTES = 2**31 - 1
"""Node.js reads no larger file at once. Seen with version 20."""
_CSV_MAX_BYTES = 2**32 - 1
"""Node.js 15 to 21 have no larger buffer."""
_DELIMITERS = {b"|": Text("| (pipe)"), b";": Text("; (semicolon)"), b"\t": Text("a tab")}


@dataclass(frozen=True, slots=True)
class InspectionSettings:
    """What the configuration says about the server, and how much is read."""

    version: Version | None = None
    """The server's version of cQube, where it is known."""
    variant: str = ""
    """`state` or `udise`: which of two headers applies; empty if it is not known."""
    budget_bytes: int = 8 * 1024**2
    """How much of the CSV is read, uncompressed; 0: header and first record only."""
    programs: bool = False
    """Whether the server is cQube 5, whose service reads the CSV with the name of the zip."""


@dataclass(slots=True)
class Report:
    """The findings of an inspection, and how much was read; everything is printable."""

    findings: tuple[Finding, ...] = ()
    """In the order of their codes: the zip, then the text, the header, the rows."""
    member: str | None = None
    """The name of the CSV in the zip; None if it is not clear which one it is."""
    columns: tuple[str, ...] = ()
    """The header of the file; empty if it was not read."""
    rows: int | None = None
    """The number of records; None if they were not counted to the end of the CSV."""
    read_bytes: int = 0
    """How much of the CSV was read, uncompressed."""
    whole: bool = False
    """Whether the CSV was read to its end; then its checksum was compared too."""

    @property
    def verdict(self) -> str:
        """The highest severity: `ok`, `warning` or `error`."""
        levels = {finding.level for finding in self.findings}
        counted = (Severity.ERROR, Severity.WARNING)
        return next((level for level in counted if level in levels), "ok")


@dataclass
class Inspector:
    """Inspects files by the catalogue and the settings of the installation."""

    catalogue: Catalogue
    settings: InspectionSettings

    def dataset(self, path: bytes) -> Dataset | None:
        """Return the dataset to which this server assigns a path, or None."""
        return self.catalogue.dataset(path, self.settings.version)

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Inspect a whole zip that has, or will have, this path.

        Raises only what `read_at` raises.
        """
        dataset = self.dataset(path)
        base = path.rpartition(b"/")[2] if self.settings.programs else None
        report = inspect(read_at, size_bytes, dataset, self.settings, base)
        path_findings = self.catalogue.findings(path, self.settings.version)
        return replace(report, findings=(*path_findings, *report.findings))


def load_inspector(settings: "SpoolSettings", *, programs: bool) -> Inspector:
    """Return the inspector that the configuration describes.

    `programs`: the server is cQube 5. Raises `ConfigError` if the user's catalogue is wrong.
    """
    version = settings.cqube_version
    inspection = InspectionSettings(
        version=Version.parse(version) if version else None,
        variant=settings.static_datasource or "",
        budget_bytes=settings.inspection_budget_bytes,
        programs=programs,
    )
    return Inspector(load_catalogue(settings.catalogue_file, programs=programs), inspection)


def inspect(
    read_at: ReadAt,
    size_bytes: int,
    dataset: Dataset | None,
    settings: InspectionSettings,
    base: bytes | None = None,
) -> Report:
    """Inspect a zip in which `zip_flaw` finds no flaw.

    Without a dataset only the rules for all files are checked. `base`: the name of the zip, where
    it decides (cQube 5). Raises only what `read_at` raises.
    """
    inspection = _Inspection(dataset, settings, base)
    try:
        inspection.inspect_zip(read_at, size_bytes)
    except DamagedZip as error:
        if all(finding.code is not Code.DAMAGED for finding in inspection.findings):
            inspection.findings.append(finding(Code.DAMAGED, Text("a whole zip"), str(error)))
    report, text = inspection.report, inspection.text
    findings = inspection.findings
    if text is not None:
        report.read_bytes, report.whole = text.read_bytes, text.whole
        findings = findings + text.findings
    if base is not None:
        findings = [_of_program(finding) for finding in findings]
    report.findings = tuple(sorted(findings, key=lambda finding: finding.code))
    return report


def _of_program(finding: Finding) -> Finding:
    """Return a finding with what it means to cQube 5."""
    if finding.code in _BAD_TEXT:
        return replace(finding, loses=Loss.VALUE)
    return replace(finding, loses=Loss.SERVICE) if finding.loses is Loss.FILE else finding


class _Inspection:
    def __init__(
        self, dataset: Dataset | None, settings: InspectionSettings, base: bytes | None
    ) -> None:
        self.findings: list[Finding] = []
        self._base = base
        self._dataset = dataset
        self._settings = settings
        self.report = Report()
        self.text: CsvTextReader | None = None

    def inspect_zip(self, read_at: ReadAt, size_bytes: int) -> None:
        files, problem = server_files(read_at, size_bytes)
        if problem is not None:
            self.findings.append(problem)
            if not files:
                return
        csv_file, findings = choose_csv(files)
        self.findings += findings
        self._check_directory(read_at, size_bytes, files)
        unreadable = next(filter(None, map(unpack_problem, files)), None)
        if unreadable is not None:
            self.findings.append(unreadable)
        if csv_file is None:
            return
        self.report.member = printable(shown_name(csv_file)[:_NAME_MAX])
        if self._base is not None and not self._fits_program(csv_file, self._base):
            return
        if unpack_problem(csv_file) is not None:
            return
        note = not_inspected(csv_file)
        if note is not None:
            self.findings.append(note)
            return
        limit_bytes = max(self._settings.budget_bytes, _MINIMUM_BYTES)
        self.text = CsvTextReader(Content(read_at, csv_file, limit_bytes).read, limit_bytes)
        self._inspect_text(self.text)

    def _check_directory(
        self, read_at: ReadAt, size_bytes: int, files: Sequence[FileHeader]
    ) -> None:
        """Report what would keep the service of cQube 5 from unpacking the zip.

        It unpacks every file and folder of the zip, and ends if it cannot unpack one of them.
        """
        if self._base is None or not files:
            return
        first = files[0]
        if len(files) > 1:
            if all(finding.code is not Code.SEVERAL_FILES for finding in self.findings):
                expected = Text("one CSV, and no folder")
                self.findings.append(finding(Code.SEVERAL_FILES, expected, listed(files)))
        elif flaw := single_file_flaw(read_at, size_bytes, first.name):
            self.findings.append(finding(Code.UNREADABLE_ZIP, Text("a plain zip of one CSV"), flaw))
        if size_bytes > _ZIP_MAX_BYTES or first.size_bytes > _CSV_MAX_BYTES:
            expected = Text("a zip of less than 2 GiB, with a CSV of less than 4 GiB")
            sizes = f"{format_size(size_bytes)}, {format_size(first.size_bytes)}"
            self.findings.append(finding(Code.TOO_LARGE_TO_UNPACK, expected, sizes))

    def _fits_program(self, csv_file: FileHeader, base: bytes) -> bool:
        """Tell whether the service of cQube 5 can unpack and find the CSV; report why not."""
        wanted = base.removesuffix(b".zip") + b".csv"
        if csv_file.name != wanted:
            name = wanted.decode(errors="replace")
            self.findings.append(finding(Code.CSV_NAME, name, quoted(shown_name(csv_file))))
        # What libraries of Node.js unpack.
        if csv_file.method not in _PROGRAM_METHODS and unpack_problem(csv_file) is None:
            expected, found = Text("deflate, or no compression"), f"method {csv_file.method}"
            self.findings.append(finding(Code.UNREADABLE_ZIP, expected, found))
            return False
        return True

    def _inspect_text(self, text: CsvTextReader) -> None:
        blocks = text.blocks()
        block = next(blocks, None)
        if block is None:
            self._report_empty(text, Text("an empty file"))
            return
        text_bytes = block.lstrip(b"\n")
        first = 1 + len(block) - len(text_bytes)
        line, _, rest = text_bytes.partition(b"\n")
        blocks = chain([rest], blocks)
        if self._base is not None and (wrong := _other_delimiter(line)):
            self.findings.append(finding(Code.WRONG_DELIMITER, Text(", (comma)"), wrong))
        try:
            header = check_header(
                line.decode(),
                self._dataset,
                self._settings.version,
                self._settings.variant,
                first=first == 1,
            )
        except csv.Error:
            found = f"a wrong quote in the header, line {first}"
            self.findings.append(finding(Code.QUOTES, Text("column names without quotes"), found))
            deque(blocks, maxlen=0)
            return
        self.report.columns = tuple(map(printable, header.columns))
        blank = not line.strip()
        findings = [header.finding] if header.finding else []
        if not blank:
            # First: the records may raise `DamagedZip`.
            self.findings += findings
        if not self._inspect_records(text, blocks, header, first + 1):
            self._report_empty(text, Text("blank lines") if blank else Text("a header only"))
        elif blank:
            self.findings += findings

    def _inspect_records(
        self, text: CsvTextReader, blocks: Iterator[bytes], header: CheckedHeader, line: int
    ) -> bool:
        dataset = self._dataset
        if self._settings.budget_bytes == 0:
            return any(block.strip() for block in blocks)
        wrong = header.finding and header.finding.code is Code.WRONG_DELIMITER
        if dataset is None or not dataset.headers or not header.columns or wrong:
            has_records = any(block.strip() for block in blocks)
            deque(blocks, maxlen=0)
            return has_records
        rows = RowChecker(dataset, header.columns, self._settings.version, line)
        rows.read(blocks, lambda: text.whole and text.valid)
        deque(blocks, maxlen=0)
        self.report.rows = rows.count if rows.complete else None
        where = "" if text.whole else f" in the first {format_size(text.read_bytes)}"
        self.findings += rows.findings(where)
        return rows.count > 0 or not rows.complete

    def _report_empty(self, text: CsvTextReader, found: str) -> None:
        if text.whole and text.valid:
            expected = Text("a header and at least one record")
            self.findings.append(finding(Code.NO_RECORDS, expected, found))


def _other_delimiter(line: bytes) -> str | None:
    """Return what separates the columns of a header without a comma; None for one column."""
    if b"," in line:
        return None
    return next((name for mark, name in _DELIMITERS.items() if mark in line), None)
