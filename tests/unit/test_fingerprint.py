"""What identifies a version of a file without reading it."""

import os
from pathlib import Path

import pytest

from emitterd.model import CLOCK_TICK_S, Fingerprint

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
def test_size_and_times_decide_about_a_version(field: str) -> None:
    """Device and inode say nothing; `touch -r` forges mtime but not ctime."""
    later = SEEN._replace(**{field: 99})

    assert SEEN.same_version(later) == (field in {"device", "inode"})
    assert SEEN.same_times(later) == (field in {"device", "inode", "ctime_ns"})


def test_a_file_that_replaces_another_one_is_another_version(tmp_path: Path) -> None:
    """A rename changes the ctime, also where size and mtime are equal."""
    path, other = tmp_path / "x.zip", tmp_path / "y"
    path.write_bytes(b"old")
    other.write_bytes(b"new")
    seen = Fingerprint.of(path.stat())
    os.utime(other, ns=(seen.mtime_ns, seen.mtime_ns))
    other.replace(path)
    later = Fingerprint.of(path.stat())

    assert seen.same_times(later)
    assert not seen.same_version(later)


@pytest.mark.parametrize(
    ("ctime_ns", "after_s", "young_s"),
    [
        (5_000_000_000, 0.5, 1.5),
        (5_000_000_000, 2.0, 0.0),
        (5_000_000_000, -60.0, 0.0),
        (5_000_000_001, 0.0, CLOCK_TICK_S),
        (5_000_000_001, CLOCK_TICK_S, 0.0),
    ],
)
def test_a_time_stamp_of_this_tick_does_not_prove_the_content(
    ctime_ns: int, after_s: float, young_s: float
) -> None:
    """Stamps of whole seconds are young for two; the kernel's own for one tick of its clock."""
    seen = SEEN._replace(ctime_ns=ctime_ns)
    assert seen.young_s(ctime_ns / 1e9 + after_s) == pytest.approx(young_s, abs=1e-6)


@pytest.mark.parametrize("at_ns", [10**30, -(10**30)])
def test_any_time_fits_the_integers_of_sqlite(at_ns: int) -> None:
    """A time before 1677 or after 2262 becomes the first or last that 64 bits hold."""
    times = [0.0, 0.0, 0.0, 0, at_ns, at_ns]
    seen = Fingerprint.of(os.stat_result([0, 1, 2, 1, 0, 0, 9, 0, 0, 0, *times]))
    assert seen.mtime_ns == seen.ctime_ns == (2**63 - 1 if at_ns > 0 else -(2**63))
