"""Zips as some thirty writers make them, and broken ones: what the server does, and the verdict.

The verdicts were compared with commons-compress 1.21, which reads a zip as the server does.
"""

import io
import struct
import zipfile
from dataclasses import dataclass, replace
from enum import StrEnum

from support.zip_writer import (
    BARE,
    BZIP2,
    DEFLATE64,
    FOLLOWS,
    MARK,
    NAME,
    STORED,
    UTF8,
    WIDE,
    WIDE_BARE,
    Member,
    extra_field,
    folder,
    member,
    streamed,
    wide_records,
    write,
    zip64,
)
from support.zips import sample

PATH = "student_attendance/student_attendance.zip"
GOOD = sample(PATH)


class Server(StrEnum):
    """What the server does with a zip."""

    READS = "it reads the CSV"
    FAILS = "it cannot read the zip, and loads nothing"
    SEVERAL = "it reads several files as this dataset"
    NOTHING = "it finds no file"
    OTHER = "it reads other content than was zipped"


READS, FAILS, SEVERAL = Server.READS, Server.FAILS, Server.SEVERAL
NOTHING, OTHER = Server.NOTHING, Server.OTHER


@dataclass(frozen=True)
class Shape:
    """A form of zip: who writes it, what the server does, and the codes that it gets.

    `E201` alone: the zip is incomplete, and is not sent with any value of `spool.catalogue`.
    """

    name: str
    server: Server
    codes: str
    data: bytes


class Pipe(io.RawIOBase):
    """Takes bytes and cannot seek."""

    def __init__(self) -> None:
        """Take nothing yet."""
        self.taken = bytearray()

    def writable(self) -> bool:
        """Return that it takes bytes."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # bytes only
        """Take bytes."""
        self.taken += data
        return len(data)


def python(method: int, *, pipe: bool = False, wide: bool = False) -> bytes:
    """Return what the standard library writes to a file or a pipe."""
    target = Pipe() if pipe else io.BytesIO()
    with (
        zipfile.ZipFile(target, "w", method) as archive,
        archive.open(NAME, "w", force_zip64=wide) as opened,
    ):
        opened.write(GOOD)
    return bytes(target.taken) if isinstance(target, Pipe) else target.getvalue()


def with_method(method: int, packed: bytes = b"packed", flags: int = 0) -> bytes:
    """Return a zip of a method that this program cannot unpack."""
    return replace(CSV, method=method, packed=packed, flags=flags).zip()


def shrunk(data: bytes) -> bytes:
    """Return a short text in the first method of PKZIP: a code of 9 bits for each byte."""
    bits = sum(byte << 9 * number for number, byte in enumerate(data))
    return bits.to_bytes(len(data) * 9 // 8 + 1, "little")


def patched(data: bytes, old: bytes, new: bytes, *, last: bool = False) -> bytes:
    """Return bytes with the first or the last occurrence of some replaced."""
    at = data.rindex(old) if last else data.index(old)
    return data[:at] + new + data[at + len(old) :]


def wide_zip(file: Member) -> bytes:
    """Return a zip with zip64 records at its end."""
    at, size = len(file.body()), len(file.entry(0))
    return write(file, records=wide_records(1, size, at))


def changed(file: Member, **values: int) -> bytes:
    """Return a zip whose local header differs from the directory."""
    return replace(file, local=values).zip()


CSV = member(GOOD)
PLAIN = member(GOOD, method=STORED)
SIZES = zip64(len(GOOD), len(CSV.packed))
MARKED = {"packed": MARK, "size": MARK}
UNIX = extra_field(0x5455, b"\3aaaabbbb") + extra_field(0x7875, b"\1\4aaaa\4bbbb")
UNIX_SHORT = extra_field(0x5455, b"\3aaaa") + extra_field(0x7875, b"\1\4aaaa\4bbbb")
NTFS = extra_field(0x0A, bytes(4) + struct.pack("<2H", 1, 24) + bytes(24))
OLD_UNIX = extra_field(0x5855, b"aaaabbbb")
AES = extra_field(0x9901, b"\2\0AE\3\x08\0")
UNICODE_NAME = extra_field(0x7075, b"\1aaaaname.csv")
INFOZIP = replace(CSV, local_extra=UNIX, extra=UNIX_SHORT)
SEVENZIP = replace(CSV, extra=NTFS)
MAC = replace(streamed(GOOD), local_extra=OLD_UNIX, extra=OLD_UNIX)
MAC_EXTRA = [folder("__MACOSX/"), member(b"\0\5\x16\7", f"__MACOSX/._{NAME}")]
JAVA_FOLDER = replace(streamed(b""), name=b"out/", packed=b"\3\0")
WIDE_FILE = replace(CSV, local=MARKED, local_extra=SIZES)
SECOND = member(b"x|y\n", "second.csv")
TWO_VERSIONS = member(GOOD.swapcase(), method=STORED).zip()
HINDI = "उपस्थिति.csv".encode()
CENTRAL, LOCAL, DESCRIPTOR = b"PK\1\2", b"PK\3\4", b"PK\7\x08"
WHOLE = CSV.zip()

SHAPES = [
    Shape("Python zipfile, deflated", READS, "", python(8)),
    Shape("Python zipfile, stored", READS, "", python(0)),
    Shape("Python zipfile, bzip2", READS, "", python(12)),
    Shape("Python zipfile, LZMA", FAILS, "E228", python(14)),
    Shape("Python zipfile, force_zip64", READS, "", python(8, wide=True)),
    Shape("Python zipfile to a pipe, deflated", READS, "", python(8, pipe=True)),
    Shape("Python zipfile to a pipe, stored", FAILS, "E228", python(0, pipe=True)),
    Shape("Python zipfile to a pipe, zip64", READS, "", python(8, pipe=True, wide=True)),
    Shape("Python zipfile, append mode", SEVERAL, "E226", write(CSV, SECOND)),
    Shape("Python zipfile, the same name twice", SEVERAL, "E226", write(CSV, CSV)),
    Shape("Python zipfile, no file", NOTHING, "E225", write()),
    Shape("Python shutil.make_archive", READS, "", write(folder("out/"), CSV)),
    Shape("Python stream-zip", READS, "", streamed(GOOD, WIDE).zip()),
    Shape("Info-ZIP zip", READS, "", INFOZIP.zip()),
    Shape("Info-ZIP zip -X", READS, "", CSV.zip()),
    Shape("Info-ZIP zip -0", READS, "", replace(PLAIN, local_extra=UNIX, extra=UNIX_SHORT).zip()),
    Shape("Info-ZIP zip -r of a folder", READS, "", write(folder("out/"), INFOZIP)),
    Shape("Info-ZIP zip -z, a comment", READS, "", CSV.zip(comment=b"cQube")),
    Shape("Info-ZIP zip -fd", READS, "", replace(streamed(GOOD), local_extra=UNIX).zip()),
    Shape("Info-ZIP zip -fz", READS, "", wide_zip(replace(WIDE_FILE, local_extra=UNIX + SIZES))),
    Shape("Info-ZIP zip to a pipe", READS, "", changed(streamed(GOOD), size=len(GOOD))),
    Shape("Info-ZIP zip from standard input", READS, "", wide_zip(replace(WIDE_FILE, name=b"-"))),
    Shape("Info-ZIP zip -0 to a pipe", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape("Info-ZIP zip -Z bzip2", READS, "", member(GOOD, method=BZIP2).zip()),
    Shape("Info-ZIP zip -Z bzip2 to a pipe", FAILS, "E228", streamed(GOOD, method=BZIP2).zip()),
    Shape("Info-ZIP zip -e", FAILS, "E227", replace(streamed(GOOD), flags=FOLLOWS | 1).zip()),
    Shape("Info-ZIP zip -s in one part", FAILS, "E228", CSV.zip(prefix=DESCRIPTOR)),
    Shape(
        "Info-ZIP zip -s, the last part",
        FAILS,
        "E201",
        patched(WHOLE, b"PK\5\6\0", b"PK\5\6\3")[9:],
    ),
    Shape("Info-ZIP zip -A, self-extracting", FAILS, "E228", CSV.zip(prefix=b"#!/bin/sh\nexit\n")),
    Shape("cat of a program and a zip", FAILS, "E201", b"#!/bin/sh\nexit\n" + WHOLE),
    Shape("Info-ZIP zip -g", SEVERAL, "E226", write(INFOZIP, replace(INFOZIP, name=b"b.csv"))),
    Shape("PKZIP 1, Shrink", READS, "E236", with_method(1, shrunk(GOOD))),
    Shape("PKZIP 2, split, one part", READS, "", CSV.zip(prefix=b"PK00")),
    Shape("PKZIP, strong encryption", FAILS, "E227", replace(CSV, flags=0x41).zip()),
    Shape("7-Zip, Deflate", READS, "", SEVENZIP.zip()),
    Shape("7-Zip, Deflate64", READS, "E236", with_method(DEFLATE64, CSV.packed)),
    Shape("7-Zip, BZip2", READS, "", replace(member(GOOD, method=BZIP2), extra=NTFS).zip()),
    Shape("7-Zip, LZMA", FAILS, "E228", with_method(14, flags=2)),
    Shape("7-Zip, PPMd", FAILS, "E228", with_method(98)),
    Shape("7-Zip, XZ", FAILS, "E228", with_method(95)),
    Shape("7-Zip ZS, Zstandard", FAILS, "E228", with_method(93)),
    Shape("7-Zip, ZipCrypto", FAILS, "E227", replace(SEVENZIP, flags=1).zip()),
    Shape("7-Zip, AES-256", FAILS, "E227", replace(CSV, flags=1, method=99, extra=AES).zip()),
    Shape("7-Zip, the first volume", FAILS, "E201", WHOLE[:80]),
    Shape("7-Zip, the last volume", FAILS, "E201", WHOLE[80:]),
    Shape("WinRAR, zip", READS, "", replace(SEVENZIP, local_extra=NTFS).zip()),
    Shape("WinZip, AE-2", FAILS, "E227", replace(CSV, flags=1, method=99, crc=0).zip()),
    Shape("WinZip, zipx", FAILS, "E228", with_method(96)),
    Shape("Windows Explorer", READS, "", CSV.zip()),
    Shape("Windows Explorer above 2 GB", READS, "E236", with_method(DEFLATE64, CSV.packed)),
    Shape("Windows Explorer, code page", READS, "", replace(CSV, name=b"caf\x82.csv").zip()),
    Shape(
        "Windows Explorer, a folder", READS, "", write(folder("out/"), replace(CSV, name=b"out/x"))
    ),
    Shape("macOS ditto", READS, "", MAC.zip()),
    Shape("macOS Archive Utility", SEVERAL, "E226", write(MAC, *MAC_EXTRA)),
    Shape("macOS zip of a folder", SEVERAL, "E226", write(MAC, member(b"\0", ".DS_Store"))),
    Shape("bsdtar to a file", READS, "", replace(streamed(GOOD), local_extra=UNIX).zip()),
    Shape("bsdtar to a pipe", READS, "", MAC.zip(after=bytes(10240 - len(MAC.zip())))),
    Shape(
        "bsdtar, stored", READS, "", replace(PLAIN, local_extra=extra_field(0x6C78, b"\0")).zip()
    ),
    Shape("Go archive/zip", READS, "", streamed(GOOD).zip()),
    Shape("Go archive/zip, Store", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape("Go archive/zip, CreateRaw", READS, "", CSV.zip()),
    Shape("Go archive/zip, a Hindi name", READS, "", replace(CSV, name=HINDI, flags=UTF8).zip()),
    Shape("Java ZipOutputStream", READS, "", replace(streamed(GOOD), flags=FOLLOWS | UTF8).zip()),
    Shape("Java ZipOutputStream, STORED", READS, "", PLAIN.zip()),
    Shape("Java ZipOutputStream, a folder", READS, "", write(JAVA_FOLDER, streamed(GOOD))),
    Shape("Java 7, sizes of 8 bytes", READS, "", streamed(GOOD, WIDE).zip()),
    Shape("Java jar", SEVERAL, "E226", write(member(b"x", "META-INF/MANIFEST.MF"), streamed(GOOD))),
    Shape("commons-compress to a file", READS, "", replace(CSV, extra=UNIX).zip()),
    Shape("commons-compress, Zip64Mode.Always", READS, "", wide_zip(WIDE_FILE)),
    Shape(
        "commons-compress, Unicode names", READS, "", replace(CSV, local_extra=UNICODE_NAME).zip()
    ),
    Shape("commons-compress to a pipe", READS, "", streamed(GOOD).zip()),
    Shape(".NET ZipArchive", READS, "", replace(CSV, flags=UTF8).zip()),
    Shape(".NET ZipArchive to a pipe", READS, "", streamed(GOOD).zip()),
    Shape(".NET ZipArchive to a pipe, stored", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape(".NET Framework 4.5, backslashes", READS, "", replace(CSV, name=b"out\\x.csv").zip()),
    Shape("SharpZipLib, UseZip64.On", READS, "", replace(WIDE_FILE, extra=SIZES).zip()),
    Shape("DotNetZip", READS, "", replace(streamed(GOOD), extra=NTFS).zip()),
    Shape("yazl", READS, "", replace(streamed(GOOD), flags=FOLLOWS | UTF8).zip()),
    Shape("yazl, compress: false", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape("JSZip", READS, "", PLAIN.zip()),
    Shape("JSZip, streamFiles", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape("archiver", READS, "", streamed(GOOD).zip()),
    Shape("archiver, store: true", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape("fflate, a stream", READS, "", streamed(GOOD).zip()),
    Shape("Perl Archive::Zip", READS, "", CSV.zip()),
    Shape("Perl IO::Compress::Zip", READS, "", streamed(GOOD).zip()),
    Shape("Perl IO::Compress::Zip, stored", FAILS, "E228", streamed(GOOD, method=STORED).zip()),
    Shape(
        "Perl IO::Compress::Zip, Zip64",
        READS,
        "",
        wide_zip(replace(streamed(GOOD, WIDE), local=MARKED, local_extra=zip64(0, 0))),
    ),
    Shape("PHP ZipArchive", READS, "", CSV.zip()),
    Shape("PHP ZipArchive, Zstandard", FAILS, "E228", with_method(93)),
    Shape("PHP ZipStream", READS, "", streamed(GOOD, WIDE_BARE).zip()),
    Shape(
        "Ruby rubyzip", READS, "", replace(CSV, local_extra=extra_field(0x9999, bytes(16))).zip()
    ),
    Shape("Ruby rubyzip, a stream", READS, "", streamed(GOOD, BARE).zip()),
    Shape("Rust zip, large_file", READS, "", WIDE_FILE.zip()),
    Shape("Rust async_zip", READS, "", streamed(GOOD).zip()),
    Shape("minizip", READS, "", replace(CSV, flags=2).zip()),
    Shape(
        "LibreOffice or Excel", SEVERAL, "E226", write(member(b"x", "a.xml"), member(b"y", "b.xml"))
    ),
    Shape("a gateway that adds CRLF", READS, "", CSV.zip(after=b"\r\n")),
    Shape("a tape that pads to 512 bytes", READS, "", CSV.zip(after=bytes(512 - len(WHOLE) % 512))),
    Shape("a web form that adds its page", READS, "", CSV.zip(after=b"<html>uploaded</html>\n")),
    Shape("a comment without its length", READS, "", CSV.zip(after=b"made on 2021-07-31")),
    Shape("padding behind a comment", READS, "", CSV.zip(comment=b"cQube", after=bytes(40))),
    Shape("more than 64 KiB of padding", READS, "E201", CSV.zip(after=bytes(65_537))),
    Shape("a signature behind the zip", READS, "E201", CSV.zip(after=b"0\x82\4\1\xff\xfe")),
    Shape("a copy over a longer zip", READS, "E201", CSV.zip(after=WHOLE[-70:])),
    Shape("cut off by one byte", FAILS, "E201", WHOLE[:-1]),
    Shape("cut off in the data", FAILS, "E201", WHOLE[:70]),
    Shape("allocated, half written", FAILS, "E201", WHOLE[:70] + bytes(len(WHOLE) - 70)),
    Shape("a first block of zeros", FAILS, "E201", bytes(64) + WHOLE[64:]),
    Shape("zeros in front, offsets corrected", FAILS, "E228", CSV.zip(prefix=bytes(64))),
    Shape("a mixture of two versions", OTHER, "E201", TWO_VERSIONS[:99] + PLAIN.zip()[99:]),
    Shape("another name in the directory", READS, "E201", replace(CSV, local_name=b"old").zip()),
    Shape("another CRC in the directory", READS, "E201", changed(CSV, crc=1)),
    Shape("another size in the directory", READS, "E201", changed(CSV, size=9)),
    Shape("another method in the directory", FAILS, "E201", changed(CSV, method=0)),
    Shape("a wrong CRC in both headers", READS, "E229", replace(CSV, crc=1).zip()),
    Shape("a wrong size in both headers", READS, "E229", replace(CSV, size=9).zip()),
    Shape("data that is no deflate stream", FAILS, "E229", replace(CSV, packed=b"\xff" * 60).zip()),
    Shape(
        "a deflate stream without its end",
        FAILS,
        "E229",
        replace(CSV, packed=CSV.packed[:-9]).zip(),
    ),
    Shape(
        "zeros behind the deflate stream",
        READS,
        "",
        replace(CSV, packed=CSV.packed + bytes(9)).zip(),
    ),
    Shape("a gap in front of the directory", FAILS, "E228", CSV.zip(gap=bytes(64))),
    Shape("a gap between two files", FAILS, "E228", write(CSV, replace(SECOND, before=bytes(9)))),
    Shape(
        "a file that only its header names", FAILS, "E226", write(replace(SECOND, named=False), CSV)
    ),
    Shape(
        "a piped file that only its header names",
        FAILS,
        "E226 E229",
        write(CSV, replace(streamed(b"x"), named=False)),
    ),
    Shape(
        "sizes with a damaged signature", FAILS, "E229", patched(MAC.zip(), DESCRIPTOR, b"PK\7\x09")
    ),
    Shape("sizes that are missing", FAILS, "E229", replace(MAC, descriptor=b"").zip()),
    Shape("sizes of another length", FAILS, "E229", replace(MAC, descriptor=bytes(18)).zip()),
    Shape(
        "a zip64 field with one size", FAILS, "E229", replace(WIDE_FILE, local_extra=zip64(9)).zip()
    ),
    Shape("an empty zip64 field", FAILS, "E229", replace(WIDE_FILE, local_extra=zip64()).zip()),
    Shape("a zip64 size without its field", FAILS, "E229", changed(CSV, **MARKED)),
    Shape(
        "a zip64 field in front of sizes", FAILS, "E229", replace(MAC, local_extra=zip64(9)).zip()
    ),
    Shape(
        "a slash in one name, a backslash in the other",
        READS,
        "",
        replace(CSV, name=b"d/x", local_name=b"d\\x").zip(),
    ),
    Shape("a UTF-8 flag in one header", READS, "", changed(CSV, flags=UTF8)),
    Shape("another version in one header", READS, "", changed(CSV, version=45)),
    Shape("a broken extra field in the directory", READS, "", replace(CSV, extra=b"UTP\0\1").zip()),
    Shape(
        "a broken extra field in the header", READS, "", replace(CSV, local_extra=b"UTP\0\1").zip()
    ),
    Shape("a name that is not UTF-8", READS, "", replace(CSV, name=b"\xff.csv", flags=UTF8).zip()),
    Shape(
        "a wrong number of entries", READS, "", patched(WHOLE, b"\1\0\1\0", b"\0\0\0\0", last=True)
    ),
]
