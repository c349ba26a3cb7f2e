"""The far side of the benchmarks, in a process of its own: emission API and bucket.

Light on purpose, so that it is not what is measured: one loop, no disk, an answer
made of few bytes. It takes in only what it has granted, takes the MD5 of each file for
the ETag, and remembers what came: a benchmark in which a file was lost must fail.

Orders come as JSON, one a line, on standard input; `far.Far` is the other end.
"""

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from emitterd.rehearsal.api import emitted_key
from emitterd.rehearsal.signing import Signer

API_KEY = "measured"
BUCKET = "emission"
GRANT_LIFETIME_S = 3600.0
RECEIVE_BYTES = 256 * 1024
SAMPLE_BYTES = 4096
SAMPLE_EVERY_BYTES = 2**20

_FIELD = re.compile(rb'name="([^"]+)"\r\n\r\n(.*?)\r\n--', re.DOTALL)
_FILE = re.compile(rb'name="file"[^\r]*\r\n(?:[^\r]+\r\n)*\r\n')


class Digest:
    """A file's MD5; or, `sampled`, that of the first 4 KiB of each MiB.

    The samples cost nothing compared with a transfer, and distinguish two files.
    """

    def __init__(self, *, sampled: bool) -> None:
        self.size_bytes = 0
        self._sampled = sampled
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, chunk: memoryview) -> None:
        """Take in what follows."""
        begin, self.size_bytes = self.size_bytes, self.size_bytes + len(chunk)
        if not self._sampled:
            self._md5.update(chunk)
            return
        at = begin - begin % SAMPLE_EVERY_BYTES
        while at < self.size_bytes:
            first, last = max(at - begin, 0), at + SAMPLE_BYTES - begin
            if last > 0:
                self._md5.update(chunk[first:last])
            at += SAMPLE_EVERY_BYTES

    def hex(self) -> str:
        """Return it as an ETag has it; samples are no MD5 of an object."""
        return self._md5.hexdigest() + ("-1" if self._sampled else "")


@dataclass(slots=True)
class Store:
    """What was granted and what came. Instants: seconds since the epoch."""

    latency_s: float = 0.0
    sampled: bool = False
    bucket_url: str = ""
    signer: Signer = field(default_factory=lambda: Signer(BUCKET, "BENCH", "secret"))
    stamping: bool = False
    requests: int = 0
    granted: dict[str, tuple[str, str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, float] = field(default_factory=dict)
    """Of each file, when the first byte of its POST came, by the monotonic clock."""
    doubled: int = 0
    refused: list[str] = field(default_factory=list)
    first_at: float = 0.0
    """When the first request began."""
    posted_at: float = 0.0
    """When the first POST to the bucket began."""
    last_at: float = 0.0
    """When the last object was whole."""

    def grant(self, filename: str) -> dict[str, object]:
        """Return a grant to POST one object, as upstream's API gives it."""
        now = time.time()
        fields = self.signer.grant(emitted_key(filename, now), now, GRANT_LIFETIME_S)
        self.granted[fields["key"]] = filename, fields["x-amz-signature"]
        return {"url": self.bucket_url, "fields": fields}

    def keep(self, key: str, signature: str, digest: Digest, began_at: float) -> None:
        """Take an object in. Raises `PermissionError` where it was not granted."""
        filename, signed = self.granted.get(key, ("", ""))
        if not filename or signed != signature:
            raise PermissionError(f"not granted: {key}")
        self.doubled += filename in self.digests
        self.digests[filename] = digest.hex()
        if self.stamping:
            self.stamps[filename] = began_at
        self.last_at = time.time()


class Upload:
    """The body of one POST to the bucket."""

    def __init__(self, store: Store, content_type: str, length_bytes: int) -> None:
        self._store = store
        self._tail = f"\r\n--{content_type.partition('boundary=')[2]}--\r\n".encode()
        self._length_bytes = length_bytes
        self._began_at = time.monotonic()
        self._head = bytearray()
        self._fields: dict[bytes, bytes] = {}
        self._digest = Digest(sampled=store.sampled)
        self._left_bytes = -1
        self._end = b""

    def take(self, chunk: memoryview) -> None:
        """Take in what came."""
        if self._left_bytes < 0:
            self._head += chunk
            match = _FILE.search(self._head)
            if match is None:
                return
            fields = self._head[: match.start()]
            self._fields = {k: v for k, v in _FIELD.findall(bytes(fields))}  # noqa: C416  of pairs
            self._left_bytes = self._length_bytes - match.end() - len(self._tail)
            chunk = memoryview(bytes(self._head[match.end() :]))
        content = chunk[: self._left_bytes]
        self._digest.update(content)
        self._left_bytes -= len(content)
        self._end += bytes(chunk[len(content) :])

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Keep the object, and return status, headers and body."""
        if self._end != self._tail:
            return 400, {}, b"<Error><Code>MalformedPOSTRequest</Code></Error>"
        key = self._fields.get(b"key", b"").decode()
        signature = self._fields.get(b"x-amz-signature", b"").decode()
        try:
            self._store.keep(key, signature, self._digest, self._began_at)
        except PermissionError as error:
            self._store.refused.append(str(error))
            return 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
        return 204, {"ETag": f'"{self._digest.hex()}"'}, b""


class Call:
    """The body of one request to the API."""

    def __init__(self, store: Store, path: str, headers: Mapping[str, str]) -> None:
        self._store = store
        self._path = path
        self._headers = headers
        self._body = bytearray()

    def take(self, chunk: memoryview) -> None:
        """Take in what came."""
        self._body += chunk

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        if self._headers.get("authorization") != f"Bearer {API_KEY}":
            return 401, {}, b'{"message":"Unauthorized"}'
        if self._path != "/data/upload-url":
            return 404, {}, b'{"message":"no Route matched with those values"}'
        filename = self._arguments().get("filename")
        if not filename:
            return 400, {}, b"Bad request, validate the payload"
        content = json.dumps(self._store.grant(filename)).encode()
        return 200, {"Content-Type": "application/json"}, content

    def _arguments(self) -> dict[str, str]:
        if self._headers.get("content-type", "").startswith("application/json"):
            return dict(json.loads(self._body))
        return dict(parse_qsl(self._body.decode()))


class Desk:
    """Carries out the orders."""

    def __init__(self) -> None:
        self.url = ""
        self.store = Store()

    def carry_out(self, order: dict[str, Any]) -> dict[str, object]:
        """Carry out one order; return the answer."""
        if "reset" in order:
            reported: dict[str, Any] = order["reset"]
            if signer := reported.pop("signer", None):
                reported["signer"] = Signer(*signer)
            self.store = Store(**{"bucket_url": f"{self.url}/{BUCKET}", **reported})
        store = self.store
        answer: dict[str, object] = {
            "url": f"{self.url}/data",
            "requests": store.requests,
            "granted": len(store.granted),
            "stored": len(store.digests),
            "doubled": store.doubled,
            "refused": store.refused[:10],
            "first_at": store.first_at,
            "posted_at": store.posted_at,
            "last_at": store.last_at,
        }
        if order.get("objects"):
            answer["objects"] = store.digests
        if order.get("stamps"):
            answer["stamps"] = store.stamps
        return answer


class Line(asyncio.BufferedProtocol):
    """One connection: requests one after the other, each answered when it is whole."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._room = memoryview(bytearray(RECEIVE_BYTES))
        self._head = bytearray()
        self._body: Upload | Call | None = None
        self._left_bytes = 0
        self._latency_s = 0.0
        self._closing = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  of TCP they are
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's name
        """Return where what comes is to be put."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what came."""
        chunk = self._room[:nbytes]
        if self._body is None:
            self._head += chunk
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = bytearray()
            self._begin(head.decode("latin-1"))
            chunk = memoryview(bytes(rest))
        self._take(chunk)

    def _begin(self, head: str) -> None:
        request, *lines = head.split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        path = request.split(" ")[1]
        self._left_bytes = int(headers.get("content-length", "0"))
        self._closing = headers.get("connection", "").lower() == "close"
        store = self._desk.store
        store.requests += 1
        self._latency_s = store.latency_s
        store.first_at = store.first_at or time.time()
        if path.startswith(f"/{BUCKET}"):
            store.posted_at = store.posted_at or time.time()
            kind = headers.get("content-type", "")
            self._body = Upload(store, kind, self._left_bytes)
        else:
            self._body = Call(store, path, headers)
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self, chunk: memoryview) -> None:
        assert self._body is not None  # noqa: S101  begun above
        if chunk:
            self._body.take(chunk)
            self._left_bytes -= len(chunk)
        if self._left_bytes > 0:
            return
        status, headers, content = self._body.answer()
        self._body = None
        words = [f"HTTP/1.1 {status} OK", f"Date: {_date(int(time.time()))}"]
        words += [f"{name}: {value}" for name, value in headers.items()]
        if status != 204:  # noqa: PLR2004  No Content
            words.append(f"Content-Length: {len(content)}")
        answer = "\r\n".join([*words, "", ""]).encode() + content
        if self._latency_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self._latency_s, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)
            if self._closing:
                self._transport.close()


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


async def serve() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    desk = Desk()
    server = await loop.create_server(lambda: Line(desk), "127.0.0.1", 0)
    desk.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def hear() -> None:
        line = sys.stdin.readline()
        if line:
            print(json.dumps(desk.carry_out(json.loads(line))), flush=True)
        else:
            loop.remove_reader(sys.stdin)
            ended.set_result(None)

    loop.add_reader(sys.stdin, hear)
    await ended
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
