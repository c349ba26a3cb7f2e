"""Signs of life: which loop stands still, and since when.

A loop gives a sign at every turn, and on the way through work that takes long; before
a wait it says for how long it will be silent. Each thread speaks for the loop that it
runs, so whatever it calls may give the sign.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_mine = threading.local()


@dataclass(frozen=True, slots=True)
class Stalled:
    """A loop that stands still, by its thread; `since` is its last sign, monotonic."""

    name: str
    since: float
    thread: int | None = None
    """The thread's identifier, where one is known."""


@dataclass(slots=True)
class _Loop:
    name: str
    thread: int
    at: float
    silent_until: float


class Heartbeat:
    """The last sign of every loop. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: list[_Loop] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """While entered, this thread runs a loop that owes signs."""
        now = time.monotonic()
        loop = _Loop(name, threading.get_ident(), now, now)
        with self._lock:
            self._loops.append(loop)
        _mine.loop = loop
        try:
            yield
        finally:
            del _mine.loop
            with self._lock:
                self._loops.remove(loop)

    def still(self, now: float, limit_s: float) -> list[Stalled]:
        """Return the loops that have owed a sign for more than `limit_s` seconds."""
        with self._lock:
            return [
                Stalled(one.name, one.at, one.thread)
                for one in self._loops
                if now > one.silent_until + limit_s
            ]


def beat() -> None:
    """Give a sign. In a thread that runs no loop this is nothing."""
    rest(0.0)


def rest(wait_s: float) -> None:
    """Give a sign, and owe no other for so many seconds."""
    loop: _Loop | None = getattr(_mine, "loop", None)
    if loop is not None:
        loop.at = now = time.monotonic()
        loop.silent_until = now + wait_s
