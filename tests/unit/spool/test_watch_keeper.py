"""The watch keeper: coverage of all folders, a root that comes back, file systems."""

import ctypes
import json
import logging
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from conftest import Mount, Python
from emitterd.spool.folder import Spool
from emitterd.spool.mounts import NETWORK, file_system
from emitterd.spool.watcher import WatchKeeper, watches
from support.waiting import wait_until
from support.zips import make_zip

DEADLINE_S = 30.0

START = """
import json, sys
from pathlib import Path
from structlog.testing import capture_logs
from emitterd.spool.watcher import WatchKeeper
from emitterd.spool.folder import Spool
spool = Spool(Path(sys.argv[1]))
keeper = WatchKeeper(spool, "auto", lambda *_: None, lambda: None)
with capture_logs() as events:
    keeper.start()
keeper.stop()
print(json.dumps([keeper.polling, events]))
"""


class WatchedRoot:
    """A watch keeper, the hints it gave and the sweeps it asked for."""

    def __init__(self, root: Path, kind: str = "inotify") -> None:
        self.root = root
        self.hinted: set[bytes] = set()
        self.rescans = 0
        self.keeper = WatchKeeper(
            Spool(root), kind, lambda path, _: self.hinted.add(path), self.rescan
        )

    def rescan(self) -> None:
        """Note that a sweep was asked for."""
        self.rescans += 1

    def check(self) -> list[EventDict]:
        """Let the watch keeper check the watch; return what it logged."""
        with capture_logs() as events:
            self.keeper.check()
        return events

    def wait_for_hint(self, name: str, deadline_s: float = DEADLINE_S) -> None:
        """Write a file and wait until its path, relative to the root, is hinted."""
        make_zip(self.root / name)
        wait_until(lambda: name.encode() in self.hinted, deadline_s, f"hint at {name}")


@pytest.fixture
def watched(spool_root: Path) -> Iterator[WatchedRoot]:
    """Watch the folder."""
    watched = WatchedRoot(spool_root)
    watched.keeper.start()
    yield watched
    watched.keeper.stop()


def names(events: list[EventDict]) -> list[str]:
    """Return the names of events."""
    return [event["event"] for event in events]


def test_hints_are_relative(watched: WatchedRoot) -> None:
    """A hint is a path below the root; a check without changes logs nothing."""
    watched.wait_for_hint("d/a.zip")
    assert watched.check() == []
    assert watched.rescans == 0


def test_started_is_logged(spool_root: Path) -> None:
    """One line says what is watched and how; nothing is degraded."""
    make_zip(spool_root / "d" / "e" / "a.zip")
    watched = WatchedRoot(spool_root)
    with capture_logs() as events:
        watched.keeper.start()
    watched.keeper.stop()
    assert events == [
        {
            "event": "watch.started",
            "log_level": "info",
            "watcher": "inotify",
            "path": str(spool_root),
        }
    ]


def test_root_that_is_created_later(tmp_path: Path) -> None:
    """Without a root the keeper reports it once, waits, and starts with the root."""
    watched = WatchedRoot(tmp_path / "late")
    with capture_logs() as events:
        watched.keeper.start()
    waiting = watched.check()
    watched.root.mkdir()
    there = watched.check()
    try:
        watched.wait_for_hint("a.zip")
    finally:
        watched.keeper.stop()

    assert names(events) == ["watch.root_lost"]
    assert waiting == []
    assert names(there) == ["watch.started", "watch.root_back"]
    assert watched.rescans == 1


def test_root_lost_and_back(watched: WatchedRoot) -> None:
    """A lost root is reported once; a root that is back is watched and swept."""
    watched.wait_for_hint("a.zip")
    shutil.rmtree(watched.root)
    (lost,) = watched.check()
    assert lost["event"] == "watch.root_lost"
    assert lost["error"] == "E105"
    assert lost["hint"]
    assert watched.check() == []
    assert watched.rescans == 0
    watched.root.mkdir()
    assert names(watched.check()) == ["watch.started", "watch.root_back"]
    assert watched.rescans == 1
    assert watched.check() == []
    watched.wait_for_hint("b.zip")


def test_root_replaced_between_two_checks(watched: WatchedRoot) -> None:
    """A folder that replaces the root is watched and swept."""
    watched.root.rename(watched.root.with_name("old"))
    watched.root.mkdir()
    assert names(watched.check()) == ["watch.started", "watch.root_back"]
    assert watched.rescans == 1
    watched.wait_for_hint("b.zip")


def test_root_recreated_between_two_checks(watched: WatchedRoot) -> None:
    """A recreated root is watched, even if it got the same inode."""
    before = watched.root.stat().st_ino
    watched.root.rmdir()
    watched.root.mkdir()
    if watched.root.stat().st_ino != before:
        pytest.skip("this file system does not use an inode again at once")
    wait_until(lambda: not watched.keeper._watcher.alive, DEADLINE_S, "the watch ends")
    watched.check()
    watched.wait_for_hint("b.zip", 1.0)


def test_overflow_asks_for_a_sweep(watched: WatchedRoot) -> None:
    """An overflow, which watchdog only logs, is reported and starts a sweep."""
    with capture_logs() as events:
        logging.getLogger("watchdog.observers.inotify_c").warning(
            "Inotify queue overflowed; filesystem events were lost"
        )
    assert names(events) == ["watch.overflow"]
    assert watched.rescans == 1


def test_polling_starts_no_observer(spool_root: Path) -> None:
    """With polling the keeper starts no thread and no watch."""
    watched = WatchedRoot(spool_root, "polling")
    threads, before = threading.active_count(), watches()
    with capture_logs() as events:
        watched.keeper.start()
    assert watched.keeper.polling
    assert [event["watcher"] for event in events] == ["polling"]
    assert threading.active_count() <= threads
    assert watches() <= before
    shutil.rmtree(spool_root)
    assert names(watched.check()) == ["watch.root_lost"]
    spool_root.mkdir()
    assert names(watched.check()) == ["watch.started", "watch.root_back"]
    assert watched.rescans == 1
    watched.keeper.stop()


@pytest.mark.system
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("max_inotify_watches", "6 of 21 folders are watched"),
        ("max_inotify_instances", "inotify instance limit reached"),
    ],
)
def test_limit_reached_is_reported(
    limit: str, reason: str, python: Python, spool_root: Path
) -> None:
    """If the kernel refuses watches, the log names the sysctl to set."""
    for number in range(20):
        (spool_root / str(number)).mkdir()
    value = 6 if limit.endswith("watches") else 0
    lowered = (
        f"unshare --user --map-root-user sh -ec"
        f' \'echo {value} > /proc/sys/user/{limit}; exec "$@"\' sh "$@"'
    )
    _, events = json.loads(python(START, spool_root, before=lowered, cwd=spool_root))
    degraded = events[0]
    assert degraded["event"] == "watch.degraded"
    assert degraded["reason"].startswith(reason)
    assert "sysctl fs.inotify.max_user_watches=" in degraded["hint"]


@pytest.mark.system
def test_auto_polls_a_network_file_system(python: Python, tmp_path: Path, spool_root: Path) -> None:
    """A file system that other machines can write to is only swept."""
    fake = tmp_path / "mountinfo"
    fake.write_text("1 0 0:1 / / rw - cifs //server/drop rw\n")
    network = (
        f"unshare --mount --map-root-user sh -ec 'mount --bind {fake}"
        ' /proc/$$/mountinfo; exec "$@"\' sh "$@"'
    )
    output = python(START, spool_root, before=network, cwd=spool_root)
    polling, (started,) = json.loads(output)
    assert polling
    assert started["reason"] == "file system cifs"


def umount(point: Path) -> None:
    """Unmount a file system of a test."""
    subprocess.run(["umount", str(point)], check=True)  # noqa: S603, S607


@pytest.mark.parametrize("kind", ["tmpfs", "parent", "bind"])
def test_unmounted_root_is_lost(kind: str, mount: Mount, tmp_path: Path) -> None:
    """The empty folder below a lost mount is not the root; mounted again, it is."""
    point, other = tmp_path / "point", tmp_path / "other"
    root = point / "drop" if kind == "parent" else point
    for folder in (root, other / "drop"):
        folder.mkdir(parents=True)
    how = ("--bind", str(other)) if kind == "bind" else ("-t", "tmpfs", "tmpfs")
    mount(*how, at=point)
    root.mkdir(exist_ok=True)
    spool = Spool(root)
    umount(point)
    assert spool.lost()
    mount("-t", "tmpfs", "tmpfs", at=tmp_path / "other")  # takes the device number
    mount(*how, at=point)
    root.mkdir(exist_ok=True)
    assert not spool.lost()


def test_root_that_was_lost_at_the_start(mount: Mount, spool_root: Path) -> None:
    """A root that was created later can be lost too."""
    shutil.rmtree(spool_root)
    spool = Spool(spool_root)
    assert spool.lost()
    spool_root.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=spool_root)
    assert not spool.lost()
    umount(spool_root)
    assert spool.lost()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/drop", "ext4"),
        ("/mnt/share/drop/deep", "cifs"),
        ("/mnt/shared", "ext4"),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/over/x", "nfs4"),
        ("/mnt/données/x", "nfs4"),
    ],
)
def test_file_system_of_a_path(path: str, kind: str, tmp_path: Path) -> None:
    """The nearest mount point counts; over an older mount, the later one."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"
        "2 1 0:5 / /mnt/share rw - cifs //server/share rw\n"
        "3 1 0:6 / /mnt/with\\040space rw - fuse.sshfs host: rw\n"
        "4 1 8:2 / /over rw - ext4 /dev/sdb rw\n"
        "5 4 0:7 / /over rw - nfs4 server:/ rw\n"
        "6 1 0:8 / /mnt/données rw - nfs4 server:/ rw\n"
    )
    found_kind = file_system(Path(path), table)
    assert found_kind == kind
    assert (found_kind in NETWORK) == (kind != "ext4")


def test_mount_point_that_is_not_utf_8(tmp_path: Path) -> None:
    """A mount whose name is not UTF-8 does not stop the daemon from starting."""
    table = tmp_path / "mountinfo"
    odd = os.fsencode("2 1 0:5 / /mnt/caf\udce9 rw - vfat /dev/sdc rw\n")
    table.write_bytes(b"1 0 8:1 / / rw - ext4 /dev/sda rw\n" + odd)
    assert file_system(Path("/srv"), table) == "ext4"


def test_no_mountinfo(tmp_path: Path) -> None:
    """Without mountinfo the file system is unknown."""
    assert file_system(Path("/srv"), tmp_path / "none") == "unknown"


@pytest.mark.system
def test_network_file_system_is_refused(python: Python, tmp_path: Path) -> None:
    """On `nfs4` no journal is created, and the error names the reason."""
    fake = tmp_path / "mountinfo"
    fake.write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    script = """
from pathlib import Path
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.errors import JournalError
try:
    SqliteStore(Path("state/journal.db"))
except JournalError as error:
    print(error, "|", error.remedy, "|", Path("state").exists())
"""
    output = python(
        script,
        before=f"unshare --mount --map-root-user sh -ec 'mount --bind {fake}"
        ' /proc/$$/mountinfo; exec "$@"\' sh "$@"',
        cwd=tmp_path,
    )
    reason, hint, made = output.strip().split(" | ")
    assert "network file system (nfs4)" in reason
    assert "local directory" in hint
    assert made == "False"


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[Path]:
    """Make a folder whose content is removed at the end: pytest removes no deep tree."""
    yield tmp_path
    for folder in ("root", "away"):
        subprocess.run(["rm", "-rf", str(tmp_path / folder)], check=True)  # noqa: S603, S607


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_folders_nested_a_thousand_deep_are_watched(when: str, trees: Path) -> None:
    """A tree that is deeper than Python's usual recursion limit does not end the watch."""
    (root := trees / "root").mkdir()
    deep = trees / "away" / "/".join(["d"] * 1000)
    subprocess.run(["mkdir", "-p", str(deep)], check=True)  # noqa: S603, S607
    watched = WatchedRoot(root)
    if when == "before the start":
        (trees / "away" / "d").rename(root / "d")
    with capture_logs() as events:
        watched.keeper.start()
    assert names(events) == ["watch.started"]
    if when == "while it runs":
        (trees / "away" / "d").rename(root / "d")
        wait_until(lambda: watches() > 1000, DEADLINE_S, "all is watched")
    deepest = b"/".join([b"d"] * 1000 + [b"x.zip"])
    (root / os.fsdecode(deepest)).touch()
    wait_until(lambda: deepest in watched.hinted, DEADLINE_S, "the deepest file is hinted")
    assert watched.check() == []
    watched.keeper.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_dies_is_restarted(watched: WatchedRoot) -> None:
    """The death of watchdog's reader is reported, and the watch and a sweep start again."""
    reader = watched.keeper._watcher._reader
    assert reader is not None
    assert reader.ident is not None
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(reader.ident), ctypes.py_object(ArithmeticError)
    )
    assert raised == 1
    make_zip(watched.root / "wakes.zip")
    wait_until(lambda: not reader.is_alive(), DEADLINE_S, "the reader dies")

    (event,) = watched.check()

    assert (event["event"], watched.keeper.degraded_since is None) == ("watch.degraded", False)
    restarted: list[EventDict] = []

    def restart() -> bool:
        restarted.extend(watched.check())
        return bool(restarted)

    wait_until(restart, DEADLINE_S, "the watch is restarted")
    assert names(restarted) == ["watch.started"]
    assert (watched.rescans, watched.keeper.degraded_since) == (1, None)
    make_zip(watched.root / "later.zip")
    wait_until(lambda: b"later.zip" in watched.hinted, DEADLINE_S, "events come again")


def test_without_a_free_descriptor_the_check_is_put_off(watched: WatchedRoot) -> None:
    """If the watches cannot be counted, nothing ends, and a later check counts them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    watched.keeper.folders_swept = 5
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            watches()
        assert watched.check() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert watched.keeper._folders_checked == 0
    watched.check()
    assert watched.keeper._folders_checked == 5


RUN_OUT = """
import json, sys
from pathlib import Path
from structlog.testing import capture_logs
from emitterd.spool.watcher import WatchKeeper, watches
from emitterd.spool.folder import Spool
root = Path(sys.argv[1])
keeper = WatchKeeper(Spool(root), "inotify", lambda *_: None, lambda: None)
with capture_logs() as events:
    keeper.start()
    for number in range(20):
        (root / str(number)).mkdir()
    while watches() < 6:
        pass
    keeper.folders_swept = 20
    keeper.check()
    keeper.folders_swept = 21
    keeper.check()
print(json.dumps(events))
"""


@pytest.mark.system
def test_limit_that_is_reached_while_running_is_reported(python: Python, spool_root: Path) -> None:
    """If the kernel refuses a watch later, the next sweep finds and reports that, once."""
    lowered = (
        "unshare --user --map-root-user sh -ec"
        ' \'echo 6 > /proc/sys/user/max_inotify_watches; exec "$@"\' sh "$@"'
    )
    events = json.loads(python(RUN_OUT, spool_root, before=lowered, cwd=spool_root))
    assert names(events) == ["watch.started", "watch.degraded"]
    assert events[1]["reason"].startswith("6 of 21 folders are watched")
