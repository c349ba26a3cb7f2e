"""`mark-delivered`: treat files of the folder as delivered, without sending them.

For a migration or a lost journal. This process reads the files, and the journal changes as by the
other operator commands.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from emitterd.cli.commands.operate import apply, caller_name, report_outcome
from emitterd.cli.output import load_as_owner, open_sources_of
from emitterd.config.settings import Config
from emitterd.datasets.inspection import load_inspector
from emitterd.intake.file_status import FolderState, survey
from emitterd.intake.marking import read_marked
from emitterd.journal.operations import (
    MarkedFile,
    Operation,
    OperationReport,
    OperationRequest,
    OperationResult,
)
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.explain import OutsideSpool, locate
from emitterd.spool.folder import Spool
from emitterd.spool.selection import path_matcher
from emitterd.text import local_time

BATCH_FILES, BATCH_BYTES = 500, 1 << 30
"""Files in one request: what was read is soon recorded."""

_PATTERN = re.compile(rb"[*?\[]")

Wanted = Callable[[bytes, float], bool]
"""Tells by path and modification time, in seconds since the epoch, whether a file is meant."""


def mark_delivered(
    config: Path | None, names: Sequence[str], *, every: bool, before: float | None
) -> int:
    """Mark all files, or files by path, folder or pattern; 1 if one was refused.

    `before`: only files that were last modified before this instant.
    """
    caller = caller_name()
    settings = load_as_owner(config, "journal", "spool", "emission")
    spool = Spool(settings.spool.directory)
    try:
        with JournalReader(settings.journal.location, absent=True) as reader:
            paths = {locate(spool, reader, name): name for name in names}
    except OutsideSpool as error:
        raise click.UsageError(f"{error}; --all means the whole folder") from error
    selected, meant = _Selected(paths, spool.root), False

    def wanted(path: bytes, modified_at: float) -> bool:
        nonlocal meant
        chosen = (before is None or modified_at < before) and (every or selected.match(path))
        meant = meant or chosen
        return chosen

    report = mark(settings, wanted, caller, exact=set(paths))
    trouble = report.trouble
    if before is not None and not meant:
        # Perhaps the year is wrong, and the files would be sent once more.
        trouble = trouble or f"no file was last modified before {local_time(before)}"
    missing = [OperationResult(path, None, None, "no such file") for path in selected.unmatched()]
    report = OperationReport(report.done, (*report.results, *missing), trouble)
    return report_outcome(Operation.MARK, report)


class _Selected:
    """The files that PATH arguments mean: a file, everything in a folder, or a pattern.

    Patterns are those of `emitterd list`.
    """

    def __init__(self, names: Mapping[bytes, str], root: Path) -> None:
        """`names`: the arguments as they were given, by the path in the folder `root`."""
        self._paths = [*names]
        self._patterns = {
            path: path_matcher([name], root)
            for path, name in names.items()
            if _PATTERN.search(path)
        }
        self._matched: set[bytes] = set()

    def match(self, path: bytes) -> bool:
        """Tell whether an argument means the file."""
        for selected in self._paths:
            pattern = self._patterns.get(selected)
            if path == selected or path.startswith(selected + b"/"):
                pass
            elif pattern is None or not pattern(path):
                continue
            self._matched.add(selected)
            return True
        return False

    def unmatched(self) -> list[bytes]:
        """Return the arguments that meant no file."""
        return [path for path in self._paths if path not in self._matched]


def mark(
    settings: Config, wanted: Wanted, caller: str, exact: Collection[bytes] = frozenset()
) -> OperationReport:
    """Mark the complete files that are wanted and not delivered yet, in the name of `caller`.

    A file of `exact` that is delivered already, or that emitterd ignores, is a refusal.
    """
    done, results = 0, list[OperationResult]()
    for batch in _batches(_read_all(settings, wanted, exact), results):
        report = apply(
            settings.journal.location,
            OperationRequest(
                Operation.MARK, caller=caller, files=batch, server=settings.emission.url
            ),
        )
        done += report.done
        results += report.results
        if report.trouble:
            return OperationReport(done, tuple(results), report.trouble)
    return OperationReport(done, tuple(results))


def _batches(
    items: Iterable[MarkedFile | OperationResult], refused: list[OperationResult]
) -> Iterator[tuple[MarkedFile, ...]]:
    batch, size_bytes = list[MarkedFile](), 0
    for item in items:
        if isinstance(item, OperationResult):
            refused.append(item)
            continue
        batch.append(item)
        size_bytes += item.fingerprint.size_bytes
        if len(batch) >= BATCH_FILES or size_bytes >= BATCH_BYTES:
            yield tuple(batch)
            batch, size_bytes = [], 0
    if batch:
        yield tuple(batch)


def _read_all(
    settings: Config, wanted: Wanted, exact: Collection[bytes]
) -> Iterator[MarkedFile | OperationResult]:
    inspector = load_inspector(settings.spool, programs=settings.emission.takes_programs)
    with open_sources_of(settings) as (status_reader, _):
        for status in survey(status_reader, lambda path, stat: wanted(path, stat.st_mtime)):
            ended = status.state in {FolderState.IGNORED, State.DELIVERED}
            if not ended or status.path in exact:
                yield read_marked(status_reader.spool, inspector, status)
