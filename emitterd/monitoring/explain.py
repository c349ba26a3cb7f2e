"""Why a file is, or is not, delivered: its status and its history in sentences."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState
from emitterd.journal.connection import START_DAEMON
from emitterd.journal.reader import JournalReader
from emitterd.model import WAITING, Confirmation, State
from emitterd.monitoring.status import status_record
from emitterd.spool.folder import Spool
from emitterd.text import display, iso, local_time, undisplay
from emitterd.tracking.texts import sentences

Record = dict[str, Any]

_PROCEEDS = WAITING | {FolderState.NEW, FolderState.SETTLING}
"""The file proceeds without an operator if a daemon runs and the destination is up."""

_WITHOUT_REASON: dict[State | FolderState, str] = {
    State.QUEUED: "complete, and waiting for its turn",
    State.DELIVERING: "being uploaded",
    FolderState.ABSENT: "there is no such file, and the journal knows of none",
}
_WITH_REASON: dict[State | FolderState, str] = {
    State.WITHDRAWN: "it went or changed before it was sent",
    FolderState.IGNORED: "never sent",
    FolderState.UNSUITABLE: "never sent",
    FolderState.UNREADABLE: "it cannot be read",
    FolderState.WRITTEN: "not sent yet",
    FolderState.SETTLING: "not sent yet",
    FolderState.INCOMPLETE: "not sent",
    FolderState.NEW: "new",
}
"""The status, to which the reason is added where there is one."""

_LOOKED_UP: dict[str, str] = {
    Confirmation.FOUND: "; its answer was lost, but the bucket showed the object",
    Confirmation.ABSENT: "; the bucket did not show it: not stored, or already taken by the server",
    Confirmation.OTHER: "; the bucket showed other content",
    Confirmation.UNKNOWN: "; emitterd could not look it up",
}
"""What the bucket showed under the key of an upload whose answer was lost."""


class OutsideSpool(ValueError):
    """A path leads out of the watched folder."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The status of a path, and its history.

    `versions` and `actions` have the latest first. `file` is None if there is no file in the
    folder.
    """

    path: str
    state: State | FolderState
    reason: str
    error: str | None
    hint: str | None
    context: list[str]
    file: Record | None
    versions: list[Record]
    actions: list[Record]

    @property
    def known(self) -> bool:
        """Whether the path is in the folder or in the journal."""
        # By value: that of the daemon's answer is a plain text.
        return bool(self.versions) or self.state != FolderState.ABSENT

    @property
    def current(self) -> Record:
        """The version that has the state; empty if the state is not a version's."""
        latest = self.versions[0] if self.versions else {}
        settled = self.state in set(State) and "forgotten_at" not in latest
        return latest if settled else {}

    @property
    def before(self) -> list[Record]:
        """The earlier versions, the latest first."""
        return self.versions[1:] if self.current else self.versions

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return what gave a record."""
        values: Record = {name: record.get(name) for name in cls.__dataclass_fields__}
        return cls(**values)

    def record(self) -> Record:
        """Return it as `explain --json` prints it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def locate(spool: Spool, reader: JournalReader, text: str) -> bytes:
    """Return the path that a person means by a text: as it is, or as the log shows it.

    Absolute, or relative to the watched folder. Raises `OutsideSpool`, also for the folder itself
    and for an empty text.
    """
    if not text:
        raise OutsideSpool("no path is given")
    candidates = [_relative(spool.root, path) for path in undisplay(text)]
    for path in candidates:
        if _exists(spool, path) or reader.versions(path):
            return path
    return candidates[0]


def explain(status_reader: FileStatusReader, reader: JournalReader, path: bytes) -> Explanation:
    """Explain the status of a path by folder and journal."""
    spool = status_reader.spool
    with reader.snapshot():
        status = status_reader.look_up(path)
        versions, actions = reader.versions(path), reader.actions(path)
        # A forgotten version is history, and says nothing about the status.
        remembered = (entry for entry in versions if "forgotten_at" not in entry)
        latest = next(remembered, {})
        lost = spool.lost()
        there = _exists(spool, path) or status.state is FolderState.UNSUITABLE
        gone = lost or not there
        if gone:
            # Without a file, the latest version in the journal is the status.
            state = State(latest["state"]) if latest else FolderState.ABSENT
            reason = latest.get("reason", "")
            status = FileStatus(path, state, latest.get("error"), reason)
        sentence = _sentence(status, latest, actions)
        if gone and latest and not lost:
            moved_to = latest.get("moved_to")
            where = f"was moved to {moved_to}" if moved_to else "is no longer in the folder"
            sentence += f"; the file {where}"
        context = _context(status, reader)
        if status.state is State.DELIVERED and "server_side" in latest:
            context += sentences(latest["server_side"], latest["delivered_at"])
    if lost:
        root = display(os.fsencode(spool.root))
        context.insert(0, f"the watched folder {root} is not there: mount or create it")
    return Explanation(
        display(path),
        status.state,
        sentence,
        status.error,
        status.remedy or None,
        context,
        None if gone else _file_record(spool, path),
        versions,
        actions,
    )


def _sentence(status: FileStatus, latest: Record, actions: list[Record]) -> str:
    match status.state:
        case State.DEFERRED:
            # A failure of the destination does not count as an attempt.
            attempts = latest["attempts"]
            attempt = f"attempt {attempts}" if attempts else "an attempt"
            return (
                f"{attempt} failed: {status.error} {status.reason};"
                f" the next is due at {local_time(latest['due_at'])}"
            )
        case State.DELIVERED:
            return _delivered(latest)
        case State.REJECTED:
            return _rejected(status, latest)
        case State.HELD:
            return _held(status, actions)
    if status.state in _WITHOUT_REASON:
        return _WITHOUT_REASON[status.state]
    sentence = _WITH_REASON[status.state]
    return f"{sentence}: {status.reason}" if status.reason else sentence


def _rejected(status: FileStatus, latest: Record) -> str:
    # The findings are listed separately.
    if latest.get("findings") and status.error == Code.CATALOGUE:
        return "rejected, because the server would lose or misread it"
    return f"rejected: {status.error} {status.reason}"


def _delivered(latest: Record) -> str:
    if latest.get("confirmation") == Confirmation.MARKED:
        return f"{latest['reason']}, at {latest['admitted_at']}; `emitterd forget` sends it"
    sentence = f"delivered at {local_time(latest['delivered_at'])} under the key {latest['key']}"
    if latest["ambiguous"] and latest.get("earlier_keys"):
        keys = ", ".join(latest["earlier_keys"])
        sentence += f"; an earlier attempt may have stored an object under {keys}"
    sentence += _LOOKED_UP.get(latest.get("confirmation", ""), "")
    if latest.get("error") == Code.NOT_DISPOSED:
        sentence += f"; the file stays in the folder: {latest['reason']}"
    return sentence


def _held(status: FileStatus, actions: list[Record]) -> str:
    if status.error is not None:
        return f"held: {status.error} {status.reason}"
    hold = next((action for action in actions if action["act"] == "hold"), None)
    who = f" by {hold['user']} since {local_time(hold['at'])}" if hold else ""
    return f"held{who}; `emitterd release` allows it again"


def _context(status: FileStatus, reader: JournalReader) -> list[str]:
    if status.state not in _PROCEEDS:
        return []
    lines = []
    if status.state is State.QUEUED:
        lines.append(f"files before it in the queue: {reader.ahead(status.path)}")
    record = status_record(reader)
    destination = record["destination"]
    if destination["state"] == "down":
        lines.append(
            f"the destination is down since {local_time(destination['since'])}:"
            f" {destination['error']} {destination['reason']}; uploads are paused, and"
            " emitterd retries with one request at a time"
        )
    if not record["running"]:
        lines.append(f"no daemon runs: {START_DAEMON}")
    return lines


def _file_record(spool: Spool, path: bytes) -> Record | None:
    try:
        stat = spool.stat(path)
    except FileError:
        return None
    return {"bytes": stat.st_size, "modified_at": iso(stat.st_mtime)}


def _exists(spool: Spool, path: bytes) -> bool:
    try:
        spool.stat(path)
    except FileError as error:
        return error.code is not Code.GONE
    return True


def _relative(root: Path, path: bytes) -> bytes:
    file = os.path.normpath(root / os.fsdecode(path))
    folder, name = os.path.split(file)
    # As written, or through links to the folder.
    for base, candidate in (
        (root, Path(file)),
        (Path(os.path.realpath(root)), Path(os.path.realpath(folder), name)),
    ):
        if candidate.is_relative_to(base) and candidate != base:
            return os.fsencode(candidate.relative_to(base))
    raise OutsideSpool(
        f"{display(path)} lies outside the watched folder {display(os.fsencode(root))}"
    )
