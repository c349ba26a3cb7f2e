"""Benchmarks of doing nothing: a daemon with no work, and commands that only look."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import cargo
import gauges
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from subject import Source, output

MIB = 2**20
CALM_S = 5.0

CPU = Metric("cpu_percent", "CPU", "%")
RSS = Metric("rss_mib", "memory", "MiB")
WAKINGS = Metric("wakings", "wakings a second of the thread that wakes most")
THREADS = Metric("threads", "threads")
WALL = Metric("wall_ms", "from start to end", "ms")


def _idle(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    for number in range(sizes["directories"]):
        (spool / f"{number:04d}").mkdir()

    def measure(source: Source) -> Figures:
        with bench.subject(source, spool).running() as daemon:
            daemon.wait_for("sweep.finished")
            time.sleep(CALM_S)
            return _watched(daemon.pid, sizes["seconds"])

    yield ours(bench, measure)


def _watched(pid: int, seconds: float) -> Figures:
    began_at, cpu_s = time.monotonic(), gauges.cpu_s(pid)
    before = gauges.wakings(pid)
    time.sleep(seconds)
    after, took_s = gauges.wakings(pid), time.monotonic() - began_at
    woken = [count - before.get(name, 0) for name, count in after.items()]
    return {
        "cpu_percent": 100 * (gauges.cpu_s(pid) - cpu_s) / took_s,
        "rss_mib": gauges.rss_bytes(pid) / MIB,
        "wakings": max(woken) / took_s,
        "threads": len(after),
    }


def _commands(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    cargo.fill(spool, sizes["files"], 1024)
    bench.far.reset()

    cases = []
    for source in bench.sources:
        subject = bench.subject(source, spool)
        subject.once()
        environment = source.environment()
        for name, command in {
            "emitterd status": subject.command("status"),
            "emitterd --version": source.command("--version"),
            "python -c pass": [str(source.python), "-c", "pass"],
        }.items():
            label = f"{source.name}: {name}" if len(bench.sources) > 1 else name
            measure = partial(_timed, command, environment)
            cases.append(Case(label, measure, ours=name == "emitterd status"))
    yield cases


def _timed(command: Sequence[str], environment: dict[str, str]) -> Figures:
    began_at = time.perf_counter()
    output(command, environment)
    return {"wall_ms": 1000 * (time.perf_counter() - began_at)}


IDLE = Scenario(
    "idle",
    "A daemon with nothing to do",
    "emitterd watches {directories:,} folders for {seconds} s. The measurement begins 5 s after"
    " the first sweep.",
    {"directories": (1000, 1000), "seconds": (60, 10)},
    _idle,
    (CPU, RSS, WAKINGS, THREADS),
    "cpu_percent",
    (
        Goal("cpu_percent", 0.1, "0.1 % CPU"),
        Goal("rss_mib", 64, "64 MiB"),
        Goal("wakings", 1, "no wake-up more often than once a second"),
    ),
    rounds=1,
)
STATUS = Scenario(
    "status",
    "A command that reads",
    "The whole run of the process, without a daemon, with {files} recorded deliveries.",
    {"files": (100, 10)},
    _commands,
    (WALL,),
    "wall_ms",
    (Goal("wall_ms", 250, "0.25 s"),),
    rounds=15,
    quick_rounds=3,
)
