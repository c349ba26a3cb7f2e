"""The main thread watches the other threads, and reports to systemd.

The watchdog is fed only while every loop records heartbeats and no commit of the journal hangs;
else systemd ends the process and starts it again, which is safe.
"""

import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import FrameType

import structlog

from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.heartbeat import Heartbeat, Stalled
from emitterd.model import State
from emitterd.text import iso
from emitterd.units import format_age

SEND_S = 1.0
"""How long a manager may be too busy to listen: deliveries do not depend on it."""


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1`; return whether systemd listens.

    Source: sd_notify(3): a datagram to the socket that $NOTIFY_SOCKET names.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(lines).encode("utf-8", "replace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.settimeout(SEND_S)
        try:
            out.sendto(message, address)
        except OSError:
            # A manager that went away is no reason to stop delivering.
            return False
    return True


def reloading() -> str:
    """Return the lines that begin a reload; READY ends it.

    The instant lets `Type=notify-reload` (systemd 253) tell this from an older reload.
    """
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def extend_timeout(seconds: float) -> str:
    """Return the line that asks systemd for this much more time."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often the watchdog of this process must be fed, in seconds, or None.

    $WATCHDOG_PID is the process that it is for; without it, each that reads $WATCHDOG_USEC. Source:
    sd_watchdog_enabled(3).
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal() and int(text)):
        return None
    return int(text) / 1e6


UNWATCHED_S = 120.0
"""The watchdog's time where systemd sets none: a hang is logged in any case."""

LATE_S = 5.0
"""A check so much later than the one before proves nothing: the machine was asleep, and so were all
threads."""

JOURNAL = "journal"
ALIVE = "WATCHDOG=1"
FRAMES = 8

log = structlog.get_logger()


class Watchdog:
    """Finds threads and commits that hang. Used by the main thread."""

    def __init__(
        self,
        heartbeat: Heartbeat,
        committing_since: Callable[[], float | None],
        watchdog_s: float | None,
    ) -> None:
        """`committing_since`: when the commit under way began, monotonic.

        `watchdog_s`: how long systemd waits to be fed, in seconds, or None.
        """
        self._heartbeat = heartbeat
        self._committing_since = committing_since
        self._watchdog_s = watchdog_s
        self.limit_s = (watchdog_s or UNWATCHED_S) / 2
        """How long a loop or a commit may be silent, in seconds."""
        self._checked_at: float | None = None
        self._reported: dict[str, float] = {}
        self._status = ""

    def check(self, status: str) -> None:
        """Check all threads; report to systemd that none hangs, and a new `status`."""
        lines = []
        if self.look(time.monotonic()) and self._watchdog_s is not None:
            lines.append(ALIVE)
        if status != self._status:
            lines.append(f"STATUS={status}")
            self._status = status
        if lines:
            notify(*lines)

    def feed(self) -> None:
        """Feed systemd's watchdog, even if a thread is stalled.

        A drain has its own limit.
        """
        if self._watchdog_s is not None:
            notify(ALIVE)

    def look(self, now: float) -> bool:
        """Return whether nothing hangs; log each thread that hangs, or goes on again.

        `now` is monotonic.
        """
        before, self._checked_at = self._checked_at, now
        if before is not None and now - before > LATE_S:
            return True
        stalled = {item.name: item for item in self._stalled(now)}
        for name, since in self._reported.items():
            if name not in stalled:
                log.info("daemon.resumed", thread=name, duration_s=now - since)
        for name, item in stalled.items():
            if name not in self._reported:
                _report(item, now)
        self._reported = {name: item.since for name, item in stalled.items()}
        return not stalled

    def _stalled(self, now: float) -> list[Stalled]:
        stalled = self._heartbeat.stalled(now, self.limit_s)
        since = self._committing_since()
        if since is not None and now > since + self.limit_s:
            # First: the threads that wait for it hang because of it.
            stalled.insert(0, Stalled(JOURNAL, since))
        return stalled


def _report(item: Stalled, now: float) -> None:
    frame = _frame(item.thread or 0)
    log.critical(
        "daemon.stalled",
        thread=item.name,
        since=iso(time.time() - (now - item.since)),
        duration_s=now - item.since,
        stack="".join(traceback.format_stack(frame, FRAMES)) if frame else None,
    )


def _frame(thread: int) -> FrameType | None:
    # Without the garbage collector: with it this call can wait for itself in Python 3.11
    # (gh-106883), and the main thread would hang in place of the report.
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread)  # noqa: SLF001  documented
    finally:
        if collects:
            gc.enable()


def status_line(
    counts: dict[State, int],
    oldest_s: float | None,
    down: OpenCircuit | None,
    *,
    lost: bool = False,
    answered: bool = True,
) -> str:
    """Return what `systemctl status` shows; `oldest_s`: how long the oldest waits.

    `lost`: the watched folder is not there. `answered`: the server has answered since the start.
    """
    queued = counts[State.QUEUED] + counts[State.DEFERRED]
    waits = [f"oldest {format_age(oldest_s)}"] if oldest_s is not None else []
    where = "up" if answered else "not asked yet"
    if down is not None:
        where = f"down: {down.code} {down.reason}"
    numbers = [
        f"{queued} queued",
        f"{counts[State.DELIVERING]} uploading",
        *waits,
        f"{counts[State.DELIVERED]} delivered",
    ]
    folder = "no watched folder; " if lost else ""
    return f"{folder}{', '.join(numbers)}; destination {where}"
