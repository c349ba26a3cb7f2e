"""A zip's files, read through `zipfile` with a bound on what it may read.

`zipfile` takes the directory whole into memory and believes its sizes, so the caller
looks at `container.zip_directory` first, and here every read is counted: what a zip
claims costs nothing, only what it holds. Only stored and deflated files are opened,
because nothing bounds what one read of the other methods unpacks.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from emitterd.datasets.findings import quoted
from emitterd.datasets.zip_integrity import ReadAt

DIRECTORY_MAX_BYTES = 256 * 1024
"""The longest directory that is read: one file's entry can take 192 KiB of it."""
ENTRIES_MAX = 1000

_ENDING_BYTES = 128 * 1024
"""For the end records and the longest comment, which `zipfile` looks through."""
_AHEAD_BYTES = 1024**2
"""For a local header, and for what `zipfile` reads before it is unpacked."""

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1
_SIZES_FOLLOW = 0x8
_MARK_32 = 0xFFFF_FFFF

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises of a zip that is none, by its own code and what it calls."""


class Damage(Exception):
    """The zip contradicts itself, or its content cannot be unpacked."""


class Archive:
    """A zip that is open for reading; a context manager."""

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        """Read the directory. Raises `Damage`, and what `read_at` does."""
        self._source = _Source(read_at, size_bytes)
        with self._damage():
            self._zip = zipfile.ZipFile(self._source)
        self.entries: list[zipfile.ZipInfo] = self._zip.infolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def open(self, entry: zipfile.ZipInfo, max_bytes: int) -> Callable[[int], bytes]:
        """Return a function that reads up to `count` bytes on, unpacked.

        It is good for `max_bytes`, and compares the checksum at the file's end.
        Both raise `Damage`.
        """
        self._source.left_bytes = 2 * max_bytes + _AHEAD_BYTES
        self._compare(entry)
        with self._damage():
            member = self._zip.open(entry)

        def read(count: int) -> bytes:
            with self._damage():
                return member.read(count)

        return read

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            # Where it looks for the end record, `zipfile` takes trouble with the disk
            # for a bad zip.
            if self._source.trouble is not None:
                raise self._source.trouble from None
            raise Damage(_words(error)) from error

    def _compare(self, entry: zipfile.ZipInfo) -> None:
        """Hold the directory against the header before the file: a server reads both.

        `zipfile` compares the names.
        """
        if entry.header_offset + entry.compress_size > self._source.size_bytes:
            raise Damage("a file that reaches beyond the end of the zip")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if stored and entry.compress_size != entry.file_size:
            raise Damage("two sizes for a file that is not compressed")
        self._source.seek(entry.header_offset)
        header = self._source.read(_LOCAL.size)
        if len(header) < _LOCAL.size:
            raise Damage("a file that begins beyond the end of the zip")
        _, _, flags, method, _, _, crc, packed, size, _, _ = _LOCAL.unpack(header)
        alike = method == entry.compress_type and not flags & _ENCRYPTED
        if alike and not flags & _SIZES_FOLLOW:
            alike = (
                crc == entry.CRC
                and packed in {entry.compress_size, _MARK_32}
                and size in {entry.file_size, _MARK_32}
            )
        if not alike:
            raise Damage("a file whose header contradicts the zip's directory")


class _Source:
    """What `zipfile` needs of a file; raises `Damage` beyond `left_bytes`."""

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.left_bytes = DIRECTORY_MAX_BYTES + _ENDING_BYTES
        self.trouble: OSError | None = None
        self._read_at = read_at
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self.size_bytes)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size_bytes - self._at)
        count = left if count < 0 else min(count, left)
        if count > self.left_bytes:
            raise Damage("far more to read than it can hold")
        self.left_bytes -= count
        try:
            data = self._read_at(self._at, count) if count else b""
        except OSError as error:
            self.trouble = error
            raise
        self._at += len(data)
        return data


def _words(error: Exception) -> str:
    if isinstance(error, zlib.error):
        return f"compressed data that cannot be unpacked ({error})"
    if isinstance(error, EOFError):
        return "compressed data that ends too early"
    if isinstance(error, UnicodeDecodeError):
        return "a file name that is not the UTF-8 that it claims to be"
    if str(error).startswith("Bad CRC-32"):
        return "content that does not match its checksum"
    return f"a zip that contradicts itself ({quoted(str(error))})"
