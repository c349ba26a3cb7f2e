"""The way from the command line to a running daemon: a socket beside the journal.

One instruction a connection, a line of JSON each way, a thread for each caller: an act
on a whole state takes a while, and others must not wait for it. The daemon carries it
out on its own writing connection: a second writer is what SQLite before 3.51.3 may
lose a commit over ("WAL-reset bug"). Who asks is told by the kernel, not by the
caller.
"""

import os
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emitterd.journal.operations import OperationReport, OperationRequest
from emitterd.text import printable

LINE_MAX_BYTES = 16 * 1024 * 1024
ASK_S = 5.0
"""How long a caller may take to say what it wants."""

ANSWER_S = 600.0
"""How long a caller waits: an act on a whole state of a large journal takes a while."""

PAUSE_S = 1.0

_CREDENTIALS = struct.Struct("3i")

Obey = Callable[[OperationRequest, str], OperationReport]


class Control:
    """The daemon's end. `run` by a thread of its own, `stop` from any.

    `obey` is called in several threads at once, and must raise nothing.
    """

    def __init__(self, journal: Path, obey: Obey) -> None:
        """Listen at the journal's socket; `obey` gets instruction and user.

        The journal's lock must be held: what lies there of a dead process is removed.
        Raises `OSError` where no socket can be made there.
        """
        self._obey = obey
        self._stopping = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The mode that bind gives the name: there is no moment without it.
            os.fchmod(self._listener.fileno(), 0o600)
            with _address(journal) as address:
                with suppress(FileNotFoundError):
                    Path(address).unlink()
                self._listener.bind(address)
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise

    def run(self) -> None:
        """Take callers until `stop`; each is answered by a thread of its own."""
        with self._listener:
            while not self._stopping.is_set():
                self._next()

    def stop(self) -> None:
        """End `run` and take no more callers."""
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _next(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:
            # `stop` shuts the listener down; else descriptors ran out.
            self._stopping.wait(PAUSE_S)
            return
        threading.Thread(
            target=self._serve, args=(caller,), name="operator", daemon=True
        ).start()

    def _serve(self, caller: socket.socket) -> None:
        # Whoever goes away before the answer has had its instruction obeyed.
        with caller, suppress(OSError):
            try:
                instruction = OperationRequest.unpack(_line(caller, ASK_S))
            except ValueError as error:
                said = f"not understood: {error}"
                caller.sendall(OperationReport(0, (), said).pack())
                return
            outcome = self._obey(instruction, _user(caller, instruction))
            caller.settimeout(ANSWER_S)
            caller.sendall(outcome.pack())


def ask(journal: Path, instruction: OperationRequest) -> OperationReport | None:
    """Have the daemon that holds this journal obey; None where none listens.

    Raises `OSError` where it may not be asked, or does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(ASK_S)
        try:
            with _address(journal) as address:
                caller.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        caller.sendall(instruction.pack())
        line = _line(caller, ANSWER_S)
    try:
        return OperationReport.unpack(line)
    except ValueError as error:
        raise ConnectionError("the daemon ended before it answered") from error


def user_name(uid: int, sudo_user: str) -> str:
    """Return a user's name for the record: `root (asha)` where asha called sudo."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    behind = printable(sudo_user) if uid == 0 else ""
    return f"{name} ({behind})" if behind else name


@contextmanager
def _address(journal: Path) -> Iterator[str]:
    """Yield the socket's address: through a descriptor, as 107 bytes hold no path."""
    folder = os.open(journal.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{journal.name}.sock"
    finally:
        os.close(folder)


def _user(caller: socket.socket, instruction: OperationRequest) -> str:
    """Return who asks; the name behind a sudo is a claim, which root may make."""
    credentials = caller.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    return user_name(_CREDENTIALS.unpack(credentials)[1], instruction.sudo_user)


def _line(peer: socket.socket, limit_s: float) -> bytes:
    """Return a line, or what came of it; raises `ValueError` where it is too long.

    Raises `TimeoutError` where it is not there in time, however it drips.
    """
    said, deadline = bytearray(), time.monotonic() + limit_s
    while not said.endswith(b"\n"):
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = peer.recv(65536)
        if not chunk:
            break
        said += chunk
        if len(said) > LINE_MAX_BYTES:
            raise ValueError("it is too long")
    return bytes(said)
