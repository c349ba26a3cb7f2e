"""Group commit: whoever finds nobody committing does so for all who wait.

While one commits, the work of the others gathers; then the first of them takes the
lead. Nobody is woken but for its own result or to lead: handing a lock from one to the
next, only for each to see that it has its result, took a third of the time of 8
workers.
"""

import sqlite3
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PendingWrite(Generic[T]):
    """Work that waits for its commit, and what became of it."""

    def __init__(
        self, work: Callable[[sqlite3.Connection], T], *, final: bool, durable: bool
    ) -> None:
        self.work = work
        self.final = final
        self.durable = durable
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self._turn = threading.Lock()
        self._turn.acquire()

    def wait(self) -> None:
        """Wait until it is done, or its to lead."""
        self._turn.acquire()

    def wake(self) -> None:
        """Let it go on."""
        self._turn.release()

    def outcome(self) -> T:
        """Return the result, or raise what the work, or its commit, raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # T may itself be None


Batch = list[PendingWrite[object]]


class GroupCommit:
    """Gathers work, and has it committed together. Thread-safe."""

    def __init__(self, commit: Callable[[Batch], None]) -> None:
        """`commit` is called by one thread at a time; it gives each its outcome."""
        self._commit = commit
        self._lock = threading.Lock()
        self._led = False
        self.queue: Batch = []
        self.writing = threading.Lock()
        """Held during each commit: to hold it is to keep everybody from writing."""

    def join(self, mine: PendingWrite[object]) -> None:
        """Return once the work is committed, by this thread or by another."""
        with self._lock:
            self.queue.append(mine)
            follows, self._led = self._led, True
        if follows:
            mine.wait()
        if not mine.done:
            self._lead(mine)

    def _lead(self, mine: PendingWrite[object]) -> None:
        batch: Batch = []
        try:
            with self.writing:
                with self._lock:
                    batch, self.queue = self.queue, []
                self._commit(batch)
        except BaseException as error:
            # Nobody is to take what was not committed for done.
            for one in batch:
                one.error = one.error or error
            raise
        finally:
            with self._lock:
                heir = self.queue[0] if self.queue else None
                self._led = heir is not None
            if heir is not None:
                heir.wake()
            for one in batch:
                one.done = True
                if one is not mine:
                    one.wake()
