"""What a person sees of a command on a terminal."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyte

from tools.terminal import shown_on_terminal

LINES = 200
"""So many that nothing is scrolled away."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The exit code, all that was written, and the lines that are left on the screen."""

    code: int
    written: str
    lines: list[str]


def on_terminal(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    columns: int = 80,
    signals: Mapping[str, signal.Signals] | None = None,
) -> Shown:
    """Run a command on a terminal as `shown_on_terminal` does."""
    code, written = shown_on_terminal(
        command, columns, environment=environment, lines=LINES, signals=signals
    )
    screen = pyte.Screen(columns, LINES)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    lines = [line.rstrip() for line in screen.display]
    return Shown(code, written, lines[: screen.cursor.y])
