"""SIGHUP to a daemon process: what it takes over, what it refuses, what it survives."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd.intake.loop import EVENT_LATENCY_S
from emitterd.rehearsal.server import RehearsalServer
from support.client import asked
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation, Process
from support.waiting import wait_until

SLOW = "slow-reader:1:30000"
SLOW_BYTES = 150_000
"""Five seconds: far longer than a worker needs between two uploads."""

QUEUED_LEAST = 20
"""More than all workers can take between two looks."""


class Site(Installation):
    """An installation whose configuration is written anew while the daemon runs."""

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        super().__init__(folder, url, **settings)
        self.url = url
        # What the environment says would go over the file.
        self.settings = {"EMITTERD_SPOOL_CATALOGUE": "off"}
        self.write()

    def write(self, **sections: str) -> None:
        """Write the configuration, with further keys of a section, each on a line."""
        lines = {
            "emission": [
                f"url: {self.url}",
                "username: emission",
                "password_file: password",
                "allow_insecure_http: true",
            ],
            "spool": ["directory: cqube_emission"],
            "journal": ["path: journal.db"],
            "delivery": ["backoff_initial: 100ms"],
            "log": ["level: info"],
        }
        for section, more in sections.items():
            for line in more.splitlines():
                key = line.partition(":")[0]
                kept = [line for line in lines[section] if line.partition(":")[0] != key]
                lines[section] = [*kept, line.strip()]
        text = "".join(
            f"{section}:\n" + "".join(f"  {line}\n" for line in lines[section]) for section in lines
        )
        # As an editor or a deployment does it: never half a file.
        part = self.config.with_suffix(".part")
        part.write_text(text)
        part.rename(self.config)

    def reload(self, daemon: Process, text: str = "daemon.reloaded") -> dict[str, Any]:
        """Send SIGHUP and wait for its line in the log; return that."""
        before = len(self.events(text))
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: len(self.events(text)) > before, DEADLINE_S, text)
        return self.events(text)[before]


@pytest.fixture
def site(tmp_path: Path, server: RehearsalServer) -> Site:
    """Lay out an installation that sends to the rehearsal server."""
    return Site(tmp_path, server.url)


@pytest.fixture
def daemon(site: Site) -> Iterator[Process]:
    """Run the daemon of the installation; it must end well."""
    with site.running() as daemon:
        yield daemon


def logins(server: RehearsalServer) -> int:
    """Return how often somebody logged in, well or not."""
    return len(asked(server, "auth"))


@pytest.mark.slow
def test_changed_keys_are_logged(site: Site, daemon: Process) -> None:
    """What differs is named in one line; no secret and no value is in it."""
    site.write(delivery="workers: 3\nbackoff_max: 1m", spool="settle: 1s")

    line = site.reload(daemon)

    assert line["level"] == "info"
    assert line["changed"] == ["spool.settle", "delivery.workers", "delivery.backoff_max"]
    assert not site.events("daemon.restart_due")
    assert not site.events("daemon.reload_refused")


def test_an_unchanged_configuration_is_logged_too(site: Site, daemon: Process) -> None:
    """A reload of the same file changes nothing, and says so."""
    assert site.reload(daemon)["changed"] == []


def test_wrong_configuration_changes_nothing(
    site: Site, daemon: Process, server: RehearsalServer
) -> None:
    """One error line with the first problem and how many; all goes on as before."""
    site.write(delivery="workers: 0\nworker: 3", spool="after_delivery: delete")

    line = site.reload(daemon, "daemon.reload_refused")

    assert (line["level"], line["error"]) == ("error", "E101")
    assert "delivery.workers, line 13: is too small or too large (and 1 more)" in line["reason"]
    assert "emitterd check" in line["hint"]
    dropped = site.drop("pat/periodic_exam_mst.zip")
    site.wait_delivered(1)
    assert dropped.exists()
    assert len(server.objects) == 1
    assert not site.events("daemon.reloaded")


def test_file_that_is_gone_changes_nothing(site: Site, daemon: Process) -> None:
    """Without a configuration the one in effect holds."""
    site.config.unlink()

    line = site.reload(daemon, "daemon.reload_refused")

    assert line["error"] == "E101"
    site.drop("pat/periodic_exam_mst.zip")
    site.wait_delivered(1)


@pytest.mark.slow
def test_catalogue_of_ones_own_that_is_wrong(site: Site, daemon: Process) -> None:
    """A catalogue belongs to the configuration: a wrong one is refused with it."""
    (site.folder / "own.yaml").write_text("datasets: nonsense\n")
    site.write(spool="catalogue_file: own.yaml", delivery="workers: 2")

    line = site.reload(daemon, "daemon.reload_refused")

    assert "own.yaml" in line["reason"]
    site.write(delivery="workers: 2")
    assert site.reload(daemon)["changed"] == ["delivery.workers"]


@pytest.mark.slow
def test_what_needs_a_restart_is_named(site: Site, daemon: Process) -> None:
    """One warning names it, at each reload; the rest is applied."""

    def due() -> list[dict[str, Any]]:
        return site.events("daemon.restart_due")

    for _ in range(2):
        site.write(
            journal="path: other.db\nretain: 10d",
            spool="watcher: polling",
            emission="proxy: http://127.0.0.1:9",
        )
        site.reload(daemon)

    # It follows the line that the reload is waited for by.
    wait_until(lambda: len(due()) == 2, DEADLINE_S, "two warnings")
    first, again = due()
    assert first["level"] == "warning"
    assert first["keys"] == again["keys"] == ["emission.proxy", "spool.watcher", "journal.path"]
    assert "restart" in first["hint"]
    [changed, unchanged] = site.events("daemon.reloaded")
    assert (changed["changed"], unchanged["changed"]) == (["journal.retain"], [])
    site.drop("pat/periodic_exam_mst.zip")
    site.wait_delivered(1)
    assert not (site.folder / "other.db").exists()


def test_other_server_takes_its_password_along(
    site: Site, daemon: Process, server: RehearsalServer
) -> None:
    """Credentials meant for another server are not shown to this one."""
    (site.folder / "elsewhere").touch(0o600)
    (site.folder / "elsewhere").write_text("of another server")
    site.write(
        emission="url: http://127.0.0.1:9/data\npassword_file: elsewhere", delivery="workers: 2"
    )

    line = site.reload(daemon)

    assert line["changed"] == ["delivery.workers"]
    # The warning is logged after the line that the reload waits for.
    [due] = wait_until(lambda: site.events("daemon.restart_due"), DEADLINE_S, "a warning")
    assert due["keys"] == ["emission.url", "emission.password_file", "emission.password"]
    site.drop("pat/periodic_exam_mst.zip")
    site.wait_delivered(1)
    assert logins(server) == 1


@pytest.mark.slow
def test_storm_of_hangups(site: Site, daemon: Process, server: RehearsalServer) -> None:
    """Fifty SIGHUPs under load lose nothing, and the last configuration holds."""
    for number in range(40):
        site.drop(f"pat/file_{number}.zip", os.urandom(1000))
    for number in range(50):
        site.write(delivery=f"workers: {1 + number % 8}")
        daemon.signal(signal.SIGHUP)
    site.write(spool="after_delivery: delete")
    daemon.signal(signal.SIGHUP)

    # A reload that was under way has read the configuration of before.
    def is_read() -> bool:
        reloads = site.events("daemon.reloaded")
        return any("spool.after_delivery" in line["changed"] for line in reloads)

    wait_until(is_read, DEADLINE_S, "the last configuration")
    dropped = site.drop("pat/last.zip")
    site.wait_delivered(41)

    # A line follows its record.
    wait_until(lambda: len(site.events("file.delivered")) >= 41, DEADLINE_S, "41 lines")
    wait_until(lambda: not dropped.exists(), DEADLINE_S, "deleted")
    assert len(server.objects) == 41
    assert all(item.posts == 1 for item in server.objects.values())
    delivered = [event["path"] for event in site.events("file.delivered")]
    assert len(delivered) == len(set(delivered)) == 41
    assert len(site.events("daemon.reloaded")) <= 51
    assert not site.events("watch.missed")


@pytest.mark.slow
def test_workers_come_and_go_under_load(
    site: Site, daemon: Process, server: RehearsalServer
) -> None:
    """From 8 to 2 and back: surplus ones end their upload, none is cut off."""
    dropped: list[Path] = []

    def uploading() -> int:
        """Return how many uploads are under way; keep the queue from running dry."""
        while len(dropped) - len(server.objects) < QUEUED_LEAST:
            name = f"pat/file_{len(dropped)}.zip"
            dropped.append(site.drop(name, os.urandom(SLOW_BYTES)))
        return sum(request.status is None for request in asked(server, "bucket"))

    site.write(delivery="workers: 8")
    site.reload(daemon)
    server.faults = fault_list(SLOW)
    wait_until(lambda: uploading() == 8, DEADLINE_S, "eight uploads")
    site.write(delivery="workers: 2")
    site.reload(daemon)
    wait_until(lambda: uploading() <= 2, DEADLINE_S, "two uploads")
    site.write(delivery="workers: 8")
    site.reload(daemon)
    wait_until(lambda: uploading() == 8, DEADLINE_S, "eight uploads again")
    site.write(delivery="workers: 2")
    site.reload(daemon)
    site.write(delivery="workers: 8")
    site.reload(daemon)
    server.faults = fault_list("")
    site.wait_delivered(len(dropped))

    assert site.counts()["delivering"] == 0
    assert all(item.posts == 1 for item in server.objects.values())
    assert len(server.objects) == len(dropped)
    assert not site.events("file.deferred")


def test_bandwidth_limit_comes_and_goes(
    site: Site, daemon: Process, server: RehearsalServer
) -> None:
    """An upload that waits for a limit goes on at once when a reload lifts it."""
    site.write(delivery="bandwidth: 8KiB/s")
    assert site.reload(daemon)["changed"] == ["delivery.bandwidth"]
    site.drop("pat/periodic_exam_mst.zip", os.urandom(1_000_000))
    wait_until(lambda: site.counts()["delivering"] == 1, DEADLINE_S, "an upload")
    wait_until(lambda: asked(server, "upload-url"), DEADLINE_S, "a grant")
    assert not server.objects
    site.write()

    assert site.reload(daemon)["changed"] == ["delivery.bandwidth"]
    site.wait_delivered(1)
    assert [item.posts for item in server.objects.values()] == [1]
    assert not site.events("file.deferred")


def test_rotated_password_costs_one_login(site: Site, server: RehearsalServer) -> None:
    """After a refused login only another secret is tried, at once and once."""
    password = site.folder / "password"
    password.write_text("wrong")
    for number in range(12):
        site.drop(f"pat/file_{number}.zip")
    with site.running() as daemon:
        daemon.wait_for_event("destination.down")
        site.reload(daemon)
        site.drop("pat/later.zip")
        wait_until(lambda: sum(site.counts().values()) == 13, DEADLINE_S, "admitted")
        assert logins(server) == 1
        password.write_text("rehearsal")
        line = site.reload(daemon)
        site.wait_delivered(13)

    assert line["changed"] == ["emission.password"]
    assert logins(server) == 2
    assert len(site.events("auth.refused")) == 1
    assert len(site.events("destination.down")) == 1
    assert len(site.events("destination.up")) == 1


@pytest.mark.slow
def test_another_wrong_password_costs_one_login_too(site: Site, server: RehearsalServer) -> None:
    """Each secret is refused once: upstream locks accounts after five failures."""
    password = site.folder / "password"
    password.write_text("wrong")
    site.drop("pat/periodic_exam_mst.zip")
    with site.running() as daemon:
        daemon.wait_for_event("destination.down")
        password.write_text("wrong again")
        site.reload(daemon)
        wait_until(lambda: logins(server) == 2, DEADLINE_S, "another login")
        wait_until(lambda: len(site.events("auth.refused")) == 2, DEADLINE_S, "a log line")
        site.reload(daemon)
        password.write_text("rehearsal")
        site.reload(daemon)
        site.wait_delivered(1)

    assert logins(server) == 3


@pytest.mark.slow
def test_rotated_api_key(tmp_path: Path) -> None:
    """A refused key parks; another one opens the gate at once."""
    with RehearsalServer(tmp_path / "server", api_key="right") as server:
        site = Site(tmp_path, server.url)
        key = site.folder / "key"
        key.touch(0o600)
        key.write_text("wrong")
        text = site.config.read_text()
        text = text.replace("password_file: password", "api_key_file: key")
        site.config.write_text(text.replace("  username: emission\n", ""))
        site.drop("pat/periodic_exam_mst.zip")
        with site.running() as daemon:
            daemon.wait_for_event("destination.down")
            key.write_text("right")
            assert site.reload(daemon)["changed"] == ["emission.api_key"]
            site.wait_delivered(1)


@pytest.mark.slow
def test_log_file_moves_with_a_hangup(site: Site) -> None:
    """A program that moves the log away sends SIGHUP: no line is lost, none is doubled."""
    logged = site.folder / "log.jsonl"
    site.write(log="file: log.jsonl")
    daemon = site.start()
    wait_until(lambda: logged.exists() and "ready" in logged.read_text(), 60, "ready")
    try:
        for number in range(100):
            site.drop(f"pat/file_{number}.zip")
            if number % 10 == 0:
                logged.rename(site.folder / f"log.{number}.jsonl")
                daemon.signal(signal.SIGHUP)
                wait_until(logged.exists, DEADLINE_S, "the log's file anew")
        site.wait_delivered(100)
    finally:
        daemon.end()

    lines = [
        line for file in site.folder.glob("log*.jsonl") for line in file.read_text().splitlines()
    ]
    assert sum('"file.delivered"' in line for line in lines) == 100
    assert sum('"file.admitted"' in line for line in lines) == 100


def test_log_file_is_opened_anew_by_a_refused_reload(site: Site) -> None:
    """A wrong configuration does not keep logrotate from its work."""
    logged = site.folder / "log.jsonl"
    site.write(log="file: log.jsonl")
    daemon = site.start()
    wait_until(lambda: logged.exists() and "ready" in logged.read_text(), 60, "ready")
    try:
        logged.rename(site.folder / "log.1.jsonl")
        site.write(log="file: log.jsonl\nlevel: loud")
        daemon.signal(signal.SIGHUP)
        wait_until(logged.exists, DEADLINE_S, "the log's file anew")
        wait_until(lambda: "refused" in logged.read_text(), DEADLINE_S, "a line there")
    finally:
        daemon.end()


@pytest.mark.slow
def test_log_file_that_cannot_be_opened(site: Site, daemon: Process) -> None:
    """A log that cannot be written is a wrong configuration: the old log goes on."""
    site.write(log="file: /proc/log.jsonl", delivery="workers: 2")

    line = site.reload(daemon, "daemon.reload_refused")

    assert "log.file: cannot be opened: " in line["reason"]
    site.write(delivery="workers: 2")
    assert site.reload(daemon)["changed"] == ["delivery.workers"]


@pytest.mark.slow
def test_log_level(site: Site, daemon: Process) -> None:
    """Another level holds from the line on that reports it."""
    site.write(log="level: debug", spool="sweep_every: 200ms")
    site.reload(daemon)
    wait_until(
        lambda: any(event["level"] == "debug" for event in site.events()),
        DEADLINE_S,
        "a line at debug",
    )


def test_patterns(site: Site, daemon: Process) -> None:
    """What was ignored is found at once when a pattern lets it in, missed by nobody."""
    site.write(spool="include: ['pat/**/*.zip']")
    site.reload(daemon)
    ignored = site.drop("sat/semester_exam_mst.zip")
    site.drop("pat/periodic_exam_mst.zip")
    site.wait_delivered(1)
    # A younger one might have an event on its way, and would not count as missed.
    aged_at = ignored.stat().st_ctime + EVENT_LATENCY_S
    wait_until(lambda: time.time() > aged_at, DEADLINE_S, "of age")
    site.write(spool="include: ['**/*.zip']")
    site.reload(daemon)
    site.wait_delivered(2)

    assert [entry["path"] for entry in site.entries()] == [
        "pat/periodic_exam_mst.zip",
        "sat/semester_exam_mst.zip",
    ]
    assert not site.events("watch.missed")


@pytest.mark.slow
def test_archive_within_the_folder(site: Site, server: RehearsalServer) -> None:
    """A new archive that a new pattern excludes is never taken for new files."""
    with site.running() as daemon:
        site.write(
            spool="after_delivery: archive\narchive_directory: cqube_emission/done\n"
            "exclude: ['/done/**']\nsweep_every: 200ms"
        )
        daemon.signal(signal.SIGHUP)
        for number in range(30):
            site.drop(f"pat/file_{number}.zip")
        site.wait_delivered(30)
        site.reload(daemon)
        site.drop("pat/last.zip")
        site.wait_delivered(31)
        wait_until(lambda: archived(site) >= 1, DEADLINE_S, "archived")

    assert len(server.objects) == 31
    assert sum(site.counts().values()) == 31


def archived(site: Site) -> int:
    """Return how many files lie in the archive."""
    return len(list((site.spool / "done").rglob("*.zip")))


def test_hangup_during_the_start(site: Site, server: RehearsalServer) -> None:
    """SIGHUP before the daemon is ready is kept, and obeyed when it is."""
    daemon = site.start()
    try:
        wait_until(lambda: holds_hangup(daemon.pid), DEADLINE_S, "SIGHUP is held")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.reloaded")
    finally:
        daemon.end()

    names = [event["event"] for event in site.events()]
    assert names.index("daemon.ready") < names.index("daemon.reloaded")
    assert {request.endpoint for request in server.requests} <= {"auth"}


def holds_hangup(pid: int) -> bool:
    """Return whether a process blocks SIGHUP, from /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    return bool(blocked >> (signal.SIGHUP - 1) & 1)


@pytest.mark.slow
def test_hangup_during_the_drain(site: Site, server: RehearsalServer) -> None:
    """SIGHUP while uploads drain changes nothing and hinders nothing."""
    server.faults = fault_list("slow-reader:1:50000")
    site.drop("pat/periodic_exam_mst.zip", os.urandom(100_000))
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-reader"] == 1, DEADLINE_S, "uploading")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_event("daemon.stopping")
        for _ in range(20):
            daemon.signal(signal.SIGHUP)
        assert daemon.wait() == 0

    assert site.counts()["delivered"] == 1
    assert not site.events("daemon.reloaded")


@pytest.mark.slow
def test_once_ignores_a_hangup(site: Site, server: RehearsalServer) -> None:
    """A terminal that goes away does not end what was begun."""
    server.faults = fault_list("slow-reader:1:50000")
    site.drop("pat/periodic_exam_mst.zip", os.urandom(100_000))
    once = site.start("once")
    wait_until(lambda: server.fired["slow-reader"] == 1, DEADLINE_S, "uploading")
    once.signal(signal.SIGHUP)

    assert once.wait() == 0
    assert site.counts()["delivered"] == 1
    assert "daemon.reloaded" not in site.log.read_text()


def test_reload_while_the_folder_is_gone(site: Site, daemon: Process) -> None:
    """A folder that is unmounted just now is waited for, and holds nothing up."""
    shutil.rmtree(site.spool)
    site.write(delivery="workers: 3")

    assert site.reload(daemon)["changed"] == ["delivery.workers"]
