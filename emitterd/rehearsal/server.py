"""The rehearsal server: an emission API and its bucket, on disk, with faults on order.

It speaks the protocol of cQube 1.1 to 4.1 over S3 on one port: `/data/auth`,
`/data/upload-url`, lists and downloads, and a bucket under `/bucket/` that checks the
signature of every POST. It serves in a thread of its own, and stops within a second
even while faulted requests hang.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from emitterd.rehearsal.api import Logins
from emitterd.rehearsal.bucket import Bucket, BucketObject
from emitterd.rehearsal.endpoints import (
    ConnectionLost,
    Endpoints,
    Exchange,
    Handler,
    RequestRecord,
)
from emitterd.rehearsal.faults import FaultMenu, FaultMenuError, FaultStage
from emitterd.rehearsal.responses import NO_ROUTE, Reply

__all__ = [
    "BucketObject",
    "FaultMenu",
    "FaultMenuError",
    "RehearsalServer",
    "RequestRecord",
]

_USERNAME = "emission"
_PASSWORD = "rehearsal"  # noqa: S105  it opens nothing real
_BACKLOG = 1024
_GRACE_S = 1.0
_START_LIMIT_S = 10.0
_KEEP_ALIVE_S = 60
_NO_LINGER = struct.pack("ii", 1, 0)


class RehearsalServer:
    """An emission server to try things on; also a context manager.

    `directory` holds the objects, also those of a former run. Port 0 takes a free
    port at the first start, and keeps it for later ones. With an `api_key` the login
    is gone, as from cQube 1.7 on, unless a user name or password of one's own is
    given too. `latency_s`: seconds that every request waits before it is served.
    `redirect_first`: the first POST of each key is sent on to `/bucket-regional/`.
    With `tls` everything is https.

    `faults` may be replaced at any time; `fired` counts those that really happened.
    `requests` grows as requests arrive; status, name and bytes follow on the way.
    `objects` holds what is stored, by key; an item taken out is gone from the bucket.
    """

    def __init__(  # noqa: PLR0913  all by keyword, and each of its own kind
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        username: str = _USERNAME,
        password: str = _PASSWORD,
        api_key: str | None = None,
        faults: FaultMenu | None = None,
        token_lifetime_s: float = 1800,
        grant_lifetime_s: float = 3600,
        latency_s: float = 0.0,
        redirect_first: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        own_login = (username, password) != (_USERNAME, _PASSWORD)
        login = api_key is None or own_login
        self.host = host
        self.port = port
        self.latency_s = latency_s
        self._tls = tls
        self.faults = faults or FaultMenu()
        self.bucket = Bucket(directory)
        self.objects = self.bucket.objects
        self.requests: list[RequestRecord] = []
        self._doorkeeper = Logins(
            username, password if login else None, api_key, token_lifetime_s
        )
        self._desk = Endpoints(
            self.bucket,
            self._doorkeeper,
            lambda: self.faults,
            grant_lifetime_s=grant_lifetime_s,
            redirect_first=redirect_first,
        )
        self.fired = self._desk.fired
        self._lines: set[_Line] = set()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The emission url to configure. The port is known once it has started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/data"

    def revoke_tokens(self) -> None:
        """Void every token issued so far, as if all had expired at once."""
        self._doorkeeper.revoke()

    def start(self) -> None:
        """Bind and serve in the background; return when connections are accepted.

        Raise OSError where the address cannot be had.
        """
        if self._thread is not None:
            raise RuntimeError("the rehearsal server is running")
        self.bucket.open()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family)
        # asyncio would set it, but overlooks sockets that were made elsewhere.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        accepting = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, accepting)),
            name="rehearsal",
            daemon=True,
        )
        self._thread.start()
        if not accepting.wait(_START_LIMIT_S):
            raise RuntimeError("the rehearsal server did not start")

    def stop(self) -> None:
        """Cut all connections and stop serving. Idempotent; it may start again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    async def _serve(self, listener: socket.socket, accepting: threading.Event) -> None:
        # uvicorn's Server wakes ten times a second and waits for hanging requests;
        # its protocol alone, on a loop of our own, starts and stops at once.
        self._loop = asyncio.get_running_loop()
        self._stopping, self._empty = asyncio.Event(), asyncio.Event()
        config = uvicorn.Config(
            self._app(),
            loop="asyncio",
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        state = ServerState()
        server = await self._loop.create_server(
            lambda: _Line(config, state, self),
            sock=listener,
            backlog=_BACKLOG,
            ssl=self._tls,
        )
        accepting.set()
        await self._stopping.wait()
        for line in list(self._lines):
            line.transport.abort()
        # asyncio makes each accepted connection in a task of its own, which fails
        # silently, and leaks the socket, where the server was closed meanwhile.
        if under_way := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(under_way, timeout=_GRACE_S)
        server.close()
        if self._lines:
            self._empty.clear()
            await self._empty.wait()

    def line_made(self, line: "_Line") -> None:
        """Take note of a connection; a fault may end it right here."""
        self._lines.add(line)
        if self._stopping.is_set():
            line.transport.abort()
        elif fault := self.faults.draw(FaultStage.CONNECT):
            self._desk.strike(self._note("connect"), fault)
            line.reset()

    def line_lost(self, line: "_Line") -> None:
        """Forget a connection."""
        self._lines.discard(line)
        if not self._lines:
            self._empty.set()

    def _note(
        self, endpoint: str, *, authorization_present: bool = False
    ) -> RequestRecord:
        note = RequestRecord(
            time.time(), endpoint, authorization_present=authorization_present
        )
        self.requests.append(note)
        return note

    def _app(self) -> Starlette:
        app = Starlette(
            routes=[self._route(*route) for route in self._desk.routes()],
            exception_handlers={404: self._no_route},
        )
        app.router.redirect_slashes = False
        return app

    async def _no_route(self, http: HttpRequest, _: Exception) -> Response:
        note = self._note("unknown")
        note.name, note.status = http.scope["path"], NO_ROUTE.status
        return _reply(NO_ROUTE)

    def _route(self, method: str, path: str, endpoint: str, handler: Handler) -> Route:
        async def serve(http: HttpRequest) -> Response:
            note = self._note(
                endpoint, authorization_present="authorization" in http.headers
            )
            exchange = _exchange(http, note)
            line: _Line = http.state.line
            try:
                await line.idle(self.latency_s)
                answer = await handler(exchange)
            except ConnectionLost:
                answer = None
            if answer is None:
                return _NoAnswer(line)
            response = _reply(answer)
            note.status = response.status_code
            return response

        return Route(path, serve, methods=[method])


class _Line(H11Protocol):
    """One connection, which a fault can cut; requests find it in their state."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, house: RehearsalServer
    ) -> None:
        super().__init__(config, state, {"line": self})
        self._house = house
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._house.line_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost.set()
        self._house.line_lost(self)

    def reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        # Without lingering, the kernel says reset instead of an orderly end.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def hang_up(self, last_words: bytes) -> None:
        self.say(last_words)
        self.transport.close()

    def say(self, raw: bytes) -> None:
        self.transport.write(raw)

    def stop_reading(self) -> None:
        # Through uvicorn's flow control, or it would not know how to go on.
        self.flow.pause_reading()

    async def idle(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), seconds)
        if self._lost.is_set():
            raise ConnectionLost

    async def gone(self) -> None:
        """Wait until the connection is gone."""
        await self._lost.wait()


class _NoAnswer(Response):
    """Says nothing: what had to happen to the connection has happened."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        await self._line.gone()


def _exchange(http: HttpRequest, note: RequestRecord) -> Exchange:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in http.stream():
                yield chunk
        except ClientDisconnect as lost:
            raise ConnectionLost from lost

    return Exchange(
        note=note,
        line=http.state.line,
        method=http.method,
        scheme=http.url.scheme,
        path=http.scope["path"],
        host=http.headers.get("host", ""),
        query=http.scope["query_string"].decode("latin-1"),
        headers=http.headers,
        chunks=chunks,
    )


def _reply(answer: Reply | BucketObject) -> Response:
    date = {"Date": formatdate(usegmt=True)}
    if isinstance(answer, BucketObject):
        etag = {"ETag": f'"{answer.md5}"'}
        return FileResponse(answer.path, headers=date | etag)
    headers = date | dict(answer.headers)
    if answer.close:
        headers["Connection"] = "close"
    return Response(answer.body, answer.status, headers, answer.media_type)
