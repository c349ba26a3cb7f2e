"""Why a file is, or is not, delivered: folder and journal put into sentences."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.intake.file_status import FileStatus, FileStatuses, FolderState
from emitterd.journal.reader import JournalReader
from emitterd.model import WAITING, Confirmation, State
from emitterd.monitoring.status import status_record
from emitterd.spool.folder import Spool
from emitterd.text import display, iso, undisplay

Record = dict[str, Any]

_TO_COME = WAITING | {FolderState.NEW, FolderState.SETTLING}
"""What goes on by itself if a daemon runs and the destination is up."""


class OutsideSpool(ValueError):
    """A path leads out of the watched folder."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one path stands, and all that is known of it.

    `versions` and `actions` have the latest first; `file` is what lies in the folder.
    """

    path: str
    state: State | FolderState
    reason: str
    error: str | None
    context: list[str]
    file: Record | None
    versions: list[Record]
    actions: list[Record] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether folder or journal has ever seen the path."""
        return bool(self.versions) or self.state is not FolderState.ABSENT

    @property
    def current(self) -> Record:
        """The version that the state is that of; empty where that is of none."""
        latest = self.versions[0] if self.versions else {}
        settled = self.state in set(State) and "forgotten_at" not in latest
        return latest if settled else {}

    @property
    def before(self) -> list[Record]:
        """The versions that are history, the latest first."""
        return self.versions[1:] if self.current else self.versions

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return Code(self.error).remedy if self.error else None

    def record(self) -> Record:
        """Return it as `explain --json` prints it."""
        record = {
            "path": self.path,
            "state": self.state.value,
            "reason": self.reason,
            "error": self.error,
            "hint": self.hint,
            "context": self.context,
            "file": self.file,
            "versions": self.versions,
            "actions": self.actions,
        }
        return {name: value for name, value in record.items() if value is not None}


def locate(spool: Spool, records: JournalReader, said: str) -> bytes:
    """Return the path that a person means: as it is, or as the log shows it.

    Absolute, or relative to the watched folder. Raises `OutsideSpool`, also for the
    folder itself and for no path at all.
    """
    if not said:
        raise OutsideSpool("no path is given")
    candidates = [_relative(spool.root, one) for one in undisplay(said)]
    for path in candidates:
        if _there(spool, path) or records.versions(path):
            return path
    return candidates[0]


def explain(
    file_statuses: FileStatuses, records: JournalReader, path: bytes
) -> Explanation:
    """Put together what folder and journal say of a path."""
    with records.snapshot():
        standing = file_statuses.look_up(path)
        versions, actions = records.versions(path), records.actions(path)
        # What is forgotten is history, and says nothing of how things stand.
        latest = next((one for one in versions if "forgotten_at" not in one), {})
        lost = file_statuses.spool.lost()
        gone = lost or not _there(file_statuses.spool, path)
        if gone:
            # Of a file that is not there the journal has the last word.
            state = State(latest["state"]) if latest else FolderState.ABSENT
            reason = latest.get("reason", "")
            standing = FileStatus(path, state, latest.get("error"), reason)
        said = _SAY[standing.state](standing, latest, actions)
        if gone and latest and not lost:
            said += _whereabouts(latest)
        context = _context(standing, records, path)
    if lost:
        root = display(os.fsencode(file_statuses.spool.root))
        context.insert(0, f"the watched folder {root} is not there: mount or create it")
    return Explanation(
        display(path),
        standing.state,
        said,
        standing.error,
        context,
        None if gone else _file(file_statuses.spool, path),
        versions,
        actions,
    )


_SHOWN: dict[str, str] = {
    Confirmation.FOUND: "; its answer was lost, but the bucket showed the object",
    Confirmation.ABSENT: "; looked up there was none: never stored, or taken by the"
    " server already",
    Confirmation.OTHER: "; looked up it was of other bytes",
    Confirmation.UNKNOWN: "; it could not be looked up",
}
"""What the bucket showed under the key of a lost answer."""


def _delivered(_: FileStatus, latest: Record, __: list[Record]) -> str:
    said = f"delivered at {latest['delivered_at']} under the key {latest['key']}"
    if latest["ambiguous"] and latest.get("earlier_keys"):
        keys = ", ".join(latest["earlier_keys"])
        said += f"; an attempt before it may have left an object under {keys}"
    return said + _SHOWN.get(latest.get("confirmation", ""), "")


def _deferred(standing: FileStatus, latest: Record, _: list[Record]) -> str:
    # Trouble of the destination costs a file no attempt.
    tried = f"attempt {latest['attempts']}" if latest["attempts"] else "an attempt"
    return (
        f"{tried} failed: {standing.error} {standing.reason};"
        f" the next is due at {latest['due_at']}"
    )


def _rejected(standing: FileStatus, latest: Record, _: list[Record]) -> str:
    # The findings are told one by one.
    if latest.get("findings") and standing.error == Code.CATALOGUE:
        return "rejected, because the server would lose or misread it"
    return f"rejected: {standing.error} {standing.reason}"


def _held(standing: FileStatus, _: Record, actions: list[Record]) -> str:
    if standing.error is not None:
        return f"held: {standing.error} {standing.reason}"
    by = next((one for one in actions if one["act"] == "hold"), None)
    who = f" by {by['user']} since {by['at']}" if by else ""
    return f"held{who}; `emitterd release` lets it go"


def _plainly(words: str) -> Callable[[FileStatus, Record, list[Record]], str]:
    """Return a sentence of these words, with the reason where there is one."""

    def say(standing: FileStatus, _: Record, __: list[Record]) -> str:
        return f"{words}: {standing.reason}" if standing.reason else words

    return say


_SAY: dict[State | FolderState, Callable[[FileStatus, Record, list[Record]], str]] = {
    State.QUEUED: lambda *_: "complete, and waiting for its turn",
    State.DELIVERING: lambda *_: "being uploaded",
    State.DEFERRED: _deferred,
    State.DELIVERED: _delivered,
    State.REJECTED: _rejected,
    State.WITHDRAWN: _plainly("it went or changed before it was sent"),
    State.HELD: _held,
    FolderState.ABSENT: lambda *_: (
        "there is no such file, and the journal knows of none"
    ),
    FolderState.IGNORED: _plainly("never sent"),
    FolderState.UNSUITABLE: _plainly("never sent"),
    FolderState.UNREADABLE: _plainly("it cannot be looked at"),
    FolderState.WRITTEN: _plainly("not sent yet"),
    FolderState.SETTLING: _plainly("not sent yet"),
    FolderState.INCOMPLETE: _plainly("not sent"),
    FolderState.NEW: _plainly("new"),
}


def _whereabouts(latest: Record) -> str:
    if "moved_to" in latest:
        return f"; the file was moved to {latest['moved_to']}"
    return "; the file is no longer in the folder"


def _context(standing: FileStatus, records: JournalReader, path: bytes) -> list[str]:
    """Return what holds up a file that would go on by itself."""
    if standing.state not in _TO_COME:
        return []
    lines = []
    if standing.state is State.QUEUED:
        lines.append(f"{records.ahead(path)} are before it in the queue")
    status = status_record(records)
    destination = status["destination"]
    if destination["state"] == "down":
        lines.append(
            f"the destination is down since {destination['since']}:"
            f" {destination['error']} {destination['reason']}; everything waits behind"
            " one probe"
        )
    if not status["running"]:
        lines.append("no daemon is running: `systemctl start emitterd`")
    return lines


def _file(spool: Spool, path: bytes) -> Record | None:
    try:
        stat = spool.stat(path)
    except FileError:
        return None
    return {"bytes": stat.st_size, "modified_at": iso(stat.st_mtime)}


def _there(spool: Spool, path: bytes) -> bool:
    """Tell whether anything lies there, be it a link or not to be looked at."""
    try:
        spool.stat(path)
    except FileError as error:
        return error.code is not Code.GONE
    return True


def _relative(root: Path, path: bytes) -> bytes:
    place = os.path.normpath(root / os.fsdecode(path))
    folder, name = os.path.split(place)
    # As written, or through links to the folder.
    for base, here in (
        (root, Path(place)),
        (Path(os.path.realpath(root)), Path(os.path.realpath(folder), name)),
    ):
        if here.is_relative_to(base) and here != base:
            return os.fsencode(here.relative_to(base))
    raise OutsideSpool(
        f"{display(path)} lies outside the watched folder {display(os.fsencode(root))}"
    )
