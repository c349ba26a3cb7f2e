"""Zips for cQube 5: the name of the zip decides, and what would stop the service is found."""

import struct
import zipfile
from collections.abc import Callable
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


def sparse_zip(csv_bytes: int) -> tuple[Callable[[int, int], bytes], int]:
    """Return a reader of a stored zip whose CSV has this size, mostly of zeros, and its size."""
    small = zipped({f"{PROGRAM}.csv": b""}, zipfile.ZIP_STORED)
    directory_at = small.index(b"PK\x01\x02")
    end_at = len(small) - 22
    sizes = struct.pack("<LL", csv_bytes, csv_bytes)
    head = small[:18] + sizes + small[26:directory_at]
    directory = small[directory_at : directory_at + 20] + sizes + small[directory_at + 28 : end_at]
    at = struct.pack("<L", len(head) + csv_bytes)
    tail = directory + small[end_at : end_at + 16] + at + small[-2:]
    tail_at = len(head) + csv_bytes

    def read_at(offset: int, count: int) -> bytes:
        before = head[offset : offset + count]
        zeros = max(0, min(offset + count, tail_at) - max(offset, len(head)))
        after = tail[max(0, offset - tail_at) : max(0, offset + count - tail_at)]
        return before + bytes(zeros) + after

    return read_at, tail_at + len(tail)


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


EXTRAS = {
    "a file of a Mac": {f"__MACOSX/._{PROGRAM}.csv": b"x"},
    "a text": {"readme.txt": b"x"},
    "a folder": {"folder/": b""},
    "a folder with the name of the CSV": {f"{PROGRAM}.csv/": b""},
    "a name that is too long for a disk": {"r" * 300: b"x"},
}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("first", [False, True])
def test_a_zip_with_more_than_the_csv_is_blocked(extra: dict[str, bytes], *, first: bool) -> None:
    """The service unpacks everything in a zip, and ends if it cannot unpack one file of it."""
    csv_file = {f"{PROGRAM}.csv": CSV}
    data = zipped({**extra, **csv_file} if first else {**csv_file, **extra})
    assert blocked(data) == [Code.SEVERAL_FILES]


def changed(offset: int, value: bytes) -> bytes:
    """Return the right zip with other bytes at an offset of its end record."""
    at = len(GOOD) - 22 + offset
    return GOOD[:at] + value + GOOD[at + len(value) :]


COMMENT = b"PK\x05\x06" + bytes(range(40))
UNCOUNTED = {
    "more padding than the service searches": GOOD + bytes(0x10000),
    "a long comment and padding": changed(20, b"\x40\x9c") + b"x" * 40_000 + bytes(40_000),
    "an end record in the comment": changed(20, bytes([len(COMMENT), 0])) + COMMENT,
    "no file on this disk": changed(8, b"\0\0"),
    "encrypted, says the directory": GOOD.replace(
        b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"
    ),
}


@pytest.mark.parametrize("data", UNCOUNTED.values(), ids=UNCOUNTED)
def test_a_zip_whose_directory_the_service_does_not_find_is_blocked(data: bytes) -> None:
    """The service searches 64 KiB for the last end record, and reads the directory by it."""
    assert blocked(data) == [Code.UNREADABLE_ZIP]


@pytest.mark.parametrize(
    "data", [GOOD + bytes(0xFFFF), changed(20, b"\x05\0") + b"hello"], ids=["padding", "comment"]
)
def test_padding_and_a_comment_do_not_matter(data: bytes) -> None:
    """The service finds the end record in front of them."""
    assert blocked(data) == []


@pytest.mark.parametrize("zip_bytes", [2**31 - 1, 2**31])
def test_a_zip_that_the_service_cannot_read_at_once_is_blocked(zip_bytes: int) -> None:
    """From 2 GiB on Node.js refuses to read it, and the service ends."""
    csv_bytes = zip_bytes - len(zipped({f"{PROGRAM}.csv": b""}, zipfile.ZIP_STORED))
    # Only the sizes of these headers are right; the content between them is not read.
    findings = INSPECTOR.report(PATH.encode(), *sparse_zip(csv_bytes)).findings
    codes = [finding.code for finding in blocking(findings)]
    assert (Code.TOO_LARGE_TO_UNPACK in codes) == (zip_bytes >= 2**31)


def test_the_place_of_a_program_has_its_exact_name() -> None:
    """A file with any name has to get that of the chosen program."""
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
