"""The list of files, one file's history, and the files in the folder that are never sent."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from emitterd.errors import JournalError
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState, Latest, skipped
from emitterd.journal.listing import (
    SEARCHED,
    FileFilter,
    FileList,
    RowKey,
    arrived_datasets,
    list_files,
)
from emitterd.journal.opening import JournalLocation
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import entries_by_state
from emitterd.model import WAITING, State
from emitterd.monitoring.explain import Explanation, explain, locate, within
from emitterd.spool.folder import Spool
from emitterd.text import display
from emitterd.tracking.texts import sentences, word
from emitterd.translation.text import Text
from emitterd.units import midnight
from emitterd.web.actions import offered, seen
from emitterd.web.http_server import Request, Response, parameters
from emitterd.web.rendering import message, page

SHOWN = 6
"""Versions of a file that its page shows."""

TEXT_MAX = 500
"""Characters of a text that is searched for: a path has no more than 4096 bytes."""

GROUPS = {"waiting": WAITING, **{str(state): frozenset({state}) for state in State}}
"""The states to choose from."""

Record = Mapping[str, Any]


class WrongFilter(ValueError):
    """A filter that a person has typed is wrong; the argument is its name."""


def file_filter(query: Mapping[str, str]) -> FileFilter:
    """Return the filter that an address names. Raises `WrongFilter`."""
    state = query.get("state", "")
    if state not in {"", *GROUPS}:
        raise WrongFilter("state")
    return FileFilter(
        GROUPS.get(state, frozenset()),
        # As the journal writes a folder whose name is not UTF-8.
        _bytes(query.get("dataset", "")).decode("utf-8", "backslashreplace"),
        _midnight("since", query),
        # The day itself is included.
        _midnight("until", query, days_later=1),
        query.get("q", "").strip()[:TEXT_MAX],
    )


def _midnight(name: str, query: Mapping[str, str], days_later: int = 0) -> float | None:
    if not (text := query.get(name, "").strip()):
        return None
    try:
        return midnight(date.fromisoformat(text) + timedelta(days=days_later))
    except (ValueError, OverflowError) as error:
        raise WrongFilter(name) from error


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What the list of files shows.

    `total`: how many files match, where the journal knows that. `datasets`: those to choose from.
    """

    page: FileList | None = None
    counts: Mapping[State, int] = field(default_factory=dict)
    total: int | None = None
    datasets: Sequence[str] = ()
    is_newest: bool = True


@dataclass(frozen=True, slots=True)
class SkippedFiles:
    """Files of the folder that are never sent as they are, those with a problem first.

    `read_at`: when the folder was read; None if it never was. `more`: how many others there are.
    `reading`: whether the folder is being read again.
    """

    files: tuple[Mapping[str, str], ...] = ()
    more: int = 0
    read_at: float | None = None
    reading: bool = False


class SkippedReader:
    """Reads the folder in a thread of its own, because a large one takes long. Thread-safe."""

    SHOWN = 500
    FRESH_S, FRESH_FACTOR = 10.0, 10
    """The folder is read again after this time, or this many times as long as a reading took."""

    WAIT_S = 0.03
    """A small folder is read in this time: then the page shows what is there now."""

    def __init__(self, survey: Callable[[], Iterable[FileStatus]]) -> None:
        self._survey = survey
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._reading = False
        self._took_s = 0.0
        self._latest = SkippedFiles()
        self._error: JournalError | None = None

    def latest(self, now: float) -> SkippedFiles:
        """Return what the last reading has found; begin another if that is too old.

        Raises `JournalError`.
        """
        if self._begins(now):
            self._done.clear()
            try:
                threading.Thread(target=self._read, name="skipped", daemon=True).start()
            except RuntimeError:
                # At a limit of threads.
                self._read()
        self._done.wait(self.WAIT_S)
        with self._lock:
            error, self._error = self._error, None
            if error is not None:
                raise error
            return replace(self._latest, reading=self._reading)

    def _begins(self, now: float) -> bool:
        """Return whether this caller must have the folder read."""
        with self._lock:
            read_at = self._latest.read_at
            fresh_s = max(self.FRESH_S, self.FRESH_FACTOR * self._took_s)
            is_fresh = read_at is not None and 0 <= now - read_at < fresh_s
            begins = not (self._reading or is_fresh)
            self._reading |= begins
            return begins

    def _read(self) -> None:
        latest, error, began_s = None, None, time.monotonic()
        try:
            latest = self._found()
        except JournalError as problem:
            error = problem
        finally:
            with self._lock:
                self._latest, self._error = latest or self._latest, error
                self._reading, self._took_s = False, time.monotonic() - began_s
            self._done.set()

    def _found(self) -> SkippedFiles:
        wrong, others, number = list[Mapping[str, str]](), list[Mapping[str, str]](), 0
        for status in self._survey():
            number += 1
            records = wrong if status.error is not None else others
            if len(records) < self.SHOWN:
                records.append(status.record() | {"remedy": status.remedy})
        files = tuple((wrong + others)[: self.SHOWN])
        return SkippedFiles(files, number - len(files), time.time())


@dataclass(frozen=True, slots=True)
class FilesPage:
    """The handlers. Thread-safe: each response opens the journal for itself."""

    journal: JournalLocation
    status_reader: Callable[[Latest], FileStatusReader]
    note: Callable[[bytes, str, State | FolderState], str]
    """Returns what the page adds about a file, such as that it is being read: `Actions.note`."""
    _skipped: SkippedReader = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_skipped", SkippedReader(self._survey))

    def files(self, request: Request) -> Response:
        """Return a page of the files that match the filters of the address."""
        query = parameters(request)
        try:
            chosen = file_filter(query)
        except WrongFilter as wrong:
            return _list_page(request, query, FoundFiles(), str(wrong))
        keys = dict[str, RowKey]()
        # A key that was cut off gives the newest page.
        with suppress(ValueError):
            keys = {
                name: RowKey.parse(query[name]) for name in ("after", "before") if name in query
            }
        with JournalReader(self.journal) as reader, reader.snapshot():
            counts = entries_by_state(reader.read)
            files = list_files(reader.read, chosen, counts, **keys)
            arrived = arrived_datasets(reader.read)
        is_counted = chosen == FileFilter(chosen.states)
        found = FoundFiles(
            files,
            counts,
            sum(counts[state] for state in chosen.states or State) if is_counted else None,
            sorted(arrived | {chosen.dataset} - {""}),
            is_newest=not keys,
        )
        return _list_page(request, query, found)

    def explain(self, request: Request) -> Response:
        """Return what became of one file: `?path=`, as a person types it or as a link has it."""
        query = parameters(request)
        asked = display(_bytes(query.get("path", "")))
        with JournalReader(self.journal) as reader:
            statuses = self.status_reader(reader.latest)
            try:
                path = _asked_path(statuses.spool, reader, query)
            except ValueError as error:
                # No path, one outside the watched folder, or one with a null byte.
                remark = error.args[0]
                return message(
                    request, Text("Not in the folder"), remark, HTTPStatus.NOT_FOUND, asked
                )
            # Read first: a file that changes meanwhile is not marked as delivered.
            shown = seen(statuses.spool, path)
            explanation = explain(statuses, reader, path)
        status = HTTPStatus.OK if explanation.known else HTTPStatus.NOT_FOUND
        return page(
            request,
            "explain.html",
            status,
            asked=asked,
            explanation=explanation,
            versions=_history(explanation)[:SHOWN],
            shown=SHOWN,
            all_versions=address("files", {"q": asked}),
            note=self.note(path, shown, explanation.state),
            offered=offered(
                explanation.state,
                explanation.error,
                is_there=bool(shown),
                is_moved="moved_to" in explanation.current,
            ),
            seen=shown,
        )

    def skipped(self, request: Request) -> Response:
        """Return the files in the folder that are never sent as they are."""
        latest = self._skipped.latest(time.time())
        return page(request, "skipped.html", skipped=latest)

    def _survey(self) -> Iterable[FileStatus]:
        with JournalReader(self.journal) as reader:
            yield from skipped(self.status_reader(reader.latest))


def _asked_path(spool: Spool, reader: JournalReader, query: Mapping[str, str]) -> bytes:
    """Return the path that an address names. Raises `ValueError`."""
    text = query.get("path", "")
    if "exact" in query:
        return within(spool.root, _bytes(text))
    # A person may have copied a space with it; a name may also begin with one.
    return locate(spool, reader, text, text.strip()) if text.strip() else locate(spool, reader, "")


def _list_page(
    request: Request, query: Mapping[str, str], found: FoundFiles, wrong: str = ""
) -> Response:
    names = ("state", "dataset", "since", "until", "q")
    kept = {name: query[name] for name in names if query.get(name)}
    return page(
        request,
        "files.html",
        HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK,
        found=found,
        wrong=wrong,
        chosen={name: display(_bytes(query.get(name, ""))) for name in names},
        groups=[*GROUPS],
        searched=SEARCHED,
        link=partial(address, "files", kept),
        download=lambda name: address(name, kept),
        word=word,
    )


def _history(explanation: Explanation) -> list[tuple[Record, list[str]]]:
    """Return the versions, each with what the server made of it.

    Without that of the current one: the page has it above, in the context of the explanation.
    """
    return [
        (
            version,
            sentences(version["server_side"], version["delivered_at"])
            if version is not explanation.current and "server_side" in version
            else [],
        )
        for version in explanation.versions
    ]


def address(name: str, query: Mapping[str, str], **more: object) -> str:
    """Return a relative address; the bytes of a name that are not UTF-8 stay as they are."""
    fields = {**query, **{key: str(value) for key, value in more.items()}}
    return f"{name}?{urlencode(fields, errors='surrogateescape')}" if fields else name


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
