"""What happens to a delivered file: it is kept, archived, or deleted.

It is touched only after the delivery is on disk in the journal, and only while the
path still is the very file that was sent. Each step survives being done twice.
"""

import errno
import filecmp
import os
import shutil
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from emitterd.codes import Code
from emitterd.entry import display
from emitterd.errors import JournalFull, SourceError
from emitterd.failpoints import Point, reach
from emitterd.fingerprint import Fingerprint
from emitterd.journal import Journal
from emitterd.meanings import MEANING
from emitterd.spool import Spool

log = structlog.get_logger()


class Disposal:
    """The rule `spool.after_delivery`."""

    def __init__(
        self, spool: Spool, journal: Journal, *, archive: Path | None, delete: bool
    ) -> None:
        """Archive where `archive` is given, delete where `delete`, else keep."""
        self._spool = spool
        self._journal = journal
        self._archive = archive
        self._delete = delete
        self._lock = threading.Lock()
        self._under_way: set[bytes] = set()
        self._said: dict[bytes, str] = {}

    @property
    def keeps(self) -> bool:
        """Whether delivered files stay where they are."""
        return self._archive is None and not self._delete

    def dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        """Move or delete a delivered file and record it.

        What cannot be done now stays due in the journal; the next sweep tries again.
        """
        # The sweep meets files whose worker is just about to dispose of them.
        with self._lock:
            if path in self._under_way:
                return
            self._under_way.add(path)
        try:
            self._dispose(entry_id, path, sent)
        finally:
            self._under_way.discard(path)

    def _dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        try:
            if self._is_another(path, sent):
                self._journal.dispose(entry_id)
                return
            reach(Point.DISPOSAL_DUE)
            moved_to = self._move_or_delete(path)
            reach(Point.DISPOSED)
        except (OSError, SourceError) as error:
            self._say_once(path, str(error))
            return
        except JournalFull:
            # It stays due, and the next sweep finds nothing left to do.
            return
        log.info(
            "file.disposed",
            path=display(path),
            moved_to=display(os.fsencode(moved_to)) if moved_to else None,
        )
        with suppress(JournalFull):
            self._journal.dispose(entry_id)
            reach(Point.DISPOSAL_RECORDED)

    def _say_once(self, path: bytes, reason: str) -> None:
        """Log why a file stays; each sweep tries again, and is silent if it fails."""
        if self._said.get(path) == reason:
            return
        self._said[path] = reason
        log.warning(
            "file.disposed",
            path=display(path),
            error=Code.NOT_DISPOSED,
            reason=reason,
            hint=MEANING[Code.NOT_DISPOSED].remedy,
        )

    def _is_another(self, path: bytes, sent: Fingerprint) -> bool:
        """Tell whether the path no longer holds the file that was sent.

        Another file is a version of its own and is left alone. Raises `SourceError`
        where that cannot be told now: no permission, or the root is lost.
        """
        try:
            return Fingerprint.of(self._spool.stat(path)) != sent
        except SourceError as error:
            if error.code is Code.UNREADABLE or self._spool.lost():
                raise
            return True

    def _move_or_delete(self, path: bytes) -> Path | None:
        source = self._spool.root / os.fsdecode(path)
        if self._archive is None:
            source.unlink()
            reach(Point.UNLINKED)
            _sync(source.parent)
            return None
        return _move(source, self._archive / _today() / os.fsdecode(path))


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _move(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target = _free(target, source)
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


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
