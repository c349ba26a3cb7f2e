"""Pictures of the commands, on terminals of 80 and 120 columns, and their text in a pipe.

`python -m tools.screenshots docs` writes docs/command-output.md, and an SVG of each picture into
docs/screens/. They are of the imaginary office of `tools.office`. Only root can make those of
`service install`; for others, they stay as they are.
"""

import io
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tools.office import Events, Office
from tools.scratch import ROOT, is_possible

WIDTHS = (80, 120)
SCREEN_LINES = 200

SENTENCES = {
    "status": "The health comes first, each alarm with what to do. Then come counts above zero.",
    "list": "Each file has its state, its size, a time and its problem. The time is when a file was"
    " delivered or rejected, since when it waits, or when emitterd tries again.",
    "list pat/ --sort=-size --limit 2": "Patterns, an order and a limit choose.",
    "list --skipped": "Files of the folder that emitterd does not send.",
    "explain semester_exam_mst.zip": "A name without its folder is searched.",
    "hosts": "Here the journal is a file, so there are no hosts.",
    "receipts": "The proof of delivery. `--wide` adds keys and digests.",
    "inspect semester_exam_mst.zip": "For the person who makes a file, before it is sent.",
    "check": "The findings come first, then their number. `--verbose` adds the settings.",
    "completion bash": "The shell asks emitterd what can follow a word.",
    "schema": "Editors use it to check `emitter.yaml`. These are the first lines.",
    "explain-error E501": "What a code means, and what to do.",
}
CHANGES = {
    "run": "On a terminal the log has one short line an event, in a pipe JSON. Ctrl-C ends it.",
    "once": "emitterd sends one file. The other one was rejected before.",
    "retry --all --state rejected": "emitterd examines all rejected files again.",
    "hold pat/periodic_exam_qst_mst.zip": "emitterd does not send a held file.",
    "release pat/periodic_exam_qst_mst.zip": "emitterd sends the file that was held.",
    "forget district_master/district_mst.zip": "emitterd sends the file again.",
    "mark-delivered pat": "All files of a folder count as delivered, and are not sent.",
    "rebuild": "A page of the journal is damaged. emitterd saves the entries.",
    "set-password": "The password is asked for, and not shown. In a pipe it is the first line.",
    "set-api-key": "The same for the API key of cQube 1.7 and later.",
    "init cqube_emission --output office.yaml": "Without root rights, for a first try.",
    "operator add asha": "The password is not shown.",
    "notify-test": "Here, a program is told about alarms.",
    "rehearse": "The server runs until Ctrl-C.",
    "demo": "Some files have mistakes on purpose.",
}
"""Commands that change something. Each finds the office as it is before all of them."""

INSTALLATION = {"service install": "As root, on a machine without emitterd."}
"""Commands that change the machine: see `tools.scratch`."""

TYPED: dict[str, Events] = {
    "run": {"daemon.ready": signal.SIGINT},
    "rehearse": {"allow_insecure_http": signal.SIGINT},
    "set-password": {"password: ": "rehearsal\r", "password again: ": "rehearsal\r"},
    "set-api-key": {"API key: ": "rehearsal\r", "API key again: ": "rehearsal\r"},
    "operator add asha": {
        "password: ": "three plain words\r",
        "password again: ": "three plain words\r",
    },
}
"""What a person types at each text, and the signal of Ctrl-C."""

LONG = {"schema": 20}
"""Commands of which the first lines are shown."""

PAGE = """\
# Output of the commands

<!-- Made by `python -m tools.screenshots docs`. -->

On a terminal each line fits. In a pipe or a file, lines are whole and have no colour, and the times
are absolute. `--json` prints data.
"""


def picture(command: str, text: str, columns: int) -> str:
    """Return the SVG of a terminal."""
    console = Console(record=True, file=io.StringIO(), width=columns, force_terminal=True)
    for line in _lines(text, columns):
        console.print(line, no_wrap=True, crop=False, overflow="ignore")
    svg = console.export_svg(title=f"emitterd {command}", unique_id=name_of(command, columns))
    # The reader's own font: the page loads nothing from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def _lines(text: str, columns: int) -> Iterator[Text]:
    """Yield the lines that are left on a terminal, as wide as it is."""
    if not re.search(r"\x1b\[[^m]*[^m\d;]|\r", text):
        for line in Text.from_ansi(text.rstrip("\n")).split(allow_blank=True):
            # As a terminal does, and not between words.
            yield from line.divide(range(columns, len(line), columns))
        return
    screen = pyte.Screen(columns, SCREEN_LINES)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    for row in range(screen.cursor.y):
        line = Text()
        for cell in (screen.buffer[row][column] for column in range(columns)):
            colour = {"default": None, "brown": "yellow"}.get(cell.fg, cell.fg)
            line.append(cell.data, Style(color=colour, bold=cell.bold))
        line.rstrip()
        yield line


def section(office: Office, screens: Path, command: str, sentence: str) -> Iterator[str]:
    """Make the pictures of a command, and yield the parts of its section."""
    yield f"## emitterd {command}"
    yield sentence
    events = TYPED.get(command, {})
    for columns in WIDTHS:
        name = f"{name_of(command, columns)}.svg"
        with office.ready_for(command):
            text = _beginning(command, office.shown(command, columns, events))
        (screens / name).write_text(picture(command, text, columns), "utf-8")
        yield f"![{command}, {columns} columns](screens/{name})"
    with office.ready_for(command):
        text = _beginning(command, office.piped(command, events))
    yield f"In a pipe:\n\n```text\n{text}```"


def kept_section(screens: Path, command: str) -> Iterator[str]:
    """Keep the pictures that the documentation has of a command, and yield its section."""
    page = (ROOT / "docs" / "command-output.md").read_text("utf-8")
    text = page.partition(f"## emitterd {command}\n")[2].partition("\n## ")[0]
    for columns in WIDTHS:
        kept = ROOT / "docs" / "screens" / f"{name_of(command, columns)}.svg"
        if kept.parent.resolve() != screens.resolve():
            shutil.copy(kept, screens)
    yield f"## emitterd {command}\n{text.rstrip()}"


def _beginning(command: str, text: str) -> str:
    return "".join(text.splitlines(keepends=True)[: LONG.get(command)])


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
        possible = is_possible()
        for command, sentence in INSTALLATION.items():
            parts += (
                section(office, screens, command, sentence)
                if possible
                else kept_section(screens, command)
            )
    (docs / "command-output.md").write_text("\n\n".join(parts).replace("\n\n\n", "\n\n") + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
