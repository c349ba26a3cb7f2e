"""A zip's files, read through `zipfile` with a bound on how much is read.

`zipfile` reads the whole directory into memory and trusts its sizes. So the caller first checks
`zip_integrity.zip_directory`, and this module counts every read: a false size in a zip costs no
memory. Only stored and deflated files are opened, because with other methods nothing bounds
what one read unpacks.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, finding, quoted
from emitterd.datasets.zip_integrity import ReadAt, zip_directory

DIRECTORY_MAX_BYTES = 256 * 1024
"""The longest directory that is read: one file's entry can take 192 KiB of it."""
ENTRIES_MAX = 1000

_END_BYTES = 128 * 1024
"""For the end records and the longest comment, which `zipfile` searches."""
_CHUNK_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 1024**2
"""For a local header, and for what `zipfile` reads before it unpacks."""

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1
_SIZES_FOLLOW = 0x8
_MARK_32 = 0xFFFF_FFFF
_ENCRYPTED_FLAGS = 0x1 | 0x40
"""Flags of an encrypted and of a strongly encrypted file."""
_AES = 99
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_NAMES_SHOWN_MAX = 3

_ZIPFILE_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)
"""What `zipfile`, and the modules that it uses, raise for a damaged zip."""


class DamagedZip(Exception):
    """The zip contradicts itself, or its content cannot be unpacked."""


class Archive:
    """A zip that is open for reading; a context manager."""

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        """Read the directory. Raises `DamagedZip`, and what `read_at` raises."""
        self._file = _BoundedFile(read_at, size_bytes)
        with self._translated_errors():
            self._zip = zipfile.ZipFile(self._file)
        self.entries: list[ZipInfo] = self._zip.infolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def open(self, entry: ZipInfo, max_bytes: int) -> Callable[[int], bytes]:
        """Return a function that reads and unpacks up to `count` more bytes.

        It reads at most `max_bytes`, and checks the checksum at the file's end. Both functions
        raise `DamagedZip`.
        """
        self._file.left_bytes = 2 * max_bytes + _READ_AHEAD_BYTES
        self._check_local_header(entry)
        with self._translated_errors():
            member = self._zip.open(entry)

        def read(count: int) -> bytes:
            with self._translated_errors():
                return member.read(count)

        return read

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except _ZIPFILE_ERRORS as error:
            # In its search for the end record, `zipfile` reports a disk error as a bad zip.
            if self._file.disk_error is not None:
                raise self._file.disk_error from None
            raise DamagedZip(_description(error)) from error

    def _check_local_header(self, entry: ZipInfo) -> None:
        """Compare the directory with the file's own header: a server reads both.

        `zipfile` compares only the names.
        """
        if entry.header_offset + entry.compress_size > self._file.size_bytes:
            raise DamagedZip("a file that reaches beyond the end of the zip")
        stored = entry.compress_type == ZIP_STORED
        if stored and entry.compress_size != entry.file_size:
            raise DamagedZip("two sizes for a file that is not compressed")
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL.size)
        if len(header) < _LOCAL.size:
            raise DamagedZip("a file that begins beyond the end of the zip")
        _, _, flags, method, _, _, crc, packed, size, _, _ = _LOCAL.unpack(header)
        same = method == entry.compress_type and not flags & _ENCRYPTED
        if same and not flags & _SIZES_FOLLOW:
            same = (
                crc == entry.CRC
                and packed in {entry.compress_size, _MARK_32}
                and size in {entry.file_size, _MARK_32}
            )
        if not same:
            raise DamagedZip("a file whose header contradicts the zip's directory")


class _BoundedFile:
    """The file that `zipfile` reads; raises `DamagedZip` beyond `left_bytes`."""

    def __init__(self, read_at: ReadAt, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.left_bytes = DIRECTORY_MAX_BYTES + _END_BYTES
        self.disk_error: OSError | None = None
        self._read_at = read_at
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._position, self.size_bytes)[whence]
        self._position = max(0, offset + start)
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size_bytes - self._position)
        count = left if count < 0 else min(count, left)
        if count > self.left_bytes:
            raise DamagedZip("far more to read than it can hold")
        self.left_bytes -= count
        try:
            data = self._read_at(self._position, count) if count else b""
        except OSError as error:
            self.disk_error = error
            raise
        self._position += len(data)
        return data


def check_content(read_at: ReadAt, size_bytes: int, budget_bytes: int) -> None:
    """Unpack a zip's files, up to `budget_bytes` in all, and compare their checksums.

    Raises `DamagedZip` where a writer's blocks are missing. What cannot be unpacked here is not
    checked: the inspection judges that.
    """
    directory = zip_directory(read_at, size_bytes)
    if directory is None or directory.size_bytes > DIRECTORY_MAX_BYTES:
        return
    entries: list[ZipInfo] = []
    with suppress(DamagedZip), Archive(read_at, size_bytes) as archive:
        entries = archive.entries
    for entry in entries:
        if unpack_problem(entry) is None:
            budget_bytes -= _check_entry(read_at, entry, budget_bytes)
        if budget_bytes <= 0:
            return


def _check_entry(read_at: ReadAt, entry: ZipInfo, budget_bytes: int) -> int:
    """Compare an entry's checksum; return how many bytes were unpacked."""
    header = read_at(entry.header_offset, _LOCAL.size)
    if len(header) < _LOCAL.size:
        raise DamagedZip("a file that begins beyond the end of the zip")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    at = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    left, checksum, unpacked_bytes = entry.compress_size, 0, 0
    while left and unpacked_bytes < budget_bytes:
        packed = read_at(at, min(left, _CHUNK_BYTES))
        at, left = at + len(packed), left - len(packed)
        deflated = entry.compress_type == ZIP_DEFLATED
        try:
            data = unpacker.decompress(packed, budget_bytes) if deflated else packed
        except zlib.error as error:
            raise DamagedZip(_description(error)) from error
        if not packed or unpacker.unconsumed_tail:
            break
        checksum, unpacked_bytes = zlib.crc32(data, checksum), unpacked_bytes + len(data)
    else:
        if not left and checksum != entry.CRC:
            raise DamagedZip("content that does not match its checksum")
    return unpacked_bytes


def choose_csv(entries: Iterable[ZipInfo]) -> tuple[ZipInfo | None, list[Finding]]:
    """Return the entry that holds the data, and what is wrong with the others.

    None if it is not clear which one it is. Source: "Emission process" of cQube (each file
    zipped alone), and its NiFi templates: they rename every file of a zip to the dataset's name and
    read it as data.
    """
    files = [entry for entry in entries if not entry.filename.endswith(("/", "\\"))]
    data = [entry for entry in files if not _from_mac(entry)]
    if not data:
        found = _listed(files) if files else "no file"
        return None, [finding(Code.NO_FILE_IN_ZIP, "one CSV", found)]
    findings = []
    if len(files) > 1:
        findings.append(finding(Code.SEVERAL_FILES, "one CSV", _listed(files)))
    if len(data) > 1:
        data = [entry for entry in data if entry.filename.lower().endswith(".csv")]
    return data[0] if len(data) == 1 else None, findings


def unpack_problem(entry: ZipInfo) -> Finding | None:
    """Return why the server cannot unpack a file, or None."""
    if entry.flag_bits & _ENCRYPTED_FLAGS or entry.compress_type == _AES:
        return finding(Code.ENCRYPTED, "a zip without a password", "an encrypted file")
    if entry.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        return finding(Code.COMPRESSION, "deflate, or no compression", method)
    return None


def _description(error: Exception) -> str:
    if isinstance(error, zlib.error):
        return f"compressed data that cannot be unpacked ({error})"
    if isinstance(error, EOFError):
        return "compressed data that ends too early"
    if isinstance(error, UnicodeDecodeError):
        return "a file name that is not the UTF-8 that it claims to be"
    if str(error).startswith("Bad CRC-32"):
        return "content that does not match its checksum"
    return f"a zip that contradicts itself ({quoted(str(error))})"


def _from_mac(entry: ZipInfo) -> bool:
    base = entry.filename.rpartition("/")[2]
    in_folder = entry.filename.startswith("__MACOSX/")
    return in_folder or base == ".DS_Store" or base.startswith("._")


def _listed(files: Sequence[ZipInfo]) -> str:
    names = [
        quoted(file.filename) + (" (which a Mac adds)" if _from_mac(file) else "")
        for file in files[:_NAMES_SHOWN_MAX]
    ]
    more = ["…"] if len(files) > _NAMES_SHOWN_MAX else []
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}: {', '.join(names + more)}"
