"""What is handed to the journal at its door, and what it knows of a path."""

import json
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.datasets.findings import Finding
from emitterd.errors import DeliveryError
from emitterd.fingerprint import Fingerprint
from emitterd.meanings import MEANING
from emitterd.model import State, display, iso


class AdmissionResult(StrEnum):
    """What became of a file that was handed to `admit`."""

    ADMITTED = "admitted"
    KNOWN = "known"
    BUSY = "busy"
    """An older version is being delivered: hand it in again afterwards."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A complete file to be entered; with `trouble` it is rejected at the door.

    `dispose`: a rejected file is to be moved away.
    """

    path: bytes
    fingerprint: Fingerprint
    flow: str
    rank: int
    trouble: DeliveryError | None = None
    findings: tuple[Finding, ...] = ()
    dispose: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to one admission; `replaced` if an older version was withdrawn.

    `held`: it is kept back, as the operator, or a rebuild of the journal, has it.
    """

    admittance: AdmissionResult
    replaced: bool = False
    replaced_bytes: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """The latest version of a path that the journal has."""

    id: int
    state: State
    fingerprint: Fingerprint
    disposal: str | None
    error: str | None
    reason: str | None

    def settles(self, seen: Fingerprint) -> bool:
        """Tell whether the file as seen needs no new entry."""
        return self.state is not State.WITHDRAWN and self.fingerprint == seen


@dataclass(frozen=True, slots=True)
class Ended:
    """A version that ended, as its disposal needs it; `at` is when."""

    state: State
    at: float
    size_bytes: int
    error: str | None
    reason: str | None
    findings: str | None

    def explained(self, path: bytes) -> dict[str, object]:
        """Return why it was rejected, for who finds the file put aside."""
        return {
            "path": display(path),
            "bytes": self.size_bytes,
            "rejected_at": iso(self.at),
            "error": self.error,
            "reason": self.reason,
            "hint": MEANING[Code(self.error)].remedy if self.error else None,
            "findings": json.loads(self.findings or "[]"),
        }
