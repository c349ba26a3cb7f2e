"""The body of a presigned POST, as a multipart parser reads it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python_multipart import parse_form
from python_multipart.multipart import Field, File

from emitterd.client.body import CHUNK_BYTES, Body
from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.model import Fingerprint

FIELDS = {"key": "pat/x_20231114221320.zip", "policy": "e30=", "x-amz-date": "now"}
THREE = os.urandom(3 * CHUNK_BYTES)


@contextmanager
def opened(path: Path, fields: dict[str, str] | None = None) -> Iterator[Body]:
    """Open a file and make its body, as an attempt does."""
    with path.open("rb", buffering=0) as file:
        seen = Fingerprint.of(os.fstat(file.fileno()))
        yield Body(file, seen, FIELDS if fields is None else fields)


def dropped(folder: Path, content: bytes) -> Path:
    """Drop a file that was written a while ago."""
    path = folder / "x.zip"
    path.write_bytes(content)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


def parsed(body: Body, data: bytes) -> list[tuple[str, bytes]]:
    """Return what a multipart parser reads: names and values in their order."""
    parts: list[tuple[str, bytes]] = []

    def on_field(field: Field) -> None:
        parts.append(((field.field_name or b"").decode(), field.value or b""))

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        parts.append(((file.field_name or b"").decode(), file.file_object.read()))
        file.close()

    headers = {"Content-Type": body.content_type.encode()}
    parse_form(headers, BytesIO(data), on_field, on_file)
    return parts


SIZES = {
    "empty": 0,
    "one byte": 1,
    "less than a chunk": CHUNK_BYTES - 1,
    "one chunk": CHUNK_BYTES,
    "a byte more": CHUNK_BYTES + 1,
    "two chunks": 2 * CHUNK_BYTES,
    "three chunks": 3 * CHUNK_BYTES,
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


@sizes
def test_a_parser_reads_all_fields_first_and_the_file_last(tmp_path: Path, size: int) -> None:
    """S3 ignores what comes after the file, so the file is the last part."""
    with opened(dropped(tmp_path, THREE[:size])) as body:
        parts = parsed(body, b"".join(body))

    expected = [(name, value.encode()) for name, value in FIELDS.items()]
    assert parts == [*expected, ("file", THREE[:size])]


@sizes
def test_the_length_is_known_beforehand(tmp_path: Path, size: int) -> None:
    """The body has exactly the Content-Length that is announced."""
    with opened(dropped(tmp_path, THREE[:size])) as body:
        announced = body.size_bytes
        assert sum(map(len, body)) == announced


@sizes
def test_both_digests_are_taken_on_the_way(tmp_path: Path, size: int) -> None:
    """MD5 and SHA-256 are those of the file's bytes, read once."""
    with opened(dropped(tmp_path, THREE[:size])) as body:
        for _ in body:
            pass

    assert body.hashing.md5 == hashlib.md5(THREE[:size], usedforsecurity=False).digest()
    assert body.hashing.sha256 == hashlib.sha256(THREE[:size]).digest()


@sizes
def test_no_piece_is_larger_than_a_chunk_and_its_frame(tmp_path: Path, size: int) -> None:
    """Memory does not grow with the file, and a small file is one write."""
    with opened(dropped(tmp_path, THREE[:size])) as body:
        frame = body.size_bytes - size
        pieces = [len(piece) for piece in body]

    assert len(pieces) == max(1, -(-size // CHUNK_BYTES))
    assert max(pieces) <= CHUNK_BYTES + frame


@sizes
def test_sent_is_said_with_the_last_byte_only(tmp_path: Path, size: int) -> None:
    """Before the last piece no object can exist; from then on it may."""
    with opened(dropped(tmp_path, THREE[:size])) as body:
        assert not body.sent
        left = body.size_bytes
        for piece in body:
            left -= len(piece)
            assert body.sent is (left == 0)

    assert body.sent


def grow(path: Path) -> None:
    """Append to a file."""
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    """Put other bytes of the same size into a file, in place."""
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"else")


def cut(path: Path) -> None:
    """Cut a file in the middle."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Truncate a file, as a producer does that starts again."""
    path.write_bytes(b"")


def touch(path: Path) -> None:
    """Set a file's time; that looks like other bytes."""
    os.utime(path, (1_500_000_000, 1_500_000_000))


def overwrite_and_delete(path: Path) -> None:
    """Change a file and delete it: what is left are other bytes."""
    overwrite(path)
    path.unlink()


@pytest.mark.parametrize("pieces_before", [0, 1, 2])
@pytest.mark.parametrize("change", [grow, overwrite, cut, empty, touch, overwrite_and_delete])
def test_a_file_that_changes_leaves_the_body_unfinished(
    tmp_path: Path, change: Callable[[Path], None], pieces_before: int
) -> None:
    """No closing boundary goes out, so a bucket cannot store what was sent."""
    path, sent = dropped(tmp_path, THREE), list[bytes]()
    with opened(path) as body:
        pieces = iter(body)
        sent += [next(pieces) for _ in range(pieces_before)]
        change(path)
        with pytest.raises(FileError) as caught:
            sent.extend(pieces)

    assert caught.value.code is Code.CHANGED
    assert not body.sent
    assert len(b"".join(sent)) < body.size_bytes
    assert not b"".join(sent).endswith(b"--\r\n")


@pytest.mark.parametrize("change", [grow, overwrite])
def test_a_small_file_that_changes_sends_nothing(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A file of one chunk is compared before its only piece goes out."""
    path = dropped(tmp_path, b"0123456789")
    with opened(path) as body:
        change(path)
        with pytest.raises(FileError):
            next(iter(body))


def test_a_file_whose_permissions_change_is_finished(tmp_path: Path) -> None:
    """Another ctime alone discards no upload: the content is still what was sent."""
    path = dropped(tmp_path, THREE)
    with opened(path) as body:
        pieces = iter(body)
        data = next(pieces)
        seen = path.stat().st_ctime_ns
        path.chmod(0o604)
        (tmp_path / "snapshot").hardlink_to(path)
        data += b"".join(pieces)

    assert path.stat().st_ctime_ns != seen
    assert body.sent
    assert parsed(body, data)[-1] == ("file", THREE)


def replace(path: Path) -> None:
    """Put another file in a file's place, as a good producer does."""
    other = path.with_name("y")
    other.write_bytes(b"new content")
    other.replace(path)


@pytest.mark.parametrize("change", [Path.unlink, replace])
def test_a_file_that_loses_its_name_is_finished(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Deleted or replaced by a rename, the open file still has the admitted bytes."""
    path = dropped(tmp_path, THREE)
    with opened(path) as body:
        pieces = iter(body)
        data = next(pieces)
        change(path)
        data += b"".join(pieces)

    assert body.sent
    assert parsed(body, data)[-1] == ("file", THREE)


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii"), min_size=1, max_size=9),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30),
        max_size=8,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_field_breaks_the_frame(tmp_path: Path, fields: dict[str, str]) -> None:
    """For any names and values of a grant, the file arrives and nothing is added."""
    with opened(dropped(tmp_path, b"--x\r\ncontent"), fields) as body:
        data = b"".join(body)

    assert len(data) == body.size_bytes
    parts = parsed(body, data)
    assert parts[-1] == ("file", b"--x\r\ncontent")
    assert [value for _, value in parts[:-1]] == [field.encode() for field in fields.values()]


def test_each_body_has_a_boundary_of_its_own(tmp_path: Path) -> None:
    """A boundary cannot be guessed, so no file can hold it."""
    path = dropped(tmp_path, b"x")
    with opened(path) as item, opened(path) as other:
        assert item.content_type != other.content_type


def test_no_path_of_this_host_goes_out(tmp_path: Path) -> None:
    """The part's file name is fixed; the bucket ignores it."""
    with opened(dropped(tmp_path, b"x")) as body:
        data = b"".join(body)

    assert b'filename="file.zip"' in data
    assert bytes(tmp_path) not in data
