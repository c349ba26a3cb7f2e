"""What all commands share: exit codes, errors, JSON, and progress bars.

Only this module uses rich. It imports rich only where a command needs it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

import click

from emitterd.cli.terminal import COLOURS, is_coloured, print_text, shorten, width, wrapped
from emitterd.errors import (
    ConfigError,
    HostFenced,
    IllegalTransition,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalLocked,
    JournalMoved,
    JournalUnreachable,
    KeyTaken,
)
from emitterd.journal.operations import Operation, OperationReport, OperationResult
from emitterd.model import Entry, State
from emitterd.permissions import as_root, current_user
from emitterd.text import display, files_are, printable, shown
from emitterd.units import format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from emitterd.config.settings import Config
    from emitterd.intake.file_status import FileStatus, FileStatusReader
    from emitterd.journal.reader import JournalReader


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one check: `level` is ok, warning or error."""

    level: str
    subject: str
    message: str
    remedy: str = ""


DONE, WRONG, INTERNAL, LOCKED, CONFIGURATION = 0, 1, 70, 75, 78
"""The exit codes; wrong usage is click's 2."""

_EXIT_CODES = {
    JournalLocked: LOCKED,
    IllegalTransition: INTERNAL,
    # These may pass: systemd must restart, which 78 prevents.
    JournalFull: WRONG,
    JournalBusy: WRONG,
    JournalUnreachable: WRONG,
    HostFenced: WRONG,
    KeyTaken: WRONG,
    JournalIOError: WRONG,
    JournalMoved: WRONG,
}
"""Every other error of the journal is one of the configuration."""


def escape(text: str) -> str:
    """Escape characters that rich or the terminal would interpret as commands.

    File names come from outside.
    """
    from rich.markup import escape as escape_markup

    return escape_markup(printable(text))


def console(*, error: bool = False) -> "Console":
    """Return a console; it wraps no lines where its output goes to a file."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    colours: Literal["standard"] | None = "standard" if is_coloured(stream) else None
    return Console(
        stderr=error, highlight=False, soft_wrap=not stream.isatty(), color_system=colours
    )


def print_problems(error: ConfigError) -> None:
    """Print the problems of the configuration, each with its remedy."""
    out = console(error=True)
    out.print(f"[bold red]{escape(str(error))}[/]")
    for problem in error.problems:
        where = f"line {problem.line}: " if problem.line else ""
        out.print(f"  {escape(where)}[bold]{escape(problem.key)}[/]: ", end="")
        out.print(escape(problem.message))
        out.print(f"    {escape(problem.remedy)}")


def print_diagnoses(diagnoses: Iterable["Diagnosis"]) -> None:
    """Print the results of checks, each as soon as it is known."""
    for diagnosis in diagnoses:
        label = f"{diagnosis.level:7}  {diagnosis.subject:22}  "
        colour = COLOURS[diagnosis.level]
        print_text(diagnosis.message, label, indent=len(label), colour=colour)
        if diagnosis.remedy:
            print_text(diagnosis.remedy, indent=len(label))


def print_findings(findings: Iterable[Mapping[str, Any]]) -> None:
    """Print what the server would do with a file, finding by finding."""
    for finding in findings:
        label = f"  {finding['code']} {finding['level']}: "
        message = f"expected {finding['expected']}; found {finding['found']}"
        print_text(message, label, indent=4, colour=COLOURS.get(finding["level"]))
        print_text(finding["consequence"], indent=4)
        print_text(finding["remedy"], indent=4)


CHANGES = 20
"""Changes of one command that are printed."""


def print_outcome(operation: str, report: OperationReport) -> None:
    """Print the results of an operator command: each refusal, and the first changes."""
    out, changes = console(), 0
    for result in report.results:
        path = escape(display(result.path))
        if result.refusal:
            out.print(f"[red]not done[/] {path}: {escape(result.refusal)}")
            continue
        changes += 1
        if changes <= CHANGES:
            now = _now(operation, result)
            out.print(f"{operation} {path}: was {result.before or 'new'}, {now}")
    if report.done > CHANGES:
        out.print(f"and {report.done - CHANGES} more")
    if len(report.results) != 1:
        files = "1 file" if report.done == 1 else f"{report.done} files"
        out.print(f"{operation}: {files}")


def _now(operation: str, result: OperationResult) -> str:
    if operation == Operation.FORGET:
        return "is marked for re-upload if the file is in the folder"
    if operation == Operation.MARK:
        return "is marked as delivered, and is not sent"
    if operation == Operation.RETRY and result.after is State.WITHDRAWN:
        return "is examined again if the file is in the folder"
    return f"is {result.after}"


def print_undelivered(left: list["FileStatus"]) -> None:
    """Print on standard error what `once` could not deliver, or what the server will drop."""
    out = console(error=True)
    dropped = [status for status in left if status.state is State.DELIVERED]
    for problem, files in (
        ("not delivered", [status for status in left if status not in dropped]),
        ("delivered, but the server will drop what it got", dropped),
    ):
        if files:
            out.print(f"[bold red]{files_are(len(files))} {problem}[/]")
        for status in files:
            record = status.record()
            why = f"{record.get('error', '')} {record['reason']}".lstrip()
            lines = _fitting(f"  {record['path']}: {why}")
            if status.hint:
                lines += _fitting(f"    {status.hint}")
            for line in lines:
                out.print(escape(line), soft_wrap=True)


def _fitting(text: str) -> list[str]:
    """Return a text in lines of the terminal, if standard error is one."""
    return wrapped(text, width(), 4) if sys.stderr.isatty() else [text]


def _progress(*, auto_refresh: bool = True) -> "Progress":
    from rich import progress
    from rich.text import Text

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{format_size(speed)}/s" if speed else "")

    return progress.Progress(
        "{task.description}",
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        Speed(),
        console=console(error=True),
        transient=True,
        auto_refresh=auto_refresh,
        # Results are printed when the bars are gone, and log lines above them.
        redirect_stdout=False,
        redirect_stderr=False,
    )


@contextmanager
def reading_bar(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how much of a file is read; yields a function that takes the position in bytes."""
    with _progress() as bars:
        task = bars.add_task(escape(name), total=size_bytes)
        yield lambda position: bars.update(task, completed=position)


REFRESH_S = 0.1
"""The bars are drawn again after this time."""


class Bars:
    """Progress bars of `once` on a terminal; an observer of the workers."""

    def __init__(self) -> None:
        # rich counts the lines to erase before it writes: two threads at a time would leave some.
        self._lock = threading.Lock()
        self._progress = _progress(auto_refresh=False)
        self._refreshed_at = 0.0
        # By thread: an entry may be claimed again before its former attempt has ended here.
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Print text, which may be coloured, above the bars."""
        from rich.text import Text

        with self._lock:
            self._progress.console.print(Text.from_ansi(text), soft_wrap=True)

    def began(self, entry: Entry) -> None:
        """Show a bar for the upload."""
        name, size_bytes = (
            shorten(entry.name, width() // 2, middle=True),
            entry.fingerprint.size_bytes,
        )
        with self._lock:
            task = self._progress.add_task(escape(name), total=size_bytes)
            self._tasks[threading.get_ident()] = task

    def sent(self, size_bytes: int) -> None:
        """Advance the bar."""
        with self._lock:
            self._progress.advance(self._tasks[threading.get_ident()], size_bytes)
            now = time.monotonic()
            if now - self._refreshed_at >= REFRESH_S:
                self._refreshed_at = now
                self._progress.refresh()

    def ended(self) -> None:
        """Remove the bar."""
        with self._lock:
            self._progress.remove_task(self._tasks.pop(threading.get_ident()))
            self._progress.refresh()


def report_errors(work: Callable[[], int]) -> int:
    """Run a command and return its exit code; known errors become messages.

    Raises `OSError` if standard output cannot take all of it.
    """
    if sys.stdout is None:
        # The shell started it with `>&-`.
        raise click.ClickException("standard output is closed")
    code = DONE
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted: `emitterd list | head -1`.
        _discard(sys.stdout)
    except ConfigError as error:
        with _standard_error():
            print_problems(error)
        code = CONFIGURATION
    except JournalError as error:
        complain(f"{error.code} {error}", f"  {error.remedy}")
        code = _EXIT_CODES.get(type(error), CONFIGURATION)
    return code


def stopped_by(error: OSError) -> int:
    """Report the system error that stopped a command; return the exit code.

    Discards what standard output cannot take: Python would try again to write it when it exits, and
    end with 120.
    """
    reason = error.strerror or error
    problem = f"cannot go on: {reason}"
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
        problem = f"cannot write to standard output: {reason}"
    complain(problem)
    return WRONG


def _discard(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextmanager
def _standard_error() -> Iterator[None]:
    """Ignore errors of standard error: there is still the exit code."""
    try:
        yield
    except OSError:
        _discard(sys.stderr)


def load_as_owner(config: Path | None, *sections: str) -> "Config":
    """Read sections of the configuration; root then acts as the owner of the journal's folder.

    Raises `ConfigError` and `JournalError`.
    """
    from emitterd.config.settings import load_part
    from emitterd.config.sources import find
    from emitterd.journal.opening import act_as_owner

    settings = load_part(find(config, os.environ), os.environ, *sections)
    act_as_owner(settings.journal.location.path)
    folder = settings.journal.location.path.parent
    try:
        absent = not folder.exists()
    except PermissionError:
        absent = False
    if not (absent or os.access(folder, os.R_OK | os.X_OK)):
        message = f"the user {current_user()} may not read the journal in {shown(folder)}"
        raise JournalError(message, remedy=as_root())
    return settings


@contextmanager
def open_sources(config: Path | None) -> Iterator[tuple["FileStatusReader", "JournalReader"]]:
    """Open the watched folder and the journal, as `load_as_owner` does."""
    with open_sources_of(load_as_owner(config, "journal", "spool", "emission.protocol")) as sources:
        yield sources


@contextmanager
def open_sources_of(settings: "Config") -> Iterator[tuple["FileStatusReader", "JournalReader"]]:
    """Open the watched folder and the journal; the configuration is read already."""
    from emitterd.datasets.catalogue_file import load_catalogue
    from emitterd.intake.file_status import FileStatusReader
    from emitterd.journal.reader import JournalReader
    from emitterd.spool.folder import Spool, ignore_lease_breaks
    from emitterd.spool.selection import Selection

    # The look at a file takes a lease, which a writer that opens it breaks by a signal.
    ignore_lease_breaks()
    rule = settings.spool
    spool, selection = Spool(rule.directory), Selection(rule.include, rule.exclude)
    spool.trusts_leases = rule.completion == "auto"
    programs = settings.emission.takes_programs
    catalogue = cache(partial(load_catalogue, rule.catalogue_file, programs=programs))
    with JournalReader(settings.journal.location, absent=True) as reader:
        yield (FileStatusReader(spool, selection, reader.latest, rule.settle_s, catalogue), reader)


def say(*lines: str) -> None:
    """Print lines on standard output."""
    print(*lines, sep="\n")


def complain(*lines: str) -> None:
    """Print lines about a problem on standard error."""
    with _standard_error():
        print(*lines, sep="\n", file=sys.stderr)


def print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, row by row: a million rows need no memory."""
    from emitterd.monitoring.export import json_lines

    sys.stdout.writelines(json_lines(rows))


def print_object(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2))
