"""The page for people: a WSGI application that shows, and changes nothing.

`/` is the whole page, `/overview` the part of it that lives, `/explain?path=` tells
of one file. Who may ask at all is the listener's business.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from emitterd.admission import Known
from emitterd.chart import HEIGHT, WIDTH
from emitterd.destination import Down
from emitterd.errors import JournalError, printable
from emitterd.explanation import Explanation, OutsideSpool, explain, locate
from emitterd.headline import forecast, headline, progress, rate
from emitterd.overview import SHOWN, gather
from emitterd.records import Records
from emitterd.rendering import POLICY, render
from emitterd.search import search
from emitterd.standing import Standings
from emitterd.throughput import Throughput
from emitterd.uploads import Uploads
from emitterd.verdict import Verdict

SAID_MAX = 4096
"""A longer path than the kernel takes is none."""

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Latest = Callable[[bytes], Known | None]

_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # Kept by the browser for the way back only, and asked for anew each time.
    ("Cache-Control", "private, no-cache"),
]


@dataclass(frozen=True, slots=True)
class Window:
    """What the page looks through: the journal's file, and what the daemon knows.

    What is called is called anew for each answer, so that a reload shows.
    """

    journal: Path
    uploads: Uploads
    throughput: Throughput
    standings: Callable[[Latest], Standings]
    verdict: Callable[[], Verdict]
    down: Callable[[], Down | None]
    eta_s: Callable[[], float | None]
    host: Callable[[], str]


class Page:
    """The application. Thread-safe: each answer opens the journal for itself."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._routes = {
            "/": self._overview,
            "/overview": self._fragment,
            "/explain": self._explain,
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
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
        status, body, headers = answer
        start_response(
            f"{status.value} {status.phrase}",
            [*_HEADERS, ("Content-Length", str(len(body))), *headers],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _overview(self, _: Environ) -> "Answer":
        now = time.time()
        values, fragment = self._look(now)
        text = self._render(
            "overview.html",
            now=now,
            fragment=fragment,
            etag=_etag(fragment),
            **values,
        )
        return HTTPStatus.OK, text.encode(), []

    def _fragment(self, environ: Environ) -> "Answer":
        fragment = self._look(time.time())[1]
        etag = ("ETag", _etag(fragment))
        if environ.get("HTTP_IF_NONE_MATCH") == etag[1]:
            return HTTPStatus.NOT_MODIFIED, b"", [etag]
        return HTTPStatus.OK, fragment.encode(), [etag]
