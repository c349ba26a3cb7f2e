"""The operator's commands, as typed: while a daemon runs, and while none does."""

import csv
import io
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.journal.opening import open_journal
from emitterd.rehearsal.server import RehearsalServer
from support.command import emitterd
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation
from support.journal import admission, admit, deliver
from support.waiting import wait_until
from support.zips import sample

NAME = "school_master/school_mst.zip"
OTHER = "pat/periodic_exam_mst.zip"
USER = pwd.getpwuid(os.getuid()).pw_name


def states(site: Installation) -> dict[str, str]:
    """Return the state of each path's latest version."""
    return {entry["path"]: entry["state"] for entry in site.entries()}


def wait_state(site: Installation, path: str, state: str) -> None:
    """Wait until a path is in a state."""
    wait_until(lambda: states(site).get(path) == state, DEADLINE_S, f"{path} {state}")


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Lay out an installation that has delivered a file, for commands that read."""
    folder = tmp_path_factory.mktemp("delivered")
    with RehearsalServer(folder / "server") as server:
        site = Installation(folder, server.url)
        site.drop(NAME)
        site.call("once")
        yield site


@contextmanager
def deferring(site: Installation, server: RehearsalServer) -> Iterator[None]:
    """Run a daemon that has put a file off for long, after one failure."""
    server.faults = fault_list("503@1")
    site.settings["EMITTERD_DELIVERY_BACKOFF_INITIAL"] = "5m"
    site.settings["EMITTERD_DELIVERY_BACKOFF_MAX"] = "10m"
    site.drop(NAME)
    with site.running():
        wait_state(site, NAME, "deferred")
        yield


@pytest.mark.slow
def test_held_and_released_under_a_running_daemon(
    site: Installation, server: RehearsalServer
) -> None:
    """A held file stays back while others go; released it is delivered at once."""
    with deferring(site, server):
        held = site.call("hold", NAME)
        site.drop(OTHER)
        wait_state(site, OTHER, "delivered")
        kept = states(site)[NAME]
        released = site.call("release", NAME)
        wait_state(site, NAME, "delivered")

    assert (held.returncode, released.returncode) == (0, 0)
    assert f"hold {NAME}: was deferred, is held" in held.stdout
    assert kept == "held"
    acted = [
        (event["act"], event["path"], event["user"]) for event in site.events("operator.acted")
    ]
    assert acted == [("hold", NAME, USER), ("release", NAME, USER)]


@pytest.mark.slow
def test_retry_does_not_wait_for_the_backoff(site: Installation, server: RehearsalServer) -> None:
    """A deferred file is tried at once, with any due time."""
    with deferring(site, server):
        done = site.call("retry", "--all", "--state", "deferred")
        site.wait_delivered(1, 20.0)

    assert done.returncode == 0
    assert server.fired["503"] == 1


@pytest.mark.slow
def test_forgotten_file_is_sent_again(site: Installation, server: RehearsalServer) -> None:
    """Both deliveries have a receipt and a key of their own."""
    site.drop(NAME)
    with site.running():
        site.wait_delivered(1)
        done = site.call("forget", str(site.spool / NAME))
        site.wait_delivered(2)

    receipts = site.ask("receipts")
    assert done.returncode == 0
    assert len({receipt["key"] for receipt in receipts}) == len(server.objects) == 2
    assert len({receipt["sha256"] for receipt in receipts}) == 1


@pytest.mark.slow
def test_acts_without_a_daemon(site: Installation, server: RehearsalServer) -> None:
    """The next start honours what was done meanwhile, and the record has the name."""
    site.drop(NAME)
    server.faults = fault_list("503")
    site.call("once", "--wait", "1s")
    server.faults = fault_list("")

    held = site.call("hold", NAME)
    once = site.call("once")
    explained = site.ask("explain", NAME)
    released = site.call("release", "--all", "--state", "held")
    again = site.call("once")

    assert (held.returncode, released.returncode, again.returncode) == (0, 0, 0)
    assert once.returncode == 1
    assert f"{NAME}: held" in once.stderr
    assert explained["state"] == "held"
    assert f"held by {USER} since" in explained["reason"]
    assert [(action["act"], action["user"]) for action in explained["actions"]] == [("hold", USER)]
    assert len(server.objects) == 1


@pytest.mark.slow
def test_sudo_names_who_is_behind(site: Installation) -> None:
    """Root's commands carry the name of the user who called sudo."""
    if os.getuid() != 0:
        pytest.skip("only root is behind a sudo")
    site.drop(NAME)
    site.call("once")
    site.settings["SUDO_USER"] = "asha"
    with site.running():
        site.call("forget", NAME)

    assert site.ask("explain", NAME)["actions"][0]["user"] == "root (asha)"


@pytest.mark.slow
def test_marked_files_are_not_sent_until_they_change(
    site: Installation, server: RehearsalServer
) -> None:
    """Before the first start: `once` has nothing to do. Receipts and `explain` say who said so."""
    site.drop(NAME)
    site.drop(OTHER)

    done = site.call("mark-delivered", "--all")

    assert done.returncode == 0, done.stderr
    assert "mark-delivered: 2 files" in done.stdout
    assert site.call("once").returncode == 0
    assert not server.objects
    (first, second) = site.ask("receipts")
    assert first["confirmation"] == second["confirmation"] == "marked"
    assert len(first["sha256"]) == 64
    said = f"marked as delivered by {USER}, not sent"
    for command in ("receipts", "list", "explain"):
        assert said in site.call(command, *[NAME] * (command == "explain")).stdout

    site.drop(NAME, b"id|name\n2|two\n")
    site.call("forget", OTHER)
    assert site.call("once").returncode == 0
    assert len(server.objects) == 2


@pytest.mark.slow
def test_a_waiting_file_is_marked_under_a_running_daemon(
    site: Installation, server: RehearsalServer
) -> None:
    """It leaves the queue at once, with one line that says why."""
    with deferring(site, server):
        assert site.call("mark-delivered", NAME).returncode == 0
        assert site.counts()["deferred"] == 0
    assert not server.objects
    (line,) = site.events("file.withdrawn")
    assert (line["path"], line["reason"]) == (NAME, "marked as delivered by the operator")
    (acted,) = site.events("operator.acted")
    assert (acted["act"], acted["user"]) == ("mark-delivered", USER)


@pytest.mark.slow
def test_folders_patterns_and_dates_select_what_is_marked(site: Installation) -> None:
    """What is not complete, or not there, is refused by name."""
    for name in ("pat/a_2019.zip", "sat/b_2019.zip", "sat/b_2020.zip", "diksha/old.zip"):
        site.drop(name)
    os.utime(site.drop("diksha/new.zip"), (4e9, 4e9))
    (site.spool / "pat" / "half.zip").write_bytes(b"PK\3\4")

    by_name = site.call("mark-delivered", "pat", "*/*_2019.zip", str(site.spool / "udise"))
    by_date = site.call("mark-delivered", "diksha", "--before", "2050-01-01")
    wrong_year = site.call("mark-delivered", "--all", "--before", "2016-01-01")

    assert by_name.returncode == 1
    assert "not done pat/half.zip: it is not complete" in by_name.stdout
    assert "not done udise: no such file" in by_name.stdout
    assert by_date.returncode == 0
    assert wrong_year.returncode == 1
    assert "no file was last modified before 2016-01-01" in wrong_year.stderr
    assert set(states(site)) == {"pat/a_2019.zip", "sat/b_2019.zip", "diksha/old.zip"}


@pytest.mark.slow
def test_refusals_are_reported(site: Installation) -> None:
    """What an act is not for is said, path by path, and the exit code is 1."""
    site.drop(NAME)
    site.call("once")

    done = site.call("hold", NAME, "pat/no_such.zip")

    assert done.returncode == 1
    assert f"not done {NAME}: it is delivered" in done.stdout
    assert "not done pat/no_such.zip: the journal does not know it" in done.stdout
    assert states(site) == {NAME: "delivered"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["hold"],
        ["hold", "--all"],
        ["hold", "--state", "queued"],
        ["hold", "--all", "--state", "queued", NAME],
        ["hold", "--all", "sold"],
        ["hold", "--all", "--state", "sold"],
        ["hold", "../outside.zip"],
        ["explain"],
        ["explain", "/etc/passwd"],
        ["receipts", "--json", "--csv"],
        ["receipts", "--since", "yesterday"],
        ["list", "--skipped", "--state", "held"],
        ["inspect"],
    ],
    ids=" ".join,
)
def test_wrong_usage(delivered: Installation, arguments: list[str]) -> None:
    """What cannot be meant exits with 2, says why, and does nothing."""
    done = delivered.call(*arguments)

    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_no_journal_yet(site: Installation) -> None:
    """Before the first start nothing is created, and the remedy is named."""
    done = site.call("hold", NAME)

    assert done.returncode == 78
    assert "`emitterd run`" in done.stderr
    assert not site.journal.exists()


@pytest.mark.slow
def test_journal_held_by_who_takes_no_instructions(site: Installation) -> None:
    """While a `once` is at it, or a daemon is stopping, the hand is refused with 75."""
    site.drop(NAME)
    site.call("once")
    with open_journal(site.journal):
        done = site.call("forget", NAME)

    assert done.returncode == 75
    assert "takes no instructions" in done.stderr
    assert states(site) == {NAME: "delivered"}


@pytest.mark.slow
def test_daemon_that_does_not_answer_harms_nobody(
    site: Installation, server: RehearsalServer
) -> None:
    """A daemon that is stopped obeys once it goes on, and the asker gets the answer."""
    site.drop(NAME)
    with site.running() as daemon:
        site.wait_delivered(1)
        daemon.signal(signal.SIGSTOP)
        with pytest.raises(Exception, match="timed out"):
            # Long enough for a busy machine to start the command and send the request.
            site.call("forget", NAME, timeout_s=15.0)
        daemon.signal(signal.SIGCONT)
        site.wait_delivered(2)

    assert len(server.objects) == 2


@pytest.mark.slow
def test_receipts_in_three_forms(site: Installation, server: RehearsalServer) -> None:
    """Table, JSON and CSV have the same deliveries, since any instant."""
    site.drop(NAME)
    site.drop(OTHER)
    site.call("once")

    table, wide = site.call("receipts").stdout, site.call("receipts", "--wide").stdout
    rows = site.ask("receipts", "--since", "1h")
    sheet = list(csv.DictReader(io.StringIO(site.call("receipts", "--csv").stdout)))
    later = site.ask("receipts", "--since", "2999-01-01")

    assert {row["path"] for row in rows} == {NAME, OTHER}
    for item, line in zip(rows, sheet, strict=True):
        assert line["path"] == item["path"]
        assert line["sha256"] == item["sha256"]
        assert item["path"] in table
        assert item["key"] in wide
        assert item["md5"] == item["etag"] == line["etag"]
        assert item["server"] == line["server"] == server.url
        assert item["attempts"] == 1
        assert item["ambiguous"] is False
        assert item["admitted_at"] <= item["delivered_at"]
    assert later == []


@pytest.mark.slow
def test_everything_skipped_is_listed(site: Installation) -> None:
    """Foreign, broken, rejected and hidden things each have a reason."""
    site.settings["EMITTERD_SPOOL_CATALOGUE"] = "enforce"
    site.settings["EMITTERD_SPOOL_EXCLUDE"] = "old/"
    site.drop("pat/holiday_pictures.zip")
    site.drop("old/x.zip")
    site.drop("pat/SHOUT.ZIP")
    (site.spool / "pat" / "half.zip").write_bytes(b"PK\3\4")
    (site.spool / "pat" / "notes.txt").write_text("buy milk")
    (site.spool / "pat" / "x.zip.part").touch()
    (site.spool / "pat" / "link.zip").symlink_to("half.zip")
    (site.spool / ".git").mkdir()
    site.call("once", "--wait", "1s")

    rows = {entry["path"]: entry for entry in site.ask("list", "--skipped")}
    table = site.call("list", "--skipped").stdout

    assert {path: item.get("error") for path, item in rows.items()} == {
        "pat/holiday_pictures.zip": "E210",
        "old/": None,
        "pat/SHOUT.ZIP": "E223",
        "pat/half.zip": "E201",
        "pat/notes.txt": None,
        "pat/x.zip.part": None,
        "pat/link.zip": "E207",
        ".git/": None,
    }
    assert rows["old/"]["reason"] == "spool.exclude names it: old/"
    assert all(path in table for path in rows)


@pytest.mark.slow
@pytest.mark.parametrize("catalogue", ["off", "warn", "enforce"])
def test_a_zip_at_the_top_is_never_sent(
    site: Installation, server: RehearsalServer, catalogue: str
) -> None:
    """With any `spool.catalogue`, the file is reported with the command that moves it."""
    site.settings["EMITTERD_SPOOL_CATALOGUE"] = catalogue
    name = OTHER.rpartition("/")[2]
    zip_file = site.drop(name, sample(OTHER))
    command = f"mv {zip_file} {site.spool}/pat/"

    done = site.call("once", "--wait", "1s")

    assert done.returncode == 1
    assert f"{name}: E220" in done.stderr
    assert command in done.stderr
    assert not server.objects
    assert not site.entries()
    (listed,) = site.ask("list", "--skipped")
    assert (listed["path"], listed["error"]) == (name, "E220")
    assert command in listed["hint"]
    explained = site.call("explain", name).stdout
    assert "never sent: it is at the top of the watched folder" in explained
    assert command in explained

    (site.spool / "pat").mkdir()
    subprocess.run(shlex.split(command), check=True)  # noqa: S603  as a person would paste it
    assert site.call("once").returncode == 0
    assert states(site) == {OTHER: "delivered"}


@pytest.mark.slow
def test_good_bad_good_again(tmp_path: Path, server: RehearsalServer) -> None:
    """A delivered file that comes back after a bad version is delivered, and known."""
    site = Installation(tmp_path, server.url, spool_catalogue="enforce")
    good = site.drop(OTHER, sample(OTHER)).read_bytes()
    first = site.call("once")
    site.drop(OTHER, sample(OTHER).replace(b"exam_id", b"exam", 1))
    bad = site.call("once")
    (site.spool / OTHER).write_bytes(good)
    back = site.call("once")
    again = site.call("once")

    codes = [item.returncode for item in (first, bad, back, again)]
    assert codes == [0, 1, 0, 0]
    assert "file.unchanged" in back.stdout
    assert "file.admitted" not in again.stdout
    assert site.ask("explain", OTHER)["state"] == "delivered"
    assert len(server.objects) == 1


def test_before_the_first_start(site: Installation) -> None:
    """What lies in the folder can be asked after before any daemon ran."""
    site.drop(NAME)
    (site.spool / "notes.txt").touch()

    assert site.ask("explain", NAME)["state"] == "new"
    assert [entry["path"] for entry in site.ask("list", "--skipped")] == ["notes.txt"]
    assert not site.journal.exists()


@pytest.mark.slow
def test_folder_that_is_not_there(site: Installation) -> None:
    """An absent folder is reported to be absent, and is no clean answer."""
    site.call("once")
    site.spool.rename(site.folder / "away")

    done = site.call("list", "--skipped")

    assert done.returncode == 1
    assert "E105 the watched folder" in done.stderr


def redirected(
    site: Installation, command: str, redirection: str, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line of emitterd in a shell, with a redirection."""
    return subprocess.run(  # noqa: S602  the shell is what is asked for
        f"{shlex.join(site.command(*command.split()))} {redirection}",
        shell=True,
        env=site.environment(**extra),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "message"),
    [(">/dev/full", "No space left on device"), (">&-", "is closed"), ("| head -c1", "")],
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ["list", "list --json", "receipts --csv"])
def test_output_that_nobody_can_take(
    delivered: Installation, command: str, unbuffered: str, redirection: str, message: str
) -> None:
    """A full or closed output is reported in one line, and not as a bug of emitterd."""
    done = redirected(delivered, command, redirection, PYTHONUNBUFFERED=unbuffered)

    assert message in done.stderr
    assert done.stderr.count("\n") == (1 if message else 0)
    assert done.returncode == (1 if message else 0)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["receipts --csv", "list", "list --json"])
def test_a_reader_that_has_enough_ends_a_command_quietly(site: Installation, command: str) -> None:
    """`emitterd list | head -1` ends with 0 and no complaint, however long the list is."""
    with open_journal(site.journal) as journal:
        admit(journal, *(admission(b"pat/%d.zip" % number) for number in range(5000)))
        entry = journal.claim(time.time())
        while entry is not None:
            deliver(journal, entry)
            entry = journal.claim(time.time()) if entry.id < 2000 else None
    line = f"{{ {shlex.join(site.command(*command.split()))}; echo $? >&2; }} | head -1"
    done = subprocess.run(  # noqa: S602  our own command line
        line, shell=True, env=site.environment(), capture_output=True, text=True, check=False
    )

    assert done.stdout.count("\n") == 1
    assert done.stderr == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "en_US.ISO-8859-1"}, {}])
def test_names_are_escaped_where_the_terminal_cannot_show_them(
    site: Installation, locale: dict[str, str]
) -> None:
    """With any encoding of standard output, a command prints the name and ends with 0."""
    name = "pat/परीक्षा.zip"
    site.drop(name)
    site.drop("pat/परीक्षा.ZIP")
    assert site.call("once").returncode in {0, 1}
    settings = locale | {"PYTHONIOENCODING": "ISO-8859-1" if locale else "ascii"}
    for command in ("list", "receipts", "list --skipped", "receipts --csv", f"explain {name}"):
        done = subprocess.run(  # noqa: S603  our own argument list
            site.command(*command.split()),
            env=site.environment(**settings),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"\\u092a" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ["--help", "--version", "explain-error"])
def test_text_that_does_not_fit(tmp_path: Path, command: str, unbuffered: str) -> None:
    """Every command that cannot write its output says so in a line, and ends with 1."""
    site = Installation(tmp_path, "http://127.0.0.1:9/data")
    line = [sys.executable, "-m", "emitterd", command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603  our own argument list
            line,
            cwd=site.folder,
            env=site.environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_complaint_that_nobody_can_take(site: Installation, redirection: str) -> None:
    """The exit code stays, and no complaint is printed among the data."""
    site.config.write_text("nonsense: 1\n")

    done = redirected(site, "list --json", redirection)

    assert done.returncode == 78
    assert done.stdout == ""


@pytest.mark.slow
def test_sheet_takes_no_name_for_a_formula(site: Installation) -> None:
    """A name that a spreadsheet would calculate is marked as text."""
    site.drop("=1+1/x.zip")
    site.call("once")

    (line,) = csv.DictReader(io.StringIO(site.call("receipts", "--csv").stdout))

    assert line["path"] == "'=1+1/x.zip"


@pytest.mark.slow
def test_unknown_path_is_reported(site: Installation) -> None:
    """A path that nobody has seen is an answer with exit code 1."""
    site.call("once")

    done = site.call("explain", "pat/typo.zip")

    assert done.returncode == 1
    assert "there is no such file" in done.stdout


EVIL = 'pat/\x1b[31m\n{"event": "file.delivered"}\x0b\x1c\x85\u2028\u202e.zip'


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "--json"],
        ["list", "--skipped"],
        ["list", "--skipped", "--json"],
        ["explain", EVIL],
        ["explain", EVIL, "--json"],
        ["receipts"],
        ["receipts", "--csv"],
        ["hold", EVIL],
        ["forget", EVIL],
        ["inspect", "{spool}/" + EVIL],
        ["inspect", "{spool}/" + EVIL, "--json"],
        ["once"],
    ],
    ids=" ".join,
)
def test_no_name_forges_a_line(
    tmp_path: Path, server: RehearsalServer, arguments: list[str]
) -> None:
    """Names with escapes, line breaks and marks of direction are printed escaped."""
    site = Installation(tmp_path, server.url, spool_exclude="never/")
    site.drop(EVIL)
    site.drop("never/" + EVIL)
    site.call("once")

    done = site.call(*(argument.replace("{spool}", str(site.spool)) for argument in arguments))

    text = done.stdout + done.stderr
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith('{"event"') for line in lines)
    assert "Traceback" not in text


def test_codes_are_explained(tmp_path: Path) -> None:
    """One code has its playbook, none has the list, and `--json` has the parts."""
    done = emitterd("explain-error", "e210", cwd=tmp_path)
    every = emitterd("explain-error", cwd=tmp_path)
    record = json.loads(emitterd("explain-error", "E210", "--json", cwd=tmp_path).stdout)

    assert done.returncode == every.returncode == 0
    assert done.stdout.startswith("E210: ")
    assert "What to do" in done.stdout
    assert "E509" in every.stdout
    assert record["code"] == "E210"
    assert record["steps"]


def test_unknown_code(tmp_path: Path) -> None:
    """A code that does not exist is wrong usage."""
    done = emitterd("explain-error", "E219", cwd=tmp_path)

    assert done.returncode == 2
    assert "E219" in done.stderr


@pytest.mark.system
def test_what_the_daemon_cannot_read_is_visible_everywhere(site: Installation) -> None:
    """Judged by the daemon's rights, though root asks: list, explain, status and its check."""
    if os.getuid() != 0:
        pytest.skip("only root can drop rights that root has")
    hidden = site.drop("pat/hidden.zip")
    os.chown(hidden, 65534, 65534)
    hidden.chmod(0)
    daemon = site.start(by=("setpriv", "--bounding-set=-dac_override,-dac_read_search"))
    daemon.wait_for_event("sweep.finished")
    wait_until(lambda: site.ask("status")["not_sent"] == {"E205": 1}, 20.0, "it is noted")

    (skipped,) = site.ask("list", "--skipped")
    explained = site.call("explain", "pat/hidden.zip", "--json")
    check, status = site.call("status", "--check"), site.call("status")
    daemon.end()

    assert (skipped["path"], skipped["error"]) == ("pat/hidden.zip", "E205")
    assert json.loads(explained.stdout)["state"] == "unreadable"
    assert check.returncode == 1
    assert check.stdout.startswith(
        "WARNING - 1 path in the folder is not sent: 1 cannot be read (pat/hidden.zip)"
    )
    assert "1 (1 E205): see emitterd list --skipped" in status.stdout
    (finished, *_) = site.events("sweep.finished")
    assert (finished["unreadable"], finished["not_sent"]) == (1, 1)
    # The same program with root's rights sees a complete file.
    assert site.ask("list", "--skipped") == []


@pytest.mark.slow
def test_a_second_daemon_on_the_folder_is_a_warning(
    site: Installation, tmp_path: Path, server: RehearsalServer
) -> None:
    """Its log and its check say so, until the first one ends."""
    (tmp_path / "other").mkdir()
    other = Installation(tmp_path / "other", server.url)
    other.settings["EMITTERD_SPOOL_DIRECTORY"] = str(site.spool)

    def check() -> str:
        return other.call("status", "--check").stdout

    with site.running() as first, other.running():
        wait_until(lambda: "same folder" in check(), 20.0, "noted")
        assert len(other.events("watch.shared")) == 1
        assert site.events("watch.shared") == []
        first.end()
        wait_until(lambda: check().startswith("OK"), 20.0, "all well again")
