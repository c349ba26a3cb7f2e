"""What happens to a file whose version has ended: kept, archived, deleted, put aside.

It is touched only after the delivery, or the rejection, is on disk in the journal, and
only while the path still is the very file that was looked at.
"""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from emitterd.admission import Ended
from emitterd.codes import Code
from emitterd.entry import State, display, iso
from emitterd.errors import JournalFull, SourceError
from emitterd.failpoints import Point, reach
from emitterd.fingerprint import Fingerprint
from emitterd.journal import Journal
from emitterd.meanings import MEANING
from emitterd.relocation import delete, move
from emitterd.spool import Spool

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
        return self.rejected is None if state is State.REJECTED else self.keeps


class Disposal:
    """Disposes of files by a rule. Thread-safe."""

    def __init__(self, spool: Spool, journal: Journal, rule: Rule) -> None:
        self._spool = spool
        self._journal = journal
        self._rule = rule
        self._lock = threading.Lock()
        self._under_way: set[bytes] = set()
        self._said: dict[bytes, str] = {}

    def adopt(self, rule: Rule) -> None:
        """Go by another rule from now on."""
        self._rule = rule

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

    def _dispose(self, entry_id: int, path: bytes, sent: Fingerprint) -> None:
        ended, rule = self._journal.ended(entry_id), self._rule
        if ended is None:
            return
        try:
            # Today's rule: it may have been another when the version ended.
            if rule.stays(ended.state) or self._is_another(path, sent):
                self._journal.dispose(entry_id, None)
                return
            reach(Point.DISPOSAL_DUE)
            moved_to = self._move_or_delete(path, ended, rule)
            reach(Point.DISPOSED)
        except (OSError, SourceError) as error:
            self._say_once(path, str(error))
            return
        except JournalFull:
            # It stays due, and the next sweep finds nothing left to do.
            return
        place = os.fsencode(moved_to) if moved_to else None
        log.info(
            "file.disposed",
            path=display(path),
            moved_to=display(place) if place else None,
        )
        with suppress(JournalFull):
            self._journal.dispose(entry_id, place)
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

    def _move_or_delete(self, path: bytes, ended: Ended, rule: Rule) -> Path | None:
        source = self._spool.root / os.fsdecode(path)
        # The day it ended, not today: a second try finds what the first one left.
        under = Path(iso(ended.at)[:10], os.fsdecode(path))
        if ended.state is State.REJECTED and rule.rejected is not None:
            return move(source, rule.rejected / under, ended.explained(path))
        if rule.archive is None:
            delete(source)
            return None
        return move(source, rule.archive / under, None)
