"""The control socket: how an operator command reaches a running daemon.

It is in the folder of the journal. A connection carries one request and one report, each a line of
JSON, or a question and its answer. Each caller has a thread, because an operation on a whole state
takes a while and other callers must not wait for it. The daemon carries it out on its own writing
connection: with a second writer SQLite before 3.51.3 may lose a commit ("WAL-reset bug"). The user
of the caller comes from the kernel, not from the caller.
"""

import json
import os
import pwd
import socket
import socketserver
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emitterd.errors import JournalError
from emitterd.journal.operations import OperationReport, OperationRequest
from emitterd.shutdown import Shutdown
from emitterd.text import printable

LINE_MAX_BYTES = 16 * 1024 * 1024
REQUEST_S = 5.0
"""How long a caller may take to send its request."""

ANSWER_S = 600.0
"""How long a caller waits: an operation on a whole state of a large journal is slow."""

PAUSE_S = 1.0
_END = b"null\n"
"""The last line of an answer."""

_CREDENTIALS = struct.Struct("3i")

Handler = Callable[[OperationRequest, str], OperationReport]

Record = dict[str, Any]
_Request = socket.socket | tuple[bytes, socket.socket]
Answer = Callable[[str, bytes], Iterator[Record]]
"""Answers a question about a path, or about the whole folder."""


class ControlServer(socketserver.ThreadingUnixStreamServer):
    """The daemon's end of the socket. It answers each caller in a thread of its own.

    `handler` gets the request and the user's name, `answer` a question. Several threads call them
    at once, and they must not raise.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, journal: Path, handler: Handler, shutdown: Shutdown, answer: Answer | None = None
    ) -> None:
        """Listen in the folder of the journal, whose lock the caller must hold.

        A socket that a dead process left there is removed. Raises `OSError` if no socket can be
        made.
        """
        self.handler, self.answer = handler, answer
        self._shutdown = shutdown
        with _address(journal) as address:
            super().__init__(address, _CallerHandler)
        shutdown.on_drain(self._wake)

    def run(self) -> None:
        """Answer callers until the daemon drains."""
        with self:
            while not self._shutdown.draining:
                self.handle_request()

    def server_bind(self) -> None:
        """Bind the address, also if a dead process left its socket there."""
        # The file gets its mode at the bind: it never exists with another one.
        os.fchmod(self.fileno(), 0o600)
        with suppress(FileNotFoundError):
            Path(str(self.server_address)).unlink()
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a caller."""
        try:
            return super().get_request()
        except OSError:
            # The drain shut the socket down, or descriptors ran out.
            self._shutdown.wait_for_drain(PAUSE_S)
            raise

    def process_request(self, request: _Request, client_address: object) -> None:
        """Answer in a thread of its own, or in this one if no other can be started."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self.process_request_thread(request, client_address)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Log a bug: it concerns one caller only."""
        # Not at the top: the commands that ask load this module too.
        import structlog  # noqa: PLC0415

        log = structlog.get_logger()
        log.error("operator.failed", exc_info=sys.exception())

    def _wake(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _CallerHandler(socketserver.BaseRequestHandler):
    """Answers one caller."""

    server: ControlServer
    request: socket.socket

    def handle(self) -> None:
        # The request is carried out even if the caller does not wait for the answer.
        with suppress(OSError, JournalError):
            try:
                line = _read_line(self.request, REQUEST_S)
            except ValueError as error:
                self.request.sendall(OperationReport(0, (), f"not understood: {error}").pack())
                return
            question, answer = _question(line), self.server.answer
            if question is None or answer is None:
                self.request.sendall(self._report(line).pack())
                return
            self.request.settimeout(ANSWER_S)
            for record in answer(*question):
                self.request.sendall(json.dumps(record).encode() + b"\n")
            self.request.sendall(_END)

    def _report(self, line: bytes) -> OperationReport:
        try:
            request = OperationRequest.unpack(line)
        except ValueError as error:
            return OperationReport(0, (), f"not understood: {error}")
        report = self.server.handler(request, _user(self.request, request))
        self.request.settimeout(ANSWER_S)
        return report


def send_request(journal: Path, request: OperationRequest) -> OperationReport | None:
    """Have the daemon that holds this journal carry out a request.

    Return None if no daemon listens. Raises `OSError` if the caller may not connect, or the daemon
    does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REQUEST_S)
        try:
            with _address(journal) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        connection.sendall(request.pack())
        line = _read_line(connection, ANSWER_S)
    try:
        return OperationReport.unpack(line)
    except ValueError as error:
        raise ConnectionError("the daemon ended before it answered") from error


def ask_once(
    journal: Path, question: str, path: bytes = b"", *, timeout_s: float = ANSWER_S
) -> Record | None:
    """Ask the daemon, and return the first record, or None if there is no answer in time."""
    try:
        return next(ask(journal, question, path, timeout_s=timeout_s) or iter(()), None)
    except OSError:
        return None


def ask(
    journal: Path, question: str, path: bytes = b"", *, timeout_s: float = ANSWER_S
) -> Iterator[Record] | None:
    """Ask the daemon that holds this journal; return its answer, record by record.

    Return None if no daemon listens that answers this caller. The iterator raises `OSError` if the
    daemon ends before its answer does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _address(journal) as address:
            connection.connect(address)
        message = {"question": question, "path": os.fsdecode(path)}
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        connection.close()
        return None
    return _records(connection)


def _records(connection: socket.socket) -> Iterator[Record]:
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            if line == _END:
                return
            yield json.loads(line)
    raise ConnectionError("the daemon ended before it answered")


def _question(line: bytes) -> tuple[str, bytes] | None:
    try:
        message = json.loads(line)
        return str(message["question"]), os.fsencode(message["path"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def user_name(uid: int, sudo_user: str = "") -> str:
    """Return a user's name for the record: `root (asha)` if asha called sudo."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    caller = printable(sudo_user) if uid == 0 else ""
    return f"{name} ({caller})" if caller else name


@contextmanager
def _address(journal: Path) -> Iterator[str]:
    # Through a descriptor: an address has 107 bytes, and a path may be longer.
    folder = os.open(journal.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{journal.name}.sock"
    finally:
        os.close(folder)


def _user(caller: socket.socket, request: OperationRequest) -> str:
    # The kernel names the user. Root acts as the daemon's user, who may change the record anyway.
    credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(credentials)[1]
    believed = printable(request.caller) if uid in {0, os.geteuid()} else ""
    return believed or user_name(uid)


def _read_line(peer: socket.socket, limit_s: float) -> bytes:
    """Read a line, or less if the peer closes early.

    Raises `ValueError` if it is too long, and `TimeoutError` if it is not complete within `limit_s`
    seconds, even if single bytes arrive.
    """
    line, deadline = bytearray(), time.monotonic() + limit_s
    while not line.endswith(b"\n"):
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = peer.recv(65536)
        if not chunk:
            break
        line += chunk
        if len(line) > LINE_MAX_BYTES:
            raise ValueError("it is too long")
    return bytes(line)
