"""A daemon process stops at any moment: in time, with exit code 0. No attempt is counted."""

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.client import asked, silent_port
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation
from support.waiting import wait_until

NAME = "pat/periodic_exam_mst.zip"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def deferred(site: Installation) -> bool:
    """Return whether an attempt has failed."""
    return site.counts()["deferred"] == 1


def claimed(site: Installation) -> bool:
    """Return whether an attempt is under way."""
    return site.counts()["delivering"] == 1


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    yield port


@BOTH
def test_idle(site: Installation, number: signal.Signals) -> None:
    """With nothing to do it ends at once."""
    with site.running() as daemon:
        # The daemon logs in at its start.
        daemon.wait_for_event("auth.renewed")
        daemon.signal(number)
        assert daemon.wait() == 0

    assert [event["event"] for event in site.events()][-2:] == ["daemon.stopping", "daemon.stopped"]


@BOTH
@pytest.mark.parametrize(
    ("port", "ready"),
    [
        pytest.param(refusing_port, deferred, id="in an outage"),
        pytest.param(silent_port, claimed, id="while it connects", marks=pytest.mark.slow),
    ],
)
def test_without_a_server(
    tmp_path: Path,
    number: signal.Signals,
    port: Callable[[], AbstractContextManager[int]],
    ready: Callable[[Installation], bool],
) -> None:
    """Neither a parked destination nor a connection that does not come about hold it.

    No attempt is charged, and the next start delivers.
    """
    with port() as free:
        site = Installation(
            tmp_path,
            f"http://127.0.0.1:{free}/data",
            delivery_drain_timeout="300ms",
            emission_connect_timeout="40s",
        )
        site.drop(NAME)
        with site.running() as daemon:
            wait_until(lambda: ready(site), DEADLINE_S, "an attempt")
            daemon.signal(number)
            assert daemon.wait(20) == 0

    (entry,) = site.entries()
    assert entry["attempts"] == 0
    with RehearsalServer(tmp_path / "server") as server:
        site.config.write_text(
            site.config.read_text().replace(f"http://127.0.0.1:{free}/data", server.url)
        )
        with site.running():
            site.wait_delivered(1)


@BOTH
def test_second_signal_ends_an_upload(
    site: Installation, server: RehearsalServer, number: signal.Signals
) -> None:
    """Either signal is the second one too: the drain ends at once, and no attempt is counted."""
    server.faults = fault_list("black-hole@1")
    site.drop(NAME)
    with site.running() as daemon:
        wait_until(lambda: server.fired["black-hole"], DEADLINE_S, "an upload")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_event("daemon.stopping")
        daemon.signal(number)
        assert daemon.wait(15) == 0

    (entry,) = site.entries()
    assert (entry["state"], entry["attempts"]) == ("queued", 0)


@pytest.mark.slow
def test_upload_that_waits_for_its_bandwidth(tmp_path: Path, server: RehearsalServer) -> None:
    """The drain may use up its time, and no more; what is left costs no attempt."""
    site = Installation(
        tmp_path, server.url, delivery_bandwidth="8KiB/s", delivery_drain_timeout="300ms"
    )
    site.drop(NAME, os.urandom(1_000_000))
    with site.running() as daemon:
        wait_until(lambda: asked(server, "upload-url"), DEADLINE_S, "an upload")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(15) == 0

    (entry,) = site.entries()
    assert (entry["state"], entry["attempts"]) == ("queued", 0)
    assert not entry["ambiguous"]
    assert not server.objects


def test_dead_thread_is_an_internal_error(site: Installation, server: RehearsalServer) -> None:
    """A thread that met what nobody expected ends the daemon with 70."""
    server.faults = fault_list("slow-answer@1:1")
    site.drop(NAME)
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-answer"], DEADLINE_S, "an upload")
        with closing(sqlite3.connect(site.journal)) as stranger:
            stranger.execute("update entry set state = 'held', token = token + 1")
            stranger.commit()
        assert daemon.wait() == 70

    dead = site.events("daemon.stopping")[0]
    assert (dead["level"], dead["thread"][:7]) == ("critical", "worker-")
    assert "IllegalTransition" in dead["exception"]


@pytest.mark.slow
def test_a_standing_reader_of_the_log_stops_nothing(
    site: Installation, server: RehearsalServer
) -> None:
    """With its pipe full and unread, the daemon delivers, and SIGTERM ends it with 0."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b" " * 4096)
    os.set_blocking(write_end, True)
    process = subprocess.Popen(  # noqa: S603  our own argument list
        site.command("run"), env=site.environment(), stdout=write_end, stderr=subprocess.DEVNULL
    )
    try:
        site.drop(NAME)
        site.wait_delivered(1)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        os.close(write_end)
    assert len(server.objects) == 1
