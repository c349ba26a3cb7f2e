"""Where a path stands: what the folder and the journal say of it together.

For who looks on (`once` at its end, `explain`, `list --skipped`): the intake decides
by the same functions, and keeps candidates in its own memory.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from emitterd.codes import Code
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.errors import FileError
from emitterd.journal.rows import Known
from emitterd.model import Fingerprint, State
from emitterd.spool.folder import LeaseState, Spool, lease_state, read_at
from emitterd.spool.selection import Selection
from emitterd.text import display

Latest = Callable[[bytes], Known | None]
"""Returns the latest version of a path, as one reader of the journal has it."""


class FolderState(StrEnum):
    """Where a path stands that the journal has not, or not as it is now."""

    ABSENT = "absent"
    IGNORED = "ignored"
    UNSUITABLE = "unsuitable"
    UNREADABLE = "unreadable"
    WRITTEN = "written"
    SETTLING = "settling"
    INCOMPLETE = "incomplete"
    NEW = "new"


_BY_CODE = {
    Code.GONE: FolderState.ABSENT,
    Code.NOT_REGULAR: FolderState.UNSUITABLE,
    Code.UNREADABLE: FolderState.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Where a path stands, and why; `error` is a code where something is wrong."""

    state: State | FolderState
    error: str | None
    reason: str


def _held(known: Known) -> FileStatus:
    if known.error == Code.RECEIPT_LOST:
        return FileStatus(State.HELD, known.error, known.reason or "")
    # Its last failure is not what keeps it back.
    return FileStatus(State.HELD, None, "held by the operator")


class FileStatuses:
    """Looks paths up; `latest` asks the journal."""

    def __init__(
        self,
        spool: Spool,
        selection: Selection,
        latest: Latest,
        settle_s: float,
    ) -> None:
        self.spool = spool
        self.selection = selection
        self._latest = latest
        self._settle_s = settle_s

    def of(self, path: bytes) -> FileStatus:
        """Return where the path stands now; raises nothing but the journal's errors."""
        try:
            ignored = self._ignored(path)
            if ignored is not None:
                return ignored
            known = self._latest(path)
            seen = Fingerprint.of(self.spool.stat(path))
            if known is not None and known.matches(seen):
                if known.state is State.HELD:
                    return _held(known)
                return FileStatus(known.state, known.error, known.reason or "")
            return self._unsettled(path)
        except FileError as error:
            outside = _BY_CODE.get(Code(error.code), FolderState.UNREADABLE)
            return FileStatus(outside, error.code, str(error))
        except OSError as error:
            reason = error.strerror or str(error)
            return FileStatus(FolderState.UNREADABLE, Code.UNREADABLE, reason)

    def _ignored(self, path: bytes) -> FileStatus | None:
        """Return where a path stands that is no candidate by its name."""
        ignored = self.selection.ignored(path)
        if ignored is None:
            return None
        place = self.spool.root / os.fsdecode(path)
        if place.is_dir() and not place.is_symlink():
            return FileStatus(
                FolderState.IGNORED, None, "a folder: ask for a file in it"
            )
        overlooked = self.selection.wrong_ending(path)
        code = Code.WRONG_ENDING if overlooked else None
        return FileStatus(FolderState.IGNORED, code, overlooked or ignored)

    def _unsettled(self, path: bytes) -> FileStatus:
        """Look into a file that the journal has not as it is now."""
        with self.spool.open(path) as file:
            held = lease_state(file)
            seen = Fingerprint.of(os.fstat(file.fileno()))
            if held is LeaseState.OPEN:
                code = Code.STILL_WRITTEN
                return FileStatus(FolderState.WRITTEN, code, code.title)
            flaw = zip_flaw(read_at(file, seen.size_bytes), seen.size_bytes)
        if flaw is not None:
            return FileStatus(FolderState.INCOMPLETE, Code.INCOMPLETE, flaw)
        quiet_s = time.time() - max(seen.mtime_ns, seen.ctime_ns) / 1e9
        if held is LeaseState.NONE and 0 <= quiet_s < self._settle_s:
            return FileStatus(
                FolderState.SETTLING,
                None,
                f"it changed {quiet_s:.1f} s ago, and must stay the same for"
                f" {self._settle_s:g} s: no lease proves that it is closed",
            )
        return FileStatus(FolderState.NEW, None, "complete, and not looked at yet")


# What lies in the folder and is not delivered, or never will be, and why.


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A file that did not reach the bucket."""

    path: str
    error: str | None
    reason: str

    def record(self) -> dict[str, str]:
        """Return it as `list --skipped --json` prints it."""
        record = {"path": self.path, "error": self.error, "reason": self.reason}
        return {name: value for name, value in record.items() if value is not None}


def undelivered(
    standings: FileStatuses, rejected: Iterable[tuple[bytes, str, str]]
) -> list[Undelivered]:
    """Return every candidate in the folder that is not delivered, in path order.

    `rejected` (path, error, reason) are told too: they may lie elsewhere by now.
    """
    left = {
        one.path: one
        for one, standing in _survey(standings)
        if standing.state is not State.DELIVERED
        and (standing.state is not FolderState.IGNORED or standing.error is not None)
    }
    for path, error, reason in rejected:
        left.setdefault(display(path), Undelivered(display(path), error, reason))
    return [left[path] for path in sorted(left)]


NEVER = frozenset(
    {
        State.REJECTED,
        FolderState.IGNORED,
        FolderState.UNSUITABLE,
        FolderState.UNREADABLE,
        FolderState.INCOMPLETE,
    }
)
"""Where a path stands that will not be sent as it is."""


def skipped(standings: FileStatuses) -> Iterator[Undelivered]:
    """Yield everything under the folder that will never be sent as it is."""
    for one, standing in _survey(standings):
        if standing.state in NEVER:
            yield one


def _survey(standings: FileStatuses) -> Iterator[tuple[Undelivered, FileStatus]]:
    """Yield where everything in the folder stands, with what cannot be looked at."""
    told: list[tuple[Undelivered, FileStatus]] = []

    def note(path: bytes, standing: FileStatus) -> None:
        one = Undelivered(display(path or b"."), standing.error, standing.reason)
        told.append((one, standing))

    def unreadable(path: bytes, error: OSError) -> None:
        reason = error.strerror or str(error)
        note(path, FileStatus(FolderState.UNREADABLE, Code.UNREADABLE, reason))

    def skip(folder: bytes) -> bool:
        hidden = standings.selection.hidden(folder)
        if hidden:
            note(
                folder + b"/", FileStatus(FolderState.IGNORED, None, "a hidden folder")
            )
        return hidden

    for path, _ in standings.spool.walk(skip, unreadable):
        yield from told
        told.clear()
        standing = standings.of(path)
        if standing.state is FolderState.ABSENT:
            continue
        reason = standing.reason
        if not reason:
            reason = Code(standing.error).title if standing.error else ""
        one = Undelivered(display(path), standing.error, reason or standing.state)
        yield one, standing
    yield from told
