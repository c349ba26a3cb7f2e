"""Whether bytes are a whole zip: its end record, directory and first headers must agree.

Only the end of the file, the first records of the directory and the headers of these files are
read: a few short reads for any size, and nothing is decompressed. Source: PKWARE APPNOTE 6.3.10,
sections 4.3.6, 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from emitterd.translation.text import Text

ReadAt = Callable[[int, int], bytes]
"""`read_at(offset, count)`: up to `count` bytes from `offset`."""

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\x06\x06"
_CENTRAL = struct.Struct("<8x2H4x3L3H8xL")
CENTRAL_SIGNATURE = b"PK\x01\x02"
_CENTRAL_BYTES = 46
_LOCAL = struct.Struct("<6x2H4x3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
_LOCAL_BYTES = 30
_READ_BYTES = 512
"""Read of a header at first: names and extra fields are rarely longer."""
_ZIP64 = 1
_TWO_SIZES = struct.Struct("<2Q")
_COMMENT_MAX_BYTES = 0xFFFF
_AFTER_MAX_BYTES = 64 * 1024
"""How many harmless bytes may follow the end record."""
_MARK_16, _MARK_32 = 0xFFFF, 0xFFFF_FFFF
WRAP = 1 << 32
"""Archive Utility of macOS writes sizes and offsets modulo this, without zip64 records."""

SIZES_FOLLOW = 0x8
"""The flag of a file whose sizes and CRC follow its data, in a data descriptor."""
_UTF8 = 0x800
_ENCRYPTED = 0x1


class Directory(NamedTuple):
    """What a zip's end record claims about the central directory.

    `ends_at` is the offset of the end record (the zip64 one where there is one). `after` is what
    follows the end record and its comment.
    """

    ends_at: int
    disk: int
    entries: int
    size_bytes: int
    at: int
    after: bytes = b""


class FileHeader(NamedTuple):
    """A file in a zip, by its local header or by its entry in the directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    at: int
    """The offset of the local header."""
    length: int
    """The length of this header."""
    sound: bool = True
    """Whether the zip64 extra field of a local header has both sizes."""

    @property
    def is_folder(self) -> bool:
        """Whether it is no file. Windows programs may end the name with a backslash."""
        return self.name.endswith((b"/", b"\\"))


def zip_directory(read_at: ReadAt, size_bytes: int) -> Directory | None:
    """Return the claims of the end record; None if there is none at the end of the file."""
    record = _find_end(read_at, size_bytes)
    if record is None:
        return None
    end_at, end, after = record
    _, disk, _, _, entries, directory_bytes, directory_at, _ = _END.unpack(end)
    marked = _MARK_32 in (directory_bytes, directory_at) or _MARK_16 in (disk, entries)
    moved = end_at - directory_bytes - directory_at
    # From 2 GiB on some writers add a zip64 record that the end record does not need.
    if marked or moved:
        zip64 = _zip64_end(read_at, end_at, after)
        if zip64 is not None:
            return zip64
    if moved > 0 and moved % WRAP == 0:
        directory_at += moved
    return Directory(end_at, disk, entries, directory_bytes, directory_at, after)


def zip_flaw(read_at: ReadAt, size_bytes: int) -> str | None:
    """Return what is wrong with the file as a zip, or None if it is whole."""
    directory = zip_directory(read_at, size_bytes)
    moved = directory is not None and directory.at + directory.size_bytes != directory.ends_at
    if directory is None or (directory.after and moved):
        return Text("no zip end record closes at the end of the file")
    if directory.disk != 0:
        return Text("the zip is one part of several")
    if moved:
        # A cut-off zip whose last member is itself a stored zip ends in that inner zip's end
        # record, whose offsets start elsewhere.
        return Text("the zip's directory is not where its end record says")
    if directory.entries * _CENTRAL_BYTES > directory.size_bytes:
        return Text("the zip's directory is shorter than its entries")
    if not _harmless(directory.after):
        return f"{len(directory.after)} bytes follow the zip's end record"
    return _first_file_flaw(read_at, directory)


def single_file_flaw(read_at: ReadAt, size_bytes: int, name: bytes) -> str | None:
    """Return why adm-zip would not find the file `name`, the only one of a whole zip, or None.

    It takes the last bytes that look like an end record, counts the files by it, and names them as
    the directory does. Source: adm-zip 0.5.10, with which ingestion-ms unpacks.
    """
    directory = zip_directory(read_at, size_bytes)
    record = _find_end(read_at, size_bytes)
    if directory is None or record is None:
        return Text("no zip end record closes at the end of the file")
    end_at, end, _ = record
    behind_bytes = size_bytes - end_at - _END.size
    if behind_bytes > _COMMENT_MAX_BYTES:
        return f"{behind_bytes} bytes follow the zip's end record"
    at = max(0, end_at - _LOCATOR.size)
    tail = read_at(at, size_bytes - at)
    is_zip64 = directory.ends_at != end_at
    if is_zip64 != tail.startswith(_LOCATOR_SIGNATURE) or tail.count(_END_SIGNATURE) > 1:
        return Text("a comment that looks like a second end record")
    if is_zip64:
        counts = _END64.unpack(read_at(directory.ends_at, _END64.size))[6:8]
    else:
        counts = _END.unpack(end)[3:5]
    entries = list(directory_entries(read_at(directory.at, directory.size_bytes)))
    names = [entry.name for entry in entries if not entry.flags & _ENCRYPTED]
    if counts != (1, 1) or names != [name]:
        return Text("a directory that does not name this one file")
    return None


def directory_entries(data: bytes) -> Iterator[FileHeader]:
    """Yield the entries of a directory up to the first that is incomplete."""
    at = 0
    while data.startswith(CENTRAL_SIGNATURE, at) and len(data) - at >= _CENTRAL_BYTES:
        flags, method, crc, packed, size, name, extra, comment, local_at = _CENTRAL.unpack_from(
            data, at
        )
        values_at = at + _CENTRAL_BYTES + name
        length = _CENTRAL_BYTES + name + extra + comment
        if at + length > len(data):
            return
        if _MARK_32 in (packed, size, local_at):
            wide = _zip64_field(data[values_at : values_at + extra]) or b""
            values = iter(struct.unpack_from(f"<{min(len(wide) // 8, 3)}Q", wide))
            size, packed, local_at = (
                next(values, _MARK_32) if value == _MARK_32 else value
                for value in (size, packed, local_at)
            )
        entry_name = data[at + _CENTRAL_BYTES : values_at]
        yield FileHeader(entry_name, flags, method, crc, packed, size, local_at, length)
        at += length


def local_header(read_at: ReadAt, at: int) -> FileHeader | None:
    """Return the header in front of a file's data; None if there is none at this offset."""
    data = read_at(at, _READ_BYTES)
    if len(data) < _LOCAL_BYTES or not data.startswith(LOCAL_SIGNATURE):
        return None
    flags, method, crc, packed, size, name, extra = _LOCAL.unpack_from(data)
    extra_at = _LOCAL_BYTES + name
    length = extra_at + extra
    if length > _READ_BYTES:
        data = read_at(at, length)
    sound = True
    wide = _zip64_field(data[extra_at:length]) if extra else None
    if wide is not None:
        marked = not flags & SIZES_FOLLOW and _MARK_32 in (packed, size)
        sound = len(wide) >= _TWO_SIZES.size or not (wide or marked)
        if marked and sound:
            size, packed = _TWO_SIZES.unpack_from(wide)
    name_text = data[_LOCAL_BYTES:extra_at]
    return FileHeader(name_text, flags, method, crc, packed, size, at, length, sound)


def same_file(entry: FileHeader, local: FileHeader) -> bool:
    """Tell whether an entry of the directory and a local header are of one file."""
    return (
        entry.method == local.method
        and _same_name(entry, local)
        and (bool(local.flags & SIZES_FOLLOW) or _same_values(entry, local))
    )


def _same_values(entry: FileHeader, local: FileHeader) -> bool:
    # A size that only the directory's broken zip64 field would have remains marked.
    sizes = ((entry.packed_bytes, local.packed_bytes), (entry.size_bytes, local.size_bytes))
    return entry.crc == local.crc and all(
        (a - b) % WRAP == 0 or _MARK_32 in (a, b) for a, b in sizes
    )


def _same_name(entry: FileHeader, local: FileHeader) -> bool:
    if entry.name == local.name:
        return True
    if (entry.flags ^ local.flags) & _UTF8 and not (entry.name + local.name).isascii():
        # The same name in two encodings.
        return True
    # Some writers use a backslash, or a slash at the end, in one of the two.
    return _plain(entry.name) == _plain(local.name)


def _plain(name: bytes) -> bytes:
    return name.replace(b"\\", b"/").strip(b"/")


def _find_end(read_at: ReadAt, size_bytes: int) -> tuple[int, bytes, bytes] | None:
    """Return the end record's offset, the record, and what follows it and its comment."""
    at = size_bytes - _END.size
    if at < 0:
        return None
    end = read_at(at, _END.size)
    if end.startswith(_END_SIGNATURE) and end.endswith(b"\0\0"):
        return at, end, b""
    start = max(0, at - _COMMENT_MAX_BYTES - _AFTER_MAX_BYTES)
    tail = read_at(start, size_bytes - start)
    found = None
    at = tail.rfind(_END_SIGNATURE)
    while at != -1:
        end = tail[at : at + _END.size]
        if len(end) == _END.size:
            end_at = at + _END.size + _END.unpack(end)[-1]
            if end_at == len(tail):
                return start + at, end, b""
            if end_at < len(tail) and found is None:
                found = start + at, end, tail[end_at:]
        at = tail.rfind(_END_SIGNATURE, 0, at)
    return found


def _harmless(after: bytes) -> bool:
    """Tell whether bytes after the end record are padding, or a comment without its length.

    A pipe of bsdtar is padded with zeros to 10 KiB, for example. The server does not read that far.
    """
    if len(after) > _AFTER_MAX_BYTES:
        return False
    try:
        return "".join(after.replace(b"\0", b" ").decode().split()).isprintable()
    except UnicodeDecodeError:
        return False


def _zip64_end(read_at: ReadAt, end_at: int, after: bytes) -> Directory | None:
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
    return Directory(zip64_at, disk, entries, directory_bytes, directory_at, after)


def _zip64_field(extra: bytes) -> bytes | None:
    """Return the content of the zip64 extra field; None if there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if at + length > len(extra):
            return None
        if kind == _ZIP64:
            return extra[at : at + length]
        at += length
    return None


def _first_file_flaw(read_at: ReadAt, directory: Directory) -> str | None:
    """Compare the headers of the first file, and of folders before it, with the directory."""
    entries = _first_entries(read_at, directory)
    if not entries and directory.entries:
        return Text("the zip's directory does not begin with an entry")
    for entry in entries:
        if entry.at == _MARK_32:
            return None
        local = local_header(read_at, entry.at) if entry.at < directory.at else None
        if local is None:
            return Text("the zip's first file is not where its directory says")
        if not same_file(entry, local):
            # An overwrite in place that was interrupted leaves the end of the former version.
            return Text("the zip's first file and its directory are of two versions")
        if not entry.is_folder:
            return None
    return None


def _first_entries(read_at: ReadAt, directory: Directory) -> list[FileHeader]:
    data = read_at(directory.at, min(directory.size_bytes, _READ_BYTES))
    entries = list(directory_entries(data))
    if entries or not data.startswith(CENTRAL_SIGNATURE):
        return entries
    # A long name or extra field.
    data = read_at(directory.at, min(directory.size_bytes, _CENTRAL_BYTES + 3 * _MARK_16))
    return list(directory_entries(data))[:1]
