"""How far long uploads are, in the log and in `status`."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from conftest import SmallDisk
from emitterd.journal.journal import Journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import Admission
from emitterd.model import Entry, Fingerprint
from emitterd.monitoring.status import UPLOADS, noted_uploads
from emitterd.monitoring.uploads import (
    LOG_S,
    NOTE_S,
    UploadReporter,
    UploadTracker,
)
from emitterd.text import iso
from support.installation import DEADLINE_S, Installation
from support.page import HOSTILE
from support.waiting import wait_until

SIZE = 1_000_000
NAME = b"pat/large.zip"


class Watching:
    """A bulletin whose clock a test drives: `now` goes on by seconds."""

    def __init__(self, journal: Journal, place: Path) -> None:
        self.journal = journal
        self.place = place
        self.uploads = UploadTracker()
        self.reporter = UploadReporter(self.uploads, journal)
        self.began_at = self.now = time.time()
        self.notes: list[tuple[int, int]] = []
        """After how many seconds how many uploads were noted."""

    def begin(self, path: bytes = NAME) -> Entry:
        """Admit and claim a file, and begin to upload it."""
        self.journal.admit([Admission(path, Fingerprint(1, 2, SIZE, 1, 1), "pat", 0)])
        entry = self.journal.claim(time.time())
        assert entry is not None
        self.uploads.began(entry)
        self.began_at = self.now = self.uploads.now()[-1].started_at
        return entry

    def go_on(self, seconds: int) -> list[dict[str, Any]]:
        """Beat once a second for so long; return the lines of the log."""
        with capture_logs() as lines:
            for _ in range(seconds):
                self.now += 1.0
                before = self.fact()
                self.reporter.report(self.now)
                if (after := self.fact()) != before:
                    self.notes.append((round(self.now - self.began_at), len(after)))
        return [dict(line) for line in lines]

    def fact(self) -> list[object]:
        """Return what the journal has of it."""
        noted = self.journal.read_fact(UPLOADS) or []
        assert isinstance(noted, list)
        return noted

    def shown(self) -> list[dict[str, Any]]:
        """Return what `status` would tell while a daemon runs."""
        with JournalReader(self.place) as records:
            return noted_uploads(records)


@pytest.fixture
def watching(journal: Journal, tmp_path: Path) -> Watching:
    """Watch no upload yet."""
    return Watching(journal, tmp_path / "state" / "journal.db")


def test_short_upload_leaves_no_trace(watching: Watching) -> None:
    """What is done within seconds costs neither a line nor a commit."""
    for number in range(20):
        entry = watching.begin(b"pat/%d.zip" % number)
        lines = watching.go_on(int(NOTE_S) - 2)
        watching.uploads.ended(entry)

        assert lines == []
    assert watching.notes == []


def test_long_upload_is_told_at_intervals(watching: Watching) -> None:
    """It is noted every 10 s and logged every 30 s, and no oftener."""
    watching.begin()
    lines = watching.go_on(100)

    assert [one["event"] for one in lines] == ["file.delivering"] * 3
    assert [one["duration_s"] for one in lines] == [LOG_S, 2 * LOG_S, 3 * LOG_S]
    assert [at for at, _ in watching.notes] == [NOTE_S * n for n in range(1, 11)]


def test_what_is_told(watching: Watching) -> None:
    """Path, sizes, share, speed and the time left: of the attempt, on the average."""
    entry = watching.begin()
    watching.uploads.sent(entry, SIZE // 4)
    [line] = watching.go_on(31)
    [noted] = watching.shown()

    assert line["log_level"] == "info"
    assert (line["path"], line["attempt"]) == ("pat/large.zip", 1)
    assert (line["bytes"], line["sent_bytes"], line["percent"]) == (SIZE, SIZE // 4, 25)
    assert line["bytes_s"] == pytest.approx(SIZE / 4 / 30, rel=0.1)
    assert line["eta_s"] == pytest.approx(90, rel=0.1)
    told = "path bytes sent_bytes percent bytes_s eta_s attempt started_at seen_at"
    assert list(noted) == told.split()
    assert noted["path"] == line["path"]
    assert noted["started_at"] == iso(watching.uploads.now()[0].started_at)


def test_upload_that_stands_still(watching: Watching) -> None:
    """Before the first byte nothing is guessed."""
    watching.begin()
    [line] = watching.go_on(31)

    assert (line["percent"], line["bytes_s"], line["eta_s"]) == (0, 0, None)


def test_name_forges_nothing(watching: Watching) -> None:
    """A hostile name is escaped as everywhere."""
    watching.begin(HOSTILE)
    [line] = watching.go_on(31)

    assert line["path"].isprintable()
    assert watching.shown()[0]["path"] == line["path"]


def test_end_is_noted(watching: Watching) -> None:
    """When no long upload is left, that is noted at once, and only once."""
    entry = watching.begin()
    watching.go_on(15)
    watching.uploads.ended(entry)
    watching.go_on(30)

    assert [count for _, count in watching.notes] == [1, 0]
    assert watching.shown() == []


def test_what_has_ended_is_not_shown(watching: Watching) -> None:
    """`status` leaves out what was noted and is not being uploaded any more."""
    ended, other = watching.begin(), watching.begin(b"pat/other.zip")
    watching.go_on(11)
    watching.journal.interrupt(ended)

    assert [one["path"] for one in watching.shown()] == [other.name]


def test_what_a_killed_process_left_goes(watching: Watching) -> None:
    """The next process does not tell of uploads that it does not make."""
    watching.begin()
    watching.go_on(11)
    assert watching.fact()

    UploadReporter(UploadTracker(), watching.journal).report(watching.now + 1)

    assert watching.fact() == []


def test_full_disk(small_disk: SmallDisk) -> None:
    """Without room nothing is noted, and nothing breaks; with room it goes on."""
    with Journal(small_disk.root / "journal.db") as journal:
        watching = Watching(journal, small_disk.root / "journal.db")
        watching.begin()
        small_disk.fill(spare=False)
        watching.go_on(50)
        full = len(watching.notes)
        small_disk.free()
        watching.go_on(50)

    assert full < 5
    assert len(watching.notes) == full + 5


def test_status_of_a_daemon(site: Installation) -> None:
    """A running daemon's long upload is in `status`, for people and as data."""
    site.settings["EMITTERD_DELIVERY_BANDWIDTH"] = "8KiB/s"
    site.drop(NAME.decode(), os.urandom(SIZE))
    with site.running() as daemon:
        wait_until(lambda: site.ask("status")["uploads"], DEADLINE_S, "an upload")
        [upload] = site.ask("status")["uploads"]
        table = site.call("status").stdout
        daemon.kill()
    after = site.ask("status")

    assert upload["path"] == NAME.decode()
    assert upload["bytes"] > SIZE
    told = rf"uploading +{NAME.decode()}: \d+ %, \S+ of \S+, \S+/s, \S+ left"
    assert re.search(rf"(?m)^{told}$", table)
    assert after["uploads"] == []
