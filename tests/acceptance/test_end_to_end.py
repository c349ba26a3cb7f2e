"""The daemon as a process, from a dropped file to a stored object.

The server is the rehearsal server over a real socket; what arrived is read from its
objects, what the daemon believes from its journal, what it says from its log.
"""

import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.trees import MASTERS, TRANSACTIONAL
from support.waiting import wait_until

TREE = [f"{dataset}.zip" for dataset in MASTERS + TRANSACTIONAL]


def keys_of(server: RehearsalServer, path: str) -> list[str]:
    """Return the object keys that belong to a path: the name with its stamp."""
    stem = path.removesuffix(".zip")
    return [key for key in server.objects if key.rpartition("_")[0] == stem]


def content(server: RehearsalServer, key: str) -> bytes:
    """Return the bytes of an object."""
    return server.objects[key].path.read_bytes()


def test_both_trees_arrive_once(site: Installation, server: RehearsalServer) -> None:
    """The 24 files, half there before the start, half dropped later, arrive once."""
    for path in TREE[::2]:
        site.drop(path, path.encode())
    with site.running():
        for path in TREE[1::2]:
            site.drop(path, path.encode())
        site.wait_delivered(len(TREE))

    assert sorted(TREE) == sorted(f"{key.rpartition('_')[0]}.zip" for key in server.objects)
    for path in TREE:
        (key,) = keys_of(server, path)
        assert (site.spool / path).read_bytes() == content(server, key)
        assert server.objects[key].posts == 1


def test_restart_sends_nothing_again(site: Installation, server: RehearsalServer) -> None:
    """After a restart what was delivered is known, and the only request is the login."""
    for path in TREE:
        site.drop(path)
    with site.running():
        site.wait_delivered(len(TREE))
    asked = len(server.requests)

    with site.running() as daemon:
        daemon.wait_for_event("sweep.finished")

    assert {request.endpoint for request in server.requests[asked:]} <= {"auth"}
    assert len(TREE) == len(server.objects)


@pytest.mark.slow
def test_new_content_under_an_old_name(site: Installation, server: RehearsalServer) -> None:
    """New content under a delivered name is a version of its own, with its own key."""
    with site.running():
        site.drop("pat/periodic_exam_mst.zip", b"first")
        site.wait_delivered(1)
        site.drop("pat/periodic_exam_mst.zip", b"other")
        site.wait_delivered(2)

    first, second = site.entries()
    assert first["key"] != second["key"]
    assert first["sha256"] != second["sha256"]
    assert len(keys_of(server, "pat/periodic_exam_mst.zip")) == 2


def test_touched_file_is_unchanged(site: Installation, server: RehearsalServer) -> None:
    """The same content touched is reported as unchanged and not sent."""
    with site.running() as daemon:
        dropped = site.drop("school_master/school_mst.zip")
        site.wait_delivered(1)
        dropped.touch()
        daemon.wait_for_event("file.unchanged")

    assert len(server.objects) == 1
    assert 1 == site.counts()["delivered"] == sum(site.counts().values())
    (delivered,) = site.events("file.delivered")
    (unchanged,) = site.events("file.unchanged")
    assert delivered["sha256"] == unchanged["sha256"]


@pytest.mark.slow
def test_burst_of_new_folders(site: Installation, server: RehearsalServer) -> None:
    """1,000 files in 300 folders made and filled in one burst all arrive."""
    with site.running():
        for number in range(1000):
            site.drop(f"state/f{number % 300}/deep/file{number}.zip")
        site.wait_delivered(1000, deadline_s=100)

    assert len(server.objects) == 1000
    assert all(item.posts == 1 for item in server.objects.values())


def test_folder_moved_in(site: Installation, server: RehearsalServer) -> None:
    """A folder that is moved in with its files is delivered whole."""
    outside = site.folder / "outside"
    for number in range(20):
        site.drop(f"../outside/udise_{number}.zip")
    with site.running():
        outside.rename(site.spool / "udise")
        site.wait_delivered(20)

    assert {f"udise/udise_{n}" for n in range(20)} == {
        key.rpartition("_")[0] for key in server.objects
    }


@pytest.mark.slow
def test_queue_overflow_loses_nothing(tmp_path: Path, server: RehearsalServer) -> None:
    """Files whose events the kernel has dropped all arrive."""
    site = Installation(tmp_path, server.url, spool_sweep_every="2s")
    template = site.drop("template.zip")
    folder = site.spool / "student_attendance"
    folder.mkdir()
    template.unlink()
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("one.csv", "id\n1\n")
    file, other = folder / "one.part", folder / "other.part"
    file.touch()
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text("ascii"))
    with site.running() as daemon:
        daemon.signal(signal.SIGSTOP)
        # Each rename is two events. They fill the queue, so that those of the files
        # find no room.
        for _ in range(queue // 4 + 1000):
            file.rename(other)
            other.rename(file)
        for number in range(500):
            shutil.copyfile(tmp_path / "one.zip", folder / f"file{number}.zip")
        daemon.signal(signal.SIGCONT)
        site.wait_delivered(500)

    assert len(server.objects) == 500
    assert site.events("watch.overflow")


def test_kill_in_mid_upload(site: Installation, server: RehearsalServer) -> None:
    """After kill -9 in mid-upload all versions arrive, each under one key."""
    paths = [f"sat/semester_exam_result_trans_{n}.zip" for n in range(8)]
    for path in paths:
        site.drop(path, os.urandom(2_000_000))
    server.faults = fault_list("slow-reader:1:200000")
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-reader"] >= 3, 30, "uploads under way")
        daemon.kill()
    server.faults = fault_list("")
    with site.running():
        site.wait_delivered(len(paths))

    for path in paths:
        (key,) = keys_of(server, path)
        assert (site.spool / path).read_bytes() == content(server, key)
    assert site.events("journal.recovered")


@pytest.mark.slow
def test_kill_after_the_body_before_the_answer(site: Installation, server: RehearsalServer) -> None:
    """A file stored just before kill -9 is sent again to the same key only."""
    site.drop("infra_trans/infra_trans.zip")
    server.faults = fault_list("slow-answer@1:30")
    with site.running() as daemon:
        wait_until(lambda: server.fired["slow-answer"] == 1, 30, "the body sent")
        daemon.kill()
    with site.running():
        site.wait_delivered(1)

    (key,) = keys_of(server, "infra_trans/infra_trans.zip")
    assert server.objects[key].posts == 2
    (entry,) = site.entries()
    assert entry["ambiguous"]


def test_one_terminal_event_for_each_version(tmp_path: Path, server: RehearsalServer) -> None:
    """With faults on the way each version still ends in exactly one terminal event."""
    # Nearly every second attempt fails: a few files fail often, and must not wait long.
    site = Installation(tmp_path, server.url, delivery_backoff_max="500ms")
    server.faults = fault_list("503:0.2,lost-answer:0.2,reset:0.1", seed=7)
    with site.running():
        for path in TREE:
            site.drop(path, path.encode())
        site.wait_delivered(len(TREE))

    terminal = [
        event["path"]
        for name in ("file.delivered", "file.rejected", "file.withdrawn")
        for event in site.events(name)
    ]
    assert sorted(TREE) == sorted(terminal)
    assert sum(server.fired.values()) > 0
    assert len(TREE) == len(server.objects)


def test_masters_go_first(tmp_path: Path, server: RehearsalServer) -> None:
    """With one worker the files there at the start are asked for in catalogue order."""
    site = Installation(tmp_path, server.url, delivery_workers="1")
    for path in reversed(TREE):
        site.drop(path)
    with site.running():
        site.wait_delivered(len(TREE))

    asked = [request.name for request in server.requests if request.endpoint == "upload-url"]
    last_master = max(asked.index(f"{path}.zip") for path in MASTERS)
    first_other = min(asked.index(f"{path}.zip") for path in TRANSACTIONAL)
    assert last_master < first_other
    assert asked.index("pat/periodic_exam_mst.zip") < asked.index(
        "pat/periodic_exam_result_trans.zip"
    )


@pytest.mark.slow
def test_backlog_of_one_folder_does_not_starve_another(
    tmp_path: Path, server: RehearsalServer
) -> None:
    """A file dropped behind a backlog of another folder overtakes most of it."""
    site = Installation(tmp_path, server.url, delivery_workers="1")
    for number in range(300):
        site.drop(f"student_attendance/student_attendance_{number}.zip")
    with site.running():
        site.wait_delivered(20)
        site.drop("infra_trans/infra_trans.zip")
        site.wait_delivered(301)

    asked = [request.name for request in server.requests if request.endpoint == "upload-url"]
    assert asked.index("infra_trans/infra_trans.zip") < 200


def test_unfinished_copy_waits_for_its_close(site: Installation, server: RehearsalServer) -> None:
    """A zip that is whole on disk but still open for writing is not sent."""
    source = site.drop("../whole.zip").read_bytes()
    target = site.spool / "diksha" / "diksha.zip"
    target.parent.mkdir()
    with site.running(), target.open("wb") as copy:
        copy.write(source)
        copy.flush()
        site.drop("pat/periodic_exam_mst.zip")
        site.wait_delivered(1)
        assert [entry["path"] for entry in site.entries()] == ["pat/periodic_exam_mst.zip"]
        copy.close()
        site.wait_delivered(2)

    assert len(server.objects) == 2


def test_truncated_zip_is_reported_and_replaced(
    site: Installation, server: RehearsalServer
) -> None:
    """A cut-off zip is reported, not sent; copied again it is delivered."""
    whole = site.drop("../whole.zip").read_bytes()
    target = site.spool / "sat" / "semester_exam_mst.zip"
    target.parent.mkdir()
    with site.running() as daemon:
        target.write_bytes(whole[:-10])
        daemon.wait_for_event("file.incomplete")
        assert not server.objects
        target.write_bytes(whole)
        site.wait_delivered(1)

    (incomplete,) = site.events("file.incomplete")
    assert incomplete["error"] == "E201"
    assert len(server.objects) == 1


def test_names_of_any_bytes(site: Installation, server: RehearsalServer) -> None:
    """Names that are not UTF-8, or hold a newline or quotes, arrive and log cleanly."""
    names = [b"caf\xe9.zip", b'quo"te.zip', b"new\nline.zip", "परीक्षा.zip".encode()]
    whole = site.drop("../whole.zip").read_bytes()
    folder = os.fsencode(site.spool / "pat")
    Path(os.fsdecode(folder)).mkdir()
    with site.running():
        for name in names:
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(whole)
        site.wait_delivered(len(names))

    assert len(names) == len(server.objects)
    assert {"pat/caf\\xe9.zip", "pat/new\\nline.zip"} <= {
        event["path"] for event in site.events("file.delivered")
    }


def test_first_byte_comes_soon_after_the_rename(
    site: Installation, server: RehearsalServer
) -> None:
    """With a lease nothing is waited for: far below the settling time, even here."""
    settle_s = 60.0
    site.settings["EMITTERD_SPOOL_SETTLE"] = f"{settle_s:.0f}s"
    with site.running() as daemon:
        site.drop("pat/warm_up.zip")
        site.wait_delivered(1)
        daemon.wait_for_event("file.delivered")
        dropped_at = time.time()
        site.drop("school_master/school_mst.zip")
        site.wait_delivered(2)

    begun_at = next(
        request.at for request in server.requests if request.name == "school_master/school_mst.zip"
    )
    assert begun_at - dropped_at < settle_s / 5
