"""`explain`: why a file is, or is not, delivered. A name without its folder is searched.

It works with or without a daemon.
"""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import click

from emitterd.cli.output import DONE, WRONG, open_sources, print_findings, print_object
from emitterd.cli.terminal import COLOURS, print_text
from emitterd.intake.file_status import FileStatusReader
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.explain import Explanation, OutsideSpool, explain, locate
from emitterd.service.control_socket import ask_once
from emitterd.text import count, display, local_time, undisplay

SEARCHED_MAX = 100_000
"""So many files of the folder are searched for a name; the journal is searched whole."""

COMPARED_MAX = 5000
"""So many names are compared for one that is similar: each costs some microseconds."""

NEAR = 3
"""So many similar names are suggested."""

LISTED = 20
"""So many paths with the same name are listed."""


def explain_path(config: Path | None, text: str, *, as_json: bool) -> int:
    """Print why a file is, or is not, delivered; return 1 if it is not known which."""
    with open_sources(config) as (status_reader, reader):
        try:
            path = locate(status_reader.spool, reader, text)
        except OutsideSpool as error:
            raise click.UsageError(str(error)) from error
        explanation = _explain(status_reader, reader, path)
        matches = near = list[bytes]()
        if not explanation.known:
            matches, near = _search(status_reader, reader, text)
            if len(matches) == 1:
                explanation = _explain(status_reader, reader, matches[0])
    if as_json:
        found = {} if explanation.known else {"matches": matches, "near": near}
        lists = {name: [*map(display, paths)] for name, paths in found.items() if paths}
        print_object(explanation.record() | lists)
    elif matches and not explanation.known:
        _print_paths(f"{count(len(matches), 'file')} with the name {text}:", matches)
    else:
        _print_explanation(explanation)
        if near:
            _print_paths("did you mean:", near)
        elif not explanation.known:
            print_text("see all files with: emitterd list", indent=2)
    return DONE if explanation.known else WRONG


def _explain(status_reader: FileStatusReader, reader: JournalReader, path: bytes) -> Explanation:
    # The daemon may read less, or more, than this user.
    answer = ask_once(reader.location.path, "explain", path)
    return explain(status_reader, reader, path) if answer is None else Explanation.of(answer)


def _search(
    status_reader: FileStatusReader, reader: JournalReader, text: str
) -> tuple[list[bytes], list[bytes]]:
    """Return the paths with this name in any folder, and else those with a similar name."""
    skip = status_reader.selection.skipped
    walk = status_reader.spool.walk(lambda folder: skip(folder) is not None, lambda *_: None)
    there = [path for path, _ in islice(walk, SEARCHED_MAX)]
    names = undisplay(text)
    found = {path for name in names for path in reader.named(name)}
    if matches := found | {path for path in there if path.rpartition(b"/")[2] in names}:
        return sorted(matches), []
    latest = dict.fromkeys([*reader.latest_paths(COMPARED_MAX), *there[:COMPARED_MAX]])
    return [], _similar(text, latest)


def _similar(text: str, paths: Iterable[bytes]) -> list[bytes]:
    """Return the paths that contain the text, or else those that are most like it, in any case."""
    whole, word = "/" in text, text.lower()
    by_name = dict[str, bytes]()
    for path in paths:
        name = display(path if whole else path.rpartition(b"/")[2]).lower()
        by_name.setdefault(name, path)
    containing = [name for name in by_name if word in name][:NEAR]
    names = containing or difflib.get_close_matches(word, by_name, NEAR)
    return [by_name[name] for name in names]


def _print_explanation(explanation: Explanation) -> None:
    """Print the status of a path, and its history."""
    colour = COLOURS.get(explanation.state, "bold")
    print_text(explanation.state, f"{explanation.path}: ", indent=2, colour=colour)
    for line in (explanation.reason, *explanation.context):
        print_text(line, indent=2)
    findings = explanation.current.get("findings", [])
    print_findings(findings)
    if explanation.hint and not findings:
        print_text(f"what to do: {explanation.hint}", indent=2)
    if explanation.error:
        print_text(f"more: emitterd explain-error {explanation.error}", indent=2)
    if explanation.actions or explanation.before:
        print_text("before:", indent=2)
    for action in explanation.actions:
        print_text(f"{local_time(action['at'])} {action['act']} by {action['user']}", indent=4)
    for version in explanation.before:
        at = local_time(version.get("delivered_at") or version["admitted_at"])
        delivered = version["state"] == State.DELIVERED
        note = version.get("key" if delivered else "reason", "")
        forgotten = " (forgotten)" if "forgotten_at" in version else ""
        print_text(f"{at} {version['state']}{forgotten} {note}", indent=4)


def _print_paths(head: str, paths: Sequence[bytes]) -> None:
    print_text(head)
    for path in paths[:LISTED]:
        print_text(f"emitterd explain {shlex.quote(display(path))}", indent=2)
    if (more := len(paths) - LISTED) > 0:
        print_text(f"and {count(more, 'more file')}", indent=2)
