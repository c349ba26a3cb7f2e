"""One connection to the rehearsal server, and one request on it.

Web frameworks cannot produce these faults: a reset connection, a server that stops reading, and
bytes that are not HTTP.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NoReturn, cast

import uvicorn
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from emitterd.rehearsal.api import arguments
from emitterd.rehearsal.responses import BAD_PAYLOAD, RefusedError

_NO_LINGER = struct.pack("ii", 1, 0)


class ConnectionLost(Exception):
    """The connection is gone; nobody waits for a response."""


class ServiceDied(Exception):
    """The service ends while it serves this request, as a process that crashes.

    `down_s`: seconds until it serves again; None: the server's own `restart_s`. `cause`: what the
    client did to cause it; empty for a fault that was ordered.
    """

    def __init__(self, down_s: float | None = None, *, cause: str = "") -> None:
        super().__init__(cause)
        self.down_s = down_s
        self.cause = cause


@dataclass(slots=True)
class RequestRecord:
    """What the server knows about one request, from its arrival on.

    `at`: epoch seconds. `endpoint`: auth, upload-url, bucket, bucket-regional, object,
    list_s3_buckets, list_s3_files, download_url; generatejwt, national_programs, file-status of
    cQube 5; unknown, or connect. `name`: the file name or key.
    `status`: None as long as no response was sent. `bytes`: body bytes read so far.
    """

    at: float
    endpoint: str
    name: str = ""
    status: int | None = None
    bytes: int = 0
    fault: str | None = None
    authorization_present: bool = False


class Connection(H11Protocol):
    """One connection, which a fault can cut; `request.state.connection` is this.

    A fault sends bytes that are not HTTP through `transport`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        on_open: Callable[["Connection"], None],
        on_close: Callable[["Connection"], None],
    ) -> None:
        super().__init__(config, state, {"connection": self})
        self._on_open = on_open
        self._on_close = on_close
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement `asyncio.Protocol`."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._on_open(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._lost.set()
        self._on_close(self)

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        raw = self.transport.get_extra_info("socket")
        # Without lingering, the kernel sends a reset instead of an orderly end.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def pause_reading(self) -> None:
        """Stop reading from the connection until the body is requested again."""
        # Through uvicorn's flow control, or it would not know how to go on.
        self.flow.pause_reading()

    async def wait(self, seconds: float) -> None:
        """Wait. Raises `ConnectionLost` if the connection is lost before the end."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), seconds)
        if self._lost.is_set():
            raise ConnectionLost

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await self._lost.wait()


class Exchange:
    """One request being served: what came in, its record, and its connection."""

    def __init__(self, request: Request, record: RequestRecord) -> None:
        self.request = request
        self.record = record
        self.connection: Connection = request.state.connection
        self.headers = request.headers
        self.path: str = request.scope["path"]
        self.query: str = request.scope["query_string"].decode("latin-1")
        self.host = request.headers.get("host", "")
        self.home = f"{request.url.scheme}://{self.host}"
        """The server's address as the client calls it, without a path."""
        self.last_chunk_bytes = 0
        length = request.headers.get("content-length", "")
        self.length_bytes = int(length) if length.isdecimal() else None
        """The declared length of the body; None if none is declared."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `ConnectionLost`."""
        try:
            async for chunk in self.request.stream():
                yield chunk
        except ClientDisconnect as lost:
            raise ConnectionLost from lost

    async def arguments(self) -> dict[str, str]:
        """Return a small request's arguments. Raises `RefusedError` if malformed."""
        body = b"".join([chunk async for chunk in self.chunks()])
        self.record.bytes = len(body)
        content_type = self.headers.get("content-type", "")
        try:
            return arguments(content_type, body, self.query)
        except ValueError as error:
            raise RefusedError(BAD_PAYLOAD) from error

    def reset(self) -> NoReturn:
        """Cut the connection with a TCP reset, and end this request."""
        self.connection.reset()
        raise ConnectionLost
