"""The page for people: a WSGI application that shows, and changes nothing.

`/` is the whole page, `/overview` the part of it that lives, `/explain?path=` tells
of one file. Who may ask at all is the listener's business.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from jinja2 import Environment, PackageLoader, StrictUndefined

from emitterd import __version__
from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import JournalError
from emitterd.intake.file_status import FileStatuses, FolderState, Latest
from emitterd.journal.connection import Read
from emitterd.journal.reader import JournalReader
from emitterd.monitoring.alarms import Health
from emitterd.monitoring.explain import Explanation, OutsideSpool, explain, locate
from emitterd.monitoring.page_data import (
    HEIGHT,
    SHOWN,
    SHOWN_REJECTED,
    WIDTH,
    Summary,
    Throughput,
    forecast,
    gather,
    progress,
    rate,
    summary,
)
from emitterd.monitoring.uploads import UploadTracker
from emitterd.spool.folder import Spool
from emitterd.text import (
    amount,
    count,
    display,
    iso,
    printable,
    sentence,
    span,
    undisplay,
)

# The page as HTML: the one module that knows jinja2. Whatever a template is given is
# escaped; what it may not be given is a name that can forge: those go through
# `entry.display` before. Style and script stand in the page itself, and its policy
# allows these two and nothing else.

_ASSETS = files("emitterd.monitoring").joinpath("templates")
STYLE = _ASSETS.joinpath("page.css").read_text("utf-8")
SCRIPT = _ASSETS.joinpath("page.js").read_text("utf-8")


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


def _utc(at: float) -> str:
    """Return an instant in UTC; the script puts it into the reader's time zone."""
    plain = datetime.fromtimestamp(at, UTC)
    return f"{plain.day} {plain:%b, %H:%M} UTC"


def _meaning(code: str) -> str:
    return Code(code).title


_environment = Environment(
    loader=PackageLoader("emitterd.monitoring", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.update(style=STYLE, script=SCRIPT, version=__version__)
_environment.filters.update(
    amount=amount,
    count=count,
    display=display,
    iso=iso,
    meaning=_meaning,
    sentence=sentence,
    span=span,
    utc=_utc,
)


def render(template: str, **values: object) -> str:
    """Return a template of `pages/` filled in."""
    return _environment.get_template(template).render(values)


# Which file a person means who knows a part of its name. By the journal's index only: a
# name, with or without its folder, or its beginning.

MATCHES = 20
FOLDERS = 200
"""So many dataset folders are looked through: a catalogue has a fifth of that."""

_BEGINNING = """select distinct path from entry where path >= ? and path < ?
    order by path limit ?"""


def search(spool: Spool, read: Read, said: str) -> list[bytes]:
    """Return paths of the journal that begin so, in their dataset folder or from it."""
    beginnings = [one.lstrip(b"/") for one in undisplay(said)]
    folders = [b"", *_folders(spool)]
    found: dict[bytes, None] = {}
    for beginning in beginnings:
        for folder in folders if beginning else []:
            first = folder + beginning
            # In UTF-8 nothing follows that is as high.
            rows = read(_BEGINNING, (first, first + b"\xff\xff", MATCHES))
            found.update(dict.fromkeys(row[0] for row in rows))
    return list(found)[:MATCHES]


def _folders(spool: Spool) -> list[bytes]:
    """Return the folders right under the root, each with its slash."""
    try:
        with os.scandir(os.fsencode(spool.root)) as scan:
            folders = (one.name for one in scan if one.is_dir(follow_symlinks=False))
            return [name + b"/" for name in islice(folders, FOLDERS)]
    except OSError:
        return []


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
    file_statuses: Callable[[Latest], FileStatuses]
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
            file_statuses = self._window.file_statuses(records.latest)
            try:
                path = locate(file_statuses.spool, records, said)
            except OutsideSpool as error:
                words = sentence(str(error))
                return self._message(HTTPStatus.NOT_FOUND, "Not here", words, said)
            explanation = explain(file_statuses, records, path)
            found = []
            if not explanation.versions and explanation.state in _VAGUE:
                found = search(file_statuses.spool, records.read, said)
            if len(found) == 1:
                explanation = explain(file_statuses, records, found[0])
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
