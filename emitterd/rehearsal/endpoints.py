"""The endpoints of the emission protocol: a request comes in, a response or none goes out."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import FileResponse, Response

from emitterd.rehearsal import responses
from emitterd.rehearsal.api import BUCKETS, Logins, emitted_key, listing
from emitterd.rehearsal.bucket import Bucket, ObjectUpload
from emitterd.rehearsal.exchange import Exchange
from emitterd.rehearsal.faults import REGIONAL_PATH, FaultInjector, FaultStage
from emitterd.rehearsal.processing import Processing
from emitterd.rehearsal.responses import RefusedError, json_response, text_response

_BUCKET_PATH = "/bucket"
_PATHS = {
    BUCKETS["input"]: "/input",
    BUCKETS["output"]: "/output",
    BUCKETS["emission"]: _BUCKET_PATH,
}
_DOWNLOAD_LIFETIME_S = 86_400

Handler = Callable[[Exchange], Awaitable[Response | None]]
"""Serves one request; None if the connection was dealt with instead."""


@dataclass(slots=True)
class Endpoints:
    """The handlers of the emission protocol. `grant_lifetime_s`: seconds that a grant lives."""

    bucket: Bucket
    processing: Processing
    logins: Logins
    injector: FaultInjector
    grant_lifetime_s: float

    def open(self) -> None:
        """Read what a former run left."""
        self.bucket.open()
        self.processing.open()

    def close(self) -> None:
        """Do nothing: every object that was confirmed is on disk."""

    def routes(self) -> list[tuple[str, str, str, Handler]]:
        """Return method, path, endpoint's name and handler of everything served."""
        return [
            ("POST", "/data/auth", "auth", self._auth),
            ("POST", "/data/upload-url", "upload-url", self._upload_url),
            ("GET", "/data/list_s3_buckets", "list_s3_buckets", self._list_buckets),
            ("POST", "/data/list_s3_files", "list_s3_files", self._list_files),
            ("POST", "/data/download_url", "download_url", self._download_url),
            ("POST", f"{_BUCKET_PATH}/", "bucket", self._post_object),
            ("POST", REGIONAL_PATH, "bucket-regional", self._post_object),
            *(
                ("GET", f"{path}/{{key:path}}", "object", self._get_object)
                for path in _PATHS.values()
            ),
        ]

    async def _auth(self, exchange: Exchange) -> Response | None:
        """Serve `POST /data/auth`; a wrong password gets 200, as upstream does it."""
        if not self.logins.enabled:
            return responses.NO_ROUTE
        credentials = await exchange.arguments()
        exchange.record.name = credentials.get("username", "")
        token = self.logins.login(credentials)
        if token is None:
            return responses.WRONG_PASSWORD
        return await self.injector.apply(exchange, FaultStage.LOGIN, json_response(token))

    async def _upload_url(self, exchange: Exchange) -> Response | None:
        arguments = await self._authorized(exchange)
        filename = exchange.record.name = arguments.get("filename", "")
        if not filename:
            return responses.BAD_PAYLOAD
        now_at = time.time()
        fields = self.bucket.signer.grant(
            emitted_key(filename, now_at), now_at, self.grant_lifetime_s
        )
        grant = {"fields": fields, "url": f"{exchange.home}{_BUCKET_PATH}/"}
        return await self.injector.apply(exchange, FaultStage.GRANT, json_response(grant))

    async def _list_buckets(self, exchange: Exchange) -> Response:
        await self._authorized_reader(exchange)
        return text_response(json.dumps(BUCKETS))

    async def _list_files(self, exchange: Exchange) -> Response | None:
        arguments = await self._authorized_reader(exchange)
        bucket = exchange.record.name = arguments.get("bucket", "")
        if bucket not in _PATHS:
            return responses.BAD_BUCKET
        self.processing.process_due(time.time())
        listed = json_response(listing(bucket, self.bucket.objects))
        return await self.injector.apply(exchange, FaultStage.LIST, listed)

    async def _download_url(self, exchange: Exchange) -> Response | None:
        """Serve `POST /data/download_url` with a signed url, object or no object."""
        arguments = await self._authorized_reader(exchange)
        filename = exchange.record.name = arguments.get("filename", "")
        if not filename:
            return responses.API_ERROR
        if arguments.get("bucket") not in _PATHS:
            return responses.BAD_BUCKET
        path = f"{_PATHS[arguments['bucket']]}/{filename}"
        query = self.bucket.signer.presign(exchange.host, path, time.time(), _DOWNLOAD_LIFETIME_S)
        encoded = quote(path, safe="/-_.~", errors="replace")
        url = text_response(f"{exchange.home}{encoded}?{urlencode(query)}")
        return await self.injector.apply(exchange, FaultStage.DOWNLOAD, url)

    async def _get_object(self, exchange: Exchange) -> Response | None:
        place, _, key = exchange.path[1:].partition("/")
        exchange.record.name = key
        self.bucket.signer.check_presigned(
            exchange.request.method,
            exchange.host,
            exchange.path,
            dict(parse_qsl(exchange.query)),
            time.time(),
        )
        self.processing.process_due(time.time())
        response = self._object(f"/{place}", key)
        if response is None:
            return responses.NO_SUCH_KEY
        etag = response.headers["ETag"]
        if exchange.headers.get("if-none-match") == etag:
            response = Response(status_code=304, headers={"ETag": etag})
        return await self.injector.apply(exchange, FaultStage.OBJECT, response)

    def _object(self, place: str, key: str) -> Response | None:
        """Return an object of the bucket that is served at `place`, or None."""
        if place == _BUCKET_PATH and (stored := self.bucket.objects.get(key)) is not None:
            return FileResponse(stored.path, headers={"ETag": f'"{stored.md5}"'})
        if place == _PATHS[BUCKETS["output"]] and (log := self.processing.logs.get(key)):
            response = json_response(log)
            digest = hashlib.md5(response.body, usedforsecurity=False).hexdigest()
            response.headers["ETag"] = f'"{digest}"'
            return response
        return None

    async def _post_object(self, exchange: Exchange) -> Response | None:
        """Take in a presigned POST: its fields, then its file, streamed to disk."""
        fault = self.injector.draw(exchange.record, FaultStage.ARRIVAL)
        if fault is not None:
            return await fault.kind.action(exchange, fault.parameter, Response())
        problem = self.bucket.length_problem(exchange.length_bytes)
        if problem is not None:
            return responses.with_headers(problem, {"Connection": "close"})
        content_type = exchange.headers.get("content-type", "")
        with self.bucket.upload(content_type, time.time()) as upload:
            await self._receive(exchange, upload)
            if upload.refusal is not None:
                raise upload.refusal
            fault = None
            if exchange.path != REGIONAL_PATH:
                fault = self.injector.draw(exchange.record, FaultStage.REDIRECT)
            fault = fault or self.injector.draw(exchange.record, FaultStage.REFUSE)
            if fault is not None:
                return await fault.kind.action(exchange, fault.parameter, Response())
            stored = upload.keep()
        location = f"{exchange.home}{_BUCKET_PATH}/{quote(stored.key, errors='replace')}"
        headers = {"ETag": f'"{stored.md5}"', "Location": location}
        response = Response(status_code=204, headers=headers)
        return await self.injector.apply(exchange, FaultStage.ANSWER, response)

    async def _authorized(self, exchange: Exchange) -> dict[str, str]:
        """Return the arguments. Raises `RefusedError` without a valid token."""
        arguments = await exchange.arguments()
        if not self.logins.accepts(exchange.headers.get("authorization", "")):
            raise RefusedError(responses.UNAUTHORIZED)
        return arguments

    async def _authorized_reader(self, exchange: Exchange) -> dict[str, str]:
        """Return the arguments as `_authorized`. Raises `RefusedError` for a fault too."""
        arguments = await self._authorized(exchange)
        fault = self.injector.draw(exchange.record, FaultStage.READ)
        if fault is not None:
            refusal = await fault.kind.action(exchange, fault.parameter, Response())
            raise RefusedError(refusal or Response())
        return arguments

    async def _receive(self, exchange: Exchange, upload: ObjectUpload) -> None:
        fault = self.injector.draw(exchange.record, FaultStage.BODY)
        async for chunk in exchange.chunks():
            upload.feed(chunk)
            exchange.record.name = upload.key
            exchange.record.bytes += len(chunk)
            exchange.last_chunk_bytes = len(chunk)
            if fault is not None:
                await fault.kind.action(exchange, fault.parameter, Response())
        upload.finish()
