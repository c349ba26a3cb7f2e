"""The files beside the journal: signs of a former one, moved files, foreign locks, links."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from conftest import Mount
from emitterd.errors import (
    JournalBusy,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalLost,
    JournalMoved,
)
from emitterd.journal.opening import open_journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.sqlite.connection import open_reader
from emitterd.journal.sqlite.recovery import rebuild
from emitterd.journal.sqlite.state_folder import Lock, next_to
from emitterd.journal.sqlite.store import SqliteStore
from support.journal import admission, admit, sqlite_store
from support.tiers import need

CRASHED = """
import os, sys
from pathlib import Path
from emitterd.journal.opening import open_journal
from support.journal import admission, admit
journal = open_journal(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    admit(journal, admission(b"pat/%d-%d.zip" % (os.getpid(), number)))
os._exit(0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


def crash(path: Path, entries: int = 3) -> None:
    """Leave what a process leaves that is killed after so many admissions."""
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-c", CRASHED, str(path), str(entries)]
    subprocess.run(command, env=environment, check=True)  # noqa: S603  our own argument list
    assert next_to(path, "-wal").stat().st_size


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of the journal and its log."""
    return {file.name: file.read_bytes() for file in folder.glob("journal.db*") if not lock(file)}


def lock(file: Path) -> bool:
    """Return whether a file is the lock, which each start writes."""
    return file.name.endswith(".lock")


def entries(path: Path) -> int:
    """Return how many entries the journal has."""
    with JournalReader(path) as reader:
        return len(list(reader.entries()))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 0)])
@pytest.mark.parametrize("sign", ["-wal", ".lock", ".ballast"])
def test_a_missing_or_empty_journal_beside_signs_of_one_is_refused(
    harm: Callable[[Path], None], sign: str, path: Path
) -> None:
    """One file of a former journal is enough to refuse; nothing is created or changed."""
    crash(path)
    harm(path)
    for suffix in {"-wal", "-shm", ".lock", ".ballast"} - {sign}:
        next_to(path, suffix).unlink(missing_ok=True)
    before = content(path.parent)

    for _ in range(2):
        for open_it in (SqliteStore, open_reader):
            with pytest.raises(JournalLost, match="there was one") as caught:
                open_it(path)
            assert str(next_to(path, sign)) in str(caught.value)
            assert "emitterd rebuild" in caught.value.remedy
    assert content(path.parent) == before


def test_a_header_without_tables_beside_the_lock_is_refused(path: Path) -> None:
    """An empty database that another program made in place of the journal is no first start."""
    SqliteStore(path).close()
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma page_size = 8192")
        connection.execute("vacuum")
    assert path.stat().st_size
    with pytest.raises(JournalLost):
        SqliteStore(path)


def test_a_first_start_that_was_killed_is_no_sign_of_a_journal(path: Path) -> None:
    """Only a start that made the journal leaves a sign in the lock file."""
    Lock(path).close()
    path.touch()
    SqliteStore(path).close()
    assert path.stat().st_size


def test_rebuild_saves_what_the_log_beside_a_lost_journal_has(path: Path) -> None:
    """The log has all entries until it is copied into the file for the first time."""
    crash(path, 3)
    path.unlink()
    report = rebuild(path)
    assert report is not None
    assert report.salvaged.entries == entries(path) == 3
    with open_journal(path) as journal:
        assert not journal.store.restored


def test_the_other_name_of_a_lost_journal_can_be_given_back(path: Path) -> None:
    """A refused start leaves everything so that the renamed journal fits again."""
    crash(path)
    away = path.rename(path.with_name("away"))
    with pytest.raises(JournalLost):
        SqliteStore(path)
    away.rename(path)
    assert entries(path) == 3


def replace(path: Path) -> None:
    """Put a copy in the place of a file."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize(
    "move", [Path.unlink, replace, lambda path: path.rename(path.with_name("away"))]
)
def test_nothing_is_recorded_in_a_journal_that_was_moved(
    move: Callable[[Path], None], suffix: str, path: Path
) -> None:
    """A commit fails once the file, or its log, is renamed, removed or replaced."""
    with open_journal(path) as journal:
        admit(journal, admission(b"pat/0.zip"))
        move(next_to(path, suffix))
        before = content(path.parent)
        with pytest.raises(JournalMoved, match="was moved, removed or replaced"):
            admit(journal, admission(b"pat/1.zip"))
        assert content(path.parent) == before


def test_a_renamed_journal_keeps_its_log(path: Path) -> None:
    """After the close, the renamed file and the log beside its place have every entry."""
    with open_journal(path) as journal:
        admit(journal, admission(b"pat/0.zip"))
        path.rename(path.with_name("away"))
    path.with_name("away").rename(path)
    assert entries(path) == 1


def test_a_foreign_lock_is_waited_for(path: Path) -> None:
    """It is reported once, and the next commit after its end goes on without a restart."""
    with (
        open_journal(path) as journal,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        sqlite_store(journal)._writer.execute("pragma busy_timeout = 50")
        other.execute("begin immediate")
        with capture_logs() as events:
            for _ in range(2):
                with pytest.raises(JournalBusy, match="another program"):
                    admit(journal, admission())
            assert journal.store.state.busy_since is not None
            other.execute("rollback")
            assert admit(journal, admission()) == ["admitted"]
        assert [event["event"] for event in events] == ["journal.busy", "journal.recovered"]
        assert journal.store.state.busy_since is None


def test_a_restored_journal_beside_a_newer_log_is_refused(path: Path) -> None:
    """SQLite would mix both; the restored file stays as it is."""
    crash(path, 1)
    open_journal(path).close()
    old = path.read_bytes()
    crash(path, 600)
    path.write_bytes(old)
    next_to(path, "-shm").unlink()
    before = content(path.parent)

    for open_it in (SqliteStore, open_reader):
        with pytest.raises(JournalLost, match="older than the log") as caught:
            open_it(path)
        assert str(next_to(path, "-wal")) in caught.value.remedy
    assert content(path.parent) == before

    next_to(path, "-wal").unlink()
    with open_journal(path) as journal:
        assert journal.store.restored
    assert entries(path) == 1


@pytest.mark.slow
def test_a_killed_process_leaves_no_sign_of_a_restored_journal(path: Path) -> None:
    """However often SQLite began the log again, its own file is never called older."""
    for size in (1, 700, 3, 1500, 1):
        crash(path, size)
        with open_journal(path) as journal:
            assert not journal.store.restored


def test_a_restored_older_journal_is_noted(path: Path) -> None:
    """The journal itself says when an older copy came back, for `status`."""
    open_journal(path).close()
    old = path.read_bytes()
    with open_journal(path) as journal:
        for number in range(3):
            admit(journal, admission(b"pat/%d.zip" % number))
        assert journal.read_fact("restored_at") is None
    path.write_bytes(old)
    with open_journal(path) as journal:
        assert journal.store.restored
        assert journal.read_fact("restored_at")
    with open_journal(path) as journal:
        assert not journal.store.restored


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("suffix", ["", ".lock", ".ballast"])
def test_no_file_of_the_folder_is_opened_through_a_link(
    link: Callable[[Path, Path], None], suffix: str, path: Path
) -> None:
    """A link in place of a file leads nowhere: its target keeps content and size."""
    target = path.with_name("target")
    target.write_bytes(b"precious")
    if suffix == ".ballast":
        SqliteStore(path).close()
    link(next_to(path, suffix), target)
    if suffix == ".ballast":
        SqliteStore(path).close()
    else:
        with pytest.raises(JournalError, match="link") as caught:
            SqliteStore(path)
        assert str(next_to(path, suffix)) in caught.value.remedy
    assert target.read_bytes() == b"precious"


def test_a_disk_without_a_free_inode_is_a_full_disk(tmp_path: Path, mount: Mount) -> None:
    """SQLite cannot create its log then, which passes: the exit code is not 78."""
    mount("-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", at=tmp_path)
    with pytest.raises(JournalFull, match="cannot create the files next to") as caught:
        open_journal(tmp_path / "journal.db")

    assert "inode" in caught.value.remedy
    mount("-o", "remount,nr_inodes=100", at=tmp_path)
    open_journal(tmp_path / "journal.db").close()


SHUT_DOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN: the file system fails like a disk that is gone. Source: linux/fs/ext4."""


def test_a_disk_that_fails_is_no_damaged_journal(tmp_path: Path, mount: Mount) -> None:
    """What reads like damage is called so only if a check of the file finds it."""
    need("mkfs.ext4")
    image, root = tmp_path / "image", tmp_path / "disk"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    program = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    subprocess.run([str(program), "-q", str(image)], check=True)  # noqa: S603  our own
    mount("-o", "loop", str(image), at=root)
    journal = open_journal(root / "journal.db")
    admit(journal, admission())
    fd = os.open(root, os.O_RDONLY)
    fcntl.ioctl(fd, SHUT_DOWN, (2).to_bytes(4, "little"))
    os.close(fd)

    with pytest.raises(JournalError) as caught:
        journal.read("pragma integrity_check")
    assert isinstance(caught.value, JournalIOError)
    journal.close()
