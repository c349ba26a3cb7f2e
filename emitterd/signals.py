"""Signals as data: a handler counts, the main thread looks.

Nothing else happens in a handler: it runs between any two instructions of the main
thread, where a lock may be held (the model is uvicorn's `capture_signals`).
"""

import os
import select
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

STOPS = (signal.SIGTERM, signal.SIGINT)

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Signals:
    """While entered, counts SIGTERM and SIGINT in `stops`. Main thread only."""

    def __init__(self) -> None:
        self.stops = 0
        self._before: dict[signal.Signals, Handler] = {}
        self._pipe = (-1, -1)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(
            self._pipe[1], warn_on_full_buffer=False
        )
        for one in STOPS:
            self._before[one] = signal.signal(one, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        for fd in self._pipe:
            os.close(fd)

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal, at most so long."""
        readable, _, _ = select.select([self._pipe[0]], [], [], timeout_s)
        if readable:
            os.read(self._pipe[0], 64)

    def _count(self, _: int, __: FrameType | None) -> None:
        self.stops += 1
