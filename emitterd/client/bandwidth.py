"""The bandwidth that all uploads share.

`Pacer` is a clock of bytes: it counts what the limit has let through since the start. An upload
asks for one slice at a time. The slice gets the next place on that clock, and may be sent once the
clock has reached its place. So uploads alternate: a small file waits for one slice of each other
upload, never for the rest of a large file. A new limit begins a new era: uploads that wait ask
again, for a slice of the new size. Source: Zhang, "VirtualClock", SIGCOMM 1990, with one place for
each slice.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from emitterd.client.timetable import Timetable

SLICE_S = 0.05
"""A slice is what the limit lets through in this time: smooth on the line, and no more than 20
sends a second."""

SLICE_LEAST_BYTES = 1536
"""A slice is at least this long, even at a low limit: it fills a packet."""

BURST_SLICES = 2
"""What may be sent at once after a pause. It makes up for threads that wake up late."""

CHECK_S = 0.25
"""How often an upload that waits checks for a stop, and for the limit of the time of day."""


class Slice(NamedTuple):
    """Bytes that may be sent at once, their place on the clock, and the place's era."""

    size_bytes: int
    place: int
    era: int


class Pacer:
    """Decides when each slice may go.

    Does no I/O; instants are monotonic; not thread-safe.
    """

    def __init__(self) -> None:
        self._at = 0.0
        self._asked = 0
        self._passed = 0.0
        self.rate: int | None = None
        """The limit in bytes a second, None for none."""
        self.era = 0
        """Slices of another era have lost their places."""

    def set_rate(self, rate: int | None, now: float) -> None:
        """Use another limit from now on."""
        self._advance(now)
        # Uploads that wait ask again, so the places that they had are free.
        self._asked = min(self._asked, int(self._passed))
        self.rate = rate
        self.era += 1

    def ask(self, size_bytes: int, now: float) -> Slice:
        """Return the first slice of `size_bytes` bytes, or all of them."""
        self._advance(now)
        if self.rate is not None:
            size_bytes = min(size_bytes, _slice_bytes(self.rate))
        self._asked += size_bytes
        return Slice(size_bytes, self._asked, self.era)

    def wait_s(self, piece: Slice, now: float) -> float:
        """Return how long a slice of this era must wait, in seconds."""
        self._advance(now)
        left_bytes = piece.place - self._passed
        # Rounding may leave a fraction of a byte, whose wait would round to no time and never end.
        if self.rate is None or left_bytes < 1:
            return 0.0
        return left_bytes / self.rate

    def _advance(self, now: float) -> None:
        if self.rate is None:
            self._passed = float(self._asked)
        else:
            passed = self._passed + self.rate * max(0.0, now - self._at)
            burst_bytes = BURST_SLICES * _slice_bytes(self.rate)
            self._passed = min(passed, self._asked + burst_bytes)
        self._at = now


def _slice_bytes(rate: int) -> int:
    return max(SLICE_LEAST_BYTES, int(rate * SLICE_S))


class Throttle:
    """Delays uploads so that they keep the limit in force. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Delay nothing yet. `clock` is the wall clock of the timetable."""
        self.limited = False
        """Whether there may be a limit; read without the lock before each send."""
        self._timetable: Timetable | None = None
        self._clock = clock
        self._pacer = Pacer()
        self._changed = threading.Condition()

    def apply_timetable(self, timetable: Timetable | None) -> None:
        """Use another timetable at once, also for uploads that wait."""
        with self._changed:
            self._timetable = timetable
            self.limited = timetable is not None
            self._update_rate()
            self._changed.notify_all()

    def take(self, size_bytes: int, check: Callable[[], None]) -> int:
        """Wait until a slice of `size_bytes` bytes may be sent; return the slice's size in bytes.

        `check` is called at least every `CHECK_S`, and ends the wait by raising.
        """
        with self._changed:
            now = self._update_rate()
            piece = self._pacer.ask(size_bytes, now)
            while wait_s := self._pacer.wait_s(piece, now):
                check()
                # Ends early at a new limit: a slice at the old one may take minutes.
                self._changed.wait(min(wait_s, CHECK_S))
                now = self._update_rate()
                if piece.era != self._pacer.era:
                    piece = self._pacer.ask(size_bytes, now)
        return piece.size_bytes

    def _update_rate(self) -> float:
        """Apply the limit of this time of day; return the monotonic time."""
        now, limit = time.monotonic(), None
        if self._timetable is not None:
            limit = self._timetable.limit(self._clock())
        if limit != self._pacer.rate:
            self._pacer.set_rate(limit, now)
        return now
