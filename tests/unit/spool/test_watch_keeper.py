"""Keeping the watch in place: coverage, a root that comes back, file systems."""

import json
import logging
import os
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
from support.waiting import make_zip, wait_until

DEADLINE_S = 30.0

START = """
import json, sys
from pathlib import Path
from structlog.testing import capture_logs
from emitterd.spool.watcher import WatchKeeper
from emitterd.spool.folder import Spool
lookout = WatchKeeper(Spool(Path(sys.argv[1])), "auto", lambda *_: None, lambda: None)
with capture_logs() as events:
    lookout.start()
lookout.stop()
print(json.dumps([lookout.polling, events]))
"""


class Post:
    """A lookout with what it told and asked for."""

    def __init__(self, root: Path, kind: str = "inotify") -> None:
        self.root = root
        self.told: set[bytes] = set()
        self.rescans = 0
        self.lookout = WatchKeeper(
            Spool(root), kind, lambda path, _: self.told.add(path), self.rescan
        )

    def rescan(self) -> None:
        """Note that a sweep was asked for."""
        self.rescans += 1

    def beat(self) -> list[EventDict]:
        """Let the lookout look; return what it logged."""
        with capture_logs() as events:
            self.lookout.beat()
        return events

    def sees(self, name: str, deadline_s: float = DEADLINE_S) -> None:
        """Write a file and wait until it is told, relative to the root."""
        make_zip(self.root / name)
        wait_until(lambda: name.encode() in self.told, deadline_s, f"hint at {name}")


@pytest.fixture
def post(spool_root: Path) -> Iterator[Post]:
    """Watch the folder."""
    post = Post(spool_root)
    post.lookout.start()
    yield post
    post.lookout.stop()


def names(events: list[EventDict]) -> list[str]:
    """Return the names of events."""
    return [event["event"] for event in events]


def test_hints_are_relative(post: Post) -> None:
    """A file is told by its path below the root; an idle beat says nothing."""
    post.sees("d/a.zip")
    assert post.beat() == []
    assert post.rescans == 0


def test_started_is_logged(spool_root: Path) -> None:
    """One line says what is watched and how; nothing is degraded."""
    make_zip(spool_root / "d" / "e" / "a.zip")
    post = Post(spool_root)
    with capture_logs() as events:
        post.lookout.start()
    post.lookout.stop()
    assert events == [
        {
            "event": "watch.started",
            "log_level": "info",
            "watcher": "inotify",
            "path": str(spool_root),
        }
    ]


def test_root_that_comes_later(tmp_path: Path) -> None:
    """Without a root it waits, tells so once, and begins when there is one."""
    post = Post(tmp_path / "late")
    with capture_logs() as events:
        post.lookout.start()
    waiting = post.beat()
    post.root.mkdir()
    there = post.beat()
    try:
        post.sees("a.zip")
    finally:
        post.lookout.stop()

    assert names(events) == ["watch.root_lost"]
    assert waiting == []
    assert names(there) == ["watch.started", "watch.root_back"]
    assert post.rescans == 1


def test_root_lost_and_back(post: Post) -> None:
    """A lost root is said once; when it is back it is watched, and swept."""
    post.sees("a.zip")
    shutil.rmtree(post.root)
    (lost,) = post.beat()
    assert lost["event"] == "watch.root_lost"
    assert lost["error"] == "E105"
    assert lost["hint"]
    assert post.beat() == []
    assert post.rescans == 0
    post.root.mkdir()
    assert names(post.beat()) == ["watch.started", "watch.root_back"]
    assert post.rescans == 1
    assert post.beat() == []
    post.sees("b.zip")


def test_root_replaced_between_two_beats(post: Post) -> None:
    """Another folder in the root's place is watched, and swept."""
    post.root.rename(post.root.with_name("old"))
    post.root.mkdir()
    assert names(post.beat()) == ["watch.started", "watch.root_back"]
    assert post.rescans == 1
    post.sees("b.zip")


def test_root_recreated_between_two_beats(post: Post) -> None:
    """A root removed and made anew is watched, even where it got the same inode."""
    before = post.root.stat().st_ino
    post.root.rmdir()
    post.root.mkdir()
    if post.root.stat().st_ino != before:
        pytest.skip("this file system does not use an inode again at once")
    wait_until(lambda: not post.lookout._watcher.alive, DEADLINE_S, "the watch ends")
    post.beat()
    post.sees("b.zip", 1.0)


def test_overflow_asks_for_a_sweep(post: Post) -> None:
    """What watchdog only logs of an overflow is told, and swept after."""
    with capture_logs() as events:
        logging.getLogger("watchdog.observers.inotify_c").warning(
            "Inotify queue overflowed; filesystem events were lost"
        )
    assert names(events) == ["watch.overflow"]
    assert post.rescans == 1


def test_polling_starts_no_observer(spool_root: Path) -> None:
    """Where sweeps are all there is, no thread and no watch is made."""
    post = Post(spool_root, "polling")
    threads, before = threading.active_count(), watches()
    with capture_logs() as events:
        post.lookout.start()
    assert post.lookout.polling
    assert [event["watcher"] for event in events] == ["polling"]
    assert threading.active_count() <= threads
    assert watches() <= before
    shutil.rmtree(spool_root)
    assert names(post.beat()) == ["watch.root_lost"]
    spool_root.mkdir()
    assert names(post.beat()) == ["watch.started", "watch.root_back"]
    assert post.rescans == 1
    post.lookout.stop()


@pytest.mark.system
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("max_inotify_watches", "6 of 21 folders are watched"),
        ("max_inotify_instances", "inotify instance limit reached"),
    ],
)
def test_limit_reached_is_told(
    limit: str, reason: str, python: Python, spool_root: Path
) -> None:
    """Where the kernel refuses watches it is said, with the sysctl to set."""
    for number in range(20):
        (spool_root / str(number)).mkdir()
    value = 6 if limit.endswith("watches") else 0
    lowered = (
        f"unshare --user --map-root-user sh -ec"
        f' \'echo {value} > /proc/sys/user/{limit}; exec "$@"\' sh "$@"'
    )
    said = json.loads(python(START, spool_root, before=lowered, cwd=spool_root))
    degraded = said[1][0]
    assert degraded["event"] == "watch.degraded"
    assert degraded["reason"].startswith(reason)
    assert "sysctl fs.inotify.max_user_watches=" in degraded["hint"]


@pytest.mark.system
def test_auto_polls_a_network_file_system(
    python: Python, tmp_path: Path, spool_root: Path
) -> None:
    """Where the kernel says that another machine may write, sweeps are all there is."""
    fake = tmp_path / "mountinfo"
    fake.write_text("1 0 0:1 / / rw - cifs //server/drop rw\n")
    network = (
        f"unshare --mount --map-root-user sh -ec 'mount --bind {fake}"
        ' /proc/$$/mountinfo; exec "$@"\' sh "$@"'
    )
    said = python(START, spool_root, before=network, cwd=spool_root)
    polling, (started,) = json.loads(said)
    assert polling
    assert started["reason"] == "file system cifs"


def umount(point: Path) -> None:
    """Unmount what a test mounted."""
    subprocess.run(["umount", str(point)], check=True)  # noqa: S603, S607


@pytest.mark.parametrize("kind", ["tmpfs", "parent", "bind"])
def test_unmounted_root_is_lost(kind: str, mount: Mount, tmp_path: Path) -> None:
    """The empty folder below a lost mount is not the root; mounted anew, it is."""
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
    """A root that came later can be lost as well."""
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
    found = file_system(Path(path), table)
    assert found == kind
    assert (found in NETWORK) == (kind != "ext4")


def test_mount_point_that_is_not_utf_8(tmp_path: Path) -> None:
    """Somebody's oddly named mount does not keep the daemon from starting."""
    table = tmp_path / "mountinfo"
    odd = os.fsencode("2 1 0:5 / /mnt/caf\udce9 rw - vfat /dev/sdc rw\n")
    table.write_bytes(b"1 0 8:1 / / rw - ext4 /dev/sda rw\n" + odd)
    assert file_system(Path("/srv"), table) == "ext4"


def test_no_mountinfo(tmp_path: Path) -> None:
    """Where the kernel does not say, the file system is unknown."""
    assert file_system(Path("/srv"), tmp_path / "none") == "unknown"


@pytest.mark.system
def test_network_file_system_is_refused(python: Python, tmp_path: Path) -> None:
    """Where the kernel says `nfs4`, the journal is not made, and the reason is told."""
    fake = tmp_path / "mountinfo"
    fake.write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    script = """
from pathlib import Path
from emitterd.journal.database import Database
from emitterd.errors import JournalError
try:
    Database(Path("state/journal.db"))
except JournalError as error:
    print(error, "|", error.hint, "|", Path("state").exists())
"""
    said = python(
        script,
        before=f"unshare --mount --map-root-user sh -ec 'mount --bind {fake}"
        ' /proc/$$/mountinfo; exec "$@"\' sh "$@"',
        cwd=tmp_path,
    )
    reason, hint, made = said.strip().split(" | ")
    assert "network file system (nfs4)" in reason
    assert "local directory" in hint
    assert made == "False"
