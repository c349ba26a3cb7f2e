"""Retention: ended entries older than `journal.retain` are deleted once a day.

The latest version of a file that is still in the folder stays at any age: without it emitterd would
send the file again.
"""

import time

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import FileError, JournalFull
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.spool.folder import Spool

EVERY_S = 86400.0
CLOCK_JUMP_LIMIT_S = 30 * EVERY_S
PAGE = 500


class Retention:
    """Prunes the journal once a day."""

    def __init__(self, journal: Journal, spool: Spool, retain_s: float) -> None:
        self._journal = journal
        self._spool = spool
        self._retain_s = retain_s
        self._next_at = 0.0

    def apply_settings(self, retain_s: float) -> None:
        """Use another retention time, in seconds, from now on. Thread-safe."""
        if retain_s != self._retain_s:
            self._retain_s, self._next_at = retain_s, 0.0

    def tick(self) -> None:
        """Prune if a day has passed since the last time."""
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + EVERY_S
            try:
                self.prune(self.counted_time(self._journal.now()))
            except JournalFull:
                # Pruning can wait: while the disk is full it would free no space.
                return

    def counted_time(self, now: float) -> float:
        """Return the time to prune by, which advances at most 30 days between calls.

        So a clock that is set years ahead deletes no receipt. A longer pause only makes the journal
        keep entries longer.
        """
        saved = self._journal.read_fact("reckoned")
        counted_at, seen_at = saved if isinstance(saved, list) else (now, now)
        counted_at += min(max(now - seen_at, 0.0), CLOCK_JUMP_LIMIT_S)
        self._journal.save_fact("reckoned", [counted_at, now])
        return min(float(counted_at), now)

    def prune(self, now: float) -> int:
        """Delete what ended before `now` less the retention; return how many."""
        before = now - self._retain_s
        self._journal.prune_actions(before)
        pruned, after_id = 0, 0
        while not self._spool.lost():
            heartbeat.record()
            page = self._journal.ended_before(before, after_id, PAGE)
            if not page:
                break
            after_id = page[-1][0]
            expired = [
                entry_id for entry_id, path, superseded in page if superseded or self._gone(path)
            ]
            reach(Point.PRUNE_DUE)
            self._journal.prune(expired)
            reach(Point.PRUNED)
            pruned += len(expired)
        return pruned

    def _gone(self, path: bytes) -> bool:
        try:
            self._spool.stat(path)
        except FileError as error:
            return error.code is Code.GONE
        return False
