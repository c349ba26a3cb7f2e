"""The bounds of one request: how slow it may be, how fast, and that a stop ends it.

Whoever moves bytes asks here before each try, and tries again every `sockets.POLL_S`
while the line is blocked.
"""

import threading
import time
from dataclasses import dataclass

from emitterd.client.throttle import Throttle
from emitterd.heartbeat import beat
from emitterd.monitoring.uploads import advance


class Stopped(Exception):
    """The daemon is stopping and gave the request up."""


class TooSlow(Exception):
    """What is sent or answered goes more slowly than its limits allow."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """The bounds: seconds, and bytes a second."""

    connect_s: float
    stall_s: float
    minimum_bytes_s: int


@dataclass(slots=True)
class Deadlines:
    """A request under way, of one thread."""

    limits: TransferLimits
    stop: threading.Event
    throttle: Throttle | None
    """Of a body; None for all other requests."""
    window_at: float | None = None
    window_bytes: int = 0
    answer_by: float | None = None

    def portion(self, size_bytes: int) -> int:
        """Return how much of it may go out now; wait where the limit demands it."""
        if self.throttle is None or not self.throttle.limited:
            return size_bytes
        began_at = time.monotonic()
        size_bytes = self.throttle.take(size_bytes, self.check_stop)
        if self.window_at is not None:
            # To wait for our own limit is not to be slow.
            self.window_at += time.monotonic() - began_at
        return size_bytes

    def moved(self, count: int) -> None:
        """Note that so many bytes went out."""
        self.window_bytes += count
        if self.throttle is not None:
            advance(count)

    def check_sending(self) -> None:
        """Raise `Stopped`, or `TooSlow` where a whole window went by too slowly."""
        self.check_stop()
        # Reading may have begun before: a proxy answers CONNECT first.
        self.answer_by = None
        now = time.monotonic()
        if self.window_at is None:
            self.window_at = now
        if now - self.window_at < self.limits.stall_s:
            return
        least = max(1.0, self.limits.minimum_bytes_s * (now - self.window_at))
        if self.window_bytes < least:
            raise TooSlow(
                f"{self.window_bytes} bytes went out in {now - self.window_at:.0f} s"
            )
        self.window_at, self.window_bytes = now, 0

    def check_reading(self) -> None:
        """Raise `Stopped`, or `TooSlow` where the answer is not whole in time."""
        self.check_stop()
        now = time.monotonic()
        if self.answer_by is None:
            self.answer_by = now + self.limits.stall_s
        if now >= self.answer_by:
            raise TooSlow(f"no whole answer within {self.limits.stall_s:.0f} s")

    def check_stop(self) -> None:
        """Give a sign of life; raise `Stopped` where the daemon stops."""
        # A slow line is no standstill: how slow it may be is bounded here.
        beat()
        if self.stop.is_set():
            raise Stopped
