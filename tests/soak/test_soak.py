"""The soak in small, and that its judges can find something."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soak.gauges import GAUGES, Sample, cycles, grows, slope, slopes
from soak.ledger import Ledger, Log
from soak.server import Far
from soak.soak import KINDS
from support.installation import Installation
from support.paths import TESTS

SOAK = TESTS / "soak" / "run-soak"
HOSTILE = TESTS / "soak" / "run-hostile"
PATH = "pat/periodic_exam_mst.zip"
DELIVERED = b'{"event": "file.delivered", "level": "info", "path": "a", "sha256": "00"}\n'
GROWING = {"rss", "descriptors", "cpu_file", "cpu_request"}


def sample(minute: int) -> Sample:
    """Return what a leaking process looks like after so many minutes.

    Two files and six requests a minute, at ever more CPU.
    """
    return Sample(
        at_s=60.0 * minute,
        rss_bytes=(50 + minute) * 2**20,
        descriptors=20 + minute,
        threads=10,
        wal_bytes=4 * 2**20,
        journal_bytes=100_000 + 1000 * minute,
        cpu_s=0.06 * minute + 0.01 * minute**2,
        delivered=2 * minute,
        requests=6 * minute,
        log_bytes=1400 * minute,
    )


def test_a_line_through_points() -> None:
    """Points on a line give its slope, and no doubt."""
    found = slope([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0])

    assert found == pytest.approx((8.0, 2.0, 0.0))


def test_what_scatters_does_not_grow() -> None:
    """A rise within the scatter of the samples is no growth."""
    found = slope([0.0, 0.1, 0.2, 0.3], [50.0, 90.0, 40.0, 80.0])

    assert found.rise > GAUGES["rss"].limit
    assert not grows("rss", found)


def test_a_leak_is_seen() -> None:
    """What rises sample by sample, or costs more file by file, grows."""
    found = slopes([sample(minute) for minute in range(60)], 180.0)

    assert {name for name, item in found.items() if grows(name, item)} == GROWING
    assert found["rss"].rise == pytest.approx(60)
    assert found["journal"] == pytest.approx((500, 0, 0), abs=1e-6)


def test_whole_cycles_are_compared() -> None:
    """A cycle ends where the next begins; the unfinished last one is left out."""
    spans = cycles([sample(minute) for minute in range(8)], 180.0)

    assert [(a.at_s, b.at_s) for a, b in spans] == [(0, 180), (180, 360)]


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """Run the soak's server."""
    with Far(tmp_path / "server", seed=1) as far:
        yield far


def lose(_: Installation, ledger: Ledger) -> None:
    """Know of a version that nobody delivers."""
    ledger.dropped(b"pat/other.zip", "00", 2)


def alter(_: Installation, ledger: Ledger) -> None:
    """Have dropped other bytes than were delivered."""
    ledger.dropped(PATH.encode(), "00", 2)
    ledger.changing(PATH.encode())


def double(site: Installation, _: Ledger) -> None:
    """Deliver the same version again."""
    assert site.call("forget", PATH).returncode == 0
    assert site.call("once").returncode == 0


def leave(_: Installation, __: Ledger) -> None:
    """Do nothing wrong."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "noticed"),
    [(leave, ""), (lose, "lost"), (double, "doubled"), (alter, "half_written")],
    ids=["nothing", "lost", "doubled", "half written"],
)
def test_the_ledger_notices(
    harm: Callable[[Installation, Ledger], None], noticed: str, far: Far, tmp_path: Path
) -> None:
    """What is lost, doubled or half written is reported as such, and a clean run as clean."""
    site = Installation(tmp_path, far.url)
    ledger = Ledger(site.journal, far)
    digest = site_drop(site)
    if harm is not alter:
        ledger.dropped(PATH.encode(), *digest)
    assert site.call("once").returncode == 0
    harm(site, ledger)
    ledger.audit()
    ledger.close()
    found = ledger.verdicts

    reported = {"lost": found.lost, "doubled": found.doubled, "half_written": found.half_written}
    assert [kind for kind, cases in reported.items() if cases] == [noticed][: len(noticed)]
    assert found.silent == found.lost


def site_drop(site: Installation) -> tuple[str, int]:
    """Drop a file; return its SHA-256 and its size in bytes."""
    content = site.drop(PATH).read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


def test_an_object_that_comes_back_is_doubled(far: Far, tmp_path: Path) -> None:
    """An object audited and taken out must not be written again."""
    site = Installation(tmp_path, far.url)
    ledger = Ledger(site.journal, far)
    ledger.dropped(PATH.encode(), *site_drop(site))
    assert site.call("once").returncode == 0
    (stored,) = (tmp_path / "server" / "objects").glob("*.bin")
    kept = {file: file.read_bytes() for file in stored.parent.iterdir()}
    ledger.audit()
    assert far.left() == []
    for path, content in kept.items():
        path.write_bytes(content)
    far.set("", down=True, revoke=False)
    far.set("", down=False, revoke=False)
    ledger.close()

    (case,) = ledger.verdicts.doubled
    assert case.endswith("sent again after its delivery")


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([b'{"event": "daemon.ready", "level": "info"}\n'], 0),
        ([b"Traceback (most recent call last):\n"], 1),
        ([b'{"event": "daemon.stopping", "level": "critical"}\n'], 1),
        ([b'{"event": "file.deferred", "level": "error", "error": "E106"}\n'], 1),
        ([DELIVERED, DELIVERED], 1),
    ],
    ids=["good", "traceback", "thread", "bug", "twice"],
)
def test_the_log_is_judged(lines: list[bytes], problems: int) -> None:
    """A line that is no event, or reports a bug or a second delivery, is a problem."""
    log = Log()
    for line in lines:
        log.take(line)

    assert len(log.problems) == problems


def test_a_delivery_without_a_line_is_silent() -> None:
    """More receipts than lines are reported as silent."""
    log = Log()
    log.take(DELIVERED)

    assert log.unlogged([("a", "00", 1.0)]) == []
    assert log.unlogged([("b", "00", 1.0)]) == ["b: its delivery was not logged"]


@pytest.mark.slow
def test_the_ledger_notices_half_written_and_misplaced_files(far: Far, tmp_path: Path) -> None:
    """Bytes that were never a whole version, and an archived file that is gone, are reported."""
    site = Installation(
        tmp_path,
        far.url,
        spool_after_delivery="archive",
        spool_archive_directory="cqube_emission/archive",
        spool_exclude="archive/",
    )
    archive = site.spool / "archive"
    ledger = Ledger(site.journal, far, archive)
    ledger.dropped(PATH.encode(), *site_drop(site))
    assert site.call("once").returncode == 0
    (archived,) = archive.rglob("*.zip")
    archived.write_bytes(archived.read_bytes()[:-10])
    ledger.audit()
    ledger.close()

    (half_written,) = ledger.verdicts.half_written
    assert half_written.endswith("in the archive")
    assert ledger.verdicts.misplaced == [PATH]
    assert ledger.verdicts.lost == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_some_kills(tmp_path: Path) -> None:
    """A daemon that is killed at random loses, doubles and garbles nothing."""
    found = run(SOAK, tmp_path, "--minutes", "5", "--kills", "5")

    assert sum(found["kills"].values()) == 5
    assert found["counts"]["archived"] > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hostile_producer(tmp_path: Path) -> None:
    """What is done in one folder delays no file in the others."""
    found = run(HOSTILE, tmp_path, "--minutes", "0.3")

    assert found["late"] == 0
    assert len(found["delays_s"]) > 5
    assert len(found["hostile"]) > 5


def run(command: Path, folder: Path, *options: str) -> Any:  # noqa: ANN401  JSON
    """Run a soak to its good end; return its report."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("EMITTERD_")}
    done = subprocess.run(  # noqa: S603  our own command line
        [command, *options, "--json", folder / "found.json"],
        env=plain | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file.name for file in folder.iterdir()] == ["found.json"]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_half_a_minute(tmp_path: Path) -> None:
    """Some seconds of mixed load and faults lose, double and garble nothing."""
    found = run(SOAK, tmp_path, "--minutes", "0.5")

    assert [found[kind] for kind in KINDS] == [[]] * len(KINDS)
    assert found["delivered"] > 20
    assert len(found["fired"]) > 5
