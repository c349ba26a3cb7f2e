"""The watched folder: list it, open files in it, and ask whether a file is closed.

Nothing outside the root is ever read: each folder of a path is opened without following links, and
the file by its name in that folder, without blocking. Paths are relative to the root, as bytes,
with `/`.
"""

import errno
import fcntl
import os
import signal
import socket
import stat as modes
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import IO

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import SHORTAGE, FileError
from emitterd.spool.hashing import Hashing
from emitterd.spool.mounts import leases_prove, mount
from emitterd.translation.text import Text

FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: the open of a named pipe would wait for a writer, and that of a file under another
# program's lease for the end of the lease.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FOLDERS = Path("/proc/self/fd")
"""An open folder, by its descriptor. Source: proc(5)."""

HASH_CHUNK_BYTES = 1024 * 1024
SMALL_BYTES = 64 * 1024
NAMES_PER_TURN = 1000
"""How many names of one folder are listed before other folders are read on."""

OPEN_LISTINGS_MAX = 64
"""How many folders are listed in rotation; each has a descriptor open."""

PathStat = tuple[bytes, os.stat_result]
"""A path that a listing named, and its stat."""

_ListItem = tuple[bytes, os.stat_result | None]
"""As `PathStat`; the stat is None for a folder."""


class LeaseState(StrEnum):
    """What a lease shows about writers of a file."""

    CLOSED = "closed"
    """The kernel granted a read lease: nobody can be writing."""
    OPEN = "open"
    """Somebody can write: the kernel refused the lease, or an own lease delays our open()."""
    NONE = "none"
    """No lease proves anything here: other owner, file system that is not local, or settings."""


MARK = ".emitterd-journal"
"""A file at the top of a folder that several hosts share: the id of their journal."""


class Spool:
    """The watched folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trusts_leases = True
        """False for `spool.completion: quiet`: leases prove nothing."""
        self.mark = ""
        """What the file `MARK` must contain: where it does not, another folder is mounted here, or
        none. Empty: not looked at."""
        self._identity: tuple[int, int] | None = None
        self._mounted_at = Path("/")
        self._claim: socket.socket | None = None
        self.shared_since: float | None = None
        """Since when another process is known to deliver from the same folder."""
        # Records the root's identity and mount, which later calls compare.
        self.lost()

    def lost(self) -> bool:
        """Tell whether the root is gone, or is the empty folder below a lost mount.

        Another folder of the same name is a recreated root. But where the mount that held the root
        is gone, it is only the folder that the mount had covered.
        """
        identity = self.identity()
        if identity is None or (self.mark and self.read_mark() != self.mark):
            return True
        if identity != self._identity:
            mounted_at, kind = mount(self.root)
            # Without /proc nothing shows whether the mount is still there.
            unknown = kind == "unknown" and self._identity is not None
            if unknown or mounted_at in self._mounted_at.parents:
                return True
            self._identity, self._mounted_at = identity, mounted_at
        return False

    def read_mark(self) -> str:
        """Return the mark of the folder, which all hosts see that share it; empty without one."""
        try:
            return (self.root / MARK).read_text("ascii", "replace").strip()
        except OSError:
            return ""

    def write_mark(self) -> None:
        """Mark the folder with `mark`. Raises `OSError`."""
        file = self.root / f"{MARK}.{os.getpid()}"
        with file.open("w", encoding="ascii") as opened:
            opened.write(f"{self.mark}\n")
            opened.flush()
            os.fsync(opened.fileno())
        file.rename(self.root / MARK)

    def claim(self) -> bool:
        """Claim the folder for this process; return whether no other one on this host has it.

        The claim is an abstract socket: it ends with the process, leaves no file, and unlike a lock
        of the folder it lets an administrator unmount the file system.
        """
        identity = self.identity()
        if identity is None or self._claim is not None:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind("\0emitterd-folder-{}-{}".format(*identity))
        except OSError as error:
            claim.close()
            # Any other error says nothing about another process.
            if error.errno != errno.EADDRINUSE:
                return True
            self.shared_since = self.shared_since or time.time()
            return False
        self._claim, self.shared_since = claim, None
        return True

    def release(self) -> None:
        """Give the claim back."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode of the root, or None while there is none."""
        try:
            stat = self.root.stat()
        except OSError:
            return None
        return (stat.st_dev, stat.st_ino) if modes.S_ISDIR(stat.st_mode) else None

    def stat(self, path: bytes) -> os.stat_result:
        """Return the stat of a regular file, without opening it.

        Raises `FileError`: GONE, UNREADABLE, or NOT_REGULAR.
        """
        with self._parent(path) as (folder, name):
            return _regular_stat(name, folder)

    @contextmanager
    def open(self, path: bytes) -> Iterator[FileIO]:
        """Open a regular file for reading, unbuffered.

        Raises `FileError`: GONE, UNREADABLE, NOT_REGULAR, or STILL_WRITTEN.
        """
        with self._parent(path) as (folder, name):
            # To open a device may have an effect; a stat has none.
            _regular_stat(name, folder)
            try:
                fd = os.open(name, _FILE, dir_fd=folder)
            except OSError as error:
                raise _file_error(error) from error
        with os.fdopen(fd, "rb", buffering=0) as file:
            # The name may lead to another file since the stat.
            if not modes.S_ISREG(os.fstat(fd).st_mode):
                raise FileError(Text("not a regular file"), code=Code.NOT_REGULAR)
            yield file

    def lease(self, file: FileIO) -> LeaseState:
        """Return what a lease proves about an open file."""
        if not (self.trusts_leases and leases_prove(file.fileno())):
            return LeaseState.NONE
        return lease_state(file)

    @contextmanager
    def stable_path(self, path: bytes) -> Iterator[Path]:
        """Yield a path through the open folder of a file, to move or delete it.

        A folder that somebody replaces by a link in the meantime cannot redirect it. Raises
        `FileError`.
        """
        with self._parent(path) as (folder, name):
            yield OPEN_FOLDERS / str(folder) / os.fsdecode(name)

    def walk(
        self, skip: Callable[[bytes], bool], unreadable: Callable[[bytes, OSError], None]
    ) -> Iterator[PathStat]:
        """Yield path and stat of everything in the folder that is not a folder itself."""
        return (item for item in self.walk_in_steps(skip, unreadable) if item is not None)

    def walk_in_steps(
        self,
        skip: Callable[[bytes], bool],
        unreadable: Callable[[bytes, OSError], None],
        top: bytes = b"",
    ) -> Iterator[PathStat | None]:
        """Yield path and stat of everything under `top` that is not a folder.

        `skip` is asked before each folder. `unreadable` gets folders and files that cannot be read,
        and the walk goes on. Links are yielded, not followed. Folders are listed in rotation, so
        that a folder of a million files delays no other. None marks the end of each step: the
        caller gets its turn also in folders without files.
        """
        try:
            # One descriptor for the whole walk: a root that is replaced meanwhile is not mixed with
            # the new one.
            root = self._open_root()
        except OSError as error:
            unreadable(top, error)
            return
        folders, started = [top], deque[Iterator[_ListItem]]()
        with _closing(root), closing(_LastFolder(root)) as last:
            while folders or started:
                if folders and len(started) < OPEN_LISTINGS_MAX:
                    listing = _list(last, folders.pop(), unreadable)
                else:
                    listing = started.popleft()
                items = list(islice(listing, NAMES_PER_TURN))
                for path, stat in items:
                    if stat is not None:
                        yield path, stat
                    elif not skip(path):
                        folders.append(path)
                if len(items) == NAMES_PER_TURN:
                    started.append(listing)
                yield None

    def relative(self, path: bytes) -> bytes | None:
        """Return an absolute path relative to the root; None if it is outside."""
        root = os.fsencode(self.root)
        if path == root:
            return b""
        return path[len(root) + 1 :] if path.startswith(root + b"/") else None

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        *folders, name = path.split(b"/")
        # O_NOFOLLOW stops links only.
        if b".." in folders:
            raise FileError("outside the watched folder", code=Code.GONE)
        try:
            fd = _descend(self._open_root(), folders)
        except OSError as error:
            raise _file_error(error) from error
        with _closing(fd):
            yield fd, name

    def _open_root(self) -> int:
        # The root itself may be a link.
        return os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def ignore_lease_breaks() -> None:
    """Ignore SIGIO, which would end the holder of a lease. Main thread only.

    Measured: when a writer opens the file, the kernel sends SIGIO to the process that holds the
    lease. Its default action ends the process (exit 157).
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def lease_state(file: FileIO) -> LeaseState:
    """Ask the kernel whether anybody can be writing the file.

    The kernel grants a read lease only while no descriptor and no shared mapping of any process can
    write to the file. The lease is given back at once, because a writer's open() waits for its end.
    Source: fcntl(2), "Leases".
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        busy = error.errno in {errno.EAGAIN, errno.EWOULDBLOCK}
        return LeaseState.OPEN if busy else LeaseState.NONE
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return LeaseState.CLOSED


def read_at(file: FileIO, size_bytes: int) -> Callable[[int, int], bytes]:
    """Return a function that reads up to `count` bytes at an offset.

    A small file is read at once, because a zip is read in a dozen parts.
    """
    fd = file.fileno()
    if size_bytes <= SMALL_BYTES:
        whole = os.pread(fd, size_bytes, 0)
        return lambda offset, count: whole[offset : offset + count]
    return lambda offset, count: os.pread(fd, count, offset)


def digests(file: IO[bytes], check: Callable[[], None]) -> tuple[bytes, bytes]:
    """Return MD5 and SHA-256 of an open file, from its beginning.

    `check` is called between chunks, and may raise.
    """
    file.seek(0)
    with Hashing(os.fstat(file.fileno()).st_size) as hashing:
        while chunk := file.read(HASH_CHUNK_BYTES):
            heartbeat.record()
            check()
            hashing.update(chunk)
        hashing.finish()
        return hashing.md5, hashing.sha256


class _LastFolder:
    """The folder in which a listing was opened last: the next one is mostly in it, or below.

    With each folder opened from the root, a tree nested 1,000 deep would cost half a million opens.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._path, self._fd = b"", root

    def close(self) -> None:
        if self._fd != self._root:
            os.close(self._fd)

    def open_listing(self, path: bytes) -> int:
        """Open a folder to list it. Raises `OSError`, also where a folder is a link."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._path:
            above = self._path and self._path + b"/"
            start, rest = self._fd, folder.removeprefix(above)
            if not folder.startswith(above):
                start, rest = self._root, folder
            fd = _descend(os.dup(start), rest.split(b"/") if rest else [])
            self.close()
            self._path, self._fd = folder, fd
        return os.open(name or b".", _LISTING, dir_fd=self._fd)


def _list(
    last: _LastFolder, folder: bytes, unreadable: Callable[[bytes, OSError], None]
) -> Iterator[_ListItem]:
    try:
        with _closing(last.open_listing(folder)) as fd, os.scandir(fd) as scan:
            for item in scan:
                name = os.fsencode(item.name)
                path = folder + b"/" + name if folder else name
                try:
                    is_folder = item.is_dir(follow_symlinks=False)
                    stat = None if is_folder else item.stat(follow_symlinks=False)
                except OSError as error:
                    unreadable(path, error)
                    continue
                yield path, stat
    except OSError as error:
        # A listing may also fail in the middle: a bad disk, a lost file server.
        unreadable(folder, error)


def _descend(fd: int, folders: list[bytes]) -> int:
    """Open one folder after the other; return the last, and close the others."""
    for folder in folders:
        with _closing(fd):
            fd = os.open(folder, FOLDER_FLAGS, dir_fd=fd)
    return fd


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _regular_stat(name: bytes, folder: int) -> os.stat_result:
    try:
        stat = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        raise _file_error(error) from error
    if not modes.S_ISREG(stat.st_mode):
        raise FileError(Text("not a regular file"), code=Code.NOT_REGULAR)
    return stat


def _file_error(error: OSError) -> FileError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return FileError(Text("the file is gone"), code=Code.GONE)
    if error.errno == errno.ELOOP:
        return FileError(Text("a symbolic link"), code=Code.NOT_REGULAR)
    if error.errno == errno.EAGAIN:
        # Only a lease delays the open of a regular file: Samba holds one for an SMB client.
        return FileError(Text("another program has a lease on it"), code=Code.STILL_WRITTEN)
    code = Code.PATH_FAILED if error.errno in SHORTAGE else Code.UNREADABLE
    return FileError(f"cannot be read: {os.strerror(error.errno or 0)}", code=code)
