"""A whole installation in a folder: spool, configuration, the daemon as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emitterd.errors import JournalError
from emitterd.journal.reader import EntryQuery, JournalReader
from emitterd.model import State
from emitterd.monitoring.status import status_record
from support.waiting import wait_until

PASSWORD = "rehearsal"
DEADLINE_S = 60.0


class Installation:
    """Folder, configuration file and commands of one test.

    `protocol`: what the server at `url` speaks, as `emission.protocol`.
    """

    def __init__(
        self, folder: Path, url: str, *, protocol: str = "emission", **settings: str
    ) -> None:
        self.folder = folder
        self.spool = folder / "cqube_emission"
        self.spool.mkdir()
        self.log = folder / "emitterd.jsonl"
        self.journal = folder / "journal.db"
        self.config = folder / "emitter.yaml"
        self._processes: list[subprocess.Popen[bytes]] = []
        password = folder / "password"
        password.touch(0o600)
        password.write_text(PASSWORD)
        # As EMITTERD_<SECTION>_<KEY> variables; a test names what it needs.
        self.settings = {
            "EMITTERD_DELIVERY_BACKOFF_INITIAL": "100ms",
            "EMITTERD_SPOOL_SETTLE": "300ms",
            # Most tests drop files that the server would drop.
            "EMITTERD_SPOOL_CATALOGUE": "off",
        } | {f"EMITTERD_{key.upper()}": value for key, value in settings.items()}
        login = "  username: emission\n  password_file: password\n"
        if protocol != "emission":
            login = f"  protocol: {protocol}\n"
        self.config.write_text(
            f"emission:\n  url: {url}\n{login}  allow_insecure_http: true\n"
            "spool:\n  directory: cqube_emission\njournal:\n  path: journal.db\n"
        )

    def drop(self, path: str, content: bytes = b"id|name\n1|one\n") -> Path:
        """Put a zip with one CSV into the folder, complete from the first moment."""
        target = self.spool / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr(f"{target.stem}.csv", content)
        return part.rename(target)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of an emitterd command."""
        return [sys.executable, "-m", "emitterd", *arguments, "-c", str(self.config)]

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the process environment, without settings of this machine's user."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith("EMITTERD_")}
        return plain | self.settings | extra

    def call(
        self, *arguments: str, timeout_s: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(  # noqa: S603
            self.command(*arguments),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:  # noqa: ANN401  JSON
        """Return what a command says with `--json`; it must end well."""
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, command: str = "run", by: Sequence[str] = (), **extra: str) -> "Process":
        """Start the daemon, with more in its environment; nothing is waited for.

        `by`: a command line that, in the end, becomes the one it is given.
        """
        self._drop_torn_line()
        # Counted before the start: on a busy machine the daemon may be ahead of us.
        seen = len(self.events())
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                [*by, *self.command(command)], env=self.environment(**extra), stdout=log, stderr=log
            )
        self._processes.append(process)
        return Process(self, process, seen)

    def _drop_torn_line(self) -> None:
        """Remove the half line that a killed process left at the end of the log.

        A kill can cut a write short. The first line of the next process would go on in
        the same line, and neither could be parsed.
        """
        running = any(process.poll() is None for process in self._processes)
        if running or not self.log.exists():
            return
        written = self.log.read_bytes()
        os.truncate(self.log, written.rfind(b"\n") + 1)

    @contextmanager
    def running(self) -> Iterator["Process"]:
        """Run the daemon; it is ended afterwards, and must end well if alive."""
        daemon = self.start()
        try:
            daemon.wait_for_event("daemon.ready")
            yield daemon
        finally:
            daemon.end()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the log so far; each line must be one JSON object."""
        # The last line may be half written: the daemon writes it now, or was killed.
        written = self.log.read_bytes() if self.log.exists() else b""
        parsed = [json.loads(line) for line in written.split(b"\n")[:-1]]
        return [item for item in parsed if name is None or item["event"] == name]

    def entries(self, state: State | None = None) -> list[dict[str, Any]]:
        """Return the journal's entries; none while it does not exist."""
        try:
            with JournalReader(self.journal) as records:
                return list(records.entries(EntryQuery(state)))
        except JournalError:
            return []

    def counts(self) -> Mapping[str, int]:
        """Return the number of entries by state."""
        try:
            with JournalReader(self.journal) as records:
                counts: dict[str, int] = status_record(records)["counts"]
                return counts
        except JournalError:
            return Counter()

    def disposals_due(self) -> int:
        """Return how many files of ended versions are still to be moved or deleted."""
        with JournalReader(self.journal) as records:
            ((due,),) = records.read("select count(*) from entry where disposal = 'due'")
            return int(due)

    def wait_delivered(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `count` versions are delivered."""
        try:
            wait_until(
                lambda: self.counts()["delivered"] >= count, deadline_s, f"{count} delivered"
            )
        except TimeoutError as error:
            lines = self.log.read_text().splitlines()
            usual = ('"file.admitted"', '"file.delivered"')
            unusual = [line for line in lines if not any(event in line for event in usual)]
            error.add_note("\n".join([str(self.counts()), *unusual[-50:]]))
            raise


class Process:
    """A daemon process of an installation."""

    def __init__(
        self, installation: Installation, process: subprocess.Popen[bytes], seen: int
    ) -> None:
        """`seen`: how many events earlier processes have logged."""
        self._installation = installation
        self._process = process
        self._seen = seen

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has had so far."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait(deadline_s)

    def wait_for_event(self, name: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until this process has logged an event."""

        def logged() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(self._installation.log.read_text())
            new = self._installation.events()[self._seen :]
            return any(item["event"] == name for item in new)

        wait_until(logged, deadline_s, name)

    def end(self) -> None:
        """Stop it if it runs; a daemon that runs must end with 0."""
        if self._process.poll() is None:
            self._process.terminate()
            assert self._process.wait(DEADLINE_S) == 0
