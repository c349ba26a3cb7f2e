"""Sockets that never wait without bound: httpcore's documented network backend.

httpx's own timeouts count from the last byte. So a server that sends or reads one byte a
second can keep a request open without a limit. Here a request must send at a minimum speed and get
its whole answer in time. A stop of the daemon ends it within `POLL_S`.
"""

import errno
import fcntl
import os
import re
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import httpcore

from emitterd import heartbeat
from emitterd.client.bandwidth import Throttle
from emitterd.client.body import MayFinish, OnSent
from emitterd.client.responses import Stopped, TransportError, Withheld
from emitterd.codes import Code
from emitterd.errors import SHORTAGE
from emitterd.shutdown import Shutdown
from emitterd.text import masked

POLL_S = 0.25
"""How often a blocked socket checks whether the daemon is stopping."""

JOINED_MAX_BYTES = 64 * 1024
"""A piece below this size is sent together with the head of its request."""

RESOLVER_MAX_S = 60.0
"""The longest time that the resolver takes: three servers, asked twice, 5 s each, and again with a
search domain. Source: resolv.conf(5)."""

CONNECTIONS = 4
"""The connections of a thread: API, bucket, and where either redirects to."""

KEEPALIVE_S = 1.5
"""Shorter than on every common server, so that this side closes idle connections: a request on a
connection that the server is just closing would fail. The shortest known is gunicorn's 2 s."""

IDLE_S = 0.5
"""A server may have closed a connection that was idle for this long. No server is known to close
one sooner, so the loss of a busier connection has another cause."""

END_BYTES = 8 * 1024
"""At most this much of a body goes out after `MayFinish` allowed it. It fits into the ten packets
that a connection may send at once (RFC 6928), so the upload of a small file still is one write."""

END_MAX_S = 5.0
"""How long the system tries to bring the end of a body to the other side, where `MayFinish` allowed
it. The hosts of a shared journal wait longer than this after a lease has ended."""

FLUSH_POLL_S = 0.002
"""How often a body checks whether the other side has acknowledged all before its end."""

HOSTS = 64
"""Of this many hosts the address that worked is remembered. API and bucket need two."""

Trace = Callable[[str, dict[str, Any]], None]
"""Gets the name and the details of each step of a request, as httpcore documents."""

T = TypeVar("T")


class TooSlow(Exception):
    """A request or its answer is slower than its limits allow."""


class HostShortage(httpcore.ConnectError):
    """The host of emitterd lacks a file descriptor or memory for a connection."""


_FAILURES = (
    UnicodeError,
    TooSlow,
    httpcore.ProxyError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
)
_NO_BODY = frozenset({204, 304})
_ILLEGAL_HEADER = re.compile(r"(?i)illegal header (?:line|name|value)[^'\"]*['\"]([^:'\"]{1,80})")
"""How h11 quotes a header that it refuses, up to the end of the header's name."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """The limits of a request, in seconds and in bytes a second."""

    connect_s: float
    stall_s: float
    minimum_bytes_s: int


class _ThreadState(threading.local):
    """What httpcore's interface cannot pass to the socket."""

    deadlines: "Deadlines"


_thread = _ThreadState()


@dataclass(slots=True)
class Deadlines:
    """The limits of one request of one thread, and its progress."""

    limits: TransferLimits
    shutdown: Shutdown
    answer_max_bytes: int
    """Of the body of a longer answer only the beginning is read."""
    throttle: Throttle | None = None
    """For a body; None for all other requests."""
    on_sent: OnSent | None = None
    may_finish: MayFinish | None = None
    body_left_bytes: int = 0
    """How much of the body is not sent yet."""
    head_bytes: int = 0
    """How much of the head of the request is to be sent before the body."""
    window_at: float | None = None
    window_bytes: int = 0
    answer_by: float | None = None
    was_idle: bool = False
    """Whether the request uses a connection that was idle for `IDLE_S` after another one."""
    answer: bytearray = field(default_factory=bytearray)
    """What was read for this request, with head and framing."""

    def allowance(self, size_bytes: int) -> int:
        """Return how many of these bytes may be sent now; wait for the bandwidth."""
        left_bytes = self.head_bytes + self.body_left_bytes
        if self.may_finish is not None and left_bytes > END_BYTES:
            # The end goes out by itself.
            size_bytes = min(size_bytes, left_bytes - END_BYTES)
        if self.throttle is None or not self.throttle.limited:
            return size_bytes
        began_at = time.monotonic()
        size_bytes = self.throttle.take(size_bytes, self.check_stop)
        if self.window_at is not None:
            # A wait for our own bandwidth limit does not count as a slow line.
            self.window_at += time.monotonic() - began_at
        return size_bytes

    def count_sent(self, size_bytes: int) -> None:
        """Count bytes that were sent."""
        self.window_bytes += size_bytes
        # The head goes out in one send with the first part of the body.
        head_bytes = min(size_bytes, self.head_bytes)
        self.head_bytes -= head_bytes
        self.body_left_bytes -= size_bytes - head_bytes
        if self.on_sent is not None:
            self.on_sent(size_bytes - head_bytes)

    def condition(self, size_bytes: int) -> MayFinish | None:
        """Return what must allow the next `size_bytes` bytes, if the last one ends a body."""
        left_bytes = self.head_bytes + self.body_left_bytes
        return self.may_finish if size_bytes >= left_bytes else None

    def check_sending(self) -> None:
        """Raise `Stopped`, or `TooSlow` if a whole window went by too slowly."""
        self.check_stop()
        # A proxy answers CONNECT before the request is sent: the time for the answer starts again.
        self.answer_by = None
        now = time.monotonic()
        # The window opens at the first byte, so that a long handshake is not taken for a slow line.
        if self.window_at is None:
            self.window_at = now
        took_s = now - self.window_at
        if took_s < self.limits.stall_s:
            return
        if self.window_bytes < max(1.0, self.limits.minimum_bytes_s * took_s):
            raise TooSlow(f"{self.window_bytes} bytes went out in {took_s:.0f} s")
        self.window_at, self.window_bytes = now, 0

    def check_reading(self) -> None:
        """Raise `Stopped`, or `TooSlow` if the answer is not whole in time."""
        self.check_stop()
        now = time.monotonic()
        if self.answer_by is None:
            self.answer_by = now + self.limits.stall_s
        if now >= self.answer_by:
            raise TooSlow(f"no whole answer within {self.limits.stall_s:.0f} s")

    def check_stop(self) -> None:
        """Record a heartbeat, because these limits bound a slow line; check the stop.

        Raises `Stopped`.
        """
        heartbeat.record()
        if self.shutdown.now.is_set():
            raise Stopped


class _Stream(httpcore.NetworkStream):
    """A socket that checks the deadlines at least every `POLL_S`.

    It holds back the head of a request until the first piece of the body comes, and sends both at
    once: a small file is one packet, and wakes the server up once. httpcore would send two.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._head: bytes | None = b""
        """The head that is held back; None once the request is on its way."""
        self._idle_at: float | None = None
        self._unacknowledged_s = 0.0
        self._socket = connection
        # httpcore sets a timeout before each call; this one is the interval of checks.
        self._socket.settimeout(POLL_S)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        deadlines = _thread.deadlines
        # A request without a body, such as CONNECT and GET, ends with its head.
        head, self._head = self._head, b""
        if head:
            # A server that closes the connection early may have answered before that.
            with suppress(httpcore.WriteError):
                self._send(head, deadlines)
        part = self._retry_while_blocked(
            lambda: self._socket.recv(max_bytes), deadlines.check_reading, httpcore.ReadError
        )
        deadlines.answer += part
        self._idle_at = time.monotonic()
        return part

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        deadlines = _thread.deadlines
        if self._head is not None:
            if not self._head:
                # The first bytes of another request.
                deadlines.was_idle = (
                    self._idle_at is not None and time.monotonic() - self._idle_at >= IDLE_S
                )
                deadlines.answer.clear()
                # A server may pause for longer while a body is under way.
                self._limit_unacknowledged(0.0)
            if not self._head and len(buffer) < JOINED_MAX_BYTES:
                self._head, deadlines.head_bytes = buffer, len(buffer)
                return
            head, self._head = self._head, None
            # To copy a large piece would cost more than the packet that it saves.
            if len(buffer) < JOINED_MAX_BYTES:
                buffer = head + buffer
            else:
                self._send(head, deadlines)
        self._send(buffer, deadlines)

    def _send(self, buffer: bytes, deadlines: Deadlines) -> None:
        left, allowed = memoryview(buffer), 0
        while left:
            allowed = allowed or deadlines.allowance(len(left))
            count = self._retry_while_blocked(
                lambda part=left[:allowed]: self._send_part(part, deadlines),  # type: ignore[misc]
                deadlines.check_sending,
                httpcore.WriteError,
            )
            deadlines.count_sent(count)
            allowed -= count
            left = left[count:]

    def _send_part(self, part: memoryview, deadlines: Deadlines) -> int:
        may_finish = deadlines.condition(len(part))
        if may_finish is not None:
            self._flush(deadlines)
            self._limit_unacknowledged(END_MAX_S)
            # Nothing that may wait comes between this check and the send.
            if not may_finish():
                raise Withheld
        return self._socket.send(part)

    def _flush(self, deadlines: Deadlines) -> None:
        """Wait until the other side has acknowledged everything, or the connection is broken.

        The end of a body must not wait behind megabytes in the system's buffer.
        """
        queued = self._queued_bytes()
        while queued and not _wait_for(self._socket, select.POLLERR, FLUSH_POLL_S):
            deadlines.check_sending()
            queued, before = self._queued_bytes(), queued
            # These bytes were counted when the system took them. On a slow line they took a while.
            deadlines.window_bytes += before - queued

    def _queued_bytes(self) -> int:
        # SIOCOUTQ of tcp(7), which has the number of TIOCOUTQ.
        queued = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", queued)[0])

    def _limit_unacknowledged(self, limit_s: float) -> None:
        """End the connection if bytes stay unacknowledged for so long; 0 for the system's limit."""
        if limit_s != self._unacknowledged_s:
            timeout_ms = int(limit_s * 1000)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
            self._unacknowledged_s = limit_s

    def close(self) -> None:
        if self._unacknowledged_s and self._socket.fileno() >= 0 and self._queued_bytes():
            # The end of a body did not arrive yet. The system would go on sending it, and it might
            # arrive after another attempt: drop it.
            drop = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, drop)
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        check = _connect_check(timeout)
        try:
            # The handshake is not part of this call, because a stop could not end it.
            secure = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            # The new socket has taken the descriptor over, and is the one to close.
            self._socket = secure
            secure.settimeout(POLL_S)
            self._retry_while_blocked(secure.do_handshake, check, httpcore.ConnectError)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return _Stream(secure)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  httpcore's signature
        match info:
            case "ssl_object":
                return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
            case "server_addr":
                return self._socket.getpeername()
            case "is_readable":
                # An idle connection that has something to read is at its end, or out of step.
                return self._socket.fileno() < 0 or _wait_for(self._socket, select.POLLIN, 0.0)
        return None

    @staticmethod
    def _retry_while_blocked(
        operation: Callable[[], T], check: Callable[[], None], failure: type[Exception]
    ) -> T:
        while True:
            check()
            try:
                return operation()
            except TimeoutError:
                # `POLL_S` is over. The check says whether the whole wait is too long.
                continue
            except OSError as error:
                raise failure(str(error)) from error


def _connect_check(timeout_s: float | None) -> Callable[[], None]:
    """Return a check that ends the wait for a connection at a stop, or after this time."""
    deadlines, end_at = _thread.deadlines, time.monotonic() + (timeout_s or 0.0)

    def check() -> None:
        deadlines.check_stop()
        if time.monotonic() >= end_at:
            raise TimeoutError("timed out")

    return check


def _wait_for(connection: socket.socket, event: int, timeout_s: float) -> bool:
    # Not select(2), which takes no descriptor above 1,023.
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(timeout_s * 1000))


def _connect(kind: list[Any], address: Any, check: Callable[[], None]) -> socket.socket:  # noqa: ANN401  of any family
    """Connect a new socket. Raises `OSError`, and what `check` raises."""
    connection = socket.socket(*kind)
    try:
        connection.setblocking(False)  # noqa: FBT003  socket's own signature
        # Otherwise a body after its head would wait for the acknowledgement of the head (Nagle).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _await_connection(connection, address, check)
    except BaseException:
        connection.close()
        raise
    return connection


def _await_connection(connection: socket.socket, address: Any, check: Callable[[], None]) -> None:  # noqa: ANN401
    # Not a blocking connect: a stop could not end it.
    problem = connection.connect_ex(address)
    if problem == errno.EINPROGRESS:
        check()
        while not _wait_for(connection, select.POLLOUT, POLL_S):
            check()
        problem = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if problem:
        raise OSError(problem, os.strerror(problem))


def _shortage() -> OSError | None:
    """Return the error if no descriptor is free: the resolver then reports a name as unknown."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error
    return None


class _Backend(httpcore.NetworkBackend):
    """Connects, and remembers for each host the address that answered.

    `addresses` is shared by all threads. Without it each new connection would wait for the first
    address of a host, which may be dead.
    """

    def __init__(self, addresses: dict[tuple[str, int], object]) -> None:
        self._addresses = addresses

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        check = _connect_check(timeout)
        while True:
            try:
                return self._connect_any(host, port, timeout)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise httpcore.ConnectTimeout(str(error)) from error
                shortage = error if error.errno in SHORTAGE else _shortage()
                if shortage is None:
                    raise httpcore.ConnectError(str(error)) from error
            try:
                check()
            except TimeoutError as error:
                raise HostShortage(str(shortage)) from error
            # Other threads soon close a file or a connection. To give up would pause all uploads,
            # as if the server had failed.
            _thread.deadlines.shutdown.now.wait(POLL_S)

    def _connect_any(self, host: str, port: int, timeout_s: float | None) -> "_Stream":
        """Connect to the first address of a host that answers. Raises `OSError`."""
        # getaddrinfo cannot be interrupted, so this thread tells the watchdog how long it may be
        # silent.
        with heartbeat.silence(RESOLVER_MAX_S):
            resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        known = self._addresses.get((host, port))
        failure = OSError(f"{host} has no address")
        # The sort is stable: the other addresses stay in the resolver's order.
        for *kind, _, address in sorted(resolved, key=lambda item: item[4] != known):
            try:
                connection = _connect(kind, address, _connect_check(timeout_s))
            except OSError as error:
                failure = error
            else:
                self._remember((host, port), address)
                return _Stream(connection)
        raise failure

    def _remember(self, host: tuple[str, int], address: object) -> None:
        if len(self._addresses) >= HOSTS:
            self._addresses.clear()
        self._addresses[host] = address


class Proxy(NamedTuple):
    """An HTTP proxy: its origin, and user name and password where it wants them."""

    origin: str
    auth: tuple[str, str] | None


class _ThreadPools(threading.local):
    def __init__(self) -> None:
        self.pools: dict[Proxy | None, httpcore.ConnectionPool] = {}
        self.tls: ssl.SSLContext | None = None
        """The context of these pools."""


class Pools:
    """Connections, pooled for each thread and proxy. Thread-safe.

    httpcore checks each connection of a pool twice a request, under a lock. With one pool for 64
    workers that took half of the time.
    """

    def __init__(self, tls: ssl.SSLContext, trace: Trace | None = None) -> None:
        self._tls = tls
        self._trace = trace
        self._own = _ThreadPools()
        self._lock = threading.Lock()
        self._open: set[httpcore.ConnectionPool] = set()
        self._addresses: dict[tuple[str, int], object] = {}

    def apply_tls(self, tls: ssl.SSLContext) -> None:
        """Use another context for all requests that begin later."""
        self._tls = tls

    def send(
        self,
        method: str,
        url: tuple[bytes, bytes, int | None, bytes],
        headers: dict[str, str],
        content: bytes | Iterable[bytes] | None,
        proxy: Proxy | None,
        deadlines: Deadlines,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytearray]:
        """Send a request, directly or through a proxy; `deadlines` bound each wait.

        `url`: scheme, host, port and path. Return status, headers and body. Raises `TransportError`
        in place of httpcore's errors, and `Stopped`.
        """
        scheme, host, port, target = url
        connect_s = deadlines.limits.connect_s
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=scheme, host=host, port=port, target=target),
            headers=list(headers.items()),
            content=content,
            # A thread sends one request at a time, so it never has to wait for a place in its pool.
            extensions={"timeout": {"connect": connect_s, "pool": 0.0}, "trace": self._trace},
        )
        _thread.deadlines = deadlines
        try:
            return self._exchange(request, proxy, deadlines)
        except BaseException as error:
            # httpcore keeps a connection whose handshake through a proxy failed, as if it were in
            # use. Four of them would fill the pool, and the next request would wait forever.
            self.close_thread()
            if isinstance(error, _FAILURES):
                raise _transport_error(error, deadlines) from error
            raise
        finally:
            del _thread.deadlines

    def _exchange(
        self, request: httpcore.Request, proxy: Proxy | None, deadlines: Deadlines
    ) -> tuple[int, list[tuple[bytes, bytes]], bytearray]:
        answer = self._pool(proxy).handle_request(request)
        body = bytearray()
        try:
            for chunk in answer.iter_stream():
                body += chunk
                if len(body) > deadlines.answer_max_bytes:
                    break
            else:
                if not _is_whole(answer, bytes(deadlines.answer), bytes(body)):
                    # What is left over would be read as the next answer. httpcore drops a
                    # connection whose socket is closed.
                    answer.extensions["network_stream"].close()
        finally:
            # A connection with an unread rest of an answer is closed, not used again.
            answer.close()
        return answer.status, answer.headers, body

    def close_thread(self) -> None:
        """Close this thread's connections."""
        for pool in self._own.pools.values():
            pool.close()
            with self._lock:
                self._open.discard(pool)
        self._own.pools.clear()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for pool in self._open:
                pool.close()

    def _pool(self, proxy: Proxy | None) -> httpcore.ConnectionPool:
        tls = self._tls
        if self._own.tls is not tls:
            # A connection of the former context may use a certificate that is no longer trusted.
            self.close_thread()
            self._own.tls = tls
        pool = self._own.pools.get(proxy)
        if pool is None:
            pool = self._own.pools[proxy] = httpcore.ConnectionPool(
                ssl_context=tls,
                proxy=httpcore.Proxy(proxy.origin, proxy.auth) if proxy else None,
                max_connections=CONNECTIONS,
                keepalive_expiry=KEEPALIVE_S,
                http1=True,
                # httpcore#1082: large bodies drive HTTP/2's window negative.
                http2=False,
                network_backend=_Backend(self._addresses),
            )
            with self._lock:
                self._open.add(pool)
        return pool


def _is_whole(answer: httpcore.Response, read: bytes, body: bytes) -> bool:
    """Return whether an answer ends where its connection was read to, and announces no more."""
    headers = {name.lower(): value for name, value in answer.headers}
    content = read.partition(b"\r\n\r\n")[2]
    chunked = b"transfer-encoding" in headers
    if answer.status in _NO_BODY:
        announced = chunked or headers.get(b"content-length", b"0").strip() != b"0"
        return not content and not announced
    if chunked:
        # The first end of a chunked body must be the end of what was read.
        return (b"\r\n" + content).partition(b"\r\n0\r\n\r\n")[1:] == (b"\r\n0\r\n\r\n", b"")
    return content == body


def _transport_error(error: Exception, deadlines: Deadlines) -> TransportError:
    """Return the error for a request that has no answer."""
    detail = masked(str(error)) or type(error).__name__
    header = _ILLEGAL_HEADER.search(detail)
    if header is not None:
        reason = f"the answer has an illegal header line: {header.group(1)}"
        return TransportError(Code.MALFORMED_ANSWER, reason)
    # The server closed the idle connection while this request was on its way.
    stale = deadlines.was_idle and not deadlines.answer and not isinstance(error, TooSlow)
    code = Code.HOST_SHORTAGE if isinstance(error, HostShortage) else _code_of(error)
    return TransportError(code, detail, stale=stale)


def _code_of(error: Exception) -> Code:
    cause = error.__cause__ or error.__context__
    match error:
        case httpcore.ProxyError():
            code = Code.PROXY
        case httpcore.ConnectTimeout():
            code = Code.CONNECT_TIMEOUT
        case TooSlow() | httpcore.TimeoutException():
            code = Code.TOO_SLOW
        case httpcore.ConnectError() if isinstance(cause, ssl.SSLError):
            code = Code.TLS
        case httpcore.ConnectError() if not isinstance(cause, socket.gaierror):
            code = Code.REFUSED
        # Python's codec for host names raises `UnicodeError` for an impossible name.
        case httpcore.ConnectError() | UnicodeError():
            code = Code.DNS
        # TLS 1.3 refuses a client's certificate only after the handshake.
        case httpcore.NetworkError() if _refuses_certificate(cause):
            code = Code.TLS
        case _:
            code = Code.CONNECTION_LOST
    return code


def _refuses_certificate(cause: BaseException | None) -> bool:
    """Return whether the server refused TLS without a client certificate it trusts."""
    reason = getattr(cause, "reason", None) or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)
