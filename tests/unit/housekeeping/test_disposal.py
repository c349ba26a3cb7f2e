"""What happens to a file whose version ended: kept, moved or deleted, never lost."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from conftest import NOBODY, Mount, Python, SmallDisk
from emitterd.codes import Code
from emitterd.datasets.findings import Finding
from emitterd.errors import Decision, DeliveryError, JournalFull
from emitterd.housekeeping.disposal import MOVERS, Disposal, DisposalRule
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.rows import Admission
from emitterd.journal.work import Execute
from emitterd.model import Entry, Fingerprint, State
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from emitterd.text import display, iso
from support.crashes import MEMORY
from support.intake import NAME, PATH, SWEEP_S, names, swept
from support.journal import deliver, receipt
from support.paths import TESTS
from support.zips import make_zip, zip_bytes


class Outbox:
    """A folder, its journal and its rule."""

    def __init__(self, root: Path, journal: Journal, archive: Path | None) -> None:
        self.root = root
        self.journal = journal
        self.disposal = Disposal(
            Spool(root), journal, DisposalRule(archive, delete=archive is None)
        )

    def delivered(self, name: str = "pat/a.zip") -> Entry:
        """Write a file and record that it was delivered and is to be disposed of."""
        stat = make_zip(self.root / name).stat()
        path = os.fsencode(name)
        self.journal.admit([Admission(path, Fingerprint.of(stat), "pat", 0)])
        entry = self.journal.claim(stat.st_mtime)
        assert entry is not None
        proof = receipt(hashlib.sha256(zip_bytes()).digest())
        self.journal.deliver(entry, proof, duration_s=1.0, dispose=True)
        return entry

    def dispose(self, entry: Entry) -> list[EventDict]:
        """Dispose of a file; return what was logged."""
        with capture_logs() as events:
            self.disposal.dispose(entry.id, entry.path, entry.fingerprint)
        return events

    def due(self, entry: Entry) -> bool:
        """Return whether it is still to be done."""
        known = self.journal.latest(entry.path)
        assert known is not None
        return known.disposal == "due"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Name the archive; it is made when it is needed."""
    return tmp_path / "archive"


@pytest.fixture
def mover(spool_root: Path, journal: Journal, archive: Path) -> Outbox:
    """Archive what was delivered."""
    return Outbox(spool_root, journal, archive)


@pytest.fixture
def shredder(spool_root: Path, journal: Journal) -> Outbox:
    """Delete what was delivered."""
    return Outbox(spool_root, journal, None)


def archived(archive: Path) -> dict[str, bytes]:
    """Return all that is in today's archive, by path."""
    day = archive / datetime.now(UTC).strftime("%Y-%m-%d")
    return {
        str(file.relative_to(day)): file.read_bytes() for file in day.rglob("*") if file.is_file()
    }


def test_rules(spool_root: Path, journal: Journal, archive: Path) -> None:
    """Only without archive and deletion do files stay."""
    for where, delete, keeps in ((None, False, True), (archive, False, False), (None, True, False)):
        rule = Disposal(Spool(spool_root), journal, DisposalRule(where, delete=delete))
        assert rule.keeps(State.DELIVERED) == keeps


@pytest.mark.parametrize("name", ["pat/a.zip", "a.zip", os.fsdecode(b"d/\xe9\n.zip")])
def test_archived(name: str, mover: Outbox, archive: Path) -> None:
    """The file is in the archive under the day and its path, and this is recorded."""
    entry = mover.delivered(name)
    (event,) = mover.dispose(entry)
    assert event["event"] == "file.disposed"
    assert event["path"].isprintable()
    assert event["moved_to"].startswith(str(archive))
    assert archived(archive) == {name: zip_bytes()}
    assert not (mover.root / name).exists()
    assert not mover.due(entry)


def test_deleted(shredder: Outbox) -> None:
    """The file is deleted, this is recorded, and its folder stays."""
    entry = shredder.delivered()
    (event,) = shredder.dispose(entry)
    assert event["moved_to"] is None
    assert list((shredder.root / "pat").iterdir()) == []
    assert not shredder.due(entry)


def test_archive_overwrites_nothing(mover: Outbox, archive: Path) -> None:
    """The same name on the same day gets a number."""
    for _ in range(3):
        mover.dispose(mover.delivered())
    assert set(archived(archive)) == {"pat/a.zip", "pat/a.1.zip", "pat/a.2.zip"}


@pytest.mark.parametrize("rule", ["mover", "shredder"])
@pytest.mark.parametrize("how", ["rewritten", "replaced", "linked"])
def test_other_file_is_left_alone(rule: str, how: str, request: pytest.FixtureRequest) -> None:
    """A path that holds another file than was sent is not touched."""
    outbox = request.getfixturevalue(rule)
    entry = outbox.delivered()
    path = outbox.root / "pat/a.zip"
    if how == "rewritten":
        path.write_bytes(b"new")
    else:
        other = make_zip(outbox.root / "b.zip", b"new")
        path.unlink()
        (path.symlink_to if how == "linked" else path.hardlink_to)(other)
    content = path.read_bytes()
    outbox.dispose(entry)
    assert path.read_bytes() == content
    assert path.is_symlink() == (how == "linked")


class Swapping(Spool):
    """A spool that calls a function after each stat."""

    act: Callable[[], None] = staticmethod(lambda: None)

    def stat(self, path: bytes) -> os.stat_result:
        """Look, and let it happen."""
        stat = super().stat(path)
        self.act()
        return stat


Surprised = tuple[Outbox, Swapping, Path | None]


@pytest.fixture(params=["archive", "elsewhere", "delete"])
def surprised(
    request: pytest.FixtureRequest, spool_root: Path, journal: Journal, tmp_path: Path
) -> Iterator[Surprised]:
    """Archive here or on another file system, or delete, while something happens."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as elsewhere:
        places = {"archive": tmp_path / "done", "elsewhere": Path(elsewhere)}
        place = places.get(request.param)
        box = Outbox(spool_root, journal, place)
        spool = Swapping(spool_root)
        box.disposal = Disposal(spool, journal, DisposalRule(place, delete=place is None))
        yield box, spool, place


def test_file_that_is_replaced_after_the_look(
    surprised: Surprised, spool_root: Path, tmp_path: Path
) -> None:
    """A version that was not sent is neither moved nor deleted."""
    box, spool, place = surprised
    entry = box.delivered()

    def replace() -> None:
        make_zip(spool_root / "newer", b"newer").rename(spool_root / "pat/a.zip")
        spool.act = lambda: None

    spool.act = replace
    events = box.dispose(entry)

    assert (spool_root / "pat/a.zip").read_bytes() == zip_bytes(b"newer")
    assert [file.name for file in (spool_root / "pat").iterdir()] == ["a.zip"]
    assert not [item for item in (place or tmp_path / "no").rglob("*") if item.is_file()]
    assert not box.due(entry)
    assert not events


def test_file_that_is_opened_again_after_the_look(
    surprised: Surprised, spool_root: Path, tmp_path: Path
) -> None:
    """It gets its name back while a writer has it; what the writer adds is a version of its own."""
    box, spool, place = surprised
    entry = box.delivered()
    path = spool_root / "pat/a.zip"
    writers = []

    def reopen() -> None:
        writers.append(path.open("ab"))
        spool.act = lambda: None

    spool.act = reopen
    (event,) = box.dispose(entry)
    assert "open for writing" in event["reason"]
    assert box.due(entry)
    with writers.pop() as writer:
        writer.write(b"more")
    box.disposal.resume()

    assert path.read_bytes() == zip_bytes() + b"more"
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert not [item for item in (place or tmp_path / "no").rglob("*") if item.is_file()]
    assert not box.due(entry)


def test_other_bytes_with_the_same_times_stay(
    surprised: Surprised, spool_root: Path, tmp_path: Path
) -> None:
    """Where a crash has left the file under its private name, its hash decides."""
    box, _, place = surprised
    entry = box.delivered()
    path = spool_root / "pat/a.zip"
    seen = path.stat()
    path.write_bytes(zip_bytes()[::-1])
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    path.rename(path.with_name(f".emitterd-{entry.id}"))
    box.disposal.resume()

    assert path.read_bytes() == zip_bytes()[::-1]
    assert not [item for item in (place or tmp_path / "no").rglob("*") if item.is_file()]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_private_name_of_somebody_else_is_left_alone(
    surprised: Surprised, spool_root: Path, kind: str
) -> None:
    """The file is disposed of under the next private name."""
    box, _, _ = surprised
    entry = box.delivered()
    foreign = spool_root / "pat" / f".emitterd-{entry.id}"
    if kind == "file":
        foreign.write_bytes(b"not ours")
    elif kind == "folder":
        foreign.mkdir()
    else:
        foreign.symlink_to("a.zip")
    (event,) = box.dispose(entry)

    assert "error" not in event
    assert list((spool_root / "pat").iterdir()) == [foreign]
    assert not box.due(entry)


def test_folder_that_becomes_a_link_after_the_look(
    surprised: Surprised, spool_root: Path, tmp_path: Path
) -> None:
    """A file outside, where the link leads, is neither moved nor deleted."""
    box, spool, place = surprised
    entry = box.delivered()
    outside = make_zip(tmp_path / "outside" / "a.zip", b"of this host")

    def swap() -> None:
        (spool_root / "pat").rename(tmp_path / "aside")
        (spool_root / "pat").symlink_to(outside.parent)
        spool.act = lambda: None

    spool.act = swap
    box.dispose(entry)

    assert (spool_root / "pat").is_symlink()
    assert outside.read_bytes() == zip_bytes(b"of this host")
    copies = [item.read_bytes() for item in (place or tmp_path / "no").rglob("*.zip")]
    assert zip_bytes(b"of this host") not in copies


@pytest.fixture
def elsewhere(mover: Outbox) -> Iterator[tuple[Outbox, Path]]:
    """Archive on another file system."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield Outbox(mover.root, mover.journal, Path(place)), Path(place)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_archive_that_cannot_sync_a_folder(
    elsewhere: tuple[Outbox, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EINVAL for the fsync of a folder is no failure, and leaves one copy."""
    box, place = elsewhere
    entry = box.delivered()
    refused, real = [], os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            refused.append(fd)
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    (event,) = box.dispose(entry)

    assert refused
    assert "error" not in event
    assert archived(place) == {"pat/a.zip": zip_bytes()}


def test_copy_whose_folder_cannot_be_written_is_removed(
    elsewhere: tuple[Outbox, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a disk error comes after the copy has its name, there is no second copy."""
    box, place = elsewhere
    entry = box.delivered()
    failed, real = [], os.fsync

    def fsync(fd: int) -> None:
        if (Path(f"/proc/self/fd/{fd}") / "a.zip").exists():
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        box.disposal.resume()
        assert archived(place) == {}
    assert len(failed) == 3
    monkeypatch.undo()
    box.disposal.resume()

    assert archived(place) == {"pat/a.zip": zip_bytes()}
    assert not box.due(entry)


def test_archive_that_takes_no_permissions(
    elsewhere: tuple[Outbox, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is archived; times and permissions only as far as the place takes them."""
    box, place = elsewhere
    entry, refused = box.delivered(), []

    def chmod(path: Path, *_: object, **__: object) -> None:
        refused.append(path)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    (event,) = box.dispose(entry)

    assert refused
    assert "error" not in event
    assert archived(place) == {"pat/a.zip": zip_bytes()}


@pytest.mark.parametrize("length", [243, 244, 250, 255])
@pytest.mark.parametrize("letter", ["x", "\u0915"])
def test_long_names_can_be_put_aside(
    spool_root: Path, journal: Journal, tmp_path: Path, length: int, letter: str
) -> None:
    """A name with no room for `.reason.json` or a number is shortened, with a hash."""
    width = len(letter.encode())
    name = letter * ((length - 4) // width) + "y" * ((length - 4) % width) + ".zip"
    for _ in range(2):
        (event,) = put_aside(spool_root, journal, tmp_path / "aside", f"pat/{name}")
        assert "error" not in event

    files = archived(tmp_path / "aside")
    assert len(files) == 4
    assert files[f"pat/{name}"] == zip_bytes()
    assert sum(file.endswith(".reason.json") for file in files) == 2
    assert all(len(file.encode()) <= len("pat/") + 255 for file in files)


@pytest.mark.parametrize("rule", ["mover", "shredder"])
def test_done_twice(rule: str, request: pytest.FixtureRequest) -> None:
    """A second disposal, or one after somebody removed the file, does nothing."""
    outbox = request.getfixturevalue(rule)
    entry = outbox.delivered()
    for _ in range(2):
        outbox.dispose(entry)
        assert not outbox.due(entry)


def test_archive_on_another_file_system(mover: Outbox, archive: Path, mount: Mount) -> None:
    """The file is copied whole, and no part file is left."""
    archive.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=archive)
    entry = mover.delivered()
    mover.dispose(entry)
    assert archived(archive) == {"pat/a.zip": zip_bytes()}
    assert list((mover.root / "pat").iterdir()) == []
    assert not mover.due(entry)


def test_copy_that_a_crash_left(mover: Outbox, archive: Path, mount: Mount) -> None:
    """A whole copy beside its source is the same file: it is archived once."""
    archive.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=archive)
    entry = mover.delivered()
    copy = archive / datetime.now(UTC).strftime("%Y-%m-%d") / "pat" / "a.zip"
    copy.parent.mkdir(parents=True)
    shutil.copy2(mover.root / "pat/a.zip", copy)
    mover.dispose(entry)
    assert archived(archive) == {"pat/a.zip": zip_bytes()}
    assert list((mover.root / "pat").iterdir()) == []


def test_two_at_once(mover: Outbox, archive: Path, mount: Mount) -> None:
    """A sweep leaves a file to the worker that is just disposing of it."""
    archive.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=archive)
    entries = [mover.delivered(f"pat/{n}.zip") for n in range(20)]
    together = threading.Barrier(2)

    def dispose_all(_: int) -> None:
        together.wait()
        for entry in entries:
            mover.disposal.dispose(entry.id, entry.path, entry.fingerprint)

    with ThreadPoolExecutor(2) as pool, capture_logs() as events:
        list(pool.map(dispose_all, range(2)))
    assert [event for event in events if event["log_level"] != "info"] == []
    assert archived(archive) == {f"pat/{n}.zip": zip_bytes() for n in range(20)}


def test_a_drain_leaves_nothing_that_was_handed_over(mover: Outbox, archive: Path) -> None:
    """The threads that move files empty their queue; after that, who hands over moves."""
    entries = [mover.delivered(f"pat/{n}.zip") for n in range(20)]
    shutdown = Shutdown()
    threads = [
        threading.Thread(target=lambda: mover.disposal.move_handed(shutdown)) for _ in range(MOVERS)
    ]
    for thread in threads:
        thread.start()
    for entry in entries:
        mover.disposal.hand_over(entry.id, entry.path, entry.fingerprint)
    shutdown.drain(30.0)
    for thread in threads:
        thread.join(30.0)
    late = mover.delivered("pat/late.zip")
    mover.disposal.hand_over(late.id, late.path, late.fingerprint)

    names = [*(f"pat/{n}.zip" for n in range(20)), "pat/late.zip"]
    assert archived(archive) == {name: zip_bytes() for name in names}


def test_full_archive(mover: Outbox, small_disk: SmallDisk) -> None:
    """While the archive is full the file stays; it is archived once there is room."""
    mover = Outbox(mover.root, mover.journal, small_disk.root)
    entry = mover.delivered()
    small_disk.fill()
    (event,) = mover.dispose(entry)
    assert event["log_level"] == "warning"
    assert event["error"] == "E211"
    assert (mover.root / "pat/a.zip").read_bytes() == zip_bytes()
    assert mover.due(entry)
    small_disk.free()
    mover.dispose(entry)
    assert archived(small_disk.root) == {"pat/a.zip": zip_bytes()}
    assert not mover.due(entry)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_link_in_the_archive_steers_no_move(
    spool_root: Path, journal: Journal, tmp_path: Path, depth: int, *, inside: bool
) -> None:
    """A link in place of a folder below the archive is reported, and the file stays."""
    archive = (spool_root if inside else tmp_path) / "archive"
    box = Outbox(spool_root, journal, archive)
    entry = box.delivered("pat/a.zip")
    ((delivered_at,),) = journal.read("select delivered_at from entry")
    folders = [archive, archive / iso(delivered_at)[:10], archive / iso(delivered_at)[:10] / "pat"]
    if depth == 0 and not inside:
        pytest.skip("the configured folder itself may be a link")
    outside = tmp_path / "outside"
    outside.mkdir()
    folders[depth].parent.mkdir(parents=True, exist_ok=True)
    folders[depth].symlink_to(outside)

    [event] = box.dispose(entry)
    assert event["error"] == "E211"
    assert list(outside.iterdir()) == []
    assert (spool_root / "pat/a.zip").exists()
    assert box.due(entry)


def test_archive_that_cannot_be_made(mover: Outbox, archive: Path) -> None:
    """A file in place of the archive is reported, and the move is tried again later."""
    archive.write_bytes(b"")
    entry = mover.delivered()
    (event,) = mover.dispose(entry)
    assert event["log_level"] == "warning"
    assert mover.due(entry)
    assert (mover.root / "pat/a.zip").exists()


@pytest.mark.parametrize("rule", ["shredder", "mover"])
def test_folder_that_may_not_be_changed(
    rule: str, archive: Path, mount: Mount, request: pytest.FixtureRequest
) -> None:
    """A file that cannot be removed is reported once, and tries leave no copies."""
    outbox = request.getfixturevalue(rule)
    entry = outbox.delivered()
    mount("--bind", str(outbox.root), at=outbox.root)
    remount = ["mount", "-o", "remount,bind,ro", str(outbox.root)]
    subprocess.run(remount, check=True)  # noqa: S603  our own argument list
    levels = []
    for _ in range(3):
        levels += [event["log_level"] for event in outbox.dispose(entry)]
        assert outbox.due(entry)
    assert levels == ["warning"]
    assert len(archived(archive)) <= 1


def test_the_reason_names_the_folder_that_cannot_be_written(
    python: Python, spool_root: Path
) -> None:
    """A dataset folder of `cp -r` has mode 2750. Log and journal have the command for it."""
    script = f"""
import os
import sys
import time
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from structlog.testing import capture_logs
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint
from emitterd.monitoring.alarms import _file_alarms
from emitterd.monitoring.status import read_queue
from emitterd.spool.folder import Spool
from support.journal import receipt
from support.zips import make_zip
path = b"pat/a.zip"
file = make_zip(Path("pat/a.zip"))
os.chown("pat", 0, 65534)
os.chmod("pat", 0o2750)
os.mkdir("archive")
os.chown("archive", 65534, 65534)
journal = open_journal(Path("../journal.db"))
journal.admit([Admission(path, Fingerprint.of(file.stat()), "pat", 0)])
entry = journal.claim(time.time())
journal.deliver(entry, receipt(), duration_s=1.0, dispose=True)
{NOBODY}
disposal = Disposal(Spool(Path(".")), journal, DisposalRule(Path("archive")))
with capture_logs() as events:
    disposal.dispose(entry.id, path, entry.fingerprint)
print(events[0]["reason"], events[0]["hint"], sep="; ")
known = journal.latest(path)
print(known.state, known.error, known.reason)
queue = read_queue(journal.read, time.time())
print(*(alarm.words for alarm in _file_alarms(queue)))
"""
    assert python(script, cwd=spool_root).splitlines() == [
        "Permission denied: pat; as root: chmod g+wx pat",
        "delivered E211 Permission denied: pat: as root: chmod g+wx pat",
        "1 delivered file cannot be archived or deleted (pat/a.zip)",
    ]


def test_lost_root_is_no_disposal(shredder: Outbox) -> None:
    """While the root is lost its files stay due; they are moved when it is back."""
    entry = shredder.delivered()
    away = shredder.root.rename(shredder.root.with_name("away"))
    shredder.dispose(entry)
    assert shredder.due(entry)
    away.rename(shredder.root)
    shredder.dispose(entry)
    assert not (shredder.root / "pat/a.zip").exists()


def test_full_journal(spool_root: Path, small_disk: SmallDisk) -> None:
    """With a full journal the next sweep records the disposal."""
    with open_journal(small_disk.root / "journal.db") as journal:
        outbox = Outbox(spool_root, journal, None)
        entry = outbox.delivered()
        small_disk.fill(spare=False)
        with suppress(JournalFull):
            for number in range(1000):
                journal.save_fact("last", number)
        (event,) = outbox.dispose(entry)
        assert outbox.due(entry)
    assert event["event"] == "file.disposed"


def test_archived_under_the_day_of_its_delivery(mover: Outbox, archive: Path) -> None:
    """A late or repeated disposal uses the same folder as the first try."""
    entry = mover.delivered()
    delivered_at = datetime(2021, 1, 7, 23, 59, tzinfo=UTC).timestamp()
    mover.journal.store.write(Execute("update entry set delivered_at = ?", [(delivered_at,)]))

    mover.dispose(entry)

    assert (archive / "2021-01-07" / "pat" / "a.zip").read_bytes() == zip_bytes()


def test_rule_that_was_taken_back(mover: Outbox, archive: Path) -> None:
    """A file that is due by an earlier configuration stays if files are now kept."""
    entry = mover.delivered()
    keeper = Disposal(Spool(mover.root), mover.journal, DisposalRule())

    keeper.dispose(entry.id, entry.path, entry.fingerprint)

    assert (mover.root / "pat/a.zip").exists()
    assert not archive.exists()
    assert not mover.due(entry)


FINDING = Finding(Code.WRONG_HEADER, "DistrictId", "District")


def put_aside(
    root: Path, journal: Journal, aside: Path, name: str = "pat/a.zip"
) -> list[EventDict]:
    """Reject a file and move it to the rejected folder; return what was logged."""
    disposal = Disposal(Spool(root), journal, DisposalRule(delete=True, rejected=aside))
    seen = Fingerprint.of(make_zip(root / name).stat())
    trouble = DeliveryError(Decision.REJECT, Code.CATALOGUE, str(FINDING))
    path = os.fsencode(name)
    admission = Admission(path, seen, "pat", 0, trouble, (FINDING,), dispose=True)
    journal.admit([admission])
    known = journal.latest(path)
    assert known is not None
    with capture_logs() as events:
        disposal.dispose(known.id, path, seen)
    return events


@pytest.mark.parametrize("name", ["pat/a.zip", "a.zip", os.fsdecode(b"d/\xe9\n.zip")])
def test_rejected_is_put_aside_with_the_reason(
    name: str, spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """The rejected file is under the day, with its reason and remedy beside it."""
    (event,) = put_aside(spool_root, journal, tmp_path / "aside", name)

    files = archived(tmp_path / "aside")
    reported = json.loads(files.pop(f"{name}.reason.json"))
    assert files == {name: zip_bytes()}
    assert not (spool_root / name).exists()
    assert event["event"] == "file.disposed"
    assert reported["path"].isprintable()
    assert reported["error"] == "E210"
    assert reported["hint"] == Code.CATALOGUE.remedy
    assert reported["findings"] == [FINDING.record()]
    assert reported["rejected_at"].endswith("Z")
    (row,) = journal.read("select disposal, moved_to from entry")
    assert row[0] == "done"
    assert display(row[1]) == event["moved_to"]


def test_each_rejected_version_has_its_reason(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """A second file of the same name overwrites neither the first nor its reason."""
    for _ in range(2):
        put_aside(spool_root, journal, tmp_path / "aside")

    assert set(archived(tmp_path / "aside")) == {
        "pat/a.zip",
        "pat/a.zip.reason.json",
        "pat/a.1.zip",
        "pat/a.1.zip.reason.json",
    }


def test_rejected_stays_without_a_place(spool_root: Path, journal: Journal, archive: Path) -> None:
    """The rule for delivered files is not the rule for rejected ones."""
    disposal = Disposal(Spool(spool_root), journal, DisposalRule(archive))
    put_aside(spool_root, journal, archive)
    make_zip(spool_root / "pat/a.zip")

    assert disposal.keeps(State.REJECTED)
    assert not disposal.keeps(State.DELIVERED)


def test_disposal_that_is_due_is_done_by_a_sweep(spool_root: Path, journal: Journal) -> None:
    """A delivered file that could not be deleted then is deleted now."""
    door = swept(spool_root, journal)
    make_zip(door.root / NAME)
    door.step(1, PATH)
    entry = journal.claim(time.time())
    assert entry is not None
    deliver(journal, entry)
    door.sweep()
    assert (door.root / NAME).exists()
    door.journal.store.write(Execute("update entry set disposal = 'due'"))
    assert names(door.step(SWEEP_S)) == ["file.disposed"]
    assert not (door.root / NAME).exists()


@pytest.mark.parametrize("rule", ["mover", "shredder"])
def test_file_dropped_in_the_last_moment_stays(
    rule: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes the name just before the removal is put back."""
    outbox = request.getfixturevalue(rule)
    entry = outbox.delivered()
    path = outbox.root / "pat/a.zip"
    real = Path.rename

    def late(source: Path, target: Path) -> Path:
        if source.name == path.name:
            monkeypatch.setattr(Path, "rename", real)
            make_zip(outbox.root / "new.part", b"new").rename(path)
        return real(source, target)

    monkeypatch.setattr(Path, "rename", late)
    events = outbox.dispose(entry)

    assert path.read_bytes() == zip_bytes(b"new")
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert events == []
    assert not outbox.due(entry)


def test_file_replaced_during_a_long_copy_stays(
    mover: Outbox, archive: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes during the copy to another file system is not removed."""
    archive.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=archive)
    entry = mover.delivered()
    path = mover.root / "pat/a.zip"
    real = shutil.copyfile

    def slow(source: Path, target: Path, **how: bool) -> object:
        copied = real(source, target, **how)
        make_zip(mover.root / "new.part", b"new").rename(path)
        return copied

    monkeypatch.setattr(shutil, "copyfile", slow)
    mover.dispose(entry)

    assert path.read_bytes() == zip_bytes(b"new")
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert archived(archive) == {}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("rule", ["mover", "shredder"])
def test_file_that_a_crash_left_aside_is_finished(
    rule: str, archive: Path, mount: Mount, request: pytest.FixtureRequest, *, elsewhere: bool
) -> None:
    """The next start removes the file that was set aside, and nothing else."""
    archive.mkdir()
    if elsewhere:
        mount("-t", "tmpfs", "tmpfs", at=archive)
    outbox = request.getfixturevalue(rule)
    entry = outbox.delivered()
    path = outbox.root / "pat/a.zip"
    path.rename(path.with_name(f".emitterd-{entry.id}"))
    make_zip(path, b"new")

    outbox.disposal.resume()

    assert path.read_bytes() == zip_bytes(b"new")
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert not outbox.due(entry)
    if rule == "mover":
        assert archived(archive) == {"pat/a.zip": zip_bytes()}


def test_what_could_not_be_finished_is_taken_up_again(mover: Outbox, archive: Path) -> None:
    """A file that is set aside while the archive fails does not wait for a restart."""
    entry = mover.delivered()
    path = mover.root / "pat/a.zip"
    path.rename(path.with_name(f".emitterd-{entry.id}"))
    archive.write_bytes(b"")
    mover.disposal.resume()
    assert mover.due(entry)
    archive.unlink()

    mover.disposal.resume()

    assert archived(archive) == {"pat/a.zip": zip_bytes()}
    assert not mover.due(entry)


def test_retried_file_is_not_disposed_of(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """A file whose rejection the operator takes back stays."""
    rule = DisposalRule(delete=True, rejected=tmp_path / "r")
    disposal = Disposal(Spool(spool_root), journal, rule)
    seen = Fingerprint.of(make_zip(spool_root / NAME).stat())
    trouble = DeliveryError(Decision.REJECT, Code.CATALOGUE, "for the test")
    journal.admit([Admission(PATH, seen, "pat", 0, trouble, dispose=True)])
    known = journal.latest(PATH)
    assert known is not None
    Operations(journal.store, Shutdown()).apply(
        OperationRequest(Operation.RETRY, (PATH,)), "asha", lambda _: None
    )

    disposal.dispose(known.id, PATH, seen)

    assert (spool_root / NAME).exists()


def test_a_second_name_of_an_archived_file_is_archived_too(mover: Outbox, archive: Path) -> None:
    """rename(2) between two names of one file does nothing: the second name gets a number."""
    mover.dispose(mover.delivered())
    path = mover.root / "pat/a.zip"
    (first,) = archive.rglob("a.zip")
    path.hardlink_to(first)
    stat = path.stat()
    mover.journal.admit([Admission(b"pat/a.zip", Fingerprint.of(stat), "pat", 0)])
    entry = mover.journal.claim(stat.st_mtime)
    assert entry is not None
    proof = receipt(hashlib.sha256(zip_bytes()).digest())
    mover.journal.deliver(entry, proof, duration_s=1.0, dispose=True)
    mover.dispose(entry)

    assert not path.exists()
    assert set(archived(archive)) == {"pat/a.zip", "pat/a.1.zip"}


def test_two_files_for_one_name(mover: Outbox, archive: Path) -> None:
    """Two files with the same archive path are both archived."""
    entries = []
    for _ in range(2):
        entries += [mover.delivered("pat/x.zip")]
        mover.dispose(entries.pop())
    names = [f"pat/x.{n}.zip" for n in (2, 3, 4, 5)]
    entries = [mover.delivered(name) for name in ("pat/x.zip", *names)]
    together = threading.Barrier(len(entries))

    def dispose(entry: Entry) -> None:
        together.wait()
        mover.disposal.dispose(entry.id, entry.path, entry.fingerprint)

    with ThreadPoolExecutor(len(entries)) as pool, capture_logs():
        list(pool.map(dispose, entries))

    assert len(archived(archive)) == 2 + len(entries)
