"""A start over many files: the first is sent at once, and memory does not grow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitterd.model import State
from emitterd.rehearsal.server import RehearsalServer
from support.installation import DEADLINE_S, Installation
from support.waiting import wait_until

FEW, MANY = 500, 6000
FOLDERS = 50
FLAT_BYTES = 8 * 1024 * 1024
"""SQLite's page caches fill once; a thousandth of what `MANY` small lists would take
is noise beside them."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RehearsalServer]:
    """Serve without faults."""
    with RehearsalServer(tmp_path / "server") as rehearsal:
        yield rehearsal


def fill(place: Installation, count: int) -> None:
    """Put so many files into the folder, each a name for the same bytes."""
    first = place.drop("0/0.zip")
    for number in range(1, count):
        target = place.spool / str(number % FOLDERS) / f"{number}.zip"
        target.parent.mkdir(exist_ok=True)
        os.link(first, target)


@pytest.mark.slow
def test_first_upload_before_the_sweep_has_ended(tmp_path: Path, server: RehearsalServer) -> None:
    """Who finds a backlog does not go through all of it before sending."""
    place = Installation(tmp_path, server.url)
    fill(place, MANY)
    with place.running() as daemon:
        daemon.wait_for_event("sweep.finished")

    names = [line["event"] for line in place.events()]
    assert names.index("file.delivered") < names.index("sweep.finished")
    (sweep,) = place.events("sweep.finished")[:1]
    assert sweep["files"] == MANY


@pytest.mark.slow
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """Twelve times the files that wait take no more memory."""
    few, many = (peak_bytes(tmp_path / str(count), count) for count in (FEW, MANY))

    assert many - few < FLAT_BYTES


def peak_bytes(folder: Path, count: int) -> int:
    """Have so many files wait for an outage's end; return the daemon's most memory."""
    folder.mkdir()
    place = Installation(folder, "http://127.0.0.1:9/")
    fill(place, count)

    def all_wait() -> bool:
        counts = place.counts()
        return counts[State.QUEUED] + counts[State.DEFERRED] == count

    with place.running() as daemon:
        wait_until(all_wait, DEADLINE_S, "all wait")
        return daemon.peak_bytes
