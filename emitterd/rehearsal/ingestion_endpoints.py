"""The endpoints of cQube 5's ingestion service: a login, an upload, and the status of a file."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from emitterd.rehearsal import responses
from emitterd.rehearsal.api import Logins
from emitterd.rehearsal.endpoints import Handler
from emitterd.rehearsal.exchange import ConnectionLost, Exchange, ServiceDied
from emitterd.rehearsal.faults import UPLOAD_PATH, FaultInjector, FaultStage
from emitterd.rehearsal.ingestion import IngestionService
from emitterd.rehearsal.responses import RefusedError

BASE_PATH = "/api/ingestion"
_STATUS_ARGUMENTS = ("filename", "ingestion_type", "ingestion_name")
_EVENT = "event"


@dataclass(slots=True)
class IngestionEndpoints:
    """The handlers of the ingestion protocol.

    With an API key in `logins` the service stands behind a gateway: it accepts this key only, and
    makes no tokens.
    """

    service: IngestionService
    logins: Logins
    injector: FaultInjector

    def open(self) -> None:
        """Read what a former run left."""
        self.service.open()

    def close(self) -> None:
        """Lose the work in process, as a container that is stopped."""
        self.service.lose_work()

    def routes(self) -> list[tuple[str, str, str, Handler]]:
        """Return method, path, endpoint's name and handler of everything served."""
        return [
            ("GET", f"{BASE_PATH}/generatejwt", "generatejwt", self._generate_token),
            ("POST", UPLOAD_PATH, "national_programs", self._upload),
            ("GET", f"{BASE_PATH}/file-status", "file-status", self._file_status),
        ]

    async def _generate_token(self, exchange: Exchange) -> Response | None:
        if not self.logins.enabled:
            return responses.UNAUTHORIZED
        token = responses.text_response(self.service.token())
        return await self.injector.apply(exchange, FaultStage.LOGIN, token)

    async def _upload(self, exchange: Exchange) -> Response | None:
        """Serve `POST /national_programs`: the answer is about the zip, not about its rows."""
        await self._check_token(exchange)
        began_at = time.monotonic()
        fault = self.injector.draw(exchange.record, FaultStage.ARRIVAL)
        if fault is not None:
            return await fault.kind.action(exchange, fault.parameter, Response())
        form = await self._form(exchange)
        try:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                return responses.NO_FILE
            exchange.record.name = upload.filename or ""
            if "zip" not in (upload.content_type or ""):
                return responses.NOT_ZIP_TYPE
            fault = self.injector.draw(exchange.record, FaultStage.REFUSE)
            if fault is not None:
                return await fault.kind.action(exchange, fault.parameter, Response())
            tracked = self.service.receive(exchange.record.name, upload.file, began_at)
        finally:
            await form.close()
        # The service processes the file whether or not its answer arrives.
        if self.service.process_after_s is not None:
            asyncio.get_running_loop().call_later(
                self.service.process_after_s, self.service.process_file, tracked.pid
            )
        return await self.injector.apply(exchange, FaultStage.ANSWER, responses.ACCEPTED)

    async def _form(self, exchange: Exchange) -> FormData:
        """Return the parts of a body. Raises `RefusedError` if there are none."""
        if not exchange.headers.get("content-type", "").startswith("multipart/form-data"):
            raise RefusedError(responses.NO_FILE)
        ends: list[Exception] = []
        try:
            return await MultiPartParser(exchange.headers, self._body(exchange, ends)).parse()
        except MultiPartException as error:
            raise (ends[0] if ends else RefusedError(responses.BAD_MULTIPART)) from error

    async def _body(self, exchange: Exchange, ends: list[Exception]) -> AsyncGenerator[bytes]:
        fault = self.injector.draw(exchange.record, FaultStage.BODY)
        try:
            async for chunk in exchange.chunks():
                yield chunk
                exchange.record.bytes += len(chunk)
                exchange.last_chunk_bytes = len(chunk)
                if fault is not None:
                    await fault.kind.action(exchange, fault.parameter, Response())
        except (ConnectionLost, ServiceDied) as end:
            # The parser removes its temporary file for its own error only.
            ends.append(end)
            raise MultiPartException(str(end)) from end

    async def _file_status(self, exchange: Exchange) -> Response | None:
        await self._check_token(exchange)
        query = {name: values[-1] for name, values in parse_qs(exchange.query).items()}
        for name in _STATUS_ARGUMENTS:
            if not query.get(name):
                problem = {
                    "keyword": "required",
                    "message": f"must have required property '{name}'",
                }
                return responses.json_response({"message": [problem]}, 400)
        exchange.record.name = query["filename"]
        response = responses.NO_RECORDS
        if query["ingestion_type"] == _EVENT:
            newest = self.service.newest(query["filename"], query["ingestion_name"])
            if newest is not None:
                response = responses.json_response({"response": newest.status()})
        return await self.injector.apply(exchange, FaultStage.STATUS, response)

    async def _check_token(self, exchange: Exchange) -> None:
        """Raise `RefusedError` without a valid token."""
        authorization = exchange.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            raise RefusedError(responses.NO_TOKEN)
        if scheme != "Bearer":
            raise RefusedError(responses.BAD_SCHEME)
        is_known = self.logins.accepts(authorization)
        if not (is_known or (self.logins.enabled and self.service.accepts(token))):
            raise RefusedError(responses.BAD_TOKEN)
        fault = self.injector.draw(exchange.record, FaultStage.TOKEN)
        if fault is not None:
            refusal = await fault.kind.action(exchange, fault.parameter, Response())
            raise RefusedError(refusal or Response())
