"""The datasets: which data are missing, and what became of those that came."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.rows import Admission
from emitterd.journal.work import Execute
from emitterd.model import Fingerprint, ServerState
from emitterd.monitoring.arrivals import Expectation
from emitterd.web import datasets_page
from support.page import Desk

DAY_S = 86400.0
EXAM, MASTER = "pat/periodic_exam_mst", "school_master/school_mst"


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up a page over an empty journal."""
    return Desk(spool_root, journal, tmp_path / "state" / "journal.db")


def admit(desk: Desk, dataset: str, number: int = 1, age_s: float = 0.0) -> str:
    """Admit a file of a dataset that came a while ago; return its path."""
    path = f"{dataset}_{number}.zip".encode()
    desk.journal.admit([Admission(path, Fingerprint(1, 2, 9, number, number), dataset, 0)])
    desk.age(path, age_s)
    return path.decode()


def test_missing_data_are_named_first(desk: Desk) -> None:
    """A dataset that is overdue is on top, with its last delivery and what to do."""
    desk.expectations = (Expectation(EXAM, 7 * DAY_S), Expectation("school_master", 7 * DAY_S))
    desk.journal.expect([EXAM, "school_master"])
    admit(desk, MASTER)
    admit(desk, EXAM, age_s=20 * DAY_S)
    desk.deliver()
    desk.deliver()
    sql = "update arrival set (admitted_at, delivered_at) = (1.0, 2.0) where dataset = ?"
    desk.journal.store.write(Execute(sql, [(EXAM,)]))
    answer = desk.ask("/datasets")
    words = answer.document.words

    assert answer.document.wrong == []
    assert "The data of 1 dataset are missing pat/periodic_exam_mst The last file was" in words
    assert "One is expected every 7d." in words
    assert "Ask the person who produces these data. Put the zip into the folder pat ." in words
    assert words.index("overdue") < words.index("school_master", words.index("All datasets"))
    assert answer.text.count("overdue</span>") == 1


def test_a_file_that_came_and_is_not_delivered_is_named(desk: Desk) -> None:
    """Then nobody has to ask for the data."""
    desk.expectations = (Expectation(EXAM, DAY_S),)
    desk.journal.save_fact("expected", {EXAM: time.time() - 9 * DAY_S})
    path = admit(desk, EXAM)
    answer = desk.ask("/datasets")

    assert "No file was ever delivered. One is expected every 1d." in answer.document.words
    assert "What to do: A file came and is not delivered:" in answer.document.words
    assert f'href="explain?path={path}"' in answer.text
    assert "Ask the person" not in answer.document.words


def test_without_expectations_the_page_says_how_to_set_them(desk: Desk) -> None:
    """Nothing is called complete that nobody expects."""
    words = desk.ask("/datasets").document.words

    assert "emitterd does not know which data are expected" in words
    assert "datasets.expect" in words
    assert "No file has come yet." in words
    assert "67 datasets never came" in words


@pytest.mark.parametrize("confirmation", [None, "marked"])
def test_files_that_came_are_not_denied(desk: Desk, confirmation: str | None) -> None:
    """Where none is of a dataset, or all were marked as delivered, the page says so."""
    folder = "/unknown" if confirmation is None else EXAM
    desk.journal.admit([Admission(b"x/a.zip", Fingerprint(1, 2, 9, 1, 1), folder, 0)])
    if confirmation is not None:
        sql = "update entry set confirmation = ?"
        desk.journal.store.write(Execute(sql, [(confirmation,)]))
        desk.journal.store.write(Execute("delete from arrival"))
    answer = desk.ask("/datasets")

    assert answer.document.wrong == []
    assert "No file of a dataset has come yet. The files that came fit" in answer.document.words
    assert '<a href="files">See all files</a>' in answer.text


def test_all_in_time(desk: Desk) -> None:
    """An expectation that is met is no alarm."""
    desk.expectations = (Expectation("pat", DAY_S),)
    desk.journal.expect(["pat"])
    admit(desk, EXAM)
    desk.deliver()
    words = desk.ask("/datasets").document.words

    assert "No data are missing" in words
    assert "overdue" not in words


def test_what_the_server_made_of_the_last_file(desk: Desk) -> None:
    """The table has it in a word beside the dataset, which leads to the file."""
    desk.journal.deliver_to("https://here.example.org/data")
    path = admit(desk, EXAM)
    desk.deliver()
    desk.journal.track(0.0, 0.0, 10)
    (file,) = desk.journal.tracked_due(1.0, 1e12, 10)
    rows = {"total": 9, "accepted": 2, "dropped": 7}
    desk.journal.save_tracked(
        [replace(file, state=ServerState.PROCESSED, rows=rows, ended_at=0.0, gone_at=1.0)]
    )
    answer = desk.ask("/datasets")

    assert f'<a href="explain?path={path}">processed, 7 rows dropped</a>' in answer.text


def test_the_strip_has_a_mark_for_each_day_with_files(desk: Desk) -> None:
    """A delivered file makes a long mark, a waiting one a middle, rejected ones a short."""
    for age in (29, 3, 2):
        admit(desk, EXAM, age, age * DAY_S)
    desk.deliver()
    admit(desk, EXAM, 40, 40 * DAY_S)
    answer = desk.ask("/datasets")
    marks = {item["class"]: item["d"] for item in answer.document.all("path") if "class" in item}

    # Four units for each day, from the left; the oldest file was delivered.
    assert marks == {"delivered": "M0 0h3v12h-3z", "waiting": "M104 4h3v8h-3zM108 4h3v8h-3z"}
    strip = answer.document.all("svg")[-1]
    assert strip["aria-label"] == (
        f"Files came on 3 of the last 30 days, the last on {desk.day(-2)}."
    )


def test_readers_share_the_table(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once in ten seconds for all readers of one language."""
    admit(desk, EXAM, 1)
    desk.ask("/datasets")
    admit(desk, MASTER, 2)
    assert MASTER + "_" not in desk.ask("/datasets").text
    assert MASTER + "_" in desk.ask("/datasets", accept_language="hi").text
    monkeypatch.setattr(datasets_page, "SHARED_S", 0.0)
    assert MASTER + "_" in desk.ask("/datasets").text


def test_a_dataset_that_left_the_catalogue_is_shown(desk: Desk) -> None:
    """Its files are in the journal."""
    admit(desk, "former/dataset")
    words = desk.ask("/datasets").document.words

    assert "former/dataset" in words
