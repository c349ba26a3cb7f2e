"""`inspect`: what the server would do with a zip, for the people who make them."""

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
"""No budget: every row of any CSV is read."""

_BY_PLACE = "by its place"
_NO_FOLDER = Path("/nonexistent")
"""The watched folder where no configuration names one."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """One file, and what the server would do with it.

    `note` tells how its dataset was found. Without a report it could not be inspected;
    `error` and `reason` tell why.
    """

    file: str
    note: str
    dataset: str | None = None
    report: Report | None = None
    error: Code | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """The worst that was found: ok, warning or error."""
        if self.report is None or fatal(self.report.findings):
            return "error"
        levels = {finding.level.value for finding in self.report.findings}
        return "warning" if "warning" in levels else "ok"

    def record(self) -> dict[str, Any]:
        """Return it as `inspect --json` prints it."""
        record: dict[str, Any] = {"file": self.file, "verdict": self.verdict}
        record |= {"dataset": self.dataset, "note": self.note}
        if self.report is None:
            hint = self.error.remedy if self.error is not None else None
            return record | {"error": self.error, "reason": self.reason, "hint": hint}
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
    """Inspect files; return 1 where the server would lose a whole file."""
    settings = _settings(config)
    if full:
        settings = replace(settings, inspection_budget_bytes=FULL_BYTES)
    inspector = load_inspector(settings)
    titles = [known.title for known in inspector.catalogue.datasets]
    if dataset is not None and dataset not in titles:
        nearest = near(dataset, titles)
        message = f"there is no dataset {display(os.fsencode(dataset))}"
        complain(f"{message}: did you mean {nearest}?" if nearest else message)
        return USAGE
    verdicts = set()

    def records() -> Iterator[dict[str, Any]]:
        for file in files:
            inspected = _inspect(inspector, settings.directory, file, dataset)
            verdicts.add(inspected.verdict)
            yield inspected.record()

    (print_array if as_json else print_inspections)(records())
    return WRONG if "error" in verdicts else DONE


def _settings(config: Path | None) -> SpoolSettings:
    """Return the configured settings, or defaults where this user has none to read."""
    try:
        source = find(config, os.environ)
    except ConfigError:
        if config is not None or "EMITTERD_CONFIG" in os.environ:
            raise
        return SpoolSettings(directory=_NO_FOLDER)
    if config is None and not os.access(source, os.R_OK):
        # People who only make files may not read the configuration of the service.
        return SpoolSettings(directory=_NO_FOLDER)
    return load_part(source, os.environ, "spool").spool


def _inspect(
    inspector: Inspector, spool: Path, file: Path, title: str | None
) -> Inspected:
    path, note = _server_path(inspector.catalogue, spool, file, title)
    result = Inspected(display(os.fsencode(file)), note)
    if not os.path.lexists(file):
        return replace(result, reason="there is no such file")
    if file.is_symlink() and note == _BY_PLACE:
        reason = "a symbolic link, which the daemon does not follow"
        return replace(result, error=Code.NOT_REGULAR, reason=reason)
    try:
        report = _report(inspector, path, file)
    except (FileError, OSError) as error:
        code = error.code if isinstance(error, FileError) else Code.UNREADABLE
        return replace(result, error=code, reason=str(error))
    dataset = inspector.dataset(path)
    return replace(result, dataset=dataset.title if dataset else None, report=report)


def _report(inspector: Inspector, path: bytes, file: Path) -> Report:
    real = Path(os.path.realpath(file))
    with Spool(real.parent).open(os.fsencode(real.name)) as opened:
        size_bytes = os.fstat(opened.fileno()).st_size
        if size_bytes > MAX_BYTES:
            raise FileError(f"it has {size_bytes} bytes", code=Code.TOO_LARGE)
        read = read_at(opened, size_bytes)
        flaw = zip_flaw(read, size_bytes)
        if flaw is not None:
            raise FileError(flaw, code=Code.INCOMPLETE)
        return inspector.report(path, read, size_bytes)


def _server_path(
    catalogue: Catalogue, spool: Path, file: Path, title: str | None
) -> tuple[bytes, str]:
    """Return the path that the server is to see, and how it was found."""
    absolute = Path(os.path.abspath(file))  # noqa: PTH100  follows no link
    base = os.fsencode(absolute.name)
    if title is not None:
        folder, _, name = title.partition("/")
        # --dataset gives the folder and how the name begins; the ending is the file's.
        wanted = base if absolute.name.startswith(name) else os.fsencode(f"{name}.zip")
        return os.fsencode(folder) + b"/" + wanted, "as --dataset says"
    if absolute.is_relative_to(spool):
        return os.fsencode(absolute.relative_to(spool)), _BY_PLACE
    in_folder = os.fsencode(absolute.parent.name) + b"/" + base
    guesses = catalogue.guess(absolute.name)
    if catalogue.dataset(in_folder) is not None or not guesses:
        return in_folder, "by its folder"
    folder = guesses[0].folder
    return os.fsencode(folder) + b"/" + base, f"by its name, for the folder {folder}"
