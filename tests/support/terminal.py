"""A command on a terminal, and what a person sees there."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyte

LINES = 200
"""So many that nothing is scrolled away."""

_FORCING = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"}


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
    **extra: str,
) -> Shown:
    """Run a command on a terminal to its end; `extra` are variables of its environment.

    It gets each of `signals`, in their order, when it has written the text before it.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    plain = {name: value for name, value in environment.items() if name not in _FORCING}
    process = subprocess.Popen(  # noqa: S603  our own argument list
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=plain | {"TERM": "xterm", "LANG": "C.UTF-8"} | extra,
    )
    os.close(theirs)
    written, due = "", list((signals or {}).items())
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(1 << 16):
                written += part.decode("utf-8", "replace")
                if due and due[0][0] in written:
                    process.send_signal(due.pop(0)[1])
        except OSError:
            # The last process on the terminal has ended.
            pass
    screen = pyte.Screen(columns, LINES)
    pyte.Stream(screen).feed(written)
    lines = [line.rstrip() for line in screen.display]
    return Shown(process.wait(), written, lines[: screen.cursor.y])
