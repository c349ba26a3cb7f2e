"""Named points at which a test can order a crash.

`EMITTERD_FAILPOINT=name[@n]` kills the process with SIGKILL when it reaches the point for the n-th
time; `name[@n]:hang` makes that thread wait without end. The variable is read once, at import;
without it a point costs one comparison.

For the watchdog: `claimed:hang` stalls a worker, `admit-due:hang` the intake, `commit-due@3:hang`
the third commit.
"""

import os
import re
import signal
import sys
import threading
from enum import StrEnum
from itertools import count

VARIABLE = "EMITTERD_FAILPOINT"
_CONFIGURATION = 78
_ORDER = re.compile(r"(?P<point>[a-z-]+)(@(?P<times>0*[1-9][0-9]*))?(?P<hang>:hang)?")


class Point(StrEnum):
    """All points, in the order in which a file passes them."""

    SCHEMA_MADE = "schema-made"
    """The schema of a new journal is written, not committed."""
    SCHEMA_COMMITTED = "schema-committed"
    """The schema of a new journal is on disk, and nothing else."""
    RECLAIMED = "reclaimed"
    """Entries that a dead process had claimed are queued again."""
    COMMIT_DUE = "commit-due"
    """All work of a group commit is done, and not committed."""
    COMMITTED = "committed"
    """A group commit is on disk, and no caller knows."""
    ADMIT_DUE = "admit-due"
    """A batch of complete files is ready, and not in the journal."""
    REPLACED = "replaced"
    """In one transaction: the old version is withdrawn, the new one not admitted."""
    ADMITTED = "admitted"
    """A batch is in the journal, but not in the log, and no worker was notified."""
    CLAIMED = "claimed"
    """A worker has an entry and has done nothing with it."""
    UNCHANGED_HALF = "unchanged-half"
    """In one transaction: the delivered version has the new fingerprint, and the entry of the same
    content is not removed."""
    UNCHANGED = "unchanged"
    """An entry of known content is merged into the delivered version."""
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
    ACCEPTED = "accepted"
    """cQube 5 has accepted the upload, and its status was not asked for yet."""
    ANSWERED = "answered"
    """The server's answer proves the delivery; the journal does not know."""
    DELIVERED = "delivered"
    """The delivery is on disk, but not in the log, and the file is untouched."""
    CONFIRMED = "confirmed"
    """The bucket shows the object whose answer was lost; the journal does not know."""
    FAILED = "failed"
    """An attempt failed; the journal does not know."""
    DEFERRED = "deferred"
    """The time of the next attempt is on disk, but not in the log."""
    GRANT_DROPPED = "grant-dropped"
    """A refused grant is unpinned; the attempt is not recorded."""
    REJECTED = "rejected"
    """The rejection is on disk, but not in the log."""
    WITHDRAWN = "withdrawn"
    """The withdrawal is on disk; the path was not examined again."""
    INTERRUPTED = "interrupted"
    """A stopping daemon has put an entry back into the queue."""
    DISPOSAL_DUE = "disposal-due"
    """A delivered file is still the one that was sent, and is about to be moved."""
    SET_ASIDE = "set-aside"
    """A file to be removed has a temporary name, and was not examined again."""
    REASON_WRITTEN = "reason-written"
    """The `.reason.json` of a rejected file is written; the file is not moved."""
    COPIED = "copied"
    """Archived to another file system: the copy is whole, under a temporary name."""
    COPY_NAMED = "copy-named"
    """Archived to another file system: the copy has its name; the file exists too."""
    MOVED = "moved"
    """A file was renamed into the archive; neither folder is on disk."""
    UNLINKED = "unlinked"
    """A file was deleted; its folder is not on disk."""
    DISPOSED = "disposed"
    """A file is archived or deleted on disk; the journal does not know."""
    DISPOSAL_RECORDED = "disposal-recorded"
    """The disposal is on disk."""
    PRUNE_DUE = "prune-due"
    """Retention has read a page of ended entries, and deleted none."""
    PRUNED = "pruned"
    """Retention has deleted a page; others may follow."""
    CLOSING = "closing"
    """A stopping daemon is about to close its journal."""


def _order(text: str) -> tuple[Point | None, int, bool]:
    """Return the point, the number of passes, and whether to hang; exit 78 if wrong."""
    if not text:
        return None, 0, False
    match = _ORDER.fullmatch(text)
    if match is None or match["point"] not in set(Point):
        # At import nothing can catch and report an exception of emitterd yet.
        sys.stderr.write(
            f"{VARIABLE}: {text!r} is not POINT, POINT@N or POINT:hang, with N from 1"
            f" up; the points are: {', '.join(Point)}\n"
        )
        raise SystemExit(_CONFIGURATION)
    return Point(match["point"]), int(match["times"] or 1), match["hang"] is not None


_POINT, _TIMES, _HANGS = _order(os.environ.get(VARIABLE, ""))
_passes = count(1)


def reach(point: Point) -> None:
    """Pass a point; die or hang there if `EMITTERD_FAILPOINT` says so."""
    if point is _POINT and next(_passes) == _TIMES:
        if _HANGS:
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL)
