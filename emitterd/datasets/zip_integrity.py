"""Whether bytes are a whole zip: its end record must end exactly at end of file.

Only the record at the end, the first central record and the first local header are read: four short
reads for any size, and nothing is decompressed. Source: PKWARE APPNOTE 6.3.10, sections 4.3.6,
4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]
"""`read_at(offset, count)`: up to `count` bytes from `offset`."""

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\x06\x06"
_CENTRAL_SIGNATURE = b"PK\x01\x02"
_CENTRAL_BYTES = 46
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENTRY = struct.Struct("<H4x3L2H")
"""Method, CRC, both sizes, lengths of name and extra field: alike in both headers."""
_LOCAL_BYTES = 30
_NAME_READ_BYTES = 512
_SIZES_FOLLOW = 0x8
_COMMENT_MAX_BYTES = 0xFFFF
_MARK_16, _MARK_32 = 0xFFFF, 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Directory:
    """What a zip's end record claims about the central directory.

    `ends_at` is the offset of the end record (the zip64 one where there is one).
    """

    ends_at: int
    disk: int
    entries: int
    size_bytes: int
    at: int


def zip_directory(read_at: ReadAt, size_bytes: int) -> Directory | None:
    """Return the claims of the end record; None if none ends at end of file."""
    end_at, end = _find_end(read_at, size_bytes)
    if end_at is None:
        return None
    _, disk, _, _, entries, directory_bytes, directory_at, _ = _END.unpack(end)
    marked = _MARK_32 in (directory_bytes, directory_at) or _MARK_16 in (disk, entries)
    # From 2 GiB on some writers add a zip64 record that the end record does not need.
    if marked or directory_at + directory_bytes != end_at:
        zip64 = _zip64_end(read_at, end_at)
        if zip64 is not None:
            return zip64
    return Directory(end_at, disk, entries, directory_bytes, directory_at)


def zip_flaw(read_at: ReadAt, size_bytes: int) -> str | None:
    """Return what is wrong with the file as a zip, or None if it is whole."""
    directory = zip_directory(read_at, size_bytes)
    if directory is None:
        return "no zip end record closes at the end of the file"
    if directory.disk != 0:
        return "the zip is one part of several"
    if directory.at + directory.size_bytes != directory.ends_at:
        # A cut-off zip whose last member is itself a stored zip ends in that inner zip's end
        # record, whose offsets start elsewhere.
        return "the zip's directory is not where its end record says"
    if directory.entries * _CENTRAL_BYTES > directory.size_bytes:
        return "the zip's directory is shorter than its entries"
    return _first_entry_flaw(read_at, directory)


def _find_end(read_at: ReadAt, size_bytes: int) -> tuple[int | None, bytes]:
    at = size_bytes - _END.size
    if at < 0:
        return None, b""
    end = read_at(at, _END.size)
    if end.startswith(_END_SIGNATURE) and end.endswith(b"\0\0"):
        return at, end
    start = max(0, at - _COMMENT_MAX_BYTES)
    tail = read_at(start, size_bytes - start)
    start_at = tail.rfind(_END_SIGNATURE)
    while start_at != -1:
        end = tail[start_at : start_at + _END.size]
        if len(end) == _END.size:
            comment_bytes = _END.unpack(end)[-1]
            if start_at + _END.size + comment_bytes == len(tail):
                return start + start_at, end
        start_at = tail.rfind(_END_SIGNATURE, 0, start_at)
    return None, b""


def _zip64_end(read_at: ReadAt, end_at: int) -> Directory | None:
    """Return the claims of the zip64 record.

    None if there is none: an entry count of 65535 is legal without.
    """
    at = end_at - _LOCATOR.size
    if at < 0:
        return None
    locator = read_at(at, _LOCATOR.size)
    if len(locator) < _LOCATOR.size or not locator.startswith(_LOCATOR_SIGNATURE):
        return None
    zip64_at = _LOCATOR.unpack(locator)[2]
    record = read_at(zip64_at, _END64.size) if zip64_at < at else b""
    if len(record) < _END64.size or not record.startswith(_END64_SIGNATURE):
        return None
    _, length, _, _, disk, _, _, entries, directory_bytes, directory_at = _END64.unpack(record)
    if zip64_at + 12 + length != at:
        return None
    return Directory(zip64_at, disk, entries, directory_bytes, directory_at)


def _first_entry_flaw(read_at: ReadAt, directory: Directory) -> str | None:
    if directory.entries == 0:
        return None
    central = read_at(directory.at, _CENTRAL_BYTES + _NAME_READ_BYTES)
    if len(central) < _CENTRAL_BYTES or not central.startswith(_CENTRAL_SIGNATURE):
        return "the zip's directory does not begin with an entry"
    local_at = struct.unpack_from("<L", central, 42)[0]
    if local_at == _MARK_32:
        return None
    local = read_at(local_at, _LOCAL_BYTES + _NAME_READ_BYTES)
    if len(local) < _LOCAL_BYTES or not local.startswith(_LOCAL_SIGNATURE):
        return "the zip's first file is not where its directory says"
    if not _same_entry(central, local):
        # An overwrite in place that was interrupted leaves the end of the former version.
        return "the zip's first file and its directory are of two versions"
    return None


def _same_entry(central: bytes, local: bytes) -> bool:
    method, *values, name_bytes, _ = _ENTRY.unpack_from(central, 10)
    local_method, *local_values, local_name_bytes, _ = _ENTRY.unpack_from(local, 8)
    name = central[_CENTRAL_BYTES:][: min(name_bytes, _NAME_READ_BYTES)]
    local_name = local[_LOCAL_BYTES:][: min(local_name_bytes, _NAME_READ_BYTES)]
    # Some writers use a backslash, or a slash at the end, in one of the two.
    names = {text.replace(b"\\", b"/").strip(b"/") for text in (name, local_name)}
    if method != local_method or len(names) > 1:
        return False
    if local[6] & _SIZES_FOLLOW:
        return True
    # With zip64 a marker takes the place of a size.
    pairs = zip(values, local_values, strict=True)
    return all(a == b or _MARK_32 in {a, b} for a, b in pairs)
