"""What was delivered within the last day, half hour by half hour.

The past does not change, so it is read once: a day at a million rows must not be
added up at each look.
"""

import threading

from emitterd.journal.connection import Read
from emitterd.monitoring.chart import SLOT_S, SLOTS, PeriodTotal, slot_of

LATE_S = 30.0
"""A delivery is stamped before its commit, which may come this much later."""

_SUM = """select count(*), coalesce(sum(bytes), 0) from entry
    where state = 'delivered' and delivered_at >= ? and delivered_at < ?"""


class Throughput:
    """Sums of the last day by slot; each call reads only what is new. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[int, PeriodTotal] = {}
        self._until = 0.0

    def day(self, read: Read, now: float) -> dict[int, PeriodTotal]:
        """Return what was delivered in each slot of the day that ends at `now`."""
        first = slot_of(now) - SLOTS + 1
        with self._lock:
            if self._until > now:
                # The clock was set back.
                self._sums, self._until = {}, 0.0
            self._sums = {
                slot: sums for slot, sums in self._sums.items() if slot >= first
            }
            began_at = max(self._until, float(first * SLOT_S))
            self._until = max(began_at, now - LATE_S)
            _add(self._sums, read, began_at, self._until)
            day = dict(self._sums)
            _add(day, read, self._until, now)
        return day


def _add(sums: dict[int, PeriodTotal], read: Read, since: float, until: float) -> None:
    """Add what was delivered from an instant on and before another."""
    while since < until:
        # A slot a query: none keeps the journal's log from shrinking for long.
        slot = slot_of(since)
        end = min(until, float((slot + 1) * SLOT_S))
        found = PeriodTotal(*read(_SUM, (since, end))[0])
        if found.files:
            sums[slot] = sums.get(slot, PeriodTotal()) + found
        since = end
