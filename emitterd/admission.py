"""What is handed to the journal at its door, and what it answers."""

from dataclasses import dataclass
from enum import StrEnum

from emitterd.entry import State
from emitterd.errors import Trouble
from emitterd.finding import Finding
from emitterd.fingerprint import Fingerprint


class Admittance(StrEnum):
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
    trouble: Trouble | None = None
    findings: tuple[Finding, ...] = ()
    dispose: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to one admission; `replaced` if an older version was withdrawn."""

    admittance: Admittance
    replaced: bool = False


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
