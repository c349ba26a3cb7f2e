"""A hostile producer: everything that a program can do to its own folder.

It does what K1, K3 and K4 of the failure cases name (docs/failure-cases.md), at random, and
knows nothing of how emitterd works but its private names.
"""

import io
import os
import random
import socket
import subprocess
import zipfile
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.25
"""The longest pause between two acts."""

DEEP = 1000
EMPTY_FOLDERS = 1000
KEPT_MAX = 400
"""So many things lie in the folder; the oldest are removed."""

CHURNS = 20
CHUNK_BYTES = 2000
LARGE_BYTES = 2_000_000
NAMES = (
    *(b"n" * (length - 4) + b".zip" for length in range(244, 256)),
    b"caf\xe9.zip", b"\xff\xfe.zip", b"\xc0\xaf.zip", b"a\nb.zip", b"esc\x1b[2J.zip", b"%00.zip",
    b"-rf.zip", b" .zip", b"${filename}.zip", b"a\\b.zip", "\u202egpj.zip".encode(),
)  # fmt: skip
DATES = {"a date beyond 2262": (2300, 2400, 2446), "a date before 1677": (1, 1600, 1676)}
_YEAR_S = 31_556_952


class Attacker:
    """Attacks in a thread, from its start to its end; all of it follows from the seed."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.acts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """What the machine itself did not allow."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._dice = dice
        self._number = 0
        self._kept: deque[Path] = deque()
        self._zips: deque[Path] = deque(maxlen=50)
        self._open: list[tuple[io.FileIO, bytes]] = []
        """Files that are written in steps, and what is to be written."""
        self._over = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        acts: list[Callable[[], str]] = [
            self._date, self._deep, self._unreadable, self._loop, self._special, self._name,
            self._write_slowly, self._interrupt, self._same_times, self._write_after_delivery,
            self._churn_ctime, self._churn_inode, self._occupy, self._grow, self._vanish,
            self._empty_folders, self._truncate, self._rubbish, self._swap_folder,
        ]  # fmt: skip
        while not self._over.is_set():
            act = self._dice.choice(acts)
            try:
                self.acts[act()] += 1
            except OSError as error:
                self.failures[f"{act.__name__.strip('_')}: {error.strerror}"] += 1
            self._write_on()
            self._tidy()
            self._over.wait(self._dice.uniform(0, PAUSE_S))
        for file, _ in self._open:
            file.close()

    def _date(self) -> str:
        kind = self._dice.choice(list(DATES))
        path = self._zip()
        at = (self._dice.choice(DATES[kind]) - 1970) * _YEAR_S
        os.utime(path, (at, at))
        return kind

    def _deep(self) -> str:
        """Nest folders: some paths become longer than a path may be."""
        top = self._path("deep")
        name = "d" * self._dice.choice((1, 1, 200))
        fd = os.open(self._folder, os.O_RDONLY)
        try:
            for folder in (top.name, *[name] * DEEP):
                os.mkdir(folder, dir_fd=fd)
                parent, fd = fd, os.open(folder, os.O_RDONLY, dir_fd=fd)
                os.close(parent)
            file = os.open("x.zip", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            with os.fdopen(file, "wb") as target:
                target.write(self._content())
        finally:
            os.close(fd)
        return "folders nested 1,000 deep"

    def _unreadable(self) -> str:
        folder = self._path("closed")
        folder.mkdir()
        (folder / "x.zip").write_bytes(self._content())
        folder.chmod(0)
        self._zip().chmod(0)
        return "an unreadable file and folder"

    def _loop(self) -> str:
        folder = self._path("loop")
        folder.mkdir()
        (folder / "up").symlink_to("..")
        (folder / "root").symlink_to("/")
        (folder / "a.zip").symlink_to("b.zip")
        (folder / "b.zip").symlink_to("a.zip")
        (folder / "self").symlink_to("self")
        return "a loop of links"

    def _special(self) -> str:
        path = self._path("special.zip")
        if self._dice.random() < 0.5:
            os.mkfifo(path)
            return "a FIFO named .zip"
        # A relative name: the name of a socket is short.
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(f"/proc/self/fd/{fd}/{path.name}")
        finally:
            os.close(fd)
        return "a socket named .zip"

    def _name(self) -> str:
        folder = self._path("names")
        folder.mkdir()
        name = self._dice.choice(NAMES)
        part = folder / "x.part"
        part.write_bytes(self._content())
        part.rename(folder / os.fsdecode(name))
        return "a name of 244 to 255 bytes" if len(name) > 200 else "a name that is odd or no UTF-8"

    def _write_slowly(self) -> str:
        file = io.FileIO(self._path("slow.zip"), "x")
        self._open.append((file, self._content(self._dice.randrange(50_000))))
        return "a slow writer"

    def _interrupt(self) -> str:
        """Overwrite half of a file in its place, and leave it so."""
        with self._existing().open("r+b") as file:
            content = self._content(self._dice.randrange(50_000))
            file.write(content[: len(content) // 2])
        return "an interrupted overwrite in place"

    def _same_times(self) -> str:
        """Change the content, and neither size nor mtime."""
        path = self._existing()
        with path.open("r+b") as file:
            stat = os.fstat(file.fileno())
            content = bytearray(file.read())
            place = self._dice.randrange(len(content) or 1)
            content[place : place + 1] = b"x"
            file.seek(0)
            file.write(content[: stat.st_size])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return "other content of the same size and mtime"

    def _write_after_delivery(self) -> str:
        """Open a file without changing it, and write later, in steps."""
        file = io.FileIO(self._existing(), "r+")
        self._open.append((file, self._content(self._dice.randrange(20_000))))
        return "a file opened again, and written later"

    def _churn_ctime(self) -> str:
        path = self._existing()
        other = self._path("other")
        for number in range(CHURNS):
            path.chmod(0o600 + number % 8)
            other.hardlink_to(path)
            other.unlink()
        return "ctimes changed by chmod and links"

    def _churn_inode(self) -> str:
        path = self._existing()
        content, stat = path.read_bytes(), path.stat()
        for _ in range(CHURNS):
            part = path.with_name("copy.part")
            part.write_bytes(content)
            os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            part.rename(path)
        return "inodes changed by copies"

    def _occupy(self) -> str:
        """Take private names: those that emitterd would use, and perhaps will."""
        content = self._content()
        first = self._dice.randrange(0, 100 + 4 * self._number)
        for number in range(first, first + 100):
            place = self._folder / f".emitterd-{number}"
            with suppress(FileExistsError):
                place.mkdir() if number % 3 == 0 else place.write_bytes(content)
                self._kept.append(place)
        return ".emitterd-N occupied"

    def _grow(self) -> str:
        file = io.FileIO(self._path("log.zip"), "x")
        self._open.append((file, b"line\n" * 40_000))
        return "a file that grows"

    def _vanish(self) -> str:
        """Delete a large file while it is likely to be read."""
        path = self._zip(LARGE_BYTES)
        self._over.wait(self._dice.uniform(0, 0.05))
        path.unlink(missing_ok=True)
        return "a file deleted while it is read"

    def _empty_folders(self) -> str:
        top = self._path("empty")
        top.mkdir()
        for number in range(EMPTY_FOLDERS):
            (top / str(number)).mkdir()
        return "1,000 empty folders"

    def _truncate(self) -> str:
        content = self._content(self._dice.randrange(50_000))
        self._write(self._path("cut.zip"), content[: self._dice.randrange(len(content))])
        return "a truncated zip"

    def _rubbish(self) -> str:
        content = self._content()
        kinds = {
            "data before and after": b"MZ" + content + os.urandom(100),
            "zeros": bytes(10_000),
            "nothing": b"",
            "noise": os.urandom(10_000),
            "a directory only": content[content.index(b"PK\1\2") :],
            "a bomb": _zipped("data.csv", bytes(50_000_000), zipfile.ZIP_DEFLATED),
            "a zip in a zip": _zipped("inner.zip", content),
            "no CSV": _zipped("../../x", b"x"),
            "two versions": content[: len(content) // 2] + self._content()[len(content) // 2 :],
        }
        self._write(self._path("odd.zip"), self._dice.choice(list(kinds.values())))
        return "a zip of rubbish"

    def _swap_folder(self) -> str:
        """Put a link, a file, or another folder in place of a folder."""
        folder = self._path("swap")
        folder.mkdir()
        (folder / "x.zip").write_bytes(self._content())
        aside = self._path("aside")
        folder.rename(aside)
        folder.symlink_to(self._dice.choice((aside, Path("/etc"), folder)))
        if self._dice.random() < 0.5:
            folder.unlink()
            aside.rename(folder)
        return "a folder replaced by a link"

    def _write_on(self) -> None:
        for item in list(self._open):
            file, content = item
            self._open.remove(item)
            file.write(content[:CHUNK_BYTES])
            if content[CHUNK_BYTES:] and len(self._open) < KEPT_MAX:
                self._open.append((file, content[CHUNK_BYTES:]))
            else:
                file.close()

    def _tidy(self) -> None:
        while len(self._kept) > KEPT_MAX:
            self._remove(self._kept.popleft())

    def _remove(self, path: Path) -> None:
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                # shutil.rmtree is recursive: too deep here.
                subprocess.run(["rm", "-rf", "--", path], check=False)  # noqa: S603, S607
            else:
                path.unlink()

    def _zip(self, size_bytes: int = 0) -> Path:
        path = self._path("good.zip")
        self._write(path, self._content(size_bytes))
        self._zips.append(path)
        return path

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.rename(path)

    def _existing(self) -> Path:
        """Return a zip that is probably still there; make one where none is."""
        found = [path for path in self._zips if path.exists()]
        return self._dice.choice(found) if found and self._dice.random() < 0.7 else self._zip()

    def _path(self, name: str) -> Path:
        self._number += 1
        path = self._folder / f"{self._number}_{name}"
        self._kept.append(path)
        return path

    def _content(self, size_bytes: int = 1000) -> bytes:
        self._number += 1
        return _zipped(
            "data.csv", b"id|name\n%d|x\n" % self._number + b"1|one\n" * (size_bytes // 6)
        )


def _zipped(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()
