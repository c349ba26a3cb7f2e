"""The overview: alarms, figures, uploads, lists of files, and the chart of the last day.

`/` is the whole page, `/overview` the part that its script replaces. Each list has a bounded number
of rows, read by an index: the page costs the same with ten files in the queue and with a million.
Instants are in seconds since the epoch.

The script polls. Measured with ten readers while an upload goes on: polling takes 2.8 % of a core,
server-sent events 3.1 %. But events keep ten connections of `http_server.CONNECTIONS` open, and one
of the six that a browser opens to a server, so that a seventh tab would wait.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from emitterd.datasets.findings import Severity
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.journal.listing import SHORT, SHORT_REJECTED, short_lists
from emitterd.journal.numbers import delivered_between
from emitterd.journal.opening import JournalLocation
from emitterd.journal.reader import JournalReader
from emitterd.journal.store import Read, Row
from emitterd.model import State
from emitterd.monitoring import uploads
from emitterd.monitoring.alarms import Health
from emitterd.monitoring.status import read_queue
from emitterd.monitoring.uploads import UploadTracker
from emitterd.text import display
from emitterd.tracking.texts import word
from emitterd.web.http_server import Request, Response
from emitterd.web.rendering import HEADERS, html, page, render

SLOT_S = 1800
"""Half hours since the epoch begin on the hour, or half past it, in every time zone of South Asia
but Nepal's."""

SLOTS = 48
"""The chart shows twenty-four hours; the current slot is the last."""

HEIGHT = 100.0
"""The height of the highest bar."""

LEAST = 2.0
"""The least height of a bar: a slot with few bytes is visible."""

SHARED_S = 1.0
"""Readers of one language get the same fragment for this time: ten cost little more than one."""

READERS_MAX = 20
"""Number of fragments that are kept, one for each viewer and language."""

READING_S = 10.0
"""The chart is read again after this time: a day can have a million deliveries."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The deliveries of one slot, and the height of its bar."""

    began_at: float
    files: int
    size_bytes: int
    height: float


def chart(sums: Mapping[int, tuple[int, int]], now: float) -> list[Bar]:
    """Draw the day that ends with the current slot; `sums`: files and bytes by slot."""
    last = int(now // SLOT_S)
    slots = {slot: sums.get(slot, (0, 0)) for slot in range(last - SLOTS + 1, last + 1)}
    most_bytes = max(size_bytes for _, size_bytes in slots.values())
    return [
        Bar(float(slot * SLOT_S), files, size_bytes, _height(files, size_bytes, most_bytes))
        for slot, (files, size_bytes) in slots.items()
    ]


def _height(files: int, size_bytes: int, most_bytes: int) -> float:
    if files == 0:
        return 0.0
    return max(LEAST, round(HEIGHT * size_bytes / (most_bytes or 1), 1))


@dataclass(frozen=True, slots=True)
class LastMinutes:
    """The bytes that were sent in the last ten minutes: in total, a second, and as bars."""

    size_bytes: int
    mean_bytes: float
    highest_bytes: float
    heights: list[float]


def last_minutes(slots: Sequence[int]) -> LastMinutes:
    """Draw the speed of ten minutes; `slots`: the bytes of each ten seconds."""
    total_bytes, most_bytes = sum(slots), max(slots)
    return LastMinutes(
        total_bytes,
        total_bytes / (len(slots) * uploads.SLOT_S),
        most_bytes / uploads.SLOT_S,
        [_height(size_bytes, size_bytes, most_bytes) for size_bytes in slots],
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One version of a file in a list, printable.

    `at`: when it was admitted, is due, was delivered, rejected or held, depending on the list;
    seconds since the epoch.
    """

    id: int
    path: str
    size_bytes: int
    at: float
    error: str | None
    reason: str | None
    findings: tuple[Mapping[str, str], ...]
    server: str
    """What the server made of it, in a word; empty if it is not tracked."""
    moved_to: str
    """Where the file was moved; empty if it stays in the folder."""

    @property
    def fatal(self) -> bool:
        """Whether the server will drop the file."""
        return any(finding["level"] == Severity.ERROR for finding in self.findings)


def read_lists(read: Read) -> dict[State, list[Item]]:
    """Read the lists. Call it in a snapshot, so that no version is in two lists."""
    return {state: [_item(row) for row in rows] for state, rows in short_lists(read).items()}


def _item(row: Row) -> Item:
    findings: list[dict[str, Any]] = json.loads(row[6] or "[]")
    id_, path, size_bytes, at, error, reason, _, side, moved_to = row
    server = word(json.loads(side) if side else None)
    return Item(
        id_,
        display(path),
        size_bytes,
        at,
        error,
        reason,
        tuple(findings),
        server,
        display(moved_to) if moved_to else "",
    )


class Throughput:
    """The chart of the last day. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._bars: list[Bar] = []

    def day(self, read: Read, now: float) -> list[Bar]:
        """Return the bars of the day that ends now, or ended some seconds ago."""
        with self._lock:
            if not 0 <= now - self._read_at < READING_S:
                self._bars = chart(_read_sums(read, now), now)
                self._read_at = now
            return self._bars


def _read_sums(read: Read, now: float) -> dict[int, tuple[int, int]]:
    last = int(now // SLOT_S)
    # One query a slot: a long one would keep the write-ahead log from shrinking.
    return {
        slot: delivered_between(read, slot * SLOT_S, (slot + 1) * SLOT_S)
        for slot in range(last - SLOTS + 1, last + 1)
    }


@dataclass(frozen=True, slots=True)
class Overview:
    """The handlers of the overview. Thread-safe: each response opens the journal for itself."""

    journal: JournalLocation
    uploads: UploadTracker
    health: Callable[[], Health]
    outage: Callable[[], OpenCircuit | None]
    throughput: Throughput = field(default_factory=Throughput)
    _fragments: dict[object, tuple[float, str]] = field(default_factory=dict, init=False)
    """By viewer and language: when a fragment was made, by the monotonic clock, and its text."""

    def whole(self, request: Request) -> Response:
        """Return the page."""
        fragment = self._fragment(request)
        return page(
            request,
            "overview.html",
            health=self.health(),
            fragment=fragment,
            etag=entity_tag(fragment),
        )

    def live(self, request: Request) -> Response:
        """Return the part of the page that changes, or nothing if it has not changed."""
        fragment = self._shared_fragment(request)
        etag = {"ETag": entity_tag(fragment)}
        if request.headers.get("If-None-Match") == etag["ETag"]:
            return Response(None, HTTPStatus.NOT_MODIFIED, {**HEADERS, **etag})
        return html(fragment, headers=etag)

    def _shared_fragment(self, request: Request) -> str:
        reader, now = (request.state.viewer, request.state.language), time.monotonic()
        made_at, fragment = self._fragments.get(reader, (-SHARED_S, ""))
        if now - made_at >= SHARED_S:
            fragment = self._fragment(request)
            if len(self._fragments) >= READERS_MAX:
                self._fragments.clear()
            self._fragments[reader] = now, fragment
        return fragment

    def _fragment(self, request: Request) -> str:
        now, outage, under_way = time.time(), self.outage(), self.uploads.now()
        with JournalReader(self.journal) as reader:
            # Outside the snapshot, which a long reading would hold.
            read_at = reader.now()
            bars = self.throughput.day(reader.read, read_at)
            with reader.snapshot():
                queue = read_queue(reader.read, read_at)
                lists = read_lists(reader.read)
        return render(
            request,
            "overview_fragment.html",
            now=read_at,
            health=self.health(),
            queue=queue,
            lists=lists,
            waiting=queue.counts[State.QUEUED] + queue.counts[State.DEFERRED],
            bars=bars,
            uploads=under_way,
            speed_bytes=sum(upload.bytes_s(now) for upload in under_way),
            minutes=last_minutes(self.uploads.last_minutes(now)),
            eta_s=queue.eta_s(moving=outage is None, sent=self.uploads.sent_share()),
            outage=outage,
            shown=SHORT,
            shown_rejected=SHORT_REJECTED,
        )


def entity_tag(fragment: str) -> str:
    """Return the ETag of one state of the page."""
    return f'"{hashlib.sha256(fragment.encode()).hexdigest()[:32]}"'
