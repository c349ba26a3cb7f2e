"""The reading commands on terminals of 80 and 120 columns, in pipes, and in odd locales."""

import json
import re
import shlex
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from emitterd.cli.main import command
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.opening import open_journal, start_remedy
from emitterd.journal.reader import PAGE
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint
from support.installation import Installation
from support.journal import BROKE, deliver
from support.paths import ROOT
from tools.screenshots import write
from tools.terminal import shown_on_terminal

REFUSED = DeliveryError(
    Decision.REJECT, Code.BODY_REFUSED, "the server refuses this name, and says so at great length"
)
LONG = b"student_attendance/student_attendance_of_the_district_of_west_champaran_2026.zip"
FILES = [LONG, b"pat/periodic_exam_mst.zip", b"sat/marks.zip", b"pat/marks.zip", b"pat/late.zip"]
MIB = 1024**2
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
READING = [
    *("status", "status --datasets", "list", "list --wide", "list --skipped", "receipts"),
    *("receipts --wide", "explain pat/marks.zip", "explain nothing.zip", "check", "explain-error"),
]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Have a journal with an entry in each of five states; the server is away."""
    office = Installation(tmp_path_factory.mktemp("office"), "http://127.0.0.1:9/data")
    office.drop("pat/marks.zip")
    (office.spool / "pat" / "notes.txt").touch()
    with closing(open_journal(office.journal)) as journal:
        journal.admit(
            [
                Admission(path, Fingerprint(1, 2, number * MIB + 200_000, 1, 1), "pat", number)
                for number, path in enumerate(FILES)
            ]
        )
        for path in FILES[:4]:
            entry = journal.claim(time.time())
            assert entry is not None
            assert entry.path == path
            match path:
                case b"sat/marks.zip":
                    journal.reject(entry, REFUSED)
                case b"pat/marks.zip":
                    journal.defer(entry, BROKE, time.time() + 3600, charge=True)
                case _:
                    deliver(journal, entry)
    return office


def command_line(office: Installation, command: str) -> list[str]:
    """Return the command line of a command; some know no configuration."""
    line = office.command(*shlex.split(command))
    return line[:-2] if command in {"explain-error", "--help"} else line


def on_terminal(office: Installation, command: str, columns: int, **extra: str) -> str:
    """Return what a command shows on a terminal with colours."""
    environment = office.environment(LANG="C.UTF-8", LC_ALL="", **extra)
    lines = int(extra.get("SCREEN_LINES", "50"))
    _, text = shown_on_terminal(
        command_line(office, command), columns, environment=environment, lines=lines
    )
    return text


def paths(text: str) -> list[str]:
    """Return the first words of a table's lines."""
    return [line.split()[0] for line in text.splitlines()]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["list", "receipts", "list --skipped", "status"])
def test_a_terminal_gets_lines_that_fit(office: Installation, command: str, columns: int) -> None:
    """No line is longer than the terminal, and states have colours."""
    text = on_terminal(office, command, columns)

    assert COLOUR.search(text)
    lines = COLOUR.sub("", text).splitlines()
    assert max(map(len, lines)) <= columns
    if command == "list":
        assert len(lines) == 1 + len(FILES)
        assert re.search(r"^student_\S*…\S*_2026\.zip  delivered  195 KiB  \d+[sm] ago", lines[1])
        assert re.search(r"rejected +2\.2 MiB  \d+[sm] ago  E\d+ the server.*…$", lines[3])
        assert re.search(r"deferred +3\.2 MiB  in 5\dm", lines[4])


@pytest.mark.parametrize("command", READING)
def test_a_pipe_gets_whole_plain_lines(office: Installation, command: str) -> None:
    """No colour, no cut, one line a row, the header once, and as many words in each line."""
    done = subprocess.run(  # noqa: S603  our own command line
        command_line(office, command),
        env=office.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout

    assert text
    assert not COLOUR.search(text)
    assert "…" not in text.replace("|…", "")
    assert "Traceback" not in done.stderr
    if command in {"list", "receipts"}:
        assert LONG.decode() in text
        assert paths(text).count("path") == 1
        assert re.search(r"  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", text)


def test_colours_can_be_forced_in_a_pipe(office: Installation) -> None:
    """`FORCE_COLOR=1 emitterd list | less -R` has colours."""
    office.settings["FORCE_COLOR"] = "1"
    try:
        assert "\x1b[31mrejected" in office.call("list").stdout
    finally:
        del office.settings["FORCE_COLOR"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("pat/", ["pat/periodic_exam_mst.zip", "pat/marks.zip", "pat/late.zip"]),
        ("marks.zip", ["sat/marks.zip", "pat/marks.zip"]),
        ("**/marks.zip !sat/", ["pat/marks.zip"]),
        ("pat --sort=-size", ["pat/late.zip", "pat/marks.zip", "pat/periodic_exam_mst.zip"]),
        ("--sort path --limit 2", ["pat/late.zip", "pat/marks.zip"]),
        ("--state deferred", ["pat/marks.zip"]),
        ("--since 1h --until 0s --limit 1", [LONG.decode()]),
        ("--since 2999-01-01", []),
        ("--until 1h", []),
    ],
)
def test_entries_are_chosen(office: Installation, arguments: str, expected: list[str]) -> None:
    """Patterns, times, a state, an order and a limit choose, as a table and as JSON."""
    table = office.call("list", *shlex.split(arguments)).stdout
    rows = office.ask("list", *shlex.split(arguments))

    assert paths(table)[1:] == expected
    assert [row["path"] for row in rows] == expected


def test_a_folder_may_be_absolute(office: Installation) -> None:
    """What the shell completes is understood: a path below the watched folder."""
    rows = office.ask("list", f"{office.spool}/pat/marks.zip")

    assert [row["path"] for row in rows] == ["pat/marks.zip"]


@pytest.mark.parametrize("command", ["list nothing", "receipts --since 2999-01-01"])
def test_an_empty_table_is_a_sentence(office: Installation, command: str) -> None:
    """Nothing but the sentence, which names the next command; nothing for a program."""
    done = office.call(*shlex.split(command))

    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"no \w+ matches: `emitterd \w+` shows all\n", done.stderr)
    assert office.ask(*shlex.split(command)) == []


def test_status_begins_with_what_is_wrong(office: Installation) -> None:
    """Each alarm has its remedy; then come the counts, without those of zero."""
    lines = office.call("status").stdout.splitlines()

    assert lines[0].startswith("CRITICAL: no daemon runs, and 2 files wait, for ")
    assert lines[1] == f"  what to do: {start_remedy(office.journal)}"
    assert "held" not in paths("\n".join(lines))
    rows = {line[:14].strip(): line[16:] for line in lines}
    # The remedy is not repeated.
    assert rows["daemon"] == "not running"
    assert rows["folder"] == str(office.spool)
    assert rows["destination"].startswith("http://127.0.0.1:9/data, not used yet")
    assert rows["deferred"] == "1"
    assert rows["waiting"].startswith("7.4 MiB, time left unknown; the oldest file for ")
    assert re.fullmatch(r"\d+[sm] ago \(\S+ [\d:]+[+-]\d\d:\d\d\)", rows["last delivered"])


@pytest.mark.slow
def test_check_begins_with_its_findings_and_ends_with_their_number(
    office: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings come on request; JSON has the same findings."""
    url = "http://cqube.example.org/data"
    monkeypatch.setitem(office.settings, "EMITTERD_EMISSION_URL", url)
    done, record = office.call("check"), office.ask("check")
    whole = office.call("check", "--verbose").stdout

    lines = done.stdout.splitlines()
    assert lines[0].startswith("warning  emission.url")
    assert lines[-1].startswith("0 errors, 1 warning in ")
    assert "spool.settle" not in done.stdout
    assert "spool.settle" in whole
    assert (record["errors"], record["warnings"]) == (0, 1)
    assert {item["level"] for item in record["diagnoses"]} == {"ok", "warning"}


def test_check_reports_a_wrong_configuration_to_a_program(site: Installation) -> None:
    """Its problems are findings in the JSON, and the exit code is 78."""
    with site.config.open("a") as file:
        file.write("log:\n  level: loud\n")
    done = site.call("check", "--json")

    assert (done.returncode, done.stderr) == (78, "")
    record = json.loads(done.stdout)
    assert record["errors"] == 1
    assert record["diagnoses"][0]["subject"] == "log.level"


@pytest.mark.slow
def test_a_name_without_its_folder_is_searched(office: Installation) -> None:
    """One file is explained, several are listed, and a misspelt name gets suggestions."""
    one = office.call("explain", "periodic_exam_mst.zip")
    several = office.call("explain", "marks.zip")
    none = office.call("explain", "periodc_exam_mst.zip")
    codes = [done.returncode for done in (one, several, none)]

    assert codes == [0, 1, 1]
    assert one.stdout.startswith("pat/periodic_exam_mst.zip: delivered\n")
    assert several.stdout == (
        "2 files with the name marks.zip:\n"
        "  emitterd explain pat/marks.zip\n"
        "  emitterd explain sat/marks.zip\n"
    )
    assert none.stdout.endswith("did you mean:\n  emitterd explain pat/periodic_exam_mst.zip\n")
    record = json.loads(office.call("explain", "marks.zip", "--json").stdout)
    assert record["matches"] == ["pat/marks.zip", "sat/marks.zip"]


@pytest.mark.slow
@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=["C", "ASCII"]
)
def test_an_odd_locale_gets_plain_signs(
    office: Installation, command: str, locale: dict[str, str]
) -> None:
    """Without UTF-8 no command ends, and what is cut has three dots."""
    environment = office.environment(PAGER="cat", **locale)
    _, text = shown_on_terminal(command_line(office, command), 80, environment=environment)

    assert "Traceback" not in text
    assert "UnicodeEncodeError" not in text
    if command == "list":
        assert "…" not in text
        assert re.search(r"\w\.\.\.\w", text)


@pytest.mark.slow
@pytest.mark.parametrize("command", [*READING, "--help", "inspect pat/marks.zip"])
def test_every_command_ends_quietly_with_its_reader(office: Installation, command: str) -> None:
    """`| head -c1` causes no complaint, with any command."""
    line = f"{shlex.join(command_line(office, command))} | head -c1"
    done = subprocess.run(  # noqa: S602  the shell is what is asked for
        line,
        shell=True,
        cwd=office.spool,
        env=office.environment(PYTHONUNBUFFERED="1"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(done.stdout) == 1
    assert not re.search("Traceback|Broken pipe|Exception", done.stderr)


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Have more entries than a page of the journal."""
    site = Installation(tmp_path_factory.mktemp("backlog"), "http://127.0.0.1:9/data")
    with closing(open_journal(site.journal)) as journal:
        journal.admit(
            [
                Admission(b"pat/%d.zip" % number, Fingerprint(1, 2, number, 1, 1), "pat", 0)
                for number in range(2 * PAGE + 1)
            ]
        )
    return site


@pytest.mark.parametrize("order", [[], ["--sort=-size"], ["--sort", "size"]], ids=str)
def test_pages_neither_repeat_nor_skip_an_entry(backlog: Installation, order: list[str]) -> None:
    """In each order every entry comes once, after one header."""
    names = paths(backlog.call("list", *order).stdout)

    numbers = [int(re.sub(r"\D", "", name)) for name in names[1:]]
    assert names[0] == "path"
    assert numbers == sorted(range(2 * PAGE + 1), reverse="--sort=-size" in order)


def test_a_long_list_goes_through_the_pager(backlog: Installation, tmp_path: Path) -> None:
    """$PAGER gets the whole list with LESS=FRX; a list that fits on the screen needs none."""
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "paged with $LESS"\nexec tail -n 1\n')
    pager.chmod(0o755)

    short = on_terminal(backlog, "list --limit 5", 80, PAGER=str(pager))
    long = on_terminal(backlog, "list", 80, PAGER=str(pager))

    assert "paged" not in short
    first, last = long.splitlines()
    assert first == "paged with FRX"
    assert f"pat/{2 * PAGE}.zip" in last


@pytest.mark.slow
def test_the_daemon_knows_no_file_of_that_name(site: Installation) -> None:
    """Also while a daemon answers, a name is searched, and an unknown one ends with 1."""
    with site.running():
        site.drop("school_master/school_mst.zip")
        site.wait_delivered(1)
        known, unknown = site.call("explain", "school_mst.zip"), site.call("explain", "other.zip")

    assert (known.returncode, unknown.returncode) == (0, 1)
    assert known.stdout.startswith("school_master/school_mst.zip: delivered\n")
    assert unknown.stdout.endswith("see all files with: emitterd list\n")


def written_by(folder: Path) -> dict[str, list[str]]:
    """Return the words of the page and of each picture, without what differs by machine."""
    files = [folder / "command-output.md", *(folder / "screens").iterdir()]
    return {file.name: _words(file.read_text("utf-8")) for file in files}


def _words(text: str) -> list[str]:
    words = " ".join(re.sub(r"<[^>]*>|&#160;", " ", text).split())
    # The disk's room also decides where its line breaks.
    words = re.sub(r"on \w+, [\d.]+ [KMGT]iB free", "on ext4", words)
    # Workers deliver at the same time: the files of `demo` have any order.
    return sorted(words.split())


@pytest.mark.slow
def test_the_pictures_of_the_documentation_are_of_this_version(tmp_path: Path) -> None:
    """`python -m tools.screenshots docs` writes what docs/ has."""
    write(tmp_path)

    assert written_by(tmp_path) == written_by(ROOT / "docs")


def test_every_command_has_its_pictures() -> None:
    """docs/command-output.md shows each command at 80 and 120 columns, and in a pipe."""
    sections = (ROOT / "docs" / "command-output.md").read_text("utf-8").split("\n## emitterd ")
    shown = {
        text.split()[0]
        for text in sections[1:]
        if "columns](screens/" in text
        and "-80.svg" in text
        and "-120.svg" in text
        and "```" in text
    }
    assert shown == set(command.commands)
