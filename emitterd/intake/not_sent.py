"""The paths in the folder that emitterd does not send in their present state, and why.

The intake fills it; alarms, `status` and the log read it. Its memory is bounded: beyond `PATHS_MAX`
it only counts. If a whole sweep does not find a path again, the path is removed from the list.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from emitterd.codes import Code
from emitterd.model import Fingerprint

PATHS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class NotSentSummary:
    """How many paths are not sent, by code, and one path of each code.

    `since`: when the first of them was found, in seconds since the epoch.
    """

    since: float
    counts: Mapping[Code, int]
    examples: Mapping[Code, bytes]


@dataclass(slots=True)
class _Report:
    code: Code
    seen: Fingerprint | None
    sweep: int


class NotSent:
    """The reported paths. One thread changes it; any thread may call `summary`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: dict[bytes, _Report] = {}
        self._sweep = 0
        self._beyond: Counter[Code] = Counter()
        """What the last whole sweep found beyond `PATHS_MAX`."""
        self._counting: Counter[Code] = Counter()
        self._since: float | None = None
        self._summary: NotSentSummary | None = None
        self._changed = False

    def add(self, path: bytes, code: Code, seen: Fingerprint | None = None) -> bool:
        """Note a path; return whether to log it: its code, or `seen`, is new."""
        with self._lock:
            report = self._reports.get(path)
            if report is None and len(self._reports) >= PATHS_MAX:
                self._counting[code] += 1
                return False
            if report is not None and (report.code, report.seen) == (code, seen):
                report.sweep = self._sweep
                return False
            self._reports[path] = _Report(code, seen, self._sweep)
            self._since, self._changed = self._since or time.time(), True
            return True

    def keep(self, path: bytes) -> None:
        """Note that nothing has changed for a path that is noted."""
        if report := self._reports.get(path):
            report.sweep = self._sweep

    def remove(self, path: bytes) -> None:
        """Drop a path that is sent, or gone."""
        with self._lock:
            if self._reports.pop(path, None) is not None:
                self._changed = True

    def begin_sweep(self) -> None:
        """Begin to find every path again."""
        self._sweep += 1
        self._counting.clear()

    def end_sweep(self) -> None:
        """Drop what the sweep has not found again."""
        with self._lock:
            left = {path: r for path, r in self._reports.items() if r.sweep == self._sweep}
            self._reports, self._beyond = left, Counter(self._counting)
            self._changed = True

    def summary(self) -> NotSentSummary | None:
        """Return what is not sent, or None if there is nothing."""
        with self._lock:
            if self._changed:
                self._changed, self._summary = False, self._summarise()
            return self._summary

    def _summarise(self) -> NotSentSummary | None:
        counts, examples = Counter(self._beyond), dict[Code, bytes]()
        for path, report in self._reports.items():
            counts[report.code] += 1
            examples.setdefault(report.code, path)
        if not counts or self._since is None:
            self._since = None
            return None
        return NotSentSummary(self._since, counts, examples)
