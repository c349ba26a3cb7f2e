"""The exceptions of emitterd.

Every error that a user sees has a stable `Code`: the same in the log, the journal, `status`, and
`docs/errors.md`. The tree:

    EmitterError
    ├── ConfigError            the configuration, all problems at once (exit 78)
    ├── JournalError           the journal cannot be used (exit 78)
    │   ├── JournalLocked      another instance holds it (exit 75)
    │   ├── JournalDamaged     an operator must rebuild it
    │   ├── JournalLost        it is gone, empty, or older than its log
    │   ├── JournalMoved       its file was moved while open (exit 1)
    │   ├── JournalIOError     the system failed; a restart may help (exit 1)
    │   ├── JournalFull        its disk is full (exit 1)
    │   │   ├── JournalBusy    another program locks its file (exit 1)
    │   │   └── JournalUnreachable  its database does not answer (exit 1)
    │   ├── HostFenced         another host has taken over the claim (exit 1)
    │   ├── KeyTaken           another host was given the object key (exit 1)
    │   └── IllegalTransition  a bug: the state does not allow the verb (exit 70)
    ├── FileError              the local file is not what was admitted
    └── DeliveryError          an attempt failed; says what to do with the entry

Messages are lower-case, without a full stop; `remedy` is what to do about it.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.text import masked, printable

RETRY_AFTER_CAP_S = 3600.0
"""The longest wait that a server may ask for: a wrong header must not block a file."""

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors that say nothing about a path or a server: this process or host lacks something."""


class EmitterError(Exception):
    """Anything that emitterd itself reports."""

    def __init__(self, message: str, *, code: Code, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self._remedy = remedy

    @property
    def remedy(self) -> str:
        """What to do about it: for this error, or else for its code."""
        return self._remedy or self.code.remedy


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in the configuration.

    `key` is the key path (`spool.settle`). `line` is the line in the file, or None for an
    environment variable or a missing key.
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
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        super().__init__(f"{source}: {count} {noun}", code=Code.CONFIG)


class JournalError(EmitterError):
    """The journal cannot be used."""

    default_code = Code.JOURNAL
    default_remedy = ""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        remedy = remedy or self.default_remedy
        super().__init__(message, code=self.default_code, remedy=remedy)


class JournalLocked(JournalError):
    """Another instance holds the journal."""

    default_code = Code.JOURNAL_LOCKED


class JournalDamaged(JournalError):
    """The journal's file cannot be read as a database, in whole or in part."""

    default_remedy = (
        "stop emitterd and run `emitterd rebuild`: it keeps the damaged file and"
        " saves what can be read of it"
    )


class JournalLost(JournalError):
    """The journal's file is gone, empty, or older than its log."""


class JournalMoved(JournalError):
    """The journal's file was renamed, removed or replaced while this process had it open."""

    default_remedy = "put the file back; emitterd records nothing more until it starts again"


class JournalIOError(JournalError):
    """The system failed to read or write the journal. A restart may help."""

    default_remedy = "systemd starts emitterd again; if it fails again, check the disk"


class JournalFull(JournalError):
    """The journal's disk is full; the transaction was rolled back."""

    default_code = Code.JOURNAL_FULL


class JournalBusy(JournalFull):
    """Another program locks the journal's file. To wait is the same as for a full disk."""

    default_code = Code.JOURNAL_BUSY


class JournalUnreachable(JournalFull):
    """The database does not answer. To wait is the same as for a full disk."""

    default_code = Code.JOURNAL_UNREACHABLE


class HostFenced(JournalError):
    """Another host has taken over the entry: what this one knows of it is out of date."""

    default_code = Code.HOST_FENCED


class KeyTaken(JournalError):
    """Another host was given the same object key within one second: ask for another one."""


class IllegalTransition(JournalError):
    """The entry is in a state that does not allow the verb."""


class FileError(EmitterError):
    """The local file is gone, changed, or cannot be read (`code` says which)."""


class Decision(StrEnum):
    """What an attempt's failure means for the entry and for its destination."""

    DEFER = "defer"
    """This attempt failed and may pass later: back off, keep the grant."""
    PAUSE = "pause"
    """The destination failed.

    Pause all uploads; the attempt is not counted for the entry.
    """
    REFUSE = "refuse"
    """The server refuses this file, but a later attempt may pass: back off.

    It has answered, so all other files go on.
    """
    WAIT = "wait"
    """Another attempt of this host must end first: try again soon; the attempt is not counted.

    Says nothing about the server.
    """
    RENEW_GRANT = "renew-grant"
    """The grant is no longer valid: request a new one at once."""
    RENEW_TOKEN = "renew-token"  # noqa: S105  the name of a decision
    """The token is no longer valid: log in again, once, and continue."""
    REJECT = "reject"
    """The server can never accept this file as it is."""
    WITHDRAW = "withdraw"
    """The file is gone or changed; its next version is another entry."""
    INTERRUPT = "interrupt"
    """The daemon is stopping, or another host may have the file now.

    Back to the queue; the attempt is not counted.
    """


class Stage(StrEnum):
    """Where an attempt is on its way to the bucket.

    With cQube 5, `GRANT` is the question for the status of the last upload, and `BUCKET` the upload
    to the service.
    """

    LOGIN = "login"
    GRANT = "grant"
    BUCKET = "bucket"


class DeliveryError(EmitterError):
    """An attempt failed; `decision` says what to do with the entry.

    `stage`: the stage that failed; the default follows from the code. `retry_after_s`: the wait
    that the server asked for, in seconds. `ambiguous`: emitterd sent the whole body but received no
    answer, so the object may exist.
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
        # The reason may quote the server.
        reason = printable(masked(reason))
        super().__init__(reason, code=code)
        self.decision = decision
        self.stage = stage or (Stage.GRANT if code.startswith("E4") else Stage.BUCKET)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.ambiguous = ambiguous

    def copy(self) -> "DeliveryError":
        """Return an equal error, to be raised in another thread."""
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
    """A stage that fails: since when, with which code of docs/errors.md, and why."""

    stage: str
    code: str
    reason: str
    since: float
