"""What lies in the folder and is not delivered, or never will be, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from emitterd.codes import Code
from emitterd.intake.file_status import FileStatus, FileStatuses, FolderState
from emitterd.meanings import MEANING
from emitterd.model import State, display


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
            reason = MEANING[Code(standing.error)].title if standing.error else ""
        one = Undelivered(display(path), standing.error, reason or standing.state)
        yield one, standing
    yield from told
