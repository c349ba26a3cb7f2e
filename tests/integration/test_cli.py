"""The commands as an operator calls them: output, JSON, exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emitterd import __version__
from emitterd.model import State
from emitterd.rehearsal.server import RehearsalServer
from support.command import emitterd
from support.faults import fault_list
from support.installation import Installation
from support.waiting import wait_until


def test_version(tmp_path: Path) -> None:
    """`--version` prints the version of the package."""
    done = emitterd("--version", cwd=tmp_path)

    assert (0, f"emitterd {__version__}\n") == (done.returncode, done.stdout)


def test_unknown_command_is_usage(tmp_path: Path) -> None:
    """A command that does not exist exits with 2."""
    assert emitterd("deliver", cwd=tmp_path).returncode == 2


def test_no_configuration(tmp_path: Path) -> None:
    """Without a configuration the places looked at are named; exit code 78."""
    done = emitterd("run", cwd=tmp_path)

    assert done.returncode == 78
    assert "emitter.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_reports_all_problems(site: Installation) -> None:
    """Every problem of the configuration is reported at once, with line and remedy."""
    text = site.config.read_text()
    site.config.write_text(text + "delivry:\n  workers: 3\nlog:\n  level: loud\n")

    done = site.call("check")

    assert done.returncode == 78
    assert "2 problems" in done.stderr
    assert "delivery" in done.stderr
    assert "log.level" in done.stderr
    assert "line 13" in done.stderr


def test_check_of_a_fit_machine(site: Installation) -> None:
    """A valid installation passes, with its settings shown and its secret masked."""
    done = site.call("check")

    assert done.returncode == 0
    assert str(site.spool) in done.stdout
    assert "inotify" in done.stdout
    assert "rehearsal" not in done.stdout


@pytest.mark.parametrize(
    ("bandwidth", "expected"),
    [
        ("2MiB/s", "ok       delivery.bandwidth      2MiB/s\n"),
        ("off", "ok       delivery.bandwidth      no limit\n"),
        ("[{from: 00:00, to: 24:00, limit: 512KiB/s}]", "512KiB/s now ("),
        ("[{from: 00:00, to: 12:00, limit: 2MiB/s}, {limit: 2MiB/s}]", "2MiB/s now ("),
    ],
)
def test_check_shows_the_limit_in_force(site: Installation, bandwidth: str, expected: str) -> None:
    """It says which limit holds now."""
    with site.config.open("a") as file:
        file.write(f"delivery:\n  bandwidth: {bandwidth}\n")

    done = site.call("check")

    assert expected in done.stdout
    assert done.returncode == 0


def test_status_while_running_and_after(site: Installation) -> None:
    """`status --json` is one object, while the daemon runs and after it."""
    with site.running():
        site.drop("school_master/school_mst.zip")
        site.wait_delivered(1)
        during = json.loads(site.call("status", "--json").stdout)
    after = json.loads(site.call("status", "--json").stdout)

    assert during["running"]
    assert not after["running"]
    assert {state.value for state in State} == set(after["counts"])
    assert after["counts"]["delivered"] == 1
    assert after["destination"] == {"state": "up"}
    assert after["last_delivered_at"].endswith("Z")


@pytest.mark.slow
def test_status_shows_an_outage(site: Installation, server: RehearsalServer) -> None:
    """While the destination is parked, `status` says since when and why."""
    server.faults = fault_list("no-such-bucket")
    site.drop("school_master/school_mst.zip")
    with site.running() as daemon:
        daemon.wait_for_event("destination.down")
        output = json.loads(site.call("status", "--json").stdout)
        table = site.call("status").stdout

    assert output["destination"]["state"] == "down"
    assert output["destination"]["error"] == "E504"
    assert output["destination"]["stage"] == "bucket"
    assert [stage["error"] for stage in output["destination"]["stages"]] == ["E504"]
    assert output["oldest_waiting_at"] is not None
    assert "down at the upload for " in table
    assert "E504" in table


@pytest.mark.slow
def test_list_as_data_and_as_a_table(site: Installation) -> None:
    """`list --json` has the contract's fields; the whole table names path and key."""
    site.drop("school_master/school_mst.zip")
    site.call("once")

    (entry,) = json.loads(site.call("list", "--json").stdout)
    table = site.call("list", "--wide").stdout

    wanted = "path state bytes sha256 md5 etag key attempts admitted_at delivered_at"
    assert {*wanted.split(), "ambiguous"} <= set(entry)
    assert entry["path"] == "school_master/school_mst.zip"
    assert entry["attempts"] == 1
    assert entry["key"] in table


@pytest.mark.slow
def test_list_of_one_state(site: Installation) -> None:
    """`--state` lists that state only; nothing there is an empty array."""
    site.drop("school_master/school_mst.zip")
    site.call("once")

    assert json.loads(site.call("list", "--state", "rejected", "--json").stdout) == []
    assert len(json.loads(site.call("list", "--state", "delivered", "--json").stdout)) == 1


def test_file_names_cannot_forge_output(site: Installation) -> None:
    """Escape sequences and newlines in a name are shown, not obeyed."""
    site.drop("pat/\x1b[31mred\nrejected.zip")
    site.call("once")

    done = site.call("list")

    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred\\nrejected.zip" in done.stdout


def test_status_before_the_first_start(site: Installation) -> None:
    """Without a journal yet, `status` says so in a line and exits with 78."""
    done = site.call("status")

    assert done.returncode == 78
    assert "E102" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_second_instance_is_refused(site: Installation) -> None:
    """A second daemon on the same journal exits with 75 and names the holder."""
    with site.running() as daemon:
        done = site.call("run")

    assert done.returncode == 75
    assert f"process {daemon.pid}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(site: Installation, server: RehearsalServer, number: signal.Signals) -> None:
    """SIGTERM and SIGINT let the upload under way finish; exit code 0."""
    server.faults = fault_list("slow-answer@1:1")
    site.drop("school_master/school_mst.zip")
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-answer"], 30, "an upload under way")
        daemon.signal(number)
        code = daemon.wait()

    assert code == 0
    assert site.counts()["delivered"] == 1


@pytest.mark.slow
def test_drain_timeout_interrupts_at_no_cost(tmp_path: Path) -> None:
    """What does not finish within `drain_timeout` goes back to the queue, uncharged."""
    with RehearsalServer(tmp_path / "server") as server:
        site = Installation(tmp_path, server.url, delivery_drain_timeout="500ms")
        server.faults = fault_list("slow-answer@1:60")
        site.drop("school_master/school_mst.zip")
        with site.running() as daemon:
            wait_until(lambda: server.fired["slow-answer"], 30, "an upload under way")
            daemon.signal(signal.SIGTERM)
            code = daemon.wait(20)

        (entry,) = site.entries()
        assert code == 0
        assert (entry["state"], entry["attempts"]) == ("queued", 0)
        with site.running():
            site.wait_delivered(1)
        assert len(server.objects) == 1


def test_second_signal_stops_at_once(site: Installation, server: RehearsalServer) -> None:
    """A second signal does not wait for the drain."""
    server.faults = fault_list("slow-answer@1:60")
    site.drop("school_master/school_mst.zip")
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-answer"], 30, "an upload under way")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_event("daemon.stopping")
        daemon.signal(signal.SIGTERM)
        code = daemon.wait(20)

    assert code == 0
    assert site.counts()["queued"] == 1


@pytest.mark.slow
def test_demo_ends_with_receipts_that_have_the_side_of_the_server(tmp_path: Path) -> None:
    """One file is partly dropped, one stalls, and the others are processed or have no log."""
    done = emitterd("demo", "--keep", str(tmp_path / "kept"), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "35 files delivered" in done.stdout
    assert "28 processed; 5 picked up; 1 processed, 3 rows dropped; 1 stalled" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["pat/periodic_exam_result_trans.zip"].endswith("  processed")
    assert rows["pat/periodic_exam_mst.zip"].endswith("  processed, 3 rows dropped")
    assert rows["student_attendance/student_attendance_2020.zip"].endswith("  stalled")
    assert (tmp_path / "kept" / "emitterd.jsonl").exists()


@pytest.mark.slow
def test_demo_with_cqube_5_ends_with_receipts_that_have_its_counts(tmp_path: Path) -> None:
    """One file has dropped rows, one is rejected, and the others are processed whole."""
    kept = tmp_path / "kept"
    done = emitterd("demo", "--protocol", "ingestion", "--keep", str(kept), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "14 files delivered" in done.stdout
    assert "13 processed; 1 processed, 3 rows dropped" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    folder = "programs/"
    assert rows[f"{folder}udise-all-dashboard.zip"].endswith("  processed")
    assert rows[f"{folder}nas_all-dashboard.zip"].endswith("  processed, 3 rows dropped")
    assert " is rejected: " in rows[f"{folder}vsk_diksha_etb_coverage-status.zip"]


def test_rehearse_lists_its_faults(tmp_path: Path) -> None:
    """`rehearse --faults` prints the menu; an unknown fault is a usage error."""
    listed = emitterd("rehearse", "--faults", cwd=tmp_path)
    unknown = emitterd("rehearse", "--fault", "flood:1", cwd=tmp_path)

    assert "lost-answer" in listed.stdout
    assert unknown.returncode == 2
    assert "flood" in unknown.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--api-key", "key of the practice server")])
def test_rehearse_prints_lines_that_work(tmp_path: Path, options: tuple[str, ...]) -> None:
    """They replace the section of emitter.yaml, and the check of the server finds no problem."""
    (tmp_path / "cqube_emission").mkdir()
    program = [sys.executable, "-m", "emitterd", "rehearse", "--port=0", *options]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            assert server.stdout is not None
            printed = "".join(iter(server.stdout.readline, "  allow_insecure_http: true\n"))
            section = printed[printed.index("emission:\n") :] + "  allow_insecure_http: true\n"
            (tmp_path / "emitter.yaml").write_text(
                f"{section}spool: {{directory: cqube_emission}}\njournal: {{path: journal.db}}\n"
            )
            check = emitterd("check", "--online", cwd=tmp_path)
        finally:
            server.terminate()

    assert check.returncode == 0, check.stdout + check.stderr
    assert "0 errors, 0 warnings" in check.stdout


def test_archive_after_delivery(tmp_path: Path, server: RehearsalServer) -> None:
    """With `after_delivery: archive` a delivered file moves to the dated archive."""
    site = Installation(
        tmp_path,
        server.url,
        spool_after_delivery="archive",
        spool_archive_directory=str(tmp_path / "archive"),
    )
    dropped = site.drop("school_master/school_mst.zip")

    done = site.call("once")

    assert done.returncode == 0
    assert not dropped.exists()
    (archived,) = (tmp_path / "archive").glob("*/school_master/school_mst.zip")
    assert archived.is_file()


def test_catalogue_enforced(tmp_path: Path, server: RehearsalServer) -> None:
    """With `catalogue: enforce` a name the server would ignore is rejected."""
    site = Installation(tmp_path, server.url, spool_catalogue="enforce")
    site.drop("pat/holiday_pictures.zip")

    done = site.call("once")

    assert done.returncode == 1
    assert "pat/holiday_pictures.zip: E210" in done.stderr
    assert not server.objects


@pytest.mark.slow
def test_reading_needs_no_secret_and_no_folder(site: Installation) -> None:
    """`status` and `list` work while the secret and the watched folder are away."""
    site.drop("school_master/school_mst.zip")
    site.call("once")
    (site.folder / "password").unlink()
    site.spool.rename(site.folder / "away")

    assert site.call("status", "--json").returncode == 0
    assert len(json.loads(site.call("list", "--json").stdout)) == 1
    assert site.call("check").returncode == 78


def test_unusable_certificate_is_a_configuration_problem(site: Installation) -> None:
    """A file that holds no certificate is reported with its line, exit code 78."""
    (site.folder / "ca.pem").write_text("no certificate")
    text = site.config.read_text()
    site.config.write_text(text.replace("spool:", "  ca_file: ca.pem\nspool:"))

    done = site.call("run")

    assert done.returncode == 78
    assert "emission.ca_file" in done.stderr
    assert "Traceback" not in done.stderr


def test_bug_exits_with_70(tmp_path: Path) -> None:
    """What nobody expected leaves its traceback and exit code 70."""
    script = (
        "import sys; sys.argv = ['emitterd', 'demo'];"
        "import emitterd.cli.commands.demo as demo; demo.show = lambda *_: 1 / 0;"
        "from emitterd.__main__ import main; main()"
    )
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert "this is a bug in emitterd" in done.stderr


def test_demo_wants_a_new_folder(tmp_path: Path) -> None:
    """A folder with something in it is refused in a line."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").touch()

    done = emitterd("demo", "--keep", str(tmp_path / "kept"), cwd=tmp_path)

    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_status_of_the_datasets(site: Installation) -> None:
    """Each dataset has its last arrival and delivery; what is overdue is an alarm too."""
    with site.config.open("a") as file:
        file.write("datasets:\n  expect: {student_attendance: 1d, sat: 1ms}\n")
    site.drop("student_attendance/student_attendance.zip")
    site.call("once")

    rows = {row["dataset"]: row for row in site.ask("status", "--datasets")}
    table = site.call("status", "--datasets").stdout
    checked = site.call("status", "--check")

    assert next(iter(rows)) == "district_master/district_mst"
    arrived = rows["student_attendance/student_attendance"]
    assert arrived["last_arrival_at"] <= arrived["last_delivered_at"]
    assert rows["student_attendance"]["last_delivered_at"] == arrived["last_delivered_at"]
    assert not rows["student_attendance"]["overdue"]
    assert rows["sat"]["overdue"]
    assert [line.split()[0] for line in table.splitlines()] == [
        *("dataset", "sat", "student_attendance", "student_attendance/student_attendance"),
        "never",
    ]
    assert checked.returncode == 1
    assert "WARNING - a dataset is overdue: sat, expected every 1ms and never" in checked.stdout
    assert site.call("status", "--datasets", "--check").returncode == 2
