"""Tables for people: the one module that knows rich, where something needs it."""

import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TextIO

from emitterd.errors import (
    ConfigError,
    EmitterError,
    IllegalTransition,
    JournalError,
    JournalFull,
    JournalLocked,
)
from emitterd.journal.operations import Operation, OperationReport, OperationResult
from emitterd.model import Entry, State
from emitterd.text import display, printable
from emitterd.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.progress import TaskID

    from emitterd.intake.file_status import FileStatus
    from emitterd.monitoring.explain import Explanation


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing looked at: `level` is ok, warning or error."""

    level: str
    subject: str
    message: str
    remedy: str = ""


PAGE = 1000

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
}


def escape(text: str) -> str:
    """Return a text that neither rich nor the terminal obeys: a key has odd names."""
    from rich.markup import escape as escape_markup

    return escape_markup(printable(text))


def console(*, error: bool = False) -> "Console":
    """Return a console that wraps nothing when its output goes to a file."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, highlight=False, soft_wrap=not stream.isatty())


def print_table(
    rows: Iterable[Sequence[str]],
    heads: Sequence[str] = (),
    *,
    right: Collection[str] = (),
) -> None:
    """Print rows of plain text, a thousand at a time: a million need no memory.

    rich lays tables out for a terminal, which is slow; elsewhere columns are aligned
    and nothing else. `right`: the heads of columns that are flush right.
    """
    rest = iter(rows)
    show = _show_rich if sys.stdout.isatty() else _show_plain
    page = list(islice(rest, PAGE))
    show(page, heads, right)
    while page := list(islice(rest, PAGE)):
        show(page, heads, right)


def _show_rich(
    page: Sequence[Sequence[str]], heads: Sequence[str], right: Collection[str]
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(heads))
    for head in heads:
        flush: JustifyMethod = "right" if head in right else "left"
        table.add_column(head, justify=flush, overflow="fold", header_style="bold")
    for row in page:
        table.add_row(*(_coloured(escape(cell)) for cell in row))
    console().print(table)


def _show_plain(
    page: Sequence[Sequence[str]], heads: Sequence[str], right: Collection[str]
) -> None:
    lines = [heads, *page] if heads else page
    cells = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    flush = [head in right for head in heads] or [False] * len(widths)
    for line in cells:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, flush, strict=True)
        ]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def print_problems(error: ConfigError) -> None:
    """Print everything wrong with the configuration, one remedy each."""
    out = console(error=True)
    out.print(f"[bold red]{escape(str(error))}[/]")
    for problem in error.problems:
        where = f"line {problem.line}: " if problem.line else ""
        out.print(f"  {escape(where)}[bold]{escape(problem.key)}[/]: ", end="")
        out.print(escape(problem.message))
        out.print(f"    {escape(problem.remedy)}")


def print_diagnoses(diagnoses: Iterable["Diagnosis"]) -> None:
    """Print what `check` found, each as soon as it is known."""
    out = console()
    for one in diagnoses:
        level = _coloured(one.level) + " " * (7 - len(one.level))
        out.print(f"{level}  {escape(one.subject):22}  {escape(one.message)}")
        if one.remedy:
            out.print(f"{'':33}{escape(one.remedy)}")


def print_settings(settings: Iterable[tuple[str, str]]) -> None:
    """Print the configuration in force."""
    print_table(settings)


def print_status(status: Mapping[str, Any]) -> None:
    """Print what `status` says."""
    downs = status["destination"].get("stages", [])
    told = [
        f"{one['stage']} down since {one['since']}: {one['error']} {one['reason']}"
        for one in downs
    ]
    eta_s = status["eta_s"]
    print_table(
        [
            ("daemon", "running" if status["running"] else "not running"),
            *(("destination", one) for one in told or ["up"]),
            *((state, str(count)) for state, count in status["counts"].items()),
            *(("uploading", _progress(one)) for one in status["uploads"]),
            ("waiting", format_size(status["waiting_bytes"])),
            ("oldest waiting", status["oldest_waiting_at"] or "-"),
            ("last delivered", status["last_delivered_at"] or "-"),
            ("done in", "unknown" if eta_s is None else format_duration(eta_s)),
        ]
    )


def _progress(upload: Mapping[str, Any]) -> str:
    """Say how far an upload is."""
    sent, size = format_size(upload["sent_bytes"]), format_size(upload["bytes"])
    said = f"{upload['path']}: {upload['percent']} %, {sent} of {size}"
    if upload["eta_s"] is not None:
        speed, left = format_size(upload["bytes_s"]), format_duration(upload["eta_s"])
        said += f", {speed}/s, {left} left"
    return said


def print_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print versions of files, with the key or the reason of each."""

    def row(one: Mapping[str, Any]) -> tuple[str, ...]:
        said = one.get("key", "")
        if one["state"] != "delivered" and "reason" in one:
            said = f"{one.get('error', '')} {one['reason']}"
        if "forgotten_at" in one:
            said = f"{said} (forgotten)".lstrip()
        size = format_size(one["bytes"])
        return one["state"], size, str(one["attempts"]), one["path"], said

    heads = ("state", "size", "attempts", "path", "key or reason")
    print_table(map(row, entries), heads, right={"size", "attempts"})


def print_receipts(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print the proof of delivery."""
    rows = (
        (one["path"], format_size(one["bytes"]), one["etag"], one["key"])
        for one in entries
    )
    print_table(rows, ("path", "size", "etag (MD5)", "key"), right={"size"})


def print_skipped(found: Iterable[Mapping[str, Any]]) -> None:
    """Print what will never be sent, and why."""
    rows = ((one["path"], one.get("error", "-"), one["reason"]) for one in found)
    print_table(rows, ("path", "error", "reason"))


def print_inspections(records: Iterable[Mapping[str, Any]]) -> None:
    """Print what the server would do with files, each as soon as it is known."""
    out = console()
    for one in records:
        out.print(f"[bold]{escape(one['file'])}[/]: {_coloured(one['verdict'])}")
        if "reason" in one:
            out.print(f"  {one['error'] or ''} {escape(one['reason'])}".rstrip())
            if one["hint"]:
                out.print(f"    {escape(one['hint'])}")
            continue
        dataset = one["dataset"] or "no dataset"
        out.print(f"  {escape(dataset)}, {escape(one['note'])}; {_extent(one)}")
        _print_findings(one["findings"])


def _extent(inspected: Mapping[str, Any]) -> str:
    """Say how much of a CSV was looked at."""
    columns, rows = len(inspected["columns"]), inspected["rows"]
    if not inspected["read_bytes"]:
        return "the CSV was not read"
    if inspected["whole"] and rows is None:
        return f"{columns} columns"
    if rows is not None:
        return f"{columns} columns, {rows} rows"
    read = format_size(inspected["read_bytes"])
    return f"{columns} columns, rows of the first {read} (--full for all)"


def _print_findings(findings: Iterable[Mapping[str, str]]) -> None:
    out = console()
    for one in findings:
        out.print(
            f"  {one['code']} {_coloured(one['level'])}: expected"
            f" {escape(one['expected'])}; found {escape(one['found'])}"
        )
        out.print(f"    {escape(one['consequence'])}")
        out.print(f"    {escape(one['remedy'])}")


def print_explanation(said: "Explanation") -> None:
    """Print where a path stands, and what happened to it."""
    out = console()
    out.print(f"[bold]{escape(said.path)}[/]: {_coloured(said.state)}")
    for line in (said.reason, *said.context):
        out.print(f"  {escape(line)}")
    findings = said.current.get("findings", [])
    _print_findings(findings)
    if said.hint and not findings:
        out.print(f"  what to do: {escape(said.hint)}")
    if said.error:
        out.print(f"  more: emitterd explain-error {said.error}")
    if said.actions or said.before:
        out.print("  before:")
    for action in said.actions:
        out.print(f"    {action['at']} {action['act']} by {escape(action['user'])}")
    for version in said.before:
        at = version.get("delivered_at", version["admitted_at"])
        what = version.get("key") if version["state"] == "delivered" else ""
        told = escape(what or version.get("reason", ""))
        forgotten = " (forgotten)" if "forgotten_at" in version else ""
        out.print(f"    {at} {version['state']}{forgotten} {told}")


def print_outcome(act: str, outcome: OperationReport) -> None:
    """Print what an operator's act did, path by path."""
    out = console()
    for deed in outcome.results:
        before, path = deed.before, escape(display(deed.path))
        if deed.refusal:
            out.print(f"[red]not done[/] {path}: {escape(deed.refusal)}")
        else:
            out.print(f"{act} {path}: was {before}, {_now(act, deed)}")
    if len(outcome.results) != 1:
        files = "1 file" if outcome.done == 1 else f"{outcome.done} files"
        out.print(f"{act}: {files}")


def _now(act: str, deed: OperationResult) -> str:
    """Say what has become of an entry, as it looks to the operator."""
    if act == Operation.FORGET:
        return "is forgotten: what lies in the folder counts as new"
    if act == Operation.RETRY and deed.after is State.WITHDRAWN:
        return "is looked at again if it lies in the folder"
    return f"is {deed.after}"


def print_undelivered(left: list["FileStatus"]) -> None:
    """Print what `once` could not deliver, on standard error."""
    out = console(error=True)
    files = "1 file is" if len(left) == 1 else f"{len(left)} files are"
    out.print(f"[bold red]{files} not delivered[/]")
    for status in left:
        path, *why = status.record().values()
        out.print(f"  {escape(path)}: {escape(' '.join(why))}", soft_wrap=True)


def print_codes(rows: Iterable[tuple[str, str]]) -> None:
    """Print every error code with its title."""
    print_table(rows)


def print_faults(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print the rehearsal server's menu."""
    print_table(rows, ("fault", "what happens", "parameter"))


class Bars:
    """Progress bars of `once` on a terminal; an observer of the workers."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console(error=True),
            transient=True,
        )
        self._lock = threading.Lock()
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def began(self, entry: Entry) -> None:
        """Show a bar for the upload."""
        task = self._progress.add_task(
            escape(entry.name), total=entry.fingerprint.size_bytes
        )
        with self._lock:
            self._tasks[entry.id] = task

    def sent(self, entry: Entry, size_bytes: int) -> None:
        """Advance the bar."""
        self._progress.advance(self._tasks[entry.id], size_bytes)

    def ended(self, entry: Entry) -> None:
        """Take the bar away."""
        with self._lock:
            task = self._tasks.pop(entry.id)
        self._progress.remove_task(task)


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word


# What every command does at its end: exit codes, complaints, arrays of JSON.

DONE, WRONG, USAGE, INTERNAL, LOCKED, CONFIGURATION = 0, 1, 2, 70, 75, 78


def reported(work: Callable[[], int]) -> int:
    """Do a command's work; what emitterd reports becomes lines and an exit code."""
    if sys.stdout is None:
        # Started with it closed: `>&-`. Nobody would hear the answer.
        complain("standard output is closed")
        return WRONG
    try:
        code = _told(work)
        sys.stdout.flush()
    except OSError as error:
        return stopped_by(error)
    else:
        return code


def stopped_by(error: OSError) -> int:
    """Report the system error that stopped a command; return the exit code.

    What standard output cannot take is discarded. Python would try again to write it
    at its exit, and end with 120.
    """
    reason = error.strerror or error
    problem = f"cannot go on: {reason}"
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
        problem = f"cannot write to standard output: {reason}"
    if not isinstance(error, BrokenPipeError):
        # At a broken pipe the reader has enough, as `head` has.
        complain(problem)
    return WRONG


def _discard(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except ConfigError as error:
        with _standard_error():
            print_problems(error)
        return CONFIGURATION
    except JournalError as error:
        complain_of(error)
        return _exit_code(error)


@contextmanager
def _standard_error() -> Iterator[None]:
    """Ignore that standard error takes no more; the exit code still tells."""
    try:
        yield
    except OSError:
        _discard(sys.stderr)


def say(*lines: str) -> None:
    """Say what was done, on standard output."""
    for line in lines:
        print(line)


def complain(*lines: str) -> None:
    """Say what is wrong, on standard error."""
    with _standard_error():
        for line in lines:
            print(line, file=sys.stderr)


def complain_of(error: EmitterError) -> None:
    """Say what is wrong, with its code, and what to do about it."""
    complain(f"{error.code} {error}", f"  {error.hint}")


def print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array row by row: a million rows need no memory."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json.dumps(row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_object(said: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(said, indent=2))


def _exit_code(error: JournalError) -> int:
    match error:
        case JournalLocked():
            return LOCKED
        case IllegalTransition():
            return INTERNAL
        case JournalFull():
            # It passes: systemd is to start the daemon again, which 78 forbids.
            return WRONG
        case _:
            return CONFIGURATION
