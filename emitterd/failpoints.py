"""Named points at which a crash can be ordered: how the crash table is put to the test.

`EMITTERD_FAILPOINT=name[@n]` kills the process with SIGKILL when it reaches the point
for the n-th time; `name[@n]:hang` makes the thread that does so stand still for ever.
It is read once, at import; without it a point costs one comparison.
"""

import os
import signal
import sys
import threading
from enum import StrEnum
from itertools import count
from typing import NoReturn

VARIABLE = "EMITTERD_FAILPOINT"
HANG = "hang"
_CONFIGURATION = 78


class Point(StrEnum):
    """Every point, in the order of a file's way."""

    SCHEMA_MADE = "schema-made"
    """The schema of a new journal is written, not committed."""
    SCHEMA_COMMITTED = "schema-committed"
    """The schema of a new journal is on disk, and nothing else."""
    RECLAIMED = "reclaimed"
    """What a dead process had claimed is queued again."""
    COMMIT_DUE = "commit-due"
    """All work of a group commit is done, and not committed."""
    COMMITTED = "committed"
    """A group commit is on disk, and nobody was told."""
    ADMIT_DUE = "admit-due"
    """A batch of complete files was looked at, and is not in the journal."""
    REPLACED = "replaced"
    """In one transaction: the old version is withdrawn, the new one not admitted."""
    ADMITTED = "admitted"
    """A batch is in the journal; no line tells of it and no worker was woken."""
    CLAIMED = "claimed"
    """A worker has an entry and has done nothing with it."""
    UNCHANGED_HALF = "unchanged-half"
    """In one transaction: the delivered version took over the fingerprint, the entry
    of the same content is not removed."""
    UNCHANGED = "unchanged"
    """An entry of known content is folded into the delivered version."""
    GRANT_DUE = "grant-due"
    """A grant is needed and was not asked for."""
    GRANTED = "granted"
    """A grant was answered and is not pinned."""
    PINNED = "pinned"
    """The grant is on disk, and no byte was sent."""
    BODY_DUE = "body-due"
    """The connection is made and the request's head built; no byte of the body sent."""
    BODY_BEGUN = "body-begun"
    """The first chunk of a larger body was sent."""
    BODY_SENT = "body-sent"
    """The last byte was sent; no answer was read."""
    ANSWERED = "answered"
    """The bucket's answer proves the delivery; the journal does not know."""
    DELIVERED = "delivered"
    """The delivery is on disk; no line tells of it, and the file is untouched."""
    CONFIRMED = "confirmed"
    """The bucket shows the object whose answer was lost; the journal does not know."""
    FAILED = "failed"
    """An attempt failed; the journal does not know."""
    DEFERRED = "deferred"
    """The next attempt's time is on disk; no line tells of it."""
    GRANT_DROPPED = "grant-dropped"
    """A refused grant is unpinned; the attempt is not recorded."""
    REJECTED = "rejected"
    """The rejection is on disk; no line tells of it."""
    WITHDRAWN = "withdrawn"
    """The withdrawal is on disk; the path was not looked at again."""
    INTERRUPTED = "interrupted"
    """A stopping daemon has put an entry back into the queue."""
    DISPOSAL_DUE = "disposal-due"
    """A delivered file still is the one that was sent, and is about to be touched."""
    SET_ASIDE = "set-aside"
    """A file that is to be removed has a name of ours, and was not looked at again."""
    REASON_WRITTEN = "reason-written"
    """Why a file is rejected stands beside its place to be; the file is not moved."""
    COPIED = "copied"
    """Archived to another file system: the copy is whole, under a temporary name."""
    COPY_NAMED = "copy-named"
    """Archived to another file system: the copy has its name, the file is there too."""
    MOVED = "moved"
    """A file was renamed into the archive; neither folder is on disk."""
    UNLINKED = "unlinked"
    """A file was deleted; its folder is not on disk."""
    DISPOSED = "disposed"
    """A file was archived or deleted for good; the journal does not know."""
    DISPOSAL_RECORDED = "disposal-recorded"
    """The disposal is on disk."""
    PRUNE_DUE = "prune-due"
    """Retention has read a page of what ended, and forgotten none of it."""
    PRUNED = "pruned"
    """Retention has forgotten a page; others may follow."""
    CLOSING = "closing"
    """A stopping daemon is about to close its journal."""


def _order(text: str) -> tuple[Point | None, int, bool]:
    """Read the order: which point, the how many-th time, and whether to hang there.

    Exits with 78 if it is wrong.
    """
    passage, colon, action = text.partition(":")
    name, at, times = passage.partition("@")
    if not text:
        return None, 0, False
    if name not in set(Point):
        _refuse(f"no point {name!r}; the known ones are: {', '.join(Point)}")
    if at and not (times.isascii() and times.isdecimal() and int(times)):
        _refuse(f"{times!r} after @ is not a whole number from 1 up")
    if colon and action != HANG:
        _refuse(f"{action!r} after : is not {HANG}")
    return Point(name), int(times or 1), action == HANG


def _refuse(problem: str) -> NoReturn:
    # Read at import, where nobody is there yet who would report an error of ours.
    sys.stderr.write(f"{VARIABLE}: {problem}\n")
    raise SystemExit(_CONFIGURATION)


_POINT, _TIMES, _HANGS = _order(os.environ.get(VARIABLE, ""))
_passes = count(1)


def reach(point: Point) -> None:
    """Pass a point, or die or stand still there if that was ordered."""
    if point is _POINT and next(_passes) == _TIMES:
        if _HANGS:
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL)
