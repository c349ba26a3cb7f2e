"""How a request ends without an answer, the bounds of every wait, and the stop."""

import errno
import os
import resource
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from emitterd.client import sockets
from emitterd.client.http import HttpClient, tls_context
from emitterd.client.responses import Stopped, TransportError
from emitterd.client.sockets import CONNECTIONS, TransferLimits
from emitterd.codes import Code
from emitterd.shutdown import Shutdown
from support.client import (
    LOOPBACK,
    OK,
    Identity,
    Listener,
    answering,
    http_client,
    make_identity,
    post,
    proxying,
    silent_port,
)
from support.waiting import wait_until

LARGE = b"x" * (32 * 1024 * 1024)
"""More than the buffers of both kernel's ends take."""

BRISK = TransferLimits(connect_s=10.0, stall_s=0.6, minimum_bytes_s=1)
STEADY = TransferLimits(connect_s=30.0, stall_s=3.0, minimum_bytes_s=1)
"""For what must succeed within a limit that another request breaks."""

DEADLINE_S = 30.0
Serve = Callable[[Listener, socket.socket], None]


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Return a server's certificate."""
    return make_identity(tmp_path_factory.mktemp("tls"), "server")


def broken_by(client: HttpClient, url: str, content: bytes = b"{}") -> Code:
    """Return how a post that must not succeed ended."""
    with pytest.raises(TransportError) as broken:
        post(client, url, content)
    assert str(broken.value)
    return broken.value.code


@contextmanager
def no_free_descriptor(spare: int = 8) -> Iterator[Callable[[], None]]:
    """Leave this process without a free descriptor; the function frees some."""
    held = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2 + spare, limits[1]))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))

        def free() -> None:
            for _ in range(spare):
                os.close(held.pop())

        yield free
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


def silent(server: Listener, connection: socket.socket) -> None:
    """Hear a request and never answer."""
    server.hear(connection)
    server.over.wait()


def deaf(server: Listener, connection: socket.socket) -> None:
    """Never read a byte."""
    del connection
    server.over.wait()


def reading(chunk: int, pause_s: float) -> Serve:
    """Read `chunk` bytes, pause, and repeat; never answer."""

    def serve(server: Listener, connection: socket.socket) -> None:
        while connection.recv(chunk) and not server.over.wait(pause_s):
            pass

    return serve


def dribbling(text: bytes, pause_s: float) -> Serve:
    """Answer byte by byte."""

    def serve(server: Listener, connection: socket.socket) -> None:
        server.hear(connection)
        for byte in text:
            connection.sendall(bytes([byte]))
            if server.over.wait(pause_s):
                return

    return serve


def test_small_request_goes_out_in_one_piece() -> None:
    """Head and body of a small request wake the other side once, each time anew."""
    pieces: list[bytes] = []

    def serve(server: Listener, connection: socket.socket) -> None:
        del server
        while piece := connection.recv(65536):
            pieces.append(piece)
            connection.sendall(OK)

    with Listener(serve) as server, http_client() as client:
        answers = [post(client, server.url, b"small").status for _ in range(3)]

    assert answers == [200] * 3
    assert [piece.startswith(b"POST") for piece in pieces] == [True] * 3
    assert [piece.endswith(b"small") for piece in pieces] == [True] * 3


def test_a_closed_port_is_refused() -> None:
    """Nobody listens: the connection is refused."""
    with Listener(silent) as gone:
        url = gone.url
    with http_client() as client:
        assert broken_by(client, url) is Code.REFUSED


def test_a_name_that_does_not_resolve_is_dns() -> None:
    """A name below .invalid never resolves (RFC 2606)."""
    with http_client() as client:
        assert broken_by(client, "http://nothing.invalid/") is Code.DNS


def test_a_full_backlog_is_a_connect_timeout() -> None:
    """A host that does not answer the connection's first packet is given up."""
    limits = TransferLimits(connect_s=0.3, stall_s=20.0, minimum_bytes_s=1)
    with silent_port() as port, http_client(limits) as client:
        assert broken_by(client, f"http://{LOOPBACK}:{port}/") is Code.CONNECT_TIMEOUT


def test_a_certificate_nobody_vouches_for_is_tls(identity: Identity) -> None:
    """A certificate of an unknown authority fails the handshake; nothing is sent."""
    secure = Listener(answering(OK), identity.server_context())
    with secure as server, http_client() as client:
        assert broken_by(client, server.url) is Code.TLS
        assert not server.heard


def test_a_certificate_of_another_host_is_tls(tmp_path: Path) -> None:
    """A trusted certificate for another host fails the handshake."""
    other = make_identity(tmp_path, "other", host="IP:127.0.0.2")
    secure = Listener(answering(OK), other.server_context())
    context = tls_context(other.certificate, None, None)
    with secure as server, http_client(tls=context) as client:
        assert broken_by(client, server.url) is Code.TLS
        assert not server.heard


def test_a_server_that_speaks_no_tls_is_tls() -> None:
    """An https url that leads to a plain server fails the handshake."""

    def plain(server: Listener, connection: socket.socket) -> None:
        del server
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Listener(plain) as server, http_client() as client:
        url = server.url.replace("http:", "https:")

        assert broken_by(client, url) is Code.TLS


def test_a_handshake_that_is_cut_is_tls() -> None:
    """A server that closes after the first bytes fails the handshake, on each Python."""

    def cut(server: Listener, connection: socket.socket) -> None:
        del server
        connection.recv(65536)

    with Listener(cut) as server, http_client() as client:
        assert broken_by(client, server.url.replace("http:", "https:")) is Code.TLS
        assert server.lines == 1


def test_a_server_of_old_tls_is_tls(identity: Identity) -> None:
    """A server that speaks no version from TLS 1.2 on fails the handshake, on each Python."""
    context = identity.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    ours = tls_context(identity.certificate, None, None)
    with Listener(answering(OK), context) as server, http_client(tls=ours) as client:
        assert broken_by(client, server.url) is Code.TLS
        assert not server.heard


def test_a_handshake_that_hangs_is_given_up() -> None:
    """A server that accepts and says nothing ends within the connect limit."""
    limits = TransferLimits(connect_s=0.3, stall_s=20.0, minimum_bytes_s=1)
    with Listener(deaf) as server, http_client(limits) as client:
        url = server.url.replace("http:", "https:")

        assert broken_by(client, url) is Code.CONNECT_TIMEOUT


CUT_CHUNKS = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nnot'


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 20", b"\x16\x03 no http\r\n\r\n", OK[:-1], CUT_CHUNKS],
    ids=["nothing", "half a status", "garbage", "half a body", "cut chunks"],
)
def test_an_answer_that_is_none_is_lost(answer: bytes) -> None:
    """A connection that ends before the answer is whole is lost."""

    def serve(server: Listener, connection: socket.socket) -> None:
        server.hear(connection)
        connection.sendall(answer)

    with Listener(serve) as server, http_client() as client:
        assert broken_by(client, server.url) is Code.CONNECTION_LOST


def test_a_reset_in_mid_body_is_lost() -> None:
    """A connection that is reset while the body goes out is lost."""

    def serve(server: Listener, connection: socket.socket) -> None:
        del server
        connection.recv(1000)
        linger = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()

    with Listener(serve) as server, http_client() as client:
        assert broken_by(client, server.url, LARGE) is Code.CONNECTION_LOST


@pytest.mark.parametrize(
    ("serve", "minimum"), [(deaf, 1), (reading(2048, 0.05), 100_000_000)], ids=["stalled", "slow"]
)
def test_a_body_that_does_not_get_away_is_given_up(serve: Serve, minimum: int) -> None:
    """A reader that stalls, or reads slower than the minimum speed, is given up."""
    limits = TransferLimits(connect_s=10.0, stall_s=0.6, minimum_bytes_s=minimum)
    with Listener(serve) as server, http_client(limits) as client:
        assert broken_by(client, server.url, LARGE) is Code.TOO_SLOW


def test_a_body_above_the_minimum_speed_is_not_given_up() -> None:
    """A slow line that keeps the minimum is left alone, however often it pauses."""

    def serve(server: Listener, connection: socket.socket) -> None:
        left = len(LARGE)
        while left > 0:
            left -= len(connection.recv(1024 * 1024))
            server.over.wait(0.03)
        connection.sendall(OK)

    limits = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=1024)
    with Listener(serve) as server, http_client(limits) as client:
        assert post(client, server.url, LARGE).status == 200


@pytest.mark.parametrize(
    "serve",
    [silent, dribbling(OK, 0.1), dribbling(OK[:-2] + b" " * 1000, 0.1)],
    ids=["silent", "dribbling head", "dribbling on"],
)
def test_an_answer_that_is_not_whole_in_time_is_given_up(serve: Serve) -> None:
    """Silence and an answer of one byte now and then end at the same limit."""
    with Listener(serve) as server, http_client(BRISK) as client:
        assert broken_by(client, server.url) is Code.TOO_SLOW


def test_an_answer_may_take_its_time() -> None:
    """An answer that is late, but within the limit, is an answer."""
    with Listener(dribbling(OK, 0.01)) as server, http_client() as client:
        assert post(client, server.url).body == b"ok"


def stopped(
    client: HttpClient,
    shutdown: Shutdown,
    url: str,
    content: bytes,
    is_under_way: Callable[[], bool],
) -> list[type[Exception]]:
    """Stop a request that is under way; return how it ended."""
    outcome: list[type[Exception]] = []

    def work() -> None:
        try:
            post(client, url, content)
        except (Stopped, TransportError) as error:
            outcome.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(is_under_way, DEADLINE_S, "a request")
    assert not outcome
    shutdown.now.set()
    thread.join(DEADLINE_S)

    assert not thread.is_alive()
    return outcome


@pytest.mark.parametrize(
    ("serve", "content"),
    [(deaf, LARGE), (silent, b"{}"), (dribbling(OK, 0.4), b"{}")],
    ids=["sending", "waiting", "reading"],
)
def test_a_stop_ends_what_is_under_way(serve: Serve, content: bytes) -> None:
    """A stop ends a blocked request long before its own limits do."""
    shutdown = Shutdown()
    limits = TransferLimits(connect_s=60.0, stall_s=60.0, minimum_bytes_s=1)
    with Listener(serve) as server, http_client(limits, shutdown=shutdown) as client:
        outcome = stopped(client, shutdown, server.url, content, lambda: bool(server.lines))
    assert outcome == [Stopped]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stop_ends_a_connection_under_way(scheme: str) -> None:
    """A stop ends the wait for a connection, and for a handshake, before their own limit."""
    shutdown = Shutdown()
    limits = TransferLimits(connect_s=600.0, stall_s=600.0, minimum_bytes_s=1)
    with (
        silent_port() as port,
        Listener(deaf) as server,
        http_client(limits, shutdown=shutdown) as client,
    ):
        url = f"{scheme}://{LOOPBACK}:{port if scheme == 'http' else server.port}/"
        # A handshake is under way when the server has a connection; a connection has no such sign.
        outcome = stopped(
            client, shutdown, url, b"{}", lambda: scheme == "http" or bool(server.lines)
        )
    assert outcome == [Stopped]


@pytest.mark.parametrize("through_proxy", [False, True], ids=["directly", "through a proxy"])
def test_failed_handshakes_take_no_place_of_later_connections(
    identity: Identity, *, through_proxy: bool
) -> None:
    """After more failed handshakes than a thread has connections it still delivers."""
    context = identity.server_context()

    def serve(server: Listener, connection: socket.socket) -> None:
        if server.lines <= CONNECTIONS + 1:
            connection.recv(65536)
            connection.sendall(b"no TLS here")
            return
        with context.wrap_socket(connection, server_side=True) as secure:
            server.hear(secure)
            secure.sendall(OK)

    ours = tls_context(identity.certificate, None, None)
    with Listener(serve) as server, Listener(proxying(server.port)) as proxy:
        url = server.url.replace("http:", "https:")
        with http_client(tls=ours, proxy=proxy.url if through_proxy else None) as client:
            for _ in range(CONNECTIONS + 1):
                assert broken_by(client, url) is Code.TLS

            assert post(client, url).body == b"ok"
        assert server.lines == CONNECTIONS + 2
        assert proxy.lines == (server.lines if through_proxy else 0)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        pytest.param(b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\nok", 3, id="body after 204"),
        pytest.param(b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\n", 3, id="body comes later"),
        pytest.param(
            b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 3, id="empty chunk"
        ),
        pytest.param(OK + b"more", 3, id="more than the length"),
        pytest.param(CHUNKED + b"more", 3, id="more after the chunks"),
        pytest.param(b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n", 1, id="204"),
        pytest.param(OK, 1, id="length"),
        pytest.param(CHUNKED, 1, id="chunks"),
    ],
)
def test_bytes_after_an_answer_are_not_the_next_answer(answer: bytes, connections: int) -> None:
    """A connection with bytes left over is closed; one without is used again."""
    with Listener(answering(answer)) as server, http_client() as client:
        for _ in range(3):
            assert post(client, server.url).status in {200, 204}

        assert len(server.heard) == 3
        assert server.lines == connections


@pytest.mark.parametrize("line", [b"X Bad: 1", b"X-Bad", b"X-Bad: a\0b"])
def test_an_illegal_header_line_is_named(line: bytes) -> None:
    """The error names the header, and not its value."""
    answer = b"HTTP/1.1 204 N\r\n" + line + b"\r\n\r\n"
    with Listener(answering(answer)) as server, http_client() as client:
        with pytest.raises(TransportError) as broken:
            post(client, server.url)
        assert len(server.heard) == 1

    assert broken.value.code is Code.MALFORMED_ANSWER
    name = line.partition(b":")[0].decode()
    assert str(broken.value) == f"the answer has an illegal header line: {name}"


def test_the_address_that_worked_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first connection to a host tries its dead address."""
    tried: list[str] = []

    class Recording(socket.socket):
        def connect_ex(self, address: tuple[str, int]) -> int:  # type: ignore[override]
            tried.append(address[0])
            return super().connect_ex(address)

    def resolve(_: str, port: int, **__: object) -> list[tuple[object, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.9", port)), (*kind, (LOOPBACK, port))]

    with Listener(answering(OK)) as server, http_client() as client:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(socket, "socket", Recording)
        for _ in range(3):
            assert post(client, f"http://two.test:{server.port}/").body == b"ok"
            client.close_thread()

    assert tried == ["127.0.0.9", LOOPBACK, LOOPBACK, LOOPBACK]


def test_an_address_of_a_family_that_this_host_lacks_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without IPv6 the next address is tried, and the failure of the last one is the error."""
    refused: list[int] = []

    class Lacking(socket.socket):
        def __init__(self, family: int = -1, *arguments: int, **named: object) -> None:
            if family == socket.AF_INET6:
                refused.append(family)
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **named)  # type: ignore[arg-type]

    addresses = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0))]
    with Listener(answering(OK)) as server, http_client() as client:
        other = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOOPBACK, server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        monkeypatch.setattr(socket, "socket", Lacking)
        assert broken_by(client, "http://two.test/") is Code.REFUSED
        addresses.append(other)  # type: ignore[arg-type]

        assert post(client, "http://two.test/").body == b"ok"
    assert len(refused) == 2


@pytest.mark.parametrize("idle_s", [0.0, 600.0])
def test_a_connection_that_ends_while_it_is_idle_is_stale(
    monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    """Only a request on an idle connection, without a byte of an answer, failed for that."""
    monkeypatch.setattr(sockets, "IDLE_S", idle_s)

    def serve(server: Listener, connection: socket.socket) -> None:
        server.hear(connection)
        connection.sendall(OK)
        server.hear(connection)
        if server.lines == 2:
            connection.sendall(OK[:9])

    def stale(client: HttpClient, url: str) -> bool:
        with pytest.raises(TransportError) as broken:
            post(client, url)
        return broken.value.stale

    with Listener(serve) as server, http_client() as client:
        post(client, server.url)
        assert stale(client, server.url) is (idle_s == 0.0)
        post(client, server.url)
        assert not stale(client, server.url)
        assert server.lines == 2


def test_after_a_stop_nothing_is_sent() -> None:
    """A request that begins after the stop ends before its first byte."""
    shutdown = Shutdown()
    shutdown.now.set()
    with Listener(silent) as server, http_client(shutdown=shutdown) as client:
        with pytest.raises(Stopped):
            post(client, server.url)

        assert not server.heard


def test_a_broken_request_does_not_spoil_the_next() -> None:
    """After an answer that was cut the same client delivers the next request."""

    def serve(server: Listener, connection: socket.socket) -> None:
        while server.hear(connection):
            if len(server.heard) % 2:
                return
            connection.sendall(OK)

    with Listener(serve) as server, http_client() as client:
        for _ in range(3):
            assert broken_by(client, server.url) is Code.CONNECTION_LOST
            assert post(client, server.url).body == b"ok"


def test_each_thread_has_bounds_of_its_own() -> None:
    """A thread that is given up does not take the others with it."""

    def serve(server: Listener, connection: socket.socket) -> None:
        request = server.hear(connection)
        if request and "hang" in request.line:
            server.over.wait()
        connection.sendall(OK)

    outcomes: list[object] = []

    def work(client: HttpClient, url: str) -> None:
        try:
            outcomes.append(post(client, url).status)
        except TransportError as error:
            outcomes.append(error.code)

    with Listener(serve) as server, http_client(STEADY) as client:
        urls = [f"{server.url}{name}" for name in ("hang", "a", "hang", "b")]
        threads = [threading.Thread(target=work, args=(client, url)) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)

    assert outcomes.count(200) == 2
    assert outcomes.count(Code.TOO_SLOW) == 2


def test_the_time_to_connect_is_not_taken_for_slow_sending(identity: Identity) -> None:
    """A handshake longer than the stall limit, but within its own, harms nothing."""
    context = identity.server_context()

    def late(server: Listener, connection: socket.socket) -> None:
        server.over.wait(STEADY.stall_s + 0.2)
        with context.wrap_socket(connection, server_side=True) as secure:
            server.hear(secure)
            secure.sendall(OK)

    ours = tls_context(identity.certificate, None, None)
    with Listener(late) as server, http_client(STEADY, tls=ours) as client:
        url = server.url.replace("http:", "https:")

        assert post(client, url).body == b"ok"


def test_a_large_body_arrives_whole_over_tls(identity: Identity) -> None:
    """Writes that were cut short and taken up again lose and repeat no byte."""
    secure = Listener(answering(OK), identity.server_context())
    context = tls_context(identity.certificate, None, None)
    body = b"".join(number.to_bytes(8) for number in range(1024 * 1024))
    with secure as server, http_client(tls=context) as client:
        assert post(client, server.url, body).body == b"ok"
        [request] = server.heard

    assert request.body == body


def test_a_connect_waits_for_a_free_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor a connect waits; it succeeds as soon as one is free."""
    resolved = threading.Semaphore(0)
    resolve = socket.getaddrinfo

    def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  of getaddrinfo
        resolved.release()
        return resolve(*arguments, **options)

    with socket.create_server((LOOPBACK, 0)) as server, http_client() as client:
        url = f"http://{LOOPBACK}:{server.getsockname()[1]}/"
        monkeypatch.setattr(socket, "getaddrinfo", counted)
        with no_free_descriptor() as free:
            answers: list[int] = []
            thread = threading.Thread(target=lambda: answers.append(post(client, url).status))
            thread.start()
            # The second look-up comes only after the first connect has failed.
            assert resolved.acquire(timeout=DEADLINE_S)
            assert resolved.acquire(timeout=DEADLINE_S)
            assert not answers
            free()
            # A thread that accepts would need a descriptor as soon as it begins to wait.
            server.settimeout(DEADLINE_S)
            connection, _ = server.accept()
            with connection:
                connection.sendall(OK)
                thread.join(DEADLINE_S)

    assert answers == [200]


@pytest.mark.parametrize("host", [LOOPBACK, "a-name.invalid"], ids=["address", "name"])
def test_no_free_descriptor_is_a_fault_of_this_host(host: str) -> None:
    """Neither the server nor the resolver is blamed if no descriptor is free in time."""
    limits = TransferLimits(connect_s=0.5, stall_s=30.0, minimum_bytes_s=1)
    with http_client(limits) as client, no_free_descriptor():
        assert broken_by(client, f"http://{host}:9/") is Code.HOST_SHORTAGE
