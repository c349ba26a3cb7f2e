"""A finding of the inspection: a code, what was expected, and what was found.

The code determines the severity and the consequence, so that a finding reads the same in the log,
the journal, `inspect` and `explain`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.text import printable


class Severity(StrEnum):
    """How much is lost if the file is sent as it is."""

    ERROR = "error"
    """The whole file: with `spool.catalogue: enforce` it is rejected."""
    WARNING = "warning"
    """Some of its rows."""
    NOTE = "note"
    """Nothing, as far as is known."""


_QUOTED_MAX = 60

_UNREAD = "the object stays in the bucket, unread, and nobody is told"
_DROPPED = "the server deletes the object, drops the whole file, and tells nobody"
_ROWS = "the server drops these rows and loads the others"

CONSEQUENCE: dict[Code, tuple[Severity, str]] = {
    Code.WRONG_DEPTH: (Severity.ERROR, _UNREAD),
    Code.UNKNOWN_FOLDER: (Severity.ERROR, _UNREAD),
    Code.UNKNOWN_NAME: (Severity.ERROR, _DROPPED),
    Code.WRONG_ENDING: (Severity.ERROR, _DROPPED),
    Code.OTHER_VERSION: (Severity.ERROR, _UNREAD),
    Code.SEVERAL_FILES: (
        Severity.ERROR,
        "the server reads every file of the zip as this dataset's data",
    ),
    Code.NOT_UTF8: (Severity.ERROR, "the server reads broken characters, or drops it all"),
    Code.BYTE_ORDER_MARK: (Severity.NOTE, "the server may not know the first column"),
    **dict.fromkeys(
        (
            *(Code.NO_FILE_IN_ZIP, Code.ENCRYPTED, Code.COMPRESSION, Code.DAMAGED),
            *(Code.WRONG_DELIMITER, Code.WRONG_HEADER, Code.NO_RECORDS, Code.LONG_LINE),
        ),
        (Severity.ERROR, _DROPPED),
    ),
    **dict.fromkeys(
        (Code.UNEVEN_ROWS, Code.BAD_DATE, Code.EMPTY_KEY, Code.BAD_ACADEMIC_YEAR),
        (Severity.WARNING, _ROWS),
    ),
}
"""How much is lost, and what the server does. Source: cQube's NiFi templates."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that the server would have with a file; always printable."""

    code: Code
    expected: str
    found: str

    @property
    def level(self) -> Severity:
        """How much data is lost."""
        return CONSEQUENCE[self.code][0]

    @property
    def consequence(self) -> str:
        """What the server would do."""
        return CONSEQUENCE[self.code][1]

    def __str__(self) -> str:
        return f"{self.code} {self.code.title}: expected {self.expected}, found {self.found}"

    def record(self) -> dict[str, str]:
        """Return the finding as the journal and `--json` have it."""
        return {
            "code": self.code.value,
            "level": self.level.value,
            "expected": self.expected,
            "found": self.found,
            "consequence": self.consequence,
            "remedy": self.code.remedy,
        }


def finding(code: Code, expected: str, found: str) -> Finding:
    """Return a printable finding: content of a file cannot forge a line of the log."""
    return Finding(code, printable(expected), printable(found))


def quoted(text: str) -> str:
    """Return text of a file in quotes, shortened if it is long."""
    return f"'{text}'" if len(text) <= _QUOTED_MAX else f"'{text[:_QUOTED_MAX]}…'"


def fatal(findings: Iterable[Finding]) -> bool:
    """Tell whether the server would lose the whole file."""
    return any(finding.level is Severity.ERROR for finding in findings)
