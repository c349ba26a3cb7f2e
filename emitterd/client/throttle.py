"""Where all uploads wait for the bandwidth that they share."""

import threading
import time
from collections.abc import Callable

from emitterd.client.bandwidth import Pacer
from emitterd.client.timetable import Timetable

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
