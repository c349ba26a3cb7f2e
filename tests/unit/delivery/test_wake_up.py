"""Wake-ups are counted, so that none is lost."""

import threading
import time
from pathlib import Path

from emitterd.delivery.dispatch import WakeUp
from emitterd.journal.journal import Journal
from emitterd.shutdown import Shutdown
from support.intake import NAME, PATH, swept
from support.waiting import wait_until
from support.zips import make_zip


def test_notification_before_wait_ends_it_at_once() -> None:
    """A notification during the look for work ends the wait at once."""
    wake_up = WakeUp()
    count = wake_up.count()
    wake_up.notify()
    began = time.monotonic()
    wake_up.wait(count, 60.0)
    assert time.monotonic() - began < 30.0


def test_wait_ends_with_its_time() -> None:
    """Without a notification the wait ends by itself, and not before its time."""
    wake_up = WakeUp()
    began = time.monotonic()
    wake_up.wait(wake_up.count(), 0.05)
    assert time.monotonic() - began >= 0.05


def test_one_notification_wakes_all() -> None:
    """Each of N waiting threads wakes from one notification."""
    wake_up = WakeUp()
    count = wake_up.count()
    threads = [threading.Thread(target=wake_up.wait, args=(count, 60.0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: len(wake_up._condition._waiters) == 8,  # type: ignore[attr-defined]
        30.0,
        "all wait",
    )
    wake_up.notify()
    for thread in threads:
        thread.join(30.0)
    assert not any(thread.is_alive() for thread in threads)


def test_no_notification_is_lost_under_load() -> None:
    """A thread that takes the count before it looks for work misses none."""
    wake_up = WakeUp()
    work = 0
    seen: list[int] = []

    def look() -> None:
        while not seen or seen[-1] < 500:
            count = wake_up.count()
            if seen and seen[-1] == work:
                wake_up.wait(count, 60.0)
            seen.append(work)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 501):
        work = number
        wake_up.notify()
    thread.join(30.0)
    assert not thread.is_alive()
    assert seen[-1] == 500


def test_thread(spool_root: Path, journal: Journal) -> None:
    """The loop wakes for a hint, and ends in a drain."""
    door = swept(spool_root, journal)
    shutdown = Shutdown()
    thread = threading.Thread(target=door.intake.run, args=(shutdown,))
    # The door's own clock may be ahead of that of a machine just booted.
    door.intake.sweep_soon()
    thread.start()
    wait_until(lambda: door.sweeps == 2, 30.0, "a sweep by the real clock")
    make_zip(door.root / NAME)
    door.intake.hint(PATH)
    wait_until(lambda: door.journal.latest(PATH), 30.0, "the file is admitted")
    shutdown.drain(0.0)
    thread.join(30.0)
    assert not thread.is_alive()
