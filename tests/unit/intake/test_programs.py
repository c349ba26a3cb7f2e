"""The intake for cQube 5: what would stop the service is rejected, with any `spool.catalogue`."""

from dataclasses import replace
from pathlib import Path

import pytest

from emitterd.codes import Code
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.inspection import InspectionSettings, Inspector
from emitterd.intake import examine
from emitterd.journal.journal import Journal
from emitterd.model import State
from support.intake import GIVE_UP_S, SWEEP_S, IntakeDriver, names
from support.zips import repeated, zipped

PROGRAM = "udise_program-started"
CSV = b"state_name,state_code\nKerala,32\n"


def driver_of(root: Path, journal: Journal, findings: str) -> IntakeDriver:
    """Return an intake for cQube 5, with this `spool.catalogue`."""
    driver = IntakeDriver(root, journal, findings)
    inspector = Inspector(load_catalogue(programs=True), InspectionSettings(programs=True))
    driver.examiner.apply_settings(replace(driver.rules, inspector=inspector))
    return driver


def put(root: Path, name: str, data: bytes) -> bytes:
    """Write a file into a folder; return its path."""
    path = root / "programs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return f"programs/{name}".encode()


@pytest.mark.parametrize("findings", ["off", "warn", "enforce"])
@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        (f"{PROGRAM}.zip", zipped({"other.csv": CSV}), Code.CSV_NAME),
        (f"{PROGRAM}_1.zip", zipped({f"{PROGRAM}_1.csv": CSV}), Code.UNKNOWN_NAME),
        (f"{PROGRAM}.zip", zipped({f"{PROGRAM}.csv": b"a|b\n1|2\n"}), Code.WRONG_DELIMITER),
    ],
    ids=["csv", "program", "delimiter"],
)
def test_what_would_stop_the_service_is_rejected(
    spool_root: Path, journal: Journal, findings: str, name: str, data: bytes, code: Code
) -> None:
    """The file is rejected at its admission, with the code of the finding and a remedy."""
    driver = driver_of(spool_root, journal, findings)
    path = put(spool_root, name, data)
    events = driver.step(10.0, path) + driver.step(10.0, path)

    known = journal.latest(path)
    assert known is not None
    assert (known.state, known.error) == (State.REJECTED, code)
    [rejected] = [event for event in events if event["event"] == "file.rejected"]
    assert (rejected["error"], rejected["hint"]) == (code, code.remedy)


def test_a_good_file_is_queued_without_findings(spool_root: Path, journal: Journal) -> None:
    """The checks let a right zip pass."""
    driver = driver_of(spool_root, journal, "off")
    path = put(spool_root, f"{PROGRAM}.zip", zipped({f"{PROGRAM}.csv": CSV}))
    events = driver.step(10.0, path) + driver.step(10.0, path)

    assert "file.admitted" in names(events)
    known = journal.latest(path)
    assert known is not None
    assert known.state is State.QUEUED


def test_a_damaged_content_is_never_sent(
    spool_root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of the whole content is compared: beyond the inspection, up to a limit."""
    data = repeated(CSV, b"Kerala,32\n" * 1000, 3000)
    name = f"{PROGRAM}.zip"
    driver = driver_of(spool_root, journal, "off")
    path = put(spool_root, name, data)
    events = driver.step(10.0, path) + driver.step(10.0, path)
    assert [event["error"] for event in events] == [Code.INCOMPLETE]
    events = driver.step(GIVE_UP_S + SWEEP_S, path)
    known = journal.latest(path)
    assert known is not None
    assert (known.state, known.error) == (State.REJECTED, Code.INCOMPLETE)

    # A zip that unpacks to any size costs no more than the limit.
    monkeypatch.setattr(examine, "PROGRAM_MAX_BYTES", 1024**2)
    path = put(spool_root, "udise-all-dashboard.zip", data)
    driver.step(10.0, path)
    driver.step(10.0, path)
    known = journal.latest(path)
    assert known is not None
    assert known.error == Code.CSV_NAME
