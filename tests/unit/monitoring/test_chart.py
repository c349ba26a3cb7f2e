"""The chart of the last day, and the sums it is drawn from."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.journal.journal import Journal
from emitterd.journal.reader import JournalReader
from emitterd.monitoring.page_data import (
    BAR_WIDTH,
    HEIGHT,
    LATE_S,
    LEAST,
    SLOT_S,
    SLOTS,
    WIDTH,
    PeriodTotal,
    Throughput,
    chart,
    slot_of,
)
from support.page import Desk

NOW = 1_800_000_000.0
LAST = slot_of(NOW)

sums = st.builds(
    lambda files, size: PeriodTotal(files, size if files else 0),
    st.integers(0, 10**6),
    st.integers(0, 10**15),
)


@given(st.dictionaries(st.integers(LAST - 100, LAST + 100), sums))
def test_bars_stay_in_their_field(found: dict[int, PeriodTotal]) -> None:
    """48 bars from left to right, none outside, and whatever was sent can be seen."""
    drawn = chart(found, NOW)

    assert len(drawn.bars) == SLOTS
    right = 0.0
    for bar in drawn.bars:
        assert right <= bar.x
        right = bar.x + BAR_WIDTH
        assert 0 <= bar.height <= HEIGHT
        assert (bar.height >= LEAST) == (bar.sum.files > 0)
    assert right <= WIDTH


@given(st.dictionaries(st.integers(LAST - 100, LAST + 100), sums))
def test_the_total_is_of_the_day(found: dict[int, PeriodTotal]) -> None:
    """What is older than the day, or of the future, is not counted."""
    drawn = chart(found, NOW)

    day = [one for slot, one in found.items() if LAST - SLOTS < slot <= LAST]
    assert drawn.total == sum(day, PeriodTotal())


def test_a_day_without_deliveries_has_no_busiest_slot() -> None:
    """An empty day is drawn empty."""
    drawn = chart({}, NOW)

    assert drawn.busiest is None
    assert all(bar.height == 0 for bar in drawn.bars)
    assert drawn.bars[0].began_at == (LAST - SLOTS + 1) * SLOT_S


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up a page over an empty journal."""
    return Desk(spool_root, journal, tmp_path / "state" / "journal.db")


def deliver(desk: Desk, name: str, size_bytes: int, at: float) -> None:
    """Have a file delivered at an instant."""
    desk.admit(name.encode(), size_bytes)
    desk.deliver()
    sql = "update entry set delivered_at = ? where path = ?"
    desk.journal.write(lambda one: one.execute(sql, (at, name.encode())))


def test_sums_are_by_half_hour(desk: Desk) -> None:
    """Each delivery of the last day is in its slot, whatever came before is not."""
    now = time.time()
    ago = {"a": 0.0, "b": 1.0, "c": 2 * SLOT_S, "d": 2 * SLOT_S, "e": 90_000.0}
    for name, ago_s in ago.items():
        deliver(desk, f"pat/{name}.zip", 100, now - ago_s)
    with JournalReader(desk.place) as records:
        day = Throughput().day(records.read, now + 0.001)

    assert sum(day.values(), PeriodTotal()) == PeriodTotal(4, 400)
    assert day[slot_of(now - 2 * SLOT_S)] == PeriodTotal(2, 200)


def test_the_past_is_read_once(desk: Desk) -> None:
    """What was added up is not read again, and what is new is added to it."""
    start = time.time()
    for number in range(20):
        deliver(desk, f"pat/{number}.zip", 10, start - 600 + number)
    through = Throughput()
    asked: list[tuple[float, float]] = []
    with JournalReader(desk.place) as records:

        def read(sql: str, parameters: object = ()) -> list[tuple[object, ...]]:
            assert isinstance(parameters, tuple)
            asked.append(parameters)
            return records.read(sql, parameters)

        first = through.day(read, start)
        asked.clear()
        deliver(desk, "pat/new.zip", 10, start + 1)
        second = through.day(read, start + 2)
        third = through.day(read, start + 2)

    assert sum(first.values(), PeriodTotal()) == PeriodTotal(20, 200)
    assert (
        sum(second.values(), PeriodTotal())
        == sum(third.values(), PeriodTotal())
        == PeriodTotal(21, 210)
    )
    assert min(since for since, _ in asked) >= start - LATE_S


def test_a_commit_that_comes_late_is_counted(desk: Desk) -> None:
    """A delivery stamped before the last look, and committed after it, is not lost."""
    start = time.time()
    through = Throughput()
    with JournalReader(desk.place) as records:
        through.day(records.read, start)
        deliver(desk, "pat/late.zip", 10, start - LATE_S / 2)
        day = through.day(records.read, start + 60)

    assert sum(day.values(), PeriodTotal()) == PeriodTotal(1, 10)


def test_a_clock_that_is_set_back_counts_anew(desk: Desk) -> None:
    """After the clock was set back nothing is counted twice."""
    now = time.time()
    deliver(desk, "pat/a.zip", 10, now - 100)
    through = Throughput()
    with JournalReader(desk.place) as records:
        through.day(records.read, now + 7200)
        day = through.day(records.read, now)

    assert sum(day.values(), PeriodTotal()) == PeriodTotal(1, 10)
