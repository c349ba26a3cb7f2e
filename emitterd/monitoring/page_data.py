"""What the page shows, put together: a bounded number of rows, each by an index.

What it costs is the same with ten files in the queue and with a million.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emitterd.codes import Code
from emitterd.datasets.findings import Severity
from emitterd.journal.connection import Read, Row
from emitterd.journal.statements import SUPERSEDED
from emitterd.meanings import MEANING
from emitterd.model import State, display
from emitterd.monitoring.chart import Chart, PeriodTotal, chart
from emitterd.monitoring.status import QueueStatus, read_queue

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
        return MEANING[Code(self.error)].title if self.error else ""

    @property
    def remedy(self) -> str:
        """What to do about the error; empty where there is none."""
        return MEANING[Code(self.error)].remedy if self.error else ""

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
