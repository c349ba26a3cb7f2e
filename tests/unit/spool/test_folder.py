"""The watched folder: leases show writers, and nothing outside is read."""

import hashlib
import mmap
import os
import socket
import stat as modes
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import NOBODY, Python
from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.spool.folder import (
    MARK,
    NAMES_PER_TURN,
    SMALL_BYTES,
    LeaseState,
    Spool,
    digests,
    lease_state,
    read_at,
)
from support.installation import DEADLINE_S
from support.zips import make_zip

BEGIN = f"""
from pathlib import Path
from emitterd.spool.folder import Spool, lease_state
{NOBODY}
spool = Spool(Path("."))
"""


@pytest.fixture
def spool(spool_root: Path) -> Spool:
    """Watch the folder."""
    return Spool(spool_root)


@pytest.fixture
def path(spool_root: Path) -> Path:
    """Put a file into the folder."""
    return make_zip(spool_root / "a.zip")


def proven(spool: Spool) -> LeaseState:
    """Return the lease state of `a.zip`."""
    with spool.open(b"a.zip") as file:
        return lease_state(file)


def refusal(attempt: Callable[[], object]) -> Code:
    """Return the error code of an attempt that must fail."""
    with pytest.raises(FileError) as caught:
        attempt()
    return caught.value.code


def read(spool: Spool, path: bytes) -> bytes:
    """Read a file of the folder, whole."""
    with spool.open(path) as file:
        return file.readall() or b""


def look(spool: Spool) -> tuple[dict[bytes, os.stat_result], dict[bytes, OSError]]:
    """Walk, passing over hidden folders; return what was found and what failed."""
    failed: dict[bytes, OSError] = {}
    found = spool.walk(lambda path: b"/." in b"/" + path, failed.__setitem__)
    return dict(found), failed


@pytest.mark.usefixtures("path")
def test_closed_file(spool: Spool) -> None:
    """A file that nobody has open for writing is closed, at each check."""
    assert [proven(spool), proven(spool)] == [LeaseState.CLOSED] * 2


def test_writer_in_this_process(spool: Spool, path: Path) -> None:
    """A writable descriptor of this process counts until it is closed."""
    with path.open("ab"):
        assert proven(spool) is LeaseState.OPEN
    assert proven(spool) is LeaseState.CLOSED


def test_writer_in_another_process(spool: Spool, path: Path) -> None:
    """A descriptor of another process counts, until that process is killed."""
    script = "import sys; file = open(sys.argv[1], 'ab'); print(flush=True); input()"
    with subprocess.Popen(  # noqa: S603  our own script
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert proven(spool) is LeaseState.OPEN
        writer.kill()
    assert proven(spool) is LeaseState.CLOSED


def test_writer_by_a_mapping(spool: Spool, path: Path) -> None:
    """A shared mapping can write although its descriptor is closed."""
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, 0)
    os.close(fd)
    assert proven(spool) is LeaseState.OPEN
    mapping.close()
    assert proven(spool) is LeaseState.CLOSED


@pytest.mark.usefixtures("path")
def test_reader_does_not_count(spool: Spool) -> None:
    """A reader does not make a file count as open."""
    with spool.open(b"a.zip"):
        assert proven(spool) is LeaseState.CLOSED


@pytest.mark.usefixtures("path")
def test_file_of_another_owner(python: Python, spool_root: Path) -> None:
    """A file of another user cannot be leased."""
    script = """
with spool.open(b"a.zip") as file:
    print(lease_state(file))
"""
    assert python(BEGIN + script, cwd=spool_root) == "none\n"


def test_lease_is_given_back_at_once(spool: Spool, path: Path) -> None:
    """A writer need not wait after the check, even while the file is open here."""
    for _ in range(100):
        with spool.open(b"a.zip") as file:
            assert lease_state(file) is LeaseState.CLOSED
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def make_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_device(path: Path) -> None:
    """Make a harmless device."""
    try:
        os.mknod(path, modes.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root may make a device")


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": make_socket,
    "device": make_device,
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("../outside/x.zip"),
    "link inside": lambda path: path.symlink_to(make_zip(path.with_name("y.zip"))),
    "linked folder": lambda path: path.with_name("d").symlink_to("../outside"),
    "nothing": lambda _: None,
}


@pytest.mark.parametrize(
    ("kind", "path", "code"),
    [
        ("fifo", b"x.zip", Code.NOT_REGULAR),
        ("socket", b"x.zip", Code.NOT_REGULAR),
        ("device", b"x.zip", Code.NOT_REGULAR),
        ("folder", b"x.zip", Code.NOT_REGULAR),
        ("link", b"x.zip", Code.NOT_REGULAR),
        ("link inside", b"x.zip", Code.NOT_REGULAR),
        ("linked folder", b"d/x.zip", Code.GONE),
        ("nothing", b"x.zip", Code.GONE),
        ("nothing", b"d/x.zip", Code.GONE),
        ("nothing", b"/etc/hostname", Code.GONE),
        ("nothing", b"", Code.GONE),
        ("nothing", b"x" * 300, Code.UNREADABLE),
        ("nothing", b"../outside/x.zip", Code.GONE),
    ],
)
def test_what_is_not_opened(
    kind: str, path: bytes, code: Code, spool: Spool, spool_root: Path
) -> None:
    """Links, pipes, devices and folders are refused, and no descriptor leaks."""
    make_zip(spool_root.parent / "outside" / "x.zip")
    ODD[kind](spool_root / "x.zip")
    before = descriptors(spool_root.parent)
    assert refusal(lambda: read(spool, path)) is code
    assert refusal(lambda: spool.stat(path)) is code
    assert descriptors(spool_root.parent) == before


def swap_file(root: Path, outside: Path) -> Iterator[None]:
    """Make `d/a.zip` a file, then a link out of the root, and so on."""
    target, other = root / "d" / "a.zip", root / "other"
    while True:
        other.symlink_to(outside / "a.zip")
        other.rename(target)
        yield
        other.write_bytes(b"inside")
        other.rename(target)
        yield


def swap_folder(root: Path, outside: Path) -> Iterator[None]:
    """Make `d` a folder, then a link out of the root, and so on."""
    folder, aside = root / "d", root / "aside"
    while True:
        folder.rename(aside)
        folder.symlink_to(outside)
        yield
        folder.unlink()
        aside.rename(folder)
        yield


@pytest.mark.parametrize("swap", [swap_file, swap_folder])
def test_swapping_in_a_link_never_leads_outside(
    swap: Callable[[Path, Path], Iterator[None]], spool: Spool, tmp_path: Path
) -> None:
    """In 10 000 races between the check and the open, only the inside is read."""
    for folder, content in ((spool.root / "d", b"inside"), (tmp_path / "o", b"SECRET")):
        folder.mkdir()
        (folder / "a.zip").write_bytes(content)
    done = threading.Event()

    def swapping() -> None:
        for _ in swap(spool.root, tmp_path / "o"):
            if done.is_set():
                return

    thread = threading.Thread(target=swapping)
    thread.start()
    seen = dict.fromkeys((b"inside", b"SECRET", b"refused"), 0)
    began_at = time.monotonic()
    # On a busy machine the swapping may have had no turn by then.
    while not (seen[b"inside"] and seen[b"refused"]) or (
        sum(seen.values()) < 10_000 and time.monotonic() < began_at + 5.0
    ):
        try:
            seen[read(spool, b"d/a.zip")] += 1
        except FileError:
            seen[b"refused"] += 1
        if time.monotonic() > began_at + DEADLINE_S:
            break
    done.set()
    thread.join()
    assert seen.pop(b"SECRET") == 0
    assert all(seen.values()), "the race was not run"


@pytest.mark.parametrize("size", [10, SMALL_BYTES + 1], ids=["small", "large"])
def test_reading(spool: Spool, spool_root: Path, size: int) -> None:
    """An open file keeps its bytes when its name is replaced, and is hashed whole."""
    (spool_root / "a").write_bytes(b"0123456789")
    with spool.open(b"a") as file:
        (spool_root / "b").write_bytes(b"other")
        (spool_root / "b").rename(spool_root / "a")
        assert read_at(file, size)(3, 4) == b"3456"
        assert read_at(file, size)(8, 4) == b"89"
        file.read(5)
        assert digests(file, lambda: None)[1] == hashlib.sha256(b"0123456789").digest()


def test_large_folders_take_turns(spool: Spool, spool_root: Path) -> None:
    """A small folder is listed before the end of a large one; each file once."""
    (spool_root / "small").mkdir()
    (spool_root / "small" / "a").touch()
    large = [spool_root / f"large-{number}" for number in range(3)]
    for folder in large:
        folder.mkdir()
        for number in range(NAMES_PER_TURN + 10):
            (folder / str(number)).touch()
    paths = [path for path, _ in spool.walk(lambda _: False, print)]

    assert paths.index(b"small/a") <= len(large) * NAMES_PER_TURN
    assert len(paths) == len(set(paths)) == 1 + len(large) * (NAMES_PER_TURN + 10)
    last = Counter(path.rpartition(b"/")[0] for path in paths[-10 * len(large) :])
    assert last == {os.fsencode(folder.name): 10 for folder in large}


def descriptors(folder: Path) -> list[str]:
    """Return what this process has open in or below a folder.

    Descriptors elsewhere belong to other tests, whose threads may close them any time.
    """
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return sorted(match for match in found if match.startswith(str(folder)))


def test_a_walk_that_is_given_up_leaves_nothing_open(spool: Spool, spool_root: Path) -> None:
    """Folders whose listing has started are closed with the walk."""
    for number in range(NAMES_PER_TURN + 10):
        (spool_root / str(number)).touch()
    before = descriptors(spool_root)
    walk = spool.walk(lambda _: False, print)
    next(walk)
    assert len(descriptors(spool_root)) > len(before)
    del walk
    assert descriptors(spool_root) == before


def test_a_small_file_is_read_at_once(spool: Spool, spool_root: Path) -> None:
    """A small file is read once: later reads return the bytes of before."""
    (spool_root / "a").write_bytes(b"0123")
    with spool.open(b"a") as file:
        read = read_at(file, 4)
        (spool_root / "a").write_bytes(b"abcd")
        assert read(1, 9) == b"123"


def test_walk(spool: Spool, spool_root: Path) -> None:
    """The walk finds everything but folders, with any name, outside hidden folders."""
    names = [b"caf\xe9.zip", b"new\nline.zip", b"d/e/f.zip", b".x.zip", b"d/plain"]
    for name in [*names, b".hidden/x.zip", b"d/.stfolder/y.zip"]:
        make_zip(spool_root / os.fsdecode(name))
    (spool_root / "up").symlink_to(spool_root)
    (spool_root / "d" / "nowhere").symlink_to("missing")
    os.mkfifo(spool_root / "pipe.zip")
    found, failed = look(spool)
    assert set(found) == {*names, b"up", b"d/nowhere", b"pipe.zip"}
    assert failed == {}
    assert modes.S_ISLNK(found[b"up"].st_mode)
    assert found[b"d/e/f.zip"].st_ino == (spool_root / "d/e/f.zip").stat().st_ino


def test_walk_below_a_folder(spool: Spool, spool_root: Path) -> None:
    """Paths are relative to the root, wherever the walk begins."""
    make_zip(spool_root / "d" / "e" / "f.zip")
    make_zip(spool_root / "g.zip")
    assert [item[0] for item in spool.walk_in_steps(lambda _: False, print, b"d") if item] == [
        b"d/e/f.zip"
    ]


def test_a_walk_stops_at_each_folder(spool: Spool, spool_root: Path) -> None:
    """The caller gets its turn after each folder, also where no file is."""
    for number in range(50):
        (spool_root / str(number)).mkdir()
    assert list(spool.walk_in_steps(lambda _: False, print)) == [None] * 51


def test_a_deep_walk_opens_each_folder_from_its_parent(
    spool: Spool, spool_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of opens does not grow with the square of the depth."""
    depth, opened = 200, []

    def counted(name: bytes, flags: int, *, dir_fd: int | None = None) -> int:
        opened.append(name)
        return open_(name, flags, dir_fd=dir_fd)

    make_zip(spool_root / "/".join(["d"] * depth) / "x.zip")
    open_ = os.open
    monkeypatch.setattr(os, "open", counted)
    paths = [path for path, _ in spool.walk(lambda _: False, print)]
    monkeypatch.undo()

    assert paths == [b"d/" * depth + b"x.zip"]
    assert depth <= len(opened) <= 3 * depth


@pytest.mark.parametrize("depth", [1, 3])
def test_walk_past_a_folder_that_became_a_link(depth: int, spool: Spool, spool_root: Path) -> None:
    """A folder that becomes a link during the walk is not listed."""
    deep = Path(*"d" * depth)
    make_zip(spool_root / deep / "inside.zip")
    make_zip(spool_root.parent / "outside" / deep / "outside.zip")
    make_zip(spool_root / "first.zip")
    failed: dict[bytes, OSError] = {}
    found = spool.walk(lambda _: False, failed.__setitem__)
    seen = [next(found)[0]]
    (spool_root / "d").rename(spool_root.parent / "aside")
    (spool_root / "d").symlink_to(spool_root.parent / "outside" / "d")
    seen += [path for path, _ in found]

    assert seen == [b"first.zip"]
    assert list(failed) == [b"d"]


def test_walk_deeper_than_a_path_may_be_long(spool: Spool, spool_root: Path) -> None:
    """A file whose path is too long for the kernel is found and opened."""
    name = "f" * 250
    fd = os.open(spool_root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("x.zip", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    (path,) = [path for path, _ in spool.walk(lambda _: False, print)]

    assert len(path) > 4096
    assert read(spool, path) == b""


def test_walk_of_a_circle_of_links(spool: Spool, spool_root: Path) -> None:
    """A circle of links is listed as links, and the walk ends."""
    (spool_root / "d").mkdir()
    (spool_root / "d" / "up").symlink_to(spool_root)
    (spool_root / "a").symlink_to("b")
    (spool_root / "b").symlink_to("a")
    found = sorted(path for path, _ in spool.walk(lambda _: False, print))

    assert found == [b"a", b"b", b"d/up"]


def test_walk_of_nothing(spool: Spool, spool_root: Path) -> None:
    """A missing root is reported to the callback, not raised."""
    spool_root.rmdir()
    found, failed = look(spool)
    assert found == {}
    assert isinstance(failed[b""], FileNotFoundError)


def test_walk_past_an_unreadable_folder(python: Python, spool_root: Path) -> None:
    """A folder without permission is reported, and the rest is found."""
    for name in ("a", "closed", "listed", "z"):
        make_zip(spool_root / name / "x.zip")
    (spool_root / "closed").chmod(0o700)
    (spool_root / "listed").chmod(0o744)
    script = """
failed = []
found = spool.walk(lambda name: False, lambda path, error: failed.append(path))
print(sorted(path for path, _ in found), sorted(failed))
"""
    output = python(BEGIN + script, cwd=spool_root)
    assert output == "[b'a/x.zip', b'z/x.zip'] [b'closed', b'listed/x.zip']\n"


def test_relative(spool: Spool, spool_root: Path) -> None:
    """Only paths below the root have a relative path."""
    root = os.fsencode(spool_root)
    assert spool.relative(root + b"/d/caf\xe9.zip") == b"d/caf\xe9.zip"
    assert spool.relative(root) == b""
    assert spool.relative(root + b"x/a.zip") is None


def test_a_folder_without_the_mark_is_not_the_shared_one(spool: Spool, spool_root: Path) -> None:
    """A host whose mount is missing sees an empty folder of the same name."""
    spool.mark = "of-this-journal"
    assert spool.lost()
    spool.write_mark()
    assert not spool.lost()
    (spool_root / MARK).write_text("of-another-journal\n")
    assert spool.lost()


def test_root_lost_and_back(spool: Spool, spool_root: Path) -> None:
    """A root that is removed or becomes a file is lost until it is a folder again."""
    assert not spool.lost()
    spool_root.rmdir()
    assert spool.lost()
    spool_root.touch()
    assert spool.lost()
    spool_root.unlink()
    spool_root.mkdir()
    assert not spool.lost()


def test_a_listing_that_breaks_off_concerns_its_folder(python: Python, tmp_path: Path) -> None:
    """A folder whose listing fails in the middle is reported, and the walk ends in peace."""
    script = f"""
import ctypes, mmap, signal
from pathlib import Path
from emitterd.spool.folder import Spool
{NOBODY}
set_dumpable = lambda yes: ctypes.CDLL(None).prctl(4, yes)  # /proc/PID is the user's own
set_dumpable(1)
made, make = os.pipe()
child = os.fork()
if not child:
    protections = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
    maps = [mmap.mmap(-1, 4096, prot=protections[i % 2]) for i in range(6000)]
    signal.signal(signal.SIGUSR1, lambda *_: (set_dumpable(0), os.write(make, b"hidden")))
    os.write(make, b"mapped")
    while True:
        signal.pause()
os.read(made, 9)
failed = []
spool = Spool(Path(f"/proc/{{child}}/map_files"))
walk = spool.walk(lambda folder: False, lambda path, error: failed.append((path, error.errno)))
names = [next(walk)]
os.kill(child, signal.SIGUSR1)
os.read(made, 9)
names += walk
os.kill(child, signal.SIGKILL)
print(len(names) > 900, (b"", 13) in failed)
"""
    assert python(script, cwd=tmp_path) == "True True\n"
