"""What is measured: an emitterd of some source tree, installed in a folder."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DEADLINE_S = 600.0
STOP_S = 60.0
LOOK_S = 0.005


class Failed(Exception):
    """A contestant did not do its work, so there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkout of emitterd, and the Python that runs it."""

    name: str
    root: Path
    python: Path

    @classmethod
    def at(cls, root: Path, name: str) -> "Source":
        """Take the checkout's own environment where it has one."""
        python = root / ".venv" / "bin" / "python"
        return cls(name, root, python if python.exists() else Path(sys.executable))

    def commit(self) -> str:
        """Return the commit that it is at, with a + where something is changed."""
        command = ["git", "-C", str(self.root), "describe", "--always", "--dirty=+"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command line
        except FileNotFoundError:
            return "unknown: git is missing"
        return done.stdout.strip() or "no repository"

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of an emitterd command.

        By `-P` a checkout that happens to be the working folder is not taken instead.
        """
        return [str(self.python), "-P", "-m", "emitterd", *arguments]

    def environment(self) -> dict[str, str]:
        """Return an environment in which this source is the one that is imported.

        Its modules are compiled once, as those of an installation are.
        """
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EMITTERD_", "PYTHON")) and not name.lower().endswith("_proxy")
        }
        return plain | {"PYTHONPATH": str(self.root)}


class Subject:
    """One installation: configuration, journal and log in a folder of their own."""

    def __init__(self, source: Source, folder: Path, spool: Path, url: str, api_key: str) -> None:
        """Lay it out in a new folder, with the default settings."""
        folder.mkdir(parents=True)
        self.source = source
        self.folder = folder
        self.spool = spool
        self.journal = folder / "journal.db"
        self.log = folder / "emitterd.jsonl"
        self.config = folder / "emitter.yaml"
        key = folder / "api-key"
        key.touch(0o600)
        key.write_text(api_key)
        self.config.write_text(
            f"emission:\n  url: {url}\n  api_key_file: api-key\n"
            f"  allow_insecure_http: true\nspool:\n  directory: {spool}\n"
            "journal:\n  path: journal.db\n"
        )

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a command that reads the configuration."""
        return self.source.command(*arguments, "-c", str(self.config))

    def once(self, by: Sequence[str] = ()) -> "Ran":
        """Deliver the folder by `once`; raises `Failed` unless all is delivered.

        `by`: a command line that runs the one it is given.
        """
        return run([*by, *self.command("once")], self.source.environment(), self.log)

    @contextmanager
    def running(self, **environment: str) -> Iterator["Daemon"]:
        """Run the daemon; it is stopped afterwards. Raises `Failed` if not in order."""
        with self.log.open("ab") as log:
            offset = log.tell()
            process = subprocess.Popen(  # noqa: S603  our own command line
                self.command("run"),
                env=self.source.environment() | environment,
                stdout=log,
                stderr=log,
            )
        daemon = Daemon(self.log, process, offset)
        try:
            yield daemon
            daemon.stop()
        finally:
            process.kill()
            process.wait()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the log, or those of an event."""
        lines = self.log.read_text("utf-8").split("\n")[:-1]
        wanted = f'"{name}"' if name else ""
        return [json.loads(line) for line in lines if wanted in line]

    def count(self, name: str) -> int:
        """Return how often an event was logged; of a million it makes no objects."""
        wanted = f'"{name}"'.encode()
        with self.log.open("rb") as log:
            return sum(wanted in line for line in log)

    def last_at(self, name: str) -> float:
        """Return when an event was logged last, in seconds since the epoch."""
        events = [event for event in self.events(name) if event["event"] == name]
        if not events:
            raise Failed(f"no {name} in the log:\n{self.log.read_text()[-2000:]}")
        return instant(events[-1])


class Daemon:
    """A daemon that runs."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes], offset: int) -> None:
        """Take a process that has just begun; its log begins at `offset`."""
        self.began_at = time.time()
        self.pid = process.pid
        self._log = log
        self._process = process
        self._offset = offset

    def wait_for(self, name: str, deadline_s: float = DEADLINE_S) -> float:
        """Return when it first logged an event, in seconds since the epoch."""
        wanted, until = f'"{name}"'.encode(), time.monotonic() + deadline_s
        with self._log.open("rb") as log:
            log.seek(self._offset)
            line = b""
            while time.monotonic() < until and self._process.poll() is None:
                line += log.readline()
                if not line.endswith(b"\n"):
                    time.sleep(LOOK_S)
                    continue
                if wanted in line and json.loads(line)["event"] == name:
                    return instant(json.loads(line))
                line = b""
        raise Failed(f"no {name}:\n{self._log.read_text('utf-8')[-2000:]}")

    def stop(self) -> None:
        """Stop it in the usual way. Raises `Failed` where it ends otherwise."""
        self._process.terminate()
        if code := self._process.wait(STOP_S):
            raise Failed(f"emitterd ended with {code}")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command took. Instants: seconds since the epoch."""

    began_at: float
    ended_at: float
    cpu_s: float

    @property
    def took_s(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at


def run(command: Sequence[str], environment: dict[str, str] | None, log: Path) -> Ran:
    """Run a command to its end. Raises `Failed` unless that is 0."""
    before = _children_s()
    began_at = time.time()
    with log.open("ab") as output:
        done = subprocess.run(  # noqa: S603  our own command line
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=DEADLINE_S,
            check=False,
        )
    ended_at = time.time()
    if done.returncode:
        message = log.read_text(errors="replace")[-2000:]
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{message}")
    return Ran(began_at, ended_at, _children_s() - before)


def output(command: Sequence[str], environment: dict[str, str]) -> bytes:
    """Run a command and return its standard output. Raises `Failed` if it fails."""
    done = subprocess.run(  # noqa: S603  our own command line
        command, env=environment, capture_output=True, check=False
    )
    if done.returncode:
        raise Failed(f"{command} ended with {done.returncode}: {done.stderr!r}")
    return done.stdout


def instant(event: dict[str, Any]) -> float:
    """Return when a line was logged, in seconds since the epoch."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
