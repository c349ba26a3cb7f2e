"""The journal's disk is full: what is under way ends on record, nothing is begun.

Each change of state meets a real full disk of 2 MiB, whose last byte another program
has taken; then there is room again, and nobody has to do anything.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from conftest import DISK_BYTES, Mount, Python, SmallDisk
from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import STREAK
from emitterd.errors import Decision, DeliveryError, JournalFull
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.rows import Admission
from emitterd.journal.sqlite.disk_reserve import SHARE, SIZE_BYTES, DiskReserve
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.work import Execute
from emitterd.model import Entry, Fingerprint, Grant, Receipt, State
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from support.installation import Installation
from support.journal import sqlite_store
from support.waiting import wait_until
from support.worker import rigged

NAME = "pat/exam.zip"
GRANT = Grant("http://bucket", {"key": "k", "policy": "p" * 900}, 1.0, 3600.0)
RECEIPT = Receipt("k", '"e"', 3, b"m" * 16, b"s" * 32, verified=True)
TROUBLE = DeliveryError(Decision.DEFER, Code.BUCKET_TROUBLE, "503 SlowDown")


def allocated(path: Path) -> int:
    """Return how many bytes of the disk a file has; 0 where there is none."""
    return path.stat().st_blocks * 512 if path.exists() else 0


class Site:
    """A journal on a small disk, with an entry under way."""

    def __init__(self, disk: SmallDisk, journal: Journal) -> None:
        self.disk = disk
        self.journal = journal
        self.ballast = disk.root / "journal.db.ballast"
        self.number = 0
        self.entry = self.claimed()

    def admit(self) -> None:
        """Admit one more file."""
        self.number += 1
        path = f"{self.number:04}.zip".encode()
        fingerprint = Fingerprint(1, self.number, 3, 4, 5)
        self.journal.admit([Admission(path, fingerprint, "pat", 0)])

    def claimed(self) -> Entry:
        """Return an entry under way."""
        self.admit()
        entry = self.journal.claim(time.time())
        assert entry is not None
        return entry

    def claim(self) -> None:
        """Claim what is next."""
        self.journal.claim(time.time())

    def act(self, act: Operation) -> None:
        """Have the operator act on the last file that was admitted."""
        hand = Operations(self.journal.store, Shutdown())
        path = f"{self.number:04}.zip".encode()
        outcome = hand.apply(OperationRequest(act, (path,)), "operator", lambda _: None)
        if outcome.trouble:
            assert outcome.trouble.startswith(Code.JOURNAL_FULL)
            raise JournalFull(outcome.trouble)
        assert outcome.done == 1

    def row(self) -> dict[str, object]:
        """Return what stands of the entry."""
        names = ["state", "error", "disposal", '"grant" is null', "attempts"]
        sql = f"select {', '.join(names)} from entry where id = ?"  # noqa: S608
        [row] = self.journal.read(sql, (self.entry.id,))
        return dict(zip(names, row, strict=True))

    def everything(self) -> list[tuple[object, ...]]:
        """Return all rows."""
        return self.journal.read("select * from entry order by id")


@pytest.fixture
def site(small_disk: SmallDisk) -> Iterator[Site]:
    """Open a journal on the small disk."""
    with open_journal(small_disk.root / "journal.db") as journal:
        yield Site(small_disk, journal)


def dispose(site: Site) -> None:
    """Deliver and dispose of the entry."""
    site.journal.deliver(site.entry, RECEIPT, duration_s=1.0, dispose=True)
    site.journal.dispose(site.entry.id, b"done/a.zip")


FINAL: dict[str, tuple[Callable[[Site], None], dict[str, object]]] = {
    "pin": (
        lambda site: site.journal.pin(site.entry, GRANT),
        {"state": "delivering", '"grant" is null': 0},
    ),
    "deliver": (
        lambda site: site.journal.deliver(site.entry, RECEIPT, duration_s=1.0, dispose=False),
        {"state": "delivered", "disposal": None},
    ),
    "defer": (
        lambda site: site.journal.defer(site.entry, TROUBLE, 9e9, charge=True),
        {"state": "deferred", "error": "E501", "attempts": 1},
    ),
    "reject": (
        lambda site: site.journal.reject(site.entry, TROUBLE),
        {"state": "rejected", "error": "E501"},
    ),
    "withdraw": (
        lambda site: site.journal.withdraw(site.entry, TROUBLE),
        {"state": "withdrawn", "error": "E501"},
    ),
    "interrupt": (lambda site: site.journal.interrupt(site.entry), {"state": "queued"}),
    "dispose": (dispose, {"state": "delivered", "disposal": "done"}),
}

BEGINNING: dict[str, Callable[[Site], None]] = {
    "admit": Site.admit,
    "claim": Site.claim,
    "hold": lambda site: site.act(Operation.HOLD),
    "forget": lambda site: site.act(Operation.FORGET),
}


@pytest.mark.parametrize("verb", FINAL)
def test_end_is_recorded_on_a_full_disk(verb: str, site: Site) -> None:
    """What is under way is brought to its end in the room that was kept for it."""
    change, expected = FINAL[verb]
    site.disk.fill()
    assert allocated(site.ballast) == DISK_BYTES // SHARE
    with capture_logs() as events:
        change(site)

    assert [event["event"] for event in events] == ["journal.full"]
    assert not site.ballast.exists()
    assert site.row() | expected == site.row()


@pytest.mark.parametrize("verb", BEGINNING)
def test_nothing_begins_on_a_full_disk(verb: str, site: Site) -> None:
    """What waits is left as it is, is reported once, and goes on by itself."""
    begin = BEGINNING[verb]
    site.admit()
    site.disk.fill()
    before = site.everything()
    with capture_logs() as events:
        for _ in range(2):
            with pytest.raises(JournalFull):
                begin(site)
        assert site.everything() == before
        site.disk.free()
        begin(site)

    message = [event["event"] for event in events]
    assert message == ["journal.full", "journal.recovered"]
    assert events[0]["error"] == Code.JOURNAL_FULL
    assert site.everything() != before
    assert allocated(site.ballast) == DISK_BYTES // SHARE


def test_the_room_is_for_ends_only(site: Site) -> None:
    """With the ballast given up no admission takes its place."""
    site.disk.fill()
    site.journal.defer(site.entry, TROUBLE, 0.0, charge=True)
    with pytest.raises(JournalFull):
        site.admit()
    with pytest.raises(JournalFull):
        site.claim()
    disk = os.statvfs(site.disk.root)

    assert disk.f_bavail > 0


@pytest.mark.parametrize("log", [True, False], ids=["log", "empty log"])
def test_many_ends_fit_into_the_room(small_disk: SmallDisk, *, log: bool) -> None:
    """However long the disk stays full, the log is begun anew and does not grow.

    An empty log, as after a restart, must grow first.
    """
    with open_journal(small_disk.root / "journal.db") as journal:
        site = Site(small_disk, journal)
        entries = [site.claimed() for _ in range(64)]
        small_disk.fill(log=log)
        for entry in entries:
            journal.pin(entry, GRANT)
            journal.deliver(entry, RECEIPT, duration_s=1.0, dispose=True)
            journal.dispose(entry.id, None)
        for _ in range(500):
            journal.save_fact("destination", "down" * 100)

        assert journal.counts()[State.DELIVERED] == len(entries)


DEATH = """
import os, sys, time
from pathlib import Path
from emitterd.journal.rows import Admission
from emitterd.shutdown import Shutdown
from emitterd.model import Fingerprint
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.shutdown import Shutdown
journal = open_journal(Path("journal.db"))
journal.admit([Admission(b"a.zip", Fingerprint(1, 2, 3, 4, 5), "pat", 0)])
journal.claim(time.time())
os._exit(0)
"""


def test_start_on_a_full_disk(small_disk: SmallDisk, python: Python) -> None:
    """What a dead process had claimed is taken back, though nothing can grow."""
    python(DEATH, cwd=small_disk.root)
    small_disk.fill()
    with capture_logs() as events, open_journal(small_disk.root / "journal.db") as journal:
        assert journal.store.reclaimed == 1
        assert journal.counts()[State.QUEUED] == 1
        with pytest.raises(JournalFull):
            journal.claim(time.time())
    assert [event["event"] for event in events] == ["journal.full"]


def test_what_waits_together(site: Site) -> None:
    """In one commit on a full disk the ends are recorded, and the rest is refused."""
    database = sqlite_store(site.journal)
    site.disk.fill()
    answers: dict[str, object] = {}

    def write(name: str, *, final: bool) -> None:
        try:
            row = (name, "x" * 5000)
            work = Execute("insert into fact (name, value) values (?, ?)", [row], ends=final)
            answers[name] = database.write(work)
        except JournalFull as full:
            answers[name] = full.code

    threads = [
        threading.Thread(target=write, args=(f"{n}",), kwargs={"final": bool(n % 2)})
        for n in range(4)
    ]
    with database._group.writing:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(database._group._queue) == len(threads), 20.0, "all is queued")
    for thread in threads:
        thread.join(20.0)

    assert answers == {"0": "E104", "1": 1, "2": "E104", "3": 1}
    names = database.read("select name from fact order by name")
    assert names == [("1",), ("3",)]


def test_disk_too_full_for_a_ballast(small_disk: SmallDisk) -> None:
    """Without room for it the journal is used all the same, and it is made later."""
    path = small_disk.root / "journal.db"
    filler = small_disk.root / "other"
    filler.write_bytes(b"\0" * (DISK_BYTES - 3 * DISK_BYTES // SHARE // 2))
    with SqliteStore(path) as database:
        database.write(Execute("insert into fact (name, value) values ('a', '1')"))
        assert not path.with_name("journal.db.ballast").exists()
        filler.unlink()
        database.write(Execute("insert into fact (name, value) values ('b', '1')"))
        assert allocated(path.with_name("journal.db.ballast")) == DISK_BYTES // SHARE


def test_size_on_an_ordinary_disk(tmp_path: Path) -> None:
    """It has real blocks, is private, and goes when the journal is closed."""
    path = tmp_path / "journal.db"
    ballast = path.with_name("journal.db.ballast")
    with closing(SqliteStore(path)):
        assert allocated(ballast) >= SIZE_BYTES
        assert ballast.stat().st_mode & 0o777 == 0o600
    assert not ballast.exists()


def test_half_a_ballast_is_made_whole(tmp_path: Path) -> None:
    """What a killed process had begun to allocate is completed."""
    path = tmp_path / "journal.db.ballast"
    path.write_bytes(b"x" * 5000)
    DiskReserve(tmp_path / "journal.db").renew()

    assert allocated(path) >= SIZE_BYTES


def test_delivery_ends_on_a_disk_that_fills_meanwhile(tmp_path: Path, mount: Mount) -> None:
    """A body under way is delivered once, on record, with its receipt."""
    state = tmp_path / "state"
    state.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at=state)
    disk = SmallDisk(state)
    with rigged(tmp_path) as rig:
        rig.drop(NAME)
        rig.drop("pat/next.zip")
        rig.watcher.seen = Filling(disk)
        rig.step()
        rig.watcher.seen = []

        assert rig.logged("journal.full")
        assert rig.state(NAME) is State.DELIVERED
        assert rig.logged("file.delivered", NAME)
        assert [item.posts for item in rig.server.objects.values()] == [1]
        assert rig.step() > 0
        assert rig.state("pat/next.zip") is State.QUEUED
        disk.free()
        rig.step()
        assert rig.state("pat/next.zip") is State.DELIVERED
        assert len(rig.logged("journal.full")) == len(rig.logged("journal.recovered")) == 1


def test_an_outage_begins_on_a_disk_that_fills_meanwhile(tmp_path: Path, mount: Mount) -> None:
    """The files stay deferred, although there is no room to take back their attempts."""
    state = tmp_path / "state"
    state.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at=state)
    disk = SmallDisk(state)
    names = [f"pat/{number}.zip" for number in range(STREAK)]
    with rigged(tmp_path) as rig:
        rig.faults("503")
        for name in names:
            rig.drop(name)
        for _ in names[1:]:
            rig.step()
        rig.watcher.seen = Filling(disk, rig.journal)
        rig.step()

        assert rig.server.fired["503"] == len(names)
        assert rig.logged("journal.full")
        assert len(rig.logged("destination.down")) == 1
        assert {rig.state(name) for name in names} == {State.DEFERRED}
        assert [rig.row(name)["attempts"] for name in names] == [1, 1, 1, 0]


class Filling(list[tuple[str, int]]):
    """Fills the disk when the first byte of a body goes out, and the log of `journal`."""

    def __init__(self, disk: SmallDisk, journal: Journal | None = None) -> None:
        super().__init__()
        self._disk = disk
        self._journal = journal

    def append(self, text: tuple[str, int]) -> None:
        """Note what was seen, and fill the disk if it was a chunk."""
        super().append(text)
        if text[0] == "sent":
            self._disk.fill()
            if self._journal is not None:
                self._fill_log(self._journal)

    def _fill_log(self, journal: Journal) -> None:
        with suppress(JournalFull):
            for number in count():
                fingerprint = Fingerprint(1, number, 3, 4, 5)
                journal.admit([Admission(b"%04d.zip" % number, fingerprint, "pat", 0)])


def test_daemon_on_a_disk_that_is_full_for_a_while(
    tmp_path: Path, server: RehearsalServer, mount: Mount
) -> None:
    """A running daemon pauses, says so, and goes on by itself."""
    state = tmp_path / "small"
    state.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at=state)
    disk = SmallDisk(state)
    site = Installation(tmp_path, server.url, journal_path=str(state / "journal.db"))
    site.journal = state / "journal.db"
    with site.running() as daemon:
        site.drop("pat/a.zip")
        site.wait_delivered(1)
        disk.fill()
        for number in range(300):
            site.drop(f"pat/{number}.zip")
        daemon.wait_for_event("journal.full")
        disk.free()
        site.wait_delivered(301)

    assert [event["event"] for event in site.events() if "journal." in event["event"]] == [
        "journal.full",
        "journal.recovered",
    ]
    assert {item.posts for item in server.objects.values()} == {1}
    assert len(server.objects) == 301


LIMITED = """
import resource, sys
from pathlib import Path
from structlog.testing import capture_logs
from emitterd.errors import JournalFull
from emitterd.journal.sqlite.disk_reserve import DiskReserve
reserve = DiskReserve(Path(sys.argv[1]))
half_as_much = reserve.size_bytes * 3 // 2
resource.setrlimit(resource.RLIMIT_FSIZE, (half_as_much, resource.RLIM_INFINITY))
with capture_logs() as events:
    reserve.release(JournalFull("quota"))
    refused = [reserve.renew() is not None for _ in range(100)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    recovered = reserve.renew() is None
print(all(refused), recovered, [event["event"] for event in events])
"""


def test_a_limit_that_the_disk_does_not_show_is_no_room(tmp_path: Path, python: Python) -> None:
    """Under a user's quota, only room for twice the reserve ends the trouble: one pair of lines."""
    output = python(LIMITED, tmp_path / "journal.db", cwd=tmp_path)

    assert output.strip() == "True True ['journal.full', 'journal.recovered']"
