"""How far the queue is: the journal's numbers for verdict, forecast, and metrics.

Each query goes by an index or the tally, so that a look costs the same at a million
rows as at ten.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emitterd.journal.connection import Read
from emitterd.journal.statements import SUPERSEDED
from emitterd.model import WAITING, State
from emitterd.monitoring.alarms import Alarm, Health, Outage, Queue
from emitterd.monitoring.eta import RECENT, RECENT_S, RecentDelivery, eta_s

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
