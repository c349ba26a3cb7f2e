"""The page for people: a WSGI application that shows, and changes nothing.

`/` is the whole page, `/overview` the part of it that lives, `/explain?path=` tells
of one file. Who may ask at all is the listener's business.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import JournalError, printable
from emitterd.intake.file_status import FileStatuses, FolderState, Latest
from emitterd.journal.reader import JournalReader
from emitterd.model import display
from emitterd.monitoring.alarms import Health
from emitterd.monitoring.chart import HEIGHT, WIDTH
from emitterd.monitoring.explain import Explanation, OutsideSpool, explain, locate
from emitterd.monitoring.headline import Summary, forecast, progress, rate, summary
from emitterd.monitoring.page_data import SHOWN, SHOWN_REJECTED, gather
from emitterd.monitoring.rendering import POLICY, render
from emitterd.monitoring.search import search
from emitterd.monitoring.throughput import Throughput
from emitterd.monitoring.uploads import UploadTracker
from emitterd.text import sentence

_VAGUE = frozenset({FolderState.ABSENT, FolderState.IGNORED})
"""Where a path stands that may be meant as the beginning of one: it may be a folder."""

SAID_MAX = 4096
"""A longer path than the kernel takes is none."""

Answer = tuple[HTTPStatus, str, list[tuple[str, str]]]

_OF_A_BODY = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
]
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # Kept by the browser for the way back only, and asked for anew each time.
    ("Cache-Control", "private, no-cache"),
]


@dataclass(frozen=True, slots=True)
class PageSources:
    """What the page looks through: the journal's file, and what the daemon knows.

    What is called is called anew for each answer, so that a reload shows.
    """

    journal: Path
    uploads: UploadTracker
    throughput: Throughput
    standings: Callable[[Latest], FileStatuses]
    verdict: Callable[[], Health]
    down: Callable[[], OpenCircuit | None]
    host: Callable[[], str]


class Page:
    """The application. Thread-safe: each answer opens the journal for itself."""

    def __init__(self, window: PageSources) -> None:
        self._window = window
        self._routes = {
            "/": self._overview,
            "/overview": self._fragment,
            "/explain": self._explain,
        }

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> list[bytes]:
        """Answer one request, as WSGI has it."""
        route = self._routes.get(environ["PATH_INFO"], self._absent)
        try:
            answer = route(environ)
        except JournalError as error:
            answer = self._message(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The journal cannot be read",
                f"{printable(str(error))}: {error.hint}",
            )
        status, text, headers = answer
        body = text.encode()
        if status is not HTTPStatus.NOT_MODIFIED:
            headers = [*_OF_A_BODY, ("Content-Length", str(len(body))), *headers]
        start_response(f"{status.value} {status.phrase}", _HEADERS + headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _overview(self, _: WSGIEnvironment) -> Answer:
        now = time.time()
        head, fragment = self._look(now)
        etag = entity_tag(fragment)
        return self._whole(
            "overview.html", now, head=head, fragment=fragment, etag=etag
        )

    def _fragment(self, environ: WSGIEnvironment) -> Answer:
        fragment = self._look(time.time())[1]
        etag = ("ETag", entity_tag(fragment))
        if environ.get("HTTP_IF_NONE_MATCH") == etag[1]:
            return HTTPStatus.NOT_MODIFIED, "", [etag]
        return HTTPStatus.OK, fragment, [etag]

    def _look(self, now: float) -> tuple[Summary, str]:
        """Return the headline, and the part of the page that lives."""
        window = self._window
        uploads, down = window.uploads.now(), window.down()
        with JournalReader(window.journal) as records:
            # Outside the snapshot, which the first reading of a day would hold long.
            day = window.throughput.day(records.read, now)
            with records.snapshot():
                seen = gather(records.read, day, now)
        eta_s = seen.progress.eta_s(moving=down is None)
        head = summary(window.verdict(), seen, len(uploads), eta_s)
        return head, render(
            "fragment.html",
            now=now,
            head=head,
            all=seen,
            uploads=[progress(one, now) for one in uploads],
            rate=rate(uploads, now),
            forecast=forecast(eta_s),
            down=down,
            shown=SHOWN,
            shown_rejected=SHOWN_REJECTED,
            chart_width=WIDTH,
            chart_height=HEIGHT,
        )

    def _explain(self, environ: WSGIEnvironment) -> Answer:
        # What is not UTF-8 in the query is a byte of a name, as everywhere.
        query = parse_qs(environ["QUERY_STRING"], errors="surrogateescape")
        said = query.get("path", [""])[0].strip()
        if not said:
            return self._message(
                HTTPStatus.BAD_REQUEST, "Which file?", "Write its name into the field."
            )
        if "\0" in said or len(said) > SAID_MAX:
            return self._message(
                HTTPStatus.BAD_REQUEST, "No such name", "No file can be called so."
            )
        with JournalReader(self._window.journal) as records:
            standings = self._window.standings(records.latest)
            try:
                path = locate(standings.spool, records, said)
            except OutsideSpool as error:
                words = sentence(str(error))
                return self._message(HTTPStatus.NOT_FOUND, "Not here", words, said)
            explanation = explain(standings, records, path)
            found = []
            if not explanation.versions and explanation.state in _VAGUE:
                found = search(standings.spool, records.read, said)
            if len(found) == 1:
                explanation = explain(standings, records, found[0])
        if explanation.known and len(found) <= 1:
            return self._whole(
                "explain.html", time.time(), said=said, explanation=explanation
            )
        return self._found(explanation, found, said)

    def _found(self, explanation: Explanation, found: list[bytes], said: str) -> Answer:
        if found:
            title, remark = "Which of these?", "Their names begin so."
        else:
            title, remark = f"Unknown: {explanation.path}", sentence(explanation.reason)
        names = [display(path) for path in found]
        status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        return self._message(status, title, remark, said, names)

    def _absent(self, _: WSGIEnvironment) -> Answer:
        return self._message(
            HTTPStatus.NOT_FOUND, "There is no such page", "The overview has it all."
        )

    def _message(
        self,
        status: HTTPStatus,
        title: str,
        remark: str,
        said: str = "",
        found: Sequence[str] = (),
    ) -> Answer:
        return self._whole(
            "message.html",
            time.time(),
            status,
            said=said,
            title=title,
            remark=remark,
            found=found,
        )

    def _whole(
        self,
        template: str,
        now: float,
        status: HTTPStatus = HTTPStatus.OK,
        *,
        said: str = "",
        **values: object,
    ) -> Answer:
        host = printable(self._window.host())
        shown = display(said.encode("utf-8", "surrogateescape"))
        text = render(template, now=now, host=host, said=shown, shown=SHOWN, **values)
        return status, text, []


def entity_tag(fragment: str) -> str:
    """Return what tells one state of the page from another."""
    return f'"{hashlib.sha256(fragment.encode()).hexdigest()[:32]}"'
