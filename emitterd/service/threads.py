"""The daemon's threads: named, watched over, and as many workers as wanted."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from emitterd.delivery.dispatch import WakeUp
from emitterd.delivery.worker import Worker
from emitterd.heartbeat import Heartbeat

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _WorkerThread:
    """A worker's thread, and how it is told to leave."""

    thread: threading.Thread
    leave: threading.Event


class Threads:
    """Every thread but the main one and the watcher's.

    For the main thread; but `man` is called by whoever finds out how many are wanted.
    """

    def __init__(self, worker: Callable[[], Worker], wake: WakeUp) -> None:
        """`worker` makes one; `wake` is the bell that it waits for."""
        self.heartbeat = Heartbeat()
        self.drain = threading.Event()
        """Set when all are to end what they do, and do no more."""
        self.failed = threading.Event()
        """Set once a thread has died of what nobody expected."""
        self._worker = worker
        self._wake = wake
        self._others: list[threading.Thread] = []
        self._workers: dict[int, _WorkerThread] = {}
        self._manning = threading.Lock()

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop in a thread of its own."""
        self._others.append(self._thread(name, loop))

    def start_watched(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop that owes signs of life."""
        self.start(name, lambda: self._watched(name, loop))

    def man(self, wanted: Callable[[], int]) -> None:
        """Bring the workers to so many; call again until they are.

        Surplus ones end their attempt first, and nobody begins under a name that is
        still taken: there are never more than the greater of both numbers.
        """
        with self._manning:
            if not self.drain.is_set():
                # Asked only now: of two who call at once the later has the last word.
                self._man(wanted())

    def _man(self, count: int) -> None:
        alive = {n: one for n, one in self._workers.items() if one.thread.is_alive()}
        self._workers = alive
        staying = sorted(n for n, one in alive.items() if not one.leave.is_set())
        for number in staying[count:]:
            alive[number].leave.set()
        if staying[count:]:
            self._wake.ring()
        for number in range(count):
            if number not in alive:
                alive[number] = self._hire(f"worker-{number}")

    def stop(self) -> None:
        """Let all end what they do, and do no more."""
        with self._manning:
            self.drain.set()
        for one in self._workers.values():
            one.leave.set()
        self._wake.ring()

    def alive(self) -> bool:
        """Tell whether any still runs."""
        return any(thread.is_alive() for thread in self._threads())

    def join(self, timeout_s: float) -> None:
        """Wait for the end of all, at most so long."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _threads(self) -> list[threading.Thread]:
        return self._others + [one.thread for one in self._workers.values()]

    def _hire(self, name: str) -> _WorkerThread:
        worker, leave = self._worker(), threading.Event()
        thread = self._thread(
            name, lambda: self._watched(name, lambda: worker.run(leave))
        )
        return _WorkerThread(thread, leave)

    def _watched(self, name: str, loop: Callable[[], None]) -> None:
        with self.heartbeat.watch(name):
            loop()

    def _thread(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                loop()
            except Exception:
                # The state is undetermined: end, be restarted, and reclaim.
                log.critical("daemon.stopping", thread=name, exc_info=True)
                self.failed.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread
