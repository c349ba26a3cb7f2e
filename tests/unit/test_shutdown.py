"""The stop signal that all components share."""

import threading
import time

from emitterd.shutdown import Shutdown


def test_a_drain_asks_loops_to_end_and_lets_work_go_on() -> None:
    """The drain sets `draining` alone; requests under way continue until `now`."""
    shutdown = Shutdown()
    before = shutdown.draining
    shutdown.drain(60.0)

    assert (before, shutdown.draining) == (False, True)
    assert not shutdown.now.is_set()
    assert not shutdown.overdue


def test_a_drain_is_overdue_at_its_deadline() -> None:
    """Without a drain nothing is overdue; a drain of no time is overdue at once."""
    shutdown = Shutdown()
    before = shutdown.overdue
    shutdown.drain(0.0)

    assert (before, shutdown.overdue) == (False, True)


def test_a_drain_calls_each_callback_once() -> None:
    """Callbacks see that the drain has begun, in the order in which they came."""
    shutdown = Shutdown()
    calls: list[tuple[str, bool]] = []
    shutdown.on_drain(lambda: calls.append(("first", shutdown.draining)))
    shutdown.on_drain(lambda: calls.append(("second", shutdown.draining)))
    before = list(calls)
    shutdown.drain(60.0)

    assert before == []
    assert calls == [("first", True), ("second", True)]


def test_a_callback_that_comes_after_the_drain_is_called_at_once() -> None:
    """A loop that starts while the daemon stops is woken too."""
    shutdown = Shutdown()
    shutdown.drain(60.0)
    calls: list[str] = []
    shutdown.on_drain(lambda: calls.append("late"))

    assert calls == ["late"]


def test_a_callback_may_add_another() -> None:
    """The drain holds no lock while it calls."""
    shutdown = Shutdown()
    calls: list[str] = []
    shutdown.on_drain(lambda: shutdown.on_drain(lambda: calls.append("inner")))
    shutdown.drain(60.0)

    assert calls == ["inner"]


def test_the_drain_ends_a_sleep() -> None:
    """A thread that sleeps for a minute ends at the drain."""
    shutdown = Shutdown()
    thread = threading.Thread(target=shutdown.wait_for_drain, args=(60.0,))
    began_at = time.monotonic()
    thread.start()
    shutdown.drain(60.0)
    thread.join(30.0)

    assert not thread.is_alive()
    assert time.monotonic() - began_at < 30.0
