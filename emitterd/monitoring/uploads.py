"""Uploads under way: kept in memory for the page, and logged if they take long."""

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from emitterd.model import Entry
from emitterd.text import display, share

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_S = 30.0
"""An upload is logged after this time, and again each time it passes."""

log = structlog.get_logger()


@dataclass(slots=True)
class UploadProgress:
    """One upload under way; instants are seconds since the epoch."""

    id: int
    path: bytes
    size_bytes: int
    attempt: int
    started_at: float
    logged_at: float
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


class UploadTracker:
    """Tracks every upload: an observer of the workers. Thread-safe.

    Uploads are known by their thread, not by their entry: an entry whose attempt has failed may be
    claimed by another worker before the first worker reports the end of its attempt.
    """

    def __init__(self) -> None:
        self.on_sent: Callable[[int], None] = lambda _: None
        """Called with the number of bytes that were sent. Must not raise."""
        self._lock = threading.Lock()
        self._uploads: dict[int, UploadProgress] = {}

    def began(self, entry: Entry) -> None:
        """Add the upload of this thread."""
        now, size_bytes = time.time(), entry.fingerprint.size_bytes
        attempt = entry.attempts + 1
        upload = UploadProgress(entry.id, entry.path, size_bytes, attempt, now, now)
        with self._lock:
            self._uploads[threading.get_ident()] = upload

    def sent(self, size_bytes: int) -> None:
        """Add to the bytes that this thread has sent."""
        upload = self._uploads[threading.get_ident()]
        self.on_sent(size_bytes)
        with self._lock:
            # The form fields, and a body that is sent again within the attempt, make no more of it
            # than the file has.
            upload.sent_bytes = min(upload.size_bytes, upload.sent_bytes + size_bytes)

    def ended(self) -> None:
        """Remove the upload of this thread."""
        with self._lock:
            del self._uploads[threading.get_ident()]

    def now(self) -> list[UploadProgress]:
        """Return copies of the uploads under way, the oldest first."""
        with self._lock:
            uploads = [replace(upload) for upload in self._uploads.values()]
        return sorted(uploads, key=lambda upload: upload.started_at)

    def sent_share(self) -> tuple[float, int]:
        """Return how much of the files under way is sent: as a number of files, and in bytes."""
        uploads = self.now()
        files = sum(item.sent_bytes / item.size_bytes for item in uploads if item.size_bytes)
        return files, sum(item.sent_bytes for item in uploads)

    def log_long(self, now: float) -> None:
        """Log the uploads that are due for it; `now` is seconds since the epoch."""
        with self._lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            if now - upload.logged_at >= LOG_S:
                upload.logged_at = now
                _log(upload, now)


def _log(upload: UploadProgress, now: float) -> None:
    eta_s = upload.eta_s(now)
    log.info(
        "file.delivering",
        path=display(upload.path),
        bytes=upload.size_bytes,
        sent_bytes=upload.sent_bytes,
        percent=upload.percent,
        bytes_s=round(upload.bytes_s(now)),
        eta_s=None if eta_s is None else round(eta_s, 1),
        attempt=upload.attempt,
        duration_s=now - upload.started_at,
    )
