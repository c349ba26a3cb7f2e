"""What the operator asks of files: `explain`, and `list --skipped`.

Each needs journal and folder, and no daemon; a running one is not disturbed. Functions
return the exit code.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emitterd.cli.output import print_explanation, print_skipped
from emitterd.cli.terminal import (
    DONE,
    USAGE,
    WRONG,
    complain,
    print_array,
    print_object,
)
from emitterd.config.settings import load_part
from emitterd.config.sources import find
from emitterd.intake.file_status import FileStatuses
from emitterd.intake.survey import skipped
from emitterd.journal.reader import JournalReader
from emitterd.model import display
from emitterd.monitoring.explain import OutsideSpool, explain, locate
from emitterd.spool.folder import Spool, ignore_lease_breaks
from emitterd.spool.selection import Selection


def list_skipped(config: Path | None, *, as_json: bool) -> int:
    """List what lies under the folder and will never be sent, and why."""
    with _looking(config) as (standings, _):
        if standings.spool.lost():
            folder = display(os.fsencode(standings.spool.root))
            complain(f"E105 the watched folder {folder} is not there")
            return WRONG
        found = (one.record() for one in skipped(standings))
        (print_array if as_json else print_skipped)(found)
    return DONE


def explain_path(config: Path | None, said: str, *, as_json: bool) -> int:
    """Say why a file is, or is not, delivered; 1 where nothing is known of it."""
    with _looking(config) as (standings, records):
        try:
            path = locate(standings.spool, records, said)
        except OutsideSpool as error:
            complain(str(error))
            return USAGE
        explanation = explain(standings, records, path)
    if as_json:
        print_object(explanation.record())
    else:
        print_explanation(explanation)
    return DONE if explanation.known else WRONG


@contextmanager
def _looking(config: Path | None) -> Iterator[tuple[FileStatuses, JournalReader]]:
    settings = load_part(find(config, os.environ), os.environ, "journal", "spool")
    # A look asks for a lease, and a writer that comes in just then breaks it.
    ignore_lease_breaks()
    rule = settings.spool
    with JournalReader(settings.journal.path, absent=True) as records:
        yield (
            FileStatuses(
                Spool(rule.directory),
                Selection(rule.include, rule.exclude),
                records.latest,
                rule.settle_s,
            ),
            records,
        )
