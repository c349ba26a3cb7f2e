"""A zip's files as the server reads them, with a bound on how much is read.

The server streams: it reads one local header after the other and never reads the directory. Source:
commons-compress 1.20 and 1.21, `ZipArchiveInputStream`, which NiFi's UnpackContent uses. Here the
directory only gives the sizes that follow a file's data. Every read is counted: a false size in a
zip costs no memory.
"""

import bz2
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, finding, quoted
from emitterd.datasets.zip_integrity import (
    CENTRAL_SIGNATURE,
    LOCAL_SIGNATURE,
    SIZES_FOLLOW,
    WRAP,
    Directory,
    FileHeader,
    ReadAt,
    directory_entries,
    local_header,
    same_file,
    zip_directory,
)
from emitterd.translation.text import Text

DIRECTORY_MAX_BYTES = 256 * 1024
"""The longest directory that is read: one file's entry can take 192 KiB of it."""
ENTRIES_MAX = 1000
_HEADERS_MAX_BYTES = 1024**2
"""How many bytes of local headers are kept in memory: one header can have 128 KiB."""

_CHUNK_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 1024**2
"""What may be read beyond twice the bytes that are unpacked."""

_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_DESCRIPTOR_MAX_BYTES = 24
_HEADERS = (CENTRAL_SIGNATURE, LOCAL_SIGNATURE)
_SINGLE_PART = b"PK00"
"""The marker of a split zip that has only one part. It precedes the first file."""

_ENCRYPTED = 0x1 | 0x40
"""Flags of an encrypted and of a strongly encrypted file."""
_STORED, _SHRUNK, _IMPLODED, _DEFLATED, _DEFLATE64, _BZIP2, _AES = 0, 1, 6, 8, 9, 12, 99
_SERVER_METHODS = {_STORED, _SHRUNK, _IMPLODED, _DEFLATED, _DEFLATE64, _BZIP2}
_ENDS_ITSELF = {_DEFLATED, _DEFLATE64}
"""Methods whose data shows its own end: the server needs no size in front of it."""
_METHODS = {
    _STORED: "no compression",
    _SHRUNK: "Shrink",
    _IMPLODED: "Implode",
    _DEFLATE64: "Deflate64",
    _BZIP2: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}
_NAMES_SHOWN_MAX = 3


class DamagedZip(Exception):
    """The zip contradicts itself, or its content cannot be unpacked."""


def server_files(read_at: ReadAt, size_bytes: int) -> tuple[list[FileHeader], Finding | None]:
    """Return the files and folders that the server finds, and what stops or misleads it.

    Sizes and CRC that follow a file's data are the directory's. Raises only what `read_at` raises.
    """
    directory = zip_directory(read_at, size_bytes)
    if directory is None or directory.at + directory.size_bytes != directory.ends_at:
        return [], _damaged(Text("no end record"))
    if directory.entries > ENTRIES_MAX or directory.size_bytes > DIRECTORY_MAX_BYTES:
        found = f"a directory of {directory.entries} entries, {directory.size_bytes} bytes"
        return [], finding(Code.SEVERAL_FILES, Text("one CSV"), found)
    walk = _Walk(read_at, directory)
    walk.run()
    return walk.files, walk.problem


class _Walk:
    """One pass over the local headers, up to what the server cannot read."""

    def __init__(self, read_at: ReadAt, directory: Directory) -> None:
        self.files: list[FileHeader] = []
        self.problem: Finding | None = None
        self._headers_bytes = 0
        self._read_at = read_at
        self._end_at = directory.at
        entries = directory_entries(read_at(directory.at, directory.size_bytes))
        self._named = {entry.at % WRAP: entry for entry in entries}

    def run(self) -> None:
        at: int | None = 0
        while at is not None and at < self._end_at:
            at = self._step(at)
        if at is None or self.problem is not None:
            return
        if at > self._end_at:
            self.problem = _damaged(
                Text("a file that reaches beyond the beginning of the directory")
            )
        elif self._named:
            self.problem = _damaged(Text("a directory that names a file where none begins"))

    def _step(self, at: int) -> int | None:
        """Add the file at this offset; return where the next one or the directory begins.

        None if the server cannot read on, or finds too many files.
        """
        local = local_header(self._read_at, at)
        if local is None:
            if at == 0 and self._read_at(0, 4) == _SINGLE_PART:
                return len(_SINGLE_PART)
            end_at = min((start for start in self._named if start > at), default=self._end_at)
            found = f"{end_at - at} bytes at offset {at} that belong to no file"
            self.problem = _unreadable(found)
            return None
        self.files.append(local)
        self._headers_bytes += local.length
        if len(self.files) > ENTRIES_MAX or self._headers_bytes > _HEADERS_MAX_BYTES:
            found = f"more than {len(self.files) - 1} files"
            self.problem = finding(Code.SEVERAL_FILES, Text("one CSV"), found)
            self.files = []
            return None
        entry = self._named.pop(at % WRAP, None)
        if not local.sound:
            self.problem = _damaged(Text("a zip64 extra field without both sizes"))
            return None
        if entry is not None and not same_file(entry, local):
            self.problem = _damaged(Text("a file whose header contradicts the zip's directory"))
        if local.flags & SIZES_FOLLOW:
            return self._behind_descriptor(local, entry)
        return at + local.length + local.packed_bytes

    def _behind_descriptor(self, local: FileHeader, entry: FileHeader | None) -> int | None:
        """Take the sizes that follow the last file's data from the directory."""
        if entry is None:
            self.problem = _damaged(Text("a file that the zip's directory does not name"))
            return None
        file = local._replace(crc=entry.crc, size_bytes=entry.size_bytes)
        data_at = local.at + local.length
        # The size may be modulo 4 GiB.
        for end in range(data_at + entry.packed_bytes, self._end_at, WRAP):
            next_at = _descriptor_end(self._read_at, end)
            if next_at is not None:
                self.files[-1] = file._replace(packed_bytes=end - data_at)
                return next_at
        self.files[-1] = file._replace(packed_bytes=entry.packed_bytes)
        self.problem = _damaged(Text("a data descriptor that is not where the file's data ends"))
        return None


def _descriptor_end(read_at: ReadAt, at: int) -> int | None:
    """Return the end of a data descriptor as the server finds it; None if no header follows."""
    data = read_at(at, _DESCRIPTOR_MAX_BYTES + 4)
    length = 16 if data.startswith(_DESCRIPTOR_SIGNATURE) else 12
    if not data.startswith(_HEADERS, length):
        # Then the server takes both sizes to have 8 bytes.
        length += 8
    return at + length if data.startswith(_HEADERS, length) else None


def unpack_problem(file: FileHeader) -> Finding | None:
    """Return why the server cannot unpack a file, or None."""
    if file.flags & _ENCRYPTED or file.method == _AES:
        return finding(Code.ENCRYPTED, Text("a zip without a password"), Text("an encrypted file"))
    method = _METHODS.get(file.method, f"method {file.method}")
    if file.method not in _SERVER_METHODS:
        return _unreadable(method)
    if file.flags & SIZES_FOLLOW and file.method not in _ENDS_ITSELF:
        return _unreadable(f"{method}, with the file's size behind its data")
    return None


def not_inspected(file: FileHeader) -> Finding | None:
    """Return a note if the server can unpack a file and this program cannot."""
    if file.method in _STREAMS:
        return None
    found = f"{_METHODS[file.method]}, which emitterd cannot unpack"
    return finding(Code.NOT_INSPECTED, Text("deflate, bzip2, or no compression"), found)


def _unreadable(found: str) -> Finding:
    return finding(
        Code.UNREADABLE_ZIP, Text("a CSV packed with deflate, in a zip that was not piped"), found
    )


def _damaged(found: str) -> Finding:
    return finding(Code.DAMAGED, Text("a whole zip"), found)


class _Unpacker(Protocol):
    """Unpacks data piece by piece."""

    @property
    def eof(self) -> bool: ...

    @property
    def hungry(self) -> bool:
        """Whether it needs more packed data before it returns more."""

    def unpack(self, packed: bytes, count: int) -> bytes:
        """Take packed data if it is hungry; return up to `count` bytes."""


class _Stored:
    eof = False
    hungry = True

    def unpack(self, packed: bytes, count: int) -> bytes:  # noqa: ARG002  one interface
        self.eof = not packed
        return packed


class _Deflated:
    hungry = True

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    def unpack(self, packed: bytes, count: int) -> bytes:
        data = self._stream.decompress(packed or self._stream.unconsumed_tail, count)
        self.hungry = not self._stream.unconsumed_tail
        return data


class _Bzip2:
    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def hungry(self) -> bool:
        return self._stream.needs_input

    def unpack(self, packed: bytes, count: int) -> bytes:
        return self._stream.decompress(packed, count)


_STREAMS: dict[int, type[_Unpacker]] = {_STORED: _Stored, _DEFLATED: _Deflated, _BZIP2: _Bzip2}


class Content:
    """The unpacked content of a file, read once from its beginning."""

    def __init__(self, read_at: ReadAt, file: FileHeader, max_bytes: int) -> None:
        """Read nothing yet. `not_inspected` must accept the file's method."""
        self.read_bytes = 0
        self._read_at = read_at
        self._file = file
        self._stream = _STREAMS[file.method]()
        self._at = file.at + file.length
        self._left_bytes = file.packed_bytes
        self._allowed_bytes = 2 * max_bytes + _READ_AHEAD_BYTES
        self._crc = 0

    def read(self, count: int) -> bytes:
        """Return up to `count` more bytes, none at the end, where size and CRC are compared.

        Raises `DamagedZip`, and what `read_at` raises.
        """
        while not self._stream.eof:
            hungry = self._stream.hungry
            packed = self._packed(count) if hungry else b""
            try:
                data = self._stream.unpack(packed, count)
            except (zlib.error, OSError) as error:
                raise DamagedZip(f"compressed data that cannot be unpacked ({error})") from error
            if data:
                self.read_bytes += len(data)
                self._crc = zlib.crc32(data, self._crc)
                return data
            if hungry and not packed and not self._stream.eof:
                raise DamagedZip(Text("compressed data that ends too early"))
        self._check_end()
        return b""

    def _packed(self, count: int) -> bytes:
        stored = self._file.method == _STORED
        wanted = min(self._left_bytes, count if stored else _CHUNK_BYTES)
        if wanted > self._allowed_bytes:
            raise DamagedZip(Text("far more to read than it can hold"))
        packed = self._read_at(self._at, wanted) if wanted else b""
        self._at += len(packed)
        self._left_bytes -= len(packed)
        self._allowed_bytes -= len(packed)
        return packed

    def _check_end(self) -> None:
        if (self.read_bytes - self._file.size_bytes) % WRAP:
            raise DamagedZip(
                f"{self.read_bytes} bytes of content in place of {self._file.size_bytes}"
            )
        if self._crc != self._file.crc:
            raise DamagedZip(Text("content that does not match its checksum"))


def check_content(read_at: ReadAt, size_bytes: int, budget_bytes: int) -> None:
    """Unpack a zip's files, up to `budget_bytes` in all, and compare their checksums.

    Raises `DamagedZip` where a writer's blocks are missing. What cannot be unpacked here is not
    checked: the inspection judges that.
    """
    for file in server_files(read_at, size_bytes)[0]:
        if unpack_problem(file) is None and not_inspected(file) is None:
            content = Content(read_at, file, budget_bytes)
            while budget_bytes > 0 and (data := content.read(min(_CHUNK_BYTES, budget_bytes))):
                budget_bytes -= len(data)


def choose_csv(entries: Iterable[FileHeader]) -> tuple[FileHeader | None, list[Finding]]:
    """Return the entry that holds the data, and what is wrong with the others.

    None if it is not clear which one it is. Source: "Emission process" of cQube (each file
    zipped alone), and its NiFi templates: they rename every file of a zip to the dataset's name and
    read it as data.
    """
    files = [entry for entry in entries if not entry.is_folder]
    data = [entry for entry in files if not _from_mac(entry)]
    if not data:
        found = listed(files) if files else Text("no file")
        return None, [finding(Code.NO_FILE_IN_ZIP, Text("one CSV"), found)]
    findings = []
    if len(files) > 1:
        findings.append(finding(Code.SEVERAL_FILES, Text("one CSV"), listed(files)))
    if len(data) > 1:
        data = [entry for entry in data if entry.name.lower().endswith(b".csv")]
    return data[0] if len(data) == 1 else None, findings


def shown_name(file: FileHeader) -> str:
    """Return a file's name as the server decodes it."""
    return file.name.decode(errors="replace")


def _from_mac(file: FileHeader) -> bool:
    base = file.name.rpartition(b"/")[2]
    in_folder = file.name.startswith(b"__MACOSX/")
    return in_folder or base == b".DS_Store" or base.startswith(b"._")


def listed(files: Sequence[FileHeader]) -> str:
    """Return how many files there are, and the names of the first."""
    names = [
        quoted(shown_name(file)) + (" (which a Mac adds)" if _from_mac(file) else "")
        for file in files[:_NAMES_SHOWN_MAX]
    ]
    more = ["…"] if len(files) > _NAMES_SHOWN_MAX else []
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}: {', '.join(names + more)}"
