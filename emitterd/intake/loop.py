"""The first loop: hints and sweeps become complete files in the journal.

A hint or a sweep names a path. The examiner examines it, and complete files are admitted in
batches. A sweep runs in slices, so that a new hint never waits for a large folder.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.errors import SHORTAGE, JournalError, JournalFull, JournalUnreachable
from emitterd.failpoints import Point, reach
from emitterd.intake.candidates import NOTHING_SEEN
from emitterd.intake.examine import Examiner, ExamineRules
from emitterd.intake.file_status import failure_reason, permission_hint
from emitterd.intake.not_sent import NotSentSummary
from emitterd.journal.journal import Journal
from emitterd.journal.rows import ASKED, Admission, AdmissionResult, Admitted
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import PathStat, Spool
from emitterd.text import display

BATCH = 500
"""Admissions per commit: a large folder must not cost one fsync per file."""

SLICE_S = 0.2
"""How long a slice of a sweep takes before hints are taken."""

HINTS_MAX = 100_000
"""More hints than this are worth less than one sweep."""

HINTS_PER_STEP = 1000
EVENT_LATENCY_S = 2.0
BUSY_S = 1.0
"""When a path is examined again whose older version is being sent."""
CHANGED_FIRST_S, CHANGED_MAX_S = 1.0, 600.0
"""How long a path waits that changed twice while it was sent; the wait then doubles."""
CHANGES_REPORTED = 4
FULL_S = 5.0
"""When a path is examined again that found no room in the journal."""

SWEEPER_CHECK_S = 5.0
"""How often a host that does not sweep looks whether it must."""

log = structlog.get_logger()


@dataclass(slots=True)
class Sweep:
    """A listing in progress: of the whole folder, or of the folders that have appeared.

    `first`: the first whole sweep with the current rules. `listed`: the listing is at its end.
    `missed`: files that no event had named, and `missed_path` is one of them. `duration_s` is set
    at its end.
    """

    listing: Iterator[PathStat | None]
    started_at: float
    whole: bool = False
    first: bool = False
    listed: bool = False
    to_examine: deque[PathStat] = field(default_factory=deque)
    files: int = 0
    folders: int = 0
    admitted: int = 0
    missed: int = 0
    missed_path: bytes = b""
    duration_s: float = 0.0


OnAdmitted = Callable[[], None]
"""Is called after each commit of admissions: there is work for the workers."""

OnSwept = Callable[[Sweep], None]
"""Is called after each whole sweep, in the thread of the intake."""


class Intake:
    """Examines paths and admits complete files.

    `hint`, `sweep_soon` and `apply_settings` are thread-safe; one thread calls the others.
    """

    def __init__(
        self,
        spool: Spool,
        examiner: Examiner,
        journal: Journal,
        *,
        on_admitted: OnAdmitted,
        on_swept: OnSwept,
    ) -> None:
        self._spool = spool
        self._examiner = examiner
        self._tracker = examiner.tracker
        self._journal = journal
        self.expects_events = True
        """Whether a file that a sweep finds first counts as missed by the watch."""
        self._on_admitted = on_admitted
        self._on_swept = on_swept
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._hints: dict[bytes, bool] = {}
        self._changes: dict[bytes, tuple[int, float]] = {}
        """How often uploads of a path found it changed, and when the last one did."""
        self._batch: list[Admission] = []
        self._whole_sweep: Sweep | None = None
        self._folder_sweep: Sweep | None = None
        self._folders: list[bytes] = []
        """Folders that have appeared, which no sweep has listed yet."""
        self._whole_next = False
        self._next_sweep_at = 0.0
        self._new_rules: ExamineRules | None = None
        self._first_sweep = True
        """Whether the next whole sweep is the first with the current rules."""
        self.sweeping = threading.Event()
        """Set once the first sweep has begun."""
        self.swept_at: float | None = None
        """When the last whole sweep ended, in seconds since the epoch; None before."""
        self.sweep_took_s = 0.0
        self.always_sweeps = False
        """Whether this host sweeps although another one does it for all: `once` does."""

    def hint(self, path: bytes, is_folder: bool = False) -> None:  # noqa: FBT001, FBT002
        """Ask to examine a path, relative to the root."""
        with self._lock:
            if len(self._hints) < HINTS_MAX:
                self._hints[path] = self._hints.get(path, False) or is_folder
            else:
                self._next_sweep_at = 0.0
        self._wake.set()

    def changed(self, path: bytes) -> None:
        """Ask to examine a path whose upload found another version; wait longer each time."""
        now = time.monotonic()
        with self._lock:
            if len(self._changes) >= HINTS_MAX:
                self._changes.clear()
            count, at = self._changes.get(path, (0, now))
            # A new upload may itself take a while.
            count = count + 1 if now - at < 2 * CHANGED_MAX_S else 1
            self._changes[path] = count, now
        self.hint(path)

    def sweep_soon(self) -> None:
        """Ask for a sweep at once."""
        self._next_sweep_at = 0.0
        self._wake.set()

    def apply_settings(self, rules: ExamineRules) -> None:
        """Use other rules from the next step on, and sweep at once."""
        with self._lock:
            self._new_rules = rules
        self._wake.set()

    def run(self, shutdown: Shutdown) -> None:
        """Loop until the daemon drains."""
        shutdown.on_drain(self._wake.set)
        while True:
            # Cleared before the step: a wake-up that comes during it ends the wait.
            self._wake.clear()
            if shutdown.draining:
                return
            heartbeat.record()
            try:
                wait_s = self.step(time.monotonic())
            except JournalUnreachable:
                # What this step has taken and not admitted is found by the next sweep.
                self._next_sweep_at, wait_s = 0.0, FULL_S
            if wait_s > 0:
                with heartbeat.silence(wait_s):
                    self._wake.wait(wait_s)

    def not_sent(self) -> NotSentSummary | None:
        """Return what lies in the folder and is not sent as it is. Thread-safe."""
        return self._examiner.not_sent.summary()

    def settling(self) -> bool:
        """Tell whether a file waits only for its quiet period."""
        return self._tracker.settling()

    def step(self, now: float) -> float:
        """Do what is due at `now` (monotonic); return how long to wait, in seconds."""
        self._apply_new_rules()
        for path, is_folder in self._take_hints():
            if is_folder:
                self._folders.append(path)
            else:
                self._examine(path, now)
        for path in self._tracker.due(now):
            self._examine(path, now)
        self._flush(now)
        if now >= self._next_sweep_at and self._whole_sweep is None:
            self._begin_sweep(now)
        if self._folders and self._folder_sweep is None:
            listing = chain.from_iterable(map(self._walk, topmost(self._folders)))
            self._folder_sweep = Sweep(listing, now)
            self._folders = []
        if sweep := self._next_sweep():
            self._advance_sweep(sweep, now)
            return 0.0
        if self._hints:
            return 0.0
        return max(0.0, min(self._next_sweep_at, self._tracker.next_due_at()) - now)

    def _next_sweep(self) -> Sweep | None:
        """Return the sweep that goes on, in turns: new folders must not end whole sweeps."""
        self._whole_next = not self._whole_next
        first, second = self._folder_sweep, self._whole_sweep
        return (second or first) if self._whole_next else (first or second)

    def _examine(self, path: bytes, now: float, stat: os.stat_result | None = None) -> bool:
        """Return whether the file is to be admitted.

        An error that is not one of the journal concerns this path only.
        """
        if self._waits_after_changes(path, now):
            return False
        try:
            admission = self._examiner.examine(path, now, stat)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001  one path must not stop the others
            self._examiner.failed(path, error, now)
            return False
        if admission is None:
            return False
        self._batch.append(admission)
        if len(self._batch) >= BATCH:
            self._flush(now)
        return True

    def _waits_after_changes(self, path: bytes, now: float) -> bool:
        """Tell whether a path changed in its uploads too often to be admitted already."""
        count, at = self._changes.get(path, (0, now))
        wait_s = min(CHANGED_FIRST_S * 2.0 ** min(count - 2, 10), CHANGED_MAX_S)
        if count <= 1 or now >= at + wait_s:
            return False
        self._tracker.postpone(path, NOTHING_SEEN, at + wait_s)
        if count >= CHANGES_REPORTED:
            reason = f"it changed {count} times while it was sent"
            self._examiner.report(path, Code.CHANGED, reason)
        return True

    def _flush(self, now: float) -> None:
        batch, self._batch = self._batch, []
        results = self._admit(batch, now) if batch else []
        for admission, admitted in results:
            path = admission.path
            if admitted.result is AdmissionResult.BUSY:
                self._tracker.postpone(path, admission.fingerprint, now + BUSY_S)
                continue
            self._examiner.admitted(path)
            if admitted.result is AdmissionResult.ADMITTED:
                _log_admitted(admission, admitted)
                if admission.dispose:
                    # It is a known file now, whose disposal is due.
                    self._examine(path, now)
        if results:
            self._on_admitted()

    def _admit(self, batch: list[Admission], now: float) -> list[tuple[Admission, Admitted]]:
        reach(Point.ADMIT_DUE)
        try:
            results = self._journal.admit(batch)
        except JournalFull:
            for admission in batch:
                self._tracker.postpone(admission.path, admission.fingerprint, now + FULL_S)
            return []
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001  one bad row must fail alone
            if len(batch) > 1:
                return [pair for admission in batch for pair in self._admit([admission], now)]
            self._examiner.failed(batch[0].path, error, now)
            return []
        reach(Point.ADMITTED)
        return list(zip(batch, results, strict=True))

    def _take_hints(self) -> list[tuple[bytes, bool]]:
        """Take some of the hints, oldest first: a stop must not wait for all."""
        with self._lock:
            taken = list(islice(self._hints.items(), HINTS_PER_STEP))
            for path, _ in taken:
                del self._hints[path]
        return taken

    def _apply_new_rules(self) -> None:
        with self._lock:
            rules, self._new_rules = self._new_rules, None
        if rules is None:
            return
        self._examiner.apply_settings(rules)
        # The watch has not missed a file that only the new rules select.
        if self._whole_sweep is not None:
            self._whole_sweep.first = True
        self._first_sweep, self._next_sweep_at = True, 0.0

    def _walk(self, top: bytes = b"") -> Iterator[PathStat | None]:
        return self._spool.walk_in_steps(self._skip, self._unreadable, top)

    def _skip(self, folder: bytes) -> bool:
        if self._whole_sweep is not None:
            self._whole_sweep.folders += 1
        return self._examiner.rules.selection.skipped(folder) is not None

    def _unreadable(self, path: bytes, error: OSError) -> None:
        # Removed, or replaced by a link or a file, since its parent was listed.
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if error.errno in SHORTAGE:
            self._examiner.failed(path or b".", error)
        elif not path or self._examiner.rules.selection.skipped(path) is None:
            hint = permission_hint(self._spool.root, path or b".", error, "rx")
            self._examiner.report(path or b".", Code.UNREADABLE, failure_reason(error), hint=hint)

    def _begin_sweep(self, now: float) -> None:
        self._next_sweep_at = now + self._examiner.rules.sweep_every_s
        if not (self.always_sweeps or self._journal.is_sweeper()):
            self._leave_to_others(now)
            return
        if self._spool.lost():
            return
        first, self._first_sweep = self._first_sweep, False
        self._whole_sweep = Sweep(self._walk(), now, whole=True, first=first)
        self._examiner.not_sent.begin_sweep()
        self.sweeping.set()

    def _leave_to_others(self, now: float) -> None:
        """Another host sweeps. See soon whether it still does; a first sweep misses nothing."""
        self._next_sweep_at = min(self._next_sweep_at, now + SWEEPER_CHECK_S)
        self._first_sweep, self.swept_at = True, time.time()
        self.sweeping.set()

    def _advance_sweep(self, sweep: Sweep, now: float) -> None:
        slice_end = time.monotonic() + SLICE_S
        while time.monotonic() < slice_end:
            if sweep.to_examine:
                path, stat = sweep.to_examine.popleft()
                self._examine_swept(sweep, path, stat, now)
            elif not sweep.listed:
                files = self._list(sweep, slice_end)
                sweep.files += len(files)
                sweep.to_examine.extend(self._examiner.not_in_journal(files))
            else:
                self._flush(now)
                self._end_sweep(sweep)
                return
        self._flush(now)

    def _list(self, sweep: Sweep, slice_end: float) -> list[PathStat]:
        """List up to `ASKED` files; stop at the end of the slice, also if there are none."""
        heartbeat.record()
        files: list[PathStat] = []
        try:
            while len(files) < ASKED and time.monotonic() < slice_end:
                item = next(sweep.listing)
                if item is not None:
                    files.append(item)
        except StopIteration:
            sweep.listed = True
        except Exception as error:  # noqa: BLE001  the next sweep begins another listing
            sweep.listed = True
            self._examiner.failed(b".", error)
        return files

    def _examine_swept(self, sweep: Sweep, path: bytes, stat: os.stat_result, now: float) -> None:
        if self._tracker.has_failed(path):
            # Its next look has a time of its own, which sweeps must not bring forward.
            self._examiner.not_sent.keep(path)
            return
        tracked = path in self._tracker or path in self._hints
        if self._examine(path, now, stat):
            sweep.admitted += 1
            # The event of such a young file may still be on its way.
            young = stat.st_ctime > time.time() - EVENT_LATENCY_S
            unlisted = sweep.first or self._folder_sweep is not None
            expected = self.expects_events and sweep.whole and not unlisted
            if expected and not (tracked or young):
                sweep.missed += 1
                sweep.missed_path = path

    def _end_sweep(self, sweep: Sweep) -> None:
        if not sweep.whole:
            self._folder_sweep = None
            return
        self._whole_sweep = None
        self._examiner.not_sent.end_sweep()
        not_sent = self.not_sent()
        counts = not_sent.counts if not_sent is not None else {}
        sweep.duration_s = time.monotonic() - sweep.started_at
        if sweep.missed:
            log.warning("watch.missed", count=sweep.missed, path=display(sweep.missed_path))
        noteworthy = sweep.first or sweep.admitted
        (log.info if noteworthy else log.debug)(
            "sweep.finished",
            files=sweep.files,
            admitted=sweep.admitted,
            missed=sweep.missed,
            unreadable=counts.get(Code.UNREADABLE, 0),
            not_sent=sum(counts.values()),
            duration_s=sweep.duration_s,
        )
        self.swept_at, self.sweep_took_s = time.time(), sweep.duration_s
        self._on_swept(sweep)


def topmost(folders: Iterable[bytes]) -> list[bytes]:
    """Return the folders that are in no other of them: a walk of these lists all."""
    tops: list[bytes] = []
    # With the slash, a folder comes right before everything in it.
    for folder in sorted(folder + b"/" for folder in folders):
        if not tops or not folder.startswith(tops[-1]):
            tops.append(folder)
    return [top[:-1] for top in tops]


def _log_admitted(admission: Admission, admitted: Admitted) -> None:
    path, rejection = display(admission.path), admission.error
    if admitted.replaced_bytes is not None:
        log.info(
            "file.withdrawn", path=path, error=Code.CHANGED, reason="replaced by a later version"
        )
    # A rejected file has its findings in the reason, in the next line.
    findings = [] if rejection else [str(finding) for finding in admission.findings]
    (log.warning if findings else log.info)(
        "file.admitted",
        path=path,
        bytes=admission.fingerprint.size_bytes,
        findings=findings or None,
        held=admitted.held or None,
    )
    if rejection is not None:
        log.error(
            "file.rejected",
            path=path,
            bytes=admission.fingerprint.size_bytes,
            error=rejection.code,
            reason=rejection.reason,
            hint=rejection.remedy,
        )
