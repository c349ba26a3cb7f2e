"""Signals as data: a handler counts them, and the main thread reads the counts.

Nothing else happens in a handler: it runs between any two instructions of the main thread, where a
lock may be held (the model is uvicorn's `capture_signals`).
"""

import os
import select
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

STOPS = (signal.SIGTERM, signal.SIGINT)
HANGUP = signal.SIGHUP

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


def hold_hangup() -> None:
    """Keep SIGHUP, which would end the process, until `Signals` asks for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})


class Signals:
    """While entered, counts SIGTERM and SIGINT in `stops`. Main thread only.

    With `hangup` SIGHUP is counted too, in `hangups`, also one that was held before.
    """

    def __init__(self, *, hangup: bool = False) -> None:
        self.stops = 0
        self.hangups = 0
        self._hangup = hangup
        self._mask_before: set[int] = set()
        self._before: dict[signal.Signals, Handler] = {}
        self._pipe = (-1, -1)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for item in STOPS:
            self._before[item] = signal.signal(item, self._count)
        if self._hangup:
            self._before[HANGUP] = signal.signal(HANGUP, self._count_hangup)
        unblocked = {HANGUP} if self._hangup else set()
        self._mask_before = signal.pthread_sigmask(signal.SIG_UNBLOCK, unblocked)
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
        for item, handler in self._before.items():
            signal.signal(item, handler)
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

    def _count_hangup(self, _: int, __: FrameType | None) -> None:
        self.hangups += 1
