"""Entries whose grant was fetched before a worker was free for them.

On a line with long round trips half of a small file's time is the wait for its grant.
So few lie ready, and only while workers take what lies there, that none grows old.
"""

import threading
from collections import deque

from emitterd import heartbeat
from emitterd.model import Entry

MOST = 8
"""So many lie ready, or are being fetched, at the most."""

WORTH_S = 0.02
"""A grant that comes sooner is asked for by its worker: to hand it over costs more."""

WANTED_S = 10.0
"""Where nobody has taken an entry for so long, uploads are long, and a grant would grow
old: it holds for an hour, and a large file may take as long."""

WEIGHT = 0.2
"""Of the last grant's time in the mean."""


class GrantPrefetch:
    """What lies ready, in the order of its turns. Thread-safe."""

    def __init__(self) -> None:
        self._taken = threading.Condition()
        self._ready: deque[Entry] = deque()
        self._fetching = 0
        self._mean_s = 0.0
        self._taken_at = float("-inf")

    def asked(self, took_s: float) -> None:
        """Note how long the API took for a grant, in seconds."""
        with self._taken:
            self._mean_s += WEIGHT * (took_s - self._mean_s)

    def begin(self, now: float) -> bool:
        """Tell whether one more is to be fetched, which then ends with `end`.

        `now` is monotonic.
        """
        with self._taken:
            wanted = self._wanted(now)
            self._fetching += wanted
            if self._wanted(now):
                self._taken.notify()
            return wanted

    def end(self) -> None:
        """Note that one less is being fetched, whatever came of it."""
        with self._taken:
            self._fetching -= 1

    def put(self, entry: Entry) -> None:
        """Lay an entry ready that was claimed, and has its grant where it needs one."""
        with self._taken:
            self._ready.append(entry)

    def take(self, now: float) -> Entry | None:
        """Take the entry that has lain ready longest, or None; `now` is monotonic."""
        with self._taken:
            entry = self._ready.popleft() if self._ready else None
            self._taken_at = now
            if self._wanted(now):
                self._taken.notify()
            return entry

    def _wanted(self, now: float) -> bool:
        return (
            self._mean_s >= WORTH_S
            and now - self._taken_at < WANTED_S
            and len(self._ready) + self._fetching < MOST
        )

    def wait(self, timeout_s: float) -> None:
        """Wait until an entry is taken, or the time is over."""
        heartbeat.silence(timeout_s)
        with self._taken:
            self._taken.wait(timeout_s)
        heartbeat.record()

    def rest(self) -> list[Entry]:
        """Take all that nobody will: the daemon is stopping."""
        with self._taken:
            left = list(self._ready)
            self._ready.clear()
            self._taken.notify_all()
        return left
