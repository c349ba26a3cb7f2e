"""One request of the rehearsal server: its note, its line, and what came in.

A `ClientConnection` is what a fault can do to a connection; `rehearsal` supplies it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from emitterd.rehearsal.api import arguments


@dataclass(slots=True)
class RequestRecord:
    """One request as it was noted: appended at its arrival, filled in on the way.

    `at`: epoch seconds. `endpoint`: auth, upload-url, bucket, bucket-regional, object,
    list_s3_buckets, list_s3_files, download_url, unknown, or connect. `name`: the file
    name or key. `status`: None as long as no answer was given. `bytes`: body bytes
    read so far.
    """

    at: float
    endpoint: str
    name: str = ""
    status: int | None = None
    bytes: int = 0
    fault: str | None = None
    authorization_present: bool = False


class ConnectionLost(Exception):
    """The connection is gone; nobody waits for an answer."""


class ClientConnection(Protocol):
    """What can be done to a connection beside answering on it."""

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""

    def hang_up(self, last_words: bytes) -> None:
        """Send these bytes as they are, and close."""

    def say(self, raw: bytes) -> None:
        """Send these bytes as they are."""

    def stop_reading(self) -> None:
        """Leave what comes in with the client, until the body is asked for again."""

    async def idle(self, seconds: float) -> None:
        """Wait; raise `ConnectionLost` if the connection is lost before the end."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request being served. `host` is `host:port` as the client calls it.

    `scheme`: http, or https where the server speaks TLS.
    """

    note: RequestRecord
    line: ClientConnection
    method: str
    scheme: str
    path: str
    host: str
    query: str
    headers: Mapping[str, str]
    chunks: Callable[[], AsyncIterator[bytes]]

    @property
    def home(self) -> str:
        """The server's address as the client calls it, without a path."""
        return f"{self.scheme}://{self.host}"

    @property
    def length_bytes(self) -> int | None:
        """The declared length of the body; None where none is declared."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdecimal() else None

    async def arguments(self) -> dict[str, str]:
        """Return the arguments of a small request; ValueError if it is malformed."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
        self.note.bytes = len(body)
        content_type = self.headers.get("content-type", "")
        return arguments(content_type, bytes(body), self.query)
