"""A zip's files, read through `zipfile` with a bound on what it may read.

`zipfile` takes the directory whole into memory and believes its sizes, so the caller
looks at `container.zip_directory` first, and here every read is counted: what a zip
claims costs nothing, only what it holds. Only stored and deflated files are opened,
because nothing bounds what one read of the other methods unpacks.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

from emitterd.codes import Code
from emitterd.datasets.catalogue import Version, VersionRange
from emitterd.datasets.findings import Finding, finding, quoted
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


# Which of a zip's files is the data, and what the others are. Source: "Emission
# process" of cQube (each file zipped alone), and its NiFi templates: 1.1 and 1.2 wait
# for a manifest beside the CSV; from 1.3 on every file of a zip is renamed to the
# dataset's and read as its data.

_MANIFEST = "manifest_datasource_"
_MANIFESTS = VersionRange(Version(1, 1), Version(1, 2))
_NAMED_MAX = 3

_ENCRYPTED_FLAGS = 0x1 | 0x40
"""Flags of a file that is encrypted, and of one that is strongly so."""
_AES = 99
_METHODS = {
    9: "Deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}


def choose(
    entries: Iterable[ZipInfo], version: Version | None
) -> tuple[ZipInfo | None, list[Finding]]:
    """Return the entry that holds the data, and what is wrong with the others.

    None where there is no telling which one it is.
    """
    files = [one for one in entries if not one.filename.endswith(("/", "\\"))]
    manifests = [one for one in files if _is_manifest(one)]
    data = [one for one in files if not _is_manifest(one) and not _of_a_mac(one)]
    chosen = _only(data)
    if not data:
        found = _enumeration(files, due=False) if files else "no file"
        return None, [finding(Code.NO_FILE_IN_ZIP, "one CSV", found)]
    findings = []
    due = version is not None and _MANIFESTS.holds(version)
    if due and chosen is not None:
        findings += _manifest_findings(chosen, manifests)
    if len(files) > (1 + len(manifests) if due else 1):
        expected = "one CSV and its manifest" if due else "one CSV"
        found = _enumeration(files, due=due)
        findings.append(finding(Code.SEVERAL_FILES, expected, found))
    return chosen, findings


def obstacle(entry: ZipInfo) -> Finding | None:
    """Return why the server cannot unpack a file, or None."""
    if entry.flag_bits & _ENCRYPTED_FLAGS or entry.compress_type == _AES:
        return finding(Code.ENCRYPTED, "a zip without a password", "an encrypted file")
    if entry.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        return finding(Code.COMPRESSION, "deflate, or no compression", method)
    return None


def _only(data: Sequence[ZipInfo]) -> ZipInfo | None:
    if len(data) > 1:
        data = [one for one in data if one.filename.lower().endswith(".csv")]
    return data[0] if len(data) == 1 else None


def _manifest_findings(csv: ZipInfo, manifests: Sequence[ZipInfo]) -> list[Finding]:
    due = f"{_MANIFEST}{_base(csv).rpartition('.')[0] or _base(csv)}.csv"
    if any(_base(one) == due for one in manifests):
        return []
    found = ", ".join(quoted(_base(one)) for one in manifests[:_NAMED_MAX])
    return [finding(Code.NO_MANIFEST, due, found or "no manifest")]


def _base(entry: ZipInfo) -> str:
    return entry.filename.rpartition("/")[2]


def _is_manifest(entry: ZipInfo) -> bool:
    return _base(entry).startswith(_MANIFEST)


def _of_a_mac(entry: ZipInfo) -> bool:
    base = _base(entry)
    return (
        entry.filename.startswith("__MACOSX/")
        or base == ".DS_Store"
        or base.startswith("._")
    )


def _enumeration(files: Sequence[ZipInfo], *, due: bool) -> str:
    names = [_description(one, due=due) for one in files[:_NAMED_MAX]]
    more = ["…"] if len(files) > _NAMED_MAX else []
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}: {', '.join(names + more)}"


def _description(file: ZipInfo, *, due: bool) -> str:
    name = quoted(file.filename)
    if _of_a_mac(file):
        return f"{name} (which a Mac adds)"
    if _is_manifest(file) and not due:
        return f"{name} (which only cQube 1.1 and 1.2 read)"
    return name
