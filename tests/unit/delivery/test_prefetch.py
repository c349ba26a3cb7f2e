"""Grants fetched ahead: only where that is worth it, and never so that they age."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitterd.delivery.prefetch import MOST, WANTED_S, WORTH_S, GrantPrefetch
from emitterd.errors import Stage
from emitterd.model import Entry, Fingerprint, State
from support.waiting import wait_until
from support.worker import Rig, rigged

NOW = 1000.0
SLOW_S = 10 * WORTH_S


def entry(number: int) -> Entry:
    """Return an entry as a claim gives it."""
    path = b"pat/%d.zip" % number
    return Entry(
        number, path, Fingerprint(1, 2, 3, 4, 5), 0, None, None, ambiguous=False
    )


@pytest.fixture
def ahead() -> GrantPrefetch:
    """Return what has seen slow grants, and a worker that takes."""
    ahead = GrantPrefetch()
    for _ in range(9):
        ahead.asked(SLOW_S)
    ahead.take(NOW)
    return ahead


def test_so_many_are_fetched_at_once(ahead: GrantPrefetch) -> None:
    """What lies ready and what is being fetched is bounded together."""
    begun = [ahead.begin(NOW) for _ in range(MOST + 1)]
    for number in range(MOST):
        ahead.put(entry(number))
        ahead.end()
    full = ahead.begin(NOW)
    ahead.take(NOW)

    assert begun == [True] * MOST + [False]
    assert not full
    assert ahead.begin(NOW)


def test_they_are_taken_in_their_order(ahead: GrantPrefetch) -> None:
    """The first that was laid ready goes first; then there is none."""
    for number in range(3):
        ahead.put(entry(number))
    taken = [ahead.take(NOW) for _ in range(4)]

    assert [one.id if one else None for one in taken] == [0, 1, 2, None]


def test_quick_grants_are_not_fetched_ahead(ahead: GrantPrefetch) -> None:
    """Where the API answers at once a worker asks for itself."""
    for _ in range(50):
        ahead.asked(WORTH_S / 10)

    assert not ahead.begin(NOW)


def test_nothing_is_fetched_that_nobody_will_take(ahead: GrantPrefetch) -> None:
    """While all workers are at long uploads no grant begins to age."""
    assert ahead.begin(NOW + WANTED_S - 1)
    assert not ahead.begin(NOW + WANTED_S + 1)
    assert not GrantPrefetch().begin(NOW)


def test_who_fetches_is_woken_by_who_takes(ahead: GrantPrefetch) -> None:
    """A wait ends with the next entry that is taken, long before its time."""
    woken = threading.Event()
    for number in range(MOST):
        ahead.put(entry(number))

    def fetch() -> None:
        ahead.wait(600.0)
        woken.set()

    threading.Thread(target=fetch, daemon=True).start()

    def taken() -> bool:
        ahead.take(time.monotonic())
        return woken.wait(0.01)

    wait_until(taken, 20.0, "a wake")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose API is taken for a slow one."""
    with rigged(tmp_path) as rig:
        for _ in range(9):
            rig.ahead.asked(SLOW_S)
        rig.ahead.take(time.monotonic())
        yield rig


def test_grant_fetched_ahead_is_the_one_used(rig: Rig) -> None:
    """What lies ready is delivered by its grant, and the API is asked once a file."""
    rig.drop("pat/a.zip")
    fetched = rig.worker.fetch(time.time())
    ready = rig.journal.counts()
    rig.another_worker().step(time.time())

    assert fetched == 0.0
    assert ready[State.DELIVERING] == 1
    assert rig.journal.counts()[State.DELIVERED] == 1
    assert rig.reached("upload-url") == 1
    assert not rig.told("file.delivered")[0]["ambiguous"]


def test_file_that_came_before_is_laid_ready_without(rig: Rig) -> None:
    """Whether it has changed is found out first: an unchanged file needs no grant."""
    rig.drop("pat/a.zip", b"same")
    rig.step()
    asked = rig.reached("upload-url")
    rig.drop("pat/a.zip", b"same")
    rig.worker.fetch(time.time())
    laid = rig.reached("upload-url")
    rig.step()

    assert (asked, laid, rig.reached("upload-url")) == (1, 1, 1)
    assert len(rig.told("file.unchanged")) == 1


def test_refused_grant_is_a_failed_attempt(rig: Rig) -> None:
    """What the API answers to who fetches ahead counts like any answer."""
    rig.faults("api-401:1")
    rig.drop("pat/a.zip")
    rig.worker.fetch(time.time())

    assert rig.destination.at(Stage.GRANT) is not None
    assert rig.journal.counts()[State.DEFERRED] == 1
    assert rig.worker.fetch(time.time()) > 0


def test_nothing_is_fetched_while_something_is_down(rig: Rig) -> None:
    """A bucket that is down must not use up grants."""
    rig.faults("no-such-bucket@1")
    rig.drop("pat/a.zip")
    rig.drop("pat/b.zip")
    rig.step()
    asked = rig.reached("upload-url")
    waits_s = rig.worker.fetch(time.time())

    assert rig.destination.at(Stage.BUCKET) is not None
    assert waits_s > 0
    assert rig.reached("upload-url") == asked


def test_file_replaced_while_it_lay_ready(rig: Rig) -> None:
    """The grant is not used for other bytes than were admitted."""
    path = rig.drop("pat/a.zip", b"first")
    rig.worker.fetch(time.time())
    path.write_bytes(path.read_bytes() + b"more")
    rig.step()

    assert rig.server.objects == {}
    assert rig.journal.counts()[State.WITHDRAWN] == 1
    assert rig.changed == [b"pat/a.zip"]


def test_what_is_laid_ready_calls_a_worker(rig: Rig) -> None:
    """A worker that saw nothing while the grant was fetched does not wait on."""
    stop = threading.Event()
    idle = threading.Thread(target=rig.another_worker().run, args=(stop,))
    idle.start()
    wait_until(lambda: rig.wake._condition._waiters, 20.0, "an idle worker")  # type: ignore[attr-defined]  # the standard library's
    rig.drop("pat/a.zip")
    rig.worker.fetch(time.time())
    wait_until(lambda: rig.told("file.delivered"), 20.0, "the delivery")
    stop.set()
    rig.wake.ring()
    idle.join(20.0)

    assert not idle.is_alive()


def test_what_is_put_off_calls_a_worker(rig: Rig) -> None:
    """Who waits learns of another due time."""
    rig.faults("api-500:1")
    rig.drop("pat/a.zip")
    rings = rig.wake.rings()
    rig.worker.fetch(time.time())

    assert rig.wake.rings() > rings
