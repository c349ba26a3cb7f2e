"""`/inspect`: a visitor gives a zip, and reads what the server would do with it.

emitterd never stores the zip on a disk, and never sends it. It keeps in memory what an inspection
reads of it, and a child process inspects that. `InspectionLimits` limits what visitors can use up.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from emitterd.datasets.catalogue import Catalogue
from emitterd.datasets.findings import Loss
from emitterd.datasets.inspection import Inspector
from emitterd.datasets.inspection_process import (
    BUDGET_MAX_BYTES,
    MEMORY_BYTES,
    InspectionProcess,
    ReceivedZip,
    read_report,
)
from emitterd.intake.examine import MAX_BYTES
from emitterd.text import display
from emitterd.web.access.sessions import Address, Viewer, is_same
from emitterd.web.http_server import DEADLINE_S, ClientDisconnect, Request, Response, keep_open
from emitterd.web.rendering import html, page, render

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

POLL_S = 0.1
"""How soon a client that has gone away is noticed."""

REPORT_MAX_BYTES = 1024**2
"""A report has a few findings, and each is short."""

_FIELDS_MAX_BYTES = 4096
_PART_BYTES = 256
"""What a part counts beside its bytes."""

_FIELD_SLACK_BYTES = 16 * 1024
"""The parts of a form around its file."""

_NAME_MAX_BYTES = 255
"""The longest name of a file. Source: Linux, NAME_MAX."""

_DISCARD_MAX_BYTES, _DISCARD_S = 16 * 1024**2, 5.0
"""How much of a refused body is read, and for how long: a browser that still sends does not read
the answer."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InspectionLimits:
    """What visitors can use up. Each takes up to 24 MiB of memory, with the usual budget.

    `visitors`: how many may send a file or wait at the same time; one file is inspected at a time.
    `silence_s`: the longest pause within a file; `receive_s`: the time for the whole file.
    `inspect_s` and `memory_bytes`: time and memory of the child process.
    """

    visitors: int = 4
    size_bytes: int = MAX_BYTES
    silence_s: float = 10.0
    receive_s: float = 600.0
    inspect_s: float = 30.0
    memory_bytes: int = MEMORY_BYTES

    @property
    def total_s(self) -> float:
        """The longest time from the request to the answer."""
        return self.receive_s + self.visitors * self.inspect_s + DEADLINE_S


class _RefusedError(Exception):
    """The page does not inspect the file. `problem`: why, as `inspection_answer.html` names it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


_STATUSES = {
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "failed": HTTPStatus.INTERNAL_SERVER_ERROR,
    "foreign": HTTPStatus.FORBIDDEN,
    "form": HTTPStatus.BAD_REQUEST,
    "large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "long": HTTPStatus.SERVICE_UNAVAILABLE,
    "no_file": HTTPStatus.BAD_REQUEST,
    "slow": HTTPStatus.REQUEST_TIMEOUT,
    "type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}


class InspectionPage:
    """The handlers. `inspect` runs in the event loop, `show` in any thread."""

    def __init__(
        self,
        inspector: Callable[[], Inspector],
        enforces: Callable[[], bool],
        address: Address,
        limits: InspectionLimits | None = None,
    ) -> None:
        """`enforces`: whether emitterd rejects a file that the server would lose."""
        self.limits = limits or InspectionLimits()
        self._inspector = inspector
        self._enforces = enforces
        self._address = address
        self._visitors = 0
        self._inspecting = False

    def show(self, request: Request) -> Response:
        """Return the page with the form."""
        return self._page(request)

    async def inspect(self, request: Request) -> Response:
        """Return what the server would do with the file of a form.

        `?fragment`: only this, without the page around it.
        """
        try:
            await self._admit(request)
            self._visitors += 1
            keep_open(request)
            try:
                return await self._inspect(request)
            finally:
                self._visitors -= 1
                keep_open(request, kept=False)
        except _RefusedError as refusal:
            return self._answer(request, problem=refusal.problem)
        except ClientDisconnect:
            # Nobody reads it.
            return Response(None, HTTPStatus.BAD_REQUEST)
        except OSError as error:
            log.warning("web.inspection_failed", reason=str(error))
            return self._answer(request, problem="failed")
        finally:
            # The client must read the answer within the usual time.
            request.state.connection.close_after(DEADLINE_S)

    def _access(self, request: Request) -> str:
        """Return why the page is closed to the visitor; empty if it is open."""
        viewer: Viewer = request.state.viewer
        if not self._address.local:
            return "remote"
        if viewer.can_log_in:
            return "" if viewer.role else "login"
        # Without a login only users of this machine may have it work. With a proxy, emitterd cannot
        # tell them from strangers: the proxy may pass on any Host header.
        is_here = self._address.names_this_machine(request.headers.get("host", ""))
        return "" if is_here and not self._address.public_url else "public"

    async def _admit(self, request: Request) -> None:
        problem, length = "", request.headers.get("content-length", "")
        if self._access(request):
            problem = "foreign"
        elif not length.isdecimal() or "transfer-encoding" in request.headers:
            # A body in many small chunks would cost much time of the processor.
            problem = "form"
        elif int(length) > self.limits.size_bytes + _FIELD_SLACK_BYTES:
            problem = "large"
        elif self._visitors >= self.limits.visitors:
            problem = "busy"
        if problem:
            await _discard(request)
            raise _RefusedError(problem)

    async def _inspect(self, request: Request) -> Response:
        inspector = self._inspector()
        budget_bytes = min(inspector.settings.budget_bytes, BUDGET_MAX_BYTES)
        settings = replace(inspector.settings, budget_bytes=budget_bytes)
        inspector = replace(inspector, settings=settings)
        with ReceivedZip(budget_bytes) as received:
            form = await self._receive(request, received)
            path = _place(inspector.catalogue, form.name, form.title)
            async with self._turn(request):
                record = await self._report(request, inspector, path, received)
        renamed = path.rpartition(b"/")[2] != form.name
        findings = record.get("findings", [])
        enforces = self._enforces() or any(item["loses"] == Loss.SERVICE for item in findings)
        result = {"chosen": form.title, "renamed": renamed, "enforces": enforces}
        result |= {"name": display(form.name), "path": display(path)} | record
        return self._answer(request, result=result, name=result["name"])

    async def _receive(self, request: Request, received: ReceivedZip) -> "_Form":
        loop, limits = asyncio.get_running_loop(), self.limits
        ends_at = loop.time() + limits.receive_s
        try:
            form = _Form(request, received, limits.size_bytes)
            async with asyncio.timeout(limits.silence_s) as timer:
                async for chunk in request.stream():
                    form.feed(chunk)
                    timer.reschedule(min(loop.time() + limits.silence_s, ends_at))
            form.finish()
        except TimeoutError:
            raise _RefusedError("slow") from None
        except _RefusedError:
            await _discard(request)
            raise
        return form

    @asynccontextmanager
    async def _turn(self, request: Request) -> AsyncIterator[None]:
        while self._inspecting:
            await _pause(request, POLL_S)
        self._inspecting = True
        try:
            yield
        finally:
            self._inspecting = False

    async def _report(
        self, request: Request, inspector: Inspector, path: bytes, received: ReceivedZip
    ) -> dict[str, Any]:
        with InspectionProcess(inspector, path, received, self.limits.memory_bytes) as process:
            output = await self._read(request, process.output.fileno())
        try:
            return read_report(output)
        except ValueError:
            log.warning("web.inspection_failed", reason="the child process ended early")
            raise _RefusedError("failed") from None

    async def _read(self, request: Request, pipe: int) -> bytes:
        """Read what the child prints, until it ends."""
        loop, readable, output = asyncio.get_running_loop(), asyncio.Event(), bytearray()
        ends_at = loop.time() + self.limits.inspect_s
        os.set_blocking(pipe, False)
        loop.add_reader(pipe, readable.set)
        try:
            while len(output) <= REPORT_MAX_BYTES:
                if loop.time() >= ends_at:
                    raise _RefusedError("long")
                await _pause(request, POLL_S, readable)
                readable.clear()
                # The event may also be of what was read before.
                with suppress(BlockingIOError):
                    chunk = os.read(pipe, REPORT_MAX_BYTES)
                    if not chunk:
                        break
                    output += chunk
        finally:
            loop.remove_reader(pipe)
        return bytes(output)

    def _answer(self, request: Request, *, problem: str = "", **values: object) -> Response:
        status = _STATUSES[problem] if problem else HTTPStatus.OK
        headers = {"Retry-After": "60"} if problem == "busy" else None
        values = {"name": "", "problem": problem, "limits": self.limits} | values
        if "fragment" in request.query_params:
            return html(render(request, "inspection_answer.html", **values), status, headers)
        return self._page(request, status, headers, answer=True, **values)

    def _page(
        self,
        request: Request,
        status: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
        *,
        answer: bool = False,
        **values: object,
    ) -> Response:
        titles: dict[str, list[str]] = {}
        for dataset in self._inspector().catalogue.datasets:
            titles.setdefault(dataset.folder, []).append(dataset.title)
        values |= {"access": self._access(request), "titles": titles, "answer": answer}
        return page(request, "inspection.html", status, headers, **values)


class _Form:
    """A multipart form whose last part is the file, parsed as it comes."""

    def __init__(self, request: Request, received: ReceivedZip, limit_bytes: int) -> None:
        self.name = b""
        """The file's own name, without folders."""
        self._fields: dict[str, bytearray] = {}
        self._received = received
        self._limit_bytes = limit_bytes
        self._form_token = request.state.viewer.form_token
        self._part: bytearray | None = None
        """The field that is being read; None for the file."""
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._fields_bytes = 0
        self._has_file = self._ended = False
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _RefusedError("type")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise _RefusedError("type") from None

    @property
    def title(self) -> str:
        """The title of the dataset that the visitor has chosen; empty to go by the name."""
        return self._fields.get("dataset", b"").decode("utf-8", "replace")

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _RefusedError("form") from None

    def finish(self) -> None:
        """Check that the form has come to its end."""
        if not self._ended:
            raise _RefusedError("form")
        if not self._has_file or not self.name:
            raise _RefusedError("no_file")

    def _begin_part(self) -> None:
        if self._has_file:
            raise _RefusedError("form")
        # Else parts without headers would cost nothing.
        self._count(_PART_BYTES)
        self._disposition = b""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count(end - start)

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != "file":
            self._part = self._fields[name] = bytearray()
            return
        self._part, self._has_file = None, True
        # Some browsers send the folder, too.
        self.name = options.get(b"filename", b"").replace(b"\\", b"/").rpartition(b"/")[2]
        if len(self.name) > _NAME_MAX_BYTES:
            raise _RefusedError("form")
        given = self._fields.get("form_token", b"").decode("utf-8", "replace")
        # Before the file, which costs something. Without a login there is no token.
        if self._form_token and not is_same(given, self._form_token):
            raise _RefusedError("foreign")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._count(end - start)
            self._part += data[start:end]
            return
        if self._received.size_bytes + end - start > self._limit_bytes:
            raise _RefusedError("large")
        with memoryview(data)[start:end] as view:
            self._received.write(view)

    def _count(self, size_bytes: int) -> None:
        self._fields_bytes += size_bytes
        if self._fields_bytes > _FIELDS_MAX_BYTES:
            raise _RefusedError("form")

    def _end(self) -> None:
        self._ended = True


def _place(catalogue: Catalogue, name: bytes, title: str) -> bytes:
    """Return where a file would be dropped: in the chosen dataset, or by its name."""
    if title:
        if title not in (dataset.title for dataset in catalogue.datasets):
            raise _RefusedError("form")
        return catalogue.place(name, title)
    guesses = catalogue.guess(name.decode("utf-8", "backslashreplace"))
    return guesses[0].folder.encode() + b"/" + name if guesses else name


async def _pause(request: Request, pause_s: float, until: asyncio.Event | None = None) -> None:
    """Wait, but not for an event that happens. Raises `ClientDisconnect`."""
    try:
        async with asyncio.timeout(pause_s):
            await (until or asyncio.Event()).wait()
    except TimeoutError:
        if await request.is_disconnected():
            raise ClientDisconnect from None


async def _discard(request: Request) -> None:
    """Read the rest of a body that is refused, within limits."""
    size_bytes = 0
    try:
        async with asyncio.timeout(_DISCARD_S):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > _DISCARD_MAX_BYTES:
                    return
    except (ClientDisconnect, TimeoutError, RuntimeError):
        # RuntimeError: the body has come to its end.
        return
