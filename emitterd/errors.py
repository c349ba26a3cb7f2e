"""What can go wrong, by name.

Every failure that reaches a person carries a stable `Code`: the same in the log,
the journal, `status`, and `docs/errors.md`. The tree:

    EmitterError
    ├── ConfigError            the configuration, all problems at once (exit 78)
    ├── JournalError           the journal cannot be used (exit 78)
    │   ├── JournalLocked      another instance holds it (exit 75)
    │   ├── JournalDamaged     it is to be rebuilt, by an operator
    │   ├── JournalFull        its disk is full; passes by itself
    │   └── IllegalTransition  a bug: a verb met a state it does not apply to (exit 70)
    ├── SourceError            the local file is not what was admitted
    └── Trouble                an attempt failed; says what the journal should do

Messages are lower-case, without a full stop; `hint` is what to do about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.text import printable

RETRY_AFTER_CAP_S = 3600.0
"""A server may ask for no more than this; a mistaken header must not park a file."""


class EmitterError(Exception):
    """Anything that emitterd itself reports."""

    def __init__(self, message: str, *, code: Code, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint or code.remedy


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    `key` is the key path (`spool.settle`), `line` the line in the file, or None
    where no line is to blame (an environment variable, a missing key).
    """

    key: str
    line: int | None
    message: str
    remedy: str


class ValueProblem(ValueError):
    """A value cannot be accepted; `remedy` says what to do. Quotes no secret."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def at(self, key: str, line: int | None = None) -> Problem:
        """Return it as a problem of this key and line."""
        return Problem(key, line, str(self), self.remedy)


class ConfigError(EmitterError):
    """The configuration is wrong; `problems` holds all of them, in file order.

    Problems without a line come last.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda p: (p.line is None, p.line or 0))
        count = (
            "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        )
        super().__init__(f"{source}: {count}", code=Code.CONFIG)


class JournalError(EmitterError):
    """The journal cannot be used."""

    def __init__(
        self, message: str, *, code: Code = Code.JOURNAL, hint: str = ""
    ) -> None:
        super().__init__(message, code=code, hint=hint)


class JournalLocked(JournalError):
    """Another instance holds the journal."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Code.JOURNAL_LOCKED)


class JournalDamaged(JournalError):
    """The journal's file is no database any more, or parts of it are not."""

    def __init__(self, message: str) -> None:
        hint = (
            "stop emitterd and run `emitterd rebuild`: it keeps the damaged file and"
            " saves what can be read of it"
        )
        super().__init__(message, hint=hint)


class JournalFull(JournalError):
    """The journal's disk is full; the transaction was rolled back."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Code.JOURNAL_FULL)


class IllegalTransition(JournalError):
    """A verb met an entry in a state that it does not apply to."""


class FileError(EmitterError):
    """The local file is gone, changed, or cannot be read (`code` says which)."""


class Decision(StrEnum):
    """What an attempt's failure means for the entry and for its destination."""

    DEFER = "defer"
    """This attempt failed and may pass later: back off, keep the grant."""
    PAUSE = "pause"
    """The destination failed: pause all uploads, charge no attempt to the entry."""
    RENEW_GRANT = "renew-grant"
    """The grant is no longer valid: request a new one at once."""
    RENEW_TOKEN = "renew-token"  # noqa: S105  the name of a decision
    """The token is no longer valid: log in again, once, and continue."""
    REJECT = "reject"
    """The server can never accept this file as it is."""
    WITHDRAW = "withdraw"
    """The file is gone or changed; its next version is another entry."""
    INTERRUPT = "interrupt"
    """The daemon is stopping: back to the queue; no attempt is charged."""


class Stage(StrEnum):
    """Where an attempt is on its way to the bucket."""

    LOGIN = "login"
    GRANT = "grant"
    BUCKET = "bucket"


class DeliveryError(EmitterError):
    """An attempt failed; `decision` is data for the journal, never a sleep.

    `stage`: where; a code of the emission API or the bucket says so itself.
    `retry_after_s`: the wait the server asked for, in seconds. `ambiguous`: the
    whole body was handed over but no answer came, so the object may be there.
    """

    def __init__(
        self,
        decision: Decision,
        code: Code,
        reason: str,
        *,
        stage: Stage | None = None,
        retry_after_s: float | None = None,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(reason, code=code)
        self.decision = decision
        self.stage = stage or (Stage.GRANT if code.startswith("E4") else Stage.BUCKET)
        self.reason = printable(reason)
        self.retry_after_s = retry_after_s
        self.ambiguous = ambiguous

    def copy(self) -> "DeliveryError":
        """Return the same trouble, to be raised in another thread."""
        return DeliveryError(
            self.decision,
            self.code,
            self.reason,
            stage=self.stage,
            retry_after_s=self.retry_after_s,
            ambiguous=self.ambiguous,
        )


@dataclass(frozen=True, slots=True)
class Outage:
    """Trouble of a stage of the way: a code as in docs/errors.md, and its reason."""

    stage: str
    code: str
    reason: str
    since: float
