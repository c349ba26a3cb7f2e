"""The group commit: all waiting work becomes one transaction, so N workers share one fsync."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from emitterd.journal.store import Work

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class PendingWrite(Generic[T]):
    """Work that waits for its commit, and its result."""

    work: Work[T]
    done: bool = False
    result: T | None = None
    error: BaseException | None = None
    wake_up: threading.Lock = field(default_factory=threading.Lock)
    """Free once it is done, or once its thread must commit."""

    def __post_init__(self) -> None:
        self.wake_up.acquire()


Batch = list[PendingWrite[Any]]


class GroupCommit:
    """Commits the work of all threads. Thread-safe.

    One thread commits the work of all waiting threads. New work waits; then the first thread of the
    new work commits it. A thread wakes up only for its own result or to commit: with one shared
    lock, 8 workers lost a third of their time.
    """

    def __init__(self, commit: Callable[[Batch], None]) -> None:
        """`commit` runs a batch, and sets the result or the error of each work in it.

        It runs in one thread at a time. What it raises becomes the error of all its work.
        """
        self._commit = commit
        self._queue: Batch = []
        self._queue_lock = threading.Lock()
        self._has_leader = False
        self.writing = threading.Lock()
        """Held during each commit: its holder prevents all writing."""

    def write(self, work: Work[T]) -> T:
        """Run the work in the next commit; return its result, or raise its error."""
        mine = PendingWrite(work)
        with self._queue_lock:
            self._queue.append(mine)
            is_follower, self._has_leader = self._has_leader, True
        if is_follower:
            mine.wake_up.acquire()
        # Woken without a result: the former leader has made this thread its successor.
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[return-value]  # T may itself be None

    def _lead(self, mine: PendingWrite[T]) -> None:
        batch: Batch = []
        try:
            # Only the end of the store competes for this lock: there is one leader at a time.
            with self.writing:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        except BaseException as error:
            # No caller may believe that uncommitted work is done.
            for pending in batch:
                pending.error = pending.error or error
            raise
        finally:
            with self._queue_lock:
                next_leader = self._queue[0] if self._queue else None
                self._has_leader = next_leader is not None
            # First the next leader: it commits while this thread wakes the others.
            if next_leader is not None:
                next_leader.wake_up.release()
            for pending in batch:
                pending.done = True
                if pending is not mine:
                    pending.wake_up.release()
