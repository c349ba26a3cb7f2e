"""The daemon of a run as a process, and its log."""

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from types import TracebackType
from typing import IO, Self

from soak.ledger import Log
from support.installation import Installation
from support.waiting import wait_until

START_S = 60.0
STOP_S = 60.0
KINDS = (
    "at the start",
    "during the first sweep",
    "after a delivery",
    "after an admission",
    "at any time",
)
"""When a kill comes."""


class Daemon:
    """The daemon; also a context manager, which waits for the start and stops it at the end."""

    def __init__(self, site: Installation) -> None:
        self.log = Log()
        self.exit_code: int | None = None
        self.started_at = 0.0
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        wait_until(
            lambda: self.log.events["daemon.ready"] or not self.alive,
            START_S,
            "the start of the daemon",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(STOP_S)
        finally:
            self.kill()
            self.exit_code = self.process.returncode

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs, or the last one."""
        if self._process is None:
            raise RuntimeError("the daemon was never started")
        return self._process

    @property
    def alive(self) -> bool:
        """Whether the daemon runs."""
        return self.process.poll() is None

    def start(self) -> None:
        """Start the daemon; nothing is waited for."""
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  our own command line
            self._site.command("run"),
            env=self._site.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def kill(self) -> None:
        """End the daemon as a power cut would, and read its log to the end."""
        self.process.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join()

    def ends_within(self, limit_s: float) -> bool:
        """Wait for the end of the daemon; return whether it came within the limit."""
        try:
            self.process.wait(max(0.0, limit_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                # A kill can cut a line short.
                if line.endswith(b"\n") or self.process.poll() != -signal.SIGKILL:
                    self.log.take(line)


class Killer:
    """Kills the daemon at random instants and starts it again, a number of times."""

    POLL_S = 0.01
    AIM_S = 6.0
    """After this time a kill comes in any case, also if the event that it waits for does not."""

    def __init__(self, daemon: Daemon, kills: int, dice: random.Random) -> None:
        self.left = kills
        self.kinds: Counter[str] = Counter()
        self._daemon = daemon
        self._dice = dice
        self._aim()

    def step(self, limit_s: float) -> None:
        """Wait `limit_s` seconds; kill and start the daemon if a kill is due in this time."""
        if not self.left:
            self._daemon.ends_within(limit_s)
            return
        until = time.monotonic() + limit_s
        while (now := time.monotonic()) < until:
            if self._daemon.ends_within(min(self.POLL_S, until - now)):
                return
            if self._is_due(time.monotonic() - self._daemon.started_at):
                self._kill()

    def _is_due(self, age_s: float) -> bool:
        events = self._daemon.log.events
        match self._kind:
            case "at the start":
                return age_s > self._delay_s / 3
            case "during the first sweep":
                due = events["daemon.ready"] > self._before["daemon.ready"]
            case "after a delivery":
                due = events["file.delivered"] > self._before["file.delivered"] + self._number
            case "after an admission":
                due = events["file.admitted"] > self._before["file.admitted"] + self._number
            case _:
                return age_s > self._delay_s
        return due or age_s > self.AIM_S

    def _kill(self) -> None:
        self._daemon.kill()
        self._daemon.log.killed()
        self.left -= 1
        self.kinds[self._kind] += 1
        self._daemon.start()
        self._aim()

    def _aim(self) -> None:
        self._kind = self._dice.choice(KINDS)
        self._delay_s = self._dice.uniform(0.0, self.AIM_S)
        # How many events of its kind the process may log first.
        self._number = self._dice.randrange(20)
        self._before = self._daemon.log.events.copy()
