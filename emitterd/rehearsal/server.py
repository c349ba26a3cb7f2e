"""The rehearsal server: an emission API and its bucket, or cQube 5, with faults on request.

With the protocol `emission` it speaks that of cQube 1.1 to 4.1 over S3 on one port: `/data/auth`,
`/data/upload-url`, lists and downloads, and a bucket under `/bucket/` that checks the signature of
every POST. With `ingestion` it is the ingestion service of cQube 5 under `/api/ingestion`. It
serves in a thread of its own, and stops within a second even while faulted requests hang.
"""

import asyncio
import socket
import ssl
import threading
import time
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from emitterd.model import WireProtocol
from emitterd.rehearsal.api import Logins
from emitterd.rehearsal.bucket import Bucket, BucketObject
from emitterd.rehearsal.endpoints import Endpoints, Handler
from emitterd.rehearsal.exchange import (
    Connection,
    ConnectionLost,
    Exchange,
    RequestRecord,
    ServiceDied,
)
from emitterd.rehearsal.faults import FaultInjector, FaultList, FaultListError, FaultStage
from emitterd.rehearsal.ingestion import IngestionService
from emitterd.rehearsal.ingestion_endpoints import BASE_PATH, IngestionEndpoints
from emitterd.rehearsal.processing import Processing
from emitterd.rehearsal.responses import NO_ROUTE, RefusedError, service_error

__all__ = ["BucketObject", "FaultList", "FaultListError", "RehearsalServer", "RequestRecord"]

_USERNAME = "emission"
_PASSWORD = "rehearsal"  # noqa: S105  it opens nothing real
_BACKLOG = 1024
_GRACE_S = 1.0
_START_LIMIT_S = 10.0
_KEEP_ALIVE_S = 60


class RehearsalServer:
    """A cQube server for practice; also a context manager.

    `protocol`: `emission` (cQube 1.1 to 4.1) or `ingestion` (cQube 5). `directory` holds the
    objects, also those of a former run. Port 0 takes a free port at the first start, and keeps it
    for later ones. With an `api_key` there is no login, as from cQube 1.7 on, unless `username` or
    `password` is given too. `latency_s`: seconds that every request waits before it is
    served. With `tls` everything is https.

    `faults` may be replaced at any time; `fired` counts those that really happened. `requests`
    grows as requests arrive; status, name and bytes follow on the way. `objects` holds what is
    stored, by key; an item taken out is gone from the bucket.

    `process_after_s`: how long after an upload the server takes the object out of the bucket and
    writes the log summary, at the next look of a client. None: only `process` does that. `logs` has
    the log summaries. cQube 5 processes a file by itself at that time; `ingestion.files` has what
    it tracks.

    `restart_s`: how long nothing is served after the service died: every connection is reset.
    `fired` also counts the uploads that kill cQube 5, by the names in `ingestion.KILLED`.
    """

    def __init__(  # noqa: PLR0913  all by keyword, and each of its own kind
        self,
        directory: Path,
        *,
        protocol: WireProtocol = "emission",
        host: str = "127.0.0.1",
        port: int = 0,
        username: str = _USERNAME,
        password: str = _PASSWORD,
        api_key: str | None = None,
        faults: FaultList | None = None,
        token_lifetime_s: float = 1800,
        grant_lifetime_s: float = 3600,
        latency_s: float = 0.0,
        process_after_s: float | None = None,
        restart_s: float = 2.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.protocol = protocol
        self.host = host
        self.port = port
        self.latency_s = latency_s
        self.restart_s = restart_s
        self._tls = tls
        self.faults = faults or FaultList()
        own_login = (username, password) != (_USERNAME, _PASSWORD)
        login = api_key is None or own_login
        self.logins = Logins(username, password if login else None, api_key, token_lifetime_s)
        self._make_parts(directory, grant_lifetime_s, process_after_s)
        self.requests: list[RequestRecord] = []
        self._state = ServerState()
        self._connections: set[Connection] = set()
        self._down_until = 0.0
        self._thread: threading.Thread | None = None

    def _make_parts(
        self, directory: Path, grant_lifetime_s: float, process_after_s: float | None
    ) -> None:
        self._injector = injector = FaultInjector(lambda: self.faults)
        self.fired = injector.fired
        self.bucket = Bucket(directory)
        self.objects = self.bucket.objects
        draw = partial(injector.draw, None)
        self.processing = Processing(directory, self.objects, draw, process_after_s)
        self.logs = self.processing.logs
        self.ingestion = IngestionService(directory, draw, self._die, process_after_s)
        self._endpoints: Endpoints | IngestionEndpoints
        if self.protocol == "ingestion":
            self._endpoints = IngestionEndpoints(self.ingestion, self.logins, injector)
            self.process = self.ingestion.process
        else:
            self._endpoints = Endpoints(
                self.bucket, self.processing, self.logins, injector, grant_lifetime_s
            )
            self.process = self.processing.process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The emission url to configure. The port is known once it has started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        host = f"[{host}]" if ":" in host else host
        path = BASE_PATH if self.protocol == "ingestion" else "/data"
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def start(self) -> None:
        """Bind and serve in the background; return when connections are accepted.

        Raises `OSError` if the address is not available.
        """
        if self._thread is not None:
            raise RuntimeError("the rehearsal server is running")
        self._endpoints.open()
        self._down_until = 0.0
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
            self._endpoints.close()

    async def _serve(self, listener: socket.socket, accepting: threading.Event) -> None:
        # uvicorn's Server wakes ten times a second and waits for hanging requests; its protocol
        # alone, on a loop of our own, starts and stops at once.
        self._loop = asyncio.get_running_loop()
        self._stopping, self._all_closed = asyncio.Event(), asyncio.Event()
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
        server = await self._loop.create_server(
            lambda: Connection(config, self._state, self._opened, self._closed),
            sock=listener,
            backlog=_BACKLOG,
            ssl=self._tls,
        )
        accepting.set()
        await self._stopping.wait()
        for connection in list(self._connections):
            connection.transport.abort()
        # asyncio makes each accepted connection in a task of its own, which fails silently, and
        # leaks the socket, where the server was closed meanwhile.
        if under_way := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(under_way, timeout=_GRACE_S)
        server.close()
        if self._connections:
            self._all_closed.clear()
            await self._all_closed.wait()

    def _opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._stopping.is_set():
            connection.transport.abort()
            return
        record = RequestRecord(time.time(), "connect")
        if time.monotonic() < self._down_until:
            record.fault = "down"
        if record.fault or self._injector.draw(record, FaultStage.CONNECT):
            self.requests.append(record)
            connection.reset()

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def _die(self, death: ServiceDied) -> None:
        """Lose the work in process, reset all connections, and stay away for a while."""
        down_s = self.restart_s if death.down_s is None else death.down_s
        self._down_until = time.monotonic() + down_s
        if death.cause:
            self.fired[death.cause] += 1
        self._endpoints.close()
        self._loop.call_soon_threadsafe(self._reset_connections)

    def _reset_connections(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def _record(self, endpoint: str) -> RequestRecord:
        record = RequestRecord(time.time(), endpoint)
        self.requests.append(record)
        return record

    def _app(self) -> Starlette:
        app = Starlette(
            routes=[self._route(*route) for route in self._endpoints.routes()],
            exception_handlers={404: self._no_route, 405: self._no_route},
        )
        app.router.redirect_slashes = False
        return app

    async def _no_route(self, request: Request, _: Exception) -> Response:
        record = self._record("unknown")
        record.name = request.scope["path"]
        response = NO_ROUTE
        if self.protocol == "ingestion":
            message = f"Cannot {request.method} {record.name.removeprefix(BASE_PATH)}"
            response = service_error(404, message, "Not Found")
        return self._finished(response, record)

    def _route(self, method: str, path: str, endpoint: str, handler: Handler) -> Route:
        async def serve(request: Request) -> Response:
            record = self._record(endpoint)
            record.authorization_present = "authorization" in request.headers
            exchange = Exchange(request, record)
            try:
                await exchange.connection.wait(self.latency_s)
                response = await handler(exchange)
            except RefusedError as refusal:
                response = refusal.response
            except ServiceDied as death:
                self._die(death)
                response = None
            except ConnectionLost:
                response = None
            if response is None:
                return _NoResponse(exchange.connection)
            return self._finished(response, record)

        return Route(path, serve, methods=[method])

    def _finished(self, response: Response, record: RequestRecord) -> Response:
        # uvicorn's Server would keep this list of headers for every response.
        date = formatdate(usegmt=True).encode()
        self._state.default_headers[:] = [(b"date", date)]
        record.status = response.status_code
        return response


class _NoResponse(Response):
    """Sends nothing: the fault has already acted on the connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        await self._connection.wait_closed()
