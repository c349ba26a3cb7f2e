"""Pictures of the commands, on terminals of 80 and 120 columns, and their text in a pipe.

`python -m tools.screenshots docs` writes docs/command-output.md, and an SVG of each picture into
docs/screens/. It sends sample files to a rehearsal server, and gives them fixed times. In the
output, times, folders and the server are those of an imaginary office: each run writes the same.
"""

import io
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rich.console import Console
from rich.text import Text

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from emitterd.rehearsal.server import FaultList, RehearsalServer
from tools.terminal import shown_on_terminal

EMITTERD = (sys.executable, "-m", "emitterd")
WIDTHS = (80, 120)
URL = "https://cqube.example.org/data"
INDIA = timezone(timedelta(hours=5, minutes=30))
NOW = datetime(2026, 11, 30, 18, 11, tzinfo=INDIA)
"""The time in all pictures."""

MAKING_S = 500
"""The pictures are made within this time."""

SENTENCES = {
    "status": "The health comes first, each alarm with what to do. Then come counts above zero.",
    "list": "Each file has its state, its size, a time and its problem. The time is when a file was"
    " delivered or rejected, since when it waits, or when emitterd tries again.",
    "list pat/ --sort=-size --limit 2": "Patterns, an order and a limit choose.",
    "list --skipped": "Files of the folder that emitterd does not send.",
    "receipts": "The proof of delivery. `--wide` adds keys and digests.",
    "explain semester_exam_mst.zip": "A name without its folder is searched.",
    "check": "The findings come first, then their number. `--verbose` adds the settings.",
    "explain-error E501": "What a code means, and what to do.",
}
CHANGES = {
    "hold pat/periodic_exam_qst_mst.zip": "emitterd does not send a held file.",
    "retry --all --state rejected": "emitterd examines all rejected files again.",
    "forget district_master/district_mst.zip": "emitterd sends the file again.",
    "mark-delivered pat": "All files of a folder count as delivered, and are not sent.",
    "set-api-key": "The key is asked for, and not shown. In a pipe it is the first line.",
    "init cqube_emission --output office.yaml": "Without root rights, for a first try.",
}
"""Commands that change something. Each finds the office as it is before all of them."""

TYPED = {"set-api-key": {"API key: ": "rehearsal\r", "API key again: ": "rehearsal\r"}}
"""What a person types at each question."""
GOOD = (
    "district_master/district_mst",
    "pat/periodic_exam_mst",
    "student_attendance/student_attendance",
)
WRONG, LATE = "sat/semester_exam_mst", "pat/periodic_exam_qst_mst"
DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[+-]\d\d:\d\d")
KEY = re.compile(r"_\d{14}\.zip")
FREE = re.compile(r"on \w+, [\d.]+ [KMGT]iB free")
WATCHES = re.compile(r"\d+ watches")

PAGE = """\
# Output of the commands

<!-- Made by `python -m tools.screenshots docs`. -->

On a terminal each line fits. In a pipe or a file, lines are whole and have no colour, and the times
are absolute. `--json` prints data.
"""


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
            self._drop(LATE, rows=9000)
            server.faults = FaultList.parse("503")
            self._run("once", "--wait", "1s")
        self._configure(URL)
        self._began_at = int(time.time())
        with closing(sqlite3.connect(self._journal)) as journal, journal:
            journal.execute("update server set url = ?", (URL,))
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

    def restore(self) -> None:
        """Return to the state that `save` has remembered, if it was called."""
        if not self._saved:
            return
        for path in self._files() - self._saved.keys():
            path.unlink()
        for path, content in self._saved.items():
            path.write_bytes(content)
        shutil.rmtree(self._folder / "cqube_emission", ignore_errors=True)

    def _files(self) -> set[Path]:
        files = {*self._folder.glob("journal.db*"), *self._folder.glob("*.yaml")}
        # Not the socket of the daemon.
        return set(filter(Path.is_file, files))

    def piped(self, command: str) -> str:
        """Return what a command prints in a pipe."""
        given = "rehearsal\n" if command in TYPED else ""
        return self._imaginary(self._run(*shlex.split(command), given=given))

    def shown(self, command: str, columns: int) -> str:
        """Return what a command shows on a terminal, with the codes of colours."""
        _, text = shown_on_terminal(
            ["env", f"--chdir={self._folder}", *self._line(*shlex.split(command))],
            columns,
            environment=self._environment,
            lines=200,
            signals=TYPED.get(command),
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
            archive.writestr(f"{target.stem}.csv", text)

    def _line(self, *words: str) -> list[str]:
        config = () if words[0] in {"explain-error", "init"} else ("-c", str(self._config))
        return [*EMITTERD, *words, *config]

    def _run(self, *words: str, given: str = "") -> str:
        done = subprocess.run(  # noqa: S603
            self._line(*words),
            env=self._environment,
            cwd=self._folder,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

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
            self._spool: "/srv/cqube_emission",
            self._folder: "/home/asha",
        }.items():
            text = text.replace(str(path), name)
        text = KEY.sub("_20261130175512.zip", DATE.sub(moved, text))
        return WATCHES.sub("524288 watches", FREE.sub("on ext4, 55 GiB free", text))


def picture(command: str, text: str, columns: int) -> str:
    """Return the SVG of a terminal."""
    console = Console(record=True, file=io.StringIO(), width=columns, force_terminal=True)
    for line in Text.from_ansi(text.rstrip("\n")).split(allow_blank=True):
        # As a terminal does, and not between words.
        for part in line.divide(range(columns, len(line), columns)):
            console.print(part, no_wrap=True, crop=False, overflow="ignore")
    svg = console.export_svg(title=f"emitterd {command}", unique_id=name_of(command, columns))
    # The reader's own font: the page loads nothing from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def section(office: Office, screens: Path, command: str, sentence: str) -> Iterator[str]:
    """Make the pictures of a command, and yield the parts of its section."""
    yield f"## emitterd {command}"
    yield sentence
    for columns in WIDTHS:
        name = f"{name_of(command, columns)}.svg"
        text = office.shown(command, columns)
        (screens / name).write_text(picture(command, text, columns), "utf-8")
        yield f"![{command}, {columns} columns](screens/{name})"
        office.restore()
    yield f"In a pipe:\n\n```text\n{office.piped(command)}```"
    office.restore()


def name_of(command: str, columns: int) -> str:
    """Return the name of a picture."""
    return re.sub(r"\W+", "-", f"{command}-{columns}")


def write(docs: Path) -> None:
    """Make all pictures, and the page that shows them."""
    screens, parts = docs / "screens", [PAGE]
    screens.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as spool:
        office = Office(Path(folder), Path(spool))
        office.fill()
        with office.running():
            for command, sentence in SENTENCES.items():
                parts += section(office, screens, command, sentence)
        # No daemon runs any more.
        office.save()
        for command, sentence in CHANGES.items():
            parts += section(office, screens, command, sentence)
    (docs / "command-output.md").write_text("\n\n".join(parts).replace("\n\n\n", "\n\n") + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
