"""The commands that change entries: through the daemon, or without one."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from emitterd.cli.output import (
    DONE,
    WRONG,
    Diagnosis,
    complain,
    load_as_owner,
    print_diagnoses,
    print_outcome,
    say,
)
from emitterd.errors import JournalError, JournalLocked
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.journal.opening import rebuild as rebuild_journal
from emitterd.journal.operations import Operation, OperationReport, OperationRequest, Operations
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import RebuildReport
from emitterd.model import State
from emitterd.monitoring.explain import OutsideSpool, locate
from emitterd.permissions import as_root
from emitterd.service.control_socket import ask, send_request, user_name
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool


def operate(
    config: Path | None, operation: Operation, names: Sequence[str], state: State | None
) -> int:
    """Apply an operation to paths, or to all in a state; 1 if one was refused."""
    caller = caller_name()
    settings = load_as_owner(config, "journal", "spool")
    journal = settings.journal.location
    try:
        paths = _paths(journal, Spool(settings.spool.directory), names)
    except OutsideSpool as error:
        raise click.UsageError(str(error)) from error
    return report_outcome(
        operation, apply(journal, OperationRequest(operation, paths, state, caller))
    )


def caller_name() -> str:
    """Return who runs this; ask before root becomes the owner of the journal."""
    return user_name(os.getuid(), os.environ.get("SUDO_USER", ""))


def apply(journal: JournalLocation, request: OperationRequest) -> OperationReport:
    """Apply an operation through the daemon, or without one. Raises `JournalError`."""
    try:
        return send_request(journal.path, request) or _without_daemon(journal, request)
    except OSError as error:
        raise JournalError(
            f"cannot reach the daemon: {error.strerror or error}", remedy=as_root()
        ) from error


def report_outcome(operation: Operation, report: OperationReport) -> int:
    """Print what an operation did, and return the exit code."""
    print_outcome(operation, report)
    if report.trouble:
        complain(report.trouble)
    refused = any(result.refusal for result in report.results)
    return WRONG if refused or report.trouble else DONE


def notify_test(config: Path | None) -> int:
    """Send a test alert by every channel; 1 if one fails.

    The daemon sends it, if one runs: it has the secrets of its unit, and the unit's limits.
    """
    # Not the whole configuration: only the daemon may have its secrets.
    records = ask(load_as_owner(config, "journal").journal.location.path, "notify-test")
    if records is None:
        from emitterd.config.settings import load
        from emitterd.config.sources import find
        from emitterd.service.alerting import try_channels

        settings = load(find(config, os.environ), os.environ, awaits_folder=True)
        results = try_channels(settings, Shutdown())
    else:
        results = ((record["name"], record["reason"]) for record in records)
    failures = []
    for name, reason in results:
        failures.append(bool(reason))
        level = "error" if reason else "ok"
        print_diagnoses([Diagnosis(level, name, reason or "took the test alert")])
    if not failures:
        complain("no channel is configured", "  set alerts.notify_file, command or heartbeat_url")
    return WRONG if not failures or any(failures) else DONE


def rebuild(config: Path | None) -> int:
    """Rebuild a damaged or lost journal; 1 if something is permanently lost."""
    journal = load_as_owner(config, "journal").journal.path
    report = rebuild_journal(journal)
    if report is None:
        say(f"{journal} is not damaged: there is nothing to rebuild")
        return DONE
    say(*_rebuild_lines(journal, report))
    return DONE if report.salvaged.whole else WRONG


def _rebuild_lines(journal: Path, report: RebuildReport) -> Iterator[str]:
    if report.backup is None:
        yield f"there was no journal: {journal} is new"
    else:
        yield f"the damaged journal is kept: {report.backup}"
    of = "" if report.salvaged.of is None else f" of {report.salvaged.of}"
    yield f"{report.salvaged.entries}{of} entries were saved"
    if report.salvaged.whole:
        yield "nothing is lost: start emitterd again"
        return
    yield (
        "the other files in the folder may or may not have been delivered:"
        " emitterd will hold them, and send the files that you add from now on"
    )
    yield "start emitterd, and list them with `emitterd list --state held`"
    yield "`emitterd release PATH` sends one, `emitterd release --all --state held` all"


def _paths(journal: JournalLocation, spool: Spool, names: Sequence[str]) -> tuple[bytes, ...]:
    with JournalReader(journal) as reader:
        return tuple(locate(spool, reader, name) for name in names)


def _without_daemon(journal: JournalLocation, request: OperationRequest) -> OperationReport:
    try:
        with open_journal(journal, is_command=True) as opened:
            operations = Operations(opened.store, Shutdown())
            return operations.apply(request, request.caller, lambda _: None)
    except JournalLocked as error:
        raise JournalLocked(
            f"{error}, which takes no instructions: it is stopping, or is a `once`"
        ) from error
