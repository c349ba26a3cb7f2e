"""The table of all addresses: pages, metrics and health.

Each request to a page first gets its viewer and its language; an error of the journal becomes a
page.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import cast

from emitterd.datasets.inspection import Inspector
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import JournalError
from emitterd.intake.file_status import FileStatusReader, Latest
from emitterd.journal.opening import JournalLocation
from emitterd.monitoring.alarms import AlarmLevel, Health
from emitterd.monitoring.arrivals import Expectation
from emitterd.monitoring.status import health_record
from emitterd.monitoring.uploads import UploadTracker
from emitterd.text import printable
from emitterd.translation.text import Text
from emitterd.web.access.login import PageAccess
from emitterd.web.access.sessions import Address
from emitterd.web.access.users import UsersFile
from emitterd.web.actions import Actions, Apply
from emitterd.web.datasets_page import DatasetsPage
from emitterd.web.downloads import DEADLINE_S, Downloads
from emitterd.web.files_page import FilesPage
from emitterd.web.http_server import Handler, Request, RequestBody, Response, Route, StreamHandler
from emitterd.web.inspection_page import InspectionPage
from emitterd.web.overview import Overview
from emitterd.web.rendering import Answers, choose_language, favicon, language_of, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the pages show. The functions are called for each response, so that a reload shows.

    `datasets`: the titles of the catalogue in order. `host`: where the files go; `server`: the
    URL of the emission API. `scrape`: from an Accept header to the metrics and their type.
    `enforces`: whether emitterd rejects a file that the server would lose. `address`: where people
    reach the page. `apply`: applies an operation, as for the command line.
    """

    journal: JournalLocation
    uploads: UploadTracker
    status_reader: Callable[[Latest], FileStatusReader]
    datasets: Callable[[], Sequence[str]]
    expectations: Callable[[], Sequence[Expectation]]
    health: Callable[[], Health]
    outage: Callable[[], OpenCircuit | None]
    host: Callable[[], str]
    ready: Callable[[], bool]
    scrape: Callable[[str], tuple[bytes, str]]
    inspector: Callable[[], Inspector]
    enforces: Callable[[], bool]
    users: UsersFile
    address: Address
    server: Callable[[], str]
    apply: Apply


def routes(sources: Sources) -> list[Route]:
    """Return every route; the last one has all other paths."""
    access = PageAccess(sources.users, sources.address)
    actions = Actions(
        sources.journal, sources.status_reader, sources.inspector, sources.server, sources.apply
    )
    answers = Answers()
    pages = [
        *_pages(sources, actions),
        *_forms(sources, actions, access),
        Route("/answer", answers.show),
        Route("/favicon.svg", favicon),
        Route("/{path:path}", _absent),
    ]
    return [
        Route("/metrics", _metrics(sources.scrape), reserved=True),
        Route("/healthz", _healthz(sources.health), reserved=True),
        Route("/readyz", _readyz(sources.ready), reserved=True),
        *(_prepared(route, sources, access, answers) for route in pages),
    ]


def _pages(sources: Sources, actions: Actions) -> list[Route]:
    overview = Overview(sources.journal, sources.uploads, sources.health, sources.outage)
    datasets = DatasetsPage(sources.journal, sources.datasets, sources.expectations)
    files = FilesPage(sources.journal, sources.status_reader, actions.note)
    downloads = Downloads(sources.journal)
    return [
        Route("/", overview.whole),
        Route("/overview", overview.live),
        Route("/datasets", datasets.datasets),
        Route("/files", files.files),
        Route("/explain", files.explain),
        Route("/skipped", files.skipped),
        Route("/files.csv", downloads.files_csv, deadline_s=DEADLINE_S),
        Route("/files.json", downloads.files_json, deadline_s=DEADLINE_S),
        Route("/receipts.csv", downloads.receipts_csv, deadline_s=DEADLINE_S),
        Route("/receipts.json", downloads.receipts_json, deadline_s=DEADLINE_S),
    ]


def _forms(sources: Sources, actions: Actions, access: PageAccess) -> list[Route]:
    inspection = InspectionPage(sources.inspector, sources.enforces, sources.address)
    longest_s = inspection.limits.total_s
    post, stream = ("POST",), RequestBody.STREAM
    return [
        Route("/inspect", inspection.show),
        Route("/inspect", inspection.inspect, post, stream, deadline_s=longest_s),
        Route("/login", access.login, ("GET", "POST"), RequestBody.FORM),
        Route("/logout", access.logout, post, RequestBody.FORM),
        Route("/act", actions.act, post, RequestBody.FORM),
        Route("/language", choose_language, post, RequestBody.FORM),
    ]


def _prepared(route: Route, sources: Sources, access: PageAccess, answers: Answers) -> Route:
    """Return a route whose handler gets `request.state`, and may raise `JournalError`.

    Its handler sees no form that another site has sent.
    """

    def refuse(request: Request) -> Response | None:
        request.state.viewer = access.viewer(request)
        request.state.language = language_of(request)
        request.state.host = printable(sources.host())
        request.state.answers = answers
        return access.refusal(request) if request.method == "POST" else None

    def handler(request: Request) -> Response:
        try:
            return refuse(request) or cast("Handler", route.handler)(request)
        except JournalError as error:
            return _unreadable(request, error)

    async def stream_handler(request: Request) -> Response:
        try:
            return refuse(request) or await cast("StreamHandler", route.handler)(request)
        except JournalError as error:
            return _unreadable(request, error)

    is_stream = route.body is RequestBody.STREAM
    return replace(route, handler=stream_handler if is_stream else handler)


def _absent(request: Request) -> Response:
    title, remark = Text("There is no such page"), Text("Go back to the overview.")
    return message(request, title, remark, HTTPStatus.NOT_FOUND)


def _unreadable(request: Request, error: JournalError) -> Response:
    remark = Text("{reason}: {remedy}", reason=printable(str(error)), remedy=error.remedy)
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return message(request, Text("The journal cannot be read"), remark, status)


def _metrics(scrape: Callable[[str], tuple[bytes, str]]) -> Handler:
    def handler(request: Request) -> Response:
        text, kind = scrape(request.headers.get("Accept", ""))
        return Response(text, media_type=kind)

    return handler


def _healthz(health: Callable[[], Health]) -> Handler:
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


def _readyz(ready: Callable[[], bool]) -> Handler:
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
