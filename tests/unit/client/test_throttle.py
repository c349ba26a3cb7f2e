"""The bandwidth limit over real sockets. Lower bounds of time only: they are safe."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

import pytest

from emitterd.client.bandwidth import BURST_SLICES, SLICE_LEAST_BYTES, SLICE_S, Throttle
from emitterd.client.presigned.client import PresignedClient
from emitterd.client.responses import Stopped
from emitterd.client.sockets import TransferLimits
from emitterd.client.timetable import TimeSpan, Timetable
from emitterd.config.fields import timetable
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Receipt
from emitterd.monitoring.uploads import UploadTracker
from emitterd.shutdown import Shutdown
from support.client import (
    Listener,
    answering,
    deliver,
    emission_to,
    hand_made,
    http_client,
    post,
    sparse,
)
from support.journal import entry
from support.waiting import wait_until

KIB = 1024
DEADLINE_S = 30.0
STORED = b'HTTP/1.1 204 No Content\r\nETag: "of-2"\r\n\r\n'
NEVER = timetable("1KiB/s")
"""At this limit the files of these tests take longer than any test."""


def burst(rate: int) -> int:
    """Return how much may go at once."""
    return BURST_SLICES * max(SLICE_LEAST_BYTES, int(rate * SLICE_S))


@pytest.fixture
def bucket() -> Iterator[Listener]:
    """Run a bucket that takes everything."""
    with Listener(answering(STORED)) as server:
        yield server


def bodies(server: Listener) -> list[int]:
    """Return the sizes of the bodies that arrived whole, in their order."""
    return [len(request.body) for request in server.heard]


@pytest.mark.parametrize("uploads", [1, 4])
def test_all_together_keep_the_limit(bucket: Listener, tmp_path: Path, uploads: int) -> None:
    """So many bytes take at least the time that the limit gives them, less a burst."""
    rate, size = 512 * KIB, 640 * KIB // uploads
    file = sparse(tmp_path / "file.zip", size)
    with http_client() as client, ThreadPoolExecutor(uploads) as pool:
        client._throttle.apply_timetable(timetable("512KiB/s"))
        emission = emission_to(client, bucket.url)
        began_at = time.monotonic()
        sent = [pool.submit(deliver, emission, file, hand_made(bucket.url)) for _ in range(uploads)]
        for request in sent:
            request.result()
        took_s = time.monotonic() - began_at

    assert took_s >= (uploads * size - burst(rate)) / rate
    assert len(bodies(bucket)) == uploads
    assert min(bodies(bucket)) > size


def test_what_arrives_is_what_was_sent(bucket: Listener, tmp_path: Path) -> None:
    """Cut into slices, a body loses and repeats no byte."""
    file = tmp_path / "file.zip"
    file.write_bytes(b"".join(n.to_bytes(8) for n in range(100_000)))
    with http_client() as client:
        client._throttle.apply_timetable(timetable("2MiB/s"))
        deliver(emission_to(client, bucket.url), file, hand_made(bucket.url))

    assert file.read_bytes() in bucket.heard[0].body


def test_small_file_passes_a_large_one(bucket: Listener, tmp_path: Path) -> None:
    """It does not wait for the megabytes of uploads that began before it."""
    # The large one takes five minutes.
    large = sparse(tmp_path / "large.zip", 20 * 1024 * KIB)
    small = sparse(tmp_path / "small.zip", 8 * KIB)
    shutdown = Shutdown()
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(2) as pool:
        client._throttle.apply_timetable(timetable("64KiB/s"))
        emission = emission_to(client, bucket.url, shutdown=shutdown)
        sent: list[int] = []
        first = pool.submit(deliver, emission, large, hand_made(bucket.url), sent.append)
        wait_until(lambda: sent, DEADLINE_S, "the large file is on its way")

        deliver(emission, small, hand_made(bucket.url))

        assert not first.done()
        assert len(bodies(bucket)) == 1
        shutdown.now.set()
        with pytest.raises(DeliveryError):
            first.result(DEADLINE_S)


def begun(
    pool: ThreadPoolExecutor, emission: PresignedClient, bucket: Listener, file: Path
) -> Future[Receipt]:
    """Begin an upload, which then waits for its limit."""
    sent = pool.submit(deliver, emission, file, hand_made(bucket.url))
    wait_until(lambda: bucket.lines, DEADLINE_S, "a connection")
    return sent


def test_stop_ends_the_wait(bucket: Listener, tmp_path: Path) -> None:
    """A stop does not wait for the limit, and nothing is stored."""
    file = sparse(tmp_path / "file.zip", 1024 * KIB)
    shutdown = Shutdown()
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(1) as pool:
        client._throttle.apply_timetable(NEVER)
        sent = begun(pool, emission_to(client, bucket.url, shutdown=shutdown), bucket, file)
        shutdown.now.set()

        with pytest.raises(DeliveryError) as caught:
            sent.result(DEADLINE_S)
        assert caught.value.decision is Decision.INTERRUPT
        assert not caught.value.ambiguous
    assert bodies(bucket) == []


@pytest.mark.parametrize("after", ["off", "64MiB/s", None])
def test_other_limit_frees_who_waits(bucket: Listener, tmp_path: Path, after: str | None) -> None:
    """What waits under a low limit goes on as soon as there is a higher one, or none.

    As a reload brings it; None is a configuration without the key.
    """
    file = sparse(tmp_path / "file.zip", 1024 * KIB)
    with http_client() as client, ThreadPoolExecutor(1) as pool:
        client._throttle.apply_timetable(NEVER)
        sent = begun(pool, emission_to(client, bucket.url), bucket, file)
        client._throttle.apply_timetable(timetable(after) if after else None)

        assert sent.result(DEADLINE_S).size_bytes == 1024 * KIB
    assert len(bodies(bucket)) == 1


def test_limit_that_comes_in_mid_upload(bucket: Listener, tmp_path: Path) -> None:
    """An upload that began without a limit keeps the one that a reload brings."""
    file = sparse(tmp_path / "file.zip", 64 * 1024 * KIB)
    shutdown = Shutdown()
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(1) as pool:
        emission = emission_to(client, bucket.url, shutdown=shutdown)

        def limit(_: int) -> None:
            client._throttle.apply_timetable(NEVER)

        sent = pool.submit(deliver, emission, file, hand_made(bucket.url), limit)
        wait_until(lambda: client._throttle.limited, DEADLINE_S, "the limit")

        assert not sent.done()
        shutdown.now.set()
        with pytest.raises(DeliveryError):
            sent.result()
    assert bodies(bucket) == []


def test_other_hour_frees_who_waits() -> None:
    """The limit changes with the clock while somebody waits, without any reload."""
    minute = {"now": datetime.fromisoformat("2026-11-24T17:59").timestamp()}
    throttle = Throttle(lambda: minute["now"])
    throttle.apply_timetable(Timetable((TimeSpan(8 * 60, 18 * 60, 1024),)))
    looks: list[float] = []

    def look() -> None:
        looks.append(minute["now"])
        minute["now"] += 20

    assert throttle.take(1024 * KIB, look) == 1024 * KIB
    assert len(looks) == 3


def test_who_waits_looks_around() -> None:
    """However long the wait, a look is never far: for the stop, and as a sign."""
    throttle = Throttle()
    throttle.apply_timetable(timetable("1B/s"))
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise Stopped

    began_at = time.monotonic()
    with pytest.raises(Stopped):
        throttle.take(1024, look)

    assert time.monotonic() - began_at < DEADLINE_S


@pytest.mark.slow
def test_own_limit_is_not_a_slow_line(bucket: Listener, tmp_path: Path) -> None:
    """A limit far below the minimum speed breaks nothing off, however long it takes."""
    limits = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=1024 * KIB)
    file = sparse(tmp_path / "file.zip", 64 * KIB)
    with http_client(limits) as client:
        client._throttle.apply_timetable(timetable("16KiB/s"))
        receipt = deliver(emission_to(client, bucket.url), file, hand_made(bucket.url))

    assert receipt.size_bytes == 64 * KIB


def test_slow_line_is_one_under_a_limit_too(tmp_path: Path) -> None:
    """A reader that stalls is given up, though we send less than we might."""

    def deaf(server: Listener, connection: socket.socket) -> None:
        del connection
        server.over.wait()

    limits = TransferLimits(connect_s=10.0, stall_s=0.6, minimum_bytes_s=1)
    file = sparse(tmp_path / "file.zip", 64 * 1024 * KIB)
    with Listener(deaf) as server, http_client(limits) as client:
        client._throttle.apply_timetable(timetable("256MiB/s"))
        with pytest.raises(DeliveryError, match="bytes went out in"):
            deliver(emission_to(client, server.url), file, hand_made(server.url))


def test_requests_of_the_api_pass_by(bucket: Listener, tmp_path: Path) -> None:
    """A login or a grant does not wait behind bodies, and is not counted."""
    file = sparse(tmp_path / "file.zip", 1024 * KIB)
    shutdown = Shutdown()
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(1) as pool:
        client._throttle.apply_timetable(NEVER)
        sent = begun(pool, emission_to(client, bucket.url, shutdown=shutdown), bucket, file)

        assert post(client, bucket.url, b"x" * 1024 * KIB).status == HTTPStatus.NO_CONTENT
        assert not sent.done()
        shutdown.now.set()
        with pytest.raises(DeliveryError):
            sent.result(DEADLINE_S)


def test_progress_within_a_chunk(bucket: Listener, tmp_path: Path) -> None:
    """The tracker shows progress before the first chunk is sent completely."""
    file = sparse(tmp_path / "file.zip", 1024 * KIB)
    board, shutdown, upload = UploadTracker(), Shutdown(), entry(1, 1024 * KIB)
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(1) as pool:
        client._throttle.apply_timetable(NEVER)
        # The thread of the pool is the worker: its upload is the one that it begins.
        pool.submit(board.began, upload).result()
        emission = emission_to(client, bucket.url, shutdown=shutdown)
        pool.submit(post, client, bucket.url, b"x" * 10_000).result()
        assert board.now()[0].sent_bytes == 0
        sent = pool.submit(deliver, emission, file, hand_made(bucket.url), board.sent)
        wait_until(lambda: board.now()[0].sent_bytes, DEADLINE_S, "progress")

        assert board.now()[0].sent_bytes < 64 * KIB
        shutdown.now.set()
        with pytest.raises(DeliveryError):
            sent.result(DEADLINE_S)
