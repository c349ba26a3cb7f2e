"""The chart of the last day, and the sums it is drawn from."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.journal.journal import Journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.work import Execute
from emitterd.web.overview import HEIGHT, LEAST, READING_S, SLOT_S, SLOTS, Bar, Throughput, chart
from support.page import Desk

NOW = 1_800_000_000.0
LAST = int(NOW // SLOT_S)

sums = st.builds(
    lambda files, size_bytes: (files, size_bytes if files else 0),
    st.integers(0, 10**6),
    st.integers(0, 10**15),
)


@given(st.dictionaries(st.integers(LAST - 100, LAST + 100), sums))
def test_bars_stay_in_their_field(by_slot: dict[int, tuple[int, int]]) -> None:
    """There are 48 bars in the order of time, and each slot with files is visible."""
    bars = chart(by_slot, NOW)

    first = LAST - SLOTS + 1
    assert [bar.began_at / SLOT_S for bar in bars] == list(range(first, LAST + 1))
    for bar in bars:
        assert 0 <= bar.height <= HEIGHT
        assert (bar.height >= LEAST) == (bar.files > 0)


@given(st.dictionaries(st.integers(LAST - 100, LAST + 100), sums))
def test_the_chart_is_of_the_day(by_slot: dict[int, tuple[int, int]]) -> None:
    """What is older than the day, or of the future, is not counted."""
    bars = chart(by_slot, NOW)

    day = [sums for slot, sums in by_slot.items() if LAST - SLOTS < slot <= LAST]
    assert sum(bar.files for bar in bars) == sum(files for files, _ in day)
    assert sum(bar.size_bytes for bar in bars) == sum(size for _, size in day)


def test_a_day_without_deliveries_is_drawn_empty() -> None:
    """An empty day has bars without a height."""
    assert all(bar.height == 0 for bar in chart({}, NOW))


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up a page over an empty journal."""
    return Desk(spool_root, journal, tmp_path / "state" / "journal.db")


def deliver(desk: Desk, name: str, size_bytes: int, at: float) -> None:
    """Have a file delivered at an instant."""
    desk.admit(name.encode(), size_bytes)
    desk.deliver()
    sql = "update entry set delivered_at = ? where path = ?"
    desk.journal.store.write(Execute(sql, [(at, name.encode())]))


def totals(bars: list[Bar]) -> tuple[int, int]:
    """Return the files and bytes of a day."""
    return sum(bar.files for bar in bars), sum(bar.size_bytes for bar in bars)


def test_sums_are_by_half_hour(desk: Desk) -> None:
    """Each delivery of the last day is in its slot, and earlier ones are in none."""
    now = time.time()
    ago = {"a": 0.0, "b": 1.0, "c": 2 * SLOT_S, "d": 2 * SLOT_S, "e": 90_000.0}
    for name, ago_s in ago.items():
        deliver(desk, f"pat/{name}.zip", 100, now - ago_s)
    with JournalReader(desk.place) as reader:
        bars = Throughput().day(reader.read, now + 0.001)

    assert totals(bars) == (4, 400)
    [slot] = [bar for bar in bars if bar.began_at <= now - 2 * SLOT_S][-1:]
    assert (slot.files, slot.size_bytes) == (2, 200)


def test_the_day_is_read_at_most_every_ten_seconds(desk: Desk) -> None:
    """A page that is asked for often does not add up the day each time."""
    start = time.time()
    deliver(desk, "pat/old.zip", 10, start - 600)
    throughput = Throughput()
    with JournalReader(desk.place) as reader:
        throughput.day(reader.read, start)
        deliver(desk, "pat/new.zip", 10, start - 1)
        soon = throughput.day(reader.read, start + READING_S - 1)
        later = throughput.day(reader.read, start + READING_S)

    assert totals(soon) == (1, 10)
    assert totals(later) == (2, 20)


def test_a_clock_that_is_set_back_is_followed(desk: Desk) -> None:
    """After the clock was set back the day is read again."""
    now = time.time()
    deliver(desk, "pat/a.zip", 10, now - 100)
    throughput = Throughput()
    with JournalReader(desk.place) as reader:
        throughput.day(reader.read, now + 90_000)
        bars = throughput.day(reader.read, now)

    assert totals(bars) == (1, 10)
