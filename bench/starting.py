"""Starts: over a folder that is delivered and kept, and over a backlog.

The files are names for one small zip, so that a million cost a minute to make and one
inode; the daemon looks at each name, and opens and reads it, as it would any other.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from emitterd.admission import Admission
from emitterd.fingerprint import Fingerprint
from emitterd.journal import Journal
from harness import Installation
from idle import memory
from soak_server import Far
from support import sample

LINKS_MAX = 60_000
"""Names that one inode may have: ext4 takes 65,000."""

FOLDER = "student_attendance"
NAME = FOLDER + "/student_attendance_{:07d}.zip"
BATCH = 1000
LOOK_S = 0.05
TURN_S = 10.0
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Known:
    """A start over files that are all delivered, and one that is not."""

    files: int
    ready_s: float
    first_upload_s: float
    swept_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """A start over files that are all new.

    `rates` are deliveries a second, by turns of 10 s, as `resident_bytes` are.
    """

    files: int
    ready_s: float
    first_upload_s: float
    swept_s: float | None
    admitted: int
    delivered: int
    rates: tuple[float, ...]
    resident_bytes: tuple[int, ...]
    peak_bytes: int
    journal_bytes_a_file: float


def known(folder: Path, files: int = 100_000) -> Known:
    """Start over delivered files that lie there still; drop one more at the start."""
    with _site(folder) as site:
        fill(site, files)
        _deliver_all(site)
        began_at = time.time()
        daemon = site.start()
        site.drop(NAME.format(files), sample(NAME.format(files)))
        try:
            ready_s = _when(site, "daemon.ready") - began_at
            first_s = _when(site, "file.delivered") - began_at
            swept_s = _when(site, "sweep.finished") - began_at
            peak = memory(daemon.pid, "VmHWM")
        finally:
            daemon.end()
        return Known(files, ready_s, first_s, swept_s, peak)


def backlog(folder: Path, files: int = 1_000_000, seconds: float = 120.0) -> Backlog:
    """Start over new files; watch for so long, or until all are delivered."""
    with _site(folder) as site:
        fill(site, files)
        began_at = time.time()
        daemon = site.start()
        try:
            ready_s = _when(site, "daemon.ready") - began_at
            first_s = _when(site, "file.delivered") - began_at
            rates, resident = _rates(site, daemon.pid, began_at + seconds, files)
            counts = site.counts()
            swept = site_event(site, "sweep.finished")
            peak = memory(daemon.pid, "VmHWM")
        finally:
            daemon.end()
        admitted = sum(counts.values())
        return Backlog(
            files,
            ready_s,
            first_s,
            None if swept is None else swept - began_at,
            admitted,
            counts["delivered"],
            rates,
            resident,
            peak,
            site.journal.stat().st_size / max(1, admitted),
        )


def fill(site: Installation, files: int) -> None:
    """Put so many names into one folder, each for the same bytes."""
    made = 0
    while made < files:
        first = site.drop(NAME.format(made), sample(NAME.format(made)))
        for number in range(made + 1, min(made + LINKS_MAX, files)):
            os.link(first, site.spool / NAME.format(number))
        made += LINKS_MAX


@contextmanager
def _site(folder: Path) -> Iterator[Installation]:
    with Far(folder / "server", seed=1) as far:
        yield Installation(folder, far.url)


def _deliver_all(site: Installation) -> None:
    """Make a journal that has delivered all that lies in the folder."""
    batch: list[Admission] = []
    with Journal(site.journal) as journal, os.scandir(site.spool / FOLDER) as names:
        for name in names:
            path = f"{FOLDER}/{name.name}".encode()
            batch.append(Admission(path, Fingerprint.of(name.stat()), FOLDER, 1))
            if len(batch) >= BATCH:
                journal.admit(batch)
                batch.clear()
        journal.admit(batch)
        journal.database.write(
            lambda one: one.execute(
                """update entry set state = 'delivered', delivered_at = changed_at,
                   duration_s = 0.01, sha256 = randomblob(32), md5 = randomblob(16),
                   etag = hex(randomblob(16)), verified = 1,
                   key = path || '-2026-11-24-06-00-00'"""
            )
        )


def _when(site: Installation, event: str) -> float:
    end = time.monotonic() + PATIENCE_S
    while (at := site_event(site, event)) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"{event}: not within {PATIENCE_S:g} s")
        time.sleep(LOOK_S)
    return at


def site_event(site: Installation, event: str) -> float | None:
    """Return when an event was first logged, seconds since the epoch, or None."""
    # A log of a million lines is not to be parsed while the daemon runs.
    found = subprocess.run(  # noqa: S603  our own command line
        ["/usr/bin/grep", "-m1", f'"event": "{event}"', str(site.log)],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        return None
    said = json.loads(found.stdout)["timestamp"]
    return (
        time.mktime(time.strptime(said[:19], "%Y-%m-%dT%H:%M:%S"))
        - time.timezone
        + float(said[19:-1])
    )


def _rates(
    site: Installation, pid: int, until: float, files: int
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return deliveries a second and resident memory, by turn."""
    rates, resident, before, at = [], [], 0, time.time()
    while time.time() < until and before < files:
        time.sleep(TURN_S)
        now, count = time.time(), site.counts()["delivered"]
        rates.append(round((count - before) / (now - at), 1))
        resident.append(memory(pid, "VmRSS"))
        before, at = count, now
    return tuple(rates), tuple(resident)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["known", "backlog"])
    parser.add_argument("files", type=int)
    parser.add_argument("--seconds", type=float, default=120.0)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if said.what == "known":
            print(asdict(known(Path(place), said.files)))
        else:
            print(asdict(backlog(Path(place), said.files, said.seconds)))
