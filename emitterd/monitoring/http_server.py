"""The HTTP server of page, metrics and health: starlette on uvicorn's connections.

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
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from emitterd.errors import JournalError
from emitterd.monitoring.alarms import AlarmLevel, Health
from emitterd.monitoring.endpoint import Endpoint
from emitterd.monitoring.status import health_record
from emitterd.shutdown import Shutdown
from emitterd.text import printable

__all__ = ["Handler", "HttpServer", "Request", "Response", "healthz", "readyz"]

THREADS = 8
"""Number of handlers that run at the same time."""

CONNECTIONS = 100
"""Number of open connections: few beside the 1024 files that a service may open."""

SILENCE_S = 5.0
"""A client must have sent the headers of its request within this time."""

DEADLINE_S = 15.0
"""A connection is closed after this time, however slowly its client reads."""

RETRY_S = 30.0
"""An address that is taken is tried again after this time."""

SILENT = logging.CRITICAL + 1
"""uvicorn logs nothing: handlers' errors are logged here, requests are no events."""

Handler = Callable[[Request], Response]

log = structlog.get_logger()


class HttpServer:
    """Serves handlers by path; the one for `/` has every other path too."""

    def __init__(
        self, endpoint: Endpoint, handlers: Mapping[str, Handler], token: str | None
    ) -> None:
        """`token`: what a client must show, or None if the endpoint is local."""
        self._endpoint = endpoint
        self._handlers = handlers
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
        threads = _start_pool()
        config = uvicorn.Config(
            _AccessControl(self._app(threads), self._endpoint, self._token),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=SILENT,
            access_log=False,
            proxy_headers=False,
        )
        state, connections = ServerState(), list[_Connection]()
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
        threads.shutdown(wait=False)

    def _app(self, threads: ThreadPoolExecutor) -> Starlette:
        handlers = dict(self._handlers)
        if "/" in handlers:
            handlers["/{path:path}"] = handlers.pop("/")
        return Starlette(
            routes=[_route(path, call, threads) for path, call in handlers.items()],
            exception_handlers={Exception: _internal_error},
        )


def _start_pool() -> ThreadPoolExecutor:
    """Return a pool whose threads run: later, at a limit of threads, none might start."""
    pool, barrier = ThreadPoolExecutor(THREADS, "http"), threading.Barrier(THREADS)
    try:
        for _ in range(THREADS):
            pool.submit(barrier.wait)
    except RuntimeError as error:
        barrier.abort()
        pool.shutdown(wait=False)
        raise OSError(errno.EAGAIN, str(error)) from error
    return pool


def _route(path: str, handler: Handler, threads: ThreadPoolExecutor) -> Route:
    async def endpoint(request: Request) -> Response:
        # A handler reads the journal, which may take time: not in the loop's thread.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, handler, request)

    return Route(path, endpoint, methods=["GET"])


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
        self, config: uvicorn.Config, state: ServerState, open_connections: list["_Connection"]
    ) -> None:
        super().__init__(config, state, {})
        self._open = open_connections
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.server_state.default_headers = [
            (b"server", b"emitterd"),
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]
        self._open.append(self)
        self._timers = [
            self.loop.call_later(SILENCE_S, self._abort_silent),
            self.loop.call_later(DEADLINE_S, self.transport.abort),
        ]
        if len(self._open) > CONNECTIONS:
            # The oldest that has not sent a request yet makes room.
            oldest = next(filter(_is_silent, self._open))
            self._open.remove(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self in self._open:
            self._open.remove(self)
        for timer in self._timers:
            timer.cancel()

    def _abort_silent(self) -> None:
        if _is_silent(self):
            self.transport.abort()


def _is_silent(connection: _Connection) -> bool:
    cycle: object = connection.cycle
    return cycle is None


class _AccessControl:
    """Decides who may ask, before a handler sees the request.

    On a Unix socket everybody who may open it. On a loopback address every user of this machine,
    but no page of another site: its name could lead here by DNS (DNS rebinding). Elsewhere only who
    has the token.
    """

    def __init__(self, app: ASGIApp, endpoint: Endpoint, token: str | None) -> None:
        self._app = app
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
        if self._is_socket or is_own(headers.get("host", "")):
            return None
        return PlainTextResponse(
            "use an address, such as 127.0.0.1, or localhost\n", HTTPStatus.MISDIRECTED_REQUEST
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


def healthz(health: Callable[[], Health]) -> Handler:
    """Return the handler of `/healthz`: 503 where an alarm is critical."""

    def handler(_: Request) -> Response:
        try:
            judged = health()
        except JournalError as error:
            reason = {"level": AlarmLevel.CRITICAL, "reason": str(error)}
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        critical = judged.level is AlarmLevel.CRITICAL
        status = HTTPStatus.SERVICE_UNAVAILABLE if critical else HTTPStatus.OK
        return _json(status, health_record(judged))

    return handler


def readyz(ready: Callable[[], bool]) -> Handler:
    """Return the handler of `/readyz`: 200 between start and stop of the daemon."""

    def handler(_: Request) -> Response:
        is_ready = ready()
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"ready": is_ready})

    return handler


def _json(status: HTTPStatus, value: Mapping[str, object]) -> Response:
    return Response(
        json.dumps(value, indent=2) + "\n",
        status,
        {"Cache-Control": "no-store"},
        "application/json",
    )
