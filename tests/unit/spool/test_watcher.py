"""Events of the watched folder, from the kernel's own inotify; hints and sweeps."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask

from emitterd.journal.journal import Journal
from emitterd.model import State
from emitterd.spool.watcher import Watcher, WatchGroup, watch_limit, watches
from support.intake import NAME, PATH, SWEEP_S, IntakeDriver, names, swept
from support.journal import sqlite_store
from support.waiting import wait_until
from support.zips import make_zip

DEADLINE_S = 30.0

OVERFLOW = """
import sys
from pathlib import Path
from emitterd.spool.watcher import Watcher
say = lambda: print("overflow", flush=True)
watcher = Watcher(Path(sys.argv[1]), lambda path, is_folder: None, say)
watcher.start()
print("ready", flush=True)
sys.stdin.read()
"""


class Hints:
    """The hints and overflows of a watcher."""

    def __init__(self) -> None:
        self.received: set[tuple[bytes, bool]] = set()
        self.overflows = 0

    def hint(self, path: bytes, is_folder: bool) -> None:  # noqa: FBT001  as it is called
        """Note a hint."""
        self.received.add((path, is_folder))

    def overflow(self) -> None:
        """Note an overflow."""
        self.overflows += 1

    def wait_for(self, path: Path, *, is_folder: bool = False) -> None:
        """Wait until a path is hinted."""
        wanted = (os.fsencode(path), is_folder)
        wait_until(lambda: wanted in self.received, DEADLINE_S, f"a hint at {path}")


@pytest.fixture
def hints() -> Hints:
    """Collect hints."""
    return Hints()


@pytest.fixture
def watcher(spool_root: Path, hints: Hints) -> Iterator[Watcher]:
    """Watch the folder, in which there is one folder already."""
    (spool_root / "d").mkdir()
    watcher = Watcher(spool_root, hints.hint, hints.overflow)
    watcher.start()
    yield watcher
    watcher.stop()


def write(root: Path) -> Path:
    """Write a file in one go."""
    return make_zip(root / "d" / "a.zip")


def rename(root: Path) -> Path:
    """Write under another name, then rename, as careful producers do."""
    return make_zip(root / "d" / "a.part").rename(root / "d" / "a.zip")


def move_in(root: Path) -> Path:
    """Move a file in from elsewhere."""
    return make_zip(root.parent / "a.zip").rename(root / "a.zip")


def link_in(root: Path) -> Path:
    """Link a file in from elsewhere."""
    (root / "a.zip").hardlink_to(make_zip(root.parent / "a.zip"))
    return root / "a.zip"


def odd_name(root: Path) -> Path:
    """Write a file whose name is not UTF-8, and has a line in it."""
    return make_zip(root / os.fsdecode(b"caf\xe9\n.zip"))


@pytest.fixture
def group(spool_root: Path) -> Iterator[WatchGroup]:
    """Watch the folder for new folders."""
    reader = InotifyFD()
    reader.start()
    mask = Mask(InotifyConstants.IN_CREATE)
    group = WatchGroup(reader, os.fsencode(spool_root), is_recursive=True, event_mask=mask)
    yield group
    group.deactivate()
    reader.stop()
    reader.join()


@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
def test_a_folder_that_is_watched_is_not_walked_through_again(
    group: WatchGroup, spool_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late events of folders that were found with their parent cost no walk of their own."""
    depth, listed, scandir = 50, [], os.scandir
    (spool_root / "/".join(["d"] * depth)).mkdir(parents=True)
    watched = group._active_callbacks_by_path
    wait_until(lambda: len(watched) > depth, DEADLINE_S, "all is watched")

    def counted(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        listed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for level in range(depth):
        wd = watched[os.fsencode(spool_root) + b"/d" * level]
        mask = Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_ISDIR)
        group.on_event(InotifyEvent(wd, mask, 0, b"d"))

    # The events of the kernel may still be read meanwhile.
    assert len(listed) <= 2 * depth
    # The text for a folder that is registered twice must not name all watches.
    assert len(repr(group)) < 100 + len(str(spool_root))


@pytest.mark.usefixtures("watcher")
@pytest.mark.parametrize("how", [write, rename, move_in, link_in, odd_name])
def test_new_file_is_reported(how: Callable[[Path], Path], spool_root: Path, hints: Hints) -> None:
    """Every way to create a file gives a hint with its path in bytes."""
    hints.wait_for(how(spool_root))


@pytest.mark.usefixtures("watcher")
def test_end_of_writing_is_reported(spool_root: Path, hints: Hints) -> None:
    """A file gives another hint when it is closed, also an old file."""
    with (spool_root / "a.zip").open("wb") as file:
        hints.wait_for(spool_root / "a.zip")
        file.write(b"x")
        file.flush()
        hints.received.clear()
    hints.wait_for(spool_root / "a.zip")


@pytest.mark.usefixtures("watcher")
@pytest.mark.parametrize("to", ["new", "d/new"])
def test_folder_moved_in_is_reported(to: str, spool_root: Path, hints: Hints) -> None:
    """A folder that is moved in gives one hint; each later file gives its own."""
    make_zip(spool_root.parent / "new" / "a.zip")
    (spool_root.parent / "new").rename(spool_root / to)
    hints.wait_for(spool_root / to, is_folder=True)
    hints.wait_for(make_zip(spool_root / to / "b.zip"))


@pytest.mark.usefixtures("watcher")
def test_folder_renamed_is_reported(spool_root: Path, hints: Hints) -> None:
    """A renamed folder gives a hint with its new name, and is still watched."""
    (spool_root / "d").rename(spool_root / "e")
    hints.wait_for(spool_root / "e", is_folder=True)
    hints.wait_for(make_zip(spool_root / "e" / "b.zip"))


def test_files_of_a_folder_that_is_renamed_are_no_hints(
    watcher: Watcher, spool_root: Path, hints: Hints
) -> None:
    """The folder is the one hint: a large one that is renamed often delays no other hint."""
    make_zip(spool_root / "d" / "a.zip")
    hints.wait_for(spool_root / "d" / "a.zip")
    (spool_root / "d").rename(spool_root / "e")
    hints.wait_for(spool_root / "e", is_folder=True)
    hints.wait_for(make_zip(spool_root / "later.zip"))

    assert (os.fsencode(spool_root / "e" / "a.zip"), False) not in hints.received
    assert watcher.alive


@pytest.mark.usefixtures("watcher")
def test_folders_made_and_filled_at_once(spool_root: Path, hints: Hints) -> None:
    """The top folder of each of 50 trees gives a hint, although inotify loses some below."""
    for number in range(50):
        make_zip(spool_root / str(number) / "a" / "b" / "x.zip")
    for number in range(50):
        hints.wait_for(spool_root / str(number), is_folder=True)


@pytest.mark.slow
def test_overflow_is_reported(spool_root: Path) -> None:
    """A watcher that was stopped during 20 000 events reports an overflow."""
    with subprocess.Popen(  # noqa: S603  our own script
        [sys.executable, "-c", OVERFLOW, str(spool_root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        a, b = spool_root / "a", spool_root / "b"
        a.touch()
        limit = Path("/proc/sys/fs/inotify/max_queued_events")
        for _ in range(int(limit.read_text()) // 4 + 1000):
            a.rename(b)
            b.rename(a)
        process.send_signal(signal.SIGCONT)
        try:
            assert process.stdout.readline() == b"overflow\n"
        finally:
            process.kill()


def test_root_removed(watcher: Watcher, spool_root: Path) -> None:
    """The watcher ends with the root, and can be stopped and started again."""
    assert watcher.alive
    (spool_root / "d").rmdir()
    spool_root.rmdir()
    wait_until(lambda: not watcher.alive, DEADLINE_S, "the watcher ends")
    watcher.stop()
    spool_root.mkdir()
    watcher.start()
    assert watcher.alive


def test_stopped_watcher_leaves_nothing(watcher: Watcher, spool_root: Path) -> None:
    """A stop, also a second one, ends the threads, the watches and the hints."""
    assert watches() >= 2
    watcher.stop()
    watcher.stop()
    assert not watcher.alive
    wait_until(lambda: watches() == 0, DEADLINE_S, "no watch is left")
    make_zip(spool_root / "a.zip")


def test_no_root(tmp_path: Path, hints: Hints) -> None:
    """Without a root there is nothing to watch, and no thread is left."""
    before = threading.active_count()
    watcher = Watcher(tmp_path / "none", hints.hint, hints.overflow)
    with pytest.raises(OSError, match="No such file"):
        watcher.start()
    assert not watcher.alive
    watcher.stop()
    wait_until(lambda: threading.active_count() <= before, DEADLINE_S, "threads end")


def test_watches_are_counted(watcher: Watcher, spool_root: Path, hints: Hints) -> None:
    """The count follows the folders that are watched."""
    before = watches()
    assert watcher.alive
    for number in range(5):
        (spool_root / str(number)).mkdir()
        hints.wait_for(spool_root / str(number), is_folder=True)
    wait_until(lambda: watches() == before + 5, DEADLINE_S, "five watches more")


def test_watch_limit(tmp_path: Path) -> None:
    """The kernel's limit is read; without a readable file it is unknown."""
    assert (watch_limit() or 0) > 0
    assert watch_limit(tmp_path) is None
    (tmp_path / "max_user_watches").write_text("many\n")
    assert watch_limit(tmp_path) is None


@pytest.mark.slow
def test_hint_is_served_during_a_long_sweep(spool_root: Path, journal: Journal) -> None:
    """A sweep of 12000 new files runs in slices, and a hint is served in between."""
    driver = swept(spool_root, journal)
    first = make_zip(driver.root / "many" / "0.zip")
    for number in range(1, 12000):
        first.with_name(f"{number}.zip").hardlink_to(first)
    driver.intake.sweep_soon()
    driver.step()
    assert driver.sweeps == 1
    make_zip(driver.root / NAME)
    events = driver.step(0, PATH)
    assert events[0]["path"] == NAME
    assert driver.sweeps == 1
    while driver.sweeps == 1:
        driver.step()
    assert driver.journal.counts()[State.QUEUED] == 12001


@pytest.mark.slow
def test_hint_is_served_while_a_folder_moves_in(spool_root: Path, journal: Journal) -> None:
    """A new folder of 12000 files is swept in slices too."""
    driver = swept(spool_root, journal)
    first = make_zip(driver.root / "many" / "0.zip")
    for number in range(1, 12000):
        first.with_name(f"{number}.zip").hardlink_to(first)
    driver.intake.hint(b"many", is_folder=True)
    driver.step()
    assert 0 < driver.journal.counts()[State.QUEUED] < 12000
    make_zip(driver.root / NAME)
    events = driver.step(0, PATH)
    assert events[0]["path"] == NAME
    while driver.journal.counts()[State.QUEUED] < 12001:
        driver.step()
    assert driver.sweeps == 1


def test_storm_on_one_file_is_one_look(spool_root: Path, journal: Journal) -> None:
    """Ten thousand hints at a path cost one query of the journal."""
    driver = swept(spool_root, journal)
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    asked: list[str] = []
    sqlite_store(driver.journal)._reader.set_trace_callback(asked.append)
    driver.step(1, *[PATH] * 10_000)
    sqlite_store(driver.journal)._reader.set_trace_callback(None)
    assert len(asked) == 1


def test_missed_is_what_only_a_later_sweep_found(
    tmp_path: Path, spool_root: Path, journal: Journal
) -> None:
    """A file is missed if a later sweep finds it without a hint, and it is not new."""
    driver = swept(spool_root, journal)
    for name in "abcd":
        make_zip(tmp_path / name / "x.zip")
    age = (tmp_path / "d" / "x.zip").stat().st_ctime
    wait_until(lambda: time.time() > age + 2.1, DEADLINE_S, "the files are not young")

    def come(name: str) -> None:
        (tmp_path / name).rename(driver.root / name)

    come("a")
    assert IntakeDriver(driver.root, journal).sweep()["missed"] == 0
    come("b")
    driver.intake.sweep_soon()
    (_, missed) = driver.step()
    assert (missed["event"], missed["log_level"]) == ("watch.missed", "warning")
    assert (missed["count"], missed["path"]) == (1, "b/x.zip")
    come("c")
    driver.intake.hint(b"c", is_folder=True)
    assert driver.sweep()["missed"] == 0
    make_zip(driver.root / "a" / "young.zip")
    young = driver.sweep()
    assert (young["admitted"], young["missed"]) == (1, 0)
    driver.intake.expects_events = False
    come("d")
    polled = driver.sweep()
    assert (polled["admitted"], polled["missed"]) == (1, 0)


def test_lost_root(spool_root: Path, journal: Journal) -> None:
    """While the root is lost nothing changes; when it is back it is swept."""
    driver = swept(spool_root, journal)
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    away = driver.root.rename(driver.root.with_name("away"))
    assert driver.step(SWEEP_S, PATH, b"pat/x.zip") == []
    assert driver.sweeps == 1
    make_zip(away / "pat" / "x.zip")
    away.rename(driver.root)
    assert names(driver.step(SWEEP_S)) == ["file.admitted"]
    assert driver.journal.counts()[State.QUEUED] == 2
