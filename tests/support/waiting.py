"""Waiting for a condition, with a deadline and without sleeping."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], deadline_s: float, description: str) -> T:
    """Return the first true result of `probe`.

    Raises `TimeoutError` with `description` if none comes within `deadline_s` seconds.
    """
    pause = threading.Event()
    end = time.monotonic() + deadline_s
    while not (result := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"{description}: not within {deadline_s:g} s")
        pause.wait(0.01)
    return result
