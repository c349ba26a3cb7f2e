"""kill -9 at every failpoint: what the crash table of docs/design.md promises.

EMITTERD_CRASH_ROUNDS=20 makes a long run of it: each round kills at another passage
of each point, and at other random points.
"""

import ast
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeGuard

import pytest

from emitterd import failpoints
from emitterd.failpoints import Point
from emitterd.rehearsal.server import RehearsalServer
from support.crashes import SCENARIOS, die_at, installed, kill_at, kill_at_random, scenarios
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation
from support.samples import EMISSION_SAMPLES, INGESTION_SAMPLES, Samples
from support.waiting import wait_until

ROUNDS = int(os.environ.get("EMITTERD_CRASH_ROUNDS", "1"))
SIDE_BY_SIDE = 3
TWICE = {Point.COMMIT_DUE: (4, 5, 6), Point.COMMITTED: (3, 5, 6)}
"""Further passages of the group commit by default: a claim, a pin, a delivery."""


def passages(samples: Samples) -> Iterator[tuple[int, Point, int]]:
    """Yield round, point, and the passage to die at: another one in each round."""
    for number in range(ROUNDS):
        for point, scenario in scenarios(samples).items():
            yield number, point, 1 + number % scenario.passages
            if not number:
                yield from ((0, point, passage) for passage in TWICE.get(point, ()))


Case = Callable[[Path], int]
"""Returns how often it has killed."""

Record = Callable[[str, object], None]
PROTOCOLS = {"": EMISSION_SAMPLES, "five-": INGESTION_SAMPLES}
"""The second one is that of cQube 5."""

RANDOM = {
    f"{prefix}seed-{seed}": partial(kill_at_random, seed, samples)
    for prefix, samples in PROTOCOLS.items()
    for seed in range(ROUNDS)
}
EXACT = {
    f"{prefix}{number}-{point}-{passage}": partial(kill_at, point, passage, samples)
    for prefix, samples in PROTOCOLS.items()
    for number, point, passage in passages(samples)
}


@pytest.fixture(scope="module")
def crashes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[int]]]:
    """Run the cases that were chosen side by side: each of them mostly waits."""
    chosen = {item.callspec.id for item in request.session.items if is_case(item)}
    # The first call makes the folder, and must not be two threads at once.
    tmp_path_factory.getbasetemp()

    def run(name: str, case: Case) -> int:
        folder = tmp_path_factory.mktemp(name)
        killed = case(folder)
        shutil.rmtree(folder)
        return killed

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {
            name: pool.submit(run, name, case)
            for name, case in (RANDOM | EXACT).items()
            if name in chosen
        }
        pool.shutdown(cancel_futures=True)


# The first test to run may wait for a case that starts last.
WAITS_FOR_THE_POOL = pytest.mark.timeout(900)


def is_case(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Return whether a test waits for a case."""
    return isinstance(item, pytest.Function) and "crashes" in item.fixturenames


@WAITS_FOR_THE_POOL
@pytest.mark.parametrize("name", EXACT, ids=list(EXACT))
def test_kill_at_every_point(
    crashes: dict[str, Future[int]], name: str, record_property: Record
) -> None:
    """Killed at a point and started again, the daemon loses and doubles nothing."""
    record_property("kills", crashes[name].result())


@WAITS_FOR_THE_POOL
@pytest.mark.parametrize("name", RANDOM, ids=list(RANDOM))
def test_kills_at_random_points(
    crashes: dict[str, Future[int]], name: str, record_property: Record
) -> None:
    """Killed 15 times amid faults and new files, it loses and doubles nothing."""
    record_property("kills", crashes[name].result())


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "confirmation"), [("", "found"), ("no-lists", "unknown")])
def test_grant_that_expires_after_a_lost_answer(
    tmp_path: Path, faults: str, confirmation: str
) -> None:
    """The bucket is asked; where it cannot be, both objects are on record."""
    server = RehearsalServer(tmp_path / "server", grant_lifetime_s=31)
    with server, installed(tmp_path, server, "keep", {}) as oracle:
        oracle.grants_expire = True
        oracle.drop(EMISSION_SAMPLES.files[0])
        die_at(oracle, Point.BODY_SENT, 1)
        wait_until(lambda: server.objects, DEADLINE_S, "the object")
        server.faults = fault_list(faults)
        spent_at = time.time() + 1.5
        wait_until(lambda: time.time() > spent_at, DEADLINE_S, "a grant near its end")
        with oracle.site.running() as daemon:
            oracle.settle(daemon)
        oracle.judge()
        (entry,) = oracle.site.entries()
        (receipt,) = oracle.site.ask("receipts")
        (line,) = oracle.site.events("file.delivered")

    keys = {entry["key"], *entry.get("earlier_keys", [])}
    assert entry["ambiguous"]
    assert keys == set(server.objects)
    assert len(keys) == (1 if confirmation == "found" else 2)
    assert confirmation == entry["confirmation"] == receipt["confirmation"]
    assert bool(server.fired["no-lists"]) == bool(faults)
    assert line.get("confirmed", False) is (confirmation == "found")
    assert len(oracle.site.events("file.unconfirmed")) == bool(faults)
    assert "Signature" not in oracle.site.log.read_text()


def test_every_point_is_killed_at(record_property: Record) -> None:
    """A new point needs a scenario that reaches it, with each protocol that passes it."""
    record_property("points", len(Point))
    assert set(SCENARIOS) == set(Point) - {Point.ACCEPTED}
    assert set(scenarios(INGESTION_SAMPLES)) == set(Point) - {Point.GRANT_DROPPED}


def test_every_point_is_explained() -> None:
    """Each point has a docstring below it."""
    tree = ast.parse(Path(failpoints.__file__).read_text("utf-8"))
    (names,) = [item for item in tree.body if isinstance(item, ast.ClassDef)]
    kinds = [type(item) for item in names.body[1:]]

    assert kinds == [ast.Assign, ast.Expr] * len(Point)


def test_log_after_a_write_that_was_cut_short(site: Installation) -> None:
    """A kill can leave half a line in the log; the next daemon's lines are read."""
    site.log.write_text('{"event": "file.admitted"}\n{"event": "file.deliv')
    with site.running() as daemon:
        daemon.wait_for_event("daemon.ready")

    first, second, *_ = [event["event"] for event in site.events()]
    assert (first, second) == ("file.admitted", "daemon.started")


@pytest.mark.parametrize(
    "order", ["no-such-point", "pinned@0", "pinned@", "pinned@x", "pinned:sleep", "pinned:"]
)
def test_wrong_order_ends_the_start(site: Installation, order: str) -> None:
    """An order that cannot be read ends the start with 78 and says why."""
    done = subprocess.run(  # noqa: S603  our own command line
        site.command("run"),
        env=site.environment(EMITTERD_FAILPOINT=order),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 78
    assert done.stderr.startswith("EMITTERD_FAILPOINT: ")
    assert "Traceback" not in done.stderr
    assert (order != "no-such-point") or all(item in done.stderr for item in Point)
