"""HTTP clients with short limits, and raw servers for them to talk to.

The servers and the proxy listen on loopback. They can misbehave in ways that no web
framework would. The certificates are made for each test.
"""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import pytest

from emitterd.client.body import MayFinish
from emitterd.client.http import HttpClient, Response, tls_context
from emitterd.client.presigned.client import PresignedClient
from emitterd.client.session import Credentials, LockoutStore
from emitterd.client.sockets import TransferLimits
from emitterd.model import Fingerprint, Grant, Receipt
from emitterd.rehearsal.server import RehearsalServer, RequestRecord
from emitterd.shutdown import Shutdown

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
PATIENT = TransferLimits(connect_s=10.0, stall_s=20.0, minimum_bytes_s=1)
PLAIN_TLS = tls_context(None, None, None)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Heard(NamedTuple):
    """One request as it came in; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Listener:
    """A server of bare sockets: `serve` has each connection in a thread of its own.

    `over` is set when the test ends: what `serve` waits on. `heard` is filled by
    `hear`, `lines` counts the connections.
    """

    def __init__(
        self, serve: Callable[["Listener", socket.socket], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.over = threading.Event()
        self.heard: list[Heard] = []
        self.lines = 0
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server((LOOPBACK, 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{LOOPBACK}:{self.port}/"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(30)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(30)
        for connection in self._connections:
            connection.close()

    def hear(self, connection: socket.socket) -> Heard | None:
        """Return the next whole request on this connection, or None at its end."""
        text = b""
        while b"\r\n\r\n" not in text:
            part = connection.recv(65536)
            if not part:
                return None
            text += part
        head, _, body = text.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        whole = bytearray(body)
        while len(whole) < int(headers.get("content-length", "0")):
            part = connection.recv(65536)
            if not part:
                return None
            whole += part
        self.heard.append(Heard(line, headers, bytes(whole)))
        return self.heard[-1]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.lines += 1
            self._connections.append(connection)
            thread = threading.Thread(target=self._guarded, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _guarded(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            self._serve(self, connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def answering(*answers: bytes) -> Callable[[Listener, socket.socket], None]:
    """Send one answer after the other on each connection, then repeat the last answer."""

    def serve(listener: Listener, connection: socket.socket) -> None:
        answers_left = list(answers)
        while request := listener.hear(connection):
            connection.sendall(answers_left.pop(0) if len(answers_left) > 1 else answers_left[0])
            if request.headers.get("connection") == "close":
                return

    return serve


def proxying(
    upstream: int, refusal: bytes | None = None
) -> Callable[[Listener, socket.socket], None]:
    """Serve as a proxy that connects to this port for every request."""

    def serve(listener: Listener, connection: socket.socket) -> None:
        request = listener.hear(connection)
        if request is None:
            return
        if refusal is not None:
            connection.sendall(refusal)
            return
        with socket.create_connection((LOOPBACK, upstream)) as further:
            if request.line.startswith("CONNECT "):
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(further, connection))
                back.start()
                _pump(connection, further)
                back.join(30)
                return
            further.sendall(_onward(request))
            _pump(further, connection)

    return serve


def _onward(request: Heard) -> bytes:
    method, target, version = request.line.split(" ")
    path = "/" + target.split("/", 3)[3]
    headers = {**request.headers, "connection": "close"}
    lines = [f"{method} {path} {version}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_to(server: RehearsalServer) -> Iterator[Listener]:
    """Run a proxy that takes everything to the rehearsal server."""
    with Listener(proxying(server.port)) as proxy:
        yield proxy


def need_localhost() -> None:
    """Skip the test where the name localhost has no address, as without /etc/hosts."""
    try:
        socket.getaddrinfo("localhost", None, socket.AF_INET)
    except socket.gaierror:
        pytest.skip(
            "Debian package libnss-myhostname is missing: localhost has no address, and"
            " is not in /etc/hosts"
        )


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port whose backlog is full: a connection's first packet is dropped."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((LOOPBACK, 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  socket's own signature
            with suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield full.getsockname()[1]


@contextmanager
def http_client(
    limits: TransferLimits = PATIENT,
    *,
    tls: ssl.SSLContext = PLAIN_TLS,
    proxy: str | None = None,
    shutdown: Shutdown | None = None,
) -> Iterator[HttpClient]:
    """Open an HTTP client for a test."""
    client = HttpClient(limits, tls=tls, proxy=proxy, shutdown=shutdown or Shutdown())
    try:
        yield client
    finally:
        client.close()


def post(client: HttpClient, url: str, content: bytes = b"{}", limit: int = 65536) -> Response:
    """Post a small body."""
    return client.request("POST", url, {}, content, limit_bytes=limit)


class Identity(NamedTuple):
    """A certificate that signs itself, and its key."""

    certificate: str
    key: str

    def server_context(self) -> ssl.SSLContext:
        """Return a context for a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_identity(
    directory: Path,
    name: str,
    *,
    days: int = 2,
    host: str = f"IP:{LOOPBACK}",
    issuer: Identity | None = None,
) -> Identity:
    """Make a certificate for a host with the openssl command.

    `days`: how long it holds; below none it has expired. Without an `issuer` it signs
    itself.
    """
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    identity = Identity(str(certificate), str(key))
    options = f"-pkeyopt ec_paramgen_curve:prime256v1 -addext subjectAltName={host}"
    _openssl(
        *f"req -x509 -nodes -newkey ec {options} -subj /CN={name}".split(),
        *("-days", str(abs(days)), "-keyout", identity.key, "-out", identity.certificate),
    )
    if issuer:
        _openssl(
            *("x509", "-in", identity.certificate, "-out", identity.certificate),
            *("-days", str(days), "-CA", issuer.certificate, "-CAkey", issuer.key),
        )
    if days < 0:
        _expire(identity, directory, host)
    return identity


def _expire(identity: Identity, directory: Path, host: str) -> None:
    """Sign a certificate again, with an end in the past.

    From OpenSSL 3.5 on only its `ca` command makes such a certificate. Its names for
    the dates are those that OpenSSL 3.0 knows too.
    """
    config, request = directory / "ca.conf", directory / "request.pem"
    config.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={directory}/issued\n"
        f"new_certs_dir={directory}\npolicy=names\ndefault_md=sha256\nrand_serial=yes\n"
        "x509_extensions=extensions\n[names]\ncommonName=supplied\n"
        f"[extensions]\nbasicConstraints=CA:true\nsubjectAltName={host}\n"
    )
    (directory / "issued").touch()
    _openssl(
        *("x509", "-x509toreq", "-in", identity.certificate, "-out", str(request)),
        *("-signkey", identity.key),
    )
    _openssl(
        *("ca", "-batch", "-selfsign", "-notext"),
        *("-config", str(config), "-keyfile", identity.key, "-in", str(request)),
        *("-startdate", "20200101000000Z", "-enddate", "20200201000000Z"),
        *("-out", identity.certificate),
    )


def _openssl(*arguments: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("Debian package openssl is missing: openssl")
    subprocess.run(  # noqa: S603  our own argument list
        [openssl, *arguments], check=True, capture_output=True
    )


def emission_to(  # noqa: PLR0913  all by keyword, and each of its own kind
    client: HttpClient,
    url: str,
    *,
    username: str | None = "emission",
    secret: str = "rehearsal",  # noqa: S107  it opens nothing real
    scheme: str = "Bearer",
    shutdown: Shutdown | None = None,
    lockouts: LockoutStore | None = None,
) -> PresignedClient:
    """Return a client of the server at `url`, as the daemon makes it."""
    return PresignedClient(
        client,
        url,
        Credentials(username, lambda: secret, scheme),
        insecure=False,
        shutdown=shutdown or Shutdown(),
        lockouts=lockouts,
    )


def asked(server: RehearsalServer, endpoint: str) -> list[RequestRecord]:
    """Return the requests that reached an endpoint of the rehearsal server."""
    return [request for request in list(server.requests) if request.endpoint == endpoint]


def together(count: int, work: Callable[[], T]) -> list[T | Exception]:
    """Do the same in `count` threads at once; return results and exceptions."""
    barrier = threading.Barrier(count)

    def run(_: int) -> T | Exception:
        barrier.wait(30)
        try:
            return work()
        except Exception as error:  # noqa: BLE001  handed to the test
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def sparse(path: Path, size: int) -> Path:
    """Make a file that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def deliver(
    emission: PresignedClient,
    path: Path,
    grant: Grant | None = None,
    on_sent: Callable[[int], None] | None = None,
    may_finish: MayFinish | None = None,
) -> Receipt:
    """Ask for a grant and post the file."""
    with path.open("rb", buffering=0) as file:
        fingerprint = Fingerprint.of(os.fstat(file.fileno()))
        grant = grant or emission.grant(b"pat/periodic_exam_mst.zip")
        return emission.deliver(grant, file, fingerprint, on_sent, may_finish)


def hand_made(url: str) -> Grant:
    """Return a grant for a bucket that checks nothing."""
    fields = {"key": "pat/x_1.zip", "policy": "p", 'o"dd': "name", "x-amz-date": "d"}
    return Grant(url, fields, time.time(), time.time() + 3600)
