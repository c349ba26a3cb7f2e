"""How far the queue is: the journal's numbers for verdict, forecast, and metrics.

Each query goes by an index or the tally, so that a look costs the same at a million
rows as at ten.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from emitterd.errors import Outage
from emitterd.journal.connection import Read
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import READ_FACT, SUPERSEDED
from emitterd.model import WAITING, State
from emitterd.monitoring.alarms import Alarm, AlarmLimits, Health, Queue, files_wait
from emitterd.monitoring.uploads import UPLOADS
from emitterd.text import iso, printable

# When the queue will be empty, from the speed of recent deliveries. Pure. Only the time
# in which something was being sent counts, so neither a quiet night nor a burst spoils
# the speed. What one file costs is a line through its size: thousands of small files
# and a few large ones are different work, even for equal bytes.

RECENT = 200
"""So many deliveries are looked at: enough for a line, and a change of the line soon
shows."""

RECENT_S = 86400.0
"""Older deliveries say nothing of today."""

GAP_S = 1.0
"""A shorter pause between two deliveries is part of the work: a claim, a commit."""


class RecentDelivery(NamedTuple):
    """A delivery: when it was done, how long it took, and the size of its file."""

    delivered_at: float
    duration_s: float
    size_bytes: int


def eta_s(
    recent: Sequence[RecentDelivery], files: int, size_bytes: int
) -> float | None:
    """Return in how many seconds so many files, so large together, will be delivered.

    As if as much went on side by side as of late. None where nothing is known.
    """
    if files == 0:
        return 0.0
    if not recent:
        return None
    fixed_s, per_byte_s = _cost(recent)
    done = sum(fixed_s + per_byte_s * one.size_bytes for one in recent)
    left = fixed_s * files + per_byte_s * size_bytes
    return round(busy_s(recent) * left / done, 1)


def busy_s(recent: Sequence[RecentDelivery]) -> float:
    """Return for how long something was being sent: the union of the deliveries."""
    spans = sorted(
        (one.delivered_at - one.duration_s, one.delivered_at) for one in recent
    )
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        # A pause that is short is filled; a long one is skipped.
        start = begin if begin > until + GAP_S else until
        if end > start:
            busy, until = busy + end - start, end
    return max(busy, 0.001)


def _cost(recent: Sequence[RecentDelivery]) -> tuple[float, float]:
    """Return what a file costs, and what a byte of it: a resistant line.

    Through the medians of the smaller and of the larger third, so that one stalled
    upload does not turn it. Source: Tukey, "Exploratory Data Analysis", chapter 5.
    """
    ordered = sorted(recent, key=lambda one: one.size_bytes)
    third = -(-len(ordered) // 3)
    small, large = _middle(ordered[:third]), _middle(ordered[-third:])
    mean_s = max(statistics.fmean(one.duration_s for one in recent), 0.001)
    if large[0] <= small[0]:
        # All of one size: nothing tells files from bytes, so half is either's.
        mean_bytes = max(statistics.fmean(one.size_bytes for one in recent), 1.0)
        return mean_s / 2, mean_s / 2 / mean_bytes
    per_byte_s = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
    fixed_s = max(0.0, small[1] - per_byte_s * small[0])
    return (fixed_s, per_byte_s) if fixed_s or per_byte_s else (mean_s, 0.0)


def _middle(some: Sequence[RecentDelivery]) -> tuple[float, float]:
    """Return the medians of size and duration."""
    return (
        statistics.median(one.size_bytes for one in some),
        statistics.median(one.duration_s for one in some),
    )


REJECTED_MAX = 1000
"""More rejections that still stand are not counted: each costs a search."""

_REJECTED = f"""select count(*), min(changed_at) from (
    select changed_at from entry where state = 'rejected' and forgotten_at is null
    and not {SUPERSEDED} order by changed_at desc limit ?)"""  # noqa: S608  names are ours

_RECENT = """select delivered_at, coalesce(duration_s, 0), bytes from entry
    where state = 'delivered' and delivered_at > ?
    order by delivered_at desc limit ?"""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The journal's numbers at one moment; instants are seconds since the epoch.

    `rejected`: what still stands, neither replaced nor forgotten. `outages` is
    what the daemon noted of the destination, `noted` what it noted of itself.
    """

    tally: Mapping[State, tuple[int, int]]
    oldest_waiting_at: float | None
    delivered_at: float | None
    rejected: int
    rejected_at: float | None
    recent: tuple[RecentDelivery, ...]
    outages: tuple[Outage, ...]
    noted: tuple[Alarm, ...]

    @property
    def waiting(self) -> int:
        """How many files wait."""
        return sum(self.tally[state][0] for state in WAITING)

    @property
    def waiting_bytes(self) -> int:
        """How large they are together."""
        return sum(self.tally[state][1] for state in WAITING)

    @property
    def counts(self) -> dict[State, int]:
        """How many entries there are by state."""
        return {state: entries for state, (entries, _) in self.tally.items()}

    def eta_s(self, *, moving: bool) -> float | None:
        """Return in how many seconds nothing will wait; None where it is not known.

        It is not while nothing can move: no daemon, or the destination down.
        """
        left = self.waiting
        if left and not moving:
            return None
        return eta_s(self.recent, left, self.waiting_bytes)

    def queue(self, outages: tuple[Outage, ...], *, running: bool) -> Queue:
        """Return what the verdict goes by."""
        return Queue(
            running,
            self.waiting,
            self.oldest_waiting_at,
            self.delivered_at,
            outages,
            self.rejected,
            self.rejected_at,
        )


@dataclass(frozen=True, slots=True)
class QueueReading:
    """What stands at one moment, by the journal and by the daemon that reads it."""

    progress: QueueStatus
    verdict: Health
    outages: tuple[Outage, ...]
    eta_s: float | None
    swept_at: float | None


def read_queue(read: Read, now: float) -> QueueStatus:
    """Look; `read` runs a query on the journal."""
    rows = read("select name, value from fact", ())
    facts = {name: json.loads(value) for name, value in rows}
    rejected, rejected_at = read(_REJECTED, (REJECTED_MAX,))[0]
    return QueueStatus(
        tally={
            State(state): (entries, size_bytes)
            for state, entries, size_bytes in read(
                "select state, entries, bytes from tally", ()
            )
        },
        oldest_waiting_at=_instant(
            read,
            """select min(admitted_at) from entry
               where state in ('queued', 'delivering', 'deferred')""",
        ),
        delivered_at=_instant(
            read, "select max(delivered_at) from entry where state = 'delivered'"
        ),
        rejected=rejected,
        rejected_at=rejected_at,
        recent=tuple(
            RecentDelivery(*row) for row in read(_RECENT, (now - RECENT_S, RECENT))
        ),
        outages=tuple(Outage(**one) for one in _stages(facts.get("destination"))),
        noted=tuple(Alarm(**one) for one in facts.get("alarms") or []),
    )


def _stages(noted: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    # What a version before the stages noted is of a daemon that is gone.
    return noted.get("stages", []) if noted else []


def _instant(read: Read, sql: str) -> float | None:
    found: float | None = read(sql, ())[0][0]
    return found


# How a verdict is written: the line of `status --check`, and JSON. Pure.


def check_line(
    judged: Health,
    progress: QueueStatus,
    limits: AlarmLimits,
    *,
    running: bool,
    now: float,
) -> str:
    """Return level, words, and after a bar the numbers with their limits.

    Source: Monitoring Plugins Development Guidelines, "Plugin Output".
    """
    waiting = files_wait(progress.waiting) if progress.waiting else "nothing waits"
    words = "; ".join(alarm.words for alarm in judged.alarms) or waiting
    if not running and judged.ok:
        words += "; no daemon runs"
    # A bar in them would begin the numbers.
    words = printable(words).replace("|", "/")
    return f"{judged.level} - {words} | {' '.join(_numbers(progress, limits, now))}"


def _numbers(progress: QueueStatus, limits: AlarmLimits, now: float) -> list[str]:
    """Return each as `label=value;warning;critical;minimum`."""
    oldest_at = progress.oldest_waiting_at
    oldest_s = max(0.0, now - oldest_at) if oldest_at is not None else 0.0
    return [
        f"waiting={progress.waiting};;;0",
        f"waiting_bytes={progress.waiting_bytes}B;;;0",
        f"oldest={oldest_s:.0f}s;;{limits.oldest_waiting_s:.0f};0",
        f"rejected={progress.rejected};0;;0",
    ]


def record(judged: Health) -> dict[str, object]:
    """Return a verdict as JSON has it."""
    return {
        "level": judged.level,
        "alarms": [
            {
                "code": alarm.code,
                "level": alarm.level,
                "since": iso(alarm.since),
                "words": alarm.words,
                "hint": alarm.hint,
            }
            for alarm in judged.alarms
        ],
    }


def status_record(journal: JournalReader) -> dict[str, Any]:
    """Return counts, ages and the destination, as `status --json` prints them."""
    queue, running = queue_status(journal), journal.running()
    return {
        "running": running,
        "counts": {state.value: queue.counts[state] for state in State},
        "waiting_bytes": queue.waiting_bytes,
        "oldest_waiting_at": iso(queue.oldest_waiting_at),
        "last_delivered_at": iso(queue.delivered_at),
        "destination": _destination(queue.outages),
        "eta_s": queue.eta_s(moving=running and not queue.outages),
        "uploads": noted_uploads(journal) if running else [],
    }


def queue_status(journal: JournalReader) -> QueueStatus:
    """Return how far the queue is."""
    return read_queue(journal.read, time.time())


def noted_uploads(journal: JournalReader) -> list[dict[str, Any]]:
    """Return how far the long uploads were when the daemon noted it last."""
    rows = journal.read(READ_FACT, (UPLOADS,))
    noted = json.loads(rows[0][0]) if rows else []
    marks = ", ".join("?" * len(noted))
    still = journal.read(
        f"select id from entry where id in ({marks}) and state = 'delivering'",  # noqa: S608
        [one["id"] for one in noted],
    )
    ids = {id_ for (id_,) in still}
    return [
        {name: value for name, value in one.items() if name != "id"}
        for one in noted
        if one["id"] in ids
    ]


def _destination(outages: Sequence[Outage]) -> dict[str, Any]:
    if not outages:
        return {"state": "up"}
    stages = [
        {
            "stage": one.stage,
            "error": one.code,
            "reason": one.reason,
            "since": iso(one.since),
        }
        for one in outages
    ]
    return {"state": "down", **stages[0], "stages": stages}
