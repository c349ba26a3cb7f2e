"""A whole installation in one process, which a test steps and kills at any commit.

It has the components of the daemon without their threads: the test steps intake and
worker itself. A kill copies what is on disk at that moment, so the next start finds a
journal that was not closed.
"""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest.mock import patch

from structlog.testing import capture_logs

from emitterd.config.settings import load
from emitterd.journal.journal import Journal
from emitterd.journal.operations import Operation, OperationReport, OperationRequest
from emitterd.journal.store import Work
from emitterd.model import LIVE, Entry, State
from emitterd.rehearsal.server import RehearsalServer
from emitterd.service.daemon import Daemon
from support.faults import fault_list
from support.installation import Installation
from support.worker import Watcher

T = TypeVar("T")

SERVER_THREAD = "rehearsal"
WORK_MAX = 200
"""More turns than this, with nothing new to do, are a loop."""


class Killed(BaseException):
    """The process ended here as `kill -9` ends it."""


class Clock:
    """The wall clocks of this host and of the server, in seconds off the real one."""

    def __init__(self) -> None:
        self.host_s = 0.0
        self.server_s = 0.0
        self._real = time.time

    def pass_by(self, seconds: float) -> None:
        """Let time go by for both."""
        self.host_s += seconds
        self.server_s += seconds

    @property
    def server(self) -> float:
        """The time as the server has it."""
        return self._real() + self.server_s

    def __call__(self) -> float:
        """Return the time as the calling thread's machine has it."""
        at_server = threading.current_thread().name == SERVER_THREAD
        return self._real() + (self.server_s if at_server else self.host_s)


class Mortal:
    """The commits of a process that dies at one of them."""

    def __init__(self, journal: Journal) -> None:
        self._write = journal.store.write
        journal.store.write = self.write  # type: ignore[method-assign]
        self._left = 0
        self._late = False

    def doom(self, commits: int, *, late: bool) -> None:
        """Die at that commit from now: before it, or `late`, once it is on disk."""
        self._left, self._late = commits, late

    def write(self, work: Work[T]) -> T:
        """Write, or die."""
        self._left -= 1
        if self._left:
            return self._write(work)
        if self._late:
            self._write(work)
        raise Killed


class Onlooker(Watcher):
    """Sees parts of a body go out, and may act then: once, after `skip` parts.

    `path` is what is being sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], None] | None = None
        self.skip = 0
        self.path = b""
        self._of_thread = threading.local()

    def began(self, entry: Entry) -> None:
        """Keep the path of this thread's upload."""
        super().began(entry)
        self._of_thread.path = entry.path

    def sent(self, size_bytes: int) -> None:
        """Act, when it is time."""
        del size_bytes
        self.path = self._of_thread.path
        if self.act is None:
            return
        if self.skip:
            self.skip -= 1
            return
        act, self.act = self.act, None
        act()


class Host:
    """An installation, its server, its clocks, and the process that lives now.

    `events` is all that was logged, over all lives.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self._stack = ExitStack()
        self.clock = Clock()
        self._passed_s = 0.0
        self.deaths = 0
        self.onlooker = Onlooker()
        self.server = RehearsalServer(folder / "server")
        self._folder = folder
        self._settings = settings
        self._life = 0

    def __enter__(self) -> Self:
        self._stack.enter_context(patch("time.time", self.clock))
        self.events: list[Any] = self._stack.enter_context(capture_logs())
        self._stack.enter_context(self.server)
        self.site = Installation(self._folder, self.server.url, **self._settings)
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._stack.close()

    def alive(self, action: Callable[[], T]) -> T | None:
        """Run an action that may kill the process; then another process starts."""
        try:
            return action()
        except Killed:
            self.kill()
            return None

    def kill(self) -> None:
        """Have the process killed, and start another on what is on disk."""
        self.deaths += 1
        former = self._journal
        self._life += 1
        self._journal.parent.mkdir()
        for suffix in ("", "-wal"):
            file = former.with_name(former.name + suffix)
            if file.exists():
                shutil.copyfile(file, self._journal.with_name(file.name))
        self._end()
        shutil.rmtree(former.parent)
        self._start()

    def restart(self) -> None:
        """Stop the process in good order, and start another."""
        self._end()
        self._start()

    def doom(self, commits: int, *, late: bool) -> None:
        """Have the process die at that commit from now."""
        self._mortal.doom(commits, late=late)

    def faults(self, text: str) -> None:
        """Order other faults from the server."""
        self.server.faults = fault_list(text)

    def look(self) -> None:
        """Have intake do what is due."""
        while self.components.intake.step(self.now) == 0.0:
            pass

    def sweep(self) -> None:
        """Have intake look through the whole folder."""
        self.components.intake.sweep_soon()
        self.look()

    def work(self, turns: int = WORK_MAX, *, pause_s: float = 2.0) -> None:
        """Have a worker take `turns` steps, or as many as there is work for.

        `pause_s`: before each; the server stamps keys with the second, and a worker
        waits where it has to.
        """
        for _ in range(turns):
            self.clock.pass_by(pause_s)
            if self.worker.step(time.time()) > 0:
                return

    def at_rest(self) -> bool:
        """Return whether nothing waits, but what the operator holds."""
        counts = self.components.journal.counts()
        waiting = sum(counts[state] for state in LIVE - {State.HELD})
        return not waiting and not self.components.intake._tracker._candidates

    @property
    def now(self) -> float:
        """The monotonic clock of the machine, on which the time went by."""
        return time.monotonic() + self._passed_s

    def pass_by(self, seconds: float) -> None:
        """Let time go by everywhere."""
        self._passed_s += seconds
        self.clock.pass_by(seconds)

    def apply_operation(self, operation: Operation, path: bytes) -> OperationReport:
        """Have the operator act on a path."""
        return self._daemon._apply(OperationRequest(operation, (path,)), "operator")

    def rows(self) -> list[dict[str, Any]]:
        """Return every version in the journal, the oldest first."""
        columns = "id path state bytes sha256 md5 key earlier_keys ambiguous error attempts"
        names = [*columns.split(), "forgotten_at"]
        sql = f"select {', '.join(names)} from entry order by id"  # noqa: S608
        rows = self.components.journal.read(sql)
        return [dict(zip(names, row, strict=True)) for row in rows]

    @property
    def _journal(self) -> Path:
        return self._folder / f"life-{self._life}" / "journal.db"

    def _start(self) -> None:
        environ = self.site.settings | {"EMITTERD_JOURNAL_PATH": str(self._journal)}
        self._daemon = Daemon(load(self.site.config, environ), self.onlooker)
        self.components = self._daemon._components
        self._mortal = Mortal(self.components.journal)
        self.worker = self.components.worker()

    def _end(self) -> None:
        self.components.http_client.close()
        self.components.journal.close()
