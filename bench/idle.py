"""Idle: what a daemon with nothing to do costs, by the kernel's own count."""

import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import Installation

CALM_S = 5.0
"""How long after the first sweep it is left alone before the count begins."""

NS = 1_000_000_000
NOBODY = "http://127.0.0.1:9/"
"""An idle daemon asks no server."""


@dataclass(frozen=True, slots=True)
class Idle:
    """One measurement; `wakings`: of the thread that woke most often."""

    directories: int
    seconds: float
    cpu_percent: float
    rss_bytes: int
    peak_bytes: int
    threads: int
    wakings_a_second: float
    most_awake: str


def idle(folder: Path, directories: int = 1000, seconds: float = 60.0) -> Idle:
    """Run the daemon over empty directories in a new folder; measure for so long."""
    site = Installation(folder, NOBODY)
    for number in range(directories - 1):
        (site.spool / f"{number:04d}").mkdir()
    with site.running() as daemon:
        daemon.wait_for_event("sweep.finished")
        time.sleep(CALM_S)
        began_at, cpu_ns, before = time.monotonic(), _cpu_ns(daemon.pid), {}
        before = wakings(daemon.pid)
        time.sleep(seconds)
        after = wakings(daemon.pid)
        took_s = time.monotonic() - began_at
        used_ns = _cpu_ns(daemon.pid) - cpu_ns
        woken = {one: count - before.get(one, 0) for one, count in after.items()}
        most, count = Counter(woken).most_common(1)[0]
        return Idle(
            directories,
            took_s,
            100 * used_ns / NS / took_s,
            memory(daemon.pid, "VmRSS"),
            memory(daemon.pid, "VmHWM"),
            len(after),
            count / took_s,
            most,
        )


def memory(pid: int, kind: str) -> int:
    """Return a number of bytes of a process. Source: proc_pid_status(5)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", _read(Path(f"/proc/{pid}/status")))
    return int(found[1]) * 1024 if found else 0


def wakings(pid: int) -> dict[str, int]:
    """Return how often each thread has slept and woken: its voluntary switches."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = _read(task / "status")
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
        name = _read(task / "comm").strip()
        counts[f"{name} {task.name}"] = int(found[1]) if found else 0
    return counts


def _cpu_ns(pid: int) -> int:
    # In nanoseconds, where `stat` counts hundredths of a second.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int(_read(task / "schedstat").split()[0]) for task in tasks)


def _read(path: Path) -> str:
    return path.read_text("utf-8")


if __name__ == "__main__":
    span_s = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as place:
        print(asdict(idle(Path(place), seconds=span_s)))
