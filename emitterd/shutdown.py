"""How a process stops: first every loop drains, then everything ends at once."""

import threading
import time
from collections.abc import Callable


class Shutdown:
    """The one stop signal that all components share. Thread-safe.

    A stop has two steps. From `drain` on, a loop finishes the file that it works on and begins no
    other one. `now` is set at the drain's deadline, or at a second signal: requests, pauses and
    reads of files end within a second, and interrupted uploads go back to the queue.
    """

    def __init__(self) -> None:
        self.now = threading.Event()
        """Set when nothing may go on. Wait on it in place of a sleep."""
        self._draining = threading.Event()
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        """Whether loops are to end."""
        return self._draining.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the drain has reached its deadline."""
        return time.monotonic() >= self._deadline

    def drain(self, timeout_s: float) -> None:
        """Ask all loops to end within `timeout_s` seconds, and wake those that wait."""
        self._deadline = time.monotonic() + timeout_s
        with self._lock:
            self._draining.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Have the drain call `callback`, which wakes a loop or closes a socket.

        It is called at once if the drain has begun.
        """
        with self._lock:
            if not self.draining:
                self._callbacks.append(callback)
                return
        callback()

    def wait_for_drain(self, timeout_s: float) -> None:
        """Sleep for `timeout_s` seconds, or until the drain begins."""
        self._draining.wait(timeout_s)
