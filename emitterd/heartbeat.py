"""Heartbeats of the daemon's loops: which loop has stalled, and since when.

A loop records a heartbeat in each pass and during long work. It waits inside of `silence`. A
heartbeat counts for the loop that the calling thread runs, so that any code that a loop calls may
record one.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_local = threading.local()


def record() -> None:
    """Record a heartbeat. It does nothing in a thread that runs no watched loop."""
    _record(0.0)


@contextmanager
def silence(wait_s: float) -> Iterator[None]:
    """Record a heartbeat, and expect no other one for `wait_s` seconds, or until the block ends."""
    _record(wait_s)
    try:
        yield
    finally:
        # What comes after the wait may hang, too.
        _record(0.0)


def _record(silent_s: float) -> None:
    loop: _Loop | None = getattr(_local, "loop", None)
    if loop is not None:
        loop.at = now = time.monotonic()
        loop.silent_until = now + silent_s


@dataclass(frozen=True, slots=True)
class Stalled:
    """A loop that stalls. `since` is its last heartbeat, in monotonic seconds."""

    name: str
    since: float
    thread: int | None = None
    """The thread's identifier, if it is known."""


@dataclass(slots=True)
class _Loop:
    name: str
    thread: int
    at: float
    silent_until: float


class Heartbeat:
    """The last heartbeat of every loop. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: list[_Loop] = []

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Expect heartbeats of this thread, under a name, while the block runs."""
        now = time.monotonic()
        loop = _Loop(name, threading.get_ident(), now, now)
        with self._lock:
            self._loops.append(loop)
        _local.loop = loop
        try:
            yield
        finally:
            del _local.loop
            with self._lock:
                self._loops.remove(loop)

    def stalled(self, now: float, limit_s: float) -> list[Stalled]:
        """Return the loops whose heartbeat is overdue by more than `limit_s` seconds.

        `now` is in monotonic seconds.
        """
        with self._lock:
            return [
                Stalled(loop.name, loop.at, loop.thread)
                for loop in self._loops
                if now > loop.silent_until + limit_s
            ]
