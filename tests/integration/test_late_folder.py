"""A watched folder that is not there at the start: a disk that is mounted late."""

import signal
from pathlib import Path

import pytest

from emitterd.rehearsal.server import FaultList, RehearsalServer
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation

FILE = "pat/periodic_exam_mst.zip"


@pytest.fixture
def site(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Lay out an installation, and take its folder away."""
    site = Installation(tmp_path, server.url)
    site.spool.rmdir()
    return site


@pytest.mark.slow
def test_daemon_waits_for_it(site: Installation) -> None:
    """The daemon starts without its folder, reports it once, and delivers later."""
    with site.running() as daemon:
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.reloaded")
        site.drop(FILE)
        daemon.wait_for_event("watch.root_back")
        site.wait_delivered(1)

    (lost,) = site.events("watch.root_lost")
    assert lost["error"] == "E105"
    assert not site.events("watch.degraded")


@pytest.mark.slow
def test_stop_while_it_waits(site: Installation) -> None:
    """Without a folder there is nothing to drain."""
    with site.running() as daemon:
        daemon.signal(signal.SIGTERM)

        assert daemon.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("command", ["once", "check"])
def test_commands_say_that_it_is_missing(site: Installation, command: str) -> None:
    """Other commands name the line of the configuration, and the remedy."""
    done = site.call(command)

    assert done.returncode == 78
    assert "spool.directory" in done.stderr
    assert "mkdir -p" in done.stderr


def test_file_in_its_place_ends_the_start(site: Installation) -> None:
    """The daemon does not wait for a path that is not a folder."""
    site.spool.write_text("")

    assert site.call("run").returncode == 78


@pytest.mark.slow
def test_queue_outlives_the_absence(site: Installation, server: RehearsalServer) -> None:
    """Queued files stay queued while the folder is missing, and are delivered later."""
    server.faults = fault_list("api-500")
    site.drop(FILE)
    site.call("once", "--wait", "1s")
    away = site.spool.rename(site.folder / "away")
    server.faults = FaultList()
    with site.running() as daemon:
        daemon.wait_for_event("watch.root_lost")
        kept = site.counts()["withdrawn"]
        away.rename(site.spool)
        site.wait_delivered(1)

    assert kept == 0
    assert not site.events("file.withdrawn")
