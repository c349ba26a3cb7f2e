"""Runs a command on a pseudo terminal of a given size, and returns what it shows."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

LINES = 50


def shown_on_terminal(
    command: Sequence[str | Path],
    columns: int,
    *,
    environment: Mapping[str, str],
    lines: int = LINES,
    signals: Mapping[str, signal.Signals | str] | None = None,
    timeout_s: float = 60.0,
) -> tuple[int, str]:
    """Run a command; return its exit code and all it prints, with the codes of colours.

    It gets each of `signals`, in their order, when it has printed the text before it. A text among
    them is typed.
    """
    due = list((signals or {}).items())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    unwanted = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"}
    known = {name: value for name, value in environment.items() if name not in unwanted}
    with os.fdopen(ours, "rb", buffering=0) as screen:
        try:
            process = subprocess.Popen(  # noqa: S603  our own command line
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                # Else getpass would ask at the terminal of the person who runs this.
                start_new_session=any(isinstance(keys, str) for _, keys in due),
                env={"TERM": "xterm-256color"} | known,
            )
        finally:
            os.close(theirs)
        output = b""
        try:
            while part := screen.read(1 << 16):
                output += part
                if due and due[0][0].encode() in output:
                    match due.pop(0)[1]:
                        case signal.Signals() as number:
                            process.send_signal(number)
                        case keys:
                            os.write(ours, str(keys).encode())
        except OSError:
            # Nobody has the other end open any more.
            pass
        code = process.wait(timeout_s)
    return code, output.decode().replace("\r\n", "\n")
