"""Zips for cQube 5: the name of the zip decides, and what would stop the service is found."""

import zipfile
from pathlib import Path

import pytest

from emitterd.codes import Code
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import Loss, Severity, blocking, consequence
from emitterd.datasets.inspection import InspectionSettings, Inspector, Report
from support.zips import Counted, zipped

PROGRAM = "nas_all-dashboard"
PATH = f"programs/{PROGRAM}.zip"
CSV = b"state_name,state_code\nKerala,32\n"
CATALOGUE = load_catalogue(programs=True)
INSPECTOR = Inspector(CATALOGUE, InspectionSettings(programs=True))


def report(data: bytes, path: str = PATH, inspector: Inspector = INSPECTOR) -> Report:
    """Inspect a zip under this path."""
    return inspector.report(path.encode(), Counted(data), len(data))


def blocked(data: bytes, path: str = PATH) -> list[Code]:
    """Return the codes of what keeps a zip from being sent."""
    return [finding.code for finding in blocking(report(data, path).findings)]


GOOD = zipped({f"{PROGRAM}.csv": CSV})


def test_the_starter_pack_is_known() -> None:
    """The catalogue has the 15 programs of upstream's starter pack, all with commas."""
    assert len(CATALOGUE.datasets) == 15
    assert {dataset.delimiter for dataset in CATALOGUE.datasets} == {","}
    assert "programs/pm-poshan_access-across-india" in CATALOGUE.names


@pytest.mark.parametrize("folder", ["programs", "vsk", "a/b"])
def test_a_right_zip_has_no_finding_in_any_folder(folder: str) -> None:
    """The server does not see the folder, so only the name of the zip counts."""
    path = f"{folder}/{PROGRAM}.zip"
    assert report(GOOD, path).findings == ()
    dataset = INSPECTOR.dataset(path.encode())
    assert dataset is not None
    assert dataset.name == PROGRAM
    assert CATALOGUE.queue_position(path.encode())[1] == f"programs/{PROGRAM}"


@pytest.mark.parametrize(
    "name", ["nas_all-dashboard_2026.zip", "NAS_all-dashboard.zip", "student_attendance.zip"]
)
def test_a_name_that_is_no_program_is_blocked(name: str) -> None:
    """A stamp, another case, or a dataset of cQube 4 is no program; near names are listed."""
    data = zipped({name.replace(".zip", ".csv"): CSV})
    [finding] = report(data, f"programs/{name}").findings
    assert (finding.code, finding.level) == (Code.UNKNOWN_NAME, Severity.ERROR)
    assert blocked(data, f"programs/{name}") == [Code.UNKNOWN_NAME]
    if "dashboard" in name:
        assert f"{PROGRAM}.zip" in finding.expected


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (zipped({"other.csv": CSV}), Code.CSV_NAME),
        (zipped({f"folder/{PROGRAM}.csv": CSV}), Code.CSV_NAME),
        (zipped({f"{PROGRAM}.CSV": CSV}), Code.CSV_NAME),
        (zipped({}), Code.NO_FILE_IN_ZIP),
        (zipped({"folder/": b""}), Code.NO_FILE_IN_ZIP),
        (zipped({f"{PROGRAM}.csv": CSV, "other.csv": CSV}), Code.SEVERAL_FILES),
        (zipped({f"{PROGRAM}.csv": CSV.replace(b",", b"|")}), Code.WRONG_DELIMITER),
        (zipped({f"{PROGRAM}.csv": CSV.replace(b",", b";")}), Code.WRONG_DELIMITER),
        (zipped({f"{PROGRAM}.csv": CSV}, zipfile.ZIP_BZIP2), Code.UNREADABLE_ZIP),
        (zipped({f"{PROGRAM}.csv": CSV}, zipfile.ZIP_LZMA), Code.UNREADABLE_ZIP),
        (zipped({f"{PROGRAM}.csv": b"state_name,state_code\n"}), Code.NO_RECORDS),
        (GOOD[:60] + bytes([GOOD[60] ^ 255]) + GOOD[61:], Code.DAMAGED),
    ],
    ids=map(str, range(12)),
)
def test_what_would_stop_the_service_is_blocked(data: bytes, code: Code) -> None:
    """Each of these has a finding of its own, and is never sent."""
    assert blocked(data) == [code]
    assert consequence(code, Loss.SERVICE).startswith("emitterd never sends it")


def test_files_of_a_mac_beside_the_csv_do_not_matter() -> None:
    """The service opens the CSV by its name: the finding is a note."""
    data = zipped({f"{PROGRAM}.csv": CSV, f"__MACOSX/._{PROGRAM}.csv": b"x"})
    [finding] = report(data).findings
    assert (finding.code, finding.level) == (Code.SEVERAL_FILES, Severity.NOTE)


def test_the_place_of_a_program_has_its_exact_name() -> None:
    """Whatever a file is called, it has to get the name of the chosen program."""
    title = f"programs/{PROGRAM}"
    assert CATALOGUE.place(b"nas_all-dashboard_1.zip", title) == PATH.encode()
    assert [dataset.title for dataset in CATALOGUE.guess(f"{PROGRAM}.zip")] == [title]


def test_one_column_needs_no_comma() -> None:
    """A CSV with one column has no separator at all."""
    assert blocked(zipped({f"{PROGRAM}.csv": b"state_name\nKerala\n"})) == []


def test_a_catalogue_file_adds_programs(tmp_path: Path) -> None:
    """A program of the state's own is known by its name, with commas, in any folder."""
    file = tmp_path / "catalogue.yaml"
    file.write_text("own/attendance-daily:\n  kind: transactional\n")
    catalogue = load_catalogue(file, programs=True)
    inspector = Inspector(catalogue, InspectionSettings(programs=True))
    data = zipped({"attendance-daily.csv": b"date,present\n2026-11-30,4\n"})
    assert report(data, "vsk/attendance-daily.zip", inspector).findings == ()
    assert catalogue.datasets[-1].delimiter == ","


def test_the_catalogue_of_datasets_is_as_before() -> None:
    """Without `programs` nothing is blocked: `spool.catalogue` decides."""
    inspector = Inspector(load_catalogue(), InspectionSettings())
    findings = report(zipped({"other.csv": CSV}), "nowhere/x.zip", inspector).findings
    assert findings
    assert blocking(findings) == []
