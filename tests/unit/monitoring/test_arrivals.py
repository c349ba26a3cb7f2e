"""Expected arrivals: what the journal keeps of each dataset, what is due, and the alarm."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.numbers import Arrival
from emitterd.journal.opening import open_journal
from emitterd.journal.sqlite.salvage import salvage
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.model import ServerState
from emitterd.monitoring.alarms import AlarmLevel, AlarmLimits, queue_alarms
from emitterd.monitoring.arrivals import Expectation, all_datasets, expected_datasets
from emitterd.monitoring.status import read_queue
from emitterd.text import iso, local_time
from support.journal import admission, deliver

NOW = 1_800_000_000.0
DAY_S = 86400.0
MASTER, RESULTS = "pat/periodic_exam_mst", "pat/periodic_exam_result_trans"
DAILY = Expectation("student_attendance", DAY_S)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Open a journal."""
    with open_journal(tmp_path / "journal.db") as journal:
        yield journal


def arrive(journal: Journal, flow: str, *, delivered: bool = True) -> None:
    """Admit a file, and deliver it."""
    journal.admit([admission(f"{flow}.zip".encode(), flow=flow)])
    if delivered:
        entry = journal.claim(time.time())
        assert entry is not None
        deliver(journal, entry)


def arrivals(journal: Journal) -> dict[str, Arrival]:
    """Return what the status reads."""
    return dict(read_queue(journal.read, time.time()).arrivals)


def test_the_journal_keeps_the_last_arrival_and_delivery_of_each_dataset(
    journal: Journal, tmp_path: Path
) -> None:
    """Unknown folders are not kept; pruned entries are; a rebuild copies them."""
    began_at = time.time()
    arrive(journal, MASTER)
    arrive(journal, RESULTS, delivered=False)
    arrive(journal, "/unknown/folder", delivered=False)
    kept = arrivals(journal)

    assert set(kept) == {MASTER, RESULTS}
    master = kept[MASTER]
    assert began_at <= (master.admitted_at or 0) <= (master.delivered_at or 0) <= time.time()
    assert kept[RESULTS].delivered_at is None
    journal.prune([entry_id for (entry_id,) in journal.read("select id from entry")])
    assert arrivals(journal) == kept
    with SqliteStore(tmp_path / "fresh.db") as fresh:
        salvage(tmp_path / "journal.db", fresh)
        assert dict(read_queue(fresh.read, time.time()).arrivals) == kept


def test_the_journal_keeps_when_the_server_last_accepted_each_dataset(journal: Journal) -> None:
    """It is the end by the server's clock, of the last file that the server has processed."""
    journal.deliver_to("https://cqube.test/data")
    arrive(journal, MASTER)
    now = time.time()
    journal.track(0.0, now, 10)
    (file,) = journal.tracked_due(now, now + 1, 10)
    journal.save_tracked([replace(file, state=ServerState.PICKED_UP)])
    assert arrivals(journal)[MASTER].accepted_at is None
    journal.save_tracked([replace(file, state=ServerState.PROCESSED, ended_at=NOW)])
    assert arrivals(journal)[MASTER].accepted_at == NOW


def test_the_last_arrival_is_that_of_the_last_file(journal: Journal) -> None:
    """A second file of the dataset moves it on; a rejected one is an arrival too."""
    arrive(journal, MASTER)
    first = arrivals(journal)[MASTER]
    journal.admit([admission(b"pat/periodic_exam_mst_2.zip", flow=MASTER)])
    second = arrivals(journal)[MASTER]

    assert (second.admitted_at or 0) > (first.admitted_at or 0)
    assert second.delivered_at == first.delivered_at


@pytest.mark.parametrize(
    ("name", "delivered_at", "due_at"),
    [
        # The latest delivery of any dataset of the folder counts.
        ("pat", NOW - DAY_S, NOW),
        (MASTER, NOW - 9 * DAY_S, NOW - 8 * DAY_S),
        (RESULTS, NOW - DAY_S, NOW),
        # Never delivered: since the expectation was first seen.
        ("sat", None, NOW - 2 * DAY_S),
        # A new expectation that no daemon has seen.
        ("udise", None, NOW + DAY_S),
    ],
)
def test_when_the_next_is_due(name: str, delivered_at: float | None, due_at: float) -> None:
    """The time counts from the last delivery of the dataset or folder."""
    kept = {
        MASTER: Arrival(NOW - 9 * DAY_S, NOW - 9 * DAY_S),
        RESULTS: Arrival(NOW - 1, NOW - DAY_S),
        "sat/semester_exam_mst": Arrival(NOW - 1, None),
    }
    (status,) = expected_datasets([Expectation(name, DAY_S)], kept, {"sat": NOW - 3 * DAY_S}, NOW)

    assert (status.last.delivered_at, status.due_at) == (delivered_at, due_at)
    assert status.overdue(NOW) == (due_at < NOW)
    assert status.overdue(due_at + 1)


def test_an_overdue_dataset_is_a_warning_until_a_file_is_delivered(journal: Journal) -> None:
    """The alarm has the date of the last delivery; one that never came counts from the start."""
    title = "student_attendance/student_attendance"
    limits = AlarmLimits(3600.0, 1800.0, (DAILY, Expectation("pat", 35 * DAY_S)))
    journal.expect(["student_attendance", "pat"])
    now = time.time()

    def alarms(at: float) -> list[str]:
        queue = read_queue(journal.read, at)
        found = queue_alarms(queue, (), limits, at, running=True)
        assert {alarm.level for alarm in found} <= {AlarmLevel.WARNING}
        return [f"{alarm.code}: {alarm.words}" for alarm in found]

    assert alarms(now + DAY_S - 1) == []
    (words,) = alarms(now + DAY_S + 1)
    assert words == (
        "arrival_overdue: a dataset is overdue:"
        " student_attendance, expected every 1d and never delivered"
    )
    arrive(journal, title)
    assert alarms(now + DAY_S - 1) == []
    delivered = local_time(arrivals(journal)[title].delivered_at or 0.0)
    (words,) = alarms(now + 36 * DAY_S)
    assert words == (
        "arrival_overdue: 2 datasets are overdue:"
        f" student_attendance, expected every 1d and last delivered {delivered};"
        " pat, expected every 35d and never delivered"
    )


def test_an_overdue_alarm_says_that_a_file_came_and_is_not_delivered(journal: Journal) -> None:
    """Then the cause is not with the people who make the files."""
    title = "student_attendance/student_attendance"
    arrive(journal, title, delivered=False)
    at = time.time() + 2 * DAY_S
    since = {DAILY.dataset: at - 2 * DAY_S}
    queue = replace(read_queue(journal.read, at), expected_since=since)
    limits = AlarmLimits(3 * DAY_S, 3 * DAY_S, (DAILY,))
    (alarm,) = queue_alarms(queue, (), limits, at, running=True)
    came = local_time(arrivals(journal)[title].admitted_at or 0.0)
    assert alarm.words.endswith(f"expected every 1d and never delivered (a file came {came})")
    assert alarm.hint.startswith("see why a file that came is not delivered: emitterd list;")


def test_an_expectation_counts_from_when_it_was_first_seen(journal: Journal) -> None:
    """A restart keeps the instant; one that was removed and comes back begins again."""

    def since() -> dict[str, float]:
        return dict(read_queue(journal.read, time.time()).expected_since)

    journal.expect(["pat", "sat"])
    first = since()
    journal.expect(["pat", "udise"])
    assert since()["pat"] == first["pat"]
    assert set(since()) == {"pat", "udise"}
    journal.expect(["sat"])
    assert since()["sat"] > first["sat"]


def test_the_list_has_every_dataset_and_the_expected_folders() -> None:
    """In the order of the catalogue; a folder comes before its first dataset."""
    expectations = [Expectation("pat", DAY_S), Expectation("a/b", DAY_S)]
    expected, kept = expected_datasets(expectations, {}, {}, NOW), {"a/a": Arrival(NOW, None)}
    listed = list(all_datasets(["a/a", "a/b", MASTER, RESULTS], kept, expected))

    assert [status.dataset for status in listed] == ["a/a", "a/b", "pat", MASTER, RESULTS]
    assert [bool(status.expectation) for status in listed] == [False, True, True, False, False]
    assert listed[0].record(NOW) == {
        "dataset": "a/a",
        "last_arrival_at": iso(NOW),
        "last_delivered_at": None,
        "last_accepted_at": None,
        "expected_every_s": None,
        "due_at": None,
        "overdue": False,
    }
