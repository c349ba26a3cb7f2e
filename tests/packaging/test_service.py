"""The service under real systemd, from the package: started, killed, stopped, hung.

The machine is a Debian booted for this module; the server is on this host's loopback.
Files are dropped by a user who is only in the producers' group.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd import failpoints
from emitterd.codes import Code
from emitterd.rehearsal.server import FaultList, RehearsalServer
from support.debian import Machine
from support.faults import fault_list
from support.installation import DEADLINE_S, PASSWORD
from support.receivers import Receivers
from support.waiting import wait_until
from support.zips import zip_bytes

pytestmark = pytest.mark.timeout(600)

SPOOL = "/srv/cqube_emission"
CONFIGURATION = f"""\
emission:
  url: {{url}}
  username: emission
  password_file: /etc/emitterd/password
  allow_insecure_http: true
spool:
  directory: {SPOOL}
  # What is delivered in these tests was proved to be closed, by a lease.
  settle: 1h
delivery:
  backoff_initial: 100ms
  drain_timeout: 1s
"""
LARGE = b"id|name\n" + os.urandom(2_000_000)
SLOW = fault_list("slow-reader:1:200000")


class Service:
    """The service in the machine, and the server that it delivers to."""

    def __init__(self, machine: Machine, server: RehearsalServer) -> None:
        self.machine = machine
        self.server = server

    def drop(self, path: str, content: bytes = b"id|name\n1|one\n") -> None:
        """Have the producer copy a zip into the folder."""
        made = self.machine.root / "var/tmp/made.zip"
        made.write_bytes(zip_bytes(content))
        script = 'umask 077; mkdir -p "${2%/*}"; cp "$1" "$2"'
        arguments = ("sh", "-c", script, "sh", "/var/tmp/made.zip", path)  # noqa: S108  the machine's own
        self.machine.run(*arguments, user="asha")

    def start(self) -> None:
        """Start the service; where it does not start its journal says why."""
        if self.machine.call("systemctl", "restart", "emitterd").returncode:
            pytest.fail(self.machine.run("journalctl", "--unit=emitterd", "--output=cat"))

    def entry(self, path: str) -> dict[str, Any] | None:
        """Return the journal's latest entry of a path."""
        output = self.machine.run("emitterd", "list", "--json")
        return next((record for record in json.loads(output)[::-1] if record["path"] == path), None)

    def wait_for(self, path: str, state: str) -> None:
        """Wait until a path is in a state."""
        wait_until(
            lambda: (self.entry(path) or {}).get("state") == state, DEADLINE_S, f"{path} {state}"
        )

    def keys(self, path: str) -> list[str]:
        """Return the keys of the objects stored for a path."""
        stem = path.removesuffix(".zip")
        return [item for item in self.server.objects if item.rpartition("_")[0] == stem]

    def grants(self, path: str) -> int:
        """Return how many grants were asked for a path."""
        asked = [
            request for request in list(self.server.requests) if request.endpoint == "upload-url"
        ]
        return sum(path.endswith(request.name) or request.name.endswith(path) for request in asked)

    def logged(self, *arguments: str) -> list[dict[str, str]]:
        """Return what journalctl has of the service, each with its fields."""
        output = self.machine.run(*("journalctl", "--unit=emitterd", "--output=json", *arguments))
        return [json.loads(line) for line in output.splitlines()]

    def set(self, settings: str) -> None:
        """Write a drop-in for the unit, or remove it where there are no settings."""
        folder = self.machine.root / "etc/systemd/system/emitterd.service.d"
        folder.mkdir(exist_ok=True)
        drop_in = folder / "test.conf"
        drop_in.unlink(missing_ok=True)
        if settings:
            drop_in.write_text(f"[Service]\n{settings}\n")
        self.machine.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsalServer]:
    """Run a rehearsal server for the module."""
    with RehearsalServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def installed(machine: Machine, package: Path, server: RehearsalServer) -> Service:
    """Install the package without a network, configure it, and start the service."""
    (machine.root / "root" / package.name).write_bytes(package.read_bytes())
    machine.run("unshare", "--net", "dpkg", "--install", f"/root/{package.name}")
    machine.run("useradd", "--groups", "emitterd-producers", "asha")
    machine.write("/etc/emitterd/emitter.yaml", CONFIGURATION.format(url=server.url))
    machine.write("/etc/emitterd/password", PASSWORD)
    return Service(machine, server)


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """Start the service on a server without faults; it is stopped afterwards."""
    installed.server.faults = FaultList()
    installed.start()
    yield installed
    installed.server.faults = FaultList()
    installed.machine.call("systemctl", "stop", "emitterd")
    installed.machine.call("systemctl", "reset-failed", "emitterd")


def test_file_of_another_user_is_delivered(service: Service) -> None:
    """A lease proves that the producer, with any umask, has closed the file."""
    service.drop(f"{SPOOL}/pat/periodic_exam_mst.zip")
    service.wait_for("pat/periodic_exam_mst.zip", "delivered")

    assert len(service.keys("pat/periodic_exam_mst.zip")) == 1
    found = service.machine.run("stat", "-c", "%U:%G", f"{SPOOL}/pat/periodic_exam_mst.zip")
    assert found == "asha:emitterd-producers\n"


def test_status_shows_the_counts(service: Service) -> None:
    """`systemctl status` shows how many files wait and what the destination does."""

    def status() -> str:
        output = service.machine.run("systemctl", "status", "emitterd")
        found = re.search(r'Status: "(.*)"', output)
        return found[1] if found else ""

    service.drop(f"{SPOOL}/pat/status.zip")
    wait_until(lambda: "destination up" in status(), DEADLINE_S, "the destination's state")

    assert "queued" in status()
    assert "uploading" in status()


def test_errors_are_found_in_journald(service: Service) -> None:
    """`journalctl -p err` shows what needs somebody, `-x` what to do; a path has its lines."""
    path = "tpd/teacher_mst.zip"
    service.server.faults = fault_list("api-500")
    service.drop(f"{SPOOL}/{path}")
    wait_until(lambda: service.logged("--priority=err"), DEADLINE_S, "an error")
    service.server.faults = FaultList()
    # journald may be behind.
    last = [f"EMITTERD_PATH={path}", "EMITTERD_EVENT=file.delivered"]
    wait_until(lambda: service.logged(*last), DEADLINE_S, "the delivery in the journal")
    errors = service.logged("--priority=err")
    of_path = service.logged(f"EMITTERD_PATH={path}")

    assert {error["EMITTERD_EVENT"] for error in errors} == {"destination.down"}
    assert {error["PRIORITY"] for error in errors} == {"3"}
    explained = service.machine.run("journalctl", "--unit=emitterd", "--priority=err", "-x")
    assert f"Subject: E408: {Code.API_TROUBLE.title}" in explained
    reported = [item["EMITTERD_EVENT"] for item in of_path]
    assert (reported[0], reported[-1]) == ("file.admitted", "file.delivered")


def test_alerts_reach_people_from_the_sandbox(service: Service, tmp_path: Path) -> None:
    """Root owns the URLs and systemd passes them; Apprise and a command run within the limits."""
    machine = service.machine
    with Receivers(tmp_path) as receivers:
        machine.write("/etc/emitterd/notify", f"{receivers.hook_url}\n")
        machine.write("/usr/local/bin/alert", "#!/bin/sh\ncat > /var/lib/emitterd/alert\n")
        machine.run("chmod", "755", "/usr/local/bin/alert")
        alerts = "alerts:\n  command: [/usr/local/bin/alert]\n"
        configuration = CONFIGURATION.format(url=service.server.url)
        machine.write("/etc/emitterd/emitter.yaml", configuration + alerts)
        machine.run("chmod", "600", "/etc/emitterd/notify")
        service.start()
        printed = machine.run("emitterd", "notify-test")
        machine.write("/etc/emitterd/emitter.yaml", configuration)
        machine.run("rm", "/etc/emitterd/notify")

    assert [line.split()[:2] for line in printed.splitlines()] == [
        ["ok", "json"],
        ["ok", "command"],
    ]
    assert len(receivers.hooks) == 1
    assert json.loads((machine.root / "var/lib/emitterd/alert").read_text())["test"]


@pytest.fixture
def stingy_journald(machine: Machine) -> Iterator[None]:
    """Let journald keep ten lines of a service in half a minute, or a few more."""
    conf = "/etc/systemd/journald.conf.d/stingy.conf"
    machine.write(conf, "[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst=10\n")
    machine.run("systemctl", "restart", "systemd-journald")
    yield
    machine.run("rm", conf)
    machine.run("systemctl", "restart", "systemd-journald")


@pytest.mark.usefixtures("stingy_journald")
def test_no_line_is_lost_to_a_rate_limit(service: Service) -> None:
    """Each of many files has its line, where another unit's are dropped."""
    many = range(1, 601)
    script = f"for n in $(seq {len(many)}); do echo PK > {SPOOL}/cut_$n.zip; done"
    service.machine.run("sh", "-c", script, user="asha")
    service.machine.run(
        *("systemd-run", "--wait", "--quiet", "--unit=chatty"), *("sh", "-c", f"seq {len(many)}")
    )
    query = "EMITTERD_EVENT=file.incomplete"
    wait_until(lambda: len(service.logged(query)) >= len(many), DEADLINE_S, "all the lines")
    chatty = service.machine.run("journalctl", "--unit=chatty", "--output=cat")
    service.machine.run("find", SPOOL, "-name", "cut_*", "-delete")

    reported = {record["EMITTERD_PATH"] for record in service.logged(query)}
    assert reported == {f"cut_{number}.zip" for number in many}
    assert len(chatty.splitlines()) < len(many)


def test_log_file_is_rotated(service: Service) -> None:
    """Logrotate and the service agree on the owner, and lines go to the new file."""
    log = "/var/log/emitterd/emitterd.jsonl"
    text = CONFIGURATION.format(url=service.server.url)
    service.machine.write("/etc/emitterd/emitter.yaml", f"{text}log:\n  file: {log}\n")
    service.start()
    service.machine.run("logrotate", "--force", "/etc/logrotate.d/emitterd")
    wait_until(lambda: service.machine.run("cat", log), DEADLINE_S, "a line in the new file")
    service.machine.write("/etc/emitterd/emitter.yaml", text)
    found = service.machine.run(*("stat", "-c", "%a %U:%G", "/var/log/emitterd", log, f"{log}.1"))

    assert "daemon.reloaded" in service.machine.run("cat", log)
    assert "daemon.started" in service.machine.run("cat", f"{log}.1")
    assert found.splitlines() == [
        "750 emitterd:emitterd",
        "640 emitterd:emitterd",
        "640 emitterd:emitterd",
    ]


def test_folder_that_is_mounted_late(service: Service) -> None:
    """Without its folder the service starts, says so, and takes it up when mounted."""
    path = "pgi/pgi_trans.zip"
    service.machine.run("systemctl", "stop", "emitterd")
    service.machine.run("mv", SPOOL, "/srv/disk")
    service.start()
    status = service.machine.show("StatusText")
    service.drop(f"/srv/disk/{path}")
    service.machine.run("mkdir", SPOOL)
    service.machine.run("mount", "--bind", "/srv/disk", SPOOL)
    service.wait_for(path, "delivered")
    service.machine.run("systemctl", "stop", "emitterd")
    service.machine.run("umount", SPOOL)
    service.machine.run("rmdir", SPOOL)
    service.machine.run("mv", "/srv/disk", SPOOL)

    assert status.startswith("no watched folder; ")
    assert service.logged("EMITTERD_EVENT=watch.root_lost")


def test_operator_is_heard_inside_the_sandbox(service: Service) -> None:
    """The commands reach the daemon by the socket beside its journal."""
    path = "sat/semester_exam_mst.zip"
    service.server.faults = fault_list("api-500")
    service.drop(f"{SPOOL}/{path}")
    # Refused while it is not there yet, or an attempt is under way.
    wait_until(
        lambda: service.machine.call("emitterd", "hold", path).returncode == 0, DEADLINE_S, "held"
    )
    service.server.faults = FaultList()
    service.machine.run("emitterd", "release", path)

    service.wait_for(path, "delivered")


def test_reload_applies_the_configuration(service: Service) -> None:
    """What is excluded no more since the reload is sent, and by the same process."""
    text = CONFIGURATION.format(url=service.server.url)
    excluding = text.replace("spool:\n", "spool:\n  exclude: ['**/draft*.zip']\n")
    service.machine.write("/etc/emitterd/emitter.yaml", excluding)
    service.start()
    before = service.machine.show("MainPID")
    service.drop(f"{SPOOL}/pat/draft.zip")
    service.drop(f"{SPOOL}/pat/periodic_exam_qst_mst.zip")
    service.wait_for("pat/periodic_exam_qst_mst.zip", "delivered")
    excluded = service.entry("pat/draft.zip")
    service.machine.write("/etc/emitterd/emitter.yaml", text)
    service.machine.run("systemctl", "reload", "emitterd")

    assert excluded is None
    service.wait_for("pat/draft.zip", "delivered")
    assert service.machine.show("MainPID") == before


def test_killed_in_mid_upload(service: Service) -> None:
    """After kill -9 systemd starts it again, and each file arrives under one key."""
    paths = [f"sat/semester_exam_result_trans_{number}.zip" for number in range(3)]
    service.server.faults = SLOW
    began = service.server.fired["slow-reader"]
    for path in paths:
        service.drop(f"{SPOOL}/{path}", LARGE)
    wait_until(lambda: service.server.fired["slow-reader"] > began, DEADLINE_S, "an upload")
    restarts = int(service.machine.show("NRestarts"))
    service.machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "emitterd")
    service.server.faults = FaultList()
    for path in paths:
        service.wait_for(path, "delivered")

    assert int(service.machine.show("NRestarts")) == restarts + 1
    assert [len(service.keys(path)) for path in paths] == [1, 1, 1]


def test_stopped_in_mid_upload(service: Service) -> None:
    """A stop ends within its limit; the upload is resumed later under the same key."""
    path = "crc/inspection_trans.zip"
    service.server.faults = SLOW
    began = service.server.fired["slow-reader"]
    service.drop(f"{SPOOL}/{path}", LARGE)
    wait_until(lambda: service.server.fired["slow-reader"] > began, DEADLINE_S, "the upload")
    service.machine.run("systemctl", "stop", "emitterd")
    ended = service.machine.show("Result"), service.machine.show("ExecMainStatus")
    left = service.entry(path)
    service.server.faults = FaultList()
    service.start()
    service.wait_for(path, "delivered")

    assert ended == ("success", "0")
    assert left
    assert left["state"] == "queued"
    assert len(service.keys(path)) == 1
    assert service.grants(path) == 1


def test_wrong_configuration_is_not_tried_again(service: Service) -> None:
    """The service fails with 78 and stays so; mended, it starts."""
    text = CONFIGURATION.format(url=service.server.url)
    service.machine.write("/etc/emitterd/emitter.yaml", text + "wrong: 1\n")
    restarted = service.machine.call("systemctl", "restart", "emitterd")
    ended = [service.machine.show(item) for item in ("SubState", "ExecMainStatus")]
    service.machine.write("/etc/emitterd/emitter.yaml", text)
    service.start()

    assert restarted.returncode != 0
    # An attempt to come would be auto-restart.
    assert ended == ["failed", "78"]


def test_hung_worker_is_ended_by_the_watchdog(service: Service) -> None:
    """Where a worker stands still systemd ends the process and starts it again."""
    path = "udise/udise_trans.zip"
    order = f"Environment={failpoints.VARIABLE}=claimed:hang"
    service.set(f"{order}\nWatchdogSec=4s\nRestartSec=100ms")
    try:
        service.start()
        service.drop(f"{SPOOL}/{path}")
        wait_until(lambda: int(service.machine.show("NRestarts")) > 0, DEADLINE_S, "a restart")
        output = service.machine.run("journalctl", "--unit=emitterd", "--output=cat")
    finally:
        service.set("")
    service.start()

    assert "Watchdog timeout" in output
    service.wait_for(path, "delivered")


def test_second_folder_as_an_instance(installed: Service) -> None:
    """An instance has its own folder, journal and root's secret, and may archive."""
    machine, path = installed.machine, "diksha/data_trans.zip"
    state = "/var/lib/emitterd/second"
    text = CONFIGURATION.format(url=installed.server.url)
    for old, new in {
        "  password_file: /etc/emitterd/password\n": "",
        SPOOL: "'/data/100% in'\n  after_delivery: archive",
        "  settle:": "  archive_directory: /data/sent\n  settle:",
        "\ndelivery:": f"\njournal:\n  path: {state}/journal.db\ndelivery:",
    }.items():
        text = text.replace(old, new)
    machine.write("/etc/emitterd/second.yaml", text)
    machine.write("/etc/emitterd/second.password", PASSWORD)
    machine.run("chmod", "600", "/etc/emitterd/second.password")
    check = ("emitterd", "check", "--config", "/etc/emitterd/second.yaml")
    unprepared = machine.call(*check)
    machine.run("emitterd", "service", "setup")
    checked = machine.run(*check, "--online")
    machine.run("systemctl", "start", "emitterd@second")
    installed.drop(f"/data/100% in/{path}")
    wait_until(lambda: installed.keys(path), DEADLINE_S, "delivered")
    find = ("find", "/data", "-name", "*.zip")
    wait_until(lambda: machine.run(*find).startswith("/data/sent/"), DEADLINE_S, "archived")
    machine.run("systemctl", "stop", "emitterd@second")

    # The secret is root's alone: by itself the command would not have it.
    assert (unprepared.returncode, "mkdir -p" in unprepared.stderr) == (78, True)
    assert re.search(r"ok +grant", checked)
    assert (machine.root / state.lstrip("/") / "journal.db").exists()
