"""The rehearsal server's endpoints: an exchange comes in, an answer or none goes out.

Knows neither sockets nor the web framework.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol
from urllib.parse import parse_qsl, quote, urlencode

from emitterd.rehearsal import responses as answers
from emitterd.rehearsal.api import BUCKETS, Logins, arguments, emitted_key, listing
from emitterd.rehearsal.bucket import Bucket, BucketObject, ObjectUpload
from emitterd.rehearsal.faults import Fault, FaultMenu, FaultStage
from emitterd.rehearsal.responses import RefusedError, Reply

# One request of the rehearsal server: its note, its line, and what came in. A
# `ClientConnection` is what a fault can do to a connection; `rehearsal` supplies it.


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


_PLACES = {BUCKETS[kind]: f"/{kind}" for kind in ("input", "output")}
_PLACES[BUCKETS["emission"]] = "/bucket"
_REGIONAL = "/bucket-regional/"
_NOT_TWICE = frozenset({"redirect", "redirect-foreign"})
_DOWNLOAD_LIFETIME_S = 86_400

Handler = Callable[[Exchange], Awaitable[Reply | BucketObject | None]]


class Endpoints:
    """Answers each exchange; None where the connection was dealt with instead.

    `menu` is asked anew for each draw. `grant_lifetime_s`: seconds that a grant lives.
    `redirect_first`: the first POST of each key is sent to the regional place.
    """

    def __init__(
        self,
        bucket: Bucket,
        doorkeeper: Logins,
        menu: Callable[[], FaultMenu],
        *,
        grant_lifetime_s: float,
        redirect_first: bool,
    ) -> None:
        self.fired: Counter[str] = Counter()
        self._bucket = bucket
        self._doorkeeper = doorkeeper
        self._menu = menu
        self._grant_lifetime_s = grant_lifetime_s
        self._redirect_first = redirect_first
        self._redirected: set[str] = set()

    def routes(self) -> list[tuple[str, str, str, Handler]]:
        """Return method, path, endpoint's name and handler of everything served."""
        return [
            ("POST", "/data/auth", "auth", self._auth),
            ("POST", "/data/upload-url", "upload-url", self._upload_url),
            ("GET", "/data/list_s3_buckets", "list_s3_buckets", self._list_buckets),
            ("POST", "/data/list_s3_files", "list_s3_files", self._list_files),
            ("POST", "/data/download_url", "download_url", self._download_url),
            ("POST", "/bucket/", "bucket", self._post_object),
            ("POST", _REGIONAL, "bucket-regional", self._post_object),
            *(
                ("GET", f"{place}/{{key:path}}", "object", self._get_object)
                for place in _PLACES.values()
            ),
        ]

    def strike(self, note: RequestRecord, fault: Fault) -> None:
        """Note that a fault is happening to this request."""
        note.fault = fault.name
        self.fired[fault.name] += 1

    def _draw(
        self,
        note: RequestRecord,
        stage: FaultStage,
        *,
        but: frozenset[str] = frozenset(),
    ) -> Fault | None:
        fault = self._menu().draw(stage, but=but)
        if fault is not None:
            self.strike(note, fault)
        return fault

    async def _auth(self, exchange: Exchange) -> Reply:
        """Answer `POST /data/auth`; a wrong password gets 200, as upstream does it."""
        if not self._doorkeeper.has_login:
            return answers.NO_ROUTE
        try:
            credentials = await exchange.arguments()
        except ValueError:
            return answers.BAD_PAYLOAD
        exchange.note.name = credentials.get("username", "")
        grant = self._doorkeeper.login(credentials)
        if grant is None:
            return answers.WRONG_PASSWORD
        fault = self._draw(exchange.note, FaultStage.LOGIN)
        return answers.as_json(grant) if fault is None else answers.login_fault(fault)

    async def _upload_url(self, exchange: Exchange) -> Reply:
        """Answer `POST /data/upload-url` with a grant for one key."""
        found = await self._authorized(exchange)
        if isinstance(found, Reply):
            return found
        filename = found.get("filename")
        if not filename:
            return answers.BAD_PAYLOAD
        exchange.note.name = filename
        now_at = time.time()
        grant = {
            "fields": self._bucket.signer.grant(
                emitted_key(filename, now_at), now_at, self._grant_lifetime_s
            ),
            "url": f"{exchange.home}/bucket/",
        }
        fault = self._draw(exchange.note, FaultStage.GRANT)
        if fault is not None and fault.name == "slow-grant":
            await exchange.line.idle(fault.parameter or 0)
            fault = None
        if fault is None:
            return answers.as_json(grant)
        return answers.grant_fault(fault, grant)

    async def _list_buckets(self, exchange: Exchange) -> Reply:
        """Answer `GET /data/list_s3_buckets`."""
        found = await self._authorized(exchange)
        if isinstance(found, Reply):
            return found
        return answers.as_text(json.dumps(BUCKETS))

    async def _list_files(self, exchange: Exchange) -> Reply:
        """Answer `POST /data/list_s3_files`: the first 1000 objects of a bucket."""
        found = await self._authorized(exchange)
        if isinstance(found, Reply):
            return found
        bucket = exchange.note.name = found.get("bucket", "")
        if bucket not in _PLACES:
            return answers.BAD_BUCKET
        return answers.as_json(listing(bucket, self._bucket.objects))

    async def _download_url(self, exchange: Exchange) -> Reply:
        """Answer `POST /data/download_url` with a signed url, object or no object."""
        found = await self._authorized(exchange)
        if isinstance(found, Reply):
            return found
        filename = exchange.note.name = found.get("filename", "")
        if not filename:
            return answers.API_ERROR
        place = _PLACES.get(found.get("bucket", ""))
        if place is None:
            return answers.BAD_BUCKET
        fault = self._draw(exchange.note, FaultStage.DOWNLOAD)
        if fault is not None:
            return answers.download_fault(fault)
        path = f"{place}/{filename}"
        query = self._bucket.signer.presign(
            exchange.host, path, time.time(), _DOWNLOAD_LIFETIME_S
        )
        encoded = quote(path, safe="/-_.~", errors="replace")
        return answers.as_text(f"{exchange.home}{encoded}?{urlencode(query)}")

    async def _get_object(self, exchange: Exchange) -> Reply | BucketObject:
        """Answer a GET by a signed url; the object itself where there is one."""
        place, _, key = exchange.path[1:].partition("/")
        exchange.note.name = key
        try:
            self._bucket.signer.check_presigned(
                exchange.method,
                exchange.host,
                exchange.path,
                dict(parse_qsl(exchange.query)),
                time.time(),
            )
        except RefusedError as refusal:
            return refusal.answer
        found = self._bucket.objects.get(key)
        if found is None or f"/{place}" != _PLACES[BUCKETS["emission"]]:
            message = "The specified key does not exist."
            return answers.as_xml_error(404, "NoSuchKey", message)
        fault = self._draw(exchange.note, FaultStage.OBJECT)
        return found if fault is None else answers.object_fault(fault)

    async def _post_object(self, exchange: Exchange) -> Reply | None:
        """Take in a presigned POST: its fields, then its file, streamed to disk."""
        fault = self._menu().draw(FaultStage.BODY)
        if fault is not None and fault.name != "reset":
            self.strike(exchange.note, fault)
        if fault is not None and fault.name == "early-403":
            return answers.early_refusal()
        if fault is not None and fault.name == "black-hole":
            await self._swallow(exchange, fault)
            return None
        try:
            self._bucket.check_length(exchange.length_bytes)
        except RefusedError as refusal:
            return replace(refusal.answer, close=True)
        content_type = exchange.headers.get("content-type", "")
        with self._bucket.upload(content_type, time.time()) as upload:
            await self._take_in(exchange, upload, fault)
            refused = self._refusal(exchange, upload)
            if refused is not None:
                return refused
            stored = upload.keep()
        return await self._acknowledge(exchange, stored)

    async def _authorized(self, exchange: Exchange) -> dict[str, str] | Reply:
        """Return the arguments, or the answer that says why there are none."""
        try:
            found = await exchange.arguments()
        except ValueError:
            return answers.BAD_PAYLOAD
        if not self._doorkeeper.admits(exchange.headers.get("authorization", "")):
            return answers.UNAUTHORIZED
        return found

    async def _swallow(self, exchange: Exchange, fault: Fault) -> None:
        exchange.line.stop_reading()
        await exchange.line.idle(fault.parameter or 0)
        exchange.line.reset()

    async def _take_in(
        self, exchange: Exchange, upload: ObjectUpload, fault: Fault | None
    ) -> None:
        async for chunk in exchange.chunks():
            upload.feed(chunk)
            exchange.note.name = upload.key
            exchange.note.bytes += len(chunk)
            if fault is not None:
                await self._hinder(exchange, fault, len(chunk))
        upload.finish()
        if fault is not None and fault.name == "reset":
            self._reset(exchange, fault)

    async def _hinder(self, exchange: Exchange, fault: Fault, size_bytes: int) -> None:
        if fault.name == "slow-reader":
            exchange.line.stop_reading()
            await exchange.line.idle(size_bytes / max(fault.parameter or 0, 1))
            return
        limit_bytes = fault.parameter
        if limit_bytes is None:
            limit_bytes = (exchange.length_bytes or 0) // 2
        if exchange.note.bytes >= limit_bytes:
            self._reset(exchange, fault)

    def _reset(self, exchange: Exchange, fault: Fault) -> NoReturn:
        self.strike(exchange.note, fault)
        exchange.line.reset()
        raise ConnectionLost

    def _refusal(self, exchange: Exchange, upload: ObjectUpload) -> Reply | None:
        if upload.refusal is not None:
            return upload.refusal.answer
        regional = exchange.path == _REGIONAL
        if self._redirect_first and not regional and upload.key not in self._redirected:
            self._redirected.add(upload.key)
            self.strike(exchange.note, Fault("redirect", None))
            return answers.redirected(f"{exchange.home}{_REGIONAL}")
        but = _NOT_TWICE if regional else frozenset()
        fault = self._draw(exchange.note, FaultStage.REFUSE, but=but)
        return None if fault is None else answers.bucket_fault(fault, exchange.home)

    async def _acknowledge(
        self, exchange: Exchange, stored: BucketObject
    ) -> Reply | None:
        fault = self._draw(exchange.note, FaultStage.ANSWER)
        place = _PLACES[BUCKETS["emission"]]
        location = f"{exchange.home}{place}/{quote(stored.key, errors='replace')}"
        answer = answers.stored(stored.md5, location, fault)
        if fault is None:
            return answer
        if fault.name in answers.LAST_WORDS:
            exchange.line.hang_up(answers.LAST_WORDS[fault.name])
            return None
        if fault.name == "dribble":
            exchange.note.status = answer.status
            await self._dribble(exchange.line, answer, fault.parameter or 0)
            return None
        if fault.name == "slow-answer":
            await exchange.line.idle(fault.parameter or 0)
        return answer

    async def _dribble(
        self, line: ClientConnection, answer: Reply, pause_s: float
    ) -> None:
        for byte in answer.as_bytes():
            line.say(bytes([byte]))
            await line.idle(pause_s)
        line.hang_up(b"")
