"""What systemd hears from a daemon process, and what the watchdog does not."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation, Process
from support.waiting import wait_until

NAME = "pat/periodic_exam_mst.zip"


class Manager:
    """A socket where systemd would listen, and a daemon that is reported of it."""

    def __init__(self, folder: Path, site: Installation) -> None:
        self._address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.settimeout(DEADLINE_S)
        self._site = site
        self._started: list[Process] = []

    def start(self, watchdog_s: float | None = None, **extra: str) -> Process:
        """Start a daemon under a watchdog; nothing is waited for."""
        if watchdog_s is not None:
            extra["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self._started.append(self._site.start(NOTIFY_SOCKET=self._address, **extra))
        return self._started[-1]

    def hear(self) -> list[str]:
        """Wait for a message; return its lines."""
        return self._socket.recv(4096).decode().split("\n")

    def hear_until(self, line: str) -> list[list[str]]:
        """Return the messages up to one with this line."""
        heard = [self.hear()]
        while line not in heard[-1]:
            heard.append(self.hear())
        return heard

    def missed(self) -> list[list[str]]:
        """Return what has come meanwhile."""
        self._socket.settimeout(0.0)
        heard = []
        try:
            while True:
                heard.append(self.hear())
        except BlockingIOError:
            self._socket.settimeout(DEADLINE_S)
        return heard

    def hear_stalled(self, daemon: Process) -> dict[str, Any]:
        """Wait until the thread that hangs at a failpoint is logged as stalled.

        On a busy machine other threads may be late, too, and are logged as well.
        """

        def at_failpoint() -> list[dict[str, Any]]:
            stalled = self._site.events("daemon.stalled")
            return [event for event in stalled if "in reach" in event.get("stack", "")]

        daemon.wait_for_event("daemon.stalled")
        return wait_until(at_failpoint, DEADLINE_S, "a stalled thread")[0]

    def close(self) -> None:
        """Listen no more; processes that still run, or hang, are killed."""
        self._socket.close()
        for daemon in self._started:
            daemon.kill()


@pytest.fixture
def manager(tmp_path: Path, site: Installation) -> Iterator[Manager]:
    """Listen where systemd would."""
    manager = Manager(tmp_path, site)
    yield manager
    manager.close()


def test_life_of_a_service(manager: Manager, site: Installation) -> None:
    """Ready, reloading and ready again, stopping: each once, in this order."""
    daemon = manager.start()
    ready = manager.hear()
    assert ready[0] == "READY=1"
    assert ready[1].startswith("STATUS=0 queued, 0 uploading, 0 delivered; ")
    events = [event["event"] for event in site.events()]
    assert "watch.started" in events

    daemon.signal(signal.SIGHUP)
    [*_, reloading] = manager.hear_until("RELOADING=1")
    assert reloading[1].partition("=")[2].isdecimal()
    manager.hear_until("READY=1")
    daemon.signal(signal.SIGTERM)
    [*between, stopping] = manager.hear_until("STOPPING=1")

    assert daemon.wait() == 0
    # The default drain, what follows it, and no less.
    assert "EXTEND_TIMEOUT_USEC=43000000" in stopping
    assert not any("READY=1" in item or "WATCHDOG=1" in item for item in between)


def test_refused_reload_is_over_too(manager: Manager, site: Installation) -> None:
    """A wrong configuration leaves no service that reloads without end."""
    daemon = manager.start()
    manager.hear_until("READY=1")
    site.config.write_text("nonsense\n")
    daemon.signal(signal.SIGHUP)

    manager.hear_until("RELOADING=1")
    manager.hear_until("READY=1")
    daemon.end()


def test_status_follows_the_queue(
    manager: Manager, site: Installation, server: RehearsalServer
) -> None:
    """What waits, and for how long, is reported; and what ails the destination."""
    server.faults = fault_list("429:1:600")
    daemon = manager.start()
    manager.hear_until("READY=1")
    site.drop(NAME)

    # Reported each second or so: which of them is reported depends on the moment.
    waits = re.compile(
        r"STATUS=1 queued, 0 uploading, oldest ([2-9]|\d{2,})s, 0 delivered;"
        r".*destination down: E409"
    )
    status = manager.hear()[-1]
    while not waits.match(status):
        status = manager.hear()[-1]
    daemon.end()


@pytest.mark.slow
def test_slow_upload_is_no_standstill(
    manager: Manager, site: Installation, server: RehearsalServer
) -> None:
    """One chunk that takes longer than the watchdog's patience is still progress."""
    server.faults = fault_list("slow-reader:1:25000")
    site.drop(NAME, os.urandom(250_000))
    # The limit of a stall is half of it. A busy machine stays below that.
    daemon = manager.start(watchdog_s=8.0)
    site.wait_delivered(1)
    heard = manager.missed()
    daemon.end()

    [delivered] = site.events("file.delivered")
    assert delivered["duration_s"] > 8.0
    assert sum("WATCHDOG=1" in request for request in heard) > 4
    assert not site.events("daemon.stalled")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "who"),
    [
        ("claimed:hang", "worker-"),
        ("granted:hang", "worker-"),
        ("admit-due:hang", "intake"),
        # Beyond the commits of a start; six files make three each.
        ("commit-due@12:hang", "journal"),
    ],
)
def test_hung_thread_starves_the_watchdog(
    manager: Manager, site: Installation, order: str, who: str
) -> None:
    """Who stands still is reported, and no sign of life goes out from then on."""

    def is_named(line: dict[str, Any]) -> bool:
        return str(line["thread"]).startswith(who)

    site.settings["EMITTERD_DELIVERY_DRAIN_TIMEOUT"] = "500ms"
    site.settings["EMITTERD_DELIVERY_WORKERS"] = "1"
    for number in range(6):
        site.drop(f"pat/{number}.zip")
    daemon = manager.start(watchdog_s=2.0, EMITTERD_FAILPOINT=order)
    manager.hear_stalled(daemon)
    wait_until(lambda: any(map(is_named, site.events("daemon.stalled"))), DEADLINE_S, who)
    manager.missed()
    heard = []
    for _ in range(3):
        # Each reload is a turn of the main thread, which looks again.
        daemon.signal(signal.SIGHUP)
        heard += manager.hear_until("READY=1")

    assert not any("WATCHDOG=1" in request for request in heard)
    daemon.end()


def test_killed_by_the_watchdog_nothing_is_lost(
    manager: Manager, site: Installation, server: RehearsalServer
) -> None:
    """The manager ends a hung daemon with SIGABRT; the next one delivers."""
    site.drop(NAME)
    daemon = manager.start(watchdog_s=2.0, EMITTERD_FAILPOINT="pinned:hang")
    stalled = manager.hear_stalled(daemon)
    daemon.signal(signal.SIGABRT)
    assert daemon.wait() == -signal.SIGABRT
    with site.running():
        site.wait_delivered(1)

    assert [item.posts for item in server.objects.values()] == [1]
    assert stalled["thread"].startswith("worker-")
