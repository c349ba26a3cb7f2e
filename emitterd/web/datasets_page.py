"""The datasets: which data are missing, what came on the last days, and what became of it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from emitterd.journal.listing import DAY_MAX, DayFiles, LastFiles, files_by_day, last_files
from emitterd.journal.numbers import read_arrivals
from emitterd.journal.opening import JournalLocation
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import entries_by_state
from emitterd.monitoring.arrivals import DatasetStatus, Expectation, all_datasets, expected_datasets
from emitterd.tracking.texts import word
from emitterd.units import DAY_S, midnight
from emitterd.web.http_server import Request, Response
from emitterd.web.rendering import page, render

DAYS = 30
"""Days of the strip of a dataset; the last one is today."""

SHARED_S = 10.0
"""Readers of one language get the same table for this time: it takes some 30 ms to make."""

MARKS = {"delivered": (0, 12), "waiting": (4, 8), "rejected": (7, 5)}
"""The top and the height of a mark in a strip, whose height is 12, by the outcome of its day."""


@dataclass(frozen=True, slots=True)
class StripDay:
    """One day of a strip. `outcome`: delivered, rejected, waiting, or empty if no file came."""

    day: date
    files: int
    outcome: str

    @classmethod
    def of(cls, day: date, files: DayFiles) -> "StripDay":
        """Judge a day: one delivered file is enough, because data came."""
        if files.delivered:
            return cls(day, files.files, "delivered")
        if files.rejected:
            return cls(day, files.files, "rejected")
        return cls(day, files.files, "waiting" if files.files else "")


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """What the page shows of a dataset, or of a folder of which files are expected."""

    status: DatasetStatus
    overdue: bool
    last: LastFiles
    days: Sequence[StripDay]

    @property
    def name(self) -> str:
        """The title of the dataset, or the name of the folder."""
        return self.status.dataset

    @property
    def folder(self) -> str:
        """Where its files belong."""
        return self.name.partition("/")[0]

    @property
    def is_dataset(self) -> bool:
        """Whether it is a dataset, and not a folder of several."""
        return "/" in self.name

    @property
    def is_shown(self) -> bool:
        """Whether it has a row of the table: a file came, or one is expected."""
        return self.status.expectation is not None or self.status.last.admitted_at is not None

    @property
    def days_with_files(self) -> list[date]:
        """The days of the strip on which a file came."""
        return [day.day for day in self.days if day.files]

    @property
    def marks(self) -> dict[str, str]:
        """The marks of the strip by outcome, each as a path of SVG: a page has thousands."""
        paths = dict[str, str]()
        for number, day in enumerate(self.days):
            if day.outcome:
                top, height = MARKS[day.outcome]
                mark = f"M{4 * number} {top}h3v{height}h-3z"
                paths[day.outcome] = paths.get(day.outcome, "") + mark
        return paths

    @property
    def server(self) -> str:
        """What the server made of the last delivered file, in a word; empty if not known."""
        return word(self.last.delivered.get("server_side")) if self.last.delivered else ""


@dataclass(frozen=True, slots=True)
class DatasetsPage:
    """The handler. Thread-safe: each response opens the journal for itself.

    `titles`: the datasets of the catalogue in order.
    """

    journal: JournalLocation
    titles: Callable[[], Sequence[str]]
    expectations: Callable[[], Sequence[Expectation]]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _fragments: dict[str, tuple[float, str]] = field(default_factory=dict)
    """When the table was made for each language, by the monotonic clock, and the table."""

    def datasets(self, request: Request) -> Response:
        """Return the page: what is overdue first."""
        with self._lock:
            language, now_s = request.state.language, time.monotonic()
            made_s, fragment = self._fragments.get(language, (-SHARED_S, ""))
            if now_s - made_s >= SHARED_S:
                fragment = self._fragment(request)
                self._fragments[language] = now_s, fragment
        return page(request, "datasets.html", fragment=fragment)

    def _fragment(self, request: Request) -> str:
        rows = self._rows()
        shown = [row for row in rows if row.is_shown]
        return render(
            request,
            "datasets_fragment.html",
            overdue=[row for row in shown if row.overdue],
            rows=sorted(shown, key=lambda row: not row.overdue),
            never=[row.name for row in rows if not row.is_shown],
            has_others=not shown and self._has_files(),
            is_expecting=bool(self.expectations()),
            day_max=DAY_MAX,
        )

    def _has_files(self) -> bool:
        with JournalReader(self.journal) as reader:
            return sum(entries_by_state(reader.read).values()) > 0

    def _rows(self) -> list[DatasetRow]:
        with JournalReader(self.journal) as reader:
            now = reader.now()
            days = _days(now)
            begins = [midnight(day) for day in days]
            arrivals, since = read_arrivals(reader.read)
            strips = {
                dataset: files_by_day(reader.read, dataset, list(pairwise(begins)))
                for dataset, arrival in arrivals.items()
                if (arrival.admitted_at or 0.0) >= begins[0] - DAY_S
            }
            with reader.snapshot():
                last = last_files(reader.read, [*arrivals])
        expected = expected_datasets(self.expectations(), arrivals, since, now)
        titles = [*self.titles()]
        # The catalogue may have changed since they came.
        titles += sorted(arrivals.keys() - set(titles))
        return [
            DatasetRow(
                status,
                status.overdue(now),
                _last_of(status.dataset, last),
                [*map(StripDay.of, days[:-1], _days_of(status.dataset, strips))],
            )
            for status in all_datasets(titles, arrivals, expected)
        ]


def _days(now: float) -> list[date]:
    """Return the days of the strip, the last one is today, and tomorrow."""
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    return [today - timedelta(days=number) for number in range(DAYS - 1, -2, -1)]


def _members(name: str, datasets: Mapping[str, Any]) -> list[Any]:
    """Return what belongs to a dataset, or to all datasets of a folder."""
    return [
        value
        for title, value in datasets.items()
        if title == name or title.partition("/")[0] == name
    ]


def _last_of(name: str, last: Mapping[str, LastFiles]) -> LastFiles:
    columns = zip(*_members(name, last), strict=True)
    latest = [
        max(filter(None, files), key=lambda file: str(file["admitted_at"]), default=None)
        for files in columns
    ]
    return LastFiles(*latest) if latest else LastFiles(None, None)


def _days_of(name: str, strips: Mapping[str, list[DayFiles]]) -> list[DayFiles]:
    members: list[list[DayFiles]] = _members(name, strips)
    if not members:
        return [DayFiles()] * DAYS
    return [DayFiles(*map(sum, zip(*day, strict=True))) for day in zip(*members, strict=True)]
