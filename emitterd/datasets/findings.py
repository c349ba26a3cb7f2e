"""A finding of the inspection: a code, what was expected, and what was found.

The loss determines the severity and the consequence, so that a finding reads the same in the log,
the journal, `inspect` and `explain`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emitterd.codes import Code
from emitterd.text import printable
from emitterd.translation.text import Text


class Severity(StrEnum):
    """How much is lost if the file is sent as it is."""

    ERROR = "error"
    """The whole file: with `spool.catalogue: enforce` it is rejected."""
    WARNING = "warning"
    """Some of its rows or values."""
    NOTE = "note"
    """Nothing, as far as is known."""


class Loss(StrEnum):
    """What the server loses of a file that has the finding."""

    SERVICE = "service"
    """The service itself stops, or processes no row: emitterd sends no such file."""
    FILE = "file"
    ROW = "row"
    VALUE = "value"
    NOTHING = "nothing"


_QUOTED_MAX = 60
_TEXT_MAX = 1000

_UNREAD = Text("the server never reads the object, and reports no error")
_SENTENCES = {
    Loss.SERVICE: Text(
        "emitterd never sends it: the service of cQube 5 would stop, or process nothing"
    ),
    Loss.FILE: Text("the server deletes the object, drops the whole file, and reports no error"),
    Loss.ROW: Text("the server drops these rows and loads the others"),
    Loss.VALUE: Text("the server loads these rows with missing or changed values"),
    Loss.NOTHING: Text("the server loads all rows"),
}
_SEVERITIES = {Loss.SERVICE: Severity.ERROR, Loss.FILE: Severity.ERROR, Loss.NOTHING: Severity.NOTE}

LOSSES: dict[Code, Loss] = {
    **dict.fromkeys((code for code in Code if "E220" <= code < "E240"), Loss.FILE),
    **dict.fromkeys((code for code in Code if "E240" <= code < "E250"), Loss.ROW),
    **dict.fromkeys((Code.BYTE_ORDER_MARK, Code.NOT_INSPECTED), Loss.NOTHING),
}
"""What a finding of each code loses by default. Source: cQube's NiFi templates."""
_CONSEQUENCES: dict[Code, Text] = {
    **dict.fromkeys((Code.WRONG_DEPTH, Code.UNKNOWN_FOLDER, Code.OTHER_VERSION), _UNREAD),
    Code.SEVERAL_FILES: Text("the server reads every file of the zip as this dataset's data"),
    Code.BYTE_ORDER_MARK: Text("the server may not know the first column"),
    Code.NOT_INSPECTED: Text("the server can read the zip, and checks the CSV"),
}


def consequence(code: Code, loses: Loss) -> Text:
    """Return what the server would do, in words."""
    usual = loses is LOSSES[code]
    return _CONSEQUENCES.get(code, _SENTENCES[loses]) if usual else _SENTENCES[loses]


def severity(loses: Loss) -> Severity:
    """Return the severity of a loss."""
    return _SEVERITIES.get(loses, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that the server would have with a file; always printable.

    `columns`: the columns that have the problem, each with its number of rows.
    """

    code: Code
    expected: str
    found: str
    loses: Loss = Loss.FILE
    columns: tuple[tuple[str, int], ...] = ()

    @property
    def level(self) -> Severity:
        """How much data is lost."""
        return severity(self.loses)

    def __str__(self) -> str:
        return f"{self.code} {self.code.title}: expected {self.expected}, found {self.found}"

    def record(self) -> dict[str, Any]:
        """Return the finding as the journal and `--json` have it."""
        record = {
            "code": self.code.value,
            "level": self.level.value,
            "loses": self.loses.value,
            "expected": self.expected,
            "found": self.found,
            "consequence": consequence(self.code, self.loses),
            "remedy": self.code.remedy,
        }
        return record | {"columns": dict(self.columns)} if self.columns else record


def finding(
    code: Code,
    expected: str,
    found: str,
    loses: Loss | None = None,
    columns: Iterable[tuple[str, int]] = (),
) -> Finding:
    """Return a printable and short finding: content of a file cannot forge or fill a log.

    `loses` is that of the code if it is not given.
    """
    named = tuple((_short(name), count) for name, count in columns)
    return Finding(code, _short(expected), _short(found), loses or LOSSES[code], named)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"


def quoted(text: str) -> str:
    """Return text of a file in quotes, shortened if it is long."""
    return f"'{text}'" if len(text) <= _QUOTED_MAX else f"'{text[:_QUOTED_MAX]}…'"


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of a file that is never sent, with any `spool.catalogue`."""
    return [finding for finding in findings if finding.loses is Loss.SERVICE]


def fatal(findings: Iterable[Finding]) -> bool:
    """Tell whether the server would lose the whole file."""
    return any(finding.level is Severity.ERROR for finding in findings)
