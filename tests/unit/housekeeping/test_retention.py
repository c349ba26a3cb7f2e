"""How long the journal remembers, and what it never forgets."""

import os
import time
from pathlib import Path

import pytest

from conftest import SmallDisk
from emitterd.housekeeping.retention import PAGE, Retention
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.work import Execute
from emitterd.model import State
from emitterd.spool.folder import Spool
from support.journal import BROKE, NOW, admission, admit, counted, deliver, take
from support.zips import make_zip

DAY_S = 86400.0
RETAIN_S = 400 * DAY_S
LATER = NOW + RETAIN_S + 3600.0


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)


@pytest.fixture
def retention(journal: Journal, spool_root: Path) -> Retention:
    """Prune what is older than the usual 400 days."""
    return Retention(journal, Spool(spool_root), RETAIN_S)


def test_endings_come_in_pages(journal: Journal) -> None:
    """Ended versions come by id, the superseded marked; live ones never."""
    for version, path in enumerate((b"a", b"b", b"a")):
        deliver(journal, take(journal, version, path))
    admit(journal, admission(b"c"))
    later = time.time() + 1
    assert journal.ended_before(NOW - 3600, 0, 9) == []
    assert journal.ended_before(later, 0, 2) == [(1, b"a", 1), (2, b"b", 0)]
    assert journal.ended_before(later, 2, 2) == [(3, b"a", 0)]
    journal.prune([1, 2])
    assert journal.ended_before(later, 0, 9) == [(3, b"a", 0)]
    assert journal.counts() == counted(journal)


def test_young_is_kept(journal: Journal, retention: Retention) -> None:
    """Nothing is forgotten before its time."""
    deliver(journal, take(journal))
    assert retention.prune(NOW + RETAIN_S - 3600) == 0
    assert retention.prune(LATER) == 1
    assert journal.counts()[State.DELIVERED] == 0


def test_file_that_is_still_there_is_kept(
    journal: Journal, retention: Retention, spool_root: Path
) -> None:
    """The latest version of what lies in the folder stays, however old."""
    name = b"d/caf\xe9.zip"
    make_zip(spool_root / os.fsdecode(name))
    for version in (1, 2):
        deliver(journal, take(journal, version, name))
    assert retention.prune(LATER) == 1
    known = journal.latest(name)
    assert known is not None
    assert known.id == 2
    assert retention.prune(LATER) == 0


@pytest.mark.parametrize("state", ["queued", "delivering", "deferred"])
def test_live_is_kept(state: str, journal: Journal, retention: Retention) -> None:
    """What still has to be sent is never forgotten."""
    entry = take(journal)
    if state == "queued":
        journal.interrupt(entry)
    elif state == "deferred":
        journal.defer(entry, BROKE, NOW, charge=True)
    assert retention.prune(LATER) == 0
    assert journal.counts()[State(state)] == 1


@pytest.mark.parametrize("kind", ["link", "folder", "too long"])
def test_what_cannot_be_looked_at_is_kept(
    kind: str, journal: Journal, retention: Retention, spool_root: Path
) -> None:
    """Only what is certainly gone is forgotten."""
    path = b"x" * 300 if kind == "too long" else b"a.zip"
    deliver(journal, take(journal, 1, path))
    if kind == "link":
        (spool_root / "a.zip").symlink_to("nowhere")
    elif kind == "folder":
        (spool_root / "a.zip").mkdir()
    assert retention.prune(LATER) == 0


def test_lost_root_prunes_nothing(journal: Journal, retention: Retention, spool_root: Path) -> None:
    """While the folder is away nobody knows what is gone."""
    deliver(journal, take(journal))
    spool_root.rmdir()
    assert retention.prune(LATER) == 0
    spool_root.mkdir()
    assert retention.prune(LATER) == 1


def test_many_pages(journal: Journal, retention: Retention, spool_root: Path) -> None:
    """All pages are gone through, with kept and forgotten mixed."""
    count = 2 * PAGE + 7
    admit(journal, *(admission(b"%d" % number) for number in range(count)))
    journal.store.write(Execute("update entry set state = 'delivered'"))
    for number in range(0, count, 100):
        (spool_root / str(number)).touch()
    kept = len(list(spool_root.iterdir()))
    assert retention.prune(LATER) == count - kept
    assert journal.counts()[State.DELIVERED] == kept
    assert journal.counts() == counted(journal)


@pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)
@pytest.mark.slow
def test_journal_does_not_grow_for_ever(journal: Journal, retention: Retention) -> None:
    """What is forgotten makes room: as many versions again need no larger file."""
    count, sizes = 20_000, []
    for _ in range(2):
        admit(journal, *(admission(b"%d" % number) for number in range(count)))
        journal.store.write(Execute("update entry set state = 'delivered'"))
        assert retention.prune(LATER) == count
        pages = journal.read("pragma page_count")[0][0]
        sizes.append(pages)

    assert sizes[1] < 1.1 * sizes[0]


def test_tick_is_once_a_day(journal: Journal, spool_root: Path) -> None:
    """The first tick prunes, and the next within a day does not."""
    retention = Retention(journal, Spool(spool_root), retain_s=-3600.0)
    deliver(journal, take(journal, 1))
    retention.tick()
    assert journal.latest(b"pat/periodic_exam.zip") is None
    deliver(journal, take(journal, 2))
    retention.tick()
    assert journal.counts()[State.DELIVERED] == 1


def test_full_journal(spool_root: Path, small_disk: SmallDisk) -> None:
    """A full disk puts pruning off; it does not raise."""
    with open_journal(small_disk.root / "journal.db") as journal:
        for version in range(20):
            deliver(journal, take(journal, version))
        small_disk.fill()
        Retention(journal, Spool(spool_root), retain_s=-3600.0).tick()


def test_another_retention_prunes_at_the_next_sweep(journal: Journal, retention: Retention) -> None:
    """A shorter memory does not wait for tomorrow; the same one does."""
    deliver(journal, take(journal))
    retention.tick()
    retention.apply_settings(RETAIN_S)
    retention.tick()
    assert journal.counts()[State.DELIVERED] == 1
    retention.apply_settings(-3600.0)
    retention.tick()

    assert journal.counts()[State.DELIVERED] == 0


def test_clock_that_leaps_ahead_costs_no_receipt(
    journal: Journal, retention: Retention, spool_root: Path
) -> None:
    """Ten years ahead, for days and over a restart, nothing young is forgotten."""
    deliver(journal, take(journal))
    began, ahead = time.time(), 10 * 365 * DAY_S
    assert retention.counted_time(began) == began
    for day in range(1, 200):
        again = Retention(journal, Spool(spool_root), RETAIN_S)
        assert again.prune(again.counted_time(began + ahead + day * DAY_S)) == 0


def test_clock_that_is_right_is_gone_by(retention: Retention) -> None:
    """Day by day, and after a month's pause, it is the time itself; never later."""
    began = time.time()
    for day in (0, 1, 2, 31, 20, 32):
        assert retention.counted_time(began + day * DAY_S) == began + day * DAY_S
