"""Files and receipts as CSV and JSON, with the filters of the list of files.

A download is read in batches: it needs little memory, and no batch holds the journal for long.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import chain, islice
from threading import Semaphore
from typing import Any
from weakref import finalize

from emitterd.journal.listing import BATCH, all_files
from emitterd.journal.opening import JournalLocation
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import entries_by_state
from emitterd.journal.store import Row
from emitterd.model import State
from emitterd.monitoring.export import FILE_FIELDS, RECEIPT_FIELDS, csv_lines, json_lines
from emitterd.translation.text import Text
from emitterd.web.files_page import WrongFilter, file_filter
from emitterd.web.http_server import Request, Response, parameters, streamed
from emitterd.web.rendering import HEADERS, message

DEADLINE_S = 1800.0
"""A download of a million files over a slow line must end within this time."""

AT_ONCE = 4
"""Downloads at the same time: each may keep a connection for long."""

BYTE_ORDER_MARK = "\ufeff"

_Records = Iterable[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Downloads:
    """The handlers. Thread-safe: each batch opens the journal for itself."""

    journal: JournalLocation
    _free: Semaphore = field(default_factory=lambda: Semaphore(AT_ONCE))

    def files_csv(self, request: Request) -> Response:
        """Return the files as CSV."""
        return self._csv(request, "files", FILE_FIELDS)

    def files_json(self, request: Request) -> Response:
        """Return the files as JSON, as `list --json` does."""
        return self._response(request, "files.json", "application/json", json_lines)

    def receipts_csv(self, request: Request) -> Response:
        """Return the delivered files as CSV, as `receipts --csv` does."""
        return self._csv(request, "receipts", RECEIPT_FIELDS, State.DELIVERED)

    def receipts_json(self, request: Request) -> Response:
        """Return the delivered files as JSON, as `receipts --json` does."""
        kind = "application/json"
        return self._response(request, "receipts.json", kind, json_lines, State.DELIVERED)

    def _csv(
        self, request: Request, name: str, fields: str, state: State | None = None
    ) -> Response:
        def lines(records: _Records) -> Iterator[str]:
            # Without this mark Excel takes the file for one of another alphabet.
            return chain([BYTE_ORDER_MARK], csv_lines(records, fields))

        return self._response(request, f"{name}.csv", "text/csv", lines, state)

    def _response(
        self,
        request: Request,
        name: str,
        media_type: str,
        lines: Callable[[_Records], Iterator[str]],
        state: State | None = None,
    ) -> Response:
        try:
            chosen = file_filter(parameters(request))
        except WrongFilter as wrong:
            remark = Text("The value of {name} cannot be used.", name=str(wrong))
            title = Text("The address is wrong")
            return message(request, title, remark, HTTPStatus.BAD_REQUEST)
        if state is not None:
            chosen = replace(chosen, states=frozenset({state}))
        batches = all_files(self._read, chosen, entries_by_state(self._read))
        headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{_dated(name)}"'}
        if request.method == "HEAD":
            return Response(None, HTTPStatus.OK, headers, media_type)
        if not self._free.acquire(blocking=False):
            remark = Text("Other downloads are running: try again in a minute.")
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return message(request, Text("Too many downloads"), remark, status)
        chunks = _chunks(lines(chain.from_iterable(batches)))
        # Also if the client goes away, or the first chunk is never read.
        finalize(chunks, self._free.release)
        return streamed(request, chunks, headers, media_type)

    def _read(self, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> list[Row]:
        # Nothing stays open: the client may go away between two batches.
        with JournalReader(self.journal) as reader:
            return reader.read(sql, parameters)


def _dated(name: str) -> str:
    stem, _, ending = name.partition(".")
    return f"emitterd-{stem}-{datetime.now(UTC).astimezone():%Y-%m-%d}.{ending}"


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    while chunk := "".join(islice(lines, BATCH)):
        yield chunk.encode()
