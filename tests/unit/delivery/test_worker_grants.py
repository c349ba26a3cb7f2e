"""The pinned grant over lost answers, expiry and restarts, and files that hinder."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.errors import Decision, DeliveryError
from emitterd.model import State
from support.faults import fault_list
from support.waiting import wait_until
from support.worker import INITIAL_S, Rig, rigged

NAME = "pat/exam.zip"
TERMINAL = {"file.delivered", "file.rejected", "file.withdrawn", "file.unchanged"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig without faults."""
    with rigged(tmp_path) as rig:
        yield rig


def test_after_a_lost_answer_the_same_key_is_written(rig: Rig) -> None:
    """The second attempt overwrites, and the receipt says that there were two."""
    rig.faults("lost-answer@1")
    rig.drop(NAME)
    rig.step()

    row = rig.row(NAME)
    assert rig.server.fired["lost-answer"] == 1
    assert (row["state"], row["error"], row["ambiguous"]) == ("deferred", "E307", 1)
    [line] = rig.logged("file.ambiguous")
    assert (line["path"], line["error"]) == (NAME, "E307")
    assert not rig.logged("file.deferred")

    rig.later()
    [(key, stored)] = rig.server.objects.items()
    row = rig.row(NAME)
    assert stored.posts == 2
    assert (row["state"], row["key"], row["ambiguous"]) == ("delivered", key, 1)
    assert row["earlier_keys"] is None
    assert rig.reached("upload-url") == 1
    [line] = rig.logged("file.delivered")
    assert (line["ambiguous"], line["attempt"]) == (True, 2)


def test_an_answer_that_an_idle_connection_loses_is_on_record(tmp_path: Path) -> None:
    """The body is sent again at once, and the receipt says that there were two."""
    with rigged(tmp_path, idle_s=0.0) as rig:
        rig.faults("lost-answer@1")
        rig.drop(NAME)
        rig.step()

        [stored] = rig.server.objects.values()
        row = rig.row(NAME)
        [line] = rig.logged("file.delivered")
    assert rig.server.fired["lost-answer"] == 1
    assert stored.posts == 2
    assert (row["state"], row["ambiguous"]) == ("delivered", 1)
    assert (line["ambiguous"], line["attempt"]) == (True, 1)


def test_a_grant_that_expired_after_a_lost_answer_leaves_a_trace(tmp_path: Path) -> None:
    """Only here a second object exists, and the journal has both keys."""
    # Shorter than the margin: every attempt needs a grant of its own.
    with rigged(tmp_path, grant_lifetime_s=20) as rig:
        rig.faults("lost-answer@1,no-lists")
        rig.drop(NAME)
        rig.step()
        first = rig.row(NAME)["key"]
        rig.later()

        row = rig.row(NAME)
        assert rig.server.fired["lost-answer"] == 1
        assert (row["state"], row["ambiguous"]) == ("delivered", 1)
        assert row["key"] != first
        assert row["earlier_keys"] == first
        assert set(rig.server.objects) == {first, row["key"]}


def test_a_grant_that_expired_unused_leaves_none(tmp_path: Path) -> None:
    """Where nothing can have been stored there is no earlier key."""
    with rigged(tmp_path, grant_lifetime_s=20) as rig:
        rig.faults("503@1")
        rig.drop(NAME)
        rig.step()
        rig.later()

        assert rig.server.fired["503"] == 1
        assert rig.row(NAME)["state"] == "delivered"
        assert rig.row(NAME)["earlier_keys"] is None
        assert list(rig.server.objects) == [rig.row(NAME)["key"]]


def test_a_wrong_object_whose_grant_expired_leaves_a_trace(tmp_path: Path) -> None:
    """What the bucket stored under a wrong ETag is an object: its key is kept."""
    with rigged(tmp_path, grant_lifetime_s=20) as rig:
        rig.faults("wrong-etag@1,no-lists")
        rig.drop(NAME)
        rig.step()
        first = rig.row(NAME)["key"]
        rig.later()

        assert rig.server.fired["wrong-etag"] == 1
        assert set(rig.server.objects) == {first, rig.row(NAME)["key"]}
        assert rig.row(NAME)["earlier_keys"] == first


def test_a_grant_called_expired_is_renewed_at_once(rig: Rig) -> None:
    """The same attempt gets a new grant, and is not charged."""
    rig.faults("expired@1")
    rig.drop(NAME)
    rig.step()

    assert rig.server.fired["expired"] == 1
    assert (rig.row(NAME)["state"], rig.row(NAME)["attempts"]) == ("delivered", 0)
    assert rig.reached("upload-url") == 2
    assert len(rig.server.objects) == 1


def test_a_new_grant_called_expired_is_a_wrong_clock(rig: Rig) -> None:
    """A new grant that has expired pauses uploads, instead of one more grant."""
    rig.faults("expired")
    rig.drop(NAME)
    rig.step()

    assert rig.server.fired["expired"] == 2
    assert rig.row(NAME)["attempts"] == 0
    [line] = rig.logged("destination.down")
    assert line["error"] == "E509"


def test_a_pinned_grant_survives_a_restart(tmp_path: Path) -> None:
    """The next process posts to the same key without asking again."""
    with rigged(tmp_path) as rig:
        rig.faults("lost-answer@1")
        rig.drop(NAME)
        rig.step()
        port, first = rig.server.port, rig.row(NAME)
        assert rig.server.fired["lost-answer"] == 1
    with rigged(tmp_path, port=port) as rig:
        assert rig.row(NAME)["due_at"] == first["due_at"]
        rig.later()

        [(key, stored)] = rig.server.objects.items()
        assert (rig.row(NAME)["state"], rig.row(NAME)["key"]) == ("delivered", key)
        assert (key, stored.posts) == (first["key"], 2)
        assert rig.reached("upload-url") == 0


def test_what_a_dead_process_had_claimed_is_sent_to_its_key(tmp_path: Path) -> None:
    """A claim without an outcome may have been stored: same key, and ambiguous."""
    with rigged(tmp_path) as rig:
        rig.drop(NAME)
        entry = rig.journal.claim(time.time())
        assert entry is not None
        grant = rig.emission.grant(entry.path)
        rig.journal.pin(entry, grant)
        port = rig.server.port
    with rigged(tmp_path, port=port) as rig:
        assert rig.journal.store.reclaimed == 1
        rig.step()

        row = rig.row(NAME)
        assert (row["state"], row["key"]) == ("delivered", grant.key)
        assert (row["ambiguous"], row["attempts"]) == (1, 0)
        assert rig.reached("upload-url") == 0


@pytest.mark.parametrize(("menu", "ambiguous"), [("black-hole", 0), ("slow-answer:1:60", 1)])
def test_an_abort_gives_the_entry_back(rig: Rig, menu: str, ambiguous: int) -> None:
    """A stop during an upload charges no attempt and pauses nothing."""
    rig.faults(menu)
    rig.drop(NAME, random.Random(1).randbytes(24 * 1024 * 1024))  # noqa: S311
    thread = threading.Thread(target=rig.step)
    thread.start()
    wait_until(lambda: rig.server.fired[menu.partition(":")[0]], 20, "the fault")
    rig.shutdown.now.set()
    thread.join(30)

    row = rig.row(NAME)
    assert (row["state"], row["attempts"], row["error"]) == ("queued", 0, None)
    assert (row["ambiguous"], row["pinned"]) == (ambiguous, 1)
    assert {event["event"] for event in rig.events} == {"auth.renewed"}
    assert rig.destination.down is None


def test_one_worker_probes_while_the_others_wait(rig: Rig) -> None:
    """While the destination is down a single request is under way."""
    rig.faults("signature@1")
    rig.drop(NAME)
    rig.drop("pat/other.zip")
    rig.step()
    rig.faults("slow-answer:1:60")
    prober = threading.Thread(target=rig.later)
    prober.start()
    wait_until(lambda: rig.server.fired["slow-answer"], 20, "the probe")

    assert rig.later() > 0
    assert rig.reached("bucket") == 2
    rig.shutdown.now.set()
    prober.join(30)
    assert not prober.is_alive()


def test_a_bug_puts_one_file_off(rig: Rig) -> None:
    """An unexpected exception defers one file with E106; the others go on."""
    rig.emission.poison[NAME.encode()] = RuntimeError("a bug")
    rig.drop(NAME)
    rig.drop("pat/other.zip")
    rig.step()
    rig.step()

    row = rig.row(NAME)
    assert (row["state"], row["error"], row["attempts"]) == ("deferred", "E106", 1)
    assert "a bug" in row["reason"]
    assert row["due_at"] > time.time() + INITIAL_S / 2
    assert rig.state("pat/other.zip") is State.DELIVERED
    assert rig.logged("file.deferred", NAME)[0]["exc_info"]
    assert not rig.logged("destination.down")


def test_a_file_that_fails_the_same_way_again_pauses_nobody(rig: Rig) -> None:
    """Other files were delivered since, so the file is the cause."""
    rig.emission.poison[NAME.encode()] = DeliveryError(Decision.PAUSE, Code.API_TROUBLE, "500")
    rig.drop(NAME, rank=5)
    rig.step()
    rig.drop("pat/first.zip", rank=1)
    rig.later()
    assert rig.state("pat/first.zip") is State.DELIVERED
    rig.later()
    rig.drop("pat/third.zip", rank=9)
    rig.step()

    assert rig.state("pat/third.zip") is State.DELIVERED
    row = rig.row(NAME)
    assert (row["state"], row["error"], row["attempts"]) == ("deferred", "E408", 1)
    assert len(rig.logged("destination.down")) == len(rig.logged("destination.up")) == 1
    assert rig.fact("destination") == "null"


def test_a_file_that_pauses_is_not_the_only_probe(rig: Rig) -> None:
    """Behind a file that the server cannot take, the others are delivered."""
    rig.emission.poison[NAME.encode()] = DeliveryError(Decision.PAUSE, Code.API_TROUBLE, "500")
    rig.drop(NAME)
    others = [f"pat/{number}.zip" for number in range(3)]
    for name in others:
        rig.drop(name)
    for _ in range(12):
        down = rig.destination.down
        rig.worker.step(down.probe_at if down else time.time())

    assert {rig.state(name) for name in others} == {State.DELIVERED}


def test_each_version_ends_once_after_any_failure(tmp_path: Path) -> None:
    """Forty files, four workers, a bad day: forty objects and forty endings."""
    names = [f"pat/{number:02}.zip" for number in range(40)]
    with rigged(tmp_path, backoff=Backoff(0.02, 0.1)) as rig:
        rig.server.faults = fault_list("503:0.3,lost-answer:0.2", seed=7)
        for name in names:
            rig.drop(name)
        run_until_delivered(rig, len(names))

        assert set(rig.server.fired) == {"503", "lost-answer"}
        endings = Counter(event["path"] for event in rig.events if event["event"] in TERMINAL)
        assert endings == Counter(names)
        assert len(rig.logged("file.delivered")) == len(names)
        keys = {rig.row(name)["key"] for name in names}
        assert keys == set(rig.server.objects)
        assert len(keys) == rig.reached("upload-url") == len(names)
        check_records(rig, {name: rig.row(name) for name in names})


@pytest.mark.slow
def test_outages_are_logged_in_order(tmp_path: Path) -> None:
    """Down and up take turns, and the last word is how it stands."""
    with rigged(tmp_path, backoff=Backoff(0.002, 0.01)) as rig:
        rig.server.faults = fault_list("503:0.6", seed=7)
        for number in range(240):
            rig.drop(f"pat/{number:03}.zip")
        run_until_delivered(rig, 240)

        names = ("destination.down", "destination.up")
        events = [event["event"] for event in rig.events if event["event"] in names]
        assert events
        assert events == [*names] * (len(events) // 2)


def run_until_delivered(rig: Rig, count: int) -> None:
    """Let four workers run until `count` files are delivered."""
    workers = [rig.another_worker() for _ in range(4)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: rig.journal.counts()[State.DELIVERED] == count, 40, "the deliveries")
    finally:
        rig.shutdown.drain(0.0)
        rig.wake_up.notify()
        rig.shutdown.now.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def check_records(rig: Rig, rows: dict[str, dict[str, Any]]) -> None:
    """Hold journal, log and bucket against each other."""
    for name, row in rows.items():
        stored = rig.server.objects[row["key"]]
        failures = len(rig.logged("file.deferred", name))
        lost = len(rig.logged("file.ambiguous", name))
        # What proves to be the bucket's trouble is charged to none, and reported once.
        assert row["attempts"] <= failures + lost
        assert stored.posts >= lost + 1
        assert bool(row["ambiguous"]) == bool(lost)
        assert row["md5"].hex() == stored.md5
    assert rig.destination.down is None
    assert rig.fact("destination") in {None, "null"}
