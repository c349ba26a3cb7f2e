"""A bell for N waiting threads: nobody sleeps over a ring that came while it looked."""

import threading

from emitterd.heartbeat import beat, rest


class WakeUp:
    """Rings are counted, so `wait` compares instead of clearing."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    def rings(self) -> int:
        """Return the count to hand to `wait`; take it before looking for work."""
        with self._condition:
            return self._rings

    def ring(self) -> None:
        """Wake all who wait."""
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, rings: int, timeout_s: float) -> None:
        """Wait until it rang more often than `rings`, or the time is over."""
        rest(timeout_s)
        with self._condition:
            self._condition.wait_for(lambda: self._rings != rings, timeout_s)
        beat()
