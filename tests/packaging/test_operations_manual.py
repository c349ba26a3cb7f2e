"""docs/operations.md against the code: what it names exists, what it shows is so."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from emitterd.cli import output as terminal
from emitterd.codes import Code
from emitterd.config import settings as config
from emitterd.intake.file_status import FolderState
from emitterd.journal import operations as hand
from emitterd.journal.operations import Operation
from emitterd.model import TRANSITIONS, State
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_menu
from support.installation import Installation
from support.paths import ROOT
from support.waiting import sample
from tools.manual import commands
from tools.roff import sections

DOCS = ROOT / "docs"
DOCUMENT = (DOCS / "operations.md").read_text("utf-8")
PARTS = sections(DOCUMENT)
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = [*FENCE.findall(DOCUMENT), *re.findall(r"`([^`\n]+)`", FENCE.sub("", DOCUMENT))]
CALL = re.compile(r"(?<![\w/@:-])emitterd ([a-z][a-z-]*)([^\n|;`&#]*)")
CLOCK = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\broot\b")
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
"path": "sat/semester_exam_mst_august.zip", "error": "E210", "hint": "mend"}
"""


def rows(part: str, column: int = 0) -> list[list[str]]:
    """Return what stands in code style in a column, row by row, of a part's table."""
    lines = [line for line in PARTS[part].splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", line.split(" | ")[column]) for line in lines]


def slug(heading: str) -> str:
    """Return the anchor that a heading has."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_commands_and_options_exist() -> None:
    """Each call of emitterd, in code style, is one that the command line takes."""
    known = {
        one.name: {name for option in one.options for name in option.names}
        for one in commands()
    }
    calls = [call for code in CODE for call in CALL.findall(code)]

    assert len(calls) > 40
    for name, rest in calls:
        assert name in known, name
        assert set(re.findall(r"(?<!\S)--?[a-z-]+", rest)) <= known[name], name


def test_links_lead_somewhere() -> None:
    """A link names a heading of the document, or a document beside it."""
    anchors = {slug(one) for one in PARTS}
    targets = re.findall(r"\]\(([^)]+)\)", DOCUMENT)

    assert targets
    for target in targets:
        place, _, anchor = target.partition("#")
        assert (DOCS / place).exists() if place else anchor in anchors, target


def test_keys_events_and_codes_exist() -> None:
    """What reads as a key, an event or a code is one."""
    keys = {f"{section}.{key}" for section, key, _ in config.every_key()}
    events = re.findall(r"(?m)^\| `([a-z_.]+)` ", (DOCS / "events.md").read_text())
    words = [one for one in CODE if re.fullmatch(r"[a-z]+\.[a-z_]+", one)]
    files = {"emitter.yaml", "journal.db"}

    assert len(words) > 20
    assert set(words) <= keys | set(events) | files
    assert set(re.findall(r"\bE\d{3}\b", DOCUMENT)) <= set(Code)


def test_tables_are_complete() -> None:
    """States, exit codes, and what an act is for, are those of the code."""
    assert [one for [one] in rows("States")] == list(State)
    assert {one for [one] in rows("Exit codes")} == {
        str(getattr(terminal, name))
        for name in ("DONE", "WRONG", "USAGE", "INTERNAL", "LOCKED", "CONFIGURATION")
    }
    elsewhere = {one for row in rows("A file is not delivered") for one in row}
    assert elsewhere == set(FolderState)
    for [call], states in zip(
        rows("The operator's hand"), rows("The operator's hand", 2), strict=True
    ):
        act = Operation(call.split()[1])
        if act is Operation.FORGET:
            assert states == [State.DELIVERING]
            continue
        sources = {one for verb in hand.VERBS[act] for one in TRANSITIONS[verb][0]}
        assert set(states) == sources


@pytest.fixture
def filled(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Fill a folder with what the document has answers for."""
    site = Installation(tmp_path, server.url, spool_catalogue="enforce")
    server.faults = fault_menu("503")
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
    """Return each `emitterd explain` that is shown with its answer."""
    shown = [block.split("$ ")[1:] for block in FENCE.findall(DOCUMENT)]
    calls = [one.split("\n", 1) for block in shown for one in block]
    return [
        (call, said) for call, said in calls if call.startswith("emitterd explain ")
    ]


def test_answers_are_the_commands_own(filled: Installation) -> None:
    """Each answer that the document shows is given, but for times and who asked."""
    with (filled.spool / WRITTEN).open("ab"):
        for call, said in answers():
            done = filled.call(*shlex.split(call)[1:])

            user = filled.ask("explain", HELD)["actions"][0]["user"]
            given = done.stdout.replace(f" {user}", " root")
            assert CLOCK.sub("*", given) == CLOCK.sub("*", said), call

    assert len(answers()) == 5


@pytest.mark.tools("jq")
def test_filters_are_sound(tmp_path: Path) -> None:
    """Each filter of jq is run on a log, or on what `status --json` says."""
    log, status = tmp_path / "log", tmp_path / "status"
    log.write_text(LOG.strip())
    status.write_text(next(one for one in CODE if '"eta_s"' in one).split("\n", 1)[1])
    filters = [(block, one) for block in CODE for one in JQ.findall(block)]

    assert len(filters) >= 7
    for block, call in filters:
        told = status if "status --json | jq" in block else log
        done = subprocess.run(  # noqa: S603  our own argument list
            ["sh", "-c", f"{call} < {shlex.quote(str(told))}"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.stderr == "", call
        # With -e it is the answer; what jq cannot do is 2 and more.
        assert done.returncode <= ("-e" in call), call
        assert done.stdout, call
