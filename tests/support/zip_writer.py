"""A zip writer in which each byte can be chosen: the forms of other writers, and broken ones."""

import bz2
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

NAME = "student_attendance.csv"
STORED, DEFLATED, DEFLATE64, BZIP2 = 0, 8, 9, 12
FOLLOWS, UTF8 = 0x8, 0x800
MARK = 0xFFFF_FFFF
WRAP = 1 << 32
SIGNED, BARE, WIDE, WIDE_BARE = ("<4s3L", "<3L", "<4sL2Q", "<L2Q")
"""Data descriptors: with a signature or without, with sizes of 4 bytes or of 8."""


@dataclass
class Member:
    """A file or folder of a zip. Each field of either header can differ from the truth."""

    packed: bytes
    size: int
    crc: int
    name: bytes = NAME.encode()
    method: int = DEFLATED
    flags: int = 0
    packed_size: int = -1
    """The length of `packed`, if it is negative."""
    offset: int | None = None
    """Where the directory says that the local header is; the truth, if it is None."""
    extra: bytes = b""
    """The extra field in the directory."""
    comment: bytes = b""
    descriptor: str | bytes = b""
    """What follows the data: bytes, or the format of a data descriptor."""
    local: dict[str, int] = field(default_factory=dict)
    """Fields of the local header that differ from the directory's."""
    local_name: bytes | None = None
    local_extra: bytes = b""
    before: bytes = b""
    """Bytes in front of the local header."""
    named: bool = True
    """Whether the directory names it."""

    @property
    def fields(self) -> dict[str, int]:
        """The fields that both headers have."""
        packed = len(self.packed) if self.packed_size < 0 else self.packed_size
        return {
            "flags": self.flags,
            "method": self.method,
            "crc": self.crc,
            "packed": packed,
            "size": self.size,
            "version": 20,
        }

    def body(self) -> bytes:
        """Return the local header, the data and its descriptor."""
        values = self.fields
        if self.flags & FOLLOWS:
            values |= {"crc": 0, "packed": 0, "size": 0}
        values |= self.local
        name = self.name if self.local_name is None else self.local_name
        head = struct.pack("<4sH2H2H3L2H", b"PK\3\4", *_common(values, name, self.local_extra))
        return head + name + self.local_extra + self.packed + self._descriptor()

    def entry(self, at: int) -> bytes:
        """Return the directory's entry for a local header at this offset."""
        at = at if self.offset is None else self.offset
        common = _common(self.fields, self.name, self.extra)
        tail = (len(self.comment), 0, 0, 0, at % WRAP)
        head = struct.pack("<4sH5H3L2H3HLL", b"PK\1\2", 20, *common, *tail)
        return head + self.name + self.extra + self.comment

    def zip(self, **options: bytes) -> bytes:
        """Return a zip of this file alone."""
        return write(self, **options)

    def _descriptor(self) -> bytes:
        if isinstance(self.descriptor, bytes):
            return self.descriptor
        values = (self.crc, len(self.packed), self.size)
        signed = self.descriptor in {SIGNED, WIDE}
        return struct.pack(self.descriptor, *((b"PK\7\x08",) if signed else ()), *values)


def _common(values: Mapping[str, int], name: bytes, extra: bytes) -> tuple[int, ...]:
    first = (values["version"], values["flags"], values["method"], 0, 33)
    sizes = (values["crc"], values["packed"] % (1 << 32), values["size"] % (1 << 32))
    return (*first, *sizes, len(name), len(extra))


def member(content: bytes, name: str = NAME, method: int = DEFLATED) -> Member:
    """Return a correct file, to be changed."""
    packed = content
    if method == DEFLATED:
        packed = deflated(content)
    elif method == BZIP2:
        packed = bz2.compress(content)
    return Member(packed, len(content), zlib.crc32(content), name.encode(), method)


def streamed(content: bytes, descriptor: str = SIGNED, method: int = DEFLATED) -> Member:
    """Return a file as a writer to a pipe makes it: its sizes follow its data."""
    file = member(content, method=method)
    file.flags, file.descriptor = FOLLOWS, descriptor
    return file


def folder(name: str) -> Member:
    """Return a folder."""
    return Member(b"", 0, 0, name.encode(), STORED)


def write(
    *members: Member,
    prefix: bytes = b"",
    gap: bytes = b"",
    comment: bytes = b"",
    after: bytes = b"",
    records: bytes = b"",
) -> bytes:
    """Return a zip; `gap` is in front of the directory, `records` in front of the end record."""
    body, directory, entries = prefix, b"", 0
    for file in members:
        body += file.before
        if file.named:
            directory += file.entry(len(body))
            entries += 1
        body += file.body()
    body += gap
    tail = end(entries, len(directory), len(body))[:-2] + struct.pack("<H", len(comment))
    return body + directory + records + tail + comment + after


def end(entries: int, directory_bytes: int, directory_at: int) -> bytes:
    """Return an end record."""
    return struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, directory_bytes, directory_at, 0
    )


def wide_records(entries: int, directory_bytes: int, directory_at: int) -> bytes:
    """Return the zip64 end record and its locator."""
    counts = (0, 0, entries, entries, directory_bytes, directory_at)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, *counts)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, directory_at + directory_bytes, 1)


def zip64(*values: int) -> bytes:
    """Return a zip64 extra field with these values."""
    return extra_field(1, struct.pack(f"<{len(values)}Q", *values))


def extra_field(kind: int, content: bytes) -> bytes:
    """Return an extra field."""
    return struct.pack("<2H", kind, len(content)) + content


def deflated(data: bytes) -> bytes:
    """Return a whole deflate stream."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()
