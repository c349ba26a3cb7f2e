"""An imaginary office: an installation with files in several states, for the pictures.

It sends sample files to a rehearsal server, and gives them fixed times. In the output, times,
folders and the server are those of the office: each run prints the same.
"""

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from emitterd.rehearsal.server import FaultList, RehearsalServer
from tools.scratch import in_scratch
from tools.terminal import shown_on_terminal

Events = Mapping[str, signal.Signals | str]

EMITTERD = (sys.executable, "-m", "emitterd")
URL = "https://cqube.example.org/data"
INDIA = timezone(timedelta(hours=5, minutes=30))
NOW = datetime(2026, 11, 30, 18, 11, tzinfo=INDIA)
"""The time in all pictures."""

MAKING_S = 500
"""The pictures are made within this time."""

NO_CONFIGURATION = {"completion", "demo", "explain-error", "init", "rehearse", "schema"}
"""Commands without the option -c."""

PAGE_BYTES, DAMAGED_PAGE = 4096, 2
GOOD = (
    "district_master/district_mst",
    "pat/periodic_exam_mst",
    "student_attendance/student_attendance",
)
WRONG, LATE = "sat/semester_exam_mst", "pat/periodic_exam_qst_mst"
DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[+-]\d\d:\d\d")

CONSTANTS = {
    r"_\d{14}\.zip": "_20261130175512.zip",
    r"on \w+, [\d.]+ [KMGT]iB free": "on ext4, 55 GiB free",
    r"\d+ watches": "524288 watches",
    r"(?<!\d)\d\d:\d\d:\d\d (?=\S*(?:daemon|watch|sweep|file)\.)": f"{NOW:%T} ",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z": "2026-11-30T12:41:00.123456Z",
    r"\b[\d.]+ms\b|(?<=\) in )[\d.]+s\b": "12ms",
    r'(?<="duration_s": )[\d.]+': "0.012",
    r"before-\d{8}T\d{6}Z": "before-20261130T124100Z",
    r"emitterd-demo-\w+": "emitterd-demo-k2x7mq9a",
    r"127\.0\.0\.1:\d{5}": "127.0.0.1:41873",
    r"\b\d+s ago\b": "2s ago",
}
"""What differs by run and machine, and what the pictures have."""


class Office:
    """An installation with files in several states."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self._folder, self._spool = folder, spool
        self._config, self._journal = folder / "emitter.yaml", folder / "journal.db"
        # The service manager is not asked, and no setting of this user counts.
        self._environment = {name: os.environ[name] for name in ("PATH", "HOME")}
        self._environment |= {"TZ": "Asia/Kolkata", "LANG": "C.UTF-8", "PAGER": "cat"}
        self._began_at = 0.0
        self._saved: dict[Path, bytes] = {}

    def fill(self) -> None:
        """Send the files, then give them their times, and the imaginary server."""
        with RehearsalServer(self._folder / "server", api_key="rehearsal") as server:
            self._configure(server.url)
            # One at a time: the order of a folder is that of its file system.
            for title in (*GOOD, WRONG):
                self._drop(title, rows=4000)
                self._run("once")
            (self._spool / "pat" / "notes.txt").touch()
            shutil.copy(self._spool / f"{WRONG}.zip", self._folder)
            self._drop(LATE, rows=9000)
            server.faults = FaultList.parse("503")
            self._run("once --wait 1s")
        self._configure(URL)
        self._move_to(URL)
        self._began_at = int(time.time())
        with closing(sqlite3.connect(self._journal)) as journal, journal:
            sql = """update entry set admitted_at = ?1 - 640 - 60 * id,
                changed_at = iif(state = 'deferred', ?1 - 190, ?1 - 610 - 60 * id),
                delivered_at = iif(state = 'delivered', ?1 - 610 - 60 * id, null),
                due_at = iif(state = 'deferred', ?1 + 530, due_at), duration_s = 1"""
            journal.execute(sql, (self._began_at,))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the daemon, which has nothing to send yet."""
        log = self._folder / "log"
        with (
            log.open("w") as out,
            subprocess.Popen(  # noqa: S603
                [*EMITTERD, "run", "-c", self._config], env=self._environment, stdout=out
            ) as daemon,
        ):
            try:
                while "daemon.ready" not in log.read_text():
                    if daemon.poll() is not None:
                        raise RuntimeError(log.read_text())
                    time.sleep(0.05)
                yield
            finally:
                daemon.terminate()

    def save(self) -> None:
        """Remember the journal as it is now, and what is in the folder of the commands."""
        self._saved = {path: path.read_bytes() for path in self._files()}

    @contextmanager
    def ready_for(self, command: str) -> Iterator[None]:
        """Prepare what a command needs, and return to the state of `save`, if it was called."""
        text = self._config.read_text()
        try:
            match command.split():
                case ["once"]:
                    with RehearsalServer(self._folder / "server", api_key="rehearsal") as server:
                        self._configure(server.url)
                        self._move_to(server.url)
                        self._run(f"retry {LATE}.zip")
                        yield
                    return
                case ["release", path]:
                    self._run(f"hold {path}")
                case ["rebuild"]:
                    self._damage()
                case ["set-password"]:
                    login = f"username: office\n  password_file: {self._folder / 'password'}\n"
                    self._config.write_text(re.sub("api_key_file: .*\n", login, text))
                case ["notify-test"]:
                    self._config.write_text(f"{text}alerts:\n  command: [/bin/true]\n")
            yield
        finally:
            self._restore()

    def _damage(self) -> None:
        """Overwrite a page of the journal with zeros, as a broken disk does."""
        with self._journal.open("r+b") as journal:
            journal.seek(DAMAGED_PAGE * PAGE_BYTES)
            journal.write(bytes(PAGE_BYTES))

    def _move_to(self, url: str) -> None:
        """Let all files be sent to the server at this address."""
        with closing(sqlite3.connect(self._journal)) as journal, journal:
            journal.execute("update server set url = ?", (url,))

    def _restore(self) -> None:
        if not self._saved:
            return
        for path in self._files() - self._saved.keys():
            path.unlink()
        for path, content in self._saved.items():
            path.write_bytes(content)
        for name in ("cqube_emission", "rehearsal"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _files(self) -> set[Path]:
        names = ("journal.db*", "*.yaml", "password", "operators")
        files = (path for name in names for path in self._folder.glob(name))
        # Not the socket of the daemon.
        return set(filter(Path.is_file, files))

    def piped(self, command: str, events: Events) -> str:
        """Return what a command prints in a pipe. `events`: see `shown`."""
        with subprocess.Popen(  # noqa: S603
            self._line(command),
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            # A pipe has one line, and is not asked again.
            typed = [event for event in events.values() if isinstance(event, str)]
            process.stdin.write("".join(typed[:1]).replace("\r", "\n"))
            process.stdin.close()
            signals = {text: event for text, event in events.items() if event not in typed}
            printed = []
            for line in process.stdout:
                printed.append(line)
                for text, number in signals.items():
                    if text in line:
                        process.send_signal(int(number))
        return self._imaginary("".join(printed))

    def shown(self, command: str, columns: int, events: Events) -> str:
        """Return what a command shows on a terminal, with the codes of colours.

        `events`: what a person types when a text has come, or the signal of Ctrl-C.
        """
        _, text = shown_on_terminal(
            ["env", f"--chdir={self._folder}", *self._line(command)],
            columns,
            environment=self._environment,
            lines=200,
            signals=events,
        )
        return self._imaginary(text)

    def _configure(self, url: str) -> None:
        key = self._folder / "api-key"
        key.touch(0o600)
        key.write_text("rehearsal\n")
        self._config.write_text(
            f"emission:\n  url: {url}\n  api_key_file: {key}\n  allow_insecure_http: true\n"
            f"spool:\n  directory: {self._spool}\n  catalogue: enforce\n"
            f"journal:\n  path: {self._journal}\n"
            "delivery:\n  backoff_initial: 1h\n  backoff_max: 1h\n"
        )

    def _drop(self, title: str, rows: int) -> None:
        [dataset] = (item for item in load_catalogue().datasets if item.title == title)
        text = sample_csv(dataset, rows)
        if title == WRONG:
            text = text.replace("exam_code", "examcode", 1)
        target = self._spool / f"{title}.zip"
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            # Without a date: the digest is always the same.
            entry = zipfile.ZipInfo(f"{target.stem}.csv")
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)

    def _line(self, command: str) -> list[str]:
        words = shlex.split(command)
        if words[0] == "service":
            return in_scratch(["emitterd", *words])
        config = () if words[0] in NO_CONFIGURATION else ("-c", str(self._config))
        return [*EMITTERD, *words, *config]

    def _run(self, command: str) -> None:
        subprocess.run(  # noqa: S603
            self._line(command), env=self._environment, capture_output=True, check=False
        )

    def _imaginary(self, text: str) -> str:
        """Return an output with the times, folders and the server of the office."""

        def moved(date: re.Match[str]) -> str:
            late_s = datetime.fromisoformat(date[0]).timestamp() - self._began_at
            # What happens while the pictures are made happens now.
            instant = NOW + timedelta(seconds=0 if 0 < late_s < MAKING_S else round(late_s))
            return instant.isoformat(date[0][10])

        for path, name in {
            self._config: "/etc/emitterd/emitter.yaml",
            self._journal: "/var/lib/emitterd/journal.db",
            self._folder / "api-key": "/etc/emitterd/api-key",
            self._folder / "operators": "/etc/emitterd/operators",
            self._folder / "password": "/etc/emitterd/password",
            self._spool: "/srv/cqube_emission",
            self._folder: "/home/asha",
        }.items():
            text = text.replace(str(path), name)
        text = DATE.sub(moved, text)
        for pattern, constant in CONSTANTS.items():
            text = re.sub(pattern, constant, text, flags=re.MULTILINE)
        return text
