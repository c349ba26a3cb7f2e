"""When a file counts as closed and whole, by what its file system can prove."""

import fcntl
import io
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from conftest import Mount
from emitterd.intake.file_status import FileStatusReader, FolderState
from emitterd.journal.journal import Journal
from emitterd.journal.work import Execute
from emitterd.model import State
from emitterd.spool.folder import LeaseState, Spool
from emitterd.spool.selection import Selection
from support.intake import NAME, PATH, IntakeDriver, names, swept
from support.tiers import need
from support.waiting import wait_until
from support.zips import make_zip, zip_bytes


@pytest.fixture
def driver(spool_root: Path, journal: Journal) -> IntakeDriver:
    """Drive an intake that looks for findings only where no lease proves anything."""
    return swept(spool_root, journal)


def with_a_hole(size_bytes: int = 400_000) -> bytes:
    """Return a zip whose middle was not written yet, as segmented copies leave it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", os.urandom(size_bytes // 2).hex())
    data = bytearray(target.getvalue())
    data[len(data) // 2 : len(data) // 2 + 1000] = bytes(1000)
    return bytes(data)


def test_a_hole_is_found_where_no_lease_proves_anything(driver: IntakeDriver) -> None:
    """Both ends of the zip are there and it is quiet, but its content is incomplete: E201."""
    driver.spool.trusts_leases = False
    path = driver.root / NAME
    path.parent.mkdir()
    path.write_bytes(with_a_hole())

    assert driver.step(1, PATH) == []
    (event,) = driver.step(5)
    assert event["error"] == "E201"
    make_zip(path)
    assert driver.step(1, PATH) == []
    assert names(driver.step(5)) == ["file.admitted"]


def test_quiet_trusts_no_lease(driver: IntakeDriver) -> None:
    """With `spool.completion: quiet` each file waits for `spool.settle`."""
    make_zip(driver.root / NAME)
    driver.spool.trusts_leases = False

    assert driver.step(1, PATH) == []
    assert names(driver.step(5)) == ["file.admitted"]


def test_a_file_under_a_lease_of_another_program_is_being_written(driver: IntakeDriver) -> None:
    """Samba holds a lease for an SMB client: the file waits, and is not unreadable."""
    path = make_zip(driver.root / NAME)
    with path.open("ab") as samba:
        fcntl.fcntl(samba, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert driver.step(1, PATH) == []
        assert PATH in driver.examiner.tracker
    assert names(driver.step(30)) == ["file.admitted"]


class Late(Spool):
    """A spool in which a writer comes right after the first lease."""

    writer: io.BufferedWriter | None = None

    def lease(self, file: io.FileIO) -> LeaseState:
        """Ask, and let the writer come."""
        state = super().lease(file)
        if self.writer is None:
            self.writer = (self.root / NAME).open("wb")
        return state


def test_a_writer_between_lease_and_look_is_not_an_incomplete_file(spool_root: Path) -> None:
    """Half of a new version is reported as being written, not as E201."""
    make_zip(spool_root / NAME)
    spool = Late(spool_root)
    reader = FileStatusReader(spool, Selection(["**/*.zip"], []), lambda _: None, 5.0)
    status = reader.look_up(PATH)

    assert spool.writer is not None
    spool.writer.close()
    assert status.state is FolderState.WRITTEN


def test_inodes_that_change_are_no_new_version(driver: IntakeDriver) -> None:
    """FUSE numbers files anew, and a remount changes the device: nothing is admitted again."""
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    driver.journal.store.write(Execute("update entry set device = 7, inode = inode + 1"))

    assert driver.step(1, PATH) == []
    assert driver.sweep()["admitted"] == 0
    assert sum(driver.journal.counts().values()) == 1


def test_permissions_of_a_waiting_file_change(driver: IntakeDriver) -> None:
    """The entry keeps its place, its grant and its attempts."""
    path = make_zip(driver.root / NAME)
    driver.step(1, PATH)
    driver.journal.store.write(Execute("update entry set attempts = 3"))
    path.chmod(0o604)

    assert driver.step(1, PATH) == []
    (row,) = driver.journal.read("select state, attempts, ctime_ns from entry")
    assert row == (State.QUEUED, 3, path.stat().st_ctime_ns)


def test_a_file_that_changes_in_each_upload_waits_longer_each_time(driver: IntakeDriver) -> None:
    """The first change is admitted at once; then the waits grow, and an alarm names the file."""
    make_zip(driver.root / NAME)
    driver.intake.changed(PATH)
    driver.now = time.monotonic()
    assert "file.admitted" in names(driver.step())
    for _ in range(3):
        driver.intake.changed(PATH)
    make_zip(driver.root / NAME, b"again")

    (event,) = driver.step()
    assert event["error"] == "E204"
    not_sent = driver.intake.not_sent()
    assert not_sent is not None
    assert not_sent.counts == {"E204": 1}
    assert "file.admitted" in names(driver.step(5))


def loop_mount(mount: Mount, root: Path, image: Path, *make: str) -> None:
    """Mount a new file system of 4 MiB at the watched folder."""
    with image.open("wb") as file:
        file.truncate(4 * 2**20)
    need(make[0])
    program = shutil.which(make[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    subprocess.run([str(program), *make[1:], str(image)], capture_output=True, check=True)  # noqa: S603
    mount("-o", "loop", str(image), at=root)


def lease(root: Path) -> LeaseState:
    """Return what a lease proves about the file."""
    spool = Spool(root)
    with spool.open(PATH) as file:
        return spool.lease(file)


def test_leases_prove_nothing_on_other_file_systems(mount: Mount, spool_root: Path) -> None:
    """Where the type is not on the list, leases are not asked, written or not."""
    mount("-t", "ramfs", "ramfs", at=spool_root)
    path = make_zip(spool_root / NAME)
    assert lease(spool_root) is LeaseState.NONE
    with path.open("ab"):
        assert lease(spool_root) is LeaseState.NONE


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_leases_prove_on_local_file_systems(
    mount: Mount, spool_root: Path, tmp_path: Path, kind: str
) -> None:
    """A writer through the same mount is seen, also of a file in the lower layer of an overlay."""
    if kind == "overlay":
        layers = tmp_path / "layers"
        layers.mkdir()
        mount("-t", "tmpfs", "tmpfs", at=layers)
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir()
        make_zip(layers / "lower" / NAME)
        places = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
        mount("-t", "overlay", "-o", places, "overlay", at=spool_root)
    else:
        mount("-t", "tmpfs", "tmpfs", at=spool_root)
        make_zip(spool_root / NAME)
    with (spool_root / NAME).open("ab"):
        assert lease(spool_root) is LeaseState.OPEN
    assert lease(spool_root) is LeaseState.CLOSED


@pytest.mark.slow
def test_two_versions_within_a_second_on_a_coarse_file_system(
    mount: Mount, spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """With stamps of whole seconds a file waits until another write would change them."""
    loop_mount(mount, spool_root, tmp_path / "image", "mkfs.ext4", "-q", "-I", "128")
    driver = swept(spool_root, journal)
    path = make_zip(driver.root / NAME, b"first")
    assert path.stat().st_ctime_ns % 10**9 == 0
    assert driver.step(1, PATH) == []
    path.write_bytes(zip_bytes(b"other"))

    events = wait_until(lambda: driver.step(3), 10, "the admission")
    assert names(events) == ["file.admitted"]
    (stamp,) = journal.read("select ctime_ns, admitted_at from entry")
    assert stamp[1] >= stamp[0] / 1e9 + 2.0
