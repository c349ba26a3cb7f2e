"""A web server in a thread of its own, and its clients."""

import http.client
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from emitterd.shutdown import Shutdown
from emitterd.web.endpoint import Endpoint
from emitterd.web.http_server import FORM_TYPE, HttpServer, Route
from support.waiting import wait_until

DEADLINE_S = 60.0
BOUNDARY = "----boundary7MA4YWxk"
FILE_FORM = f"multipart/form-data; boundary={BOUNDARY}"


def link_of(descriptor: Path) -> str:
    """Return what a descriptor is open to; nothing if it is closed by now."""
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def read_some(client: socket.socket) -> bytes:
    """Return what has come; nothing at the end, however the server ended it."""
    try:
        return client.recv(2**20)
    except ConnectionResetError:
        return b""


class Serving:
    """A listener that serves in a thread of its own."""

    def __init__(
        self,
        endpoint: Endpoint,
        routes: Sequence[Route],
        token: str | None = None,
        public_host: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.listener = HttpServer(endpoint, routes, token, public_host)
        self.shutdown = Shutdown()
        self.thread = threading.Thread(target=self.listener.run, args=(self.shutdown,))

    def connect(self) -> socket.socket:
        """Connect as any caller would, and keep the line."""
        endpoint = self.endpoint
        if endpoint.path is None:
            address = (endpoint.host, endpoint.port)
            return socket.create_connection(address, DEADLINE_S)
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(DEADLINE_S)
        try:
            caller.connect(str(endpoint.path))
        except OSError:
            caller.close()
            raise
        return caller

    def up(self) -> bool:
        """Return whether it can be connected to."""
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def is_open(self, client: socket.socket) -> bool:
        """Return whether the server has a connection of this client open."""
        port = client.getsockname()[1]
        rows = Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]
        inodes = {row.split()[9] for row in rows if row.split()[2].endswith(f"{port:04X}")}
        links = map(link_of, Path("/proc/self/fd").iterdir())
        return any(f"socket:[{inode}]" in link for link in links for inode in inodes)

    def say(self, request: str) -> bytes:
        """Send a request as it stands; return all that is answered."""
        with self.connect() as caller:
            caller.sendall(request.encode("latin-1"))
            return caller.makefile("rb").read()

    def get(
        self, path: str = "/", method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Ask; return status, headers and body."""
        return self.send(path, method, b"", **headers)

    def post(self, path: str, body: bytes, kind: str = FORM_TYPE) -> tuple[int, str]:
        """Send a body; return status and body of the answer."""
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        status, _, text = self.send(path, "POST", body, **headers)
        return status, text

    def send(
        self, path: str, method: str, body: bytes, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Send a request with a body; return status, headers and body of the answer."""
        with self.connect() as caller:
            lines = {"Host": "localhost", **headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            caller.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            with closing(http.client.HTTPResponse(caller, method=method)) as answer:
                answer.begin()
                return answer.status, answer.headers, answer.read().decode()


@contextmanager
def serving(
    endpoint: Endpoint, routes: Sequence[Route], token: str | None = None, public_host: str = ""
) -> Iterator[Serving]:
    """Serve until the end of the block, and see the thread end."""
    item = Serving(endpoint, routes, token, public_host)
    item.thread.start()
    try:
        wait_until(item.up, DEADLINE_S, "the listener")
        yield item
    finally:
        item.shutdown.drain(0.0)
        item.thread.join(DEADLINE_S)
        assert not item.thread.is_alive()


def file_form(data: bytes, name: str = "student_attendance.zip", **fields: str) -> bytes:
    """Return a form with a file as a browser sends it, the file last."""
    parts = [f'name="{key}"\r\n\r\n{text}\r\n'.encode() for key, text in fields.items()]
    kind = "\r\nContent-Type: application/zip\r\n\r\n"
    parts.append(f'name="file"; filename="{name}"{kind}'.encode() + data + b"\r\n")
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    return b"".join(head + part for part in parts) + f"--{BOUNDARY}--\r\n".encode()
