"""What all commands share: exit codes, errors, JSON, and tables for people.

Only this module uses rich. It imports rich only when a table or a colour needs it.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from emitterd.errors import (
    ConfigError,
    IllegalTransition,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalLocked,
    JournalMoved,
)
from emitterd.journal.operations import Operation, OperationReport, OperationResult
from emitterd.model import Entry, State
from emitterd.text import display, files_are, printable
from emitterd.tracking.texts import word
from emitterd.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from emitterd.config.settings import Config
    from emitterd.intake.file_status import FileStatus
    from emitterd.monitoring.explain import Explanation


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
    JournalIOError: WRONG,
    JournalMoved: WRONG,
}
"""Every other error of the journal is one of the configuration."""

PAGE = 1000
"""A table is printed this many rows at a time: a million rows need no memory."""

RIGHT = frozenset({"size", "attempts"})
"""The heads of the columns that are flush right."""

COLOURS = {
    "ok": "green",
    "warning": "yellow",
    "error": "red",
    "delivered": "green",
    "rejected": "red",
    "incomplete": "red",
    "unreadable": "red",
    "unsuitable": "red",
    "held": "yellow",
    "deferred": "yellow",
    "overdue": "yellow",
}


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
    return Console(stderr=error, highlight=False, soft_wrap=not stream.isatty())


def print_table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> None:
    """Print rows of plain text.

    rich lays tables out for a terminal, which is slow; elsewhere columns are aligned and nothing
    else.
    """
    rest = iter(rows)
    print_page = _print_rich if sys.stdout.isatty() else _print_plain
    print_page(list(islice(rest, PAGE)), heads)
    while page := list(islice(rest, PAGE)):
        print_page(page, heads)


def _print_rich(page: Sequence[Sequence[str]], heads: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(heads))
    for head in heads:
        table.add_column(
            head, justify="right" if head in RIGHT else "left", overflow="fold", header_style="bold"
        )
    for row in page:
        table.add_row(*(_coloured(escape(cell)) for cell in row))
    console().print(table)


def _print_plain(page: Sequence[Sequence[str]], heads: Sequence[str]) -> None:
    lines = [heads, *page] if heads else page
    cells = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = [
            cell.rjust(width) if head in RIGHT else cell.ljust(width)
            for cell, width, head in zip_longest(line, widths, heads)
        ]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


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
    """Print the results of `check`, each as soon as it is known."""
    out = console()
    for diagnosis in diagnoses:
        level = _coloured(diagnosis.level) + " " * (7 - len(diagnosis.level))
        message = escape(diagnosis.message)
        out.print(f"{level}  {escape(diagnosis.subject):22}  {message}")
        if diagnosis.remedy:
            out.print(f"{'':33}{escape(diagnosis.remedy)}")


def print_status(status: Mapping[str, Any]) -> None:
    """Print the record of `status --json` for people."""
    eta_s, restored_at = status["eta_s"], status["journal_restored_at"]
    state = status["destination"]["state"]
    outages = [
        f"{stage['stage']} down since {stage['since']}: {stage['error']} {stage['reason']}"
        for stage in status["destination"].get("stages", [])
    ]
    alarms = status["health"]["alarms"]
    daemon = "running" if status["running"] else "not running"
    if any(alarm["code"] == "daemon_silent" for alarm in alarms):
        daemon += ", but it does not answer"
    print_table(
        [
            *((alarm["level"], f"{alarm['words']}; {alarm['hint']}") for alarm in alarms),
            ("daemon", daemon),
            *(("destination", outage) for outage in outages or [state]),
            *((state, str(count)) for state, count in status["counts"].items()),
            *_not_sent_rows(status["not_sent"]),
            ("waiting", format_size(status["waiting_bytes"])),
            ("oldest waiting", status["oldest_waiting_at"] or "-"),
            ("last delivered", status["last_delivered_at"] or "-"),
            *(
                [("journal", f"an older copy is in use since {restored_at}; see `receipts`")]
                if restored_at
                else []
            ),
            ("done in", "unknown" if eta_s is None else format_duration(eta_s)),
        ]
    )


def print_datasets(records: Sequence[Mapping[str, Any]]) -> None:
    """Print when files of each dataset last came; those that never came in one line."""
    shown = [row for row in records if row["last_arrival_at"] or row["due_at"]]
    columns = ("last_arrival_at", "last_delivered_at", "last_accepted_at", "due_at")
    rows = [
        (
            row["dataset"],
            *(_minute(row[column]) for column in columns),
            "overdue" if row["overdue"] else "",
        )
        for row in shown
    ]
    heads = ("dataset", "last arrival", "last delivery", "last accepted", "next due", "")
    if rows:
        print_table(rows, heads)
    if never := [row["dataset"] for row in records if row not in shown]:
        say(f"never arrived: {', '.join(never)}")


def _minute(instant: str | None) -> str:
    return "-" if instant is None else f"{instant[:16]}Z"


def _not_sent_rows(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if counts:
        by_code = ", ".join(f"{number} {code}" for code, number in sorted(counts.items()))
        total = sum(counts.values())
        yield "not sent", f"{total} ({by_code}): see emitterd list --skipped"


def print_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print versions of files, with the key or the reason of each."""

    def row(entry: Mapping[str, Any]) -> tuple[str, ...]:
        note = entry.get("key", "")
        if "delivered_at" not in entry and "reason" in entry:
            note = f"{entry.get('error', '')} {entry['reason']}".lstrip()
        if "forgotten_at" in entry:
            note = f"{note} (forgotten)".lstrip()
        size, attempts = format_size(entry["bytes"]), str(entry["attempts"])
        return entry["state"], size, attempts, entry["path"], note

    heads = ("state", "size", "attempts", "path", "key or reason")
    print_table(map(row, entries), heads)


def print_receipts(receipts: Iterable[Mapping[str, Any]]) -> None:
    """Print the proof of delivery."""
    rows = (
        (
            row["path"],
            format_size(row["bytes"]),
            row.get("etag", "-"),
            row.get("key") or row["reason"],
            word(row.get("server_side")) or "-",
        )
        for row in receipts
    )
    print_table(rows, ("path", "size", "etag (MD5)", "key", "at the server"))


def print_skipped(files: Iterable[Mapping[str, Any]]) -> None:
    """Print the files that will never be sent, and why."""

    def row(file: Mapping[str, Any]) -> tuple[str, ...]:
        reason = "; ".join(filter(None, (file["reason"], file.get("hint"))))
        return file["path"], file.get("error", "-"), reason

    print_table(map(row, files), ("path", "error", "reason"))


def print_inspections(records: Iterable[Mapping[str, Any]]) -> None:
    """Print what the server would do with files, each as soon as it is known."""
    out = console()
    for record in records:
        out.print(f"[bold]{escape(record['file'])}[/]: {_coloured(record['verdict'])}")
        if "reason" in record:
            out.print(f"  {record['error'] or ''} {escape(record['reason'])}".rstrip())
            if record["hint"]:
                out.print(f"    {escape(record['hint'])}")
            continue
        dataset, note = record["dataset"] or "no dataset", escape(record["note"])
        out.print(f"  {escape(dataset)}, {note}; {_extent(record)}")
        _print_findings(record["findings"])


def _extent(record: Mapping[str, Any]) -> str:
    columns, rows = f"{len(record['columns'])} columns", record["rows"]
    if not record["read_bytes"]:
        return "the CSV was not read"
    if rows is not None:
        return f"{columns}, {rows} rows"
    if record["whole"]:
        return columns
    read = format_size(record["read_bytes"])
    return f"{columns}, rows of the first {read} (--full for all)"


def _print_findings(findings: Iterable[Mapping[str, Any]]) -> None:
    out = console()
    for finding in findings:
        out.print(
            f"  {finding['code']} {_coloured(finding['level'])}: expected"
            f" {escape(finding['expected'])}; found {escape(finding['found'])}"
        )
        out.print(f"    {escape(finding['consequence'])}")
        out.print(f"    {escape(finding['remedy'])}")


def print_explanation(explanation: "Explanation") -> None:
    """Print the status of a path, and its history."""
    out = console()
    out.print(f"[bold]{escape(explanation.path)}[/]: {_coloured(explanation.state)}")
    for line in (explanation.reason, *explanation.context):
        out.print(f"  {escape(line)}")
    findings = explanation.current.get("findings", [])
    _print_findings(findings)
    if explanation.hint and not findings:
        out.print(f"  what to do: {escape(explanation.hint)}")
    if explanation.error:
        out.print(f"  more: emitterd explain-error {explanation.error}")
    if explanation.actions or explanation.before:
        out.print("  before:")
    for action in explanation.actions:
        out.print(f"    {action['at']} {action['act']} by {escape(action['user'])}")
    for version in explanation.before:
        at = version.get("delivered_at", version["admitted_at"])
        state = version["state"]
        key = version.get("key") if state == "delivered" else ""
        forgotten = " (forgotten)" if "forgotten_at" in version else ""
        note = escape(key or version.get("reason", ""))
        out.print(f"    {at} {state}{forgotten} {note}")


def print_outcome(operation: str, report: OperationReport) -> None:
    """Print the results of an operator command, path by path."""
    out = console()
    for result in report.results:
        path = escape(display(result.path))
        if result.refusal:
            out.print(f"[red]not done[/] {path}: {escape(result.refusal)}")
        else:
            now = _now(operation, result)
            out.print(f"{operation} {path}: was {result.before or 'new'}, {now}")
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
            out.print(f"  {escape(record['path'])}: {escape(why)}", soft_wrap=True)
            if status.hint:
                out.print(f"    {escape(status.hint)}", soft_wrap=True)


def _progress() -> "Progress":
    from rich import progress

    return progress.Progress(
        "{task.description}",
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        console=console(error=True),
        transient=True,
    )


@contextmanager
def reading_bar(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how much of a file is read; yields a function that takes the position in bytes."""
    with _progress() as bars:
        task = bars.add_task(escape(name), total=size_bytes)
        yield lambda position: bars.update(task, completed=position)


class Bars:
    """Progress bars of `once` on a terminal; an observer of the workers."""

    def __init__(self) -> None:
        self._progress = _progress()
        # By thread: an entry may be claimed again before its former attempt has ended here.
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def began(self, entry: Entry) -> None:
        """Show a bar for the upload."""
        self._tasks[threading.get_ident()] = self._progress.add_task(
            escape(entry.name), total=entry.fingerprint.size_bytes
        )

    def sent(self, size_bytes: int) -> None:
        """Advance the bar."""
        self._progress.advance(self._tasks[threading.get_ident()], size_bytes)

    def ended(self) -> None:
        """Remove the bar."""
        self._progress.remove_task(self._tasks.pop(threading.get_ident()))


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word


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
    from emitterd.journal.state_folder import act_as_owner

    settings = load_part(find(config, os.environ), os.environ, *sections)
    act_as_owner(settings.journal.path)
    return settings


def say(*lines: str) -> None:
    """Print lines on standard output."""
    print(*lines, sep="\n")


def complain(*lines: str) -> None:
    """Print lines about a problem on standard error."""
    with _standard_error():
        print(*lines, sep="\n", file=sys.stderr)


def print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, row by row: a million rows need no memory."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json.dumps(row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_object(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2))
