"""Digests computed in threads: correct, bounded in memory, and no thread is left."""

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Python
from emitterd.client.body import CHUNK_BYTES, Body
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, FileError
from emitterd.model import Fingerprint
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import digests
from emitterd.spool.hashing import QUEUED_CHUNKS_MAX, THREAD_NAME, THREADS_FROM_BYTES, Hashing
from support.client import Listener, answering, emission_to, hand_made, http_client, sparse

LARGE_BYTES = THREADS_FROM_BYTES + 16 * 2**20
"""Hashed beside, and more than the kernel's buffers take."""

MIB = 2**20
NO_BYTES: Any = "text"
NOWHERE = "http://cqube.example.test/data"
GROWN_MIB = 4
"""The most that uploads of two sizes may differ in memory."""

MEASURED = """
import os, sys
from emitterd.model import Fingerprint
from emitterd.client.body import Body

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line[:5] == "VmHWM")

with open(sys.argv[1], "rb", buffering=0) as file:
    body = Body(file, Fingerprint.of(os.fstat(file.fileno())), {})
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = peak()
    for piece in body:
        pass
    print(peak() - before)
"""


def hashing_threads() -> int:
    """Return how many hashing threads there are."""
    return sum(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


def expected(content: bytes) -> tuple[bytes, bytes]:
    """Return MD5 and SHA-256 of some bytes."""
    md5 = hashlib.md5(content, usedforsecurity=False)
    return md5.digest(), hashlib.sha256(content).digest()


def feed(hashing: Hashing, chunks: Iterable[bytes]) -> None:
    """Hash one chunk after the other."""
    for chunk in chunks:
        hashing.update(chunk)


@given(st.lists(st.binary(max_size=9000)), st.sampled_from([0, THREADS_FROM_BYTES]))
def test_the_digests_are_those_of_the_bytes(chunks: list[bytes], size: int) -> None:
    """The digests do not depend on the chunks, nor on the threads."""
    with Hashing(size) as hashing:
        feed(hashing, chunks)
        hashing.finish()
        assert not hashing_threads()

    assert (hashing.md5, hashing.sha256) == expected(b"".join(chunks))


SIZES = {
    "just straight": THREADS_FROM_BYTES - 1,
    "just beside": THREADS_FROM_BYTES,
    "a byte more": THREADS_FROM_BYTES + 1,
    "a chunk more": THREADS_FROM_BYTES + CHUNK_BYTES,
    "odd": THREADS_FROM_BYTES + 3 * CHUNK_BYTES - 7,
}


@pytest.fixture(scope="module")
def content() -> bytes:
    """Return bytes for the largest of the sizes."""
    return os.urandom(max(SIZES.values()))


def opened(file: FileIO) -> Body:
    """Return the body of an open file."""
    return Body(file, Fingerprint.of(os.fstat(file.fileno())), {})


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_body_is_the_file_for_every_digest(tmp_path: Path, content: bytes, size: int) -> None:
    """The body sends the file unchanged, and the digests are those of the file."""
    path = tmp_path / "x.zip"
    path.write_bytes(content[:size])
    with path.open("rb", buffering=0) as file:
        body = opened(file)
        pieces = iter(body)
        data = bytearray(next(pieces))
        threads = hashing_threads()
        for piece in pieces:
            data += piece
        looked_up = digests(file, lambda: None)
    begin = data.index(b"\r\n\r\n") + 4

    assert threads == (2 if size >= THREADS_FROM_BYTES else 0)
    assert data[begin : begin + size] == content[:size]
    assert data[begin + size :].endswith(b"--\r\n")
    assert len(data) == body.size_bytes
    assert (body.hashing.md5, body.hashing.sha256) == looked_up == expected(content[:size])


def test_what_hashing_raises_reaches_who_reads() -> None:
    """An error in hashing ends the attempt at once."""
    with Hashing(THREADS_FROM_BYTES) as hashing, pytest.raises(TypeError):
        feed(hashing, [NO_BYTES] * (QUEUED_CHUNKS_MAX + 1))

    assert not hashing_threads()


def test_what_hashing_raises_at_last_reaches_who_reads() -> None:
    """A digest is complete only with the last bytes."""
    with Hashing(THREADS_FROM_BYTES) as hashing:
        feed(hashing, [NO_BYTES])
        with pytest.raises(TypeError):
            hashing.finish()

    assert not hashing_threads()


def test_a_look_up_that_is_stopped_leaves_no_thread(tmp_path: Path) -> None:
    """Hashing for a look-up ends when the daemon stops."""
    seen: list[int] = []

    def check() -> None:
        seen.append(hashing_threads())
        if len(seen) > QUEUED_CHUNKS_MAX:
            raise InterruptedError

    path = sparse(tmp_path / "x.zip", LARGE_BYTES)
    with path.open("rb", buffering=0) as file, pytest.raises(InterruptedError):
        digests(file, check)

    assert seen[-1] == 2
    assert not hashing_threads()


class Upload:
    """An upload of a large file; `fail` makes it fail in the middle."""

    def __init__(self, fail: Callable[[], object], shutdown: Shutdown | None = None) -> None:
        self.threads = 0
        """The largest number of hashing threads."""
        self._fail = fail
        self._shutdown = shutdown
        self._left_bytes = THREADS_FROM_BYTES

    def run(self, file: FileIO, url: str) -> None:
        """Send the file to a bucket."""
        seen = Fingerprint.of(os.fstat(file.fileno()))
        with http_client(shutdown=self._shutdown) as client:
            emission = emission_to(client, NOWHERE)
            emission.deliver(hand_made(url), file, seen, self._sent)

    def _sent(self, count: int) -> None:
        self.threads = max(self.threads, hashing_threads())
        self._left_bytes -= count
        if self._left_bytes <= 0:
            self._fail()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Make a large file."""
    return sparse(tmp_path / "x.zip", LARGE_BYTES)


@pytest.fixture
def bucket() -> Iterator[Listener]:
    """Run a bucket that takes everything."""
    with Listener(answering(b'HTTP/1.1 204 Stored\r\nETag: "x-1"\r\n\r\n')) as bucket:
        yield bucket


class Unreadable(FileIO):
    """A file whose disk fails in its middle."""

    _failing = False

    def fail(self) -> None:
        """Let every read from now on fail as a bad sector does."""
        self._failing = True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or fail."""
        if self._failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


def test_a_file_that_cannot_be_read_further_leaves_no_thread(large: Path, bucket: Listener) -> None:
    """The attempt ends with the error of the disk."""
    with Unreadable(large) as file:
        upload = Upload(file.fail)
        with pytest.raises(OSError, match="Input/output error"):
            upload.run(file, bucket.url)

    assert upload.threads == 2
    assert not hashing_threads()


def test_a_file_that_changes_leaves_no_thread(large: Path, bucket: Listener) -> None:
    """A change during the upload is found at the end, and the body stays unfinished."""
    upload = Upload(partial(large.write_bytes, b"anew"))
    with large.open("rb", buffering=0) as file, pytest.raises(FileError) as caught:
        upload.run(file, bucket.url)

    assert caught.value.code is Code.CHANGED
    assert upload.threads == 2
    assert not hashing_threads()


def test_a_stop_leaves_no_thread(large: Path, bucket: Listener) -> None:
    """An upload that is stopped in the middle ends its hashing threads."""
    shutdown = Shutdown()
    upload = Upload(shutdown.now.set, shutdown)
    with large.open("rb", buffering=0) as file, pytest.raises(DeliveryError) as caught:
        upload.run(file, bucket.url)

    assert caught.value.decision is Decision.INTERRUPT
    assert not caught.value.ambiguous
    assert upload.threads == 2
    assert not hashing_threads()


def hang_up(listener: Listener, connection: socket.socket) -> None:
    """Break the connection in the middle of a body."""
    del listener
    left = THREADS_FROM_BYTES
    while left > 0:
        left -= len(connection.recv(65536))


def refuse(listener: Listener, connection: socket.socket) -> None:
    """Answer in the middle of a body, and read on without end."""
    hang_up(listener, connection)
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


@pytest.mark.parametrize("serve", [hang_up, refuse])
def test_a_bucket_that_hangs_up_leaves_no_thread(
    large: Path, serve: Callable[[Listener, socket.socket], None]
) -> None:
    """However the bucket ends the connection, no thread waits for more bytes."""
    upload = Upload(lambda: None)
    with (
        Listener(serve) as bucket,
        large.open("rb", buffering=0) as file,
        pytest.raises(DeliveryError) as caught,
    ):
        upload.run(file, bucket.url)

    assert not caught.value.ambiguous
    assert upload.threads == 2
    assert not hashing_threads()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, python: Python) -> None:
    """A gigabyte needs no more memory than 64 MiB."""
    small, large = (
        int(python(MEASURED, sparse(tmp_path / "x", mib * MIB), cwd=tmp_path)) / 1024
        for mib in (64, 1024)
    )

    assert large < 8
    assert large - small < GROWN_MIB
