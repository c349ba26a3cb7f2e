"""One path that fails never stops the others: it is reported once, and tried again."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.codes import load_texts
from emitterd.datasets.inspection import Report
from emitterd.datasets.zip_integrity import ReadAt
from emitterd.intake.candidates import FAILED_MAX_S
from emitterd.intake.loop import topmost
from emitterd.journal.journal import Journal
from emitterd.journal.work import Execute
from emitterd.model import State
from support.intake import NAME, PATH, SWEEP_S, Counting, IntakeDriver, names, swept
from support.zips import make_zip

BAD, BAD_PATH = "pat/bad.zip", b"pat/bad.zip"


@pytest.mark.parametrize("at", [10_413_792_000, 4_000_000_000_000])
def test_a_file_of_any_date_is_admitted(at: int, spool_root: Path, journal: Journal) -> None:
    """A date after 2262, which SQLite's integers do not hold, keeps no file from the queue."""
    os.utime(make_zip(spool_root / BAD), ns=(0, at * 10**9))
    assert (spool_root / BAD).stat().st_mtime_ns >= 2**63
    make_zip(spool_root / NAME)
    driver = IntakeDriver(spool_root, journal)

    assert names(driver.step()) == ["file.admitted"] * 2
    assert driver.step(SWEEP_S) == []
    assert journal.counts()[State.QUEUED] == 2


class Failing(Counting):
    """An inspector that fails for one path."""

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Count, and fail or inspect."""
        report = super().report(path, read_at, size_bytes)
        if path == BAD_PATH:
            raise ArithmeticError("nobody expected this")
        return report


def test_a_path_that_fails_is_reported_once_and_tried_again(
    spool_root: Path, journal: Journal
) -> None:
    """The waits grow to ten minutes; sweeps do not try earlier, and others are queued."""
    driver = IntakeDriver(spool_root, journal, "warn")
    driver.inspector.__class__ = Failing
    make_zip(spool_root / BAD)
    make_zip(spool_root / NAME)

    events = {event["event"]: event for event in driver.step()}

    assert set(events) == {"path.failed", "file.admitted"}
    failed = events["path.failed"]
    assert (failed["path"], failed["error"], failed["log_level"]) == (BAD, "E208", "warning")
    assert failed["reason"] == "ArithmeticError: nobody expected this"
    assert isinstance(failed["exc_info"], ArithmeticError)
    assert driver.inspector.reports == 2

    for wait_s in (1, 2, 4, 8):
        driver.step(wait_s - 0.1)
        driver.sweep()
        before = driver.inspector.reports
        driver.step(0.1)
        assert driver.inspector.reports == before + 1
    for _ in range(20):
        assert names(driver.step(FAILED_MAX_S)) == []
    before = driver.inspector.reports
    driver.step(FAILED_MAX_S - 0.1)
    assert driver.inspector.reports == before
    summary = driver.intake.not_sent()
    assert summary is not None
    assert (dict(summary.counts), summary.examples) == ({"E208": 1}, {"E208": BAD_PATH})

    driver.inspector.__class__ = Counting
    assert names(driver.step(0.1)) == ["file.admitted"]
    assert driver.intake.not_sent() is None


def test_one_bad_row_fails_alone(spool_root: Path, journal: Journal) -> None:
    """Where the journal refuses one row of a batch, it takes all the others."""
    refuse = f"""create trigger refuse before insert on entry when new.path = x'{BAD_PATH.hex()}'
        begin select raise(abort, 'refused'); end"""
    journal.store.write(Execute(refuse))
    for name in (BAD, NAME, "pat/a.zip", "pat/c.zip"):
        make_zip(spool_root / name)
    driver = IntakeDriver(spool_root, journal)

    events = driver.step()

    assert sorted(names(events)) == ["file.admitted"] * 3 + ["path.failed"]
    assert next(event for event in events if event["path"] == BAD)["error"] == "E208"
    assert driver.step(SWEEP_S) == []
    journal.store.write(Execute("drop trigger refuse"))
    assert names(driver.step(FAILED_MAX_S)) == ["file.admitted"]


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the process open nothing while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/dev/null", os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_concern_no_path(spool_root: Path, journal: Journal) -> None:
    """Without a descriptor left, nothing is called unreadable, and all is found afterwards."""
    driver = IntakeDriver(spool_root, journal)
    load_texts()  # as the daemon does at its start
    make_zip(spool_root / NAME)
    with no_descriptors():
        events = driver.step(0.0, PATH)
    assert [(e["event"], e["path"], e["error"]) for e in events] == [
        ("path.failed", NAME, "E208"),
        ("path.failed", ".", "E208"),
    ]
    assert all("Too many open files" in event["reason"] for event in events)
    assert names(driver.step(1.0)) == ["file.admitted"]
    driver.sweep()
    assert driver.intake.not_sent() is None


def test_many_new_folders_are_listed_in_few_steps(spool_root: Path, journal: Journal) -> None:
    """New folders share slices of time: each does not cost a look at all the others."""
    driver = swept(spool_root, journal)
    folders = [f"{number}" for number in range(3000)]
    for name in folders:
        (spool_root / name).mkdir()
        driver.intake.hint(name.encode(), is_folder=True)
    make_zip(spool_root / folders[-1] / "x.zip")

    steps = 0
    while driver.journal.counts()[State.QUEUED] == 0:
        driver.intake.step(driver.now)
        steps += 1

    assert steps <= len(folders) / 30
    assert driver.sweeps == 1


def test_a_hint_is_served_during_a_sweep_of_empty_folders(
    spool_root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing of folders without files stops at the end of each slice, too."""
    driver = swept(spool_root, journal)
    for number in range(500):
        (spool_root / str(number)).mkdir()
    monkeypatch.setattr("emitterd.intake.loop.SLICE_S", 0.001)
    driver.intake.sweep_soon()
    driver.intake.step(driver.now)
    assert driver.sweeps == 1
    make_zip(spool_root / NAME)
    driver.intake.hint(PATH)
    driver.intake.step(driver.now)
    assert journal.latest(PATH) is not None
    assert driver.sweeps == 1


@pytest.mark.parametrize(
    ("folders", "tops"),
    [
        ([b"a/b/c", b"a", b"a/b"], [b"a"]),
        ([b"a-b", b"a/b", b"a", b"ab"], [b"a-b", b"a", b"ab"]),
        ([b"a", b"a"], [b"a"]),
    ],
    ids=["nested", "like names", "twice"],
)
def test_a_folder_in_another_new_one_is_not_listed_twice(
    folders: list[bytes], tops: list[bytes]
) -> None:
    """Of nested new folders only the topmost is walked through."""
    assert topmost(folders) == tops


def test_new_folders_do_not_end_whole_sweeps(spool_root: Path, journal: Journal) -> None:
    """A sweep of everything ends although new folders never stop coming."""
    driver = swept(spool_root, journal)
    make_zip(spool_root / NAME)
    driver.intake.sweep_soon()
    for number in range(50):
        name = str(number)
        make_zip(spool_root / name / "x.zip")
        driver.intake.hint(name.encode(), is_folder=True)
        driver.intake.step(driver.now)
        if driver.sweeps == 2:
            break
    assert driver.sweeps == 2
    assert journal.latest(PATH) is not None
