"""The daemon's threads: they have names and heartbeats, and workers can be resized."""

import threading
import time
from collections.abc import Callable

import structlog

from emitterd.delivery.dispatch import WakeUp
from emitterd.delivery.worker import Worker
from emitterd.errors import JournalMoved
from emitterd.heartbeat import Heartbeat
from emitterd.shutdown import Shutdown

log = structlog.get_logger()


class Threads:
    """Every thread but the main one and the watcher's.

    The main thread uses it. Any thread may call `resize_workers`.
    """

    def __init__(
        self, make_worker: Callable[[], Worker], wake_up: WakeUp, shutdown: Shutdown
    ) -> None:
        """Start nothing yet. `wake_up` ends the wait of idle workers."""
        self.heartbeat = Heartbeat()
        self.failed = False
        """Whether a thread has died of an unexpected error."""
        self._make_worker = make_worker
        self._wake_up = wake_up
        self._shutdown = shutdown
        self._lock = threading.Lock()
        self._loops: list[threading.Thread] = []
        self._side_loops: list[threading.Thread] = []
        self._workers: dict[int, threading.Thread] = {}
        self._wanted = 0
        shutdown.on_drain(wake_up.notify)

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop in a thread of its own."""
        self._loops.append(self._start(name, loop))

    def start_watched(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop that must record heartbeats."""
        self._loops.append(self._start_watched(name, loop))

    def start_side(self, name: str, loop: Callable[[], None]) -> None:
        """Run a loop that must record heartbeats, and for whose end no drain waits."""
        self._side_loops.append(self._start_watched(name, loop))

    def resize_workers(self, wanted: Callable[[], int]) -> None:
        """Start or end workers, until as many run as `wanted` returns.

        A surplus worker ends its attempt first. Its number is free only then: call again until all
        workers run. There are never more than the larger of the former and the new number.
        """
        with self._lock:
            if self._shutdown.draining:
                return
            # Asked under the lock: of two callers the later one has the newer number.
            before, self._wanted = self._wanted, wanted()
            for number in range(self._wanted):
                thread = self._workers.get(number)
                if thread is None or not thread.is_alive():
                    try:
                        self._workers[number] = self._start_worker(number)
                    except RuntimeError:
                        # The limit of threads is reached: the next call tries again.
                        break
        if self._wanted < before:
            self._wake_up.notify()

    def alive(self) -> bool:
        """Tell whether a thread still runs for whose end a drain waits."""
        return any(thread.is_alive() for thread in self._all() if thread not in self._side_loops)

    def join(self, timeout_s: float) -> None:
        """Wait until all threads have ended, for at most `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        for thread in self._all():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _all(self) -> list[threading.Thread]:
        with self._lock:
            return [*self._loops, *self._side_loops, *self._workers.values()]

    def _start_worker(self, number: int) -> threading.Thread:
        worker = self._make_worker()
        return self._start_watched(
            f"worker-{number}", lambda: worker.run(lambda: number >= self._wanted)
        )

    def _start_watched(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        def watched() -> None:
            with self.heartbeat.watch(name):
                loop()

        return self._start(name, watched)

    def _start(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                loop()
            except JournalMoved:
                # The main thread reports it.
                self.failed = True
            except Exception:
                # The state is unknown. The daemon ends; its next start reclaims.
                log.critical("daemon.stopping", thread=name, exc_info=True)
                self.failed = True

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread
