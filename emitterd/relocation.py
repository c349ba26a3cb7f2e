"""Moving a file for good: collision-safe, durable, also to another file system.

Each step survives being done twice, as after a crash.
"""

import errno
import filecmp
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from emitterd.failpoints import Point, reach
from emitterd.pulse import rest

SLOWEST_BYTES_S = 1024 * 1024
"""A copy to another file system that is slower than this has come to a standstill."""


def delete(source: Path) -> None:
    """Delete a file; raises `OSError`."""
    source.unlink()
    reach(Point.UNLINKED)
    _sync(source.parent)


def move(source: Path, target: Path, beside: Mapping[str, object] | None) -> Path:
    """Move a file to a free name at `target`; return that. Raises `OSError`.

    `beside`: what to say of it in a `.reason.json` there, which comes first: no file
    lies there unexplained.
    """
    rest(source.stat().st_size / SLOWEST_BYTES_S)
    target.parent.mkdir(parents=True, exist_ok=True)
    target = _free(target, source)
    if beside is not None:
        _write(target.with_name(f"{target.name}.reason.json"), beside)
        reach(Point.REASON_WRITTEN)
    try:
        source.rename(target)
        reach(Point.MOVED)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target)
    _sync(target.parent)
    _sync(source.parent)
    return target


def _copy_over(source: Path, target: Path) -> None:
    """Move to another file system: copy whole, make durable, and only then remove."""
    copy = target.with_name(f".{target.name}.part")
    try:
        shutil.copy2(source, copy)
        _sync(copy)
        reach(Point.COPIED)
        copy.rename(target)
        reach(Point.COPY_NAMED)
        source.unlink()
    except OSError:
        # Else each try would leave another copy.
        copy.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise


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
    if candidate.is_symlink() or not candidate.is_file():
        return False
    same_time = candidate.stat().st_mtime_ns == source.stat().st_mtime_ns
    return same_time and filecmp.cmp(candidate, source, shallow=False)


def _write(path: Path, value: Mapping[str, object]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    _sync(part)
    part.rename(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
