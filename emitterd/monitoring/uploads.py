"""Uploads under way: kept in memory for the page, and logged if they take long."""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from emitterd.model import Entry
from emitterd.text import display, share

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_S = 30.0
"""An upload is logged after this time, and again each time it passes."""

SPEED_S = 20.0
"""The speed of an upload is that of its last 20 to 40 seconds."""

SLOT_S = 10.0
SLOTS = 60
"""The speed of all uploads is kept for ten minutes."""

log = structlog.get_logger()


class SpeedHistory:
    """The bytes that were sent in each ten seconds of the last ten minutes.

    `now` is in seconds since the epoch. A clock that goes back moves no bytes.
    """

    def __init__(self) -> None:
        self._slots = deque([0] * SLOTS, maxlen=SLOTS)
        self._slot = 0
        self._current_bytes = 0

    def add(self, size_bytes: int, now: float) -> None:
        """Count bytes that were sent."""
        self._advance(now)
        self._current_bytes += size_bytes

    def slots(self, now: float) -> list[int]:
        """Return the bytes of each complete slot, the oldest first."""
        self._advance(now)
        return list(self._slots)

    def _advance(self, now: float) -> None:
        slot = int(now // SLOT_S)
        for _ in range(min(slot - self._slot, SLOTS)):
            self._slots.append(self._current_bytes)
            self._current_bytes = 0
        self._slot = slot


@dataclass(slots=True)
class UploadProgress:
    """One upload under way; instants are seconds since the epoch.

    `marks`: two earlier instants, each with the bytes that were sent by then. The speed counts from
    the first; after `SPEED_S` the second takes its place.
    """

    id: int
    path: bytes
    size_bytes: int
    attempt: int
    started_at: float
    logged_at: float
    marks: tuple[tuple[float, int], tuple[float, int]]
    sent_bytes: int = 0

    def add(self, size_bytes: int, now: float) -> None:
        """Count bytes that were sent."""
        # The form fields, and a body that is sent again within the attempt, make no more of it
        # than the file has.
        self.sent_bytes = min(self.size_bytes, self.sent_bytes + size_bytes)
        if now - self.marks[1][0] >= SPEED_S:
            self.marks = self.marks[1], (now, self.sent_bytes)

    @property
    def percent(self) -> int:
        """Which part is sent, in whole per cent."""
        return share(self.sent_bytes, self.size_bytes)

    def bytes_s(self, now: float) -> float:
        """Return the recent speed in bytes a second; 0.0 at the start."""
        at, sent_bytes = self.marks[0]
        return (self.sent_bytes - sent_bytes) / (now - at) if now > at else 0.0

    def eta_s(self, now: float) -> float | None:
        """Return the seconds left at this speed; None if nothing moves."""
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
        self._speeds = SpeedHistory()

    def began(self, entry: Entry) -> None:
        """Add the upload of this thread."""
        now, size_bytes = time.time(), entry.fingerprint.size_bytes
        attempt = entry.attempts + 1
        marks = (now, 0), (now, 0)
        upload = UploadProgress(entry.id, entry.path, size_bytes, attempt, now, now, marks)
        with self._lock:
            self._uploads[threading.get_ident()] = upload

    def sent(self, size_bytes: int) -> None:
        """Add to the bytes that this thread has sent."""
        upload = self._uploads[threading.get_ident()]
        self.on_sent(size_bytes)
        now = time.time()
        with self._lock:
            upload.add(size_bytes, now)
            self._speeds.add(size_bytes, now)

    def ended(self) -> None:
        """Remove the upload of this thread."""
        with self._lock:
            del self._uploads[threading.get_ident()]

    def now(self) -> list[UploadProgress]:
        """Return copies of the uploads under way, the oldest first."""
        with self._lock:
            uploads = [replace(upload) for upload in self._uploads.values()]
        return sorted(uploads, key=lambda upload: upload.started_at)

    def last_minutes(self, now: float) -> list[int]:
        """Return the bytes of all uploads in each ten seconds of the last ten minutes."""
        with self._lock:
            return self._speeds.slots(now)

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
