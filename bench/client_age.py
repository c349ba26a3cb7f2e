"""Whether the HTTP client needs more CPU for each request as it grows old.

    bench/client-age --requests 100000

One `HttpClient`, as the daemon builds it, posts over loopback to a server of its own
process, and its CPU time a request is shown for each tenth of the requests. Reported
of clients that configure their TLS context at each handshake (pydantic/httpx2#1253):
with OpenSSL before 3.4 every handshake then adds a place to look for certificates.
The last row does just that on purpose, to show that the measurement would see it.
"""

import argparse
import multiprocessing
import os
import platform
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore
import httpx

from emitterd.client.http import HttpClient, tls_context
from emitterd.client.sockets import TransferLimits
from emitterd.shutdown import Shutdown

LIMITS = TransferLimits(connect_s=10, stall_s=60, minimum_bytes_s=1024)
BODY = b'{"filename": "student_attendance/student_attendance.zip"}'
ANSWER = b'{"url": "none"}'
HEADERS_MAX_BYTES = 65_536


class Careless(ssl.SSLContext):
    """A context that is configured again at each handshake, as truststore's is."""

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:  # noqa: ANN401  ssl's own signature
        """Wrap a socket."""
        self.set_default_verify_paths()
        return super().wrap_socket(*arguments, **named)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: over TLS or not, one connection or one a request, and its context."""

    name: str
    tls: bool
    close: bool
    share: float
    context: Callable[[str], ssl.SSLContext] = lambda ca: tls_context(ca, None, None)


def careless(ca_file: str) -> ssl.SSLContext:
    """Return a verifying context of the careless kind."""
    context = Careless(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    return context


CASES = (
    Case("http, one connection", tls=False, close=False, share=1),
    Case("https, one connection", tls=True, close=False, share=1),
    Case("https, a handshake a request", tls=True, close=True, share=0.2),
    Case("control: a careless context", tls=True, close=True, share=0.004,
         context=careless),
)  # fmt: skip


def make_certificates(folder: Path) -> None:
    """Make a root, an authority below it, and a certificate of the latter's.

    As in the world: the authority comes with the handshake, the root is known. So
    each handshake looks for the authority in all places, and finds it in none.
    """
    extensions = folder / "extensions"
    extensions.write_text(
        "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n"
        "[leaf]\nsubjectAltName=DNS:localhost\n"
    )

    def openssl(*arguments: str) -> None:
        subprocess.run(  # noqa: S603  our own argument list
            ["openssl", *arguments],  # noqa: S607  wherever it is
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "root.key", "-out", "root.pem",
            "-subj", "/CN=root", "-days", "2")  # fmt: skip
    for name, issuer, kind in (("middle", "root", "ca"), ("localhost", "middle", "leaf")):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem",
                "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "2",
                "-extfile", "extensions", "-extensions", kind,
                "-out", f"{name}.pem")  # fmt: skip
    chain = [(folder / f"{name}.pem").read_text() for name in ("localhost", "middle")]
    (folder / "chain.pem").write_text("".join(chain))


def serve(listener: socket.socket, folder: Path | None, *, close: bool) -> None:
    """Answer every POST with the same bytes, one connection after the other."""
    context = None
    if folder is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "chain.pem", folder / "localhost.key")
    end = b"Connection: close\r\n" if close else b""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (
        len(ANSWER), end, ANSWER,
    )  # fmt: skip
    while True:
        line, _ = listener.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            if context is not None:
                line = context.wrap_socket(line, server_side=True)
            with line:
                _talk(line, answer, once=close)


def _talk(line: socket.socket, answer: bytes, *, once: bool) -> None:
    head = b"\r\n\r\n"
    received = b""
    while chunk := line.recv(HEADERS_MAX_BYTES):
        received += chunk
        if head in received and len(received.partition(head)[2]) >= len(BODY):
            line.sendall(answer)
            received = b""
            if once:
                return


def measure(case: Case, requests: int, folder: Path) -> list[float]:
    """Return the CPU time a request in each tenth, in ms."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(
        target=serve,
        args=(listener, folder if case.tls else None),
        kwargs={"close": case.close},
        daemon=True,
    )
    server.start()
    port = listener.getsockname()[1]
    url = f"http{'s' * case.tls}://localhost:{port}/data/upload-url"
    tls = case.context(str(folder / "root.pem"))
    client = HttpClient(LIMITS, tls=tls, proxy=None, shutdown=Shutdown())
    tenth = max(1, int(requests * case.share) // 10)
    costs = []
    try:
        for _ in range(10):
            before = time.process_time()
            for _ in range(tenth):
                client.request("POST", url, {}, BODY, limit_bytes=1000)
            costs.append(1000 * (time.process_time() - before) / tenth)
    finally:
        client.close()
        server.terminate()
        server.join()
        listener.close()
    return costs


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    options = parser.parse_args()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    print(
        f"httpx {httpx.__version__}, httpcore {httpcore.__version__},"
        f" {ssl.OPENSSL_VERSION}, Python {platform.python_version()}; ms of CPU a"
        " request, by tenths of the requests"
    )
    print()
    print(f"| | requests | {' | '.join(map(str, range(1, 11)))} |")
    print(f"|---|---|{'---|' * 10}")
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(Path(folder))
        for case in CASES:
            costs = measure(case, options.requests, Path(folder))
            shown = " | ".join(f"{cost:.3f}" for cost in costs)
            count = max(10, int(options.requests * case.share) // 10 * 10)
            print(f"| {case.name} | {count} | {shown} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
