"""Room kept for the journal: a file beside it that goes when the disk is full.

What is under way must come to its end on record although nothing can grow any more.
The file's blocks are real ones; once it is removed they take what is still to be
written, and nothing new is begun until there is room for both again.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

import structlog

from emitterd.errors import JournalFull

PAGE_BYTES = 4096
SIZE_BYTES = 1000 * PAGE_BYTES
"""What SQLite lets the log grow to before it takes it over into the file: there is
always room for that, and then the log begins anew and grows no more."""

SHARE = 8
"""Of a tiny disk no more than an eighth."""

BLOCK_BYTES = 512
"""The unit of `st_blocks`. Source: inode(7)."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What a file system answers that cannot allocate ahead."""

log = structlog.get_logger()


class DiskReserve:
    """The file, there or spent. Used by whoever holds the writer's lock."""

    def __init__(self, journal: Path) -> None:
        """Nothing is held yet, whatever a former process left."""
        self._path = journal.with_name(journal.name + ".ballast")
        disk = os.statvfs(journal.parent)
        self.size_bytes = min(SIZE_BYTES, disk.f_blocks * disk.f_frsize // SHARE)
        self._held = False
        self._full: JournalFull | None = None
        self.full_since: float | None = None
        """Since when the disk is full, in seconds since the epoch."""

    def renew(self) -> JournalFull | None:
        """Have the room again if it is to be had; return the trouble while it is not.

        None where nothing is known to be wrong. As much again must be free: what
        follows is not to meet a full disk at once.
        """
        if self._held:
            return None
        self._held = self._take()
        if self._held and self.full_since is not None:
            log.info("journal.recovered", duration_s=time.time() - self.full_since)
            self._full = self.full_since = None
        return self._full

    def close(self) -> None:
        """Leave nothing behind: nothing is under way any more."""
        self._remove()

    def release(self, full: JournalFull) -> None:
        """Give the room up, because the disk is full."""
        self._remove()
        self._held = False
        if self._full is None:
            self._full, self.full_since = full, time.time()
            log.error("journal.full", error=full.code, reason=str(full), hint=full.hint)

    def _take(self) -> bool:
        try:
            if _allocated_bytes(self._path) >= self.size_bytes:
                return True
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < 2 * self.size_bytes:
                return False
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _fill(fd, self.size_bytes)
            finally:
                os.close(fd)
        except OSError:
            # What is there of it is room that others need more.
            self._remove()
            return False
        return True

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def _fill(fd: int, size_bytes: int) -> None:
    """Give a file real blocks, such that no file system folds them into less."""
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    if os.fstat(fd).st_blocks * BLOCK_BYTES < size_bytes:
        if os.pwrite(fd, os.urandom(size_bytes), 0) < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0
