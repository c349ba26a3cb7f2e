"""Signs of life: who owes one, by a clock that is passed in."""

import threading
import time

import pytest

from emitterd.heartbeat import Heartbeat, Stalled, beat, rest

LIMIT_S = 30.0


@pytest.fixture
def pulse() -> Heartbeat:
    """Make a pulse without loops."""
    return Heartbeat()


def test_silent_loop_is_told_by_name(pulse: Heartbeat) -> None:
    """A loop without a sign for longer than the limit stands still since its last."""
    with pulse.of("worker-3"):
        now = time.monotonic()

        assert pulse.still(now + LIMIT_S - 1, LIMIT_S) == []
        [still] = pulse.still(now + LIMIT_S + 1, LIMIT_S)
    assert still == Stalled("worker-3", still.since, threading.get_ident())
    assert still.since <= now


def test_sign_starts_the_time_anew(pulse: Heartbeat) -> None:
    """What has given a sign moves."""
    with pulse.of("intake"):
        began = time.monotonic()
        beat()

        assert pulse.still(began + LIMIT_S, LIMIT_S) == []


def test_announced_rest_is_no_standstill(pulse: Heartbeat) -> None:
    """Silence that was announced does not count; the next sign ends it."""
    with pulse.of("worker-0"):
        rest(600.0)
        now = time.monotonic()
        assert pulse.still(now + 600, LIMIT_S) == []
        assert pulse.still(now + 600 + LIMIT_S + 1, LIMIT_S)
        beat()
        assert pulse.still(now + 600, LIMIT_S)


def test_loop_that_ended_owes_nothing(pulse: Heartbeat) -> None:
    """A worker that left is not missed, however it ended."""
    with pytest.raises(ZeroDivisionError), pulse.of("worker-0"):
        _ = 1 // 0

    assert pulse.still(time.monotonic() + 1e6, LIMIT_S) == []


def test_sign_outside_a_loop_is_nothing(pulse: Heartbeat) -> None:
    """Commands run the same code without a loop."""
    beat()
    rest(1.0)

    assert pulse.still(time.monotonic() + 1e6, LIMIT_S) == []


def test_each_thread_speaks_for_its_own_loop(pulse: Heartbeat) -> None:
    """The sign of one thread is not taken for that of another."""
    entered, leave = threading.Event(), threading.Event()

    def silent() -> None:
        with pulse.of("silent"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=silent)
    thread.start()
    entered.wait(30)
    with pulse.of("busy"):
        rest(1e6)
        still = pulse.still(time.monotonic() + 1e5, LIMIT_S)
    leave.set()
    thread.join()

    assert [one.name for one in still] == ["silent"]
