"""The threads of the daemon: as many workers as wanted, and none that is cut off."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from conftest import NoThreads
from emitterd.delivery.concurrency import START
from emitterd.delivery.dispatch import IDLE_S
from emitterd.service.threads import Threads
from support.waiting import wait_until
from support.worker import Rig, rigged

WAIT_S = 30.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig without faults."""
    with rigged(tmp_path) as rig:
        yield rig


@pytest.fixture
def crew(rig: Rig) -> Iterator[Threads]:
    """Yield a crew without members; those left at the end are stopped."""
    crew = Threads(rig.another_worker, rig.wake_up, rig.shutdown)
    yield crew
    rig.shutdown.drain(0.0)
    rig.shutdown.now.set()
    crew.join(WAIT_S)


def workers(crew: Threads) -> list[str]:
    """Return the names of the crew's workers that run, in order.

    Other threads of this process may belong to another test.
    """
    threads = list(crew._workers.values())
    return sorted(thread.name for thread in threads if thread.is_alive())


def established(port: int) -> int:
    """Return how many connections this host has open to a port."""
    there = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()
    ends = [line.split() for line in lines[1:]]
    return sum(remote.endswith(there) and state == "01" for _, _, remote, state, *_ in ends)


def manned(crew: Threads, count: int) -> bool:
    """Bring the crew towards a number; return whether it is reached."""
    crew.resize_workers(lambda: count)
    return len(workers(crew)) == count


def test_so_many_workers_as_wanted(crew: Threads) -> None:
    """More begin at once, idle surplus leaves at once, and names are taken again."""
    crew.resize_workers(lambda: 3)
    assert workers(crew) == ["worker-0", "worker-1", "worker-2"]

    wait_until(lambda: manned(crew, 1), WAIT_S, "one worker")
    assert workers(crew) == ["worker-0"]
    crew.resize_workers(lambda: 3)
    assert workers(crew) == ["worker-0", "worker-1", "worker-2"]


def test_surplus_ends_its_upload_first(crew: Threads, rig: Rig) -> None:
    """Who is uploading leaves when that is done; until then none takes its place."""
    rig.faults("slow-reader:1:100000")
    for number in range(3):
        rig.drop(f"pat/{number}.zip", os.urandom(300_000))
    crew.resize_workers(lambda: 3)
    wait_until(lambda: rig.reached("bucket") == 3, WAIT_S, "three uploads")
    crew.resize_workers(lambda: 1)
    crew.resize_workers(lambda: 3)

    assert workers(crew) == ["worker-0", "worker-1", "worker-2"]
    wait_until(lambda: len(rig.logged("file.delivered")) == 3, WAIT_S, "all delivered")
    wait_until(lambda: manned(crew, 3), WAIT_S, "three workers again")
    assert all(item.posts == 1 for item in rig.server.objects.values())


def test_all_leave_at_a_stop(crew: Threads, rig: Rig) -> None:
    """A stop ends every loop."""
    crew.start_watched("intake", lambda: rig.shutdown.wait_for_drain(WAIT_S))
    crew.resize_workers(lambda: 2)
    assert crew.alive()
    rig.shutdown.drain(0.0)
    crew.join(WAIT_S)

    assert not crew.alive()


def test_a_drain_does_not_wait_for_a_side_thread(crew: Threads, rig: Rig) -> None:
    """A request of the tracking may hang; the abort ends it."""

    def hang() -> None:
        rig.shutdown.now.wait(WAIT_S)

    crew.start_side("tracking", hang)
    [thread] = crew._side_loops
    rig.shutdown.drain(0.0)
    assert not crew.alive()
    assert thread.is_alive()
    rig.shutdown.now.set()
    crew.join(WAIT_S)
    assert not thread.is_alive()


def test_dead_thread_is_reported(crew: Threads) -> None:
    """What nobody expected ends the daemon: the flag is set, with a traceback."""

    def die() -> None:
        raise ZeroDivisionError

    with capture_logs() as events:
        crew.start("control", die)
        wait_until(lambda: crew.failed, WAIT_S, "the failure")

    [line] = events
    assert (line["event"], line["log_level"]) == ("daemon.stopping", "critical")
    assert line["thread"] == "control"


def test_idle_workers_give_signs(crew: Threads) -> None:
    """A thread that waits for work has said for how long."""
    crew.resize_workers(lambda: 2)
    wait_until(
        lambda: not crew.heartbeat.stalled(time.monotonic() + IDLE_S / 2, 0.0), WAIT_S, "both rest"
    )
    assert len(crew.heartbeat.stalled(float("inf"), 0.0)) == 2


@pytest.mark.slow
def test_slow_answers_call_for_more(tmp_path: Path) -> None:
    """Where each upload waits for its answer, more than the first eight go at once."""
    with rigged(tmp_path, workers=None) as rig:
        rig.faults("slow-answer:1:0.3")
        for number in range(150):
            rig.drop(f"pat/{number}.zip", b"%d" % number)
        crew = Threads(rig.another_worker, rig.wake_up, rig.shutdown)
        rig.destination.on_resized = lambda: crew.resize_workers(lambda: rig.destination.workers)
        rig.destination.on_resized()
        first = workers(crew)
        most = set(first)

        def all_delivered() -> bool:
            most.update(workers(crew))
            return len(rig.logged("file.delivered")) == 150

        wait_until(all_delivered, 2 * WAIT_S, "all delivered")
        rig.shutdown.drain(0.0)
        crew.join(WAIT_S)

    assert len(first) == START
    assert len(most) >= 2 * START
    assert all(item.posts == 1 for item in rig.server.objects.values())


def test_who_leaves_closes_its_connections(crew: Threads, rig: Rig) -> None:
    """A surplus worker's connections are not kept open for nobody."""
    for number in range(30):
        rig.drop(f"pat/{number}.zip", b"%d" % number)
    crew.resize_workers(lambda: 4)
    wait_until(lambda: len(rig.logged("file.delivered")) == 30, WAIT_S, "all delivered")
    open_then = established(rig.server.port)
    wait_until(lambda: manned(crew, 0), WAIT_S, "nobody")

    assert open_then > 0
    assert established(rig.server.port) == 0


def test_workers_that_cannot_be_started_are_started_later(
    crew: Threads, no_threads: NoThreads
) -> None:
    """At the limit of threads the daemon goes on with the workers that it has."""
    assert manned(crew, 1)
    with no_threads():
        assert not manned(crew, 3)
        assert len(workers(crew)) == 1
    assert manned(crew, 3)
