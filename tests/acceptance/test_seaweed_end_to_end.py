"""The daemon against a real S3 engine, with grants that boto3 signed.

SeaweedFS checks signature, policy and expiry by its own code, so what passes here does
not pass because our two halves share a mistake.
"""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.installation import PASSWORD, Installation
from support.seaweed import BotoEmission, Seaweed, empty, objects, read
from support.trees import MASTERS, TRANSACTIONAL
from support.waiting import wait_until

TREE = [f"{dataset}.zip" for dataset in MASTERS + TRANSACTIONAL]


@pytest.fixture
def api(seaweed: Seaweed) -> Iterator[BotoEmission]:
    """Run an emission API that signs grants for the engine's empty bucket."""
    empty(seaweed)
    with BotoEmission(seaweed) as api:
        api.username, api.password = "emission", PASSWORD
        yield api


@pytest.fixture
def site(tmp_path: Path, api: BotoEmission) -> Installation:
    """Lay out an installation that sends to the engine."""
    return Installation(tmp_path, api.url)


def test_trees_arrive(site: Installation, seaweed: Seaweed, api: BotoEmission) -> None:
    """Both trees arrive byte for byte, each under the one key of its one grant."""
    for path in TREE[::2]:
        site.drop(path, path.encode())
    with site.running():
        for path in TREE[1::2]:
            site.drop(path, path.encode())
        site.wait_delivered(len(TREE))

    stored = objects(seaweed)
    assert len(TREE) == len(stored) == len(api.grants)
    for entry in site.entries():
        assert (site.spool / entry["path"]).read_bytes() == read(seaweed, entry["key"])
        assert entry["verified"]


@pytest.mark.slow
def test_large_file_is_verified(site: Installation, seaweed: Seaweed) -> None:
    """A file of many chunks has the ETag of the bytes sent."""
    dropped = site.drop("pat/periodic_exam_result_trans.zip", os.urandom(40_000_000))
    with site.running():
        site.wait_delivered(1)

    (entry,) = site.entries()
    md5 = hashlib.md5(dropped.read_bytes(), usedforsecurity=False).hexdigest()
    assert md5 == entry["md5"] == entry["etag"]
    assert [entry["key"]] == list(objects(seaweed))


def test_expired_grant_is_renewed(site: Installation, seaweed: Seaweed, api: BotoEmission) -> None:
    """A grant that the engine finds expired is replaced, and the file arrives once."""
    api.grant_lifetime_s = -10
    site.drop("school_master/school_mst.zip")
    with site.running():
        wait_until(lambda: len(api.grants) >= 1, 30, "a grant was asked for")
        api.grant_lifetime_s = 3600
        site.wait_delivered(1)

    assert len(objects(seaweed)) == 1
    assert len(api.grants) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("confirmation", ["found", "absent"])
def test_lost_answer_is_looked_up(
    site: Installation, seaweed: Seaweed, api: BotoEmission, confirmation: str
) -> None:
    """Once the grant is near its end the engine shows the object, or none."""
    api.grant_lifetime_s = 32
    content = site.drop("pat/exam é+%41&=.zip", os.urandom(9_000_000)).read_bytes()
    daemon = site.start(EMITTERD_FAILPOINT="body-sent@1")
    assert daemon.wait() == -signal.SIGKILL
    wait_until(lambda: objects(seaweed), 30, "the object")
    (key,) = objects(seaweed)
    if confirmation == "absent":
        empty(seaweed)
    spent_at = time.time() + 2.5
    wait_until(lambda: time.time() > spent_at, 30, "a grant near its end")
    api.grant_lifetime_s = 3600
    with site.running():
        site.wait_delivered(1)

    (entry,) = site.entries()
    assert entry["ambiguous"]
    assert (entry["confirmation"], entry["verified"]) == (confirmation, True)
    assert (entry["key"] == key) is (confirmation == "found")
    assert list(objects(seaweed)) == [entry["key"]]
    assert read(seaweed, entry["key"]) == content
    assert len(api.grants) == (1 if confirmation == "found" else 2)


@pytest.mark.slow
def test_tampered_grant_parks_until_it_is_mended(
    site: Installation, seaweed: Seaweed, api: BotoEmission
) -> None:
    """A signature that the engine refuses parks everything; mended, all arrives."""
    api.tamper = True
    site.drop("school_master/school_mst.zip")
    site.drop("block_master/block_mst.zip")
    with site.running() as daemon:
        daemon.wait_for_event("destination.down")
        assert not objects(seaweed)
        api.tamper = False
        site.wait_delivered(2)

    (down,) = site.events("destination.down")
    assert down["error"] == "E503"
    assert "SignatureDoesNotMatch" in down["reason"]
    assert len(site.events("destination.up")) == 1
    assert len(objects(seaweed)) == 2


@pytest.mark.slow
def test_outage_of_the_bucket_is_waited_out(site: Installation, seaweed: Seaweed) -> None:
    """While the engine is stopped everything waits; once it is back all arrives."""
    with site.running() as daemon:
        site.drop("school_master/school_mst.zip")
        site.wait_delivered(1)
        seaweed.stop()
        try:
            for number in range(5):
                site.drop(f"block_master/block_mst_{number}.zip")
            daemon.wait_for_event("destination.down")
        finally:
            seaweed.start()
        site.wait_delivered(6)

    assert len(objects(seaweed)) == 6
    assert all(entry["attempts"] == 1 for entry in site.entries())


@pytest.mark.slow
def test_kill_leaves_one_key_a_version(
    site: Installation, seaweed: Seaweed, api: BotoEmission
) -> None:
    """Killed again and again in the middle of uploads, each version has one key."""
    paths = [f"sat/semester_exam_result_trans_{number}.zip" for number in range(12)]
    for path in paths:
        site.drop(path, os.urandom(4_000_000))
    for _ in range(4):
        asked = len(api.grants)
        with site.running() as daemon:
            wait_until(
                lambda asked=asked: (
                    len(api.grants) > asked  # type: ignore[misc]
                    or site.counts()["delivered"] == len(paths)
                ),
                30,
                "an upload began",
            )
            daemon.kill()
    with site.running():
        site.wait_delivered(len(paths))

    assert len(paths) == len(objects(seaweed))
    for entry in site.entries():
        assert (site.spool / entry["path"]).read_bytes() == read(seaweed, entry["key"])
