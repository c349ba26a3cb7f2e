"""Which loop has stalled, by a clock that the test passes in."""

import threading
import time

import pytest

from emitterd import heartbeat
from emitterd.heartbeat import Heartbeat, Stalled

LIMIT_S = 30.0


@pytest.fixture
def heartbeats() -> Heartbeat:
    """Return the heartbeats of no loop."""
    return Heartbeat()


def test_silent_loop_is_reported_by_name(heartbeats: Heartbeat) -> None:
    """A loop whose heartbeat is overdue has stalled since the last heartbeat."""
    with heartbeats.watch("worker-3"):
        now = time.monotonic()

        assert heartbeats.stalled(now + LIMIT_S - 1, LIMIT_S) == []
        [loop] = heartbeats.stalled(now + LIMIT_S + 1, LIMIT_S)
    assert loop == Stalled("worker-3", loop.since, threading.get_ident())
    assert loop.since <= now


def test_heartbeat_restarts_the_limit(heartbeats: Heartbeat) -> None:
    """A loop that recorded a heartbeat within the limit has not stalled."""
    with heartbeats.watch("intake"):
        began = time.monotonic()
        heartbeat.record()

        assert heartbeats.stalled(began + LIMIT_S, LIMIT_S) == []


def test_announced_silence_is_no_stall(heartbeats: Heartbeat) -> None:
    """An announced wait does not count as silence. The next heartbeat ends it."""
    with heartbeats.watch("worker-0"), heartbeat.silence(600.0):
        now = time.monotonic()
        assert heartbeats.stalled(now + 600, LIMIT_S) == []
        assert heartbeats.stalled(now + 600 + LIMIT_S + 1, LIMIT_S)
        heartbeat.record()
        assert heartbeats.stalled(now + 600, LIMIT_S)


def test_announced_silence_ends_with_the_wait(heartbeats: Heartbeat) -> None:
    """What a loop does after a wait that was short is watched again, also after an error."""
    with heartbeats.watch("worker-0"):
        with pytest.raises(ZeroDivisionError), heartbeat.silence(600.0):
            _ = 1 // 0

        assert heartbeats.stalled(time.monotonic() + LIMIT_S + 1, LIMIT_S)


def test_ended_loop_is_not_watched(heartbeats: Heartbeat) -> None:
    """A loop that ended, even by an error, does not count as stalled."""
    with pytest.raises(ZeroDivisionError), heartbeats.watch("worker-0"):
        _ = 1 // 0

    assert heartbeats.stalled(time.monotonic() + 1e6, LIMIT_S) == []


def test_heartbeat_outside_a_loop_does_nothing(heartbeats: Heartbeat) -> None:
    """Commands run the same code without a watched loop."""
    heartbeat.record()
    with heartbeat.silence(1.0):
        pass

    assert heartbeats.stalled(time.monotonic() + 1e6, LIMIT_S) == []


def test_heartbeat_counts_for_the_loop_of_its_thread(heartbeats: Heartbeat) -> None:
    """A heartbeat of one thread does not count for the loop of another thread."""
    entered, leave = threading.Event(), threading.Event()

    def silent() -> None:
        with heartbeats.watch("silent"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=silent)
    thread.start()
    entered.wait(30)
    with heartbeats.watch("busy"), heartbeat.silence(1e6):
        stalled = heartbeats.stalled(time.monotonic() + 1e5, LIMIT_S)
    leave.set()
    thread.join()

    assert [loop.name for loop in stalled] == ["silent"]
