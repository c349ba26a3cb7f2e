"""`emitterd once`: one sweep, an exit code, and a list of what is left."""

import csv
import io
import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from emitterd.model import State
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.zips import sample
from unit.datasets.zip_corpus import PATH, SHAPES, Server

LIMIT_S = 30.0
NAME = "pat/periodic_exam_mst.zip"


def test_all_delivered_is_zero(site: Installation, server: RehearsalServer) -> None:
    """Everything delivered: exit code 0; standard error has the summary, and no more."""
    site.drop("school_master/school_mst.zip")
    site.drop("pat/periodic_exam_mst.zip")

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 0
    assert re.fullmatch(r"2 files delivered \(\d+ B\) in \S+, 0 not delivered\n", done.stderr)
    assert len(server.objects) == 2


def test_empty_folder_is_zero(site: Installation) -> None:
    """An empty folder has nothing undelivered."""
    assert site.call("once", timeout_s=LIMIT_S).returncode == 0


def test_second_run_sends_nothing(site: Installation, server: RehearsalServer) -> None:
    """The next run knows what was delivered."""
    site.drop("school_master/school_mst.zip")
    site.call("once", timeout_s=LIMIT_S)

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 0
    assert len(server.objects) == 1


def test_broken_zip_is_listed(site: Installation, server: RehearsalServer) -> None:
    """A broken zip is listed with its code; the others go through."""
    whole = site.drop("school_master/school_mst.zip")
    broken = site.spool / "school_master" / "school_mst_2.zip"
    broken.write_bytes(whole.read_bytes()[:-5])

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "school_master/school_mst_2.zip: E201" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(server.objects) == 1


def test_file_still_written_is_listed(site: Installation, server: RehearsalServer) -> None:
    """A zip that a program still writes is listed as such, not sent."""
    whole = site.drop("school_master/school_mst.zip")
    with whole.open("ab"):
        done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "school_master/school_mst.zip: E206" in done.stderr
    assert not server.objects


def test_wrong_password_is_reported_in_a_line(site: Installation, server: RehearsalServer) -> None:
    """A refused login ends the run soon, after one request, with the reason."""
    (site.folder / "password").write_text("wrong")
    site.drop("school_master/school_mst.zip")

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "E401 the login says: Invalid user credentials" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert sum(request.endpoint == "auth" for request in server.requests) == 1


@pytest.mark.slow
def test_server_down_is_reported_in_a_line(tmp_path: Path) -> None:
    """A server that refuses connections ends the run within 30 s, in a line."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    site = Installation(tmp_path, f"http://127.0.0.1:{port}/data")
    site.drop("school_master/school_mst.zip")

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "school_master/school_mst.zip: E302" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_passing_fault_is_waited_out(site: Installation, server: RehearsalServer) -> None:
    """Faults that end within the wait do not fail the run."""
    server.faults = fault_list("503@2")
    site.drop("school_master/school_mst.zip")

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 0
    assert server.fired["503"] == 2


def test_symbolic_link_is_listed(site: Installation, server: RehearsalServer) -> None:
    """A link is not followed, but it is reported."""
    outside = site.drop("../outside.zip")
    (site.spool / "link.zip").symlink_to(outside)

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "link.zip: E207" in done.stderr
    assert not server.objects


@pytest.mark.slow
def test_journal_held_by_a_daemon(site: Installation) -> None:
    """While a daemon runs, `once` leaves the work to it and exits with 75."""
    with site.running() as daemon:
        done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 75
    assert "systemctl stop emitterd" in done.stderr
    assert "journal.path" not in done.stderr
    assert f"is held by process {daemon.pid}" in done.stderr


def test_upper_case_ending_is_listed(site: Installation, server: RehearsalServer) -> None:
    """`DATA.ZIP`, which the server would not accept, is reported."""
    site.drop("pat/DATA.ZIP")

    done = site.call("once", timeout_s=LIMIT_S)

    assert done.returncode == 1
    assert "pat/DATA.ZIP: E223" in done.stderr
    assert not server.objects


@pytest.mark.slow
def test_grant_of_another_server_is_not_used(
    site: Installation, server: RehearsalServer, tmp_path: Path
) -> None:
    """After a change of `emission.url` nothing is sent with the old grant."""
    server.faults = fault_list("503")
    site.drop("school_master/school_mst.zip")
    site.call("once", "--wait", "1s", timeout_s=LIMIT_S)
    server.faults = fault_list("")
    with RehearsalServer(tmp_path / "other") as other:
        text = site.config.read_text()
        site.config.write_text(text.replace(server.url, other.url))
        done = site.call("once", timeout_s=LIMIT_S)

        assert done.returncode == 0
        assert len(other.objects) == 1
    assert not server.objects


@pytest.mark.slow
def test_rejected_and_put_aside_is_still_listed(tmp_path: Path, server: RehearsalServer) -> None:
    """A run that moves a rejected file out of the folder is not a success."""
    site = Installation(
        tmp_path,
        server.url,
        spool_catalogue="enforce",
        spool_rejected_directory=str(tmp_path / "rejected"),
    )
    site.drop("pat/holiday_pictures.zip")

    first = site.call("once", timeout_s=LIMIT_S)
    second = site.call("once", timeout_s=LIMIT_S)

    assert first.returncode == 1
    assert "pat/holiday_pictures.zip: E210" in first.stderr
    assert not (site.spool / "pat" / "holiday_pictures.zip").exists()
    assert second.returncode == 0
    assert second.stderr.startswith("0 files delivered (0 B) in ")


@pytest.mark.slow
def test_files_of_a_former_server_are_counted_and_not_sent_again(
    site: Installation, server: RehearsalServer, tmp_path: Path
) -> None:
    """After a change of emission.url the start and `check` say how many files that one got."""
    site.drop("pat/periodic_exam_mst.zip")
    site.drop("pat/periodic_exam_mst_2.zip")
    starts = [site.call("once", timeout_s=LIMIT_S)]
    with RehearsalServer(tmp_path / "other") as other:
        site.settings["EMITTERD_EMISSION_URL"] = other.url
        before = site.call("check").stdout
        site.drop("pat/periodic_exam_mst_3.zip")
        starts.append(site.call("once", timeout_s=LIMIT_S))
        sent = len(other.objects)
        assert site.call("forget", "pat/periodic_exam_mst.zip").returncode == 0
        starts.append(site.call("once", timeout_s=LIMIT_S))
        after = site.call("check").stdout

        assert (len(server.objects), sent, len(other.objects)) == (2, 1, 2)
    assert "2 files delivered to a former server only" in before
    assert "emitterd forget" in before
    assert "1 file delivered to a former server only" in after
    lines = [json.loads(line) for start in starts for line in start.stdout.splitlines()]
    warnings = [line for line in lines if line["event"] == "journal.former_server"]
    # The forgotten file is no longer one that only the former server has.
    assert [line["count"] for line in warnings] == [2, 1]
    assert warnings[0]["hint"]


@pytest.mark.slow
def test_what_the_server_will_drop_is_not_all_well(site: Installation) -> None:
    """A file that is sent in vain is named by `once`, the check, and the receipts."""
    site.settings["EMITTERD_SPOOL_CATALOGUE"] = "warn"
    site.drop(NAME, sample(NAME).replace(b"exam_id", b"exam"))

    once, again = site.call("once"), site.call("once")
    check, receipts = site.call("status", "--check"), site.call("receipts", "--csv")

    for done in (once, again):
        assert done.returncode == 1
        assert "1 file is delivered, but the server will drop what it got" in done.stderr
        assert done.stderr.endswith(", 0 not delivered, 1 delivered that the server will drop\n")
        assert f"{NAME}: E233 the server deletes the object" in done.stderr
    assert site.counts()["delivered"] == 1
    assert check.returncode == 1
    assert check.stdout.startswith(
        f"WARNING - 1 file was delivered, but the server will drop it ({NAME})"
    )
    (row,) = csv.DictReader(io.StringIO(receipts.stdout))
    assert row["findings"] == "E233 error"

    site.drop(NAME, sample(NAME))
    assert site.call("once").returncode == 0
    assert site.call("status", "--check").returncode == 0


@pytest.mark.slow
def test_files_that_no_daemon_looks_at_are_a_warning(site: Installation) -> None:
    """While no daemon runs, `status` and its check look into the folder themselves."""
    words = "no daemon runs, and a file in the folder is not in the queue (pat/later.zip)"
    site.drop(NAME)
    site.call("once")
    assert site.call("status", "--check").returncode == 0
    assert site.call("status").stdout.startswith("OK: nothing waits; no daemon runs\n")
    site.drop("pat/later.zip")
    check = site.call("status", "--check")
    assert check.returncode == 1
    assert check.stdout.startswith(f"WARNING - {words}")
    assert site.call("status").stdout.startswith(f"WARNING: {words}")


@pytest.mark.slow
@pytest.mark.parametrize("catalogue", ["warn", "enforce"])
def test_every_form_of_zip_is_sent_or_not(
    tmp_path: Path, server: RehearsalServer, catalogue: str
) -> None:
    """With `enforce` only what the server reads is sent, with `warn` every whole zip."""
    site = Installation(tmp_path, server.url, spool_catalogue=catalogue)
    keys = {PATH.replace(".zip", f"_{number}.zip"): shape for number, shape in enumerate(SHAPES)}
    for path, shape in keys.items():
        file = site.spool / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(shape.data)

    done = site.call("once", timeout_s=4 * LIMIT_S)
    entries = site.entries(State.DELIVERED)

    sent = [shape for shape in SHAPES if shape.codes != "E201"]
    if catalogue == "enforce":
        sent = [shape for shape in sent if shape.server is Server.READS and shape.codes != "E229"]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert {keys[entry["path"]].name for entry in entries} == {shape.name for shape in sent}


@pytest.mark.slow
def test_a_file_that_never_settles_does_not_keep_once_from_ending(
    tmp_path: Path, server: RehearsalServer
) -> None:
    """It gets the time to settle after the last progress, and is then listed."""
    site = Installation(tmp_path, server.url, spool_completion="quiet", spool_settle="2s")
    file, ended = site.drop("school_master/school_mst.zip"), threading.Event()

    def touch() -> None:
        while not ended.wait(0.1):
            os.utime(file)

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        done = site.call("once", "--wait", "1s", timeout_s=LIMIT_S)
    finally:
        ended.set()
        toucher.join()

    assert done.returncode == 1
    assert "school_master/school_mst.zip" in done.stderr
