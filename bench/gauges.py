"""What the kernel reports about a running process. Source: proc(5)."""

import re
from pathlib import Path

NS = 1e9
_RESET_PEAK = "5"


def rss_bytes(pid: int) -> int:
    """Return the memory that it has now."""
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the most memory that it had since the start or `reset_peak`."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Reset the peak to the present value."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, "ascii")


def cpu_s(pid: int) -> float:
    """Return the time that its living threads ran, in seconds; finer than by ticks."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / NS


def wakings(pid: int) -> dict[str, int]:
    """Return how often each thread went to sleep of its own accord, by its id."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "status").read_text("utf-8")
        count = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)
        counts[task.name] = int(count[1]) if count else 0
    return counts


def read_bytes(pid: int) -> int:
    """Return how many bytes it has read by system calls, from files and sockets alike."""
    text = Path(f"/proc/{pid}/io").read_text("ascii")
    return int(text.split("rchar: ")[1].split()[0])


def _status_bytes(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(text.split(f"{name}:")[1].split()[0]) * 1024
