"""The status of a path, from one function for all callers.

The intake acts on the result; `explain`, `list --skipped` and `once` print it. The cheap and common
checks come first: the name costs nothing, and a known fingerprint costs one stat and one query.
Only a new file is opened, and only a whole zip that nobody writes is inspected.
"""

import json
import os
import shlex
import stat as modes
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from emitterd.codes import Code
from emitterd.datasets.catalogue import Catalogue
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import Finding, Severity
from emitterd.datasets.zip_integrity import ReadAt, zip_flaw
from emitterd.datasets.zip_members import DamagedZip
from emitterd.errors import SHORTAGE, FileError, JournalError
from emitterd.journal.rows import ASKED, Known, unchanged_paths
from emitterd.journal.store import Read
from emitterd.model import Fingerprint, State
from emitterd.permissions import permission_command
from emitterd.spool.folder import LeaseState, Spool, read_at
from emitterd.spool.selection import AT_THE_TOP, Selection, at_the_top
from emitterd.text import display, shown
from emitterd.translation.text import Text

Latest = Callable[[bytes], Known | None]
"""Returns the latest version of a path, as one reader of the journal has it."""

Unsettled = Callable[[Fingerprint, LeaseState], str | None]
"""Returns why a file may still be written, or None if it is settled."""

Inspect = Callable[[bytes, Fingerprint, LeaseState, ReadAt], tuple[Finding, ...]]
"""Inspects a whole zip; may raise `DamagedZip` where no lease proves that it is closed."""


class FolderState(StrEnum):
    """The status of a file whose current version is not in the journal."""

    ABSENT = "absent"
    IGNORED = "ignored"
    UNSUITABLE = "unsuitable"
    UNREADABLE = "unreadable"
    WRITTEN = "written"
    SETTLING = "settling"
    INCOMPLETE = "incomplete"
    NEW = "new"


NEVER = frozenset(
    {
        State.REJECTED,
        FolderState.IGNORED,
        FolderState.UNSUITABLE,
        FolderState.UNREADABLE,
        FolderState.INCOMPLETE,
    }
)
"""The file will not be sent as it is."""

_BY_CODE = {
    Code.GONE: FolderState.ABSENT,
    Code.NOT_REGULAR: FolderState.UNSUITABLE,
    Code.UNREADABLE: FolderState.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class FileStatus:
    """The status of a path, and why; `error` is a code where something is wrong.

    `known` is the version in the journal, for a `State`. `lease` is None if the file was not
    opened; `findings` are those of the inspection, for a new file. `cause` is an unexpected error,
    for E208. `hint` is what to do about this file, if the code alone does not say it.
    """

    path: bytes
    state: State | FolderState
    error: str | None = None
    reason: str = ""
    known: Known | None = None
    fingerprint: Fingerprint | None = None
    lease: LeaseState | None = None
    findings: tuple[Finding, ...] = ()
    cause: Exception | None = None
    hint: str = ""

    @property
    def remedy(self) -> str:
        """What to do about it; empty if nothing is wrong."""
        return self.hint or (Code(self.error).remedy if self.error else "")

    def record(self) -> dict[str, str]:
        """Return it as `list --skipped --json` prints it."""
        title = Code(self.error).title if self.error else ""
        record = {"path": display(self.path), "state": str(self.state)}
        if self.error is not None:
            record["error"] = self.error
        record["reason"] = self.reason or title or self.state
        return record | {"hint": self.hint} if self.hint else record


@dataclass(slots=True)
class FileStatusReader:
    """Looks paths up in folder and journal; changes neither.

    `settle_s`: how long a file without a lease must be unchanged, if `look_up` gets no `unsettled`.
    `catalogue` returns the datasets: where a file at the top of the folder belongs.
    """

    spool: Spool
    selection: Selection
    latest: Latest
    settle_s: float = 0.0
    catalogue: Callable[[], Catalogue] = load_catalogue

    def look_up(
        self,
        path: bytes,
        *,
        stat: os.stat_result | None = None,
        unsettled: Unsettled | None = None,
        inspect: Inspect | None = None,
    ) -> FileStatus:
        """Return the status of a path now; raises only errors of the journal.

        `stat` saves one where the caller has it. `unsettled` is asked about a whole zip instead of
        the file's times; `inspect` only about a settled one.
        """
        try:
            ignored = self.selection.ignored(path)
            if ignored is not None:
                return self._ignored(path, ignored, stat)
            seen = Fingerprint.of(stat or self.spool.stat(path))
            known = self.latest(path)
            if known is not None and known.matches(seen):
                return _known_status(path, seen, known)
            if at_the_top(path):
                return self._at_the_top(path)
            try:
                return self._open(path, unsettled or self._unsettled, inspect)
            except FileError as error:
                if error.code is not Code.STILL_WRITTEN:
                    raise
                return _written(path, seen)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001  one path must not stop the others
            status = _error_status(self.spool.root, path, error)
            absent = status.state is FolderState.ABSENT
            return (self._below_link(path) if absent else None) or status

    def _ignored(self, path: bytes, reason: str, stat: os.stat_result | None) -> FileStatus:
        file = self.spool.root / os.fsdecode(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = (stat or file.lstat()).st_mode
            if modes.S_ISDIR(mode):
                reason = Text("a folder: ask for a file in it")
            # Where a folder of this name would be looked at.
            link = modes.S_ISLNK(mode) and self.selection.skipped(path) is None
            if link and not file.is_file():
                return _linked(path, Text("a link to a folder, or to nothing: it is not followed"))
        wrong_ending = self.selection.wrong_ending(path)
        code = Code.WRONG_ENDING if wrong_ending else None
        return FileStatus(path, FolderState.IGNORED, code, wrong_ending or reason)

    def _at_the_top(self, path: bytes) -> FileStatus:
        guess = self.catalogue().guess(display(path))
        folders = {dataset.folder for dataset in guess}
        folder = folders.pop() if len(folders) == 1 else "DATASET"
        places = (self.spool.root / os.fsdecode(path), self.spool.root / folder)
        file, home = (shlex.quote(shown(place)) for place in places)
        hint = f"move it into its dataset folder: mv {file} {home}/"
        state, code = FolderState.UNSUITABLE, Code.WRONG_DEPTH
        return FileStatus(path, state, code, AT_THE_TOP, hint=hint)

    def _below_link(self, path: bytes) -> FileStatus | None:
        """Return the status of a path that is not there because its folder is a link."""
        with suppress(OSError):
            for folder in Path(os.fsdecode(path)).parents:
                if folder.name and (self.spool.root / folder).is_symlink():
                    return _linked(path, f"its folder {shown(folder)} is a link")
        return None

    def _open(self, path: bytes, unsettled: Unsettled, inspect: Inspect | None) -> FileStatus:
        with self.spool.open(path) as file:
            lease = self.spool.lease(file)
            # Of the open file: another may have taken the name since the stat.
            seen = Fingerprint.of(os.fstat(file.fileno()))

            def status(state: FolderState, error: Code | None, reason: str) -> FileStatus:
                return FileStatus(path, state, error, reason, None, seen, lease)

            if lease is LeaseState.OPEN:
                return _written(path, seen)
            read = read_at(file, seen.size_bytes)
            flaw = zip_flaw(read, seen.size_bytes)
            findings: tuple[Finding, ...] = ()
            if flaw is None:
                waits = unsettled(seen, lease)
                if waits is not None:
                    return status(FolderState.SETTLING, None, waits)
                try:
                    findings = inspect(path, seen, lease, read) if inspect is not None else ()
                except DamagedZip as error:
                    flaw = str(error)
            if flaw is not None:
                # A writer may have come since the lease: then this was half of a new version.
                now = Fingerprint.of(os.fstat(file.fileno()))
                if self.spool.lease(file) is LeaseState.OPEN or not now.same_version(seen):
                    return _written(path, now)
                return status(FolderState.INCOMPLETE, Code.INCOMPLETE, flaw)
        new = Text("complete, and not looked at yet")
        return FileStatus(path, FolderState.NEW, None, new, None, seen, lease, findings)

    def _unsettled(self, seen: Fingerprint, lease: LeaseState) -> str | None:
        # Judged by the file's times, because nobody has watched the file.
        quiet_s = time.time() - max(seen.mtime_ns, seen.ctime_ns) / 1e9
        if lease is not LeaseState.NONE or not 0 <= quiet_s < self.settle_s:
            return None
        return (
            f"it changed {quiet_s:.1f} s ago, and must stay the same for"
            f" {self.settle_s:g} s: no lease proves that it is closed"
        )


def undelivered(
    status_reader: FileStatusReader,
    ended: Iterable[FileStatus],
    dropped: Mapping[bytes, FileStatus],
) -> list[FileStatus]:
    """Return every candidate in the folder that is not delivered, in path order.

    `ended` are added, because their files may be elsewhere; and of `dropped`, which the server will
    drop though they are delivered, those in the folder.
    """
    left = {}
    for status in survey(status_reader):
        if status.state is State.DELIVERED:
            if status.path in dropped:
                left[status.path] = dropped[status.path]
        elif status.state is not FolderState.IGNORED or status.error is not None:
            left[status.path] = status
    for status in ended:
        left.setdefault(status.path, status)
    return [left[path] for path in sorted(left)]


def dropped_status(path: bytes, findings: str) -> FileStatus:
    """Return the status of a delivered file that the server will drop."""
    worst = next(item for item in json.loads(findings) if item["level"] == Severity.ERROR)
    reason = f"{worst['consequence']}: expected {worst['expected']}, found {worst['found']}"
    return FileStatus(path, State.DELIVERED, worst["code"], reason)


def first_unknown(status_reader: FileStatusReader, read: Read, deadline: float) -> bytes | None:
    """Return a candidate in the folder that the journal does not know.

    None if there is none, or none is found until `deadline`, in monotonic seconds.
    """
    selection = status_reader.selection
    walk = status_reader.spool.walk(
        lambda folder: selection.skipped(folder) is not None, lambda *_: None
    )
    candidates = ((path, stat) for path, stat in walk if selection.ignored(path) is None)
    while time.monotonic() < deadline and (files := list(islice(candidates, ASKED))):
        seen = {path: Fingerprint.of(stat) for path, stat in files}
        known = unchanged_paths(read, seen)
        if unknown := [path for path in seen if path not in known]:
            return unknown[0]
    return None


def skipped(status_reader: FileStatusReader) -> Iterator[FileStatus]:
    """Yield everything under the folder that will never be sent as it is."""
    return (status for status in survey(status_reader) if status.state in NEVER)


def survey(
    status_reader: FileStatusReader,
    wanted: Callable[[bytes, os.stat_result], bool] = lambda *_: True,
) -> Iterator[FileStatus]:
    """Yield the status of all that is `wanted`, and of folders that are not looked at."""
    folders: list[FileStatus] = []

    def unreadable(path: bytes, error: OSError) -> None:
        if not path or status_reader.selection.skipped(path) is None:
            root = status_reader.spool.root
            folders.append(_error_status(root, path or b".", error, "rx"))

    def skip(folder: bytes) -> bool:
        reason = status_reader.selection.skipped(folder)
        if reason is not None:
            state = FolderState.IGNORED
            folders.append(FileStatus(folder + b"/", state, reason=reason))
        return reason is not None

    for path, stat in status_reader.spool.walk(skip, unreadable):
        yield from folders
        folders.clear()
        if not wanted(path, stat):
            continue
        status = status_reader.look_up(path)
        if status.state is not FolderState.ABSENT:
            yield status
    yield from folders


def _known_status(path: bytes, seen: Fingerprint, known: Known) -> FileStatus:
    error, reason = known.error, known.reason or ""
    if known.state is State.HELD and error != Code.RECEIPT_LOST:
        # The operator holds it, whatever its last failure was.
        error, reason = None, Text("held by the operator")
    return FileStatus(path, known.state, error, reason, known, seen)


def _written(path: bytes, seen: Fingerprint) -> FileStatus:
    code = Code.STILL_WRITTEN
    return FileStatus(
        path, FolderState.WRITTEN, code, code.title, fingerprint=seen, lease=LeaseState.OPEN
    )


def failure_reason(error: Exception) -> str:
    """Return why a path failed, in words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, FileError) else f"{type(error).__name__}: {error}"


def _linked(path: bytes, reason: str) -> FileStatus:
    return FileStatus(path, FolderState.UNSUITABLE, Code.NOT_REGULAR, reason)


def permission_hint(root: Path, path: bytes, error: BaseException, bits: str) -> str:
    """Return the command that gives the permission which an error is about; else empty."""
    with suppress(OSError):
        if isinstance(error.__cause__ or error, PermissionError):
            return f"give the permission, {permission_command(root / os.fsdecode(path), bits)}"
    return ""


def _error_status(root: Path, path: bytes, error: Exception, bits: str = "r") -> FileStatus:
    reason, code = failure_reason(error), Code.PATH_FAILED
    if isinstance(error, FileError):
        code = error.code
    elif isinstance(error, OSError) and error.errno not in SHORTAGE:
        # The disk, or a file server, fails on this one file.
        code = Code.UNREADABLE
    state = _BY_CODE.get(code, FolderState.UNREADABLE)
    cause = error if code is Code.PATH_FAILED else None
    hint = permission_hint(root, path, error, bits)
    return FileStatus(path, state, code, reason, cause=cause, hint=hint)
