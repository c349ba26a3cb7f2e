"""Who stands still, what is reported of it, and whether the watchdog is fed."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import Stage
from emitterd.heartbeat import Heartbeat
from emitterd.model import State
from emitterd.service.systemd import LATE_S, Watchdog, status_line

WATCHDOG_S = 60.0
LIMIT_S = WATCHDOG_S / 2


REPORT_BESIDE_GARBAGE = """
import gc, threading, time

from emitterd import heartbeat
from emitterd.heartbeat import Heartbeat
from emitterd.service.systemd import Watchdog

def leave_garbage(phase, info):
    # The end of a threading.local takes the interpreter's lock of all threads.
    if phase == "stop":
        item = [threading.local()]
        item.append(item)

loops = Heartbeat()
with loops.watch("worker-1"):
    gc.callbacks.append(leave_garbage)
    gc.set_threshold(1)
    reported = not Watchdog(loops, lambda: None, 2.0).look(time.monotonic() + 100)
    gc.callbacks.clear()
assert reported and gc.isenabled()
print("reported")
"""
DEADLINE_S = 60.0


class Watched:
    """A supervision whose loops and commits a test drives; `now` is its clock."""

    def __init__(self, watchdog_s: float | None = WATCHDOG_S) -> None:
        self.heartbeat = Heartbeat()
        self.committing_since: float | None = None
        self.supervision = Watchdog(self.heartbeat, lambda: self.committing_since, watchdog_s)
        self.now = time.monotonic()

    def look(self, after_s: float) -> tuple[bool, list[tuple[str, str, str]]]:
        """Look once a second for so long; return the last answer, and the reports."""
        moving, end = True, self.now + after_s
        with capture_logs() as events:
            while self.now < end:
                self.now += 1.0
                moving = self.supervision.look(self.now)
        return moving, [(e["log_level"], e["event"], e["thread"]) for e in events]


@pytest.fixture
def watched() -> Watched:
    """Supervise nobody yet, under a watchdog."""
    return Watched()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen where systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(0.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_all_is_well(watched: Watched) -> None:
    """While nobody owes a sign nothing is reported."""
    with watched.heartbeat.watch("intake"):
        assert watched.look(LIMIT_S - 1) == (True, [])


def test_standstill_is_logged_once(watched: Watched) -> None:
    """A loop that stands still is reported once, with its thread and where it is."""
    with watched.heartbeat.watch("worker-1"):
        assert watched.look(LIMIT_S - 1) == (True, [])
        assert watched.look(LIMIT_S) == (False, [("critical", "daemon.stalled", "worker-1")])
        assert watched.look(LIMIT_S) == (False, [])


def test_report_does_not_wait_for_the_garbage_collector() -> None:
    """A collection while the report reads the stack cannot hang the main thread."""
    command = [sys.executable, "-c", REPORT_BESIDE_GARBAGE]
    done = subprocess.run(  # noqa: S603  our own argument list
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )

    assert done.stdout.endswith("reported\n"), done.stderr


def test_what_is_logged_of_a_standstill(watched: Watched) -> None:
    """The line says since when, for how long, and by the stack where."""
    with watched.heartbeat.watch("worker-1"), capture_logs() as events:
        watched.supervision.look(watched.now + LIMIT_S + 10)

    [line] = events
    assert line["since"].endswith("Z")
    assert LIMIT_S < line["duration_s"] < LIMIT_S + 20
    assert "test_watchdog.py" in line["stack"]


def test_the_end_of_a_standstill_is_logged_too(watched: Watched) -> None:
    """A standstill that ended by itself is reported, and feeds the watchdog again."""
    with watched.heartbeat.watch("worker-1"):
        watched.look(LIMIT_S + 2)
        # The loop's own signs are of the real clock, which the test's is ahead of.
        with heartbeat.silence(10 * LIMIT_S):
            assert watched.look(2.0) == (True, [("info", "daemon.resumed", "worker-1")])


def test_commit_that_never_returns(watched: Watched) -> None:
    """The journal stands still while nobody else does; its line comes first."""
    watched.committing_since = watched.now
    with watched.heartbeat.watch("worker-0"):
        moving, reported = watched.look(LIMIT_S + 1)
        watched.committing_since = None
        _, after = watched.look(1.0)

    assert not moving
    assert [name for _, _, name in reported] == ["journal", "worker-0"]
    assert after == [("info", "daemon.resumed", "journal")]


def test_machine_that_slept(watched: Watched) -> None:
    """After a pause of the whole process nobody is accused; the next look counts."""
    with watched.heartbeat.watch("intake"):
        watched.look(1.0)
        watched.now += LIMIT_S + LATE_S
        assert watched.look(1.0) == (True, [])
        assert watched.look(1.0)[0] is False


def test_without_a_watchdog_it_is_logged_all_the_same() -> None:
    """Started by hand there is nobody to restart it, but a log."""
    watched = Watched(None)
    with watched.heartbeat.watch("intake"):
        _, reported = watched.look(watched.supervision.limit_s + 2)

    assert reported == [("critical", "daemon.stalled", "intake")]


def test_watchdog_is_fed_while_all_move(manager: socket.socket) -> None:
    """A look sends a sign of life, and the status where it is another."""
    watched = Watched()
    for status in ("one", "one", "two"):
        watched.supervision.check(status)

    assert [manager.recv(4096) for _ in range(3)] == [
        b"WATCHDOG=1\nSTATUS=one",
        b"WATCHDOG=1",
        b"WATCHDOG=1\nSTATUS=two",
    ]


def test_watchdog_starves_while_one_stands_still(manager: socket.socket) -> None:
    """The status still goes out, the sign of life does not."""
    watched = Watched()
    watched.committing_since = time.monotonic() - LIMIT_S - 1
    with capture_logs():
        watched.supervision.check("one")
        watched.supervision.check("one")

    assert manager.recv(4096) == b"STATUS=one"
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_drain_feeds_the_watchdog(manager: socket.socket) -> None:
    """The watchdog is fed at each check of a drain."""
    watched = Watched()
    watched.supervision.feed()

    assert manager.recv(4096) == b"WATCHDOG=1"


def test_nobody_is_fed_unasked(manager: socket.socket) -> None:
    """Without a watchdog there is only the status."""
    watched = Watched(None)
    watched.supervision.feed()
    watched.supervision.check("one")

    assert manager.recv(4096) == b"STATUS=one"


COUNTS = dict.fromkeys(State, 0) | {
    State.QUEUED: 7,
    State.DEFERRED: 5,
    State.DELIVERING: 3,
    State.DELIVERED: 410,
}


@pytest.mark.parametrize(
    ("oldest_s", "waits"),
    [
        (None, ""),
        (-5.0, " oldest 0s,"),
        (35.9, " oldest 35s,"),
        (179.0, " oldest 2m,"),
        (7300.0, " oldest 2h,"),
        (200 * 86400.0, " oldest 200d,"),
    ],
    ids=["none waits", "clock set back", "seconds", "minutes", "hours", "days"],
)
def test_status_line(oldest_s: float | None, waits: str) -> None:
    """It says what is queued, uploading, oldest and delivered, and the destination."""
    line = f"12 queued, 3 uploading,{waits} 410 delivered; destination up"
    assert status_line(COUNTS, oldest_s, None) == line


def test_status_line_without_a_folder() -> None:
    """A watched folder that is not there comes first: nothing else can go on."""
    line = status_line(COUNTS, None, None, lost=True)

    assert line.startswith("no watched folder; 12 queued, ")


def test_status_line_of_an_outage() -> None:
    """What is wrong with the destination is reported with its code."""
    down = OpenCircuit(Stage.GRANT, Code.DNS, "no such host", "", 0.0, 0.0)

    assert status_line(COUNTS, None, down).endswith("down: E301 no such host")
