"""The uploads under way, for who looks on: kept in memory, by the workers.

Each worker's thread has one upload at a time, so whatever it calls may tell how far
that is: the socket does, since a chunk of the file may take a minute on a thin line.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from emitterd.client.sockets import observe_body
from emitterd.errors import JournalFull
from emitterd.journal.journal import Journal
from emitterd.model import Entry
from emitterd.monitoring.status import UPLOADS
from emitterd.text import display, iso, share


@dataclass(slots=True)
class UploadProgress:
    """One upload under way; `started_at` is seconds since the epoch."""

    id: int
    path: bytes
    size_bytes: int
    attempt: int
    started_at: float
    sent_bytes: int = 0
    ahead_bytes: int = 0
    """What went out since `sent_bytes` was told: of the next chunk, and of fields."""

    @property
    def percent(self) -> int:
        """Which part is sent, in whole per cent."""
        return share(self.sent_bytes, self.size_bytes)

    def bytes_s(self, now: float) -> float:
        """Return how many bytes a second went out since it began; 0.0 at its start."""
        took_s = now - self.started_at
        return self.sent_bytes / took_s if took_s > 0 else 0.0

    def eta_s(self, now: float) -> float | None:
        """Return in how many seconds it is sent, as fast as so far; None at its start.

        Where it stands still this is ever longer.
        """
        speed = self.bytes_s(now)
        return (self.size_bytes - self.sent_bytes) / speed if speed else None


class UploadTracker:
    """Notes every upload that goes by: an observer of the workers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: dict[int, UploadProgress] = {}

    def began(self, entry: Entry) -> None:
        """Put the upload of this thread on the board."""
        upload = UploadProgress(
            entry.id,
            entry.path,
            entry.fingerprint.size_bytes,
            entry.attempts + 1,
            time.time(),
        )
        with self._lock:
            self._uploads[entry.id] = upload
        observe_body(partial(_advance, upload))

    def sent(self, entry: Entry, size_bytes: int) -> None:
        """Add to what has been sent of it."""
        # One worker has the entry, so nobody else adds; a body that is sent once more
        # within the attempt is not more than the file.
        upload = self._uploads[entry.id]
        with self._lock:
            upload.sent_bytes = min(upload.size_bytes, upload.sent_bytes + size_bytes)
            upload.ahead_bytes = 0

    def ended(self, entry: Entry) -> None:
        """Take it off the board."""
        observe_body(None)
        with self._lock:
            del self._uploads[entry.id]

    def now(self) -> list[UploadProgress]:
        """Return what is under way, the upload that began first first."""
        with self._lock:
            found = [_seen(one) for one in self._uploads.values()]
        return sorted(found, key=lambda one: one.started_at)


def _advance(upload: UploadProgress, size_bytes: int) -> None:
    upload.ahead_bytes += size_bytes


def _seen(upload: UploadProgress) -> UploadProgress:
    """Return a copy in which `sent_bytes` is all that went out."""
    sent_bytes = min(upload.size_bytes, upload.sent_bytes + upload.ahead_bytes)
    return replace(upload, sent_bytes=sent_bytes, ahead_bytes=0)


# How far long uploads are: told in the log, and noted in the journal for `status`.
# `status` does not ask the daemon, which may be what stands still, and whoever may read
# the journal may see it. So it is noted there, which costs a commit: at intervals, and
# for long uploads only.

NOTE_S = 10.0
"""An upload is noted when it has lasted so long, and from then on so often."""

TELL_S = 30.0
"""It is told in the log when it has lasted so long, and from then on so often."""

log = structlog.get_logger()


class UploadReporter:
    """Tells of the uploads on a board. Used by the main thread."""

    def __init__(self, uploads: UploadTracker, journal: Journal) -> None:
        self._uploads = uploads
        self._journal = journal
        # What a former process has left is out of date.
        self._noted = bool(journal.read_fact(UPLOADS))
        self._noted_at = 0.0
        self._told: dict[tuple[int, float], float] = {}

    def beat(self, now: float) -> None:
        """Tell what is due; `now` is seconds since the epoch. Call it once a second."""
        long = [one for one in self._uploads.now() if now - one.started_at >= NOTE_S]
        if self._noted if not long else abs(now - self._noted_at) >= NOTE_S:
            self._note(long, now)
        self._tell(long, now)

    def _note(self, long: Sequence[UploadProgress], now: float) -> None:
        self._noted_at = now
        # Without room for it, it is noted when it is due the next time.
        with suppress(JournalFull):
            self._journal.save_fact(UPLOADS, [_noted(one, now) for one in long])
            self._noted = bool(long)

    def _tell(self, long: Sequence[UploadProgress], now: float) -> None:
        told = {}
        for one in long:
            attempt = (one.id, one.started_at)
            told[attempt] = self._told.get(attempt, one.started_at)
            if now - told[attempt] >= TELL_S:
                told[attempt] = now
                took_s = now - one.started_at
                log.info("file.delivering", **_said(one, now), duration_s=took_s)
        self._told = told


def _noted(upload: UploadProgress, now: float) -> dict[str, Any]:
    return {
        "id": upload.id,
        **_said(upload, now),
        "started_at": iso(upload.started_at),
        "seen_at": iso(now),
    }


def _said(upload: UploadProgress, now: float) -> dict[str, Any]:
    eta_s = upload.eta_s(now)
    return {
        "path": display(upload.path),
        "bytes": upload.size_bytes,
        "sent_bytes": upload.sent_bytes,
        "percent": upload.percent,
        "bytes_s": round(upload.bytes_s(now)),
        "eta_s": None if eta_s is None else round(eta_s, 1),
        "attempt": upload.attempt,
    }
