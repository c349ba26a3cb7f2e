"""How far long uploads are: told in the log, and noted in the journal for `status`.

`status` does not ask the daemon, which may be what stands still, and whoever may read
the journal may see it. So it is noted there, which costs a commit: at intervals, and
for long uploads only.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from emitterd.errors import JournalFull
from emitterd.journal.journal import Journal
from emitterd.model import display, iso
from emitterd.monitoring.uploads import UPLOADS, UploadProgress, UploadTracker
from emitterd.text import share

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
        self._noted = bool(journal.noted(UPLOADS))
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
            self._journal.note(UPLOADS, [_noted(one, now) for one in long])
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
        "percent": share(upload.sent_bytes, upload.size_bytes),
        "bytes_s": round(upload.bytes_s(now)),
        "eta_s": None if eta_s is None else round(eta_s, 1),
        "attempt": upload.attempt,
    }
