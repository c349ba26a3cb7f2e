"""The intake, step by step: which files are admitted, and when."""

import fcntl
import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import NOBODY, Python, SmallDisk
from emitterd.housekeeping.disposal import DisposalRule
from emitterd.intake.examine import MAX_BYTES
from emitterd.intake.loop import BUSY_S, FULL_S
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.model import State
from emitterd.spool.selection import Selection
from support.intake import GIVE_UP_S, NAME, PATH, SWEEP_S, IntakeDriver, names, swept
from support.journal import deliver
from support.paths import TESTS
from support.zips import make_zip, sample, zip_bytes


@pytest.fixture
def driver(spool_root: Path, journal: Journal) -> IntakeDriver:
    """Watch an empty folder."""
    return swept(spool_root, journal)


def test_complete_file_is_admitted(spool_root: Path, journal: Journal) -> None:
    """The first sweep admits the files of the folder and notifies the workers."""
    size = make_zip(spool_root / NAME).stat().st_size
    driver = IntakeDriver(spool_root, journal)
    (event,) = driver.step()
    assert event["event"] == "file.admitted"
    assert (event["path"], event["bytes"]) == (NAME, size)
    assert (driver.notified, driver.sweeps) == (1, 1)
    assert driver.intake.swept_at is not None
    entry = journal.claim(time.time())
    assert entry is not None
    assert entry.path == PATH


def test_hint_is_enough(driver: IntakeDriver) -> None:
    """A hint admits a file without a sweep; a folder's hint admits all its files."""
    make_zip(driver.root / NAME)
    assert names(driver.step(1, PATH)) == ["file.admitted"]
    make_zip(driver.root / "new" / "deep" / "a.zip")
    make_zip(driver.root / "new" / "b.zip")
    driver.intake.hint(b"new", is_folder=True)
    assert names(driver.step(1)) == ["file.admitted"] * 2
    assert driver.sweeps == 1


def test_file_being_written_waits_for_its_close(driver: IntakeDriver) -> None:
    """A whole zip that is still open is admitted only after it is closed."""
    with make_zip(driver.root / NAME).open("ab"):
        for _ in range(20):
            assert driver.step(1, PATH) == []
        assert driver.intake.step(driver.now) < 5
    assert names(driver.step(SWEEP_S - 1)) == ["file.admitted"]


def test_truncated_file_is_reported_once_then_rejected(driver: IntakeDriver) -> None:
    """A cut-off zip is reported once, rejected later, and admitted when corrected."""
    path = make_zip(driver.root / NAME)
    path.write_bytes(zip_bytes()[:-3])
    (event,) = driver.step(1, PATH)
    assert (event["event"], event["error"]) == ("file.incomplete", "E201")
    assert event["hint"]
    for _ in range(30):
        assert driver.step(GIVE_UP_S / 31, PATH) == []
        driver.sweep()
    assert driver.journal.latest(PATH) is None
    admitted, rejected = driver.step(GIVE_UP_S / 30)
    assert names([admitted, rejected]) == ["file.admitted", "file.rejected"]
    assert (rejected["error"], rejected["log_level"]) == ("E201", "error")
    assert driver.journal.counts()[State.REJECTED] == 1
    assert driver.step(GIVE_UP_S, PATH) == []
    make_zip(path)
    assert names(driver.step(1, PATH)) == ["file.admitted"]
    assert driver.journal.counts()[State.QUEUED] == 1


def test_mended_in_time(driver: IntakeDriver) -> None:
    """A copy that continues after a pause is admitted and never rejected."""
    path = driver.root / NAME
    make_zip(path).write_bytes(zip_bytes()[:40])
    assert names(driver.step(1, PATH)) == ["file.incomplete"]
    path.write_bytes(zip_bytes()[:60])
    assert names(driver.step(1, PATH)) == ["file.incomplete"]
    path.write_bytes(zip_bytes())
    assert names(driver.step(1, PATH)) == ["file.admitted"]
    assert driver.step(2 * GIVE_UP_S, PATH) == []


def test_known_file_is_not_opened(driver: IntakeDriver) -> None:
    """A known file costs one stat and is not opened."""
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    other = make_zip(driver.root / "pat" / "unknown.zip")
    with (driver.root / NAME).open("ab") as known, other.open("ab") as unknown:
        for file in (known, unknown):
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        driver.step(1, PATH, b"pat/unknown.zip")
        assert b"pat/unknown.zip" in driver.examiner.tracker
        assert PATH not in driver.examiner.tracker
        assert driver.sweep()["files"] == 2


def test_replaced_file(driver: IntakeDriver) -> None:
    """A new version replaces the version that waits."""
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    make_zip(driver.root / NAME, b"other")
    withdrawn, admitted = driver.step(1, PATH)
    assert names([withdrawn, admitted]) == ["file.withdrawn", "file.admitted"]
    assert withdrawn["error"] == "E204"
    assert driver.journal.counts()[State.QUEUED] == 1


def test_version_behind_an_upload_waits(driver: IntakeDriver) -> None:
    """While an older version is sent, the new one is examined without a log line."""
    make_zip(driver.root / NAME)
    driver.step(1, PATH)
    entry = driver.journal.claim(time.time())
    assert entry is not None
    make_zip(driver.root / NAME, b"other")
    assert driver.step(0.1, PATH) == []
    assert driver.step(BUSY_S + 0.1) == []
    deliver(driver.journal, entry)
    assert names(driver.step(BUSY_S + 0.1)) == ["file.admitted"]


@pytest.mark.parametrize(
    ("findings", "events"),
    [
        ("off", ["file.admitted"]),
        ("warn", ["file.admitted"]),
        ("enforce", ["file.admitted", "file.rejected"]),
    ],
)
def test_catalogue(findings: str, events: list[str], spool_root: Path, journal: Journal) -> None:
    """The setting decides: a wrong file is sent, sent with findings, or rejected."""
    driver = IntakeDriver(spool_root, journal, findings)
    make_zip(spool_root / "nowhere" / "x.zip")
    reported = driver.step()
    assert names(reported) == events
    assert bool(reported[0]["findings"]) == (findings == "warn")
    if findings == "enforce":
        assert reported[1]["error"] == "E210"
        assert "nowhere" in reported[1]["reason"]
    make_zip(spool_root / NAME, sample(NAME))
    reported = driver.step(1, PATH)
    assert [(event["event"], event["findings"]) for event in reported] == [("file.admitted", None)]


def test_findings_are_kept_and_rejected_for(spool_root: Path, journal: Journal) -> None:
    """Each finding is in the reason and, with its parts, in the journal."""
    driver = IntakeDriver(spool_root, journal, "enforce")
    make_zip(spool_root / NAME, sample(NAME).replace(b"exam_id", b"exam"))

    (_, rejected) = driver.step()

    assert rejected["reason"].startswith("E233 ")
    assert "exam_id" in rejected["reason"]
    ((text,),) = journal.read("select findings from entry")
    (finding,) = json.loads(text)
    assert (finding["code"], finding["level"]) == ("E233", "error")


def test_what_costs_rows_only_is_sent_under_enforce(spool_root: Path, journal: Journal) -> None:
    """A file of which the server drops only some rows is sent with a warning."""
    driver = IntakeDriver(spool_root, journal, "enforce")
    make_zip(spool_root / NAME, sample(NAME) + b"1|2\n")

    (reported,) = driver.step()

    assert (reported["event"], reported["log_level"]) == ("file.admitted", "warning")
    assert [finding[:4] for finding in reported["findings"]] == ["E240", "E245"]


def test_file_that_waits_at_the_door_is_inspected_once(spool_root: Path, journal: Journal) -> None:
    """While an older version is sent, the new one is not inspected each second."""
    driver = IntakeDriver(spool_root, journal, "warn")
    make_zip(spool_root / NAME, sample(NAME))
    driver.step()
    entry = journal.claim(time.time())
    assert entry is not None
    make_zip(spool_root / NAME, sample(NAME) * 2)
    driver.step(1, PATH)
    for _ in range(3):
        assert driver.step(BUSY_S) == []
    deliver(journal, entry)

    assert names(driver.step(BUSY_S)) == ["file.admitted"]
    assert driver.inspector.reports == 2


def sparse_zip(path: Path, size: int) -> None:
    """Make a sparse zip64 of any size without entries."""
    at = size - 56 - 20 - 22
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 0, 0, 0, at)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    big = 0xFFFF_FFFF
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, big, big, 0)
    with path.open("wb") as file:
        file.seek(at)
        file.write(wide + locator + end)


@pytest.mark.parametrize(
    ("over", "events"), [(0, ["file.admitted"]), (1, ["file.admitted", "file.rejected"])]
)
def test_largest_file(over: int, events: list[str], driver: IntakeDriver) -> None:
    """A file of 5 GiB is sent; a larger one is rejected at once."""
    (driver.root / "pat").mkdir()
    sparse_zip(driver.root / "pat" / "big.zip", MAX_BYTES + over)
    reported = driver.step(1, b"pat/big.zip")
    assert names(reported) == events
    if over:
        assert reported[1]["error"] == "E202"
        assert str(MAX_BYTES + 1) in reported[1]["reason"]


ODD: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_reported_once(kind: str, driver: IntakeDriver) -> None:
    """A link or pipe of the right name is reported once, until it is a file."""
    path = driver.root / "pat" / "a.zip"
    path.parent.mkdir()
    ODD[kind](path)
    (event,) = driver.step(1, b"pat/a.zip")
    assert event["error"] == "E207"
    assert driver.step(1, b"pat/a.zip") == []
    assert driver.step(SWEEP_S) == []
    path.unlink()
    driver.step(1, b"pat/a.zip")
    assert names(driver.step(1, b"pat/a.zip")) == []
    make_zip(path)
    assert names(driver.step(1, b"pat/a.zip")) == ["file.admitted"]


@pytest.mark.parametrize("name", ["a.csv", ".a.zip", "a.zip.part", ".d/a.zip"])
def test_other_names_are_passed_over(name: str, driver: IntakeDriver) -> None:
    """A file that is not a candidate by its name is not examined."""
    make_zip(driver.root / name)
    assert driver.step(1, name.encode()) == []
    driver.sweep()
    assert set(driver.journal.counts().values()) == {0}


def test_full_journal(spool_root: Path, small_disk: SmallDisk) -> None:
    """A full disk is logged once; with free space the files are admitted."""
    for number in range(100):
        make_zip(spool_root / "pat" / f"{number}.zip")
    with open_journal(small_disk.root / "journal.db") as journal:
        driver = IntakeDriver(spool_root, journal)
        small_disk.fill()
        (event,) = driver.step()
        assert (event["event"], event["error"]) == ("journal.full", "E104")
        assert event["hint"]
        assert driver.step(FULL_S + 1) == []
        small_disk.free()
        reported = names(driver.step(FULL_S + 1))
        assert reported == ["journal.recovered", *["file.admitted"] * 100]
        assert journal.counts()[State.QUEUED] == 100


def test_file_that_cannot_be_read(journal: Journal) -> None:
    """A read error of the disk is logged and affects only that file."""
    root = Path("/sys/class/net/lo").resolve().parent
    try:
        # Fails with EINVAL.
        (root / "lo" / "speed").read_bytes()
    except FileNotFoundError:
        pytest.skip("there is no /sys here")
    except OSError:
        driver = IntakeDriver(root, journal)
        errors = {event["path"]: event["error"] for event in driver.step(0, b"lo/speed")}
        assert errors["lo/speed"] == "E205"
    else:
        pytest.skip("no file here that can be opened but not read")


def test_quiet_period_where_no_lease_is_to_be_had(python: Python, spool_root: Path) -> None:
    """Another owner's file is admitted once it has not changed for `settle`."""
    make_zip(spool_root / "pat" / "a.zip")
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from support.intake import IntakeDriver
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from support.zips import zip_bytes
driver = IntakeDriver(Path("."), open_journal(Path("../journal.db")))
{NOBODY}
print([len(driver.step(after)) for after in (0, 4.9, 0.2)], driver.intake.settling())
"""
    assert python(script, cwd=spool_root) == "[0, 0, 1] False\n"


def wait_after_the_sweep(driver: IntakeDriver) -> float:
    """Return how long the intake waits, in seconds; on a busy machine a sweep takes many steps."""
    while (wait_s := driver.intake.step(driver.now)) == 0.0:
        pass
    return wait_s


def test_other_rules_hold_from_the_next_turn_on(driver: IntakeDriver) -> None:
    """A reload drops an ignored file, and finds a newly selected one at once."""
    make_zip(driver.root / NAME).write_bytes(b"unfinished")
    assert names(driver.step(0.0, PATH)) == ["file.incomplete"]
    make_zip(driver.root / NAME)
    none = Selection(["none"], [])
    driver.intake.apply_settings(replace(driver.rules, selection=none, sweep_every_s=9.0))
    assert driver.step(0.0, PATH) == []
    assert PATH not in driver.examiner.tracker
    assert wait_after_the_sweep(driver) == 9.0

    driver.intake.apply_settings(driver.rules)
    assert names(driver.step()) == ["file.admitted"]
    assert wait_after_the_sweep(driver) == SWEEP_S


def test_rule_of_disposal_comes_with_the_patterns(driver: IntakeDriver) -> None:
    """The disposal uses the new rule only after its exclusions apply."""
    driver.intake.apply_settings(replace(driver.rules, disposal=DisposalRule()))
    assert not driver.disposal.keeps(State.DELIVERED)
    driver.step()

    assert driver.disposal.keeps(State.DELIVERED)


def test_another_contract_inspects_anew(spool_root: Path, journal: Journal) -> None:
    """A file that waits for admission is inspected again after a reload."""
    driver = IntakeDriver(spool_root, journal, "warn")
    driver.sweep()
    make_zip(driver.root / NAME)
    driver.examiner.examine(PATH, driver.now)
    driver.examiner.examine(PATH, driver.now)
    assert driver.inspector.reports == 1
    driver.examiner.apply_settings(driver.rules)
    driver.examiner.examine(PATH, driver.now)

    assert driver.inspector.reports == 2


def test_permission_denied_and_granted(python: Python, spool_root: Path) -> None:
    """An unreadable file is reported once, and admitted when it is readable."""
    spool_root.chmod(0o777)
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from support.intake import IntakeDriver, names
from support.zips import zip_bytes
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from support.zips import zip_bytes
driver = IntakeDriver(Path("."), open_journal(Path("../journal.db")))
{NOBODY}
Path("pat").mkdir()
Path("shut").mkdir()
for name in ("pat/a.zip", "pat/b.zip", "shut/c.zip"):
    Path(name).write_bytes(zip_bytes())
locked = Path("pat/a.zip"), Path("shut")
for one in locked:
    one.chmod(0)
print([[str(one.get("error", one["path"])) for one in driver.step(30)] for _ in "123"])
for one in locked:
    one.chmod(0o700)
print(sorted(one["path"] for one in driver.step(30)))
"""
    output = python(script, cwd=spool_root).splitlines()

    first, *later = json.loads(output[0].replace("'", '"'))
    assert sorted(first) == ["E205", "E205", "pat/b.zip"]
    assert later == [[], []]
    assert output[1] == "['pat/a.zip', 'shut/c.zip']"
