"""Uploads under way: kept in memory for the page, logged and noted for `status`.

`status` does not ask the daemon, which may be what hangs, and everybody who may read
the journal may see it. So long uploads are noted there; each note costs a commit.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from emitterd.errors import JournalFull
from emitterd.journal.journal import Journal
from emitterd.model import Entry
from emitterd.monitoring.status import UPLOADS
from emitterd.text import display, iso, share

NOTE_S = 10.0
"""An upload is noted in the journal after this time, and again each time it passes."""

LOG_S = 30.0
"""An upload is logged after this time, and again each time it passes."""

log = structlog.get_logger()


@dataclass(slots=True)
class UploadProgress:
    """One upload under way; `started_at` is seconds since the epoch."""

    id: int
    path: bytes
    size_bytes: int
    attempt: int
    started_at: float
    sent_bytes: int = 0

    @property
    def percent(self) -> int:
        """Which part is sent, in whole per cent."""
        return share(self.sent_bytes, self.size_bytes)

    def bytes_s(self, now: float) -> float:
        """Return the mean speed in bytes a second; 0.0 at the start."""
        took_s = now - self.started_at
        return self.sent_bytes / took_s if took_s > 0 else 0.0

    def eta_s(self, now: float) -> float | None:
        """Return the seconds left at the mean speed; None at the start."""
        speed = self.bytes_s(now)
        return (self.size_bytes - self.sent_bytes) / speed if speed else None

    def record(self, now: float) -> dict[str, Any]:
        """Return the fields of the log event and of the note."""
        eta_s = self.eta_s(now)
        return {
            "path": display(self.path),
            "bytes": self.size_bytes,
            "sent_bytes": self.sent_bytes,
            "percent": self.percent,
            "bytes_s": round(self.bytes_s(now)),
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "attempt": self.attempt,
        }


class UploadTracker:
    """Tracks every upload: an observer of the workers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: dict[int, UploadProgress] = {}

    def began(self, entry: Entry) -> None:
        """Add the upload of this thread."""
        upload = UploadProgress(
            entry.id,
            entry.path,
            entry.fingerprint.size_bytes,
            entry.attempts + 1,
            time.time(),
        )
        with self._lock:
            self._uploads[entry.id] = upload

    def sent(self, entry: Entry, size_bytes: int) -> None:
        """Add to the bytes that are sent."""
        upload = self._uploads[entry.id]
        with self._lock:
            # The form fields, and a body that is sent again within the attempt, make
            # no more of it than the file has.
            upload.sent_bytes = min(upload.size_bytes, upload.sent_bytes + size_bytes)

    def ended(self, entry: Entry) -> None:
        """Remove the upload."""
        with self._lock:
            del self._uploads[entry.id]

    def now(self) -> list[UploadProgress]:
        """Return copies of the uploads under way, the oldest first."""
        with self._lock:
            uploads = [replace(upload) for upload in self._uploads.values()]
        return sorted(uploads, key=lambda upload: upload.started_at)


class UploadReporter:
    """Logs and notes long uploads. Used by the main thread."""

    def __init__(self, uploads: UploadTracker, journal: Journal) -> None:
        self._uploads = uploads
        self._journal = journal
        # The note of a former process is out of date.
        self._noted = bool(journal.read_fact(UPLOADS))
        self._noted_at = 0.0
        self._logged: dict[tuple[int, float], float] = {}

    def report(self, now: float) -> None:
        """Log and note what is due; `now` is seconds since the epoch.

        Call it once a second.
        """
        long = [
            upload
            for upload in self._uploads.now()
            if now - upload.started_at >= NOTE_S
        ]
        if self._noted if not long else abs(now - self._noted_at) >= NOTE_S:
            self._note(long, now)
        self._log(long, now)

    def _note(self, long: Sequence[UploadProgress], now: float) -> None:
        self._noted_at = now
        notes = [
            {
                "id": upload.id,
                **upload.record(now),
                "started_at": iso(upload.started_at),
                "seen_at": iso(now),
            }
            for upload in long
        ]
        # On a full disk it is noted at the next time.
        with suppress(JournalFull):
            self._journal.save_fact(UPLOADS, notes)
            self._noted = bool(long)

    def _log(self, long: Sequence[UploadProgress], now: float) -> None:
        logged = {}
        for upload in long:
            attempt = (upload.id, upload.started_at)
            logged[attempt] = self._logged.get(attempt, upload.started_at)
            if now - logged[attempt] >= LOG_S:
                logged[attempt] = now
                took_s = now - upload.started_at
                log.info("file.delivering", **upload.record(now), duration_s=took_s)
        self._logged = logged
