"""The HTTP listener: serves WSGI applications to monitoring and to people's browsers.

For reading only, a connection a request. Few threads, and a limit on each connection:
an application must not keep an answer open. Who may ask: on a Unix socket whoever
may open it; on a loopback address everybody here, but no page of another site, which
could reach it under a name of its own (DNS rebinding); elsewhere who has the token.
"""

import base64
import hmac
import io
import ipaddress
import os
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit
from wsgiref.handlers import SimpleHandler
from wsgiref.types import WSGIApplication

import structlog

from emitterd.monitoring.endpoint import Endpoint
from emitterd.shutdown import Shutdown
from emitterd.text import printable

THREADS = 8
"""So many are answered at a time; the others wait to be accepted."""

SILENCE_S = 5.0
"""How long a caller may be silent, and an answer wait to be taken."""

DEADLINE_S = 15.0
"""How long a connection may last, however it drips."""

RETRY_S = 30.0
"""How often an address that could not be had is asked for again."""

POLL_S = 0.25
FULL_S = 0.02
PAUSE_S = 1.0
SOCKET_MODE = 0o660

log = structlog.get_logger()


class Listener:
    """Serves applications by path; `/` has what no other has. `run` by a thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        mounts: Mapping[str, WSGIApplication],
        token: str | None,
    ) -> None:
        """`token`: what a caller must show, or None where the endpoint is local."""
        self._endpoint = endpoint
        self._mounts = mounts
        self._token = token
        self._told = False

    def run(self, shutdown: Shutdown) -> None:
        """Serve until the daemon drains; cut off what is being answered then.

        An address that is taken is tried again and again.
        """
        while not shutdown.draining:
            try:
                server = _Server(self._endpoint, self._mounts, self._token)
            except OSError as error:
                self._unserved(error)
                shutdown.wait_for_drain(RETRY_S)
                continue
            self._told = False
            log.info("metrics.served", address=str(self._endpoint))
            with server:
                server.serve_until(shutdown)

    def _unserved(self, error: OSError) -> None:
        if not self._told:
            log.error(
                "metrics.unserved",
                address=str(self._endpoint),
                reason=error.strerror or str(error),
                hint="free the address, or name another in metrics.listen; deliveries"
                " go on, and it is tried again",
            )
        self._told = True


class _Server(socketserver.TCPServer):
    """Accepts callers, each for a thread of its own; used by one thread."""

    allow_reuse_address = True
    request_queue_size = 64
    timeout = POLL_S

    def __init__(
        self,
        endpoint: Endpoint,
        mounts: Mapping[str, WSGIApplication],
        token: str | None,
    ) -> None:
        self.endpoint = endpoint
        self.mounts = mounts
        self.token = token
        self.address_family, address = endpoint.resolve()
        self._lock = threading.Lock()
        self._callers: dict[socket.socket, float] = {}
        self._made: Path | None = None
        super().__init__(address, _RequestHandler)  # type: ignore[arg-type]  # or a path

    def server_bind(self) -> None:
        path = self.endpoint.path
        if path is None:
            super().server_bind()
            return
        _remove_stale(path)
        super().server_bind()
        self._made = path
        path.chmod(SOCKET_MODE)

    def server_close(self) -> None:
        super().server_close()
        if self._made is not None:
            self._made.unlink(missing_ok=True)

    def serve_until(self, shutdown: Shutdown) -> None:
        while not shutdown.draining:
            self._cut_off(time.monotonic() - DEADLINE_S)
            if len(self._callers) < THREADS:
                self.handle_request()
            else:
                shutdown.wait_for_drain(FULL_S)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Descriptors ran out, and whoever waits still waits.
            time.sleep(PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as inherited
        with self._lock:
            self._callers[request] = time.monotonic()
        threading.Thread(
            target=self._serve,
            args=(request, client_address),
            name="http",
            daemon=True,
        ).start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            # Whoever goes away, or is cut off, misses the answer.
            with suppress(OSError):
                self.finish_request(request, client_address)
        finally:
            with self._lock:
                del self._callers[request]
            self.shutdown_request(request)

    def _cut_off(self, before: float) -> None:
        with self._lock:
            for caller, since in self._callers.items():
                if since < before:
                    with suppress(OSError):
                        caller.shutdown(socket.SHUT_RDWR)


def probe(endpoint: Endpoint) -> None:
    """Listen for a moment, and no longer. Raises `OSError` where that cannot be."""
    _Server(endpoint, {}, None).server_close()


class _RequestHandler(BaseHTTPRequestHandler):
    """One request: is it one that may be asked here, and which application has it."""

    server: _Server
    timeout = SILENCE_S
    server_version = "emitterd"
    sys_version = ""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.command not in {"GET", "HEAD"}:
            words = "emitterd is only looked at here: GET or HEAD"
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, words, Allow="GET, HEAD")
            return False
        token = self.server.token
        if token is not None:
            if not shows(self.headers.get("Authorization", ""), token):
                challenge = 'Basic realm="emitterd", charset="UTF-8"'
                words = "the token is missing or wrong (metrics.token_file): give it as"
                words += " a bearer token, or as the password of any user"
                self._refuse(
                    HTTPStatus.UNAUTHORIZED, words, **{"WWW-Authenticate": challenge}
                )
                return False
        elif not (self.server.endpoint.path or is_own(self.headers.get("Host", ""))):
            words = "ask by address, such as 127.0.0.1, or as localhost"
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, words)
            return False
        return True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        path = unquote(path, "latin-1")
        mounts = self.server.mounts
        application = mounts.get(path) or mounts.get("/")
        if application is None:
            words = f"not here; there is: {' '.join(sorted(mounts))}"
            self._refuse(HTTPStatus.NOT_FOUND, words)
            return
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": self.server.endpoint.host or "localhost",
            "SERVER_PORT": str(self.server.endpoint.port),
            "SERVER_PROTOCOL": self.request_version,
        }
        for name, value in self.headers.items():
            if name.lower() != "authorization":
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        _ResponseWriter(self.wfile, environ).run(application)

    do_HEAD = do_GET  # noqa: N815  as http.server calls it

    def send_error(self, code: int, *_: object, **__: object) -> None:
        # What came from outside, which http.server would quote, is left out.
        self._refuse(HTTPStatus(code), HTTPStatus(code).description)

    def _refuse(self, status: HTTPStatus, words: str, **headers: str) -> None:
        body = f"{words}\n".encode()
        self.send_response(status)
        standard = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        for name, value in (standard | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape every few seconds is no event."""


class _ResponseWriter(SimpleHandler):
    """Runs an application; what it fails of is logged, and answered by 500."""

    # Of the process's environment, which may hold secrets, nothing is handed on.
    os_environ: dict[str, str] = {}  # noqa: RUF012  as inherited

    def __init__(self, out: Any, environ: dict[str, str]) -> None:  # noqa: ANN401
        super().__init__(io.BytesIO(), out, io.StringIO(), environ)

    def write(self, data: bytes) -> None:
        """Write a part of the body, and the headers before the first."""
        if self.base_env["REQUEST_METHOD"] != "HEAD":
            super().write(data)
        elif not self.headers_sent:  # type: ignore[attr-defined]  # documented
            self.bytes_sent = len(data)
            self.send_headers()

    def log_exception(
        self,
        exc_info: tuple[type[BaseException], BaseException, TracebackType]
        | tuple[None, None, None],
    ) -> None:
        """Log what an application failed of, unless it is that nobody listens."""
        if not isinstance(exc_info[1], OSError):
            path = printable(self.base_env["PATH_INFO"])
            log.error("metrics.failed", path=path, exc_info=exc_info)


def shows(authorization: str, token: str) -> bool:
    """Tell whether a header shows the token: as Bearer, or as Basic's password."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())


def is_own(host: str) -> bool:
    """Tell whether a Host header is one that no other site can have.

    A name could lead here by DNS, an address cannot; without the header it is no
    browser that asks.
    """
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return host == "" or name == "localhost"
    return True


def _remove_stale(path: Path) -> None:
    """Remove the socket that a dead process left; a living one keeps its own."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(PAUSE_S)
            try:
                caller.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
