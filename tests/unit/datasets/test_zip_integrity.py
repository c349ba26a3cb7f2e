"""Whether bytes are a whole zip, with real and cut-off zips."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.zip_integrity import zip_flaw
from unit.datasets.zip_corpus import python

NO_END = "no zip end record closes at the end of the file"
ELSEWHERE = "the zip's directory is not where its end record says"
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
CSV = b"school_id,year\n" * 40


def flaw(data: bytes) -> str | None:
    """Return what is wrong with bytes in memory."""
    return zip_flaw(lambda offset, count: data[offset : offset + count], len(data))


def zipped(*members: bytes, comment: bytes = b"", how: int = DEFLATED) -> bytes:
    """Return a zip of the members, with a comment at its end."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as archive:
        for number, member in enumerate(members):
            archive.writestr(f"{number}.csv", member)
        archive.comment = comment
    return target.getvalue()


@cache
def many(count: int) -> bytes:
    """Return a zip of so many empty members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number in range(count):
            archive.writestr(zipfile.ZipInfo(str(number)), b"")
    return target.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "one member": lambda: zipped(CSV),
    "several members": lambda: zipped(CSV, b"", CSV, how=STORED),
    "empty": zipped,
    "comment": lambda: zipped(CSV, comment=b"cQube emission"),
    "comment of zeros": lambda: zipped(CSV, comment=bytes(40)),
    "longest comment": lambda: zipped(CSV, comment=b"c" * 65_535),
    "empty with longest comment": lambda: zipped(comment=b"c" * 65_535),
    "zip64 sizes": lambda: python(0, wide=True),
    "written to a pipe": lambda: python(0, pipe=True),
    "inner zip": lambda: zipped(zipped(CSV), how=STORED),
    "65535 members without zip64": lambda: many(65_535),
    "65536 members with zip64": lambda: many(65_536),
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_a_whole_zip_has_no_flaw(make: Callable[[], bytes]) -> None:
    """A zip that the standard library has finished is whole."""
    assert flaw(make()) is None


@pytest.mark.parametrize("gib", [1, 2, 3, 5])
def test_a_sparse_large_zip_has_no_flaw(tmp_path: Path, gib: int) -> None:
    """Where there is a zip64 record, it says where the directory is.

    The standard library writes one from 2 GiB on, the end record needs it from 4.
    """
    path = tmp_path / "big.zip"
    with path.open("wb") as file:
        file.seek(gib * 1024**3)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.csv", CSV)
    with path.open("rb") as file:
        fd = file.fileno()
        size = path.stat().st_size

        assert zip_flaw(lambda at, count: os.pread(fd, count, at), size) is None
        assert zip_flaw(lambda at, count: os.pread(fd, count, at), size - 1) == NO_END


SMALL: dict[str, Callable[[], bytes]] = {
    "deflated": lambda: zipped(CSV, b"x" * 50),
    "stored": lambda: zipped(CSV, how=STORED),
    "empty": zipped,
    "comment": lambda: zipped(CSV, comment=b"cQube emission"),
    "comment of zeros": lambda: zipped(b"x", comment=bytes(40)),
    "inner zip": lambda: zipped(zipped(CSV), b"x", how=STORED),
    "inner empty zip": lambda: zipped(zipped(), b"x", how=STORED),
    "zip64 sizes": lambda: python(0, wide=True),
    "written to a pipe": lambda: python(0, pipe=True),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_a_zip_cut_off_anywhere_is_flagged(make: Callable[[], bytes]) -> None:
    """A zip that is cut off at any byte is not whole."""
    data = make()
    missed = [at for at in range(len(data)) if flaw(data[:at]) is None]
    assert missed == []


@pytest.mark.parametrize("lost", [1, 19, 20, 21, 22, 42, 43, 98, 99, 1000])
def test_a_zip64_cut_off_in_its_records_is_flagged(lost: int) -> None:
    """End record, locator and zip64 record are needed, each of them whole."""
    assert flaw(many(65_536)[:-lost]) is not None


@pytest.mark.parametrize(("offset", "byte"), [(0, 0), (4, 45), (48, 1)])
def test_a_zip64_record_that_contradicts_is_flagged(offset: int, byte: int) -> None:
    """Signature, length and directory offset of the record must fit the file."""
    data = bytearray(many(65_536))
    data[data.rindex(b"PK\x06\x06") + offset] ^= byte or 0xFF
    assert flaw(bytes(data)) == ELSEWHERE


# Without ids the bytes, which hold the time, would name the cases: differently in each process.
@pytest.mark.parametrize(
    "inner", [zipped(CSV), zipped(CSV, comment=b"inner")], ids=["no comment", "comment"]
)
def test_a_cut_off_zip_that_ends_in_an_inner_zip_is_flagged(inner: bytes) -> None:
    """The end record of an inner zip at the end of the file does not count."""
    outer = zipped(CSV, inner, how=STORED)
    cut = outer[: outer.index(inner) + len(inner)]

    assert cut.endswith(inner)
    assert flaw(inner) is None
    assert flaw(cut) == ELSEWHERE


def test_a_cut_off_zip_that_ends_in_an_inner_zip64_is_flagged() -> None:
    """The inner zip64 record is looked for where it would be, and is not there."""
    inner = many(65_536)
    outer = zipped(inner, how=STORED)
    assert flaw(outer[: outer.index(inner) + len(inner)]) == ELSEWHERE


@pytest.mark.parametrize(
    "after",
    [b"\n", b"\r\n", b"\0", bytes(22), bytes(64 * 1024), b"made by hand, \xe0\xa4\x95\n"],
    ids=["newline", "CRLF", "zero", "zeros", "64 KiB", "comment"],
)
@pytest.mark.parametrize("comment", [b"", b"cQube"])
def test_padding_and_an_unannounced_comment_may_follow(after: bytes, comment: bytes) -> None:
    """The server reads a zip with zeros, white space or text behind its end record."""
    assert flaw(zipped(CSV, comment=comment) + after) is None


@pytest.mark.parametrize(
    "junk",
    [b"\1", b"\xff" * 9, b"x" * 65_537, bytes(65_537), b"PK\x05\x06", zipped(CSV)[:-1]],
    ids=["control character", "binary", "long text", "long padding", "a signature", "half a zip"],
)
def test_trailing_junk_is_flagged(junk: bytes) -> None:
    """Other data behind the end record is counted."""
    assert flaw(zipped(CSV) + junk) == f"{len(junk)} bytes follow the zip's end record"


def test_junk_out_of_reach_is_flagged() -> None:
    """The end record is looked for in the last 128 KiB only."""
    assert flaw(zipped(CSV) + bytes(140_000)) == NO_END


@pytest.mark.parametrize("written", [0, 30, 200])
def test_a_preallocated_file_is_flagged(written: int) -> None:
    """A file of its final size that is zeros from some byte on is not whole."""
    data = zipped(CSV, b"x" * 500, how=STORED)
    assert flaw(data[:written] + bytes(len(data) - written)) == NO_END


def test_a_hole_at_the_beginning_is_flagged() -> None:
    """Blocks written out of order: the end is there, the first file is not."""
    data = zipped(CSV, how=STORED)
    assert flaw(bytes(64) + data[64:]) == ("the zip's first file is not where its directory says")


def test_data_before_the_zip_is_flagged() -> None:
    """A zip with other bytes in front of it is not whole."""
    assert flaw(b"#!/bin/sh\n" + zipped(CSV)) == ELSEWHERE


def patched(offset: int, value: int) -> bytes:
    """Return a zip with one 16-bit field of its end record replaced."""
    data = bytearray(zipped(CSV))
    struct.pack_into("<H", data, len(data) - 22 + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        pytest.param(4, 1, "the zip is one part of several", id="part"),
        pytest.param(4, 0xFFFF, "the zip is one part of several", id="marked part"),
        pytest.param(10, 9, "the zip's directory is shorter than its entries", id="entries"),
        pytest.param(10, 0xFFFF, "the zip's directory is shorter than its entries", id="absurd"),
        pytest.param(12, 1, ELSEWHERE, id="directory size"),
        pytest.param(16, 1, ELSEWHERE, id="directory offset"),
        pytest.param(20, 1, NO_END, id="comment length"),
    ],
)
def test_an_end_record_that_contradicts_is_flagged(offset: int, value: int, expected: str) -> None:
    """One part of several, and counts and offsets that cannot be."""
    assert flaw(patched(offset, value)) == expected


def test_a_directory_that_is_none_is_flagged() -> None:
    """The directory must begin with the signature of an entry."""
    data = zipped(CSV).replace(b"PK\x01\x02", b"PK\x01\x03")
    assert flaw(data) == "the zip's directory does not begin with an entry"


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"\0" * 22, b"school_id\n1\n", b"<html></html>", b"x" * 100_000],
    ids=["nothing", "two bytes", "zeros", "csv", "html", "long"],
)
def test_garbage_is_flagged(data: bytes) -> None:
    """A file that is not a zip has no end record."""
    assert flaw(data) == NO_END


MARKS = [b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"\xff" * 8]
PIECES = st.lists(st.binary(max_size=24) | st.sampled_from(MARKS), max_size=12)


@given(PIECES.map(b"".join), st.binary(min_size=18, max_size=20))
def test_no_bytes_are_too_strange(before: bytes, fields: bytes) -> None:
    """Signatures in any order with any fields cause no crash."""
    for data in (before, before + b"PK\x05\x06" + fields[:-2] + b"\0\0"):
        assert flaw(data) is None or isinstance(flaw(data), str)


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=8), st.data())
def test_any_zip_is_whole_and_any_prefix_is_not(
    members: list[bytes], comment: bytes, data: st.DataObject
) -> None:
    """Any zip is whole, and not whole when cut off."""
    whole = zipped(*members, comment=comment, how=STORED)
    cut = data.draw(st.integers(0, len(whole) - 1))

    assert flaw(whole) is None
    assert flaw(whole[:cut]) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: zipped(os.urandom(2**20), comment=b"c" * 65_535),
        lambda: bytes(2**21),
        lambda: b"PK\x05\x06" * 2**17,
        lambda: many(65_536),
    ],
    ids=["long comment", "zeros", "end records all over", "zip64"],
)
def test_few_bytes_are_read_of_any_file(make: Callable[[], bytes]) -> None:
    """Time and memory are bounded: at most six short reads, for any size."""
    data = make()
    reads: list[int] = []

    def read_at(offset: int, count: int) -> bytes:
        reads.append(count)
        return data[offset : offset + count]

    zip_flaw(read_at, len(data))

    assert len(reads) <= 6
    assert sum(reads) <= 2 * 65_536 + 2048


def test_a_mixture_of_two_versions_is_flagged() -> None:
    """An overwrite in place that was interrupted anywhere leaves no whole zip."""
    old, new = zipped(CSV + b"1\n", how=STORED), zipped(CSV + b"2\n", how=STORED)
    assert len(old) == len(new)
    inside = [at for at in range(18, len(new) - 60) if flaw(new[:at] + old[at:]) is None]

    assert inside == []


def test_another_name_in_the_first_header_is_flagged() -> None:
    """Header and directory name the first file alike."""
    assert flaw(zipped(CSV).replace(b"0.csv", b"9.csv", 1)) is not None


def test_a_slash_in_the_first_name_may_differ() -> None:
    """Some writers use a backslash in one of the two."""
    data = zipped(CSV).replace(b"0.csv", b"a/csv")
    assert flaw(data.replace(b"a/csv", b"a\\csv", 1)) is None
