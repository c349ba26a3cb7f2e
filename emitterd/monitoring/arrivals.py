"""Expected arrivals: how often a dataset should be delivered, and what is overdue.

An expectation names a dataset (`pat/periodic_exam_mst`) or a folder (`pat`): any dataset of the
folder counts then. It is met by a delivery. Does no I/O. Instants: epoch seconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emitterd.journal.numbers import Arrival
from emitterd.text import iso
from emitterd.units import format_duration


@dataclass(frozen=True, slots=True)
class Expectation:
    """A dataset or folder of which a file should be delivered every `every_s` seconds."""

    dataset: str
    every_s: float

    def __str__(self) -> str:
        return f"{self.dataset}: {format_duration(self.every_s)}"


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """When files of a dataset, or of a folder, last came, and when the next is due.

    `expectation` and `due_at` are None where none is expected.
    """

    dataset: str
    last: Arrival
    expectation: Expectation | None = None
    due_at: float | None = None

    def overdue(self, now: float) -> bool:
        """Tell whether the next delivery is late."""
        return self.due_at is not None and self.due_at < now

    @property
    def undelivered_at(self) -> float | None:
        """When a file last came, if none was delivered since."""
        admitted_at, delivered_at, _ = self.last
        return admitted_at if (admitted_at or 0.0) > (delivered_at or 0.0) else None

    def record(self, now: float) -> dict[str, Any]:
        """Return the JSON of `status --datasets`."""
        every_s = self.expectation.every_s if self.expectation else None
        return {
            "dataset": self.dataset,
            "last_arrival_at": iso(self.last.admitted_at),
            "last_delivered_at": iso(self.last.delivered_at),
            "last_accepted_at": iso(self.last.accepted_at),
            "expected_every_s": every_s,
            "due_at": iso(self.due_at),
            "overdue": self.overdue(now),
        }


def expected_datasets(
    expectations: Sequence[Expectation],
    arrivals: Mapping[str, Arrival],
    expected_since: Mapping[str, float],
    now: float,
) -> list[DatasetStatus]:
    """Return the status of everything that is expected.

    Without a delivery the time counts from `expected_since`: when a daemon first had the
    expectation.
    """
    statuses = []
    for expectation in expectations:
        name = expectation.dataset
        last = _latest(
            [
                arrival
                for title, arrival in arrivals.items()
                if title == name or title.partition("/")[0] == name
            ]
        )
        since = last.delivered_at or expected_since.get(name, now)
        statuses.append(DatasetStatus(name, last, expectation, since + expectation.every_s))
    return statuses


def all_datasets(
    titles: Sequence[str], arrivals: Mapping[str, Arrival], expected: Sequence[DatasetStatus]
) -> Iterator[DatasetStatus]:
    """Yield the datasets in the order of their titles, each expected folder before its first."""
    by_name = {status.dataset: status for status in expected}
    for title in titles:
        folder = title.partition("/")[0]
        if folder in by_name:
            yield by_name.pop(folder)
        yield by_name.get(title, DatasetStatus(title, arrivals.get(title, Arrival())))


def _latest(arrivals: Sequence[Arrival]) -> Arrival:
    """Return the latest instants of several datasets."""
    columns = zip(*arrivals, strict=True)
    return Arrival(*(max(filter(None, column), default=None) for column in columns))
