"""What the page shows, put together: a bounded number of rows, each by an index.

What it costs is the same with ten files in the queue and with a million.
"""

import json
import re
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
from emitterd.text import amount, count, display, sentence, share, span

# The bars of a chart over the last day: pure, `now` is passed in. Slots are half hours
# since the epoch, so that they begin on the hour, or half past it, in every time zone
# of South Asia but Nepal's.

SLOT_S = 1800
SLOTS = 48
"""Twenty-four hours, the one that is running last."""

HEIGHT = 100.0
PITCH = 10.0
GAP = 2.0
WIDTH = SLOTS * PITCH

LEAST = 2.0
"""A slot with anything in it is seen, however little that is."""


@dataclass(frozen=True, slots=True)
class PeriodTotal:
    """What was delivered within a time."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: "PeriodTotal") -> "PeriodTotal":
        return PeriodTotal(self.files + other.files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True, slots=True)
class Bar:
    """One slot, and its rectangle in a field of `WIDTH` by `HEIGHT`; y points down."""

    began_at: float
    sum: PeriodTotal
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A day of deliveries; `busiest` is the slot of the most bytes, if any had any."""

    bars: tuple[Bar, ...]
    total: PeriodTotal
    busiest: Bar | None

    @property
    def began_at(self) -> float:
        """When the first slot began."""
        return self.bars[0].began_at


def slot_of(at: float) -> int:
    """Return the slot that an instant falls into."""
    return int(at // SLOT_S)


def chart(sums: Mapping[int, PeriodTotal], now: float) -> Chart:
    """Draw the day that ends with the running slot; `sums` are by slot."""
    last = slot_of(now)
    day = {
        slot: sums.get(slot, PeriodTotal())
        for slot in range(last - SLOTS + 1, last + 1)
    }
    most_bytes = max(one.size_bytes for one in day.values())
    bars = tuple(
        _bar(position, slot, day[slot], most_bytes) for position, slot in enumerate(day)
    )
    busiest = max(bars, key=lambda bar: bar.sum.size_bytes) if most_bytes else None
    return Chart(bars, sum(day.values(), PeriodTotal()), busiest)


def _bar(position: int, slot: int, total: PeriodTotal, most_bytes: int) -> Bar:
    height = 0.0
    if total.files:
        share = total.size_bytes / most_bytes if most_bytes else 0.0
        height = max(LEAST, round(HEIGHT * share, 1))
    return Bar(
        float(slot * SLOT_S),
        total,
        position * PITCH + GAP / 2,
        HEIGHT - height,
        PITCH - GAP,
        height,
    )


SHOWN = 6
"""So many rows of a list; how many more there are is told."""

SHOWN_REJECTED = 20
"""Each of these needs somebody."""

LATEST_REJECTED = 500
"""So many rejections are looked through for those that still stand."""

_ITEM = "id, path, bytes, {at}, error, reason, findings"

_LISTS: Mapping[State, tuple[str, str]] = {
    State.QUEUED: ("admitted_at", "order by turn, rank, id"),
    State.DEFERRED: ("due_at", "order by due_at"),
    State.DELIVERED: ("delivered_at", "order by delivered_at desc"),
    State.HELD: ("changed_at", "order by changed_at desc"),
}

_STANDING = f"""select {_ITEM.format(at="changed_at")} from (
        select * from entry where state = 'rejected'
        order by changed_at desc limit {LATEST_REJECTED}) entry
    where forgotten_at is null and not {SUPERSEDED} limit ?"""  # noqa: S608  names are ours


@dataclass(frozen=True, slots=True)
class Item:
    """One version of a file in a list, printable.

    `at`: when it was admitted, is due, was delivered, rejected or held, as the list
    goes; seconds since the epoch.
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
        """What the error means; empty where there is none."""
        return Code(self.error).title if self.error else ""

    @property
    def remedy(self) -> str:
        """What to do about the error; empty where there is none."""
        return Code(self.error).remedy if self.error else ""

    @property
    def doubtful(self) -> bool:
        """Whether a rebuild of the journal holds it, and not the operator."""
        return self.error == Code.RECEIPT_LOST

    @property
    def fatal(self) -> bool:
        """Whether the server will lose the whole file, sent or not."""
        return any(one["level"] == Severity.ERROR for one in self.findings)


@dataclass(frozen=True, slots=True)
class Overview:
    """The journal at one moment. Lists have the first rows only."""

    progress: QueueStatus
    queued: Sequence[Item]
    deferred: Sequence[Item]
    held: Sequence[Item]
    rejected: Sequence[Item]
    delivered: Sequence[Item]
    chart: Chart

    @property
    def counts(self) -> Mapping[State, int]:
        """How many versions there are by state."""
        return self.progress.counts

    @property
    def waiting(self) -> int:
        """How many files wait, without those that are being sent."""
        return self.counts[State.QUEUED] + self.counts[State.DEFERRED]


def gather(read: Read, day: Mapping[int, PeriodTotal], now: float) -> Overview:
    """Read it all, in one snapshot: no version is in two lists.

    `day`: what was delivered in each slot of the chart.
    """
    return Overview(
        progress=read_queue(read, now),
        queued=_list(read, State.QUEUED),
        deferred=_list(read, State.DEFERRED),
        held=_list(read, State.HELD),
        rejected=[_item(row) for row in read(_STANDING, (SHOWN_REJECTED,))],
        delivered=_list(read, State.DELIVERED),
        chart=chart(day, now),
    )


def _list(read: Read, state: State) -> list[Item]:
    at, order = _LISTS[state]
    sql = f"select {_ITEM.format(at=at)} from entry where state = '{state}'"  # noqa: S608  names are ours
    return [_item(row) for row in read(f"{sql} {order} limit ?", (SHOWN,))]


def _item(row: Row) -> Item:
    findings: list[dict[str, Any]] = json.loads(row[6] or "[]")
    id_, path, size_bytes, at, error, reason, _ = row
    return Item(id_, display(path), size_bytes, at, error, reason, tuple(findings))


# What was delivered within the last day, half hour by half hour. The past does not
# change, so it is read once: a day at a million rows must not be added up at each look.

LATE_S = 30.0
"""A delivery is stamped before its commit, which may come this much later."""

_SUM = """select count(*), coalesce(sum(bytes), 0) from entry
    where state = 'delivered' and delivered_at >= ? and delivered_at < ?"""


class Throughput:
    """Sums of the last day by slot; each call reads only what is new. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[int, PeriodTotal] = {}
        self._until = 0.0

    def day(self, read: Read, now: float) -> dict[int, PeriodTotal]:
        """Return what was delivered in each slot of the day that ends at `now`."""
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
    """Add what was delivered from an instant on and before another."""
    while since < until:
        # A slot a query: none keeps the journal's log from shrinking for long.
        slot = slot_of(since)
        end = min(until, float((slot + 1) * SLOT_S))
        found = PeriodTotal(*read(_SUM, (since, end))[0])
        if found.files:
            sums[slot] = sums.get(slot, PeriodTotal()) + found
        since = end


# What stands on top of the page: the verdict for who reads nothing else. Pure.

_TONES = {AlarmLevel.OK: "well", AlarmLevel.WARNING: "look", AlarmLevel.CRITICAL: "bad"}

_CODE = re.compile(r"^E[0-9]{3} ")


@dataclass(frozen=True, slots=True)
class Notice:
    """One alarm, its gist apart from its detail; `since` is seconds since the epoch."""

    cause: str
    title: str
    detail: str
    since: float
    hint: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The verdict in words; `tone` is well, look (somebody should) or bad."""

    tone: str
    title: str
    gist: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """One upload under way, for a bar; `path` is as the board has it."""

    id: int
    path: bytes
    sent_bytes: int
    size_bytes: int
    percent: int
    said: str


def summary(
    verdict: Health, overview: Overview, sending: int, eta_s: float | None
) -> Summary:
    """Put the verdict into words."""
    notices = tuple(map(_notice, verdict.alarms))
    if not notices:
        return Summary("well", "All is well", _all_well(overview, sending, eta_s), ())
    title = notices[0].title
    if others := len(notices) - 1:
        title += f", and {count(others, 'more alarm')}"
    critical = verdict.level is AlarmLevel.CRITICAL
    gist = _in_trouble(overview) if critical else _all_well(overview, sending, eta_s)
    return Summary(_TONES[verdict.level], title, gist, notices)


def forecast(eta_s: float | None) -> str:
    """Say when the queue will be empty; nothing where that is not known."""
    if eta_s is None:
        return ""
    about = "" if eta_s < 60 else "about "  # noqa: PLR2004  a minute
    return f"Done in {about}{span(eta_s)} at the present speed."


def progress(upload: UploadProgress, now: float) -> QueueProgress:
    """Put an upload into numbers and words."""
    percent = share(upload.sent_bytes, upload.size_bytes)
    said = [f"{percent} %"]
    left_s = upload.eta_s(now)
    if left_s is not None:
        said += [f"{amount(upload.bytes_s(now))}/s", f"{span(left_s)} left"]
    if upload.attempt > 1:
        said.append(f"attempt {upload.attempt}")
    return QueueProgress(
        upload.id,
        upload.path,
        upload.sent_bytes,
        upload.size_bytes,
        percent,
        ", ".join(said),
    )


def rate(uploads: Sequence[UploadProgress], now: float) -> str:
    """Say how fast all uploads go together."""
    speed = sum(one.bytes_s(now) for one in uploads)
    return f"{amount(speed)}/s" if speed else "nothing at the moment"


def _notice(alarm: Alarm) -> Notice:
    title, _, detail = _CODE.sub("", alarm.words).partition(": ")
    capital = title[:1].upper() + title[1:]
    told = sentence(detail) if detail else ""
    return Notice(alarm.code, capital, told, alarm.since, alarm.hint)


def _all_well(overview: Overview, sending: int, eta_s: float | None) -> str:
    said = []
    if sending:
        verb = "is" if sending == 1 else "are"
        said.append(f"{count(sending, 'file')} {verb} being sent.")
    if overview.waiting:
        verb = "waits" if overview.waiting == 1 else "wait"
        said.append(f"{count(overview.waiting, 'file')} {verb}.")
        said.append(forecast(eta_s))
    if said:
        return " ".join(filter(None, said))
    if overview.progress.delivered_at is None:
        return "No file has come yet."
    return "Every file that was taken in has been dealt with; nothing waits."


def _in_trouble(overview: Overview) -> str:
    left = overview.progress.waiting
    if not left:
        return "No file waits for it at the moment."
    files = count(left, "file")
    verb = "waits, and goes" if left == 1 else "wait, and go"
    return f"No file is lost: {files} {verb} on as soon as this is mended."
