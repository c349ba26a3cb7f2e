"""When the next attempt is due: exponential backoff, full jitter, `Retry-After`."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from emitterd.errors import RETRY_AFTER_CAP_S


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay rule; `initial_s` and `max_s` are seconds.

    Full jitter (uniform between zero and the exponential bound) spreads the return of many files
    best: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """

    initial_s: float
    max_s: float
    uniform: Callable[[float, float], float] = random.uniform

    def bound_s(self, attempts: int) -> float:
        """Return the longest delay after this many failed attempts, in seconds."""
        # Bounded: `2.0 ** 1024` overflows, and a file may fail for years.
        doublings = min(max(attempts - 1, 0), 32)
        return min(self.max_s, self.initial_s * 2.0**doublings)

    def due_at(self, now: float, attempts: int, retry_after_s: float | None) -> float:
        """Return the instant of the next attempt, in the clock of `now`.

        `retry_after_s` is the server's `Retry-After`; the jitter is added to it.
        """
        delay_s = self.uniform(0.0, self.bound_s(attempts))
        if retry_after_s is not None:
            delay_s += min(retry_after_s, RETRY_AFTER_CAP_S)
        return now + delay_s
