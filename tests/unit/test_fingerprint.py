"""What identifies a version of a file without reading it."""

import os
from pathlib import Path

import pytest

from emitterd.model import Fingerprint

SEEN = Fingerprint(
    device=1, inode=2, size_bytes=300, mtime_ns=4_000_000_000, ctime_ns=5_000_000_000
)


def test_it_is_taken_out_of_a_stat(tmp_path: Path) -> None:
    """Device, inode, size and both times in nanoseconds are those of the stat."""
    path = tmp_path / "x.zip"
    path.write_bytes(b"12345")
    stat = path.stat()

    assert Fingerprint.of(stat) == (stat.st_dev, stat.st_ino, 5, stat.st_mtime_ns, stat.st_ctime_ns)


def test_huge_device_and_inode_numbers_fit_a_signed_64_bit_column() -> None:
    """Unsigned 64-bit numbers, as network file systems have them, are folded."""
    times = [0.0, 0.0, 0.0, 0, 7, 8]
    huge = os.stat_result([0, 2**64 - 1, 2**63 + 5, 1, 0, 0, 9, 0, 0, 0, *times])

    assert Fingerprint.of(huge) == (5, 2**63 - 1, 9, 7, 8)


@pytest.mark.parametrize("field", Fingerprint._fields)
def test_any_difference_is_another_version(field: str) -> None:
    """One field that differs is enough; `touch -r` forges mtime but not ctime."""
    later = SEEN._replace(**{field: 99})

    assert later != SEEN
    assert not SEEN.same_bytes(later, links=1)


@pytest.mark.parametrize("links", [0, 1, 2])
def test_an_equal_stat_is_the_same_bytes(links: int) -> None:
    """Nothing changed: the bytes are those that were admitted."""
    assert SEEN.same_bytes(SEEN, links)


@pytest.mark.parametrize("field", ["device", "inode", "size_bytes", "mtime_ns"])
def test_a_deleted_file_that_was_written_as_well_is_not(field: str) -> None:
    """A file without a link whose size or mtime changed has other bytes."""
    later = SEEN._replace(ctime_ns=99, **{field: 99})

    assert not SEEN.same_bytes(later, links=0)


def test_an_open_file_that_was_deleted_keeps_its_bytes(tmp_path: Path) -> None:
    """Deleting changes the ctime only, and the descriptor still has the bytes."""
    path = tmp_path / "x.zip"
    path.write_bytes(b"old")
    with path.open("rb") as file:
        seen = Fingerprint.of(os.fstat(file.fileno()))
        path.unlink()
        stat = os.fstat(file.fileno())

    assert seen.same_bytes(Fingerprint.of(stat), stat.st_nlink)


def test_an_open_file_that_was_replaced_keeps_its_bytes(tmp_path: Path) -> None:
    """A rename over the name leaves the old file, now without a name, as it was."""
    path, other = tmp_path / "x.zip", tmp_path / "y"
    path.write_bytes(b"old")
    other.write_bytes(b"new")
    with path.open("rb") as file:
        seen = Fingerprint.of(os.fstat(file.fileno()))
        other.replace(path)
        stat = os.fstat(file.fileno())

    assert seen.same_bytes(Fingerprint.of(stat), stat.st_nlink)
    assert Fingerprint.of(path.stat()) != seen


@pytest.mark.parametrize("at_ns", [10**30, -(10**30)])
def test_any_time_fits_the_integers_of_sqlite(at_ns: int) -> None:
    """A time before 1677 or after 2262 becomes the first or last that 64 bits hold."""
    times = [0.0, 0.0, 0.0, 0, at_ns, at_ns]
    seen = Fingerprint.of(os.stat_result([0, 1, 2, 1, 0, 0, 9, 0, 0, 0, *times]))
    assert seen.mtime_ns == seen.ctime_ns == (2**63 - 1 if at_ns > 0 else -(2**63))
