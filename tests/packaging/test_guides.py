"""The guides of docs/ and the code: names exist, and examples show real output."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from emitterd.cli import output as terminal
from emitterd.codes import Code
from emitterd.config import settings as config
from emitterd.intake.file_status import FolderState
from emitterd.journal import operations as hand
from emitterd.journal.operations import Operation
from emitterd.model import TRANSITIONS, State
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.paths import ROOT
from support.zips import sample
from tools.manual import commands
from tools.roff import sections

DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
NAV = {title: pages for part in SITE["nav"] for title, pages in part.items()}
GUIDES = [
    (DOCS / page).read_text("utf-8")
    for part in (*NAV["Tutorial"], *NAV["How-to guides"], {"": "service.md"}, {"": "monitoring.md"})
    for page in part.values()
]
DOCUMENT = "\n".join(GUIDES)
PARTS = {title: text for guide in GUIDES for title, text in sections(guide).items()}
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = [*FENCE.findall(DOCUMENT), *re.findall(r"`([^`\n]+)`", FENCE.sub("", DOCUMENT))]
CALL = re.compile(r"(?<![\w/@:=-])emitterd ([a-z][a-z-]*)([^\n|;`&#]*)")
CLOCK = re.compile(r"\d{4}-\d\d-\d\d [\d:]+[+-]\d\d:\d\d|\broot\b")
JQ = re.compile(r"\| (jq .+(?:\n    .+)*)")
BROKEN = "sat/semester_exam_qst_mst.zip"
MISSPELT = "sat/semester_exam_mst_july.zip"
WRITTEN = "pat/periodic_exam_grade_details.zip"
HELD = "infra_trans/infra_trans.zip"
LOG = """
{"timestamp": "2026-11-24T04:26:50.8Z", "level": "info", "event": "file.delivered", \
"path": "a/b.zip", "bytes": 7}
{"timestamp": "2026-11-24T04:26:51.3Z", "level": "error", "event": "destination.down", \
"error": "E302", "reason": "refused", "hint": "check"}
{"timestamp": "2026-11-24T04:26:52.3Z", "level": "error", "event": "file.rejected", \
"path": "sat/semester_exam_mst_august.zip", "error": "E210", "hint": "correct it"}
"""


def rows(part: str, column: int = 0) -> list[list[str]]:
    """Return the words in code style of a column of a section's table, by row."""
    lines = [line for line in PARTS[part].splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", line.split(" | ")[column]) for line in lines]


def test_commands_and_options_exist() -> None:
    """Each emitterd command in code style exists, and so do its options."""
    known = {
        entry.name: {name for option in entry.options for name in option.names}
        for entry in commands()
    }
    # Hints of the log, as JSON or after a tab, have "emitterd" in a sentence.
    lines = [line for code in CODE for line in code.splitlines()]
    shown = [line for line in lines if line.strip()[:1] not in {"{", '"'} and "\t" not in line]
    calls = [call for line in shown for call in CALL.findall(line)]

    assert len(calls) > 40
    for name, rest in calls:
        assert name in known, name
        assert set(re.findall(r"(?<!\S)--?[a-z-]+", rest)) <= known[name], name


def test_keys_events_and_codes_exist() -> None:
    """Every key, event and error code that the document names exists."""
    keys = {f"{section}.{key}" for section, key, _ in config.every_key()}
    events = re.findall(r"(?m)^\| `([a-z_.]+)` ", (DOCS / "events.md").read_text())
    words = [code for code in CODE if re.fullmatch(r"[a-z]+\.[a-z_]+", code)]
    endings = (".db", ".lock", ".py", ".yaml")
    files = {word for word in words if word.endswith(endings)}

    assert len(words) > 20
    assert set(words) <= keys | set(events) | files
    assert set(re.findall(r"\bE\d{3}\b", DOCUMENT)) <= set(Code)


def test_tables_are_complete() -> None:
    """States, exit codes and operator commands are those of the code."""
    assert [state for [state] in rows("States")] == list(State)
    names = ("DONE", "WRONG", "INTERNAL", "LOCKED", "CONFIGURATION")
    exit_codes = {getattr(terminal, name) for name in names}
    exit_codes.add(click.UsageError.exit_code)
    assert {code for [code] in rows("Exit codes")} == set(map(str, exit_codes))
    elsewhere = {state for row in rows("A file is not delivered") for state in row}
    assert elsewhere == set(FolderState)
    for [call], states in zip(rows("Operator commands"), rows("Operator commands", 2), strict=True):
        act = Operation(call.split()[1])
        if act in {Operation.FORGET, Operation.MARK}:
            assert states == [State.DELIVERING]
            continue
        sources = {state for verb in hand.VERBS[act] for state in TRANSITIONS[verb][0]}
        assert set(states) == sources


@pytest.fixture
def filled(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Fill a folder with the files of the examples."""
    site = Installation(tmp_path, server.url, spool_catalogue="enforce")
    server.faults = fault_list("503")
    site.drop(HELD, sample(HELD))
    site.drop(MISSPELT, sample(MISSPELT).replace(b"exam_code", b"examcode", 1))
    for path in (BROKEN, WRITTEN):
        cut = site.drop(path, sample(path))
        cut.write_bytes(cut.read_bytes()[:-20])
    (site.spool / "pat" / "notes.txt").write_text("buy chalk")
    site.call("once", "--wait", "1s")
    site.call("hold", HELD)
    return site


def answers() -> list[tuple[str, str]]:
    """Return each example of `emitterd explain` with its output."""
    shown = [block.split("$ ")[1:] for block in FENCE.findall(DOCUMENT)]
    calls = [example.split("\n", 1) for block in shown for example in block]
    return [
        (call, output) for call, output in calls if call.startswith("emitterd explain ") and output
    ]


@pytest.mark.slow
def test_examples_are_real_output(filled: Installation) -> None:
    """Each example is the real output, except for times and the user."""
    with (filled.spool / WRITTEN).open("ab"):
        for call, output in answers():
            done = filled.call(*shlex.split(call)[1:])

            user = filled.ask("explain", HELD)["actions"][0]["user"]
            given = done.stdout.replace(f" {user}", " root")
            assert CLOCK.sub("*", given) == CLOCK.sub("*", output), call

    assert len(answers()) == 5


@pytest.mark.tools("jq")
def test_jq_filters_run(tmp_path: Path) -> None:
    """Each jq filter runs on a log, or on the output of `status --json`."""
    log, status = tmp_path / "log", tmp_path / "status"
    log.write_text(LOG.strip())
    status.write_text(next(code for code in CODE if '"eta_s"' in code).split("\n", 1)[1])
    filters = [(block, call) for block in CODE for call in JQ.findall(block)]

    assert len(filters) >= 7
    for block, call in filters:
        data = status if "status --json | jq" in block else log
        done = subprocess.run(  # noqa: S603  our own argument list
            ["sh", "-c", f"{call} < {shlex.quote(str(data))}"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.stderr == "", call
        # With -e the exit code is the answer. An error of jq is 2 or more.
        assert done.returncode <= ("-e" in call), call
        assert done.stdout, call
