"""One look at one path: a candidate, known, still written, whole, acceptable.

In this order, so that what is cheap and common ends the look: the name costs nothing,
a known fingerprint one stat and one query; only what is new is opened, and only what
is whole is inspected.
"""

import os
from dataclasses import dataclass

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.datasets.findings import Finding, fatal
from emitterd.datasets.inspection import Inspector
from emitterd.datasets.zip_integrity import ReadAt, zip_flaw
from emitterd.errors import Decision, DeliveryError, FileError
from emitterd.housekeeping.disposal import Disposal, Rule
from emitterd.intake.settle import Settling, Tracker
from emitterd.journal.journal import Journal
from emitterd.journal.rows import Admission, unchanged_paths
from emitterd.model import Fingerprint
from emitterd.spool.folder import LeaseState, PathStat, Spool, lease_state, read_at
from emitterd.spool.selection import Selection
from emitterd.text import display

MAX_BYTES = 5 * 1024**3
"""The largest object that one POST can make: Amazon S3, "POST Object"."""

INSPECTED_MAX = 1000
"""Inspections that are remembered of files that wait at the door."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExamineRules:
    """What intake goes by; replaced as a whole.

    `objections` of the inspection: off, warn (sent all the same), enforce.
    `sweep_every_s`: how often the whole folder is looked through, in seconds.
    """

    selection: Selection
    inspector: Inspector
    objections: str
    settling: Settling
    disposal: Rule
    sweep_every_s: float


class Examiner:
    """Looks at paths. Used by one thread; `tracker` holds what is not settled."""

    def __init__(
        self, spool: Spool, journal: Journal, disposal: Disposal, rules: ExamineRules
    ) -> None:
        self.rules = rules
        self.tracker = Tracker(rules.settling)
        self._spool = spool
        self._journal = journal
        self._disposal = disposal
        self._said: dict[bytes, Code] = {}
        self._inspected: dict[bytes, tuple[Fingerprint, tuple[Finding, ...]]] = {}

    def adopt(self, rules: ExamineRules) -> None:
        """Go by other rules from now on; what is not settled is kept."""
        self.rules = rules
        self.tracker.adopt(rules.settling)
        self._inspected.clear()
        # Selection first: what is archived by the new rule must be ignored by now.
        self._disposal.adopt(rules.disposal)

    def unsettled(self, found: list[PathStat]) -> list[PathStat]:
        """Return what needs a look, of up to `ASKED` files: one query for all.

        The others the journal has as they are.
        """
        heartbeat.record()
        seen = {path: Fingerprint.of(stat) for path, stat in found}
        known = unchanged_paths(self._journal.database.read, seen)
        for path in known:
            self.tracker.forget(path)
        return [one for one in found if one[0] not in known]

    def look(
        self, path: bytes, now: float, stat: os.stat_result | None = None
    ) -> Admission | None:
        """Return what to admit, or None; `stat` saves one where it is at hand.

        `now` is monotonic. What needs another look is left with the tracker.
        """
        heartbeat.record()
        selection = self.rules.selection
        if selection.ignored(path) is not None:
            self.tracker.forget(path)
            overlooked = selection.wrong_ending(path)
            if overlooked is not None:
                self.say_once(path, Code.WRONG_ENDING, overlooked)
            return None
        try:
            seen = Fingerprint.of(stat or self._spool.stat(path))
            if self._known(path, seen):
                return None
            return self._examine(path, now)
        except FileError as error:
            self.tracker.forget(path)
            if error.code is Code.GONE:
                self._said.pop(path, None)
            else:
                self.say_once(path, error.code, str(error))
        except OSError as error:
            # The disk, or a server of files, fails on this one; the next sweep asks.
            self.tracker.forget(path)
            self.say_once(path, Code.UNREADABLE, error.strerror or str(error))
        return None

    def say_once(self, path: bytes, code: Code, reason: str) -> None:
        """Log what keeps a path from being sent; again only when that changes."""
        if self._said.get(path) is code:
            return
        self._said[path] = code
        _tell_incomplete(path, code, reason)

    def admitted(self, path: bytes) -> None:
        """Note that a path is in the journal now."""
        self.tracker.forget(path)
        self._said.pop(path, None)
        self._inspected.pop(path, None)

    def _known(self, path: bytes, seen: Fingerprint) -> bool:
        known = self._journal.latest(path)
        if known is None or not known.matches(seen):
            return False
        self.tracker.forget(path)
        if known.disposal == "due":
            self._disposal.dispose(known.id, path, seen)
        return True

    def _examine(self, path: bytes, now: float) -> Admission | None:
        """Return the admission of a file that is complete, or hopeless."""
        with self._spool.open(path) as file:
            held = lease_state(file)
            seen = Fingerprint.of(os.fstat(file.fileno()))
            if not self.tracker.observe(path, seen, held, now):
                if self.tracker.stalled(path, now):
                    reason = "open for writing, and unchanged for long"
                    self.say_once(path, Code.STILL_WRITTEN, reason)
                return None
            read = read_at(file, seen.size_bytes)
            flaw = zip_flaw(read, seen.size_bytes)
            findings = self._findings(path, seen, read) if flaw is None else ()
        if flaw is None:
            trouble = self._objection(seen, findings)
        else:
            trouble = self._incomplete(path, seen, held, flaw, now)
            if trouble is None:
                return None
        place = self.rules.inspector.place(path)
        return Admission(
            path,
            seen,
            place.flow,
            place.rank,
            trouble,
            findings,
            dispose=trouble is not None and not self._disposal.keeps_rejected,
        )

    def _findings(
        self, path: bytes, seen: Fingerprint, read: ReadAt
    ) -> tuple[Finding, ...]:
        if self.rules.objections == "off":
            return ()
        before = self._inspected.get(path)
        if before is not None and before[0] == seen:
            # It waits at the door, while an older version is sent or the disk is full.
            return before[1]
        inspector, reading = self.rules.inspector, _beating(read)
        report = inspector.report(path, reading, seen.size_bytes)
        if len(self._inspected) >= INSPECTED_MAX:
            self._inspected.clear()
        self._inspected[path] = seen, report.findings
        return report.findings

    def _objection(
        self, seen: Fingerprint, findings: tuple[Finding, ...]
    ) -> DeliveryError | None:
        if seen.size_bytes > MAX_BYTES:
            return _rejection(Code.TOO_LARGE, f"it has {seen.size_bytes} bytes")
        if self.rules.objections == "enforce" and fatal(findings):
            return _rejection(Code.CATALOGUE, "; ".join(map(str, findings)))
        return None

    def _incomplete(
        self, path: bytes, seen: Fingerprint, held: LeaseState, flaw: str, now: float
    ) -> DeliveryError | None:
        report, give_up = self.tracker.incomplete(path, seen, held, now)
        if give_up:
            return _rejection(Code.INCOMPLETE, flaw)
        if report:
            _tell_incomplete(path, Code.INCOMPLETE, flaw)
        return None


def _beating(read: ReadAt) -> ReadAt:
    """Give a sign with each read: with a large budget an inspection takes long."""

    def reading(offset: int, count: int) -> bytes:
        heartbeat.record()
        return read(offset, count)

    return reading


def _tell_incomplete(path: bytes, code: Code, reason: str) -> None:
    log.warning(
        "file.incomplete",
        path=display(path),
        error=code,
        reason=reason,
        hint=code.remedy,
    )


def _rejection(code: Code, reason: str) -> DeliveryError:
    return DeliveryError(Decision.REJECT, code, reason)
