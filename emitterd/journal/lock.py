"""The lock beside a journal: one process at a time has it."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from emitterd.errors import JournalError, JournalFull, JournalLocked

WAIT_S = 2.0
"""A command that holds the journal for a moment must not end a daemon that starts."""

POLL_S = 0.05


class Lock:
    """The single-instance lock: a flock dies with its process, so none goes stale."""

    def __init__(self, journal: Path) -> None:
        """Take the lock beside a journal.

        Raises `JournalLocked` where another process has it, and `JournalError` where
        its file cannot be made.
        """
        path = journal.with_name(journal.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise JournalFull(f"cannot create {path}: its disk is full") from error
            raise JournalError(
                f"cannot create {path}: {error.strerror}",
                hint=f"give the daemon's user write permission on {path.parent}",
            ) from error
        try:
            self._take(time.monotonic() + WAIT_S)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise JournalLocked(
                f"{journal} is held by process {holder or 'unknown'}"
            ) from error
        # Who holds it is a courtesy, which a full disk may refuse.
        with suppress(OSError):
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def _take(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def close(self) -> None:
        """Let another process have it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
