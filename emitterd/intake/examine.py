"""Examines one path for the intake: acts on its status, and prepares its admission."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from emitterd import heartbeat
from emitterd.codes import Code
from emitterd.datasets.findings import Finding, blocking, fatal
from emitterd.datasets.inspection import Inspector
from emitterd.datasets.zip_integrity import ReadAt
from emitterd.datasets.zip_members import check_content
from emitterd.errors import Decision, DeliveryError, FileError, JournalError
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.intake.candidates import SettleRule, Tracker
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState, failure_reason
from emitterd.intake.not_sent import NotSent
from emitterd.journal.journal import Journal
from emitterd.journal.rows import Admission, unchanged_paths
from emitterd.model import Fingerprint, State
from emitterd.spool.folder import LeaseState, PathStat, Spool
from emitterd.spool.selection import Selection
from emitterd.text import display
from emitterd.translation.text import Text

MAX_BYTES = 5 * 1024**3
"""The largest object that one POST can make: Amazon S3, "POST Object"."""

PROGRAM_MAX_BYTES = 1024**3
"""How much content of a zip for cQube 5 is unpacked to compare its checksum. There is a limit
because a small zip may unpack to any size."""

INSPECTED_MAX = 1000
"""How many inspections are remembered of files that wait for their admission."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExamineRules:
    """The settings of the intake; replaced as a whole.

    `findings`: off, warn (sent in any case) or enforce, as `spool.catalogue`. `sweep_every_s`: the
    time between two sweeps of the whole folder, in seconds.
    """

    selection: Selection
    inspector: Inspector
    findings: str
    settling: SettleRule
    disposal: DisposalRule
    sweep_every_s: float


class Examiner:
    """Examines paths, in one thread. `tracker` holds files that are not settled."""

    def __init__(
        self, spool: Spool, journal: Journal, disposal: Disposal, rules: ExamineRules
    ) -> None:
        self.rules = rules
        self.tracker = Tracker(rules.settling)
        self._journal = journal
        self._disposal = disposal
        self._statuses = FileStatusReader(
            spool, rules.selection, journal.latest, catalogue=lambda: self.rules.inspector.catalogue
        )
        self.not_sent = NotSent()
        self._inspected: dict[bytes, tuple[Fingerprint, tuple[Finding, ...]]] = {}

    def apply_settings(self, rules: ExamineRules) -> None:
        """Use other rules from now on; files that are not settled stay tracked."""
        self.rules = rules
        self.tracker.apply_settings(rules.settling)
        self._inspected.clear()
        # Before the disposal: a new archive folder must already be ignored.
        self._statuses.selection = rules.selection
        self._disposal.apply_settings(rules.disposal)

    def not_in_journal(self, files: Sequence[PathStat]) -> list[PathStat]:
        """Return those of up to `ASKED` files whose version is not in the journal.

        One query for all: most files of a sweep are known.
        """
        if not files:
            return []
        heartbeat.record()
        seen = {path: Fingerprint.of(stat) for path, stat in files}
        try:
            known = unchanged_paths(self._journal.read, seen)
        except JournalError:
            raise
        except Exception:  # noqa: BLE001  the path that is the cause must fail alone
            return list(files)
        for path in known:
            self.tracker.forget(path)
        return [file for file in files if file[0] not in known]

    def examine(
        self, path: bytes, now: float, stat: os.stat_result | None = None
    ) -> Admission | None:
        """Return the admission of a file that is complete or never acceptable, or None.

        `now` is in monotonic seconds; `stat` saves one where the caller has it. The tracker
        schedules the next check of a file that is not settled.
        """
        heartbeat.record()

        def unsettled(seen: Fingerprint, lease: LeaseState) -> str | None:
            if not self.tracker.observe(path, seen, lease, now):
                return Text("not quiet yet")
            young_s = seen.young_s(time.time())
            if young_s and seen.ctime_ns % 10**9 == 0:
                # A later version of this second would look the same.
                self.tracker.postpone(path, seen, now + young_s)
                return Text("its time stamp is too young")
            return None

        status = self._statuses.look_up(path, stat=stat, unsettled=unsettled, inspect=self._inspect)
        if status.cause is not None:
            raise status.cause
        if status.fingerprint is not None and status.lease is not None:
            return self._admission(status, status.fingerprint, status.lease, now)
        self.tracker.forget(path)
        if status.known is not None or status.error is None or status.state is FolderState.ABSENT:
            self.not_sent.remove(path)
        else:
            self.report(path, Code(status.error), status.reason, hint=status.hint)
        if status.known is not None and status.known.disposal == "due":
            self._disposal.resume_soon()
        return None

    def report(
        self,
        path: bytes,
        code: Code,
        reason: str,
        seen: Fingerprint | None = None,
        *,
        hint: str = "",
    ) -> None:
        """Note and log why a path is not sent; log again only if the code, or `seen`, changes."""
        if self.not_sent.add(path, code, seen):
            hint = hint or code.remedy
            log.warning("file.incomplete", path=display(path), error=code, reason=reason, hint=hint)

    def failed(self, path: bytes, error: Exception, now: float | None = None) -> None:
        """Note and log a path that fails for an unexpected reason, and look again later.

        Without `now` only the next sweep looks again: a folder fails, not a file.
        """
        if now is not None:
            self.tracker.failed(path, now)
        if not self.not_sent.add(path, Code.PATH_FAILED):
            return
        # What is not an error of the system or of a file is a bug: the log gets its traceback.
        expected = isinstance(error, OSError | FileError)
        log.warning(
            "path.failed",
            path=display(path),
            error=Code.PATH_FAILED,
            reason=failure_reason(error),
            hint=Code.PATH_FAILED.remedy,
            exc_info=None if expected else error,
        )

    def admitted(self, path: bytes) -> None:
        """Note that a path is in the journal now."""
        self.tracker.forget(path)
        self.not_sent.remove(path)
        self._inspected.pop(path, None)

    def _admission(
        self, status: FileStatus, seen: Fingerprint, lease: LeaseState, now: float
    ) -> Admission | None:
        path, state = status.path, status.state
        if state is FolderState.SETTLING:
            return None
        if state is not FolderState.NEW and not self.tracker.observe(path, seen, lease, now):
            if self.tracker.stalled(path, now):
                reason = Text("open for writing, and unchanged for long")
                self.report(path, Code.STILL_WRITTEN, reason)
            return None
        rejection = self._check(seen, status.findings)
        if state is FolderState.INCOMPLETE:
            if not self.tracker.incomplete(path, seen, lease, now):
                self.report(path, Code.INCOMPLETE, status.reason, seen)
                return None
            rejection = _rejection(Code.INCOMPLETE, status.reason)
        inspector = self.rules.inspector
        rank, flow = inspector.catalogue.queue_position(path, inspector.settings.version)
        return Admission(
            path,
            seen,
            flow,
            rank,
            rejection,
            status.findings,
            dispose=rejection is not None and not self._disposal.keeps(State.REJECTED),
        )

    def _inspect(
        self, path: bytes, seen: Fingerprint, lease: LeaseState, read: ReadAt
    ) -> tuple[Finding, ...]:
        # A file may wait a while: an older version is being sent, or the disk is full.
        before = self._inspected.get(path)
        if before is not None and before[0].same_version(seen):
            return before[1]

        def read_alive(offset: int, count: int) -> bytes:
            # With a large budget an inspection takes long.
            heartbeat.record()
            return read(offset, count)

        inspector, settings = self.rules.inspector, self.rules.inspector.settings
        findings: tuple[Finding, ...] = ()
        if settings.programs:
            # A damaged zip stops the service of cQube 5.
            check_content(read_alive, seen.size_bytes, PROGRAM_MAX_BYTES)
        elif lease is LeaseState.NONE:
            check_content(read_alive, seen.size_bytes, settings.budget_bytes)
        if settings.programs or self.rules.findings != "off":
            findings = inspector.report(path, read_alive, seen.size_bytes).findings
        if self.rules.findings == "off":
            findings = tuple(blocking(findings))
        if len(self._inspected) >= INSPECTED_MAX:
            self._inspected.clear()
        self._inspected[path] = seen, findings
        return findings

    def _check(self, seen: Fingerprint, findings: tuple[Finding, ...]) -> DeliveryError | None:
        if seen.size_bytes > MAX_BYTES:
            return _rejection(Code.TOO_LARGE, f"it has {seen.size_bytes} bytes")
        if blocked := blocking(findings):
            first, *others = blocked
            problem = f"expected {first.expected}, found {first.found}"
            return _rejection(first.code, "; ".join([problem, *map(str, others)]))
        if self.rules.findings == "enforce" and fatal(findings):
            return _rejection(Code.CATALOGUE, "; ".join(map(str, findings)))
        return None


def _rejection(code: Code, reason: str) -> DeliveryError:
    return DeliveryError(Decision.REJECT, code, reason)
