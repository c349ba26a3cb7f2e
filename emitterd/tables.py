"""Tables for people: the one module that knows rich."""

import sys
import threading
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Self

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from emitterd.entry import Entry, State, display
from emitterd.errors import ConfigError, printable
from emitterd.explanation import Explanation
from emitterd.instruction import Act, Deed, Outcome
from emitterd.machine import Diagnosis
from emitterd.rehearsal_faults import FAULTS
from emitterd.survey import Undelivered
from emitterd.units import format_duration, format_size

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
    return escape_markup(printable(text))


def console(*, error: bool = False) -> Console:
    """Return a console that wraps nothing when its output goes to a file."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else 200
    return Console(stderr=error, width=width, highlight=False)


def print_problems(error: ConfigError) -> None:
    """Print everything wrong with the configuration, one remedy each."""
    out = console(error=True)
    out.print(f"[bold red]{escape(str(error))}[/]")
    for problem in error.problems:
        where = f"line {problem.line}: " if problem.line else ""
        out.print(f"  {escape(where)}[bold]{escape(problem.key)}[/]: ", end="")
        out.print(escape(problem.message))
        out.print(f"    {escape(problem.remedy)}")


def print_diagnoses(diagnoses: Iterable[Diagnosis]) -> None:
    """Print what `check` found of the machine."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in diagnoses:
        remedy = f"\n{escape(one.remedy)}" if one.remedy else ""
        message = escape(one.message) + remedy
        table.add_row(_coloured(one.level), escape(one.subject), message)
    console().print(table)


def print_settings(settings: Iterable[tuple[str, str]]) -> None:
    """Print the configuration in force."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in settings:
        table.add_row(escape(key), escape(value))
    console().print(table)


def print_status(status: Mapping[str, Any]) -> None:
    """Print what `status` says."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("daemon", "running" if status["running"] else "not running")
    destination = status["destination"]
    said = destination["state"]
    if said == "down":
        said = (
            f"[red]down[/] since {destination['since']}: {destination['error']}"
            f" {escape(destination['reason'])}"
        )
    table.add_row("destination", said)
    for state, count in status["counts"].items():
        table.add_row(_coloured(state) if count else state, str(count))
    waiting = format_size(status["waiting_bytes"])
    table.add_row("waiting", waiting)
    table.add_row("oldest waiting", status["oldest_waiting_at"] or "-")
    table.add_row("last delivered", status["last_delivered_at"] or "-")
    eta_s = status["eta_s"]
    table.add_row("done in", "unknown" if eta_s is None else format_duration(eta_s))
    console().print(table)


def print_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print entries, a table for each thousand: a million rows need no memory."""
    rows = iter(entries)
    while page := list(islice(rows, PAGE)):
        _print_page(page)


def _print_page(entries: list[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("state", "size", "attempts", "path", "key or reason"):
        right = "right" if column in {"size", "attempts"} else "left"
        table.add_column(column, justify=right, overflow="fold")  # type: ignore[arg-type]
    for one in entries:
        said = one.get("key", "")
        if one["state"] != "delivered" and "reason" in one:
            said = f"{one.get('error', '')} {one['reason']}"
        table.add_row(
            _coloured(one["state"]),
            format_size(one["bytes"]),
            str(one["attempts"]),
            escape(one["path"]),
            escape(said),
        )
    console().print(table)


def print_receipts(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print the proof of delivery."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("path", "size", "etag (MD5)", "key"):
        table.add_column(column, overflow="fold")
    for one in entries:
        table.add_row(
            escape(one["path"]),
            format_size(one["bytes"]),
            escape(one["etag"]),
            escape(one["key"]),
        )
    console().print(table)


def print_skipped(found: Iterable[Mapping[str, Any]]) -> None:
    """Print what will never be sent, and why."""
    rows = iter(found)
    while page := list(islice(rows, PAGE)):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("path", "error", "reason"):
            table.add_column(column, overflow="fold")
        for one in page:
            table.add_row(
                escape(one["path"]), one.get("error", "-"), escape(one["reason"])
            )
        console().print(table)


def print_inspections(records: Iterable[Mapping[str, Any]]) -> None:
    """Print what the server would do with files, each as soon as it is known."""
    out = console()
    for one in records:
        out.print(f"[bold]{escape(one['file'])}[/]: {_coloured(one['verdict'])}")
        if "error" in one:
            out.print(f"  {one['error']} {escape(one['reason'])}")
            out.print(f"    {escape(one['hint'])}")
            continue
        dataset = one["dataset"] or "no dataset"
        out.print(f"  {escape(dataset)}, {escape(one['note'])}; {_extent(one)}")
        _print_findings(one["findings"])


def _extent(inspected: Mapping[str, Any]) -> str:
    """Say how much of a CSV was looked at."""
    columns, rows = len(inspected["columns"]), inspected["rows"]
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


def print_explanation(said: Explanation) -> None:
    """Print where a path stands, and what happened to it."""
    out = console()
    out.print(f"[bold]{escape(said.path)}[/]: {_coloured(said.state)}")
    for line in (said.reason, *said.context):
        out.print(f"  {escape(line)}")
    latest = said.versions[0] if said.versions else {}
    _print_findings(latest.get("findings", []))
    if said.hint and not latest.get("findings"):
        out.print(f"  what to do: {escape(said.hint)}")
    if said.error:
        out.print(f"  more: emitterd explain-error {said.error}")
    if len(said.versions) > 1 or said.actions:
        out.print("  before:")
    for action in said.actions:
        out.print(f"    {action['at']} {action['act']} by {escape(action['user'])}")
    for version in said.versions[1:]:
        at = version.get("delivered_at", version["admitted_at"])
        out.print(f"    {at} {version['state']} {escape(version.get('reason', ''))}")


def print_outcome(act: str, outcome: Outcome) -> None:
    """Print what an operator's act did, path by path."""
    out = console()
    for deed in outcome.deeds:
        before, path = deed.before, escape(display(deed.path))
        if deed.refusal:
            out.print(f"[red]not done[/] {path}: {escape(deed.refusal)}")
        else:
            out.print(f"{act} {path}: was {before}, {_now(act, deed)}")
    if len(outcome.deeds) != 1:
        files = "1 file" if outcome.done == 1 else f"{outcome.done} files"
        out.print(f"{act}: {files}")


def _now(act: str, deed: Deed) -> str:
    """Say what has become of an entry, as it looks to the operator."""
    if act == Act.FORGET:
        return "is forgotten: what lies in the folder counts as new"
    if act == Act.RETRY and deed.after is State.WITHDRAWN:
        return "is looked at again if it lies in the folder"
    return f"is {deed.after}"


def print_undelivered(left: list[Undelivered]) -> None:
    """Print what `once` could not deliver, on standard error."""
    out = console(error=True)
    files = "1 file is" if len(left) == 1 else f"{len(left)} files are"
    out.print(f"[bold red]{files} not delivered[/]")
    for one in left:
        said = " ".join(part for part in (one.error, one.reason) if part)
        out.print(f"  {escape(one.path)}: {escape(said)}", soft_wrap=True)


def print_codes(rows: Iterable[tuple[str, str]]) -> None:
    """Print every error code with its title."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for code, title in rows:
        table.add_row(code, escape(title))
    console().print(table)


def print_faults() -> None:
    """Print the rehearsal server's menu."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("fault", "what happens", "parameter"):
        table.add_column(column)
    for name, kind in FAULTS.items():
        table.add_row(escape(name), escape(kind.effect), escape(kind.parameter))
    console().print(table)


class Bars:
    """Progress bars of `once` on a terminal; an observer of the workers."""

    def __init__(self) -> None:
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
