"""Why a file is, or is not, delivered: its status and its history in sentences."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState
from emitterd.journal.opening import start_remedy
from emitterd.journal.reader import JournalReader
from emitterd.model import WAITING, Confirmation, State
from emitterd.monitoring.status import status_record
from emitterd.spool.folder import Spool
from emitterd.text import display, iso, local_time, undisplay
from emitterd.tracking.texts import sentences
from emitterd.translation.text import Text, joined

Record = dict[str, Any]

_PROCEEDS = WAITING | {FolderState.NEW, FolderState.SETTLING}
"""The file proceeds without an operator if a daemon runs and the destination is up."""

_WITHOUT_REASON: dict[State | FolderState, Text] = {
    State.QUEUED: Text("complete, and waiting for its turn"),
    State.DELIVERING: Text("being uploaded"),
    FolderState.ABSENT: Text("there is no such file, and the journal knows of none"),
}
_WITH_REASON: dict[State | FolderState, Text] = {
    State.WITHDRAWN: Text("it went or changed before it was sent"),
    FolderState.IGNORED: Text("never sent"),
    FolderState.UNSUITABLE: Text("never sent"),
    FolderState.UNREADABLE: Text("it cannot be read"),
    FolderState.WRITTEN: Text("not sent yet"),
    FolderState.SETTLING: Text("not sent yet"),
    FolderState.INCOMPLETE: Text("not sent"),
    FolderState.NEW: Text("new"),
}
"""The status, to which the reason is added where there is one."""

_LOOKED_UP: dict[str, Text] = {
    Confirmation.FOUND: Text("its answer was lost, but the server showed the file"),
    Confirmation.ABSENT: Text("the server did not show it: not stored, or already taken"),
    Confirmation.OTHER: Text("the server showed other content"),
    Confirmation.UNKNOWN: Text("emitterd could not look it up"),
}
"""What the server showed of an upload whose answer was lost."""


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


def locate(spool: Spool, reader: JournalReader, *texts: str) -> bytes:
    """Return the path that a person means by a text: as it is, or as the log shows it.

    Absolute, or relative to the watched folder. Of several texts it is the first that is known.
    Raises `OutsideSpool`, also for the folder itself and for an empty text.
    """
    if not texts[0]:
        raise OutsideSpool(Text("no path is given"))
    paths = (path for text in texts for path in undisplay(text))
    candidates = [within(spool.root, path) for path in paths]
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
            moved = Text("the file was moved to {path}", path=moved_to)
            sentence = joined([sentence, moved if moved_to else _GONE])
        context = _context(status, reader)
        if status.state is State.DELIVERED and "server_side" in latest:
            context += sentences(latest["server_side"], latest["delivered_at"])
    if lost:
        root = display(os.fsencode(spool.root))
        message = Text("the watched folder {path} is not there: mount or create it", path=root)
        context.insert(0, message)
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


_GONE = Text("the file is no longer in the folder")


def _sentence(status: FileStatus, latest: Record, actions: list[Record]) -> str:
    match status.state:
        case State.DEFERRED:
            return _deferred(status, latest)
        case State.DELIVERED:
            return _delivered(latest)
        case State.REJECTED:
            return _rejected(status, latest)
        case State.HELD:
            return _held(status, actions)
    if status.state in _WITHOUT_REASON:
        return _WITHOUT_REASON[status.state]
    words = _WITH_REASON[status.state]
    return Text("{words}: {reason}", words=words, reason=status.reason) if status.reason else words


def _deferred(status: FileStatus, latest: Record) -> Text:
    values = {"error": status.error, "reason": status.reason, "time": local_time(latest["due_at"])}
    # A failure of the destination does not count as an attempt.
    if attempts := latest["attempts"]:
        return Text(
            "attempt {attempt} failed: {error} {reason}; the next is due at {time}",
            attempt=attempts,
            **values,
        )
    return Text("an attempt failed: {error} {reason}; the next is due at {time}", **values)


def _rejected(status: FileStatus, latest: Record) -> Text:
    # The findings are listed separately.
    if latest.get("findings") and status.error == Code.CATALOGUE:
        return Text("rejected, because the server would lose or misread it")
    return Text("rejected: {error} {reason}", error=status.error, reason=status.reason)


def _delivered(latest: Record) -> str:
    if latest.get("confirmation") == Confirmation.MARKED:
        return Text(
            "{reason}, at {time}; `emitterd forget` sends it",
            reason=latest["reason"],
            time=local_time(latest["admitted_at"]),
        )
    parts = [
        Text(
            "delivered at {time} under the key {key}",
            time=local_time(latest["delivered_at"]),
            key=latest["key"],
        )
    ]
    if latest["ambiguous"] and latest.get("earlier_keys"):
        keys = ", ".join(latest["earlier_keys"])
        parts.append(Text("an earlier attempt may have stored an object under {keys}", keys=keys))
    if looked_up := _LOOKED_UP.get(latest.get("confirmation", "")):
        parts.append(looked_up)
    if latest.get("error") == Code.NOT_DISPOSED:
        parts.append(Text("the file stays in the folder: {reason}", reason=latest["reason"]))
    if host := latest.get("host"):
        parts.append(Text("sent by host {host}", host=host))
    return joined(parts)


def _held(status: FileStatus, actions: list[Record]) -> Text:
    if status.error is not None:
        return Text("held: {error} {reason}", error=status.error, reason=status.reason)
    hold = next((action for action in actions if action["act"] == "hold"), None)
    if hold is None:
        return Text("held; `emitterd release` allows it again")
    return Text(
        "held by {user} since {time}; `emitterd release` allows it again",
        user=hold["user"],
        time=local_time(hold["at"]),
    )


def _context(status: FileStatus, reader: JournalReader) -> list[str]:
    if status.state not in _PROCEEDS:
        return []
    lines: list[str] = []
    if status.state is State.QUEUED:
        ahead = reader.ahead(status.path)
        lines.append(Text("files before it in the queue: {number}", number=ahead))
    record = status_record(reader)
    destination = record["destination"]
    if destination["state"] == "down":
        lines.append(
            Text(
                "the destination is down since {time}: {error} {reason}; uploads are paused, and"
                " emitterd retries with one request at a time",
                time=local_time(destination["since"]),
                error=destination["error"],
                reason=destination["reason"],
            )
        )
    if not record["running"]:
        lines.append(Text("no daemon runs: {remedy}", remedy=start_remedy(reader.location.path)))
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


def within(root: Path, path: bytes) -> bytes:
    """Return a path relative to the watched folder. Raises `OutsideSpool`."""
    if b"\0" in path:
        raise OutsideSpool(Text("a path contains no null character"))
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
        Text(
            "{path} lies outside the watched folder {folder}",
            path=display(path),
            folder=display(os.fsencode(root)),
        )
    )
