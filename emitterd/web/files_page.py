"""One file's history: what emitterd knows of a path."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from emitterd.intake.file_status import FileStatusReader, Latest
from emitterd.journal.reader import JournalReader
from emitterd.monitoring.explain import explain, locate
from emitterd.text import display, sentence
from emitterd.web.http_server import Request, Response
from emitterd.web.rendering import message, page

SHOWN = 6
"""Versions of a file that its page shows."""


@dataclass(frozen=True, slots=True)
class FilesPage:
    """The handlers. Thread-safe: each response opens the journal for itself."""

    journal: Path
    status_reader: Callable[[Latest], FileStatusReader]

    def explain(self, request: Request) -> Response:
        """Return what became of one file: `?path=`."""
        # A byte that is not UTF-8 stays that byte: names are bytes.
        text = request.scope["query_string"].decode("latin-1")
        query = parse_qs(text, errors="surrogateescape")
        name = query.get("path", [""])[0].strip()
        asked = display(name.encode("utf-8", "surrogateescape"))
        with JournalReader(self.journal) as reader:
            statuses = self.status_reader(reader.latest)
            try:
                path = locate(statuses.spool, reader, name)
            except ValueError as error:
                # No path, one outside the watched folder, or one with a null byte.
                remark = sentence(str(error))
                return message(request, "Not in the folder", remark, HTTPStatus.NOT_FOUND, asked)
            explanation = explain(statuses, reader, path)
        status = HTTPStatus.OK if explanation.known else HTTPStatus.NOT_FOUND
        return page(
            request, "explain.html", status, asked=asked, explanation=explanation, shown=SHOWN
        )
