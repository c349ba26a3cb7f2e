"""What happens to a file whose version has ended: kept, archived, deleted, put aside.

It is touched only after the delivery, or the rejection, is on disk in the journal, and
only while the path still is the very file that was looked at.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import FileError, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.journal.rows import Ended
from emitterd.model import Fingerprint, State
from emitterd.spool.files import delete, move, put_back
from emitterd.spool.folder import OPEN_FOLDERS, Spool
from emitterd.text import display, iso

PAGE = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rule:
    """Where files go: `spool.after_delivery` and `spool.rejected_directory`.

    What is delivered goes to `archive` where that is given, is deleted, or stays; what
    is rejected goes to `rejected`, or stays.
    """

    archive: Path | None = None
    delete: bool = False
    rejected: Path | None = None

    @property
    def keeps(self) -> bool:
        """Whether delivered files stay where they are."""
        return self.archive is None and not self.delete

    def stays(self, state: State) -> bool:
        """Tell whether files of versions in this state stay where they are."""
        match state:
            case State.DELIVERED:
                return self.keeps
            case State.REJECTED:
                return self.rejected is None
            case _:
                return True


class Disposal:
    """Disposes of files by a rule. Thread-safe."""

    def __init__(self, spool: Spool, journal: Journal, rule: Rule) -> None:
        self._spool = spool
        self._journal = journal
        self._rule = rule
        self._lock = threading.Lock()
        self._under_way: set[bytes] = set()
        self._said: dict[bytes, str] = {}
        self._unfinished = True

    def apply_settings(self, rule: Rule) -> None:
        """Use another rule from now on."""
        self._rule = rule
        # What was impossible may be possible now.
        self._unfinished = True

    @property
    def keeps(self) -> bool:
        """Whether delivered files stay where they are."""
        return self._rule.keeps

    @property
    def keeps_rejected(self) -> bool:
        """Whether rejected files stay where they are."""
        return self._rule.rejected is None

    def dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        """Move or delete the file of an ended version and record it.

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

    def resume(self) -> None:
        """Do what is due in the journal: a crash, or a full disk, may have left it."""
        if not self._unfinished or self._spool.lost():
            return
        # What fails below sets it again.
        self._unfinished, after_id = False, 0
        while page := self._journal.disposals(after_id, PAGE):
            for entry_id, path, sent in page:
                heartbeat.record()
                self.dispose(entry_id, path, sent)
                after_id = entry_id

    def _dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        ended = self._journal.ended(entry_id)
        if ended is None:
            return
        try:
            moved_to = self._done_with(entry_id, path, ended, sent)
            if moved_to is not None:
                reach(Point.DISPOSED)
                place = os.fsencode(moved_to) if moved_to else None
                shown = display(place) if place else None
                log.info("file.disposed", path=display(path), moved_to=shown)
                self._journal.dispose(entry_id, place)
            else:
                self._journal.dispose(entry_id, None)
            reach(Point.DISPOSAL_RECORDED)
        except (OSError, FileError) as error:
            self._unfinished = True
            self._say_once(path, _reason(error))
        except JournalFull:
            # It stays due, and is found done.
            self._unfinished = True

    def _done_with(
        self, entry_id: int, path: bytes, ended: Ended, sent: Fingerprint
    ) -> Path | str | None:
        """Move or delete the file; return where it is now, empty where it is deleted.

        None where it stays, or another is there by now.
        """
        # Today's rule, and one for the whole of it: it may have been another when the
        # version ended, and change meanwhile.
        rule = self._rule
        try:
            with self._spool.stable_path(path) as source:
                # Taken from its name by a process that died: then the path says
                # nothing of it.
                aside = source.with_name(f".emitterd-{entry_id}")
                left = os.path.lexists(aside)
                if rule.stays(ended.state):
                    if left:
                        put_back(aside, source)
                    return None
                if not left and self._is_another(path, sent):
                    return None
                reach(Point.DISPOSAL_DUE)
                return self._remove(path, source, aside, ended, sent, rule)
        except FileError as error:
            if error.code is Code.UNREADABLE or self._spool.lost():
                raise
            # Its folder is gone, and the file with it.
            return None

    @staticmethod
    def _remove(
        path: bytes,
        source: Path,
        aside: Path,
        ended: Ended,
        sent: Fingerprint,
        rule: Rule,
    ) -> Path | str | None:
        def is_it(place: Path) -> bool:
            return Fingerprint.of(place.lstat()).renamed_from(sent)

        # The day it ended, not today: a second try finds what the first one left.
        under = Path(iso(ended.at)[:10], os.fsdecode(path))
        if ended.state is State.REJECTED and rule.rejected is not None:
            reason = ended.rejection(path)
            return move(source, rule.rejected / under, aside, is_it, reason)
        if rule.archive is None:
            return "" if delete(source, aside, is_it) else None
        return move(source, rule.archive / under, aside, is_it, None)

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
            hint=Code.NOT_DISPOSED.remedy,
        )

    def _is_another(self, path: bytes, sent: Fingerprint) -> bool:
        """Tell whether the path no longer holds the file that was sent.

        Another file is a version of its own and is left alone. Raises `FileError`
        where that cannot be told now: no permission, or the root is lost.
        """
        try:
            return Fingerprint.of(self._spool.stat(path)) != sent
        except FileError as error:
            if error.code is Code.UNREADABLE or self._spool.lost():
                raise
            return True


def _reason(error: OSError | FileError) -> str:
    """Say what failed, and where, but for the file itself: its folder has no name."""
    if isinstance(error, FileError):
        return str(error)
    names = [str(one) for one in (error.filename, error.filename2) if one]
    named = [one for one in names if not Path(one).is_relative_to(OPEN_FOLDERS)]
    return ": ".join([error.strerror or str(error), *named[-1:]])
