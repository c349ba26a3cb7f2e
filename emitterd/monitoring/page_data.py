"""What the page shows: summary, lists, uploads, and the chart of the last day.

Each list has a bounded number of rows, read by an index: the page costs the same with
ten files in the queue and with a million. Only `read_overview` and `Throughput`
do I/O. `now` is passed in, in seconds since the epoch.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emitterd.codes import Code
from emitterd.datasets.findings import Severity
from emitterd.journal.connection import Read, Row
from emitterd.journal.rows import SUPERSEDED
from emitterd.model import State
from emitterd.monitoring.alarms import Alarm, AlarmLevel, Health
from emitterd.monitoring.status import QueueStatus, read_queue
from emitterd.monitoring.uploads import UploadProgress
from emitterd.text import amount, count, display, span

SLOT_S = 1800
"""Half hours since the epoch begin on the hour, or half past it, in every time zone of
South Asia but Nepal's."""

SLOTS = 48
"""The chart shows twenty-four hours; the current slot is the last."""

HEIGHT = 100.0
PITCH = 10.0
BAR_WIDTH = 8.0
WIDTH = SLOTS * PITCH

LEAST = 2.0
"""The least height of a bar: a slot with few bytes is visible."""


@dataclass(frozen=True, slots=True)
class PeriodTotal:
    """Deliveries within a time."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: "PeriodTotal") -> "PeriodTotal":
        return PeriodTotal(self.files + other.files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True, slots=True)
class Bar:
    """One slot, and its rectangle in a field of `WIDTH` by `HEIGHT`."""

    began_at: float
    sum: PeriodTotal
    x: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A day of deliveries; `busiest` is the slot with the most bytes."""

    bars: tuple[Bar, ...]
    total: PeriodTotal
    busiest: Bar | None


def slot_of(at: float) -> int:
    """Return the slot that an instant falls into."""
    return int(at // SLOT_S)


def chart(sums: Mapping[int, PeriodTotal], now: float) -> Chart:
    """Draw the day that ends with the current slot; `sums` are by slot."""
    last = slot_of(now)
    slots = range(last - SLOTS + 1, last + 1)
    totals = [sums.get(slot, PeriodTotal()) for slot in slots]
    most_bytes = max(total.size_bytes for total in totals)
    bars = tuple(
        _bar(position, slot, totals[position], most_bytes)
        for position, slot in enumerate(slots)
    )
    busiest = max(bars, key=lambda bar: bar.sum.size_bytes) if most_bytes else None
    return Chart(bars, sum(totals, PeriodTotal()), busiest)


def _bar(position: int, slot: int, total: PeriodTotal, most_bytes: int) -> Bar:
    height = 0.0
    if total.files:
        share = total.size_bytes / most_bytes if most_bytes else 0.0
        height = max(LEAST, round(HEIGHT * share, 1))
    x = position * PITCH + (PITCH - BAR_WIDTH) / 2
    return Bar(float(slot * SLOT_S), total, x, height)


SHOWN = 6
"""Rows of a list; the page says how many more there are."""

SHOWN_REJECTED = 20
"""Rows of the rejected files: an operator must act on each."""

LATEST_REJECTED = 500
"""The page looks for current rejections among this many of the latest."""


def _query(state: State, at: str, order: str) -> str:
    return f"""select id, path, bytes, {at}, error, reason, findings from entry
        where state = '{state}' order by {order} limit {SHOWN}"""  # noqa: S608  names are ours


_LISTS: Mapping[State, str] = {
    State.QUEUED: _query(State.QUEUED, "admitted_at", "turn, rank, id"),
    State.DEFERRED: _query(State.DEFERRED, "due_at", "due_at"),
    State.HELD: _query(State.HELD, "changed_at", "changed_at desc"),
    State.REJECTED: f"""
        select id, path, bytes, changed_at, error, reason, findings from (
            select * from entry where state = 'rejected'
            order by changed_at desc limit {LATEST_REJECTED}) entry
        where forgotten_at is null and not {SUPERSEDED}
        limit {SHOWN_REJECTED}""",  # noqa: S608  names are ours
    State.DELIVERED: _query(State.DELIVERED, "delivered_at", "delivered_at desc"),
}
"""The query of each list."""


@dataclass(frozen=True, slots=True)
class Item:
    """One version of a file in a list, printable.

    `at`: when it was admitted, is due, was delivered, rejected or held, depending on
    the list; seconds since the epoch.
    """

    id: int
    path: str
    size_bytes: int
    at: float
    error: str | None
    reason: str | None
    findings: tuple[Mapping[str, str], ...]

    @property
    def title(self) -> str:
        """What the error means; empty without an error."""
        return Code(self.error).title if self.error else ""

    @property
    def remedy(self) -> str:
        """What to do about the error; empty without an error."""
        return Code(self.error).remedy if self.error else ""

    @property
    def doubtful(self) -> bool:
        """Whether `emitterd rebuild` holds it, and not the operator."""
        return self.error == Code.RECEIPT_LOST

    @property
    def fatal(self) -> bool:
        """Whether the server will drop the file."""
        return any(finding["level"] == Severity.ERROR for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Overview:
    """The journal at one moment. Lists have the first rows only."""

    queue: QueueStatus
    lists: Mapping[State, Sequence[Item]]
    chart: Chart

    @property
    def waiting(self) -> int:
        """How many files wait, without uploads under way."""
        return self.queue.counts[State.QUEUED] + self.queue.counts[State.DEFERRED]


def read_overview(read: Read, day: Mapping[int, PeriodTotal], now: float) -> Overview:
    """Read the lists. Call it in a snapshot, so that no version is in two lists.

    `day`: the deliveries of each slot of the chart.
    """
    lists = {
        state: [_item(row) for row in read(sql, ())] for state, sql in _LISTS.items()
    }
    return Overview(read_queue(read, now), lists, chart(day, now))


def _item(row: Row) -> Item:
    findings: list[dict[str, Any]] = json.loads(row[6] or "[]")
    id_, path, size_bytes, at, error, reason, _ = row
    return Item(id_, display(path), size_bytes, at, error, reason, tuple(findings))


LATE_S = 30.0
"""A delivery has the time before its commit, which may be this much later."""

_SUM = """select count(*), coalesce(sum(bytes), 0) from entry
    where state = 'delivered' and delivered_at >= ? and delivered_at < ?"""


class Throughput:
    """Sums of the last day by slot. Thread-safe.

    The past does not change, so each call reads only new rows: at a million rows a
    day must not be added up each time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[int, PeriodTotal] = {}
        self._until = 0.0

    def day(self, read: Read, now: float) -> dict[int, PeriodTotal]:
        """Return the deliveries of each slot of the day that ends at `now`."""
        first = slot_of(now) - SLOTS + 1
        with self._lock:
            if self._until > now:
                # The clock was set back.
                self._sums, self._until = {}, 0.0
            self._sums = {
                slot: sums for slot, sums in self._sums.items() if slot >= first
            }
            began_at = max(self._until, float(first * SLOT_S))
            self._until = max(began_at, now - LATE_S)
            _add(self._sums, read, began_at, self._until)
            day = dict(self._sums)
            _add(day, read, self._until, now)
        return day


def _add(sums: dict[int, PeriodTotal], read: Read, since: float, until: float) -> None:
    """Add the deliveries from `since` on and before `until`."""
    while since < until:
        # One query a slot: a long one would keep the write-ahead log from shrinking.
        slot = slot_of(since)
        end = min(until, float((slot + 1) * SLOT_S))
        total = PeriodTotal(*read(_SUM, (since, end))[0])
        if total.files:
            sums[slot] = sums.get(slot, PeriodTotal()) + total
        since = end


_TONES = {AlarmLevel.OK: "well", AlarmLevel.WARNING: "look", AlarmLevel.CRITICAL: "bad"}


@dataclass(frozen=True, slots=True)
class Summary:
    """The page's one-line summary; `tone` is well, look or bad."""

    tone: str
    title: str
    gist: str
    alarms: tuple[Alarm, ...]


def summary(
    health: Health, overview: Overview, sending: int, eta_s: float | None
) -> Summary:
    """Summarise the health of the daemon and its work; `sending`: uploads under way."""
    gist = _describe_work(overview, sending, eta_s)
    if health.ok:
        return Summary("well", "All is well", gist, ())
    title = health.alarms[0].title
    if others := len(health.alarms) - 1:
        title += f", and {count(others, 'more alarm')}"
    if health.level is AlarmLevel.CRITICAL:
        gist = _describe_trouble(overview)
    return Summary(_TONES[health.level], title, gist, health.alarms)


def forecast(eta_s: float | None) -> str:
    """Write when the queue will be empty; an empty string where that is not known."""
    if eta_s is None:
        return ""
    about = "" if eta_s < 60 else "about "  # noqa: PLR2004  a minute
    return f"Done in {about}{span(eta_s)} at the present speed."


def progress(upload: UploadProgress, now: float) -> str:
    """Write the progress of an upload."""
    parts = [f"{upload.percent} %"]
    left_s = upload.eta_s(now)
    if left_s is not None:
        parts += [f"{amount(upload.bytes_s(now))}/s", f"{span(left_s)} left"]
    if upload.attempt > 1:
        parts.append(f"attempt {upload.attempt}")
    return ", ".join(parts)


def rate(uploads: Sequence[UploadProgress], now: float) -> str:
    """Write the speed of all uploads together."""
    speed = sum(upload.bytes_s(now) for upload in uploads)
    return f"{amount(speed)}/s" if speed else "nothing at the moment"


def _describe_work(overview: Overview, sending: int, eta_s: float | None) -> str:
    sentences = []
    if sending:
        verb = "is" if sending == 1 else "are"
        sentences.append(f"{count(sending, 'file')} {verb} being sent.")
    if overview.waiting:
        verb = "waits" if overview.waiting == 1 else "wait"
        sentences.append(f"{count(overview.waiting, 'file')} {verb}.")
        sentences.append(forecast(eta_s))
    if sentences:
        return " ".join(filter(None, sentences))
    if overview.queue.delivered_at is None:
        return "No file has come yet."
    return "Every file is delivered, rejected or held; nothing waits."


def _describe_trouble(overview: Overview) -> str:
    left = overview.queue.waiting
    if not left:
        return "No file waits for it at the moment."
    verb = "waits, and goes" if left == 1 else "wait, and go"
    return f"No file is lost: {count(left, 'file')} {verb} on as soon as this is fixed."
