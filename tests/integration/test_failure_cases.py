"""Cases of docs/failure-cases.md that take intake, worker and server together."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Mount
from emitterd.model import LIVE, State
from emitterd.rehearsal.server import RehearsalServer
from support.in_process import Host
from support.installation import DEADLINE_S, Installation
from support.waiting import wait_until
from support.zips import zip_bytes

A, B = b"pat/a.zip", b"pat/b.zip"
FIRST = zip_bytes(b"1" * 1_100_000)
"""A file of several chunks, so that something can happen while it is sent."""

SECOND = zip_bytes(b"2" * 1_100_000)


@pytest.fixture(params=["keep", "delete"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """Run an installation by hand, under either rule for what was delivered."""
    with Host(tmp_path, spool_catalogue="off", spool_after_delivery=request.param) as host:
        yield host


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Host]:
    """Run an installation by hand."""
    with Host(tmp_path, spool_catalogue="off") as host:
        yield host


def at(host: Host, path: bytes) -> Path:
    """Return where a path is."""
    return host.site.spool / os.fsdecode(path)


def drop(host: Host, path: bytes, content: bytes) -> Path:
    """Put a whole file there, over another if there is one."""
    target = at(host, path)
    target.parent.mkdir(exist_ok=True)
    part = target.with_name(".dropped.part")
    part.write_bytes(content)
    return part.rename(target)


def bodies(host: Host, path: bytes) -> list[bytes]:
    """Return what the server got of a path, in the order of the deliveries."""
    keys = [
        row["key"] for row in host.rows() if row["path"] == path and row["state"] == State.DELIVERED
    ]
    assert {host.server.objects[key].posts for key in keys} <= {1}
    return [host.server.objects[key].path.read_bytes() for key in keys]


def run(host: Host) -> None:
    """Run intake and workers until nothing is left to do."""
    for _ in range(3):
        host.pass_by(3700)
        host.sweep()
        host.work()


def replace(path: Path) -> None:
    """Put another version in the place of a file."""
    newer = path.with_name(".newer.part")
    newer.write_bytes(SECOND)
    newer.rename(path)


def rewrite(path: Path) -> None:
    """Write another version into a file."""
    path.write_bytes(SECOND)


def forge(path: Path) -> None:
    """Write other bytes of the same length, and set the times back."""
    stat = path.stat()
    path.write_bytes(SECOND)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "versions"), [(replace, [FIRST, SECOND]), (rewrite, [SECOND]), (forge, [SECOND])]
)
def test_file_that_changes_while_it_is_sent(
    host: Host, change: Callable[[Path], None], versions: list[bytes]
) -> None:
    """A receipt matches the bytes that were sent, and the new bytes are sent too."""
    path, changed = drop(host, A, FIRST), []

    def act() -> None:
        change(path)
        changed.append(path)

    host.onlooker.act = act
    run(host)

    assert changed
    assert bodies(host, A) == versions


@pytest.mark.parametrize(
    "change",
    [lambda path: path.open("ab").write(b"\xff"), lambda path: os.truncate(path, 600_000)],
    ids=["grown", "cut"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_file_that_is_broken_while_it_is_sent(host: Host, change: Callable[[Path], None]) -> None:
    """A truncated file is reported as incomplete; when corrected it is sent."""
    path = drop(host, A, FIRST)
    host.onlooker.act = lambda: change(path)
    host.sweep()
    host.work()
    host.sweep()

    assert not host.server.objects
    assert [event["error"] for event in host.events if "incomplete" in event["event"]] == ["E201"]
    drop(host, A, SECOND)
    run(host)
    assert bodies(host, A) == [SECOND]


def test_file_that_is_deleted_while_it_is_sent(host: Host) -> None:
    """A file that is removed during its upload is delivered whole."""
    path = drop(host, A, FIRST)
    host.onlooker.act = path.unlink
    run(host)

    assert bodies(host, A) == [FIRST]
    assert not [event for event in host.events if event["log_level"] in {"error", "warning"}]


def test_file_that_changes_before_it_is_sent(host: Host) -> None:
    """Of a file that waits, the bytes that lie there are sent, also with the old size and mtime."""
    path = drop(host, A, FIRST)
    host.sweep()
    forge(path)
    host.sweep()
    run(host)

    assert bodies(host, A) == [SECOND]
    assert [row["state"] for row in host.rows()] == [State.DELIVERED]


def test_file_that_is_deleted_before_it_is_sent(host: Host) -> None:
    """A file that is removed before its upload is withdrawn, and nothing is sent."""
    path = drop(host, A, FIRST)
    host.sweep()
    path.unlink()
    run(host)

    assert [row["state"] for row in host.rows()] == [State.WITHDRAWN]
    assert len([event for event in host.events if event["event"] == "file.withdrawn"]) == 1
    assert not host.server.requests


def test_folder_renamed_with_files_waiting(host: Host) -> None:
    """They are sent under their new names, and the old ones are withdrawn."""
    for path in (A, B):
        drop(host, path, FIRST)
    host.sweep()
    at(host, b"pat").rename(at(host, b"sat"))
    run(host)

    states = {row["path"]: row["state"] for row in host.rows()}
    assert states == {
        A: State.WITHDRAWN,
        B: State.WITHDRAWN,
        b"sat/a.zip": State.DELIVERED,
        b"sat/b.zip": State.DELIVERED,
    }
    assert len(host.server.objects) == 2


def test_one_content_under_two_names(host: Host) -> None:
    """Names matter to the server: a copy and a hard link are files of their own."""
    drop(host, A, FIRST)
    drop(host, B, FIRST)
    at(host, b"pat/link.zip").hardlink_to(at(host, A))
    run(host)

    assert [bodies(host, item) for item in (A, B, b"pat/link.zip")] == [[FIRST]] * 3


def test_name_in_another_case(keeping: Host) -> None:
    """A delivered file that is renamed is a file under its new name."""
    path = drop(keeping, A, FIRST)
    run(keeping)
    path.rename(path.with_name("A.zip"))
    run(keeping)

    assert bodies(keeping, A) == bodies(keeping, b"pat/A.zip") == [FIRST]


@pytest.mark.parametrize("year_s", [315_532_800, 4_070_908_800], ids=["1980", "2099"])
def test_strange_times(host: Host, year_s: int) -> None:
    """A file is judged by what changes, not by the age that it claims."""
    os.utime(drop(host, A, FIRST), (year_s, year_s))
    run(host)

    assert bodies(host, A) == [FIRST]


@pytest.mark.parametrize("days", [-3650, -1, 1, 3650])
def test_clock_set_while_a_file_waits(keeping: Host, days: int) -> None:
    """A jump of the clock neither delays a deferred file nor retries it at once."""
    drop(keeping, A, FIRST)
    keeping.faults("503@1")
    keeping.sweep()
    keeping.work(1)
    keeping.clock.host_s += days * 86400
    keeping.faults("503@2")
    for _ in range(20):
        keeping.work()
    tried = sum(request.endpoint == "bucket" for request in keeping.server.requests)
    run(keeping)

    assert tried <= 4
    assert bodies(keeping, A) == [FIRST]
    delivered = [row for row in keeping.rows() if row["state"] == State.DELIVERED]
    assert len(delivered) == 1


@pytest.mark.parametrize("step_s", [86_400, -86_400])
def test_clock_of_this_host_is_wrong(keeping: Host, step_s: int) -> None:
    """The expiry of a grant is computed by the server's clock; one grant is enough."""
    keeping.clock.host_s = step_s
    drop(keeping, A, FIRST)
    run(keeping)

    assert bodies(keeping, A) == [FIRST]
    asked = [request for request in keeping.server.requests if request.endpoint == "upload-url"]
    assert len(asked) == 1


def test_folder_made_anew_is_watched(tmp_path: Path, server: RehearsalServer) -> None:
    """A folder that was removed and created again is still watched."""
    # No sweep comes within the test: what arrives was reported.
    site = Installation(tmp_path, server.url, spool_sweep_every="1h")
    site.drop("pat/a.zip", b"a")
    with site.running():
        site.wait_delivered(1)
        shutil.rmtree(site.spool / "pat")
        (site.spool / "pat").mkdir()
        site.drop("sat/b.zip", b"b")
        site.wait_delivered(2)
        site.drop("pat/c.zip", b"c")
        site.wait_delivered(3)

    assert len(server.objects) == 3


@pytest.mark.slow
def test_few_descriptors(site: Installation, server: RehearsalServer) -> None:
    """With 64 descriptors, eight workers and many folders all is delivered."""
    for number in range(100):
        site.drop(f"state/{number}/a.zip", b"%d" % number)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        daemon = site.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    try:
        site.wait_delivered(100, deadline_s=110.0)
    finally:
        daemon.end()

    assert len(server.objects) == 100


def test_folder_unmounted_with_files_waiting(
    site: Installation, server: RehearsalServer, mount: Mount
) -> None:
    """After a lost mount nothing is withdrawn; mounted again, all files are sent."""
    disk = site.folder / "disk"
    disk.mkdir()
    mount("--bind", str(disk), at=site.spool)
    server.stop()
    for name in "ab":
        site.drop(f"pat/{name}.zip", name.encode())
    with site.running() as daemon:
        wait_until(lambda: site.events("destination.down"), DEADLINE_S, "an outage")
        wait_until(lambda: len(site.entries()) == 2, DEADLINE_S, "both admitted")
        umount = ["umount", "--lazy", str(site.spool)]
        subprocess.run(umount, check=True)  # noqa: S603  our own command line
        daemon.wait_for_event("watch.root_lost")
        server.start()
        assert {entry["state"] for entry in site.entries()} <= LIVE
        mount("--bind", str(disk), at=site.spool)
        daemon.wait_for_event("watch.root_back")
        site.wait_delivered(2)

    assert len(server.objects) == 2
    assert not site.events("file.withdrawn")


FEW_WATCHES = [
    *("unshare", "--user", "--map-root-user", "sh", "-ec"),
    'echo 8 > /proc/sys/user/max_inotify_watches; exec "$@"',
    "sh",
]


@pytest.mark.system
def test_few_watches(tmp_path: Path, server: RehearsalServer) -> None:
    """If most folders cannot be watched, it is reported, and all files arrive."""
    able = subprocess.run([*FEW_WATCHES, "true"], check=False)  # noqa: S603  our own
    if able.returncode:
        pytest.skip("the kernel refuses namespaces: no limit can be set")
    site = Installation(tmp_path, server.url, spool_sweep_every="300ms")
    for number in range(20):
        (site.spool / str(number)).mkdir()
    daemon = site.start(by=FEW_WATCHES)
    try:
        daemon.wait_for_event("daemon.ready")
        for number in range(20):
            site.drop(f"{number}/a.zip", b"%d" % number)
        site.wait_delivered(20)
    finally:
        daemon.end()
    (degraded,) = site.events("watch.degraded")

    assert len(server.objects) == 20
    assert "sysctl fs.inotify.max_user_watches=" in degraded["hint"]


def test_a_hanging_archive_delays_no_upload(tmp_path: Path, server: RehearsalServer) -> None:
    """The only worker goes on while the first file that it sent cannot be archived."""
    archive = str(tmp_path / "archive")
    site = Installation(
        tmp_path, server.url, spool_after_delivery="archive", spool_archive_directory=archive
    )
    site.settings["EMITTERD_DELIVERY_WORKERS"] = "1"
    site.drop("pat/a.zip")
    daemon = site.start(EMITTERD_FAILPOINT="disposal-due:hang")
    try:
        site.wait_delivered(1)
        site.drop("pat/b.zip")
        site.wait_delivered(2)
        wait_until(lambda: not (site.spool / "pat/b.zip").exists(), DEADLINE_S, "b.zip archived")
        assert (site.spool / "pat/a.zip").exists()
    finally:
        daemon.kill()


@pytest.mark.slow
def test_a_hanging_archive_delays_neither_the_start_nor_new_files(
    tmp_path: Path, server: RehearsalServer
) -> None:
    """Files that are still to be archived are moved beside all other work."""
    archive = str(tmp_path / "archive")
    site = Installation(
        tmp_path, server.url, spool_after_delivery="archive", spool_archive_directory=archive
    )
    site.drop("pat/a.zip")
    assert site.start(EMITTERD_FAILPOINT="disposal-due").wait() == -signal.SIGKILL

    daemon = site.start(EMITTERD_FAILPOINT="disposal-due:hang")
    try:
        daemon.wait_for_event("daemon.ready")
        site.drop("school_master/school_mst.zip")
        site.wait_delivered(2)
        assert (site.spool / "pat/a.zip").exists()
    finally:
        daemon.kill()
