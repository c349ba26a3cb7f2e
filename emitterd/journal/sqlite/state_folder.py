"""The files next to the journal: owner, lock, and signs that the journal is not the former one.

The folder belongs to the service's user, who can put links there. So root acts as that user before
it opens anything, and no file is opened through a link.
"""

import errno
import fcntl
import os
import pwd
import stat as modes
import time
from contextlib import suppress
from pathlib import Path

from emitterd.errors import (
    SHORTAGE,
    JournalError,
    JournalFull,
    JournalIOError,
    JournalLocked,
    JournalLost,
)
from emitterd.permissions import name_of, permission_command

LOCK_WAIT_S = 2.0
"""A short command that holds the journal must not make the daemon's start fail."""

LOCK_POLL_S = 0.05

_NEW = b"new"
"""In place of the generation in the lock file: the first start has not made the journal yet."""

_SCHEMA_COOKIE = 40
"""Offset of the number that is the generation. Source: sqlite.org/fileformat2, 1.3."""

_PASSING = SHORTAGE | {errno.EIO, errno.EINTR}
"""System errors that a restart may find ended. Exit code 78 would prevent the restart."""


def next_to(journal: Path, suffix: str) -> Path:
    """Return the file with this suffix next to the journal."""
    return journal.with_name(journal.name + suffix)


def act_as_owner(journal: Path) -> None:
    """If root runs this and another user owns the journal's folder, become that user.

    The owner is that of the first link in the path that is not root's, or else of the deepest
    folder in it that is not root's: that user decides where the path leads. Raises `JournalError`.
    """
    if os.geteuid() != 0:
        return
    owner = _owner(journal.parent)
    if owner is None:
        return
    try:
        account = pwd.getpwuid(owner.st_uid)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
    except KeyError:
        groups = []
    try:
        # In this order: the process must still be root to change its groups.
        os.setgroups(groups)
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    except OSError as error:
        raise JournalError(
            f"cannot act as the user {name_of(owner.st_uid)}, who owns {journal.parent}:"
            f" {error.strerror}",
            remedy="run this as that user",
        ) from error


def _owner(folder: Path) -> os.stat_result | None:
    """Return the stat whose user root must become; None if the whole path is root's."""
    others = []
    for path in (folder.absolute(), folder.resolve()):
        for part in [*reversed(path.parents), path]:
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = part.lstat()
                if stat.st_uid != 0:
                    others.append(stat)
                if stat.st_uid != 0 and modes.S_ISLNK(stat.st_mode):
                    return stat
    return others[-1] if others else None


def open_file(path: Path, flags: int) -> int:
    """Open a regular file with one name, following no link; return its descriptor.

    Raises `OSError`, also for any other kind of file.
    """
    # Without O_NONBLOCK the open of a named pipe would wait for its other end.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    stat = os.fstat(fd)
    # Of the open file: the name may lead to another one by now. A second name may be that of a file
    # outside, to which the service's user has made a hard link.
    if modes.S_ISREG(stat.st_mode) and stat.st_nlink == 1:
        return fd
    os.close(fd)
    raise OSError(errno.EMLINK, "not a regular file with one name", str(path))


def cannot_open(path: Path, error: OSError) -> JournalError:
    """Return the `JournalError` for a file of the folder that cannot be opened or created."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return JournalFull(f"cannot create {path}: its disk is full")
    reason = f"cannot open or create {path}: {error.strerror}"
    if error.errno in _PASSING:
        return JournalIOError(reason)
    if error.errno in {errno.ELOOP, errno.EMLINK}:
        return JournalError(f"{reason}; it may be a link", remedy=f"remove the link {path}")
    remedy = permission_command(path.parent, "wx") if path.parent.exists() else ""
    return JournalError(reason, remedy=remedy)


def refuse_lost(journal: Path, *, no_tables: bool = False) -> None:
    """Raise `JournalLost` if there is no journal, or an empty one, but signs of a former one.

    `no_tables`: the file has none. Then only the lock is a sign: SQLite may have begun a log.
    """
    if _size(journal) and not no_tables:
        return
    names = [] if no_tables else [next_to(journal, suffix) for suffix in ("-wal", ".ballast")]
    signs = [str(name) for name in names if _size(name)]
    with suppress(OSError):
        content = _read(next_to(journal, ".lock"), 64, 0).split()
        if content and content[1:] != [_NEW]:
            signs.append(str(next_to(journal, ".lock")))
    if signs:
        state = "is empty" if journal.exists() else "is gone"
        raise JournalLost(
            f"the journal {journal} {state}, but there was one: {', '.join(signs)}",
            remedy="put the journal back, or run `emitterd rebuild`, which holds all files that may"
            f" have been delivered; only to send every file again, delete {' '.join(signs)}",
        )


def refuse_mixture(journal: Path) -> None:
    """Raise `JournalLost` if the journal is older than its log.

    SQLite would apply the log to the restored file, and damage it.
    """
    log = next_to(journal, "-wal")
    # A file that cannot be read is reported when it is opened.
    with suppress(OSError):
        if _size(log) and _size(journal) and generation(journal) < lock_generation(journal):
            raise JournalLost(
                f"{journal} is older than the log {log}: an older copy was restored",
                remedy=f"delete {log} to use the restored journal, or put the newer journal back",
            )


def refuse_unusable(journal: Path) -> None:
    """Raise `JournalLost` if a reader must not open the journal: see the two functions above."""
    refuse_lost(journal)
    # SQLite has the file open in the process that holds it: the log is that of the file.
    if not is_locked(journal):
        refuse_mixture(journal)


def generation(journal: Path) -> int:
    """Return the generation that the journal's file has, without SQLite.

    Only for a process that has not opened it: the close ends SQLite's locks of the whole process.
    Raises `OSError`.
    """
    return int.from_bytes(_read(journal, 4, _SCHEMA_COOKIE), "big")


def lock_generation(journal: Path) -> int:
    """Return the generation that the journal's file had at least; 0 if it is not known.

    Raises `OSError`.
    """
    content = _read(next_to(journal, ".lock"), 64, 0).split()
    return int(content[1]) if content[1:] and content[1].isdigit() else 0


def is_locked(journal: Path) -> bool:
    """Tell whether a process, usually the daemon, holds the journal."""
    try:
        fd = open_file(next_to(journal, ".lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared: two commands that ask at once must not see each other as the daemon.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _read(path: Path, size_bytes: int, at: int) -> bytes:
    fd = open_file(path, os.O_RDONLY)
    try:
        return os.pread(fd, size_bytes, at)
    finally:
        os.close(fd)


class Lock:
    """The single-instance lock: a flock, which the kernel releases with its process.

    The file has the number of the process, and the generation of the journal.
    """

    def __init__(self, journal: Path) -> None:
        """Take the lock next to a journal.

        Raises `JournalLocked` where another process has it, and `JournalError` where its file
        cannot be created.
        """
        path = next_to(journal, ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = open_file(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise cannot_open(path, error) from error
        try:
            self._take(time.monotonic() + LOCK_WAIT_S)
        except OSError as error:
            holder = os.pread(self._fd, 64, 0).decode("ascii", "replace").split()
            os.close(self._fd)
            number = holder[0] if holder else "unknown"
            raise JournalLocked(f"{journal} is held by process {number}") from error
        content = os.pread(self._fd, 64, 0).split()
        # The former generation stays. A lock file of an older emitterd has none, and is not new.
        self._write(content[1] if content[1:] else b"" if content else _NEW)

    def save(self, generation: int) -> None:
        """Save the generation that the journal's file has."""
        self._write(b"%d" % generation)

    def _write(self, generation: bytes) -> None:
        content = b"%d\n%s\n" % (os.getpid(), generation)
        # A full disk may refuse it: then less is known of a former journal.
        with suppress(OSError):
            # Written, then cut: a kill in between leaves no empty file, which would look like a
            # first start.
            os.pwrite(self._fd, content, 0)
            os.truncate(self._fd, len(content))

    def _take(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                # flock(2) has no timeout.
                time.sleep(LOCK_POLL_S)
            else:
                return

    def close(self) -> None:
        """Release the lock."""
        # The file stays. If it were removed, two processes could lock two files of one name.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
