"""The first loop: hints and sweeps become complete files in the journal.

A hint or a sweep names a path; the examiner looks at it, and what is complete is
admitted in batches. A sweep is advanced a slice at a time, so that a fresh hint never
waits behind a large folder.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import JournalFull
from emitterd.failpoints import Point, reach
from emitterd.intake.examine import Examiner, ExamineRules
from emitterd.journal.journal import Journal
from emitterd.journal.rows import ASKED, Admission, AdmissionResult, Admitted
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import PathStat, Spool
from emitterd.text import display

BATCH = 500
"""Admissions a commit: discovery of a large folder must not pay an fsync a file."""

SLICE_S = 0.2
"""How long a sweep goes on before hints are looked at again."""

HINTS_MAX = 100_000
"""More hints than this are worth less than one sweep."""

HINTS_A_STEP = 1000
EVENT_LATENCY_S = 2.0
BUSY_S = 1.0
FULL_S = 5.0

log = structlog.get_logger()


@dataclass(slots=True)
class Sweep:
    """One listing under way: of the whole folder, or of one that has just appeared."""

    found: Iterator[PathStat]
    started_at: float
    whole: bool = False
    first: bool = False
    left: deque[PathStat] = field(default_factory=deque)
    """Found, and to be looked at."""
    files: int = 0
    admitted: int = 0
    missed: list[bytes] = field(default_factory=list)
    unreadable: int = 0
    duration_s: float = 0.0
    """How long it took, once it is done."""


class Intake:
    """Looks at paths and admits complete files.

    `hint` and `sweep_soon` from any thread; the rest by one.
    """

    def __init__(
        self,
        spool: Spool,
        examiner: Examiner,
        journal: Journal,
        *,
        on_admitted: Callable[[], None],
        on_swept: Callable[[Sweep], None],
    ) -> None:
        """Make ready.

        `on_admitted` is called after each commit of new entries, `on_swept` after
        each whole sweep.
        """
        self._spool = spool
        self._examiner = examiner
        self._tracker = examiner.tracker
        self._journal = journal
        self.expects_events = True
        """Without a watch a sweep misses nothing."""
        self._on_admitted = on_admitted
        self._on_swept = on_swept
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._hints: dict[bytes, bool] = {}
        self._batch: list[Admission] = []
        self._sweeps: list[Sweep] = []
        self._next_sweep_at = 0.0
        self._offered: ExamineRules | None = None
        self._fresh = True
        """Whether no whole sweep has gone by these rules yet."""
        self.sweeping = threading.Event()
        """Set once the first sweep has begun."""
        self.swept = threading.Event()
        """Set once a whole sweep is done."""
        self.swept_at: float | None = None
        """When the last one was, in seconds since the epoch."""
        self.sweep_took_s = 0.0

    def hint(self, path: bytes, is_folder: bool = False) -> None:  # noqa: FBT001, FBT002
        """Ask for a look at a path, relative to the root. Thread-safe."""
        with self._lock:
            if len(self._hints) < HINTS_MAX:
                self._hints[path] = self._hints.get(path, False) or is_folder
            else:
                self._next_sweep_at = 0.0
        self._wake.set()

    def sweep_soon(self) -> None:
        """Ask for a sweep at once. Thread-safe."""
        self._next_sweep_at = 0.0
        self._wake.set()

    def adopt(self, rules: ExamineRules) -> None:
        """Go by other rules from the next turn on, and sweep at once. Thread-safe."""
        with self._lock:
            self._offered = rules
        self._wake.set()

    def run(self, shutdown: Shutdown) -> None:
        """Loop until the daemon drains."""
        shutdown.on_drain(self._wake.set)
        while True:
            # Clear, look, wait: no wake-up that comes during the look is lost.
            self._wake.clear()
            if shutdown.draining:
                return
            heartbeat.record()
            wait_s = self.step(time.monotonic())
            if wait_s > 0:
                heartbeat.silence(wait_s)
                self._wake.wait(wait_s)

    def settling(self) -> bool:
        """Tell whether a complete file is only waiting out its quiet period."""
        return self._tracker.settling()

    def step(self, now: float) -> float:
        """Do what is due at `now` (monotonic); return how long to wait, in seconds."""
        self._take_over()
        for path, is_folder in self._take_hints():
            if is_folder:
                # On top of a sweep of everything: what is new goes first.
                self._sweeps.append(Sweep(self._walk(path), now))
            else:
                self.look(path, now)
        for path in self._tracker.due(now):
            self.look(path, now)
        self._flush(now)
        if now >= self._next_sweep_at and not any(one.whole for one in self._sweeps):
            self._begin_sweep(now)
        if self._sweeps:
            self._advance_sweep(self._sweeps[-1], now)
            return 0.0
        if self._hints:
            return 0.0
        return max(0.0, min(self._next_sweep_at, self._tracker.next_due_at()) - now)

    def look(self, path: bytes, now: float, stat: os.stat_result | None = None) -> bool:
        """Look at one path; return whether it is to be admitted."""
        admission = self._examiner.look(path, now, stat)
        if admission is None:
            return False
        self._batch.append(admission)
        if len(self._batch) >= BATCH:
            self._flush(now)
        return True

    def _flush(self, now: float) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        reach(Point.ADMIT_DUE)
        try:
            answers = self._journal.admit(batch)
        except JournalFull:
            for one in batch:
                self._tracker.postpone(one.path, one.fingerprint, now + FULL_S)
            return
        reach(Point.ADMITTED)
        for one, answer in zip(batch, answers, strict=True):
            if answer.admittance is AdmissionResult.BUSY:
                self._tracker.postpone(one.path, one.fingerprint, now + BUSY_S)
                continue
            self._examiner.admitted(one.path)
            if answer.admittance is AdmissionResult.ADMITTED:
                self._admitted(one, now, answer)
        self._on_admitted()

    def _admitted(self, one: Admission, now: float, answer: Admitted) -> None:
        path = display(one.path)
        if answer.replaced:
            log.info(
                "file.withdrawn",
                path=path,
                error=Code.CHANGED,
                reason="replaced by a later version",
            )
        # Of a rejected file they are the reason, in the line that follows.
        findings = [] if one.trouble else [str(finding) for finding in one.findings]
        (log.warning if findings else log.info)(
            "file.admitted",
            path=path,
            bytes=one.fingerprint.size_bytes,
            findings=findings or None,
            held=answer.held or None,
        )
        if one.trouble is not None:
            log.error(
                "file.rejected",
                path=path,
                bytes=one.fingerprint.size_bytes,
                error=one.trouble.code,
                reason=one.trouble.reason,
                hint=one.trouble.hint,
            )
        if one.dispose:
            # Met again it is a known file whose disposal is due.
            self.look(one.path, now)

    def _take_hints(self) -> list[tuple[bytes, bool]]:
        """Take some of the hints, the oldest first: a stop must not wait for all."""
        with self._lock:
            taken = list(islice(self._hints.items(), HINTS_A_STEP))
            for path, _ in taken:
                del self._hints[path]
        return taken

    def _take_over(self) -> None:
        with self._lock:
            rules, self._offered = self._offered, None
        if rules is None:
            return
        self._examiner.adopt(rules)
        # What only these rules let in was missed by nobody.
        for sweep in self._sweeps:
            sweep.first = True
        self._fresh, self._next_sweep_at = True, 0.0

    def _walk(self, top: bytes = b"") -> Iterator[PathStat]:
        hidden = self._examiner.rules.selection.hidden
        return self._spool.walk(hidden, self._unreadable, top)

    def _unreadable(self, path: bytes, error: OSError) -> None:
        # Removed, or made a link or a file, since its own folder was listed.
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if self._sweeps:
            self._sweeps[-1].unreadable += 1
        reason = error.strerror or str(error)
        self._examiner.say_once(path or b".", Code.UNREADABLE, reason)

    def _begin_sweep(self, now: float) -> None:
        self._next_sweep_at = now + self._examiner.rules.sweep_every_s
        if self._spool.lost():
            return
        first, self._fresh = self._fresh, False
        self._sweeps.insert(0, Sweep(self._walk(), now, whole=True, first=first))
        self.sweeping.set()

    def _advance_sweep(self, sweep: Sweep, now: float) -> None:
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            if sweep.left:
                self._look_swept(sweep, *sweep.left.popleft(), now)
            elif found := list(islice(sweep.found, ASKED)):
                sweep.files += len(found)
                sweep.left.extend(self._examiner.unsettled(found))
            else:
                self._flush(now)
                self._end_sweep(sweep)
                return
        self._flush(now)

    def _look_swept(
        self, sweep: Sweep, path: bytes, stat: os.stat_result, now: float
    ) -> None:
        tracked = path in self._tracker or path in self._hints
        if self.look(path, now, stat):
            sweep.admitted += 1
            # A file this young may have an event that is still on its way.
            young = stat.st_ctime > time.time() - EVENT_LATENCY_S
            expected = self.expects_events and sweep.whole and not sweep.first
            if expected and not (tracked or young):
                sweep.missed.append(path)

    def _end_sweep(self, sweep: Sweep) -> None:
        self._sweeps.remove(sweep)
        if not sweep.whole:
            return
        sweep.duration_s = time.monotonic() - sweep.started_at
        if sweep.missed:
            log.warning(
                "watch.missed",
                count=len(sweep.missed),
                path=display(sweep.missed[0]),
            )
        noteworthy = sweep.first or sweep.admitted
        (log.info if noteworthy else log.debug)(
            "sweep.finished",
            files=sweep.files,
            admitted=sweep.admitted,
            missed=len(sweep.missed),
            unreadable=sweep.unreadable,
            duration_s=sweep.duration_s,
        )
        self.swept_at, self.sweep_took_s = time.time(), sweep.duration_s
        self.swept.set()
        self._on_swept(sweep)
