"""Benchmarks of waiting: from a closed file to its first byte at the server."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import quantiles

import cargo
from far import Far
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from subject import Daemon, Failed, Source, Subject

SIZE_BYTES = 8192
PAUSE_S = 0.1
SETTLED_S = 1.0
PATIENCE_S = 30.0
BACKLOG = "student_attendance/student_attendance"
FRESH = "pat/periodic_exam_result_trans"

MEDIAN = Metric("median_ms", "median", "ms")
P95 = Metric("p95_ms", "95th percentile", "ms")
P99 = Metric("p99_ms", "99th percentile", "ms")
MOST = Metric("most_ms", "longest", "ms")

Drop = Callable[[Path, bytes], float]


def renamed(path: Path, content: bytes) -> float:
    """Write a file aside and rename it; return when it was about to appear."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    at = time.monotonic()
    part.rename(path)
    return at


def closed(path: Path, content: bytes) -> float:
    """Write a file in its place; return when it was about to be closed."""
    with path.open("wb", buffering=0) as file:
        file.write(content)
        return time.monotonic()


def waits_ms(dropped: dict[str, float], seen: dict[str, float]) -> list[float]:
    """Return how long each file waited for its first byte, in ms.

    Raises `Failed` where one is still waiting.
    """
    if missing := sorted(dropped.keys() - seen.keys()):
        raise Failed(f"{len(missing)} files never came, as {missing[0]}")
    return [1000 * (seen[name] - at) for name, at in dropped.items()]


def spread(waits: list[float]) -> Figures:
    """Return the figures of a round."""
    cuts = quantiles(waits, n=100, method="inclusive")
    return {"median_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "most_ms": max(waits)}


def _await(far: Far, dropped: dict[str, float]) -> list[float]:
    """Wait until all have come; return how long each waited, in ms."""
    until = time.monotonic() + PATIENCE_S
    while dropped.keys() - far.stamps().keys() and time.monotonic() < until:
        time.sleep(PAUSE_S)
    return waits_ms(dropped, far.stamps())


def _drop(
    spool: Path, drop: Drop, numbers: range, pause_s: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Drop files one at a time; return when each was, and what it is."""
    dropped, digests = {}, {}
    for number in numbers:
        name, content = cargo.another(FRESH, number, SIZE_BYTES)
        digests[name] = cargo.digest(content)
        dropped[name] = drop(spool / name, content)
        # Not in step with anything that looks every so often.
        time.sleep(pause_s * (1 + number % 7 / 10))
    return dropped, digests


def _fresh(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    def measure(drop: Drop, source: Source) -> Figures:
        bench.far.reset(stamping=True)
        spool = bench.new_folder("spool")
        (spool / FRESH).parent.mkdir()
        with bench.subject(source, spool).running() as daemon:
            _settle(daemon)
            numbers = range(sizes["files"])
            dropped, digests = _drop(spool, drop, numbers, PAUSE_S)
            waits = _await(bench.far, dropped)
        bench.far.check(digests)
        return spread(waits)

    ways: dict[str, Drop] = {"by rename": renamed, "by close": closed}
    yield [
        Case(f"{our.name}, {way}", our.measure, ours=True)
        for way, drop in ways.items()
        for our in ours(bench, partial(measure, drop))
    ]


def _settle(daemon: Daemon) -> None:
    daemon.wait_for("daemon.ready")
    daemon.wait_for("sweep.finished")
    time.sleep(SETTLED_S)


def _fair(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    def measure(source: Source) -> Figures:
        bench.far.reset(stamping=True)
        spool = bench.new_crowd(sizes["backlog"])
        cargo.flood(spool, sizes["backlog"], [BACKLOG])
        (spool / FRESH).parent.mkdir()
        subject = bench.subject(source, spool)
        with subject.running(EMITTERD_DELIVERY_DRAIN_TIMEOUT="1s") as daemon:
            daemon.wait_for("file.delivered")
            time.sleep(SETTLED_S)
            numbers = range(sizes["files"])
            dropped, _ = _drop(spool, renamed, numbers, 5 * PAUSE_S)
            waits = _await(bench.far, dropped)
            _still_behind(bench.far, subject, sizes["backlog"])
        return spread(waits)

    yield ours(bench, measure)


def _still_behind(far: Far, subject: Subject, backlog: int) -> None:
    """Raise `Failed` where the backlog had ended before the last file was sent."""
    if far.arrived().stored >= backlog:
        raise Failed(f"{subject.source.name}: the backlog was too small")


WAITS = (MEDIAN, P95, P99, MOST)
SHOWN = "median_ms"

FRESH_FILE = Scenario(
    "fresh",
    "From a closed file to its first byte at the server",
    "{files:,} files of 8 KiB, one at a time, into the folder of an idle daemon. The"
    " first byte is that of the POST to the bucket, so the time includes the request for the"
    " grant. A tool that waits for a quiet period needs at least that period, usually 1 to 60 s.",
    {"files": (200, 20)},
    _fresh,
    WAITS,
    SHOWN,
    (Goal("median_ms", 30, "median 30 ms"), Goal("p99_ms", 100, "99 of 100 in 100 ms")),
    rounds=2,
)
FAIR = Scenario(
    "fair",
    "A small file behind another folder's backlog",
    "{files:,} files of 8 KiB, one at a time, into one folder, while emitterd sends a"
    " backlog of {backlog:,} files of another. The time from the rename to the first byte at the"
    " server.",
    {"files": (20, 4), "backlog": (100_000, 8000)},
    _fair,
    WAITS,
    SHOWN,
    (Goal("most_ms", 1000, "no longer than a second"),),
    rounds=1,
)
