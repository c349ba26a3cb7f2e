"""What lies in the folder and is not sent: counted, named, and bounded in memory."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from emitterd.codes import Code
from emitterd.intake.file_status import FileStatusReader, FolderState, skipped, undelivered
from emitterd.intake.not_sent import PATHS_MAX, NotSent
from emitterd.journal.journal import Journal
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection
from support.intake import IntakeDriver, names, swept
from support.zips import make_zip


def counts(driver: IntakeDriver) -> dict[str, int]:
    """Return what the intake counts, by code."""
    summary = driver.intake.not_sent()
    return {} if summary is None else {str(code): n for code, n in summary.counts.items()}


def test_everything_that_is_not_sent_is_counted(spool_root: Path, journal: Journal) -> None:
    """Links, also of folders, wrong endings and incomplete files; ignored files are not."""
    (spool_root / "pat").mkdir()
    (spool_root.parent / "elsewhere").mkdir()
    (spool_root / "sat").symlink_to("../elsewhere")
    (spool_root / "usb").symlink_to("/media/not/mounted")
    (spool_root / ".hidden").symlink_to("../elsewhere")
    make_zip(spool_root / "pat" / "A.ZIP")
    (spool_root / "pat" / "half.zip").write_bytes(b"PK\3\4")
    (spool_root / "pat" / "link.zip").symlink_to("A.ZIP")
    (spool_root / "pat" / "notes.txt").write_text("buy milk")
    (spool_root / "pat" / "notes").symlink_to("notes.txt")

    driver = IntakeDriver(spool_root, journal)
    events = driver.sweep()

    assert counts(driver) == {"E207": 3, "E223": 1, "E201": 1}
    assert events["not_sent"] == 5


def test_what_is_corrected_or_removed_counts_no_more(spool_root: Path, journal: Journal) -> None:
    """A path is dropped when it is gone, sent, or not found by the next whole sweep."""
    driver = swept(spool_root, journal)
    make_zip(spool_root / "pat" / "A.ZIP")
    (spool_root / "sat").symlink_to("pat")
    (spool_root / "pat" / "half.zip").write_bytes(b"PK\3\4")
    driver.sweep()
    assert counts(driver) == {"E207": 1, "E223": 1, "E201": 1}

    make_zip(spool_root / "pat" / "half.zip")
    assert names(driver.step(1, b"pat/half.zip")) == ["file.admitted"]
    (spool_root / "sat").unlink()
    driver.step(1, b"sat")
    assert counts(driver) == {"E223": 1}

    (spool_root / "pat" / "A.ZIP").unlink()
    assert driver.sweep()["not_sent"] == 0
    assert counts(driver) == {}


def test_more_paths_than_memory_may_hold_are_counted_only() -> None:
    """Beyond the bound nothing is kept or logged, but every path counts, in each sweep."""
    not_sent, logged = NotSent(), list[int]()
    paths = [str(number).encode() for number in range(PATHS_MAX + 7)]
    for _ in range(2):
        not_sent.begin_sweep()
        logged.append(sum(not_sent.add(path, Code.WRONG_ENDING) for path in paths))
        not_sent.end_sweep()
        summary = not_sent.summary()
        assert summary is not None
        assert summary.counts == {Code.WRONG_ENDING: PATHS_MAX + 7}
    assert logged == [PATHS_MAX, 0]
    not_sent.begin_sweep()
    not_sent.end_sweep()
    assert not_sent.summary() is None


@pytest.fixture
def reader(spool_root: Path, journal: Journal) -> FileStatusReader:
    """Look at a folder that excludes `lost+found/`."""
    selection = Selection(["**/*.zip"], ["lost+found/"])
    return FileStatusReader(Spool(spool_root), selection, journal.latest, 5.0)


def test_a_linked_folder_keeps_once_from_success(
    reader: FileStatusReader, spool_root: Path
) -> None:
    """It is listed with its true reason, and so is a file that is asked for behind it."""
    make_zip(spool_root.parent / "elsewhere" / "x.zip")
    (spool_root / "sat").symlink_to("../elsewhere")

    (status,) = undelivered(reader, [], {})

    assert (status.path, status.error) == (b"sat", "E207")
    assert status.record()["reason"].startswith("a link to a folder")
    assert [skip.path for skip in skipped(reader)] == [b"sat"]
    behind = reader.look_up(b"sat/x.zip")
    assert (behind.state, behind.reason) == (FolderState.UNSUITABLE, "its folder sat is a link")


def test_an_excluded_folder_is_not_read(reader: FileStatusReader, spool_root: Path) -> None:
    """Nothing in a folder that `exclude` names is looked at: it may be unreadable."""
    make_zip(spool_root / "lost+found" / "x.zip")
    assert undelivered(reader, [], {}) == []
    assert [skip.path for skip in skipped(reader)] == [b"lost+found/"]


def test_a_file_at_the_top_is_not_sent_and_the_log_says_where_it_belongs(
    spool_root: Path, journal: Journal
) -> None:
    """The hint names the one dataset folder that the name fits; otherwise the user chooses."""
    make_zip(spool_root / "school_mst.zip")
    make_zip(spool_root / "holiday.zip")

    driver = IntakeDriver(spool_root, journal)
    with capture_logs() as events:
        driver.intake.step(driver.now)
        driver.intake.step(driver.now)

    assert counts(driver) == {"E220": 2}
    hints = {event["path"]: event["hint"] for event in events if "hint" in event}
    assert hints["school_mst.zip"].endswith(f"{spool_root}/school_master/")
    assert hints["holiday.zip"].endswith(f"{spool_root}/DATASET/")
