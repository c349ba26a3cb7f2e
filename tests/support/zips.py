"""Zips, valid and broken, and a dataset to inspect them against."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emitterd.datasets.catalogue import Catalogue, Dataset, DatasetKind, Header, HeaderMatch
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.inspection import InspectionSettings, Report, inspect
from emitterd.datasets.sample import sample_csv
from emitterd.datasets.zip_integrity import ReadAt
from support.zip_writer import NAME, Member, member

CSV = b"school_id,present\n1001,17\n"

COLUMNS = ("StudentId", "SchoolId", "AcademicYear", "Month", "Remark")
HEADER = "|".join(COLUMNS)
ROW = "1001|24001|2020-21|7|present"
GOOD = f"{HEADER}\n{ROW}\n1002|24001|2020-21|7|NULL\n".encode()


def header(
    *columns: str, match: HeaderMatch = HeaderMatch.SEQUENCE, variant: str = "", required: str = ""
) -> Header:
    """Return a header of the catalogue; `required` is separated by blanks."""
    return Header(columns, match, tuple(required.split()), variant)


ATTENDANCE = Dataset(
    "student_attendance",
    "student_attendance",
    DatasetKind.TRANSACTIONAL,
    7,
    headers=(header(*COLUMNS),),
    keys=("StudentId", "SchoolId"),
)


@dataclass
class Counted:
    """A `read_at` of bytes that counts the bytes it is asked for."""

    data: bytes
    asked_bytes: int = 0
    largest_bytes: int = 0

    def __call__(self, offset: int, count: int) -> bytes:
        """Return bytes, as `os.pread` does."""
        assert offset >= 0
        assert count >= 0
        self.asked_bytes += count
        self.largest_bytes = max(self.largest_bytes, count)
        return self.data[offset : offset + count]


def inspected(
    data: bytes,
    dataset: Dataset | None = ATTENDANCE,
    settings: InspectionSettings | None = None,
    read_at: ReadAt | None = None,
) -> Report:
    """Inspect a zip in memory."""
    settings = settings or InspectionSettings()
    return inspect(read_at or Counted(data), len(data), dataset, settings)


def inspected_csv(
    content: bytes, dataset: Dataset | None = ATTENDANCE, settings: InspectionSettings | None = None
) -> Report:
    """Inspect a zip of one CSV."""
    return inspected(zipped({NAME: content}), dataset, settings)


def codes(report: Report) -> list[str]:
    """Return the codes of the findings, in their order."""
    return [finding.code.value for finding in report.findings]


def words(report: Report) -> list[tuple[str, str, str]]:
    """Return code, expected and found of the findings, in their order."""
    return [(finding.code.value, finding.expected, finding.found) for finding in report.findings]


def zipped(
    members: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED, comment: bytes = b""
) -> bytes:
    """Return a zip of named files; a name that ends in / is a folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = comment
    return target.getvalue()


def raw(content: bytes = GOOD) -> Member:
    """Return a correct deflated CSV, to be changed."""
    return member(content)


def repeated(head: bytes, chunk: bytes, times: int, *, crc: bool = False) -> bytes:
    """Return a zip of `head` and many times `chunk`, packed only once.

    After a full flush a piece of a deflate stream depends on nothing before it.
    """
    packer = zlib.compressobj(wbits=-15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    total = zlib.crc32(head)
    for _ in range(times if crc else 0):
        total = zlib.crc32(chunk, total)
    packed = start + piece * times + packer.flush()
    return Member(packed, len(head) + len(chunk) * times, total).zip()


def zip_bytes(content: bytes = CSV) -> bytes:
    """Return a whole zip with one stored CSV; equal content gives equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("data.csv"), content)
    return buffer.getvalue()


def make_zip(path: Path, content: bytes = CSV) -> Path:
    """Write such a zip, with the folders above it; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_bytes(content))
    return path


@cache
def shipped() -> Catalogue:
    """Return the catalogue that the package ships."""
    return load_catalogue()


def sample(path: str, rows: int = 3) -> bytes:
    """Return a CSV that the server would take for the zip at this path."""
    dataset = shipped().dataset(path.encode())
    assert dataset is not None
    return sample_csv(dataset, rows).encode()
