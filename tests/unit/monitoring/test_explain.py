"""`explain`: one true sentence for every status of a path."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.intake.file_status import FileStatusReader, FolderState
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import Admission
from emitterd.model import Confirmation, Fingerprint, State
from emitterd.monitoring.explain import Explanation, OutsideSpool, explain, locate
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection
from emitterd.text import undisplay
from support.journal import BROKE, LOST, grant, receipt
from support.zips import make_zip

NAME = "pat/periodic_exam_mst.zip"
PATH = NAME.encode()


@dataclass
class Office:
    """A folder and its journal, to be explained."""

    root: Path
    journal: Journal
    place: JournalLocation
    settle_s: float = 5.0

    def admit(self, trouble: DeliveryError | None = None) -> None:
        """Write the file if it is not there, and admit it."""
        target = self.root / NAME
        stat = (target if target.exists() else make_zip(target)).stat()
        admission = Admission(PATH, Fingerprint.of(stat), "pat", 0, trouble)
        self.journal.admit([admission])

    def act(self, act: Operation) -> None:
        """Run an operator command on the file."""
        hand = Operations(self.journal.store, Shutdown())
        hand.apply(OperationRequest(act, (PATH,)), "asha", lambda _: None)

    def explain(self, path: bytes = PATH) -> Explanation:
        """Explain a path."""
        with JournalReader(self.place) as records:
            return explain(self.status_reader(records), records, path)

    def status_reader(self, records: JournalReader) -> FileStatusReader:
        """Return the file statuses."""
        return FileStatusReader(
            Spool(self.root), Selection(["**/*.zip"], ["old/"]), records.latest, self.settle_s
        )


@pytest.fixture
def office(spool_root: Path, journal: Journal, place: JournalLocation) -> Office:
    """Open an office with an empty folder."""
    return Office(spool_root, journal, place)


def queued(office: Office) -> None:
    """Have it admitted."""
    office.admit()


def delivering(office: Office) -> None:
    """Have it claimed."""
    office.admit()
    office.journal.claim(time.time())


def deferred(office: Office) -> None:
    """Have an attempt fail."""
    office.admit()
    entry = office.journal.claim(time.time())
    assert entry is not None
    office.journal.defer(entry, BROKE, time.time() + 60, charge=True)


def parked(office: Office) -> None:
    """Have an attempt fail that is not charged."""
    office.admit()
    entry = office.journal.claim(time.time())
    assert entry is not None
    office.journal.defer(entry, BROKE, time.time() + 60, charge=False)


def delivered(office: Office) -> None:
    """Have it delivered."""
    office.admit()
    entry = office.journal.claim(time.time())
    assert entry is not None
    office.journal.pin(entry, grant())
    office.journal.deliver(entry, receipt(), duration_s=1.0, dispose=False)


def delivered_and_gone(office: Office) -> None:
    """Have it delivered and taken away."""
    delivered(office)
    (office.root / NAME).unlink()


def delivered_and_changed(office: Office) -> None:
    """Have it delivered, and another version dropped."""
    delivered(office)
    make_zip(office.root / NAME, b"another")


def rejected(office: Office) -> None:
    """Reject the file at its admission."""
    office.admit(DeliveryError(Decision.REJECT, Code.INCOMPLETE, "no end record"))


def withdrawn_and_gone(office: Office) -> None:
    """Have it go before it was sent."""
    office.admit()
    entry = office.journal.claim(time.time())
    assert entry is not None
    trouble = DeliveryError(Decision.WITHDRAW, Code.GONE, "the file is gone")
    office.journal.withdraw(entry, trouble)
    (office.root / NAME).unlink()


def held(office: Office) -> None:
    """Have the operator hold it."""
    office.admit()
    office.act(Operation.HOLD)


def forgotten(office: Office) -> None:
    """Have the operator forget it."""
    delivered(office)
    office.act(Operation.FORGET)


def forgotten_and_gone(office: Office) -> None:
    """Have it forgotten and taken away."""
    forgotten(office)
    (office.root / NAME).unlink()


def mended(office: Office) -> None:
    """Deliver a file, have a bad version rejected, and bring the first one back."""
    delivered(office)
    first = office.journal.latest(PATH)
    assert first is not None
    make_zip(office.root / NAME, b"bad")
    rejected(office)
    make_zip(office.root / NAME)
    office.admit()
    entry = office.journal.claim(time.time())
    assert entry is not None
    office.journal.merge_unchanged(entry, first.id, dispose=False)


def mended_and_forgotten(office: Office) -> None:
    """Forget all of that."""
    mended(office)
    office.act(Operation.FORGET)


def broken(office: Office) -> None:
    """Leave half a zip."""
    make_zip(office.root / NAME).write_bytes(b"PK\3\4 and so on")


def linked(office: Office) -> None:
    """Leave a link."""
    place = office.root / NAME
    place.parent.mkdir()
    place.symlink_to("/etc/hostname")


def piped(office: Office) -> None:
    """Leave a FIFO that nobody writes."""
    (office.root / "pat").mkdir()
    os.mkfifo(office.root / NAME)


def dropped(office: Office) -> None:
    """Drop a whole zip that nobody has looked at."""
    make_zip(office.root / NAME)


def nothing(_: Office) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("prepare", "state", "error", "expected"),
    [
        (queued, State.QUEUED, None, "waiting for its turn"),
        (delivering, State.DELIVERING, None, "being uploaded"),
        (deferred, State.DEFERRED, "E305", "attempt 1 failed: E305 broke; the next"),
        (parked, State.DEFERRED, "E305", "an attempt failed: E305 broke; the next"),
        (delivered, State.DELIVERED, None, "under the key key-1"),
        (delivered_and_gone, State.DELIVERED, None, "no longer in the folder"),
        (delivered_and_changed, FolderState.NEW, None, "complete, and not looked at yet"),
        (rejected, State.REJECTED, "E201", "rejected: E201 no end record"),
        (withdrawn_and_gone, State.WITHDRAWN, "E203", "the file is gone"),
        (held, State.HELD, None, "held by asha since"),
        (forgotten, FolderState.NEW, None, "not looked at yet"),
        (forgotten_and_gone, FolderState.ABSENT, None, "the journal knows of none"),
        (mended, State.DELIVERED, None, "under the key key-1"),
        (mended_and_forgotten, FolderState.NEW, None, "not looked at yet"),
        (broken, FolderState.INCOMPLETE, "E201", "no zip end record"),
        (linked, FolderState.UNSUITABLE, "E207", "never sent"),
        (piped, FolderState.UNSUITABLE, "E207", "never sent"),
        (dropped, FolderState.NEW, None, "complete"),
        (nothing, FolderState.ABSENT, None, "the journal knows of none"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_place_has_its_sentence(
    office: Office,
    prepare: Callable[[Office], None],
    state: State | FolderState,
    error: str | None,
    expected: str,
) -> None:
    """State, code and sentence show folder and journal as they are now."""
    prepare(office)

    explanation = office.explain()

    assert (explanation.state, explanation.error) == (state, error)
    assert expected in explanation.reason
    assert explanation.known == (prepare is not nothing)
    assert bool(explanation.hint) == bool(error)
    assert explanation.record()["state"] == state.value


@pytest.mark.parametrize(
    ("confirmation", "expected"),
    [
        (Confirmation.FOUND, "key-1; its answer was lost, but the server showed"),
        (Confirmation.ABSENT, "under key-1; the server did not show it"),
        (Confirmation.OTHER, "under key-1; the server showed other content"),
        (Confirmation.UNKNOWN, "under key-1; emitterd could not look it up"),
        (None, "may have stored an object under key-1"),
    ],
)
def test_delivery_after_a_lost_answer(
    office: Office, confirmation: Confirmation | None, expected: str
) -> None:
    """The sentence says what the server showed for an upload whose answer was lost."""
    office.admit()
    found = confirmation is Confirmation.FOUND
    first = office.journal.claim(time.time())
    assert first is not None
    office.journal.pin(first, grant())
    office.journal.defer(first, LOST, time.time(), charge=True)
    entry = office.journal.claim(time.time() + 60)
    assert entry is not None
    if not found:
        office.journal.pin(entry, grant("key-2"), confirmation)
    proof = replace(receipt(), key="key-1" if found else "key-2", confirmed=found)
    office.journal.deliver(entry, proof, duration_s=1.0, dispose=False)

    assert expected in office.explain().reason
    with JournalReader(office.place) as records:
        (record,) = records.receipts()
    assert record.get("confirmation") == confirmation
    assert record.get("earlier_keys", []) == ([] if found else ["key-1"])


def test_folder_that_is_lost(office: Office) -> None:
    """While the folder is lost the journal alone counts, and the loss is named."""
    delivered(office)
    office.root.rename(office.root.with_name("away"))

    known, unknown = office.explain(), office.explain(b"pat/other.zip")

    assert known.state is State.DELIVERED
    assert "no longer in the folder" not in known.reason
    for item in (known, unknown):
        assert "is not there: mount or create it" in item.context[0]


def test_forgotten_delivery_is_shown_as_history(office: Office) -> None:
    """The key of an earlier version is in the history only."""
    mended_and_forgotten(office)

    explanation = office.explain()

    assert explanation.current == {}
    assert [line["state"] for line in explanation.before] == ["delivered", "rejected"]
    assert all("forgotten_at" in line for line in explanation.before)


@pytest.mark.slow
def test_explained_while_the_journal_moves(office: Office) -> None:
    """An explanation reads one snapshot, although a daemon works meanwhile."""
    deferred(office)
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            office.act(Operation.HOLD)
            office.act(Operation.RELEASE)
            entry = office.journal.claim(time.time())
            assert entry is not None
            office.journal.defer(entry, BROKE, time.time() + 60, charge=True)

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move)
        explanation = {office.explain().state for _ in range(300)}
        stop.set()
        moving.result(20.0)

    assert {State.DEFERRED, State.HELD} <= explanation


def test_file_that_is_still_written(office: Office) -> None:
    """The sentence says that a program has the zip open for writing."""
    with make_zip(office.root / NAME).open("ab"):
        explanation = office.explain()

    assert (explanation.state, explanation.error) == (FolderState.WRITTEN, "E206")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pat/old/x.zip", "spool.exclude names it: old/"),
        ("pat/x.csv", "spool.include does not name it"),
        ("pat/x.zip.part", "a temporary file"),
        (".git/x.zip", "a hidden folder"),
        ("pat/X.ZIP", "in lower case"),
    ],
)
def test_ignored_file_is_shown_with_the_rule(office: Office, name: str, why: str) -> None:
    """The pattern, or the rule, that keeps a file from being sent is named."""
    make_zip(office.root / name)

    explanation = office.explain(name.encode())

    assert explanation.state is FolderState.IGNORED
    assert why in explanation.reason


def test_history_is_shown_the_latest_first(office: Office) -> None:
    """All versions and operator commands are listed, with user and time."""
    delivered_and_changed(office)
    office.admit()
    office.act(Operation.HOLD)
    office.act(Operation.RELEASE)

    explanation = office.explain()

    assert [version["state"] for version in explanation.versions] == ["queued", "delivered"]
    assert [action["act"] for action in explanation.actions] == ["release", "hold"]
    assert {action["user"] for action in explanation.actions} == {"asha"}
    assert explanation.context[0] == "files before it in the queue: 0"


def test_what_delays_a_file_is_shown(office: Office) -> None:
    """The explanation of a waiting file names a destination that is down."""
    office.admit()
    trouble = {"stage": "grant", "code": "E302", "reason": "no", "since": time.time()}
    office.journal.save_fact("destination", {"stages": [trouble]})

    waiting = office.explain().context
    office.act(Operation.HOLD)

    assert any("destination is down" in line and "E302" in line for line in waiting)
    assert office.explain().context == []


@pytest.mark.parametrize(
    "expected", [NAME, f"./{NAME}", f"pat//../{NAME}", "{root}/" + NAME, "{link}/" + NAME]
)
def test_paths_are_found_as_people_write_them(
    office: Office, tmp_path: Path, expected: str
) -> None:
    """Relative, absolute, and through a link to the folder."""
    office.admit()
    link = tmp_path / "link"
    link.symlink_to(office.root)
    text = expected.format(root=office.root, link=link)

    with JournalReader(office.place) as records:
        for root in (office.root, link):
            assert locate(Spool(root), records, text) == PATH


@pytest.mark.parametrize("expected", ["../x.zip", "/etc/passwd", ".", "", "{root}", "a/.."])
def test_paths_outside_are_refused(office: Office, expected: str) -> None:
    """A path outside the watched folder is refused."""
    with JournalReader(office.place) as records, pytest.raises(OutsideSpool):
        locate(Spool(office.root), records, expected.format(root=office.root))


@pytest.mark.parametrize(
    "name", [b"caf\xe9.zip", b"a\nb.zip", b"a\\xe9.zip", "a\u202eb.zip".encode()]
)
def test_paths_are_found_as_the_log_shows_them(office: Office, name: bytes) -> None:
    """A path may be given as in the log, with escapes, or as it is."""
    make_zip(office.root / os.fsdecode(b"pat/" + name))
    with JournalReader(office.place) as records:
        shown = office.explain(b"pat/" + name).path
        assert shown.isprintable()
        for item in (shown, os.fsdecode(b"pat/" + name)):
            assert locate(Spool(office.root), records, item) == b"pat/" + name


def test_odd_texts_are_some_path() -> None:
    """Half a pair of surrogates, and escapes beyond all characters, end in no error."""
    assert undisplay("\\ud800.zip") == [b"\\ud800.zip"]
    assert undisplay("\\Uffffffff")[0] == b"\\Uffffffff"
