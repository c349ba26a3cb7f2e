"""The watched folder: listing it, opening in it, and proof that nobody writes.

Nothing outside the root is ever read: each folder on the way is opened without
following links, the file by its name in that folder, and never in a blocking way.
Paths are relative to the root, as bytes, with `/`.
"""

import errno
import fcntl
import hashlib
import os
import signal
import stat as modes
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from io import FileIO
from itertools import islice
from pathlib import Path

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.spool.hashing import Hashing
from emitterd.spool.mounts import mount_point

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FOLDERS = Path("/proc/self/fd")
"""A folder that is held open, by its descriptor. Source: proc(5)."""

HASH_CHUNK_BYTES = 1024 * 1024
SMALL_BYTES = 64 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


TURN = 1000
"""Names of one folder before another has its turn."""

BEGUN_MAX = 64
"""Folders that are listed by turns; each has a descriptor open."""

Found = tuple[bytes, os.stat_result]
"""A path that a listing named, and its stat."""

_Item = tuple[bytes, os.stat_result | None]


def ignore_lease_breaks() -> None:
    """Ignore SIGIO, which a lease's holder gets and dies of. Main thread only.

    Measured: a process that holds a lease while a writer opens the file is sent
    SIGIO, whose default action ends it (exit 157).
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)


class LeaseState(StrEnum):
    """What is known about writers of a file."""

    CLOSED = "closed"
    """A read lease was granted: nobody can be writing."""
    OPEN = "open"
    """The lease was refused because somebody can write."""
    NONE = "none"
    """No lease to be had here: other owner, network file system."""


class Spool:
    """The watched folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._identity: tuple[int, int] | None = None
        self._mounted_at = Path("/")
        self.lost()

    def lost(self) -> bool:
        """Tell whether the root is gone, or is the empty folder below a lost mount.

        Another folder of the same name is the root made anew, unless the mount that
        the root lay on is no longer there: then it is what the mount had covered.
        """
        identity = self.identity()
        if identity is None:
            return True
        if identity != self._identity:
            mounted_at = mount_point(self.root)
            if mounted_at in self._mounted_at.parents:
                return True
            self._identity, self._mounted_at = identity, mounted_at
        return False

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
            return _regular(name, folder)

    @contextmanager
    def open(self, path: bytes) -> Iterator[FileIO]:
        """Open a regular file for reading, unbuffered.

        Raises `FileError`: GONE, UNREADABLE, or NOT_REGULAR.
        """
        with self._parent(path) as (folder, name):
            # A device may act on being opened; a stat does nothing.
            _regular(name, folder)
            try:
                fd = os.open(name, _FILE, dir_fd=folder)
            except OSError as error:
                raise _source_error(error) from error
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not modes.S_ISREG(os.fstat(fd).st_mode):
                raise FileError("not a regular file", code=Code.NOT_REGULAR)
            yield file

    @contextmanager
    def place(self, path: bytes) -> Iterator[Path]:
        """Yield where a file is, for who moves or deletes it.

        Its folder is held open: what becomes a link on the way there by then leads
        nowhere else. Raises `FileError`.
        """
        with self._parent(path) as (folder, name):
            yield OPEN_FOLDERS / str(folder) / os.fsdecode(name)

    def walk(
        self,
        skip: Callable[[bytes], bool],
        unreadable: Callable[[bytes, OSError], None],
        top: bytes = b"",
    ) -> Iterator[Found]:
        """Yield path and stat of everything under `top` that is not a folder.

        `skip` is asked before each folder; `unreadable` is told of folders and files
        that cannot be looked at, and the walk goes on. Links are yielded, not
        followed. Large folders take turns with the others: what lies in one is not
        found only after the million files of another.
        """
        try:
            root = self._open()
        except OSError as error:
            unreadable(top, error)
            return
        folders, begun = [top], deque[Iterator[_Item]]()
        with closing(_Descriptor(root)):
            while folders or begun:
                fresh = folders and len(begun) < BEGUN_MAX
                listing = (
                    _list(root, folders.pop(), unreadable) if fresh else begun.popleft()
                )
                turn = list(islice(listing, TURN))
                for path, stat in turn:
                    if stat is not None:
                        yield path, stat
                    elif not skip(path):
                        folders.append(path)
                if len(turn) == TURN:
                    begun.append(listing)

    def relative(self, path: bytes) -> bytes | None:
        """Return an absolute path relative to the root; None where it is outside."""
        root = os.fsencode(self.root)
        if path == root:
            return b""
        return path[len(root) + 1 :] if path.startswith(root + b"/") else None

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        *folders, name = path.split(b"/")
        if b".." in folders:
            raise FileError("outside the watched folder", code=Code.GONE)
        try:
            fd = _descend(self._open(), folders)
        except OSError as error:
            raise _source_error(error) from error
        with closing(_Descriptor(fd)):
            yield fd, name

    def _open(self) -> int:
        """Open the root, which may be a link. Raises `OSError`."""
        return os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _list(
    root: int, folder: bytes, unreadable: Callable[[bytes, OSError], None]
) -> Iterator[_Item]:
    """Yield path and stat of what lies in a folder; of a folder no stat."""
    try:
        fd = _listing(root, folder)
    except OSError as error:
        unreadable(folder, error)
        return
    with closing(_Descriptor(fd)), os.scandir(fd) as scan:
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


def _listing(root: int, path: bytes) -> int:
    """Open a folder below the root to be listed. Raises `OSError`."""
    *folders, name = path.split(b"/")
    if not folders:
        return os.open(name or b".", _LISTING, dir_fd=root)
    fd = _descend(os.dup(root), folders)
    with closing(_Descriptor(fd)):
        return os.open(name, _LISTING, dir_fd=fd)


def _descend(fd: int, folders: list[bytes]) -> int:
    """Go down from a folder that is open, step by step and following no link.

    Returns the last, and closes the others. Raises `OSError`.
    """
    for folder in folders:
        with closing(_Descriptor(fd)):
            fd = os.open(folder, _FOLDER, dir_fd=fd)
    return fd


def proof(file: FileIO) -> LeaseState:
    """Ask the kernel whether anybody can be writing the file.

    A read lease is granted only while no descriptor and no shared mapping of any
    process can write to it. It is given back at once: while it is held, a writer's
    open() waits. Source: fcntl(2), "Leases".
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

    A small file is read at once: the parts of a zip are asked for a dozen times.
    """
    fd = file.fileno()
    if size_bytes <= SMALL_BYTES:
        whole = os.pread(fd, size_bytes, 0)
        return lambda offset, count: whole[offset : offset + count]
    return lambda offset, count: os.pread(fd, count, offset)


def sha256(file: FileIO, check: Callable[[], None]) -> bytes:
    """Return the SHA-256 of an open file, from its beginning.

    `check` is called between chunks, and may raise.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(file, check):
        digest.update(chunk)
    return digest.digest()


def digests(file: FileIO, check: Callable[[], None]) -> tuple[bytes, bytes]:
    """Return MD5 and SHA-256 of an open file, from its beginning; as `sha256`."""
    with Hashing(os.fstat(file.fileno()).st_size) as hashing:
        for chunk in _chunks(file, check):
            hashing.update(chunk)
        hashing.finish()
        return hashing.md5, hashing.sha256


def _chunks(file: FileIO, check: Callable[[], None]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(HASH_CHUNK_BYTES):
        heartbeat.record()
        check()
        yield chunk


class _Descriptor:
    """Something to close: a file descriptor as `contextlib.closing` wants it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _regular(name: bytes, folder: int) -> os.stat_result:
    try:
        stat = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        raise _source_error(error) from error
    if not modes.S_ISREG(stat.st_mode):
        raise FileError("not a regular file", code=Code.NOT_REGULAR)
    return stat


def _source_error(error: OSError) -> FileError:
    if error.errno in _GONE:
        return FileError("the file is gone", code=Code.GONE)
    if error.errno == errno.ELOOP:
        return FileError("a symbolic link", code=Code.NOT_REGULAR)
    return FileError(
        f"cannot be read: {os.strerror(error.errno or 0)}", code=Code.UNREADABLE
    )
