"""Benchmarks of a start: over much that is delivered, and over much that is not."""

import os
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean

import cargo
import gauges
import seed
from far import Far, Lost
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from subject import Daemon, Failed, Source, Subject

MIB = 2**20
READY_S = 60.0
LOOK_S = 0.05
LATE = "infra_trans/infra_trans"
"""Where the new file lies: in the folder that is made, and so mostly listed, last."""

READY = Metric("ready_s", "until ready", "s")
SWEPT = Metric("swept_s", "first sweep", "s")
READ = Metric("read_mib", "read until then", "MiB")
FIRST = Metric("first_s", "until the first byte of a new file", "s")
UPLOAD = Metric("upload_s", "until the first upload", "s")
PEAK = Metric("peak_mib", "peak memory", "MiB")
ROW = Metric("row_bytes", "journal a file", "bytes")
FOUND = Metric("found", "files found a second", more=True)
QUARTERS = tuple(
    Metric(f"rate_{n}", f"files a second, quarter {n}", more=True) for n in range(1, 5)
)
STEADY = Metric("steady", "slowest quarter of the mean", more=True)


def _restart(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    yield [
        Case(source.name, _Restart(bench, source, sizes["files"]).measure, ours=True)
        for source in bench.sources
    ]


class _Restart:
    """A source's installation with a past, started again and again."""

    def __init__(self, bench: Bench, source: Source, files: int) -> None:
        self._far = bench.far
        self._spool = bench.new_crowd(files)
        self._number = files
        cargo.fill(self._spool, 1, cargo.TINY_BYTES, start=files + 1)
        self._subject = bench.subject(source, self._spool)
        bench.far.reset()
        self._subject.once()
        cargo.flood(self._spool, files)
        first = next(iter(self._subject.events("file.delivered")))["path"]
        known = (row for row in seed.of_folder(self._spool) if row[1] != first)
        seed.deliveries(self._subject.journal, known)

    def measure(self) -> Figures:
        """Drop a file, and start."""
        self._far.reset(stamping=True)
        self._number += 2
        name, content = cargo.another(LATE, self._number, cargo.TINY_BYTES)
        (self._spool / name).write_bytes(content)
        # Of no file: the path of a socket must be short.
        address = f"emitterd-bench-{os.getpid()}-{self._number}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"\0{address}")
            manager.settimeout(READY_S)
            began_at = time.monotonic()
            with self._subject.running(NOTIFY_SOCKET=f"@{address}") as daemon:
                figures = {"ready_s": _ready(manager) - began_at}
                # Nobody reads it from now on, and it must not fill up.
                manager.close()
                daemon.wait_for("sweep.finished")
                figures["read_mib"] = gauges.read_bytes(daemon.pid) / MIB
                daemon.wait_for("file.delivered")
        self._far.check({name: cargo.digest(content)})
        sweep = self._subject.events("sweep.finished")[-1]
        return figures | {
            "swept_s": sweep["duration_s"],
            "first_s": self._far.stamps()[name] - began_at,
        }


def _ready(manager: socket.socket) -> float:
    """Return when the daemon told systemd that it is ready, by the monotonic clock."""
    while b"READY=1" not in manager.recv(4096):
        pass
    return time.monotonic()


def _backlog(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_crowd(sizes["files"])
    cargo.flood(spool, sizes["files"])

    def measure(source: Source) -> Figures:
        bench.far.reset()
        subject = bench.subject(source, spool)
        with subject.running() as daemon:
            began_at = time.time()
            counts = _followed(bench.far, sizes["seconds"], sizes["files"])
            figures = _grown(daemon, subject)
        arrived = bench.far.arrived()
        delivered = subject.count("file.delivered")
        if delivered != arrived.stored or arrived.doubled or arrived.refused:
            raise Lost(f"{delivered} deliveries logged, {arrived} arrived")
        return figures | _rates(counts) | {"upload_s": arrived.posted_at - began_at}

    yield ours(bench, measure)


def _followed(far: Far, seconds: float, files: int) -> list[tuple[float, int]]:
    """Return how many files had come at some instants from the first one on."""
    counts: list[tuple[float, int]] = []
    until = time.monotonic() + READY_S
    while not counts or time.monotonic() < counts[0][0] + seconds:
        stored = far.arrived().stored
        if stored:
            counts.append((time.monotonic(), stored))
        elif time.monotonic() > until:
            raise Failed("nothing was sent")
        if stored == files:
            break
        time.sleep(LOOK_S)
    return counts


def _rates(counts: list[tuple[float, int]]) -> Figures:
    """Return the rate in each quarter of the time, and how even they are."""
    begin, end = counts[0][0], counts[-1][0]
    edges = [begin + (end - begin) * n / 4 for n in range(5)]
    marks = [min(counts, key=lambda value: abs(value[0] - edge)) for edge in edges]
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)]
    figures = {f"rate_{n}": rate for n, rate in enumerate(rates, 1)}
    return figures | {"steady": min(rates) / mean(rates)}


def _grown(daemon: Daemon, subject: Subject) -> Figures:
    took_s = time.time() - daemon.began_at
    admitted = subject.count("file.admitted")
    journal_bytes = sum(item.stat().st_size for item in _journal(subject.journal) if item.exists())
    return {
        "peak_mib": gauges.peak_bytes(daemon.pid) / MIB,
        "row_bytes": journal_bytes / admitted,
        "found": admitted / took_s,
    }


def _journal(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}-wal")]


RESTART = Scenario(
    "restart",
    "A start with many delivered files",
    "The folder holds {files:,} delivered files and one new file, which was dropped before the"
    ' start. "ready" is the message to systemd. The bytes read include Python\'s own modules. The'
    " test server checks that emitterd sends the new file only.",
    {"files": (100_000, 5000)},
    _restart,
    (READY, SWEPT, READ, FIRST),
    "ready_s",
    (Goal("ready_s", 2, "ready in 2 s"), Goal("first_s", 3, "the first new file within 3 s")),
)
BACKLOG = Scenario(
    "backlog",
    "A start with a backlog",
    "{files:,} tiny files wait when the daemon starts. They are in memory if there is"
    " room; the journal is on disk. The first {seconds} s after the first arrival.",
    {"files": (1_000_000, 10_000), "seconds": (120, 6)},
    _backlog,
    (UPLOAD, PEAK, ROW, FOUND, *QUARTERS, STEADY),
    "upload_s",
    (
        Goal("upload_s", 5, "the first upload within 5 s"),
        Goal("peak_mib", 150, "peak memory 150 MiB"),
        Goal("row_bytes", 1024, "journal under 1 KiB a file"),
        Goal("steady", 0.8, "a steady rate: the slowest quarter 80 % of the mean"),
    ),
    rounds=1,
)
