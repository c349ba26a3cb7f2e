"""A file while it is sent: memory, changes by others, a stop."""

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from emitterd.client.presigned.client import PresignedClient
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, FileError
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from support.client import Listener, answering, deliver, emission_to, hand_made, http_client, sparse
from support.faults import fault_list
from support.waiting import wait_until
from support.zips import make_zip

MIB = 1024 * 1024
SIZE_BYTES = 4 * MIB
AFAR = "http://cqube.example.test/data"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file of several chunks."""
    path = tmp_path / "data.zip"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return path


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(
    emission: PresignedClient, server: RehearsalServer, tmp_path: Path
) -> None:
    """A file of 256 MiB goes through a few MiB, the server in this process included."""
    path = sparse(tmp_path / "huge.zip", 256 * MIB)
    emission.grant(b"warm.zip")
    tracemalloc.start()
    try:
        receipt = deliver(emission, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert receipt.verified
    assert [item.size_bytes for item in server.objects.values()] == [256 * MIB]
    assert peak < 32 * MIB


def grow(path: Path) -> None:
    """Append to the file."""
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    """Remove the second half."""
    os.truncate(path, SIZE_BYTES // 2)


def rewrite(path: Path) -> None:
    """Put other bytes of the same length into the same file."""
    with path.open("r+b") as file:
        file.write(b"other")


@pytest.mark.parametrize("change", [grow, cut, rewrite])
def test_a_file_that_changes_is_not_stored(
    emission: PresignedClient, server: RehearsalServer, source: Path, change: Callable[[Path], None]
) -> None:
    """The body is left unfinished, so that no bucket can take it for whole."""
    chunks: list[int] = []

    def on_sent(size: int) -> None:
        if not chunks:
            change(source)
        chunks.append(size)

    with pytest.raises(FileError) as error:
        deliver(emission, source, on_sent=on_sent)

    assert error.value.code is Code.CHANGED
    assert chunks
    assert not server.objects


def test_after_a_changed_file_the_next_goes_through(
    emission: PresignedClient, server: RehearsalServer, source: Path, tmp_path: Path
) -> None:
    """The half-sent request takes its connection with it and nothing else."""
    with pytest.raises(FileError):
        deliver(emission, source, on_sent=lambda _: grow(source))
    receipt = deliver(emission, make_zip(tmp_path / "next.zip"))

    assert list(server.objects) == [receipt.key]


@pytest.mark.parametrize("replacement", [None, b"newer"])
def test_a_file_that_is_replaced_or_deleted_is_sent_from_its_descriptor(
    emission: PresignedClient, server: RehearsalServer, source: Path, replacement: bytes | None
) -> None:
    """The open descriptor keeps the bytes that the receipt speaks of."""
    content = source.read_bytes()

    def on_sent(_: int) -> None:
        newer = source.with_name("newer")
        newer.write_bytes(replacement or b"")
        newer.replace(source)
        if replacement is None:
            source.unlink()

    receipt = deliver(emission, source, on_sent=on_sent)

    assert receipt.sha256 == hashlib.sha256(content).digest()
    [stored] = server.objects.values()
    assert stored.path.read_bytes() == content


@pytest.mark.parametrize(("menu", "ambiguous"), [("black-hole", False), ("slow-answer:1:60", True)])
def test_a_stop_interrupts_an_upload(
    server: RehearsalServer, tmp_path: Path, menu: str, *, ambiguous: bool
) -> None:
    """A stop gives the entry back, and says whether the object may be there."""
    server.faults = fault_list(menu)
    shutdown, errors = Shutdown(), list[DeliveryError]()
    path = sparse(tmp_path / "large.zip", 24 * MIB)

    def work(emission: PresignedClient) -> None:
        with pytest.raises(DeliveryError) as caught:
            deliver(emission, path)
        errors.append(caught.value)

    with http_client(shutdown=shutdown) as client:
        emission = emission_to(client, server.url, shutdown=shutdown)
        thread = threading.Thread(target=work, args=(emission,))
        thread.start()
        wait_until(lambda: server.fired[menu.partition(":")[0]], 20, "the fault")
        shutdown.now.set()
        thread.join(30)

    [error] = errors
    assert error.decision is Decision.INTERRUPT
    assert error.ambiguous is ambiguous


def test_a_redirect_to_nowhere_is_no_bug_of_ours(source: Path) -> None:
    """A Location that cannot be parsed is an error of the bucket."""
    lost = b"HTTP/1.1 307 T\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"
    with (
        Listener(answering(lost)) as bucket,
        http_client() as client,
        pytest.raises(DeliveryError) as caught,
    ):
        deliver(emission_to(client, AFAR), source, hand_made(bucket.url))

    assert caught.value.decision in {Decision.DEFER, Decision.PAUSE}
    assert len(bucket.heard) == 1
