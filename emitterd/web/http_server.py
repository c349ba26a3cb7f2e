"""The HTTP server of pages, metrics and health: starlette on uvicorn's connections.

A handler runs in a pool of threads, because it reads the journal. A handler of a route with
`RequestBody.STREAM` runs in the event loop instead, and reads the body itself.

With too many connections, the server ends the oldest one that waits for its client: the client has
not sent its whole request, or does not read the answer. `/healthz` and `/metrics` have threads of
their own. A burst of connections ends no new one before its request can be read.

Measured on 2 busy cores with the limits below: 50 clients with slow headers are cut off after 5 s,
20 that do not read after 15 s, and beside 10,000 idle connections a request is answered within 2 s.
With http.server and waitress the last takes more than 60 s. waitress also keeps a thread for each
event stream, and buffers a whole upload on disk. uvicorn takes 2 MiB more than either.
"""

import asyncio
import base64
import errno
import hmac
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from itertools import islice, takewhile
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

import structlog
import uvicorn
from starlette import routing
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from emitterd.shutdown import Shutdown
from emitterd.text import printable
from emitterd.web.endpoint import Endpoint

__all__ = [
    "ClientDisconnect",
    "Handler",
    "HttpServer",
    "Request",
    "RequestBody",
    "Response",
    "Route",
    "StreamHandler",
    "keep_open",
    "parameters",
    "streamed",
]

THREADS = 8
"""Number of handlers of pages that run at the same time."""

RESERVED_THREADS = 2
"""The same for the routes that `Route.reserved` marks."""

CONNECTIONS = 100
"""Number of open connections: few beside the 1024 files that a service may open."""

CONNECTIONS_MAX = 300
"""The same in a burst. The server may accept 200 connections before it reads the request of the one
that came before them."""

BURST_S = 0.25
"""With more than `CONNECTIONS`, a client has this time to send its request before its connection
makes room."""

REQUESTS = 64
"""Number of pages that are made, or wait for a thread, at the same time. The other connections can
make room for a new one: see `_Connection.waits_for_client`."""

SILENCE_S = 5.0
"""A client must have sent the headers of its request within this time."""

DEADLINE_S = 15.0
"""A connection is closed after this time, however slowly its client reads."""

FORM_S = 5.0
"""The body of a form must arrive within this time."""

FORM_MAX_BYTES = 64 * 1024
FORM_FIELDS_MAX = 100
FORM_TYPE = "application/x-www-form-urlencoded"

RETRY_S = 30.0
"""An address that is taken is tried again after this time."""

SILENT = logging.CRITICAL + 1
"""uvicorn logs nothing: handlers' errors are logged here, requests are no events."""

Handler = Callable[[Request], Response]
StreamHandler = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


class RequestBody(Enum):
    """What a route does with the body of a POST request.

    `FORM`: the server reads it into `request.state.form`, a mapping of texts. `STREAM`: the
    handler is a coroutine function and reads `request.stream()`, with its own limits of size and
    silence; it calls what blocks by `await request.state.run(function, *arguments)`.
    """

    NONE = "none"
    FORM = "form"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and the handler that answers there. `{name:path}` in the path matches any rest.

    GET includes HEAD. `deadline_s`: the server closes the connection after this time. `reserved`:
    threads of its own answer it, so that it answers however busy the others are.
    """

    path: str
    handler: Handler | StreamHandler
    methods: tuple[str, ...] = ("GET",)
    body: RequestBody = RequestBody.NONE
    deadline_s: float = DEADLINE_S
    reserved: bool = False


class HttpServer:
    """Serves routes; the first that matches a path and a method answers."""

    def __init__(
        self, endpoint: Endpoint, routes: Sequence[Route], token: str | None, public_host: str = ""
    ) -> None:
        """`token`: what a client must show, or None if the endpoint is local.

        `public_host`: the Host header that a TLS proxy sends.
        """
        self._public_host = public_host
        self._endpoint = endpoint
        self._routes = routes
        self._token = token
        self._reported = False

    def run(self, shutdown: Shutdown) -> None:
        """Serve until the daemon drains. Call it in a thread of its own."""
        while not shutdown.draining:
            try:
                listener = self._endpoint.listen()
            except OSError as error:
                self._report_taken(error)
                shutdown.wait_for_drain(RETRY_S)
                continue
            self._reported = False
            log.info("web.served", address=str(self._endpoint))
            try:
                asyncio.run(self._serve(listener, shutdown))
            except OSError as error:
                self._report_taken(error)
                shutdown.wait_for_drain(RETRY_S)
            finally:
                self._endpoint.close(listener)

    def _report_taken(self, error: OSError) -> None:
        if not self._reported:
            log.error(
                "web.unserved",
                address=str(self._endpoint),
                reason=error.strerror or str(error),
                hint="free the address, or set another in web.listen; deliveries"
                " go on, and emitterd tries the address again",
            )
        self._reported = True

    async def _serve(self, listener: socket.socket, shutdown: Shutdown) -> None:
        # uvicorn's own Server wakes ten times a second, also when nothing happens.
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_loop_error)
        pools = _Pools()
        config = uvicorn.Config(
            _AccessControl(self._app(pools), self._endpoint, self._token, self._public_host),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=SILENT,
            access_log=False,
            proxy_headers=False,
        )
        state, connections = ServerState(), _OpenConnections(loop)
        server = await loop.create_server(
            lambda: _Connection(config, state, connections), sock=listener
        )
        drained = asyncio.Event()

        def stop() -> None:
            # The loop has ended where this thread has failed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(drained.set)

        shutdown.on_drain(stop)
        await drained.wait()
        server.close()
        # asyncio accepts each connection in a task, which would leak its socket.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()} - state.tasks:
            await asyncio.wait(tasks)
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        pools.shutdown()

    def _app(self, pools: "_Pools") -> Starlette:
        return Starlette(
            routes=[
                routing.Route(item.path, _endpoint(item, pools), methods=list(item.methods))
                for item in self._routes
            ],
            exception_handlers={Exception: _internal_error},
        )


class _Pools:
    """The threads in which handlers run. Its methods belong to the event loop."""

    def __init__(self) -> None:
        self._threads = _start_pool(THREADS, "http")
        try:
            self._reserved = _start_pool(RESERVED_THREADS, "http-reserved")
        except OSError:
            self._threads.shutdown(wait=False)
            raise
        self._requests = 0

    def run(self, function: Callable[..., Any], *arguments: object) -> Awaitable[Any]:
        """Call a function that blocks."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def answer(self, route: Route, request: Request) -> Response:
        """Call the handler of a request that has arrived. Raises `HTTPException` if busy."""
        handler = cast("Handler", route.handler)
        if route.reserved:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reserved, handler, request)
        if self._requests >= REQUESTS:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many requests: try again\n",
                {"Retry-After": "5"},
            )
        self._requests += 1
        try:
            # A handler reads the journal, which may take time: not in the loop's thread.
            return cast("Response", await self.run(handler, request))
        finally:
            self._requests -= 1

    def shutdown(self) -> None:
        """End the threads when their handlers have ended."""
        self._threads.shutdown(wait=False)
        self._reserved.shutdown(wait=False)


def _start_pool(number: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads run: later, at a limit of threads, none might start."""
    pool, barrier = ThreadPoolExecutor(number, name), threading.Barrier(number)
    try:
        for _ in range(number):
            pool.submit(barrier.wait)
    except RuntimeError as error:
        barrier.abort()
        pool.shutdown(wait=False)
        raise OSError(errno.EAGAIN, str(error)) from error
    return pool


def _endpoint(route: Route, pools: _Pools) -> StreamHandler:
    async def endpoint(request: Request) -> Response:
        request.state.run = pools.run
        if route.deadline_s != DEADLINE_S:
            request.state.connection.close_after(route.deadline_s)
        if route.body is RequestBody.STREAM:
            return await cast("StreamHandler", route.handler)(request)
        if route.body is RequestBody.FORM and request.method == "POST":
            request.state.form = await _read_form(request)
        return await pools.answer(route, request)

    return endpoint


async def _read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form. Raises `HTTPException`, which is an answer."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {FORM_TYPE}\n")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for chunk in request.stream():
                # A larger body is read to its end: a client that still sends loses the answer.
                if len(body) <= FORM_MAX_BYTES:
                    body += chunk
        if len(body) > FORM_MAX_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the form is too large\n")
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=FORM_FIELDS_MAX,
        )
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "the form came too slowly\n") from None
    except (ClientDisconnect, ValueError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "this is no form\n") from None
    return dict(fields)


def form_fields(request: Request) -> Mapping[str, str]:
    """Return the fields of the form that a request brought; none if it brought none."""
    fields: Mapping[str, str] = getattr(request.state, "form", {})
    return fields


def parameters(request: Request) -> dict[str, str]:
    """Return what an address has behind its question mark."""
    # A byte that is not UTF-8 stays that byte: names are bytes.
    text = request.scope["query_string"].decode("latin-1")
    query = parse_qs(text, errors="surrogateescape")
    return {name: values[0] for name, values in query.items()}


def streamed(
    request: Request, chunks: Iterator[bytes], headers: Mapping[str, str], media_type: str
) -> Response:
    """Return a response whose body comes chunk by chunk, so that it needs little memory.

    Each chunk may be read in another thread of the pool, and a client that goes away ends the
    reading after any chunk. So `chunks` must keep nothing open between two of them. The route needs
    a longer `deadline_s`, and few of them may run: see `keep_open`.
    """
    keep_open(request)

    async def body() -> AsyncIterator[bytes]:
        began_s = time.monotonic()
        while (chunk := await request.state.run(next, chunks, None)) is not None:
            took_s = time.monotonic() - began_s
            yield chunk
            # Python runs one thread at a time: half of the time is for the uploads.
            await asyncio.sleep(took_s)
            began_s = time.monotonic()
        keep_open(request, kept=False)

    return StreamingResponse(body(), HTTPStatus.OK, headers, media_type)


def keep_open(request: Request, *, kept: bool = True) -> None:
    """Keep the connection of a request, also while it waits for a slow client; or no longer.

    For requests that a handler limits to a few, such as downloads.
    """
    request.state.is_kept = kept


async def _internal_error(request: Request, error: Exception) -> Response:
    path = printable(request.scope["path"])
    log.error("web.failed", path=path, exc_info=error)
    return PlainTextResponse("internal error\n", HTTPStatus.INTERNAL_SERVER_ERROR)


def _report_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    # An OSError is about one connection, or no descriptors are left: asyncio waits.
    if not isinstance(error, OSError):
        reason = context["message"]
        log.error("web.failed", path="", reason=reason, exc_info=error)


class _Connection(H11Protocol):
    """One connection. uvicorn limits neither its time nor the number of them."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, open_connections: "_OpenConnections"
    ) -> None:
        super().__init__(config, state, {"connection": self})
        self._open = open_connections
        self._timers: list[asyncio.TimerHandle] = []
        self.opened_s = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.server_state.default_headers = [
            (b"server", b"emitterd"),
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]
        self._timers = [
            self.loop.call_later(SILENCE_S, self._abort_silent),
            self.loop.call_later(DEADLINE_S, self.transport.abort),
        ]
        self._open.add(self)

    def close_after(self, deadline_s: float) -> None:
        """Close the connection this long from now, in place of its deadline."""
        self._timers.pop().cancel()
        self._timers.append(self.loop.call_later(deadline_s, self.transport.abort))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._open.remove(self)
        for timer in self._timers:
            timer.cancel()

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has not sent its whole request, or does not read the answer."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None:
            return True
        if self.scope["state"].get("is_kept"):
            return False
        return cycle.more_body or self.transport.get_write_buffer_size() > 0

    def _abort_silent(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None:
            self.transport.abort()


class _OpenConnections:
    """The open connections, the oldest first. Its methods belong to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: dict[_Connection, None] = {}
        self._is_planned = False

    def __iter__(self) -> Iterator[_Connection]:
        return iter(self._open)

    def add(self, connection: _Connection) -> None:
        """Add a new connection; one that waits for its client makes room, if there are too many."""
        self._open[connection] = None
        if len(self._open) > CONNECTIONS_MAX:
            self._end_oldest(1, self._loop.time())
        elif len(self._open) > CONNECTIONS:
            self._plan()

    def remove(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        self._open.pop(connection, None)

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_later(BURST_S, self._make_room)

    def _make_room(self) -> None:
        self._is_planned = False
        self._end_oldest(len(self._open) - CONNECTIONS, self._loop.time() - BURST_S)
        if len(self._open) > CONNECTIONS:
            self._plan()

    def _end_oldest(self, number: int, until_s: float) -> None:
        old = takewhile(lambda item: item.opened_s <= until_s, self._open)
        waiting = (item for item in old if item.waits_for_client)
        for connection in list(islice(waiting, max(0, number))):
            self.remove(connection)
            connection.transport.abort()


class _AccessControl:
    """Decides who may ask, before a handler sees the request.

    On a Unix socket: everybody who may open it. On a loopback address: every user of this machine,
    and the TLS proxy by the fixed name of its host. Any other name is refused, because another
    site's name could lead here by DNS (DNS rebinding). At any other address: who sends the token.
    """

    def __init__(
        self, app: ASGIApp, endpoint: Endpoint, token: str | None, public_host: str
    ) -> None:
        self._app = app
        self._public_host = public_host
        self._is_socket = endpoint.path is not None
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        # The token is no business of a handler.
        scope["headers"] = [
            (name, value) for name, value in scope["headers"] if name != b"authorization"
        ]
        application = self._refusal(headers) or self._app
        await application(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        if self._token is not None:
            if has_token(headers.get("authorization", ""), self._token):
                return None
            return PlainTextResponse(
                "the token is missing or wrong (web.token_file): send it as a"
                " bearer token, or as the password of any user\n",
                HTTPStatus.UNAUTHORIZED,
                {"WWW-Authenticate": 'Basic realm="emitterd", charset="UTF-8"'},
            )
        host = headers.get("host", "")
        if self._is_socket or is_own(host) or (host and host.lower() == self._public_host):
            return None
        return PlainTextResponse(
            "use an address, such as 127.0.0.1, or localhost; or set web.public_url to the address"
            " of the proxy\n",
            HTTPStatus.MISDIRECTED_REQUEST,
        )


def has_token(authorization: str, token: str) -> bool:
    """Return whether a header has the token: as Bearer, or as Basic's password."""
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
    """Return whether a Host header is one that no other site can have.

    That is an address, `localhost`, or none: a browser always sends the header.
    """
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return host == "" or name == "localhost"
    return True
