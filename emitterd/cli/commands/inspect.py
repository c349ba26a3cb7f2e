"""`inspect`: what the server would do with a zip, for the people who create zips."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from emitterd.cli.output import DONE, WRONG, print_array, print_findings, reading_bar
from emitterd.cli.terminal import COLOURS, print_text
from emitterd.codes import Code
from emitterd.config.settings import SpoolSettings, load_part
from emitterd.config.sources import find
from emitterd.datasets.catalogue import Catalogue, near
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.inspection import Inspector, Report, load_inspector
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.errors import ConfigError, FileError
from emitterd.intake.examine import MAX_BYTES
from emitterd.spool.folder import Spool, read_at
from emitterd.text import display
from emitterd.units import format_size

FULL_BYTES = 1 << 60
"""No budget: every row of any CSV is read."""

_BAR_MIN_BYTES = 4 * 1024**2
"""A smaller zip is read in about a second."""

_BY_PLACE = "by its place"
_NO_FOLDER = Path("/nonexistent")
"""The watched folder where no configuration names one."""


def inspect_files(
    files: Sequence[Path], config: Path | None, dataset: str | None, *, full: bool, as_json: bool
) -> int:
    """Inspect files; return 1 where the server would lose a whole file."""
    settings, programs = _settings(config, files)
    if full:
        settings = replace(settings, inspection_budget_bytes=FULL_BYTES)
    inspector = load_inspector(settings, programs=programs)
    titles = [known.title for known in inspector.catalogue.datasets]
    if dataset is not None and dataset not in titles:
        nearest = near(dataset, titles)
        message = f"there is no dataset {display(os.fsencode(dataset))}"
        raise click.BadParameter(f"{message}: did you mean {nearest}?" if nearest else message)
    verdicts = set()

    def records() -> Iterator[dict[str, Any]]:
        for file in files:
            record = _inspect(inspector, settings.directory, file, dataset, bar=full)
            verdicts.add(record["verdict"])
            yield record

    (print_array if as_json else _print_records)(records())
    return WRONG if "error" in verdicts else DONE


def _print_records(records: Iterable[dict[str, Any]]) -> None:
    """Print what the server would do with files, each as soon as it is known."""
    for record in records:
        verdict = record["verdict"]
        print_text(verdict, f"{record['file']}: ", indent=2, colour=COLOURS[verdict])
        if "reason" in record:
            print_text(f"{record['error'] or ''} {record['reason']}".lstrip(), indent=2)
            if record["hint"]:
                print_text(record["hint"], indent=4)
            continue
        dataset = record["dataset"] or "no dataset"
        print_text(f"{dataset}, {record['note']}; {_extent(record)}", indent=2)
        print_findings(record["findings"])


def _extent(record: dict[str, Any]) -> str:
    columns, rows = f"{len(record['columns'])} columns", record["rows"]
    if not record["read_bytes"]:
        return "the CSV was not read"
    if rows is not None:
        return f"{columns}, {rows} rows"
    if record["whole"]:
        return columns
    read = format_size(record["read_bytes"])
    return f"{columns}, rows of the first {read} (--full for all)"


def _settings(config: Path | None, files: Sequence[Path]) -> tuple[SpoolSettings, bool]:
    """Return the settings, and whether the server is cQube 5.

    Without a configuration the names of the files tell.
    """
    try:
        source = find(config, os.environ)
    except ConfigError:
        if config is not None or "EMITTERD_CONFIG" in os.environ:
            raise
        return SpoolSettings(directory=_NO_FOLDER), _are_programs(files)
    if config is None and not os.access(source, os.R_OK):
        # People who only make files may not read the configuration of the service.
        return SpoolSettings(directory=_NO_FOLDER), _are_programs(files)
    settings = load_part(source, os.environ, "spool", "emission.protocol")
    return settings.spool, settings.emission.takes_programs


def _are_programs(files: Sequence[Path]) -> bool:
    catalogue = load_catalogue(programs=True)
    return all(catalogue.guess(file.name) for file in files)


def _inspect(
    inspector: Inspector, spool: Path, file: Path, title: str | None, *, bar: bool
) -> dict[str, Any]:
    """Return what the server would do with a file, as `inspect --json` prints it.

    `verdict` is the highest severity: ok, warning or error. `note` explains how the dataset was
    determined. `bar`: show the progress on a terminal.
    """
    path, note = _server_path(inspector.catalogue, spool, file, title)
    record: dict[str, Any] = {"file": display(os.fsencode(file)), "verdict": "error"}
    record |= {"dataset": None, "note": note}
    if not os.path.lexists(file):
        return record | {"error": None, "reason": "there is no such file", "hint": None}
    try:
        report = _report(inspector, path, file, follow=note != _BY_PLACE, bar=bar)
    except (FileError, OSError) as error:
        code = error.code if isinstance(error, FileError) else Code.UNREADABLE
        return record | {"error": code, "reason": str(error), "hint": code.remedy}
    dataset = inspector.dataset(path)
    return record | {
        "verdict": report.verdict,
        "dataset": dataset.title if dataset else None,
        "csv": report.member,
        "columns": list(report.columns),
        "rows": report.rows,
        "whole": report.whole,
        "read_bytes": report.read_bytes,
        "findings": [finding.record() for finding in report.findings],
    }


def _report(inspector: Inspector, path: bytes, file: Path, *, follow: bool, bar: bool) -> Report:
    if file.is_symlink() and not follow:
        reason = "a symbolic link, which the daemon does not follow"
        raise FileError(reason, code=Code.NOT_REGULAR)
    real = Path(os.path.realpath(file))
    with Spool(real.parent).open(os.fsencode(real.name)) as opened:
        size_bytes = os.fstat(opened.fileno()).st_size
        if size_bytes > MAX_BYTES:
            raise FileError(f"it has {size_bytes} bytes", code=Code.TOO_LARGE)
        read = read_at(opened, size_bytes)
        flaw = zip_flaw(read, size_bytes)
        if flaw is not None:
            raise FileError(flaw, code=Code.INCOMPLETE)
        if bar and size_bytes >= _BAR_MIN_BYTES and sys.stderr.isatty():
            with reading_bar(os.fsdecode(path), size_bytes) as advance_to:

                def read_shown(offset: int, count: int) -> bytes:
                    advance_to(offset)
                    return read(offset, count)

                return inspector.report(path, read_shown, size_bytes)
        return inspector.report(path, read, size_bytes)


def _server_path(
    catalogue: Catalogue, spool: Path, file: Path, title: str | None
) -> tuple[bytes, str]:
    absolute = Path(os.path.abspath(file))  # noqa: PTH100  follows no link
    base = os.fsencode(absolute.name)
    if title is not None:
        return catalogue.place(base, title), "as --dataset says"
    if absolute.is_relative_to(spool):
        return os.fsencode(absolute.relative_to(spool)), _BY_PLACE
    in_folder = os.fsencode(absolute.parent.name) + b"/" + base
    guesses = catalogue.guess(absolute.name)
    meant = catalogue.is_meant(absolute.parent.name, absolute.name)
    if meant or catalogue.dataset(in_folder) is not None or not guesses:
        return in_folder, "by its folder"
    folder = guesses[0].folder
    return os.fsencode(folder) + b"/" + base, f"by its name, for the folder {folder}"
