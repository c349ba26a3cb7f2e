"""Events as messages of systemd-journald, with fields that `journalctl` can match.

journald's native protocol: a datagram for each message. Source: systemd.io/JOURNAL_NATIVE_PROTOCOL.
emitterd uses no library: the one that needs no compiler waits without a limit if journald does not
read.
"""

import os
import socket
import stat
import struct
import time
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")

WAIT_S = 1.0
"""How long one line waits until journald reads."""

PAUSE_S = 10.0
"""After a line has waited without success, no line waits for this time."""

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
"""The fields of an event that become fields of journald: `EMITTERD_PATH` and so on."""

_CODES = uuid.UUID("1a4fea78-64d8-489e-b3c0-7c9e2106be9a")
"""The namespace of the message ids. Filters of administrators depend on it."""

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}

_SEND_BUFFER_BYTES = 8 * 1024 * 1024
_TIMEVAL = struct.Struct("@ll")
_LENGTH = struct.Struct("<Q")


def is_standard_output() -> bool:
    """Tell whether standard output is a stream to journald.

    $JOURNAL_STREAM names one stream, that of standard error if there are two: then a socket with
    another number is the other one. A file or a pipe is not a stream to journald: it gets the
    lines. Source: systemd.exec(5).
    """
    named = os.environ.get("JOURNAL_STREAM")
    try:
        output, error = os.fstat(1), os.fstat(2)
    except OSError:
        return False
    return stat.S_ISSOCK(output.st_mode) and any(
        named == f"{stream.st_dev}:{stream.st_ino}" for stream in (output, error)
    )


@cache
def message_id(code: str) -> str:
    """Return the MESSAGE_ID of an error code. The journal catalog has a text for each."""
    return uuid.uuid5(_CODES, code).hex


def message(line: str, event: Mapping[str, object]) -> bytes:
    """Return an event as journald takes it; `journalctl -o cat` prints the `line`."""
    fields = {
        "MESSAGE": line,
        "PRIORITY": _PRIORITIES[str(event["level"])],
        "SYSLOG_IDENTIFIER": "emitterd",
    }
    if "error" in event:
        fields["MESSAGE_ID"] = message_id(str(event["error"]))
    fields |= {f"EMITTERD_{name.upper()}": event[name] for name in FIELDS if name in event}
    return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, text: str) -> bytes:
    # As in the line, where JSON writes what is not Unicode as \udcNN.
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)


class Journald:
    """journald's socket, as an output of the log. One thread at a time."""

    def __init__(self, address: Path = SOCKET) -> None:
        self._address = str(address)
        self._wait_from = 0.0
        """No line waits before this monotonic time."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        # Python's timeout would poll, and a socket without a peer is always ready.
        wait = _TIMEVAL.pack(int(WAIT_S), int(WAIT_S % 1 * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)

    def write(self, line: str, event: Mapping[str, object]) -> None:
        """Send a message; wait at most `WAIT_S`, and once in `PAUSE_S`.

        Raises `OSError` if journald does not take it: a log that hangs must not stop the work. The
        kernel's limit of a message is some 200 KiB.
        """
        waits = time.monotonic() >= self._wait_from
        flags = 0 if waits else socket.MSG_DONTWAIT
        try:
            # By address each time: a new socket at this address is found.
            self._socket.sendto(message(line, event), flags, self._address)
        except BlockingIOError:
            if waits:
                self._wait_from = time.monotonic() + PAUSE_S
            raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
