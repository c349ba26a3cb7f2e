"""The read-only page. Its texts and the order of its parts are in `templates/`.

`/` is the whole page, `/overview` the part that its script replaces, `/explain?path=` is about one
file. Templates escape every value. Style and script are in the page itself, and its
Content-Security-Policy allows no other. Only this module uses jinja2.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined

from emitterd import __version__
from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import JournalError
from emitterd.intake.file_status import FileStatusReader, Latest
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.alarms import Health
from emitterd.monitoring.explain import explain, locate
from emitterd.monitoring.http_server import Request, Response
from emitterd.monitoring.page_data import SHOWN, SHOWN_REJECTED, Throughput, read_lists
from emitterd.monitoring.status import read_queue
from emitterd.monitoring.uploads import UploadTracker
from emitterd.text import count, display, iso, local_time, printable, sentence
from emitterd.units import format_age, format_size

_TEMPLATES = files("emitterd.monitoring").joinpath("templates")
STYLE = _TEMPLATES.joinpath("page.css").read_text("utf-8")
SCRIPT = _TEMPLATES.joinpath("page.js").read_text("utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "form-action 'self'",
        # The empty icon, without which browsers ask for one.
        "img-src data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of every page."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The browser keeps the page for its Back button, and asks again each time.
    "Cache-Control": "private, no-cache",
}


_environment = Environment(
    loader=PackageLoader("emitterd.monitoring", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.update(style=STYLE, script=SCRIPT, version=__version__)
_environment.filters.update(
    age=format_age,
    count=count,
    display=display,
    iso=iso,
    local_time=local_time,
    meaning=lambda code: Code(code).title,
    remedy=lambda code: Code(code).remedy,
    sentence=sentence,
    size=format_size,
)


def render(template: str, **values: object) -> str:
    """Return a template filled in. File names in `values` must be printable."""
    return _environment.get_template(template).render(values)


@dataclass(frozen=True, slots=True)
class Page:
    """The HTTP handler. Thread-safe: each response opens the journal's file for itself.

    The functions are called for each response, so that a reload shows.
    """

    journal: Path
    uploads: UploadTracker
    throughput: Throughput
    status_reader: Callable[[Latest], FileStatusReader]
    health: Callable[[], Health]
    outage: Callable[[], OpenCircuit | None]
    host: Callable[[], str]

    def __call__(self, request: Request) -> Response:
        """Return the response to a GET or HEAD request."""
        routes = {"/": self._whole, "/overview": self._overview, "/explain": self._explain}
        try:
            return routes.get(request.scope["path"], self._absent)(request)
        except JournalError as error:
            return self._message(
                "The journal cannot be read",
                f"{printable(str(error))}: {error.remedy}",
                HTTPStatus.SERVICE_UNAVAILABLE,
            )

    def _whole(self, _: Request) -> Response:
        health, fragment = self.health(), self._fragment(time.time())
        etag = entity_tag(fragment)
        return self._page("overview.html", health=health, fragment=fragment, etag=etag)

    def _overview(self, request: Request) -> Response:
        fragment = self._fragment(time.time())
        etag = {"ETag": entity_tag(fragment)}
        if request.headers.get("If-None-Match") == etag["ETag"]:
            return Response(None, HTTPStatus.NOT_MODIFIED, _HEADERS | etag)
        return _html(fragment, headers=etag)

    def _fragment(self, now: float) -> str:
        outage = self.outage()
        with JournalReader(self.journal) as reader:
            # Outside the snapshot, which a long reading would hold.
            bars = self.throughput.day(reader.read, now)
            with reader.snapshot():
                queue = read_queue(reader.read, now)
                lists = read_lists(reader.read)
        return render(
            "fragment.html",
            now=now,
            health=self.health(),
            queue=queue,
            lists=lists,
            waiting=queue.counts[State.QUEUED] + queue.counts[State.DEFERRED],
            bars=bars,
            uploads=self.uploads.now(),
            eta_s=queue.eta_s(moving=outage is None, sent=self.uploads.sent_share()),
            outage=outage,
            shown=SHOWN,
            shown_rejected=SHOWN_REJECTED,
        )

    def _explain(self, request: Request) -> Response:
        # A byte that is not UTF-8 stays that byte: names are bytes.
        text = request.scope["query_string"].decode("latin-1")
        query = parse_qs(text, errors="surrogateescape")
        name = query.get("path", [""])[0].strip()
        with JournalReader(self.journal) as reader:
            statuses = self.status_reader(reader.latest)
            try:
                path = locate(statuses.spool, reader, name)
            except ValueError as error:
                # No path, one outside the watched folder, or one with a null byte.
                remark = sentence(str(error))
                return self._message("Not in the folder", remark, HTTPStatus.NOT_FOUND, name)
            explanation = explain(statuses, reader, path)
        status = HTTPStatus.OK if explanation.known else HTTPStatus.NOT_FOUND
        return self._page("explain.html", status, name, explanation=explanation)

    def _absent(self, _: Request) -> Response:
        title, remark = "There is no such page", "Go back to the overview."
        return self._message(title, remark, HTTPStatus.NOT_FOUND)

    def _message(self, title: str, remark: str, status: HTTPStatus, name: str = "") -> Response:
        return self._page("message.html", status, name, title=title, remark=remark)

    def _page(
        self, template: str, status: HTTPStatus = HTTPStatus.OK, name: str = "", **values: object
    ) -> Response:
        """Return a whole page; `name` is shown in the search field."""
        return _html(
            render(
                template,
                now=time.time(),
                host=printable(self.host()),
                asked=display(name.encode("utf-8", "surrogateescape")),
                shown=SHOWN,
                **values,
            ),
            status,
        )


def _html(
    text: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    all_headers = {**_HEADERS, "Content-Security-Policy": POLICY, **(headers or {})}
    return Response(text, status, all_headers, "text/html")


def entity_tag(fragment: str) -> str:
    """Return the ETag of one state of the page."""
    return f'"{hashlib.sha256(fragment.encode()).hexdigest()[:32]}"'
