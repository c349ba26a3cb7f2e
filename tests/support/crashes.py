"""Crashes at failpoints: what reaches each failpoint, and the kill."""

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.failpoints import Point
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation, Process
from support.oracle import IngestionOracle, Oracle
from support.samples import EMISSION_SAMPLES, LARGE_BYTES, SMALL_BYTES, Samples
from support.waiting import wait_until

PROCESS_AFTER_S = 0.1
"""When cQube 5 processes a file that it has accepted."""

MEMORY = "/dev/shm"  # noqa: S108  another file system

GONE = 600
"""Entries for retention: more than one page of them."""


def drop_all(oracle: Oracle) -> None:
    """Drop some small files and one of several chunks."""
    samples = oracle.samples
    oracle.drop(samples.large, samples.content(samples.large, LARGE_BYTES))
    for path in samples.files:
        oracle.drop(path, samples.content(path, SMALL_BYTES))


def admission(oracle: Oracle, path: str, trouble: DeliveryError | None = None) -> Admission:
    """Return what intake would admit for a file of the folder, or for a lost file."""
    try:
        fingerprint = Fingerprint.of((oracle.site.spool / path).stat())
    except FileNotFoundError:
        fingerprint = Fingerprint(1, 2, 3, 4, 5)
    return Admission(path.encode(), fingerprint, "flow", 0, trouble)


@contextmanager
def opened(oracle: Oracle) -> Iterator[Journal]:
    """Open a new journal as a daemon leaves it that has sent with the same protocol."""
    with open_journal(oracle.site.journal) as journal:
        journal.save_fact("protocol", oracle.samples.protocol)
        yield journal


def drop_and_claim(oracle: Oracle) -> None:
    """Leave what a process leaves that died after its claims."""
    drop_all(oracle)
    with opened(oracle) as journal:
        journal.admit([admission(oracle, path) for path in oracle.samples.files])
        journal.claim(time.time())
        journal.claim(time.time())


def take_one_away(oracle: Oracle) -> None:
    """Admit a file and take it away before anybody sends it."""
    drop_all(oracle)
    with opened(oracle) as journal:
        journal.admit([admission(oracle, oracle.samples.files[0])])
    oracle.forget(oracle.samples.files[0])


def deliver_and_touch(oracle: Oracle) -> None:
    """Deliver everything, then write the known content of a file again."""
    drop_all(oracle)
    target = oracle.site.spool / oracle.samples.files[0]
    content = target.read_bytes()
    assert oracle.site.call("once").returncode == 0
    part = target.with_name(".again.part")
    part.write_bytes(content)
    part.rename(target)


def deliver_and_age(oracle: Oracle) -> None:
    """Deliver everything, and let that and many others be old."""
    drop_all(oracle)
    assert oracle.site.call("once").returncode == 0
    trouble = DeliveryError(Decision.REJECT, Code.INCOMPLETE, "for the test")
    with open_journal(oracle.site.journal) as journal:
        journal.admit([admission(oracle, f"gone/{n}.zip", trouble) for n in range(GONE)])
    oracle.site.settings["EMITTERD_JOURNAL_RETAIN"] = "1ms"


def drop_one(oracle: Oracle) -> None:
    """Drop a single file."""
    path = oracle.samples.files[0]
    oracle.drop(path, oracle.samples.content(path, SMALL_BYTES))


def replace_deferred(oracle: Oracle, _: Process) -> None:
    """Replace a file whose next attempt is due later."""
    site = oracle.site
    wait_until(lambda: site.counts()["deferred"] == 1, DEADLINE_S, "deferred")
    path = oracle.samples.files[0]
    # Of another size: the lost attempt was not with this version.
    oracle.drop(path, oracle.samples.content(path, 3 * SMALL_BYTES))


def stop_in_mid_body(oracle: Oracle, daemon: Process) -> None:
    """Ask the daemon to stop while a body is under way."""
    server = oracle.server
    wait_until(lambda: server.fired["slow-reader"], DEADLINE_S, "a body under way")
    wait_until(
        lambda: any(request.bytes > 200_000 for request in server.requests),
        DEADLINE_S,
        "the large body under way",
    )
    daemon.signal(signal.SIGTERM)


def stop_when_done(oracle: Oracle, daemon: Process) -> None:
    """Ask the daemon to stop once everything is delivered."""
    oracle.site.wait_delivered(len(oracle.samples.files) + 1)
    daemon.wait_for_event("daemon.ready")
    daemon.signal(signal.SIGTERM)


def look_on(_: Oracle, __: Process) -> None:
    """Do nothing: the point is reached anyway."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a point is surely reached, and what is left in the end.

    `passages`: how often the point is surely passed. `after_delivery`: as configured,
    or `elsewhere` for an archive on another file system.
    """

    prepare: Callable[[Oracle], None] = drop_all
    act: Callable[[Oracle, Process], None] = look_on
    faults: str = ""
    grant_lifetime_s: float = 3600
    after_delivery: str = "keep"
    passages: int = len(EMISSION_SAMPLES.files)
    rejected: int = 0
    withdrawn: int = 0
    aside: bool = False
    settings: dict[str, str] = field(default_factory=dict)


PLAIN = Scenario()
ONCE = Scenario(passages=1)
ONE_BY_ONE = Scenario(passages=15, settings={"delivery_workers": "1"})
LOOKING_UP = Scenario(faults="lost-answer@3", passages=3, grant_lifetime_s=20)
"""Every grant is too short for a second attempt."""

FAILING = Scenario(faults="lost-answer@3", passages=3)
RETAINING = Scenario(deliver_and_age, passages=2)
REPLACING = Scenario(
    drop_one,
    replace_deferred,
    faults="lost-answer:1",
    passages=1,
    withdrawn=1,
    settings={"delivery_backoff_initial": "3s"},
)
ARCHIVING = Scenario(after_delivery="archive")
ELSEWHERE = Scenario(after_delivery="elsewhere")
SCENARIOS: dict[Point, Scenario] = {
    Point.SCHEMA_MADE: ONCE,
    Point.SCHEMA_COMMITTED: ONCE,
    Point.RECLAIMED: Scenario(drop_and_claim, passages=1),
    Point.COMMIT_DUE: ONE_BY_ONE,
    Point.COMMITTED: ONE_BY_ONE,
    Point.ADMIT_DUE: ONCE,
    Point.REPLACED: REPLACING,
    Point.ADMITTED: ONCE,
    Point.CLAIMED: PLAIN,
    Point.UNCHANGED_HALF: Scenario(deliver_and_touch, passages=1),
    Point.UNCHANGED: Scenario(deliver_and_touch, after_delivery="delete", passages=1),
    Point.GRANT_DUE: PLAIN,
    Point.GRANTED: PLAIN,
    Point.PINNED: PLAIN,
    Point.BODY_DUE: PLAIN,
    Point.BODY_BEGUN: Scenario(passages=3),
    Point.BODY_SENT: PLAIN,
    Point.ANSWERED: PLAIN,
    Point.DELIVERED: ARCHIVING,
    Point.CONFIRMED: LOOKING_UP,
    Point.FAILED: FAILING,
    Point.DEFERRED: FAILING,
    Point.GRANT_DROPPED: Scenario(faults="no-such-bucket@1", passages=1),
    Point.REJECTED: Scenario(faults="too-large@1", passages=1, rejected=1),
    Point.WITHDRAWN: Scenario(take_one_away, passages=1, withdrawn=1),
    Point.INTERRUPTED: Scenario(
        act=stop_in_mid_body,
        faults="slow-reader:1:200000",
        passages=1,
        settings={"delivery_drain_timeout": "100ms"},
    ),
    Point.DISPOSAL_DUE: ARCHIVING,
    Point.SET_ASIDE: Scenario(after_delivery="delete"),
    Point.REASON_WRITTEN: Scenario(faults="too-large@1", passages=1, rejected=1, aside=True),
    Point.COPIED: ELSEWHERE,
    Point.COPY_NAMED: ELSEWHERE,
    Point.MOVED: ARCHIVING,
    Point.UNLINKED: Scenario(after_delivery="delete"),
    Point.DISPOSED: ARCHIVING,
    Point.DISPOSAL_RECORDED: ARCHIVING,
    Point.PRUNE_DUE: RETAINING,
    Point.PRUNED: RETAINING,
    Point.CLOSING: Scenario(act=stop_when_done, passages=1),
}


INGESTION_SCENARIOS: dict[Point, Scenario] = {
    **SCENARIOS,
    Point.ACCEPTED: PLAIN,
    Point.REJECTED: Scenario(faults="no-rows@1", passages=1, rejected=1),
    Point.REASON_WRITTEN: Scenario(faults="no-rows@1", passages=1, rejected=1, aside=True),
}
del INGESTION_SCENARIOS[Point.GRANT_DROPPED]


def scenarios(samples: Samples) -> dict[Point, Scenario]:
    """Return how each point is reached that the protocol of these samples passes."""
    return INGESTION_SCENARIOS if samples.protocol == "ingestion" else SCENARIOS


@contextmanager
def installed(
    folder: Path,
    server: RehearsalServer,
    after_delivery: str,
    settings: dict[str, str],
    samples: Samples = EMISSION_SAMPLES,
) -> Iterator[Oracle]:
    """Lay out an installation; an archive elsewhere is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as elsewhere:
        archive = Path(elsewhere) if after_delivery == "elsewhere" else folder / "done"
        archives = after_delivery in {"archive", "elsewhere"}
        if after_delivery == "elsewhere":
            after_delivery = "archive"
            if archive.stat().st_dev == folder.stat().st_dev:
                pytest.skip(f"{MEMORY} is no file system of its own here")
        more = {"spool_archive_directory": str(archive)} if archives else {}
        site = Installation(
            folder,
            server.url,
            protocol=samples.protocol,
            spool_after_delivery=after_delivery,
            **{**more, **settings},
        )
        judge = Oracle if samples is EMISSION_SAMPLES else IngestionOracle
        oracle = judge(site, server, samples)
        oracle.archive = archive if archives else None
        oracle.deletes = after_delivery == "delete"
        yield oracle


def rehearse(folder: Path, samples: Samples, **options: Any) -> RehearsalServer:  # noqa: ANN401
    """Return a server that speaks the protocol of these samples, which is not started yet."""
    after_s = PROCESS_AFTER_S if samples.protocol == "ingestion" else None
    return RehearsalServer(
        folder / "server", protocol=samples.protocol, process_after_s=after_s, **options
    )


def die_at(
    oracle: Oracle, point: Point, passage: int, act: Callable[[Oracle, Process], None] = look_on
) -> None:
    """Run the daemon until it dies at the point, and look at what it left."""
    daemon = oracle.site.start(EMITTERD_FAILPOINT=f"{point}@{passage}")
    try:
        act(oracle, daemon)
        assert daemon.wait() == -signal.SIGKILL, f"{point} was not reached"
    finally:
        daemon.kill()
    oracle.look()


def kill_at(point: Point, passage: int, samples: Samples, folder: Path) -> int:
    """Kill the daemon at a point, start it again, and judge; return the kills."""
    scenario = scenarios(samples)[point]
    with (
        rehearse(folder, samples, grant_lifetime_s=scenario.grant_lifetime_s) as server,
        installed(folder, server, scenario.after_delivery, scenario.settings, samples) as oracle,
    ):
        if scenario.aside:
            oracle.put_rejected_aside(folder / "aside")
        scenario.prepare(oracle)
        server.faults = fault_list(scenario.faults)
        die_at(oracle, point, passage, scenario.act)
        server.faults = fault_list("")
        with oracle.site.running() as daemon:
            oracle.settle(daemon, rejected=scenario.rejected)
        oracle.judge(rejected=scenario.rejected, withdrawn=scenario.withdrawn)
    return 1


RANDOM_POINTS = [
    Point.COMMIT_DUE,
    Point.COMMITTED,
    Point.ADMITTED,
    Point.CLAIMED,
    Point.GRANTED,
    Point.PINNED,
    Point.BODY_DUE,
    Point.BODY_SENT,
    Point.ANSWERED,
    Point.DELIVERED,
    Point.MOVED,
    Point.DISPOSED,
]
"""Every new file surely passes these."""


def kill_at_random(seed: int, samples: Samples, folder: Path) -> int:
    """Kill the daemon while files come in and faults happen; return the kills."""
    dice = random.Random(seed)  # noqa: S311  a seed, no secret
    faults = fault_list("lost-answer:0.1,503:0.1", seed=seed)
    table = scenarios(samples)
    points = [point for point in RANDOM_POINTS if point in table]
    with (
        rehearse(folder, samples, faults=faults) as server,
        installed(folder, server, "archive", {}, samples) as oracle,
    ):
        for pair in samples.pairs:
            for path in pair:
                oracle.drop(path, samples.content(path, SMALL_BYTES))
            point = dice.choice(points)
            # Both files may come in one batch, but each is sent alone.
            die_at(oracle, point, dice.randint(1, min(2, table[point].passages)))
        with oracle.site.running() as daemon:
            oracle.settle(daemon)
        oracle.judge()
    return len(samples.pairs)
