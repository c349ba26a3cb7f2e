"""Events as messages of systemd-journald, with fields that `journalctl` can match.

journald's native protocol: a datagram a message; what is too large for one goes as a
sealed memory file. Source: systemd.io/JOURNAL_NATIVE_PROTOCOL. Own code, as the library
that needs no compiler waits without an end where journald does not read.
"""

import array
import atexit
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")

WAIT_S = 1.0
"""How long one line waits for journald to take it, on either way to it."""

PAUSE_S = 10.0
"""How long no line waits on a way after one has waited there in vain."""

FIELDS = (
    "event",
    "path",
    "error",
    "key",
    "sha256",
    "etag",
    "attempt",
    "moved_to",
    "act",
    "user",
    "thread",
)
"""What of an event is a field of its own, `EMITTERD_PATH` and so on."""

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}

_SEND_BUFFER_BYTES = 8 * 1024 * 1024
_TIMEVAL = struct.Struct("@ll")
_LENGTH = struct.Struct("<Q")

# <linux/fcntl.h>; not every build of Python has the names.
_F_ADD_SEALS = 1033
_F_SEAL_ALL = 0b1111


def is_standard_output() -> bool:
    """Tell whether standard output is a stream to journald.

    $JOURNAL_STREAM names one stream, that of standard error where there are two: then
    a socket beside it is the other. A file or a pipe is not a stream to journald: it
    gets the lines. Source: systemd.exec(5).
    """
    told = os.environ.get("JOURNAL_STREAM")
    try:
        output, error = os.fstat(1), os.fstat(2)
    except OSError:
        return False
    return stat.S_ISSOCK(output.st_mode) and any(
        told == f"{stream.st_dev}:{stream.st_ino}" for stream in (output, error)
    )


def message(line: str, event: Mapping[str, object]) -> bytes:
    """Return an event as journald takes it; `journalctl -o cat` prints the `line`."""
    fields = {
        "MESSAGE": line,
        "PRIORITY": _PRIORITIES[str(event["level"])],
        "SYSLOG_IDENTIFIER": "emitterd",
    }
    fields |= {
        f"EMITTERD_{name.upper()}": event[name] for name in FIELDS if name in event
    }
    return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, text: str) -> bytes:
    # As in the line, where JSON writes what is not Unicode as \udcNN.
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)


class WriteBudget:
    """How long a line may wait: a log that hangs must not stop the work."""

    def __init__(self) -> None:
        self._from = 0.0

    def left_s(self) -> float:
        """Return the longest wait, in seconds: `WAIT_S` or 0."""
        return WAIT_S if time.monotonic() >= self._from else 0.0

    def spend(self) -> None:
        """Record that a wait did not help."""
        self._from = time.monotonic() + PAUSE_S


class Journald:
    """Sends messages to journald's socket. Thread-safe, without a lock."""

    def __init__(self, address: Path = SOCKET) -> None:
        self._address = str(address)
        self._socket = _socket()
        self._budget = WriteBudget()

    def send(self, data: bytes) -> bool:
        """Send a message, within the budget; return whether journald has it."""
        waits = self._budget.left_s() > 0
        try:
            self._send(data, 0 if waits else socket.MSG_DONTWAIT)
        except BlockingIOError:
            if waits:
                self._budget.spend()
            return False
        except OSError:
            return False
        return True

    def _send(self, data: bytes, flags: int) -> None:
        try:
            # By address each time: a new socket at this address is found.
            self._socket.sendto(data, flags, self._address)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_sealed(data, flags)

    def _send_sealed(self, data: bytes, flags: int) -> None:
        memory = os.memfd_create("emitterd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(memory, "wb") as file:  # noqa: PTH123  a descriptor has no path
            file.write(data)
            file.flush()
            fcntl.fcntl(memory, _F_ADD_SEALS, _F_SEAL_ALL)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
            self._socket.sendmsg([], [rights], flags, self._address)


@cache
def _socket() -> socket.socket:
    """Return the process's socket, open to its end: a thread may be sending."""
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    atexit.register(out.close)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    seconds, fraction = divmod(WAIT_S, 1)
    wait = _TIMEVAL.pack(int(seconds), int(fraction * 1_000_000))
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    return out
