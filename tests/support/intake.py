"""The intake over a real folder and journal, stepped by the test."""

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs
from structlog.typing import EventDict

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.inspection import InspectionSettings, Inspector, Report
from emitterd.datasets.zip_integrity import ReadAt
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.intake.candidates import SettleRule
from emitterd.intake.examine import Examiner, ExamineRules
from emitterd.intake.loop import Intake, Sweep
from emitterd.journal.journal import Journal
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection

SWEEP_S, GIVE_UP_S = 30.0, 3600.0


NAME = "pat/periodic_exam_mst.zip"


PATH = NAME.encode()


class Counting(Inspector):
    """An inspector that counts its reports."""

    reports = 0

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Count, and inspect."""
        self.reports += 1
        return super().report(path, read_at, size_bytes)


class IntakeDriver:
    """An intake on a folder, driven step by step; `now` is its clock."""

    def __init__(self, root: Path, journal: Journal, findings: str = "off") -> None:
        self.root, self.journal, self.now = root, journal, 1000.0
        self.notified, self.sweeps = 0, 0
        self.inspector = Counting(load_catalogue(), InspectionSettings())
        self.spool = spool = Spool(root)
        rule = DisposalRule(delete=True)
        self.rules = ExamineRules(
            Selection(["**/*.zip", "speed"], []),
            self.inspector,
            findings,
            SettleRule(5.0, SWEEP_S, GIVE_UP_S),
            rule,
            SWEEP_S,
        )
        self.disposal = Disposal(spool, journal, rule)
        self.examiner = Examiner(spool, journal, self.disposal, self.rules)
        self.intake = Intake(
            spool, self.examiner, journal, on_admitted=self._notify, on_swept=self._swept
        )

    def _notify(self) -> None:
        self.notified += 1

    def _swept(self, _: Sweep) -> None:
        self.sweeps += 1

    def step(self, after_s: float = 0.0, *hints: bytes) -> list[EventDict]:
        """Do what is due after a time; return the log events, except of sweeps."""
        self.now += after_s
        for hint in hints:
            self.intake.hint(hint)
        with capture_logs() as events:
            self.intake.step(self.now)
            if self.disposal._wake.is_set():
                self.disposal._wake.clear()
                self.disposal.resume()
        return [event for event in events if event["event"] != "sweep.finished"]

    def sweep(self) -> dict[str, Any]:
        """Sweep the whole folder; return the event of its end."""
        self.intake.sweep_soon()
        with capture_logs() as events:
            while not any(event["event"] == "sweep.finished" for event in events):
                self.intake.step(self.now)
        return dict(events[-1])


def swept(root: Path, journal: Journal) -> IntakeDriver:
    """Return the intake of an empty folder whose first sweep is done."""
    driver = IntakeDriver(root, journal)
    assert driver.sweep()["files"] == 0
    return driver


def names(events: list[EventDict]) -> list[str]:
    """Return the names of events."""
    return [event["event"] for event in events]
