"""A program on a terminal of its own, typed at as a person does."""

import os
import pty
import select
import subprocess
import time

DEADLINE_S = 60.0


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command: str, env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._shell = subprocess.Popen(  # noqa: S603  our own argument list
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
        )
        os.close(theirs)
        self._screen = ""
        self.shown = ""
        """All that was on the screen so far."""

    def type(self, keys: str, expected: str) -> None:
        """Type keys, and wait until the screen shows what is expected since then."""
        self._screen = ""
        os.write(self._ours, keys.encode())
        end = time.monotonic() + DEADLINE_S
        while expected not in self._screen:
            left_s = end - time.monotonic()
            if not select.select([self._ours], [], [], max(0.0, left_s))[0]:
                raise AssertionError(f"no {expected!r} in {self._screen!r}")
            read = os.read(self._ours, 65536).decode("utf-8", "replace")
            self._screen += read
            self.shown += read

    def close(self) -> None:
        """End the program."""
        self._shell.kill()
        self._shell.wait(DEADLINE_S)
        os.close(self._ours)

    def wait(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        return self._shell.wait(DEADLINE_S)
