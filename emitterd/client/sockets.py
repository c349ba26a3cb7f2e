"""Sockets that never wait without bound: httpcore's documented network backend.

httpx's timeouts count from the last byte, so a dribbling answer or a reader of one
byte a second never ends. Here sending must keep a minimum speed, the answer must be
whole in time, and a stop of the daemon ends either within `POLL_S`.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpcore

from emitterd import heartbeat
from emitterd.client.bandwidth import Throttle
from emitterd.client.responses import BrokenConnection
from emitterd.shutdown import Shutdown

# The bounds of one request: how slow it may be, how fast, and that a stop ends it.
# Whoever moves bytes asks here before each try, and tries again every `sockets.POLL_S`
# while the line is blocked.


class Stopped(Exception):
    """The daemon is stopping and gave the request up."""


class TooSlow(Exception):
    """What is sent or answered goes more slowly than its limits allow."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """The bounds: seconds, and bytes a second."""

    connect_s: float
    stall_s: float
    minimum_bytes_s: int


_observing = threading.local()


def observe_body(observer: Callable[[int], None] | None) -> None:
    """Call `observer` with the size in bytes of each part of a body this thread sends.

    None ends it.
    """
    _observing.observer = observer


def _observer() -> Callable[[int], None] | None:
    observer: Callable[[int], None] | None = getattr(_observing, "observer", None)
    return observer


@dataclass(slots=True)
class Deadlines:
    """A request under way, of one thread."""

    limits: TransferLimits
    shutdown: Shutdown
    throttle: Throttle | None
    """Of a body; None for all other requests."""
    window_at: float | None = None
    window_bytes: int = 0
    answer_by: float | None = None

    def portion(self, size_bytes: int) -> int:
        """Return how much of it may go out now; wait where the limit demands it."""
        if self.throttle is None or not self.throttle.limited:
            return size_bytes
        began_at = time.monotonic()
        size_bytes = self.throttle.take(size_bytes, self.check_stop)
        if self.window_at is not None:
            # To wait for our own limit is not to be slow.
            self.window_at += time.monotonic() - began_at
        return size_bytes

    def moved(self, count: int) -> None:
        """Note that so many bytes went out."""
        self.window_bytes += count
        if self.throttle is not None and (observer := _observer()) is not None:
            observer(count)

    def check_sending(self) -> None:
        """Raise `Stopped`, or `TooSlow` where a whole window went by too slowly."""
        self.check_stop()
        # Reading may have begun before: a proxy answers CONNECT first.
        self.answer_by = None
        now = time.monotonic()
        if self.window_at is None:
            self.window_at = now
        if now - self.window_at < self.limits.stall_s:
            return
        least = max(1.0, self.limits.minimum_bytes_s * (now - self.window_at))
        if self.window_bytes < least:
            raise TooSlow(
                f"{self.window_bytes} bytes went out in {now - self.window_at:.0f} s"
            )
        self.window_at, self.window_bytes = now, 0

    def check_reading(self) -> None:
        """Raise `Stopped`, or `TooSlow` where the answer is not whole in time."""
        self.check_stop()
        now = time.monotonic()
        if self.answer_by is None:
            self.answer_by = now + self.limits.stall_s
        if now >= self.answer_by:
            raise TooSlow(f"no whole answer within {self.limits.stall_s:.0f} s")

    def check_stop(self) -> None:
        """Give a sign of life; raise `Stopped` where the daemon stops."""
        # A slow line is no standstill: how slow it may be is bounded here.
        heartbeat.record()
        if self.shutdown.now.is_set():
            raise Stopped


T = TypeVar("T")

POLL_S = 0.25
"""How often a blocked socket looks whether the daemon is to stop."""

TOGETHER_BYTES = 64 * 1024
"""A piece below this is copied to the head of its request rather than sent apart."""

NAMES_S = 60.0
"""How long the resolver may go on by itself: three servers, asked twice, 5 s each, and
again with a search domain. Source: resolv.conf(5)."""

ADDRESSES = 8
"""A host may have so many, and each is given the whole time to connect."""

CONNECTIONS = 4
"""A thread has so many connections at most: API, bucket, and where one redirects to."""

KEEPALIVE_S = 10.0
"""Below every common server's own limit, so that it is we who close idle lines."""


class TransportError(Exception):
    """A request ended without an answer; `how` says in which way."""

    def __init__(self, how: BrokenConnection, detail: str) -> None:
        super().__init__(detail)
        self.how = how


_current = threading.local()


class _Stream(httpcore.NetworkStream):
    """A socket that never blocks longer than `POLL_S` without a look around.

    A request's head goes out together with what follows it: a small file is one
    packet to send, and one to wake up for.
    """

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._head: bytes | None = b""
        """What is held back of a request that begins; None once it is under way."""
        self._socket: socket.socket = inner.get_extra_info("socket")
        self._socket.settimeout(POLL_S)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        transfer: Deadlines = _current.transfer
        self._let_go(transfer)
        return self._patiently(
            lambda: self._socket.recv(max_bytes),
            transfer.check_reading,
            httpcore.ReadError,
        )

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        transfer: Deadlines = _current.transfer
        if self._head is not None:
            if not self._head and len(buffer) < TOGETHER_BYTES:
                self._head = buffer
                return
            head, self._head = self._head, None
            if len(buffer) < TOGETHER_BYTES:
                buffer = head + buffer
            else:
                self._send(head, transfer)
        self._send(buffer, transfer)

    def _let_go(self, transfer: Deadlines) -> None:
        """Send what is held back, as an answer is waited for; hold the next head."""
        head, self._head = self._head, b""
        if head:
            # Whoever refuses it may have answered all the same.
            with suppress(httpcore.WriteError):
                self._send(head, transfer)

    def _send(self, buffer: bytes, transfer: Deadlines) -> None:
        left, allowed = memoryview(buffer), 0
        while left:
            allowed = allowed or transfer.portion(len(left))
            count = self._patiently(
                lambda part=left[:allowed]: self._socket.send(part),  # type: ignore[misc]
                transfer.check_sending,
                httpcore.WriteError,
            )
            transfer.moved(count)
            allowed -= count
            left = left[count:]

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        heartbeat.silence(timeout or 0.0)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  httpcore's signature
        return self._inner.get_extra_info(info)

    @staticmethod
    def _patiently(
        operation: Callable[[], T], check: Callable[[], None], failure: type[Exception]
    ) -> T:
        while True:
            check()
            try:
                return operation()
            except TimeoutError:
                continue
            except OSError as error:
                raise failure(str(error)) from error


class _Backend(httpcore.NetworkBackend):
    """httpcore's own backend with watched sockets."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        heartbeat.silence(NAMES_S + ADDRESSES * (timeout or 0.0))
        stream = self._inner.connect_tcp(
            host, port, timeout, local_address, socket_options
        )
        return _Stream(stream)


class Proxy(NamedTuple):
    """An HTTP proxy: its origin, and user name and password where it wants them."""

    origin: str
    auth: tuple[str, str] | None


class ConnectionTarget(NamedTuple):
    """Where a request goes, in the raw form that httpx and httpcore share."""

    scheme: bytes
    host: bytes
    port: int | None
    target: bytes


class _ThreadPools(threading.local):
    def __init__(self) -> None:
        self.pools: dict[Proxy | None, httpcore.ConnectionPool] = {}


class Pools:
    """Connections, pooled for each thread and proxy. Thread-safe.

    httpcore looks at each connection of a pool twice a request, under a lock: with one
    pool for 64 workers that was half of the time.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._own = _ThreadPools()
        self._lock = threading.Lock()
        self._open: set[httpcore.ConnectionPool] = set()

    def send(
        self,
        method: str,
        place: ConnectionTarget,
        headers: list[tuple[bytes, bytes]],
        content: Iterable[bytes],
        *,
        extensions: MutableMapping[str, Any],
        proxy: Proxy | None,
    ) -> httpcore.Response:
        """Send a request, directly or through a proxy; the answer's body is unread."""
        scheme, host, port, target = place
        return self._pool(proxy).handle_request(
            httpcore.Request(
                method,
                httpcore.URL(scheme=scheme, host=host, port=port, target=target),
                headers=headers,
                content=content,
                extensions=extensions,
            )
        )

    def leave(self) -> None:
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
        pool = self._own.pools.get(proxy)
        if pool is None:
            pool = self._own.pools[proxy] = httpcore.ConnectionPool(
                ssl_context=self._tls,
                proxy=httpcore.Proxy(proxy.origin, proxy.auth) if proxy else None,
                max_connections=CONNECTIONS,
                keepalive_expiry=KEEPALIVE_S,
                http1=True,
                # httpcore#1082: large bodies drive HTTP/2's window negative.
                http2=False,
                network_backend=_Backend(),
            )
            with self._lock:
                self._open.add(pool)
        return pool


@contextmanager
def watched(
    limits: TransferLimits, shutdown: Shutdown, throttle: Throttle | None = None
) -> Iterator[None]:
    """Bound every wait of this thread's request; a body is one that has a throttle.

    Raises `TransportError` in place of httpcore's errors, and `Stopped`.
    """
    _current.transfer = Deadlines(limits, shutdown, throttle)
    try:
        yield
    except UnicodeError as error:
        raise TransportError(BrokenConnection.DNS, _detail(error)) from error
    except httpcore.ProxyError as error:
        raise TransportError(BrokenConnection.PROXY, _detail(error)) from error
    except httpcore.ProtocolError as error:
        raise TransportError(BrokenConnection.LOST, _detail(error)) from error
    except TooSlow as error:
        raise TransportError(BrokenConnection.SLOW, _detail(error)) from error
    except (httpcore.TimeoutException, httpcore.NetworkError) as error:
        raise TransportError(_how(error), _detail(error)) from error
    finally:
        del _current.transfer


def _how(error: Exception) -> BrokenConnection:
    if isinstance(error, httpcore.ConnectTimeout):
        return BrokenConnection.CONNECT_TIMEOUT
    if isinstance(error, httpcore.TimeoutException):
        return BrokenConnection.SLOW
    cause = error.__cause__ or error.__context__
    if not isinstance(error, httpcore.ConnectError):
        return (
            BrokenConnection.TLS
            if refuses_certificate(cause)
            else BrokenConnection.LOST
        )
    if isinstance(cause, socket.gaierror):
        return BrokenConnection.DNS
    return (
        BrokenConnection.TLS
        if isinstance(cause, ssl.SSLError)
        else BrokenConnection.REFUSED
    )


def _detail(error: Exception) -> str:
    return str(error) or type(error).__name__


def refuses_certificate(cause: BaseException | None) -> bool:
    """Tell whether the server ended TLS for want of a client certificate it trusts."""
    reason = getattr(cause, "reason", None) or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)
