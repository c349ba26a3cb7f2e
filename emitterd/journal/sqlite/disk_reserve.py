"""The disk reserve: a file next to the journal that is deleted when the disk is full.

Work under way must be recorded even when the disk is full. Deleting the file frees its blocks for
that. emitterd starts no new work until there is space for the reserve and as much again.

The reserve has 8 MB, or an eighth of a small disk. Half of it is for SQLite's write-ahead log. At
that size, the log is copied into the journal and begun again. The other half is for the journal: a
log adds at most its own pages to it.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

import structlog

from emitterd.errors import JournalFull
from emitterd.journal.sqlite.state_folder import next_to, open_file

PAGE_BYTES = 4096
LOG_PAGES = 1000
"""The length at which SQLite copies the log into the file. Source: sqlite.org, its own default."""

SIZE_BYTES = 2 * LOG_PAGES * PAGE_BYTES

SHARE = 8
"""On a tiny disk the reserve takes at most an eighth."""

BLOCK_BYTES = 512
"""The unit of `st_blocks`. Source: inode(7)."""

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""Errors of file systems that cannot allocate in advance."""

log = structlog.get_logger()


class DiskReserve:
    """The reserve file. Not thread-safe: `SqliteStore` calls it during a commit."""

    def __init__(self, journal: Path) -> None:
        """Allocate nothing yet: `renew` does."""
        # This is the reserve's file; installations have it under this name.
        self._path = next_to(journal, ".ballast")
        disk = os.statvfs(journal.parent)
        self.size_bytes = min(SIZE_BYTES, disk.f_blocks * disk.f_frsize // SHARE)
        self.log_pages = max(1, self.size_bytes // PAGE_BYTES // 2)
        """At how many pages SQLite must copy the log into the file."""
        self._held = False
        self._full: JournalFull | None = None
        self.full_since: float | None = None
        """Since when the disk is full, in seconds since the epoch."""

    def renew(self) -> JournalFull | None:
        """Allocate a missing reserve; return the error while the disk is full.

        As much again must be free, so that the next commit does not fill the disk.
        """
        if self._held:
            return None
        self._held = self._take()
        if self._held and self.full_since is not None:
            log.info("journal.recovered", duration_s=time.time() - self.full_since)
            self._full = self.full_since = None
        return self._full

    def release(self, full: JournalFull) -> None:
        """Delete the file, because the disk is full, and log it once."""
        self.remove()
        self._held = False
        if self._full is None:
            self._full, self.full_since = full, time.time()
            log.error("journal.full", error=full.code, reason=str(full), hint=full.remedy)

    def _take(self) -> bool:
        try:
            with suppress(FileNotFoundError):
                # Blocks, not the size: a file with holes reserves nothing.
                if self._path.lstat().st_blocks * BLOCK_BYTES >= self.size_bytes:
                    return True
            # `f_bavail`: what root alone may use is no room for the daemon.
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < 2 * self.size_bytes:
                return False
            fd = open_file(self._path, os.O_RDWR | os.O_CREAT)
            try:
                # Only an allocation shows that a user's quota allows as much again, too.
                _fill(fd, 2 * self.size_bytes)
                os.truncate(fd, self.size_bytes)
            finally:
                os.close(fd)
        except OSError:
            # A partial reserve is useless, and others need its space.
            self.remove()
            return False
        return True

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with suppress(OSError):
            self._path.unlink()


def _fill(fd: int, size_bytes: int) -> None:
    """Give a file real blocks: random bytes, which no file system can compress."""
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    if os.fstat(fd).st_blocks * BLOCK_BYTES < size_bytes:
        if os.pwrite(fd, os.urandom(size_bytes), 0) < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Some file systems allocate blocks only now, and then report that the disk is full.
        os.fsync(fd)
