"""Outages of login, grant and bucket, met by workers on real sockets.

emitterd pauses the uploads and probes with one request at a time. It reports each outage once,
counts no failed attempt for a file, and starts slowly afterwards.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.dispatch import FRESH_EVERY
from emitterd.errors import DeliveryError, Stage
from emitterd.journal.opening import open_journal
from emitterd.model import State
from emitterd.rehearsal.server import RehearsalServer
from support.client import asked, emission_to, http_client, together
from support.faults import fault_list
from support.installation import Installation
from support.waiting import wait_until
from support.worker import Rig, rigged

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")

WORKERS = 8
FILES = 24
MENU = {"login": "auth-500", "grant": "api-503:1:1", "bucket": "503:1:1"}
ENDPOINT = {"login": "auth", "grant": "upload-url", "bucket": "bucket"}
STEADY = Backoff(0.1, 0.2, lambda _, high: high)

each_stage = pytest.mark.parametrize("stage", list(MENU))


def drop_all(rig: Rig, count: int = FILES) -> list[str]:
    """Drop `count` files; return their names."""
    names = [f"pat/{number:02}.zip" for number in range(count)]
    for name in names:
        rig.drop(name)
    return names


@contextmanager
def manned(rig: Rig, count: int = WORKERS) -> Iterator[None]:
    """Run workers until the end of the block."""
    threads = [threading.Thread(target=rig.another_worker().run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        rig.shutdown.drain(0.0)
        rig.shutdown.now.set()
        rig.wake_up.notify()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def delivered(rig: Rig, names: list[str]) -> bool:
    """Return whether all of these are."""
    return all(rig.state(name) is State.DELIVERED for name in names)


def probes(rig: Rig, stage: str) -> int:
    """Return how many probes of a stage have failed."""
    return sum(
        circuit.probes for circuit in rig.destination.open_circuits if circuit.stage == stage
    )


@pytest.mark.slow
@each_stage
def test_an_outage_under_full_load(tmp_path: Path, stage: str) -> None:
    """One line down, one up, nothing charged, one probe at a time; all files arrive."""
    with rigged(tmp_path, workers=WORKERS, backoff=STEADY) as rig:
        names = drop_all(rig)
        rig.faults(MENU[stage])
        with manned(rig):
            wait_until(lambda: rig.logged("destination.down"), 30, "the outage")
            wait_until(lambda: probes(rig, stage) >= 3, 60, "three probes")
            rig.faults("")
            wait_until(lambda: delivered(rig, names), 60, "all files")

        [down], [up] = rig.logged("destination.down"), rig.logged("destination.up")
        assert down["stage"] == up["stage"] == stage
        assert up["duration_s"] > 0
        assert {rig.row(name)["attempts"] for name in names} == {0}
        assert {item.posts for item in rig.server.objects.values()} == {1}
        assert rig.destination.down is None
        assert not rig.destination.limited
        assert rig.fact("destination") == "null"


@each_stage
def test_while_it_is_down_only_probes_reach_the_server(tmp_path: Path, stage: str) -> None:
    """However many files wait and workers ask, a probe is one attempt."""
    with rigged(tmp_path, workers=WORKERS) as rig:
        names = drop_all(rig)
        rig.faults(MENU[stage])
        while rig.step() == 0.0:
            pass
        assert [circuit.stage for circuit in rig.destination.open_circuits] == [stage]
        for _ in range(6):
            before, failed = rig.reached(ENDPOINT[stage]), probes(rig, stage)
            due_at = rig.destination.open_circuits[0].probe_at
            workers = [rig.another_worker() for _ in range(WORKERS)]
            waits = [worker.step(due_at) for worker in workers]

            assert waits[0] == 0.0
            assert min(waits[1:]) > 0
            assert probes(rig, stage) == failed + 1
            # An API request is tried three times within seconds.
            assert 1 <= rig.reached(ENDPOINT[stage]) - before <= 3
        assert len(rig.logged("destination.down")) == 1
        assert {rig.row(name)["attempts"] for name in names} == {0}


def test_probes_of_the_bucket_use_up_no_grants(tmp_path: Path) -> None:
    """They go by what is pinned; every fourth by another entry, lest one spoil all."""
    with rigged(tmp_path) as rig:
        drop_all(rig)
        rig.faults("503")
        while rig.step() == 0.0:
            pass
        granted, rounds = rig.reached("upload-url"), 2 * FRESH_EVERY
        for _ in range(rounds):
            assert rig.worker.step(rig.destination.open_circuits[0].probe_at) == 0.0

        assert probes(rig, "bucket") == rounds
        assert rig.reached("upload-url") - granted == rounds // FRESH_EVERY


@pytest.mark.slow
def test_after_an_outage_the_server_sees_ever_more_at_once(tmp_path: Path) -> None:
    """One upload, then two at once, then four, then those of all workers."""
    with rigged(tmp_path, workers=WORKERS, backoff=STEADY) as rig:
        names = drop_all(rig, 40)
        rig.faults("no-such-bucket@1")
        rig.step()
        rig.faults("")
        # So slow that uploads overlap on a busy machine, too.
        rig.server.latency_s = 0.4
        before, seen = len(rig.server.requests), list[tuple[int, int]]()

        def look() -> bool:
            requests = list(rig.server.requests)[before:]
            uploads = [request for request in requests if request.endpoint == "bucket"]
            under_way = sum(upload.status is None for upload in uploads)
            seen.append((under_way, sum(upload.status == 204 for upload in uploads)))
            return delivered(rig, names)

        with manned(rig):
            wait_until(look, 60, "all files")

        assert [item for item in seen if item[0] > 2 ** max(item[1] - 1, 0)] == []
        assert max(under_way for under_way, _ in seen) > WORKERS // 2


def test_a_refused_login_waits_on_after_a_restart(tmp_path: Path) -> None:
    """The journal knows of it: no request is made, and it says until when."""
    with RehearsalServer(tmp_path / "server") as server, http_client() as client:
        for run in range(3):
            journal = open_journal(tmp_path / "journal.db")
            emission = emission_to(client, server.url, secret="wrong", lockouts=journal)
            with pytest.raises(DeliveryError) as refused:
                emission.login()
            journal.close()
            assert refused.value.code is Code.CREDENTIALS
            assert refused.value.stage is Stage.LOGIN
            assert ("not tried again before" in refused.value.reason) == (run > 0)
        assert len(asked(server, "auth")) == 1

        with open_journal(tmp_path / "journal.db") as journal:
            assert b"wrong" not in (tmp_path / "journal.db").read_bytes()
            emission_to(client, server.url, lockouts=journal).login()
            assert journal.read_fact("login") is None
        assert len(asked(server, "auth")) == 2


def test_workers_that_wait_for_a_login_share_its_failure(tmp_path: Path) -> None:
    """Eight that need a token of a login that is down ask for it once."""
    with RehearsalServer(tmp_path / "server", latency_s=0.3) as server, http_client() as client:
        server.faults = fault_list("auth-error")
        emission = emission_to(client, server.url)
        found = together(WORKERS, emission.login)

        assert len(asked(server, "auth")) == 1
        assert all(isinstance(match, DeliveryError) for match in found)
        assert len({id(match) for match in found}) == WORKERS


@pytest.mark.slow
def test_once_does_not_hammer_a_login(tmp_path: Path) -> None:
    """From cron, with a wrong password: it says until when it waits."""
    with RehearsalServer(tmp_path / "server") as server:
        site = Installation(tmp_path, server.url)
        site.drop("school_master/school_mst.zip")
        password = tmp_path / "password"
        password.write_text("wrong")
        first, *others = [site.call("once") for _ in range(3)]

        assert [item.returncode for item in (first, *others)] == [1, 1, 1]
        assert len(asked(server, "auth")) == 1
        assert "the destination is down: E401" in first.stderr
        for other in others:
            assert "not tried again before 20" in other.stderr
            assert "or with another password" in other.stderr
        password.write_text("rehearsal")
        assert site.call("once").returncode == 0
        assert len(asked(server, "auth")) == 2


@each_stage
def test_the_daemon_survives_an_outage(tmp_path: Path, stage: str) -> None:
    """It never ends because the far side is down, and goes on by itself."""
    with RehearsalServer(tmp_path / "server") as server:
        server.faults = fault_list(MENU[stage].partition(":")[0])
        site = Installation(tmp_path, server.url, delivery_backoff_max="300ms")
        names = [f"school_master/school_mst_{number}.zip" for number in range(12)]
        for name in names:
            site.drop(name)
        with site.running() as daemon:
            daemon.wait_for_event("destination.down")
            fired = sum(server.fired.values())
            wait_until(lambda: sum(server.fired.values()) > fired + 6, 30, "probes")
            server.faults = fault_list("")
            site.wait_delivered(len(names))

        assert [event["stage"] for event in site.events("destination.down")] == [stage]
        assert [event["stage"] for event in site.events("destination.up")] == [stage]
        charged = {entry["path"] for entry in site.entries() if entry["attempts"] != 1}
        assert charged == deferred_after_the_outage(site)


def deferred_after_the_outage(site: Installation) -> set[str]:
    """Return the files with a failure of their own.

    A slow thread may record an answer of the outage after its end.
    """
    events = site.events()
    ended = next(n for n, event in enumerate(events) if event["event"] == "destination.up")
    return {event["path"] for event in events[ended:] if event["event"] == "file.deferred"}
