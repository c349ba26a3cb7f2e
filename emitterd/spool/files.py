"""Moves or deletes a file permanently and durably, also to another file system.

A newer file of the same name is never touched: emitterd first renames the file to a private name
and then checks that it is the right file. Each step may be repeated after a crash.
"""

import ctypes
import errno
import filecmp
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from emitterd import heartbeat
from emitterd.errors import FileError
from emitterd.failpoints import Point, reach
from emitterd.spool.folder import FOLDER_FLAGS, OPEN_FOLDERS

MINIMUM_COPY_BYTES_S = 1024 * 1024
"""A copy to another file system that is slower than this counts as stalled."""

NAME_MAX_BYTES = 255
"""The longest name of a file on most file systems. Source: limits.h."""

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system answers that has no such operation: a folder's fsync, renameat2."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

_name_lock = threading.Lock()
"""Held while a free name is chosen and taken."""


@dataclass(frozen=True, slots=True)
class FileMover:
    """Moves or deletes one file permanently.

    `private` is a name in the same folder that nobody else uses. A crash may leave the file there.
    `is_same` returns whether a path has the right file; it raises where that cannot be known yet.
    """

    source: Path
    private: Path
    is_same: Callable[[Path], bool]

    def delete(self) -> bool:
        """Delete the file; return False if another file has replaced it.

        Raises `OSError`, also where the file is missing.
        """
        if not self._rename_to_private():
            return False
        self.private.unlink()
        reach(Point.UNLINKED)
        sync(self.source.parent)
        return True

    def move(self, target: Path, reason: Mapping[str, object] | None) -> Path | None:
        """Move the file to `target`, or the next free name; return that.

        Returns None where `source` is another file by now; that file stays. `reason` is written to
        a `.reason.json` next to the target first, so each file there has its reason.
        Raises `OSError`.
        """
        current = self._where_it_is()
        moved: Path | None
        try:
            moved = _rename_to_free_name(current, target, reason)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            moved = self._copy_and_remove(target, reason)
        else:
            reach(Point.MOVED)
            # After the rename: no producer uses the new name, so the answer stays true.
            if not self._is_same_or_put_back(moved):
                return None
        if moved is not None:
            # The file has its new name, so an error here loses nothing. The new name goes to disk
            # first: after a power cut the file may have both names, but never none.
            with suppress(OSError):
                sync(target.parent)
                sync(self.source.parent)
        return moved

    def _where_it_is(self) -> Path:
        return self.private if os.path.lexists(self.private) else self.source

    def _rename_to_private(self) -> bool:
        """Rename the file to its private name; return whether it is the right file."""
        if not os.path.lexists(self.private):
            self.source.rename(self.private)
            reach(Point.SET_ASIDE)
        return self._is_same_or_put_back(self.private)

    def _is_same_or_put_back(self, path: Path) -> bool:
        same = False
        try:
            same = self.is_same(path)
        finally:
            if not same:
                put_back(path, self.source)
                _reason_path(path).unlink(missing_ok=True)
        return same

    def _copy_and_remove(self, target: Path, reason: Mapping[str, object] | None) -> Path | None:
        """Move to another file system.

        Copy the whole file, sync it, and only then remove.
        """
        # The same name at each try: a copy that a crash has left is overwritten.
        copy = target.with_name(f"{self.private.name}.part")
        try:
            current = self._where_it_is()
            # `copyfile` records no heartbeat.
            with heartbeat.silence(current.lstat().st_size / MINIMUM_COPY_BYTES_S):
                # If a link has replaced the file, it is not followed, here and below.
                shutil.copyfile(current, copy, follow_symlinks=False)
                # A place may refuse times and permissions (CIFS, FAT).
                with suppress(OSError):
                    shutil.copystat(current, copy, follow_symlinks=False)
                sync(copy, os.O_NOFOLLOW)
            reach(Point.COPIED)
            # After the copy: a file that changed while it was copied is noticed, and stays.
            if not self._rename_to_private():
                copy.unlink()
                return None
            moved = copy = _rename_to_free_name(copy, target, reason)
            reach(Point.COPY_NAMED)
            # The name of the copy must be on disk before the file goes.
            sync(target.parent)
            self.private.unlink()
            return moved
        except (OSError, FileError):
            # Otherwise each try would leave another copy.
            copy.unlink(missing_ok=True)
            _reason_path(copy).unlink(missing_ok=True)
            raise


def put_back(private: Path, source: Path) -> None:
    """Give a file its name back.

    If a newer file has taken the name, the file with the private name is deleted. Raises `OSError`.
    """
    try:
        # Not a rename: link(2) refuses a name that is taken, rename(2) replaces it.
        source.hardlink_to(private)
    except FileExistsError:
        pass
    except OSError:
        # The file system has no hard links, or forbids one to another user's file.
        try:
            _rename_no_replace(private, source)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            # FUSE, or a network: nothing better is left than to look first.
            if not os.path.lexists(source):
                private.rename(source)
                return
        else:
            return
    private.unlink()


def sync(path: Path, flags: int = 0) -> None:
    """Write a file, or a folder's list of names, to disk (fsync), where the file system can.

    Raises `OSError`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(fd)


def _rename_no_replace(old: Path, new: Path) -> None:
    """Rename, unless the new name is taken. Source: renameat2(2)."""
    rename = getattr(_LIBC, "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(old))
    names = os.fsencode(old), os.fsencode(new)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old), None, str(new))


def _rename_to_free_name(current: Path, target: Path, reason: Mapping[str, object] | None) -> Path:
    with _name_lock:
        free = _free_name(target, current)
        if reason is not None:
            part = _with_ending(free.with_name(f".{free.name}"), ".reason.json.part")
            part.write_text(json.dumps(reason, indent=2) + "\n", "utf-8")
            sync(part)
            part.rename(_reason_path(free))
            reach(Point.REASON_WRITTEN)
        try:
            current.rename(free)
        except OSError:
            _reason_path(free).unlink(missing_ok=True)
            raise
    return free


def _free_name(target: Path, current: Path) -> Path:
    """Return the target, or the first `name.N.zip` that is free.

    A copy of the same file, which a crash has left there, may be replaced.
    """
    candidate, number = target, 1
    while os.path.lexists(candidate) and not _is_copy(candidate, current):
        candidate = _with_ending(target.with_name(target.stem), f".{number}{target.suffix}")
        number += 1
    return candidate


def _is_copy(candidate: Path, current: Path) -> bool:
    first, second = candidate.lstat(), current.lstat()
    # Between two names of one file rename(2) does nothing: the file would keep its old name.
    if first.st_ino == second.st_ino:
        return False
    if not (stat.S_ISREG(first.st_mode) and stat.S_ISREG(second.st_mode)):
        return False
    same_time = first.st_mtime_ns == second.st_mtime_ns
    return same_time and filecmp.cmp(candidate, current, shallow=False)


def _reason_path(path: Path) -> Path:
    return _with_ending(path, ".reason.json")


def _with_ending(path: Path, ending: str) -> Path:
    """Add an ending to a name. A name that becomes too long is cut, and gets a hash."""
    name = os.fsencode(path.name)
    if len(name) + len(ending) > NAME_MAX_BYTES:
        mark = b"~" + hashlib.sha256(name).hexdigest()[:8].encode()
        end = NAME_MAX_BYTES - len(ending) - len(mark)
        # The cut must not leave half a character.
        name = name[:end].decode("utf-8", "ignore").encode() + mark
    return path.with_name(os.fsdecode(name) + ending)


@contextmanager
def folder_below(top: Path, folder: Path) -> Iterator[Path]:
    """Make a folder below `top`, durably; yield a path to it that no link can redirect.

    `top` may be a link. Raises `OSError` if a folder below it is one.
    """
    _make_folder(top)
    fd, path = os.open(top, FOLDER_FLAGS & ~os.O_NOFOLLOW), top
    try:
        for name in folder.relative_to(top).parts:
            path /= name
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
                    # By its path: fsync(2) refuses a descriptor of O_PATH.
                    sync(OPEN_FOLDERS / str(fd))
                parent, fd = fd, os.open(name, FOLDER_FLAGS, dir_fd=fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
            os.close(parent)
        yield OPEN_FOLDERS / str(fd)
    finally:
        os.close(fd)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably: each parent is synced."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)
