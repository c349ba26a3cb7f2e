"""How long the journal remembers: `journal.retain`, but never less than needed.

The latest version of a file that still lies in the folder is what keeps it from being
sent again, so it stays however old it is.
"""

import time

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import FileError, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.spool.folder import Spool

EVERY_S = 86400.0
LEAP_S = 30 * EVERY_S
PAGE = 500


class Retention:
    """Prunes the journal once a day."""

    def __init__(self, journal: Journal, spool: Spool, retain_s: float) -> None:
        self._journal = journal
        self._spool = spool
        self._retain_s = retain_s
        self._next_at = 0.0

    def apply_settings(self, retain_s: float) -> None:
        """Remember for another time from now on. Thread-safe."""
        if retain_s != self._retain_s:
            self._retain_s, self._next_at = retain_s, 0.0

    def tick(self) -> None:
        """Prune if a day has gone by since the last time."""
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + EVERY_S
            try:
                self.prune(self.reckoned(time.time()))
            except JournalFull:
                # Forgetting can wait; it frees pages only once they are written.
                return

    def reckoned(self, now: float) -> float:
        """Return the time to prune by: a clock that leaps ahead takes it along a month.

        So a clock that is set years ahead costs no receipt. Pauses longer than that
        only make the journal remember longer.
        """
        known = self._journal.read_fact("reckoned")
        reckoned_at, seen_at = known if isinstance(known, list) else (now, now)
        reckoned_at += min(max(now - seen_at, 0.0), LEAP_S)
        self._journal.save_fact("reckoned", [reckoned_at, now])
        return min(float(reckoned_at), now)

    def prune(self, now: float) -> int:
        """Forget what ended before `now` less the retention; return how many."""
        before = now - self._retain_s
        self._journal.prune_actions(before)
        pruned, after_id = 0, 0
        while not self._spool.lost():
            heartbeat.record()
            page = self._journal.ended_before(before, after_id, PAGE)
            if not page:
                break
            after_id = page[-1][0]
            spent = [
                entry_id
                for entry_id, path, superseded in page
                if superseded or self._gone(path)
            ]
            reach(Point.PRUNE_DUE)
            self._journal.prune(spent)
            reach(Point.PRUNED)
            pruned += len(spent)
        return pruned

    def _gone(self, path: bytes) -> bool:
        try:
            self._spool.stat(path)
        except FileError as error:
            return error.code is Code.GONE
        return False
