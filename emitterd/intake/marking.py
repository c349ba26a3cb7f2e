"""Reads a file that is to be marked as delivered: `mark-delivered`, and the page."""

import os
import time

from emitterd.codes import Code
from emitterd.datasets.inspection import Inspector
from emitterd.errors import FileError
from emitterd.intake.file_status import FileStatus, FolderState, failure_reason
from emitterd.journal.operations import MarkedFile, OperationResult
from emitterd.model import Fingerprint, State
from emitterd.spool.folder import Spool, digests
from emitterd.translation.text import Text, joined


def read_marked(
    spool: Spool, inspector: Inspector, status: FileStatus
) -> MarkedFile | OperationResult:
    """Read a whole file and return its digests, or why it cannot be marked."""
    refusal = _refusal(status)
    if not refusal:
        try:
            return _digest(spool, inspector, status)
        except (FileError, OSError) as error:
            refusal = failure_reason(error)
    before = status.known.state if status.known is not None else None
    return OperationResult(status.path, before, before, refusal)


def _refusal(status: FileStatus) -> str:
    match status.state:
        case State.DELIVERED:
            return Text("it is delivered already")
        case State.DELIVERING:
            return Text("it is being uploaded")
        case FolderState.SETTLING | FolderState.WRITTEN | FolderState.INCOMPLETE:
            return Text("it is not complete: {reason}", reason=status.reason)
        case State.REJECTED if status.error == Code.INCOMPLETE:
            return Text("it is not complete: {reason}", reason=status.reason)
        case FolderState.IGNORED | FolderState.UNSUITABLE | FolderState.UNREADABLE:
            return joined(filter(None, (status.reason, status.hint)))
    return ""


def _digest(spool: Spool, inspector: Inspector, status: FileStatus) -> MarkedFile:
    """Read the version that the status is of; raises `FileError` if it changes."""
    with spool.open(status.path) as file:
        seen = Fingerprint.of(os.fstat(file.fileno()))
        # The version must be the only one that these time stamps can mean.
        time.sleep(seen.young_s(time.time()))
        md5, sha256 = digests(file, lambda: None)
        now = Fingerprint.of(os.fstat(file.fileno()))
    if status.fingerprint is None or not seen == now == status.fingerprint:
        raise FileError(Text("it changes now: try again"), code=Code.CHANGED)
    rank, flow = inspector.catalogue.queue_position(status.path, inspector.settings.version)
    return MarkedFile(status.path, seen, flow, rank, md5, sha256)
