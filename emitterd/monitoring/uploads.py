"""The uploads under way, for who looks on: kept in memory, by the workers.

Each worker's thread has one upload at a time, so whatever it calls may tell how far
that is: the socket does, since a chunk of the file may take a minute on a thin line.
"""

import threading
import time
from dataclasses import dataclass, replace

from emitterd.model import Entry

UPLOADS = "uploads"
"""The journal's fact of how far the long ones are, for `status`."""


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


_mine = threading.local()


def advance(size_bytes: int) -> None:
    """Note that so much of the body that this thread sends went out.

    In a thread that has no upload on a board this is nothing.
    """
    upload: UploadProgress | None = getattr(_mine, "upload", None)
    if upload is not None:
        upload.ahead_bytes += size_bytes


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
        _mine.upload = upload

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
        _mine.upload = None
        with self._lock:
            del self._uploads[entry.id]

    def now(self) -> list[UploadProgress]:
        """Return what is under way, the upload that began first first."""
        with self._lock:
            found = [_seen(one) for one in self._uploads.values()]
        return sorted(found, key=lambda one: one.started_at)


def _seen(upload: UploadProgress) -> UploadProgress:
    """Return a copy in which `sent_bytes` is all that went out."""
    sent_bytes = min(upload.size_bytes, upload.sent_bytes + upload.ahead_bytes)
    return replace(upload, sent_bytes=sent_bytes, ahead_bytes=0)
