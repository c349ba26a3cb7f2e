"""Moving a file for good: collision-safe, durable, also to another file system.

Nothing that was dropped under the name meanwhile is touched: the file is taken from
its name first, and looked at again then. Each step survives being done twice, as
after a crash.
"""

import ctypes
import errno
import filecmp
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from emitterd import heartbeat
from emitterd.failpoints import Point, reach

SLOWEST_BYTES_S = 1024 * 1024
"""A copy to another file system that is slower than this has come to a standstill."""

IsIt = Callable[[Path], bool]
"""Tells whether a path holds the file that is meant."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

_naming = threading.Lock()
"""Held while a free name is chosen and taken."""


def delete(source: Path, aside: Path, is_it: IsIt) -> bool:
    """Delete a file; return whether it was there. Raises `OSError`.

    `aside`: a name in its folder that nobody else uses; a crash may leave it there.
    """
    if not _set_aside(source, aside, is_it):
        return False
    aside.unlink()
    reach(Point.UNLINKED)
    sync(source.parent)
    return True


def move(
    source: Path,
    target: Path,
    aside: Path,
    is_it: IsIt,
    beside: Mapping[str, object] | None,
) -> Path | None:
    """Move a file to a free name at `target`; return that. Raises `OSError`.

    None where another file is there by now, which stays. `aside` is as for `delete`.
    `beside`: what to say of it in a `.reason.json` there, which comes first: no file
    lies there unexplained.
    """
    there = aside if os.path.lexists(aside) else source
    heartbeat.silence(there.lstat().st_size / SLOWEST_BYTES_S)
    _make_folder(target.parent)
    moved: Path | None
    try:
        moved = _rename(there, target, source, is_it, beside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        moved = _copy_over(source, target, aside, is_it, beside)
    if moved is not None:
        sync(target.parent)
        sync(source.parent)
    return moved


def put_back(aside: Path, source: Path) -> None:
    """Give a file its name again, unless another has it: that one came later."""
    with suppress(FileExistsError):
        try:
            source.hardlink_to(aside)
        except FileExistsError:
            raise
        except OSError:
            # No links on this file system, or none to another user's file.
            _rename_to_free(aside, source)
            return
    aside.unlink()


def _rename_to_free(old: Path, new: Path) -> None:
    """Rename, unless the new name is taken. Source: renameat2(2)."""
    rename = getattr(_LIBC, "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(old))
    names = os.fsencode(old), os.fsencode(new)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old), None, str(new))


def _rename(
    there: Path,
    target: Path,
    source: Path,
    is_it: IsIt,
    beside: Mapping[str, object] | None,
) -> Path | None:
    with _naming:
        free = _free(target, there)
        if beside is not None:
            _write(_reason(free), beside)
            reach(Point.REASON_WRITTEN)
        try:
            there.rename(free)
        except OSError:
            _reason(free).unlink(missing_ok=True)
            raise
    reach(Point.MOVED)
    if is_it(free):
        return free
    _reason(free).unlink(missing_ok=True)
    put_back(free, source)
    return None


def _copy_over(
    source: Path,
    target: Path,
    aside: Path,
    is_it: IsIt,
    beside: Mapping[str, object] | None,
) -> Path | None:
    """Move to another file system: copy whole, make durable, and only then remove."""
    copy = target.with_name(f"{aside.name}.part")
    try:
        there = aside if os.path.lexists(aside) else source
        # A link that took its place is not followed, here and below.
        shutil.copy2(there, copy, follow_symlinks=False)
        sync(copy, os.O_NOFOLLOW)
        reach(Point.COPIED)
        if not _set_aside(source, aside, is_it):
            copy.unlink()
            return None
        with _naming:
            free = _free(target, aside)
            if beside is not None:
                _write(_reason(free), beside)
            copy.rename(free)
        reach(Point.COPY_NAMED)
        sync(target.parent)
        aside.unlink()
        return free
    except OSError:
        # Else each try would leave another copy.
        copy.unlink(missing_ok=True)
        raise


def _set_aside(source: Path, aside: Path, is_it: IsIt) -> bool:
    """Take a file from its name; return whether it was the one."""
    if not os.path.lexists(aside):
        source.rename(aside)
        reach(Point.SET_ASIDE)
    if is_it(aside):
        return True
    put_back(aside, source)
    return False


def _free(target: Path, source: Path) -> Path:
    """Return the name, or the first `name.N.zip` that nothing has yet.

    A copy of this very file, which a crash left there, may be replaced by it.
    """
    candidate, number = target, 1
    while os.path.lexists(candidate) and not _is_copy(candidate, source):
        candidate = target.with_name(f"{target.stem}.{number}{target.suffix}")
        number += 1
    return candidate


def _is_copy(candidate: Path, source: Path) -> bool:
    both = candidate.lstat(), source.lstat()
    if not all(stat.S_ISREG(one.st_mode) for one in both):
        return False
    same_time = both[0].st_mtime_ns == both[1].st_mtime_ns
    return same_time and filecmp.cmp(candidate, source, shallow=False)


def _reason(place: Path) -> Path:
    return place.with_name(f"{place.name}.reason.json")


def _write(path: Path, value: Mapping[str, object]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    sync(part)
    part.rename(path)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power cut takes none away."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path, flags: int = 0) -> None:
    """Make a file durable, or the names in a folder. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
