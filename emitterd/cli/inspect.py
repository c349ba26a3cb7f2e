"""`inspect`: for the person who makes the files, on any zip, wherever it lies."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emitterd.cli.output import (
    DONE,
    USAGE,
    WRONG,
    complain,
    print_array,
    print_inspections,
)
from emitterd.codes import Code
from emitterd.config.settings import SpoolSettings, load_part
from emitterd.config.sources import find
from emitterd.datasets.catalogue import Catalogue, near
from emitterd.datasets.findings import fatal
from emitterd.datasets.inspection import Inspector, Report, load_inspector
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.errors import ConfigError, FileError
from emitterd.intake.examine import MAX_BYTES
from emitterd.spool.folder import Spool, read_at
from emitterd.text import display

FULL_BYTES = 1 << 60
"""No budget: every row of any CSV."""

BY_PLACE = "by its place"

NOWHERE = Path("/nonexistent")
"""The watched folder where no configuration names one."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """One file, and what the server would do with it.

    `note` says how its dataset was told; with `error` it is no zip to look into.
    """

    file: str
    dataset: str | None
    note: str
    report: Report | None
    error: Code | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """In a word: ok, warning or error, the worst that was found."""
        if self.report is None or fatal(self.report.findings):
            return "error"
        levels = {finding.level.value for finding in self.report.findings}
        return "warning" if "warning" in levels else "ok"

    def record(self) -> dict[str, Any]:
        """Return it as `inspect --json` prints it."""
        record: dict[str, Any] = {"file": self.file, "verdict": self.verdict}
        record |= {"dataset": self.dataset, "note": self.note}
        if self.report is None:
            record |= {"error": self.error, "reason": self.reason}
            return record | {"hint": self.error and self.error.remedy}
        return record | {
            "csv": self.report.member,
            "columns": list(self.report.columns),
            "rows": self.report.rows,
            "whole": self.report.whole,
            "read_bytes": self.report.read_bytes,
            "findings": [finding.record() for finding in self.report.findings],
        }


def inspect_files(
    files: Sequence[Path],
    config: Path | None,
    dataset: str | None,
    *,
    full: bool,
    as_json: bool,
) -> int:
    """Inspect files; 1 where the server would lose one of them whole."""
    rule = _rule(config)
    if full:
        rule = replace(rule, inspection_budget_bytes=FULL_BYTES)
    inspector = load_inspector(rule)
    if dataset is not None and dataset not in _titles(inspector):
        meant = near(dataset, _titles(inspector))
        said = f"there is no dataset {display(os.fsencode(dataset))}"
        complain(f"{said}: did you mean {meant}?" if meant else said)
        return USAGE
    verdicts = set()

    def records() -> Iterator[dict[str, Any]]:
        for file in files:
            inspected = _inspect(inspector, rule.directory, file, dataset)
            verdicts.add(inspected.verdict)
            yield inspected.record()

    (print_array if as_json else print_inspections)(records())
    return WRONG if "error" in verdicts else DONE


def _rule(config: Path | None) -> SpoolSettings:
    """Return what the configuration says, where there is one for this user to read."""
    try:
        source = find(config, os.environ)
    except ConfigError:
        if config is not None or "EMITTERD_CONFIG" in os.environ:
            raise
        return _unconfigured()
    if config is None and not os.access(source, os.R_OK):
        # The service's own is not for those who only make files.
        return _unconfigured()
    return load_part(source, os.environ, "spool").spool


def _unconfigured() -> SpoolSettings:
    return SpoolSettings(directory=NOWHERE)


def _inspect(
    inspector: Inspector, spool: Path, file: Path, title: str | None
) -> Inspected:
    name = display(os.fsencode(file))
    path, note = _meant(inspector.catalogue, spool, file, title)
    real = Path(os.path.realpath(file))
    if not os.path.lexists(file):
        return Inspected(name, None, note, None, None, "there is no such file")
    if file.is_symlink() and note == BY_PLACE:
        reason = "a symbolic link, which the daemon does not follow"
        return Inspected(name, None, note, None, Code.NOT_REGULAR, reason)
    try:
        with Spool(real.parent).open(os.fsencode(real.name)) as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes > MAX_BYTES:
                reason = f"it has {size_bytes} bytes"
                return Inspected(name, None, note, None, Code.TOO_LARGE, reason)
            read = read_at(opened, size_bytes)
            flaw = zip_flaw(read, size_bytes)
            if flaw is not None:
                return Inspected(name, None, note, None, Code.INCOMPLETE, flaw)
            report = inspector.report(path, read, size_bytes)
    except (FileError, OSError) as error:
        code = error.code if isinstance(error, FileError) else Code.UNREADABLE
        return Inspected(name, None, note, None, code, str(error))
    dataset = inspector.dataset(path)
    return Inspected(name, dataset.title if dataset else None, note, report)


def _meant(
    catalogue: Catalogue, spool: Path, file: Path, title: str | None
) -> tuple[bytes, str]:
    """Return the path that a file lies at or is meant for, and how that was told."""
    place = Path(os.path.abspath(file))  # noqa: PTH100  follows no link
    base = os.fsencode(place.name)
    if title is not None:
        folder, _, name = title.partition("/")
        # Only the folder and the name that it is to have are given: not its ending.
        meant = base if place.name.startswith(name) else os.fsencode(f"{name}.zip")
        return os.fsencode(folder) + b"/" + meant, "as --dataset says"
    if place.is_relative_to(spool):
        return os.fsencode(place.relative_to(spool)), BY_PLACE
    here = os.fsencode(place.parent.name) + b"/" + base
    if catalogue.dataset(here) is not None:
        return here, "by its folder"
    guesses = catalogue.guess(place.name)
    if not guesses:
        return here, "by its folder"
    folder = guesses[0].folder
    return os.fsencode(folder) + b"/" + base, f"by its name, for the folder {folder}"


def _titles(inspector: Inspector) -> list[str]:
    return [dataset.title for dataset in inspector.catalogue.datasets]
