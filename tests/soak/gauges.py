"""What is measured of a running daemon, from /proc and beside its journal; slopes.

`/proc` instead of psutil: five numbers, and the bench needs no package of its own.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_HOUR_S = 3600.0
_TWO_SIDED_95 = 2.0
"""Standard errors either side of a slope; close enough from a dozen samples on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the daemon. `at_s`: since the load began; the counts are totals."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    wal_bytes: int
    journal_bytes: int
    cpu_s: float
    delivered: int
    requests: int
    log_bytes: int


class Process(NamedTuple):
    """The figures of a process in `/proc`."""

    rss_bytes: int
    descriptors: int
    threads: int
    cpu_s: float


def look(pid: int) -> Process:
    """Read a living process's numbers. Source: proc(5), `stat` and `status`."""
    place = Path("/proc", str(pid))
    lines = (place / "status").read_text("utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    # The name, in brackets, may hold anything; fields are counted from behind it.
    fields = (place / "stat").read_text("utf-8").rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return Process(
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=sum(1 for _ in (place / "fd").iterdir()),
        threads=int(status["Threads"]),
        cpu_s=(user + system) / _TICKS_A_SECOND,
    )


def size_bytes(path: Path) -> int:
    """Return a file's size; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


class Slope(NamedTuple):
    """A straight line through samples: its mean, its rise, and how sure that is."""

    mean: float
    rise: float
    margin: float

    @property
    def least(self) -> float:
        """The smallest rise that the samples admit of."""
        return self.rise - self.margin


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Return the least-squares line of `ys` over `xs`; at least three samples."""
    count = len(xs)
    x_mean, y_mean = sum(xs) / count, sum(ys) / count
    spread = sum((x - x_mean) ** 2 for x in xs)
    pairs = list(zip(xs, ys, strict=True))
    rise = sum((x - x_mean) * (y - y_mean) for x, y in pairs) / spread
    left = sum((y - y_mean - rise * (x - x_mean)) ** 2 for x, y in pairs)
    return Slope(y_mean, rise, _TWO_SIDED_95 * math.sqrt(left / (count - 2) / spread))


@dataclass(frozen=True, slots=True)
class Gauge:
    """One row of the table: what may not grow, in which unit, and by how much."""

    name: str
    unit: str
    limit: float
    """The rise an hour that is still called flat."""
    relative: bool = False
    """Whether `limit` is a share of the mean."""


GAUGES = {
    "rss": Gauge("resident memory", "MiB", 4.0),
    "descriptors": Gauge("file descriptors", "", 1.0),
    "threads": Gauge("threads", "", 0.5),
    "wal": Gauge("write-ahead log", "MiB", 1.0),
    "journal": Gauge("journal a delivered file", "bytes", 0.05, relative=True),
    "log": Gauge("log a delivered file", "bytes", 0.05, relative=True),
    "cpu_file": Gauge("CPU a delivered file", "ms", 0.05, relative=True),
    "cpu_request": Gauge("CPU a request", "ms", 0.05, relative=True),
}

_MIB = 2.0**20
_MIN_SAMPLES = 3


def slopes(samples: Sequence[Sample], cycle_s: float) -> dict[str, Slope]:
    """Return the slope an hour of each gauge; of those that have samples enough.

    What is spent a file is compared over whole cycles of the faults, because a
    phase with retries costs more than a calm one.
    """
    found: dict[str, Slope] = {}
    hours = [sample.at_s / _HOUR_S for sample in samples]
    levels = {
        "rss": [sample.rss_bytes / _MIB for sample in samples],
        "descriptors": [float(sample.descriptors) for sample in samples],
        "threads": [float(sample.threads) for sample in samples],
        "wal": [sample.wal_bytes / _MIB for sample in samples],
    }
    if len(samples) >= _MIN_SAMPLES:
        found |= {name: slope(hours, values) for name, values in levels.items()}
    spans = cycles(samples, cycle_s)
    if len(spans) >= _MIN_SAMPLES:
        middles = [(a.at_s + b.at_s) / 2 / _HOUR_S for a, b in spans]
        found |= {
            name: slope(middles, [_spent(name, *span) for span in spans])
            for name in GAUGES.keys() - levels.keys()
        }
    return found


def cycles(samples: Sequence[Sample], cycle_s: float) -> list[tuple[Sample, Sample]]:
    """Return first and last sample of each whole cycle; idle ones are left out."""
    spans: list[tuple[Sample, Sample]] = []
    for sample in samples:
        if not spans or sample.at_s >= spans[-1][0].at_s + cycle_s:
            if spans:
                spans[-1] = spans[-1][0], sample
            spans.append((sample, sample))
    return [(a, b) for a, b in spans[:-1] if b.delivered > a.delivered]


def _spent(name: str, first: Sample, last: Sample) -> float:
    delivered = last.delivered - first.delivered
    match name:
        case "journal":
            return (last.journal_bytes - first.journal_bytes) / delivered
        case "log":
            return (last.log_bytes - first.log_bytes) / delivered
        case "cpu_file":
            return 1000 * (last.cpu_s - first.cpu_s) / delivered
        case _:
            requests = max(1, last.requests - first.requests)
            return 1000 * (last.cpu_s - first.cpu_s) / requests


def grows(name: str, found: Slope) -> bool:
    """Return whether a gauge rises by more than its limit, beyond doubt."""
    gauge = GAUGES[name]
    limit = gauge.limit * found.mean if gauge.relative else gauge.limit
    return found.least > limit
