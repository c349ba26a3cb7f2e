"""How fast the bytes of all uploads together may go out. Pure.

A clock of bytes: it counts what the limit has let through since the beginning. Who has
something to send asks for a slice, which gets the next place on that clock, and waits
until the clock is there. So slices go in the order they were asked for, and each
upload, which asks for one at a time, has its turn once a round: a small file waits for
one slice of each other, and never for the rest of a large one. With another limit a
new era of slices begins: who still waits asks again, for one of the new size.
Source: Zhang, "VirtualClock", SIGCOMM 1990, with one place for each slice.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from emitterd.client.timetable import Timetable

SLICE_S = 0.05
"""What the limit lets through in this time goes out at once: smooth on the line, and
no more than 20 sends a second."""

SLICE_LEAST_BYTES = 1536
"""A slice fills a packet, however low the limit."""

BURST_SLICES = 2
"""So much is let through at once after a pause: what a thread that wakes up late has
missed is made up for."""


class Slice(NamedTuple):
    """What may go out as one, its place on the clock, and the era that it is of."""

    size_bytes: int
    place: int
    era: int


class Pacer:
    """Says who may send how much when; instants are monotonic. Not thread-safe."""

    def __init__(self) -> None:
        self._rate: int | None = None
        self._at = 0.0
        self._asked = 0
        self._passed = 0.0
        self.era = 0
        """Slices of another one have lost their places."""

    @property
    def rate(self) -> int | None:
        """The limit in bytes a second, None for none."""
        return self._rate

    def adopt(self, rate: int | None, now: float) -> None:
        """Go by another limit from now on."""
        self._advance(now)
        self._asked = min(self._asked, int(self._passed))
        self._rate = rate
        self.era += 1

    def ask(self, size_bytes: int, now: float) -> Slice:
        """Ask to send so much; return the first slice of it."""
        self._advance(now)
        if self._rate is not None:
            size_bytes = min(size_bytes, _slice_bytes(self._rate))
        self._asked += size_bytes
        return Slice(size_bytes, self._asked, self.era)

    def wait_s(self, asked: Slice, now: float) -> float:
        """Return how long it takes until a slice of this era may go, in seconds."""
        self._advance(now)
        left_bytes = asked.place - self._passed
        # A byte is not divided, and a wait of nothing would be one for ever.
        if self._rate is None or left_bytes < 1:
            return 0.0
        return left_bytes / self._rate

    def _advance(self, now: float) -> None:
        if self._rate is None:
            self._passed = float(self._asked)
        else:
            let_bytes = self._rate * max(0.0, now - self._at)
            burst_bytes = BURST_SLICES * _slice_bytes(self._rate)
            self._passed = min(self._passed + let_bytes, self._asked + burst_bytes)
        self._at = now


def _slice_bytes(rate: int) -> int:
    return max(SLICE_LEAST_BYTES, int(rate * SLICE_S))


# Where all uploads wait for the bandwidth that they share.

LOOK_S = 0.25
"""How often who waits looks around: for a stop, and for another limit by the clock."""


class Throttle:
    """Holds back what goes out, so that it keeps the limit in force. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Nothing is held back before a timetable is adopted; it goes by `clock`."""
        self.limited = False
        """Whether there may be a limit; read without the lock before each send."""
        self._timetable: Timetable | None = None
        self._clock = clock
        self._pacer = Pacer()
        self._changed = threading.Condition()

    def adopt(self, timetable: Timetable | None) -> None:
        """Go by another timetable at once, also for who waits."""
        with self._changed:
            self._timetable = timetable
            self.limited = timetable is not None
            self._renew()
            self._changed.notify_all()

    def take(self, size_bytes: int, look: Callable[[], None]) -> int:
        """Wait until a slice of so many bytes may go out; return how many it has.

        `look` is called at each look around, and ends the wait by raising.
        """
        with self._changed:
            now = self._renew()
            one = self._pacer.ask(size_bytes, now)
            while wait_s := self._pacer.wait_s(one, now):
                look()
                self._changed.wait(min(wait_s, LOOK_S))
                now = self._renew()
                if one.era != self._pacer.era:
                    one = self._pacer.ask(size_bytes, now)
        return one.size_bytes

    def _renew(self) -> float:
        """Take the limit that is in force by the clock on the wall; return the time."""
        now, limit = time.monotonic(), None
        if self._timetable is not None:
            limit = self._timetable.limit(self._clock())
        if limit != self._pacer.rate:
            self._pacer.adopt(limit, now)
        return now
