"""One look at one path: a candidate, known, still written, whole, acceptable.

In this order, so that what is cheap and common ends the look: the name costs nothing,
a known fingerprint one stat and one query; only what is new is opened.
"""

import os

import structlog

from emitterd.admission import Admission
from emitterd.catalogue import Catalogue
from emitterd.codes import Code
from emitterd.container import zip_flaw
from emitterd.disposal import Disposal
from emitterd.entry import display
from emitterd.errors import SourceError, Trouble, Verdict
from emitterd.fingerprint import Fingerprint
from emitterd.journal import Journal
from emitterd.meanings import MEANING
from emitterd.selection import Selection
from emitterd.settle import Proof, Tracker
from emitterd.spool import Spool, proof, read_at

MAX_BYTES = 5 * 1024**3
"""The largest object that one POST can make: Amazon S3, "POST Object"."""

log = structlog.get_logger()


class Examiner:
    """Looks at paths. Used by one thread; `tracker` holds what is not settled."""

    def __init__(  # noqa: PLR0913  the parts that the daemon puts together
        self,
        spool: Spool,
        selection: Selection,
        catalogue: Catalogue,
        tracker: Tracker,
        journal: Journal,
        disposal: Disposal,
        *,
        objections: str,
    ) -> None:
        """`objections` of the catalogue: off, warn (sent all the same), enforce."""
        self.tracker = tracker
        self.selection = selection
        self._spool = spool
        self._catalogue = catalogue
        self._journal = journal
        self._disposal = disposal
        self._objections = objections
        self._said: dict[bytes, Code] = {}

    def look(
        self, path: bytes, now: float, stat: os.stat_result | None = None
    ) -> Admission | None:
        """Return what to admit, or None; `stat` saves one where it is at hand.

        `now` is monotonic. What needs another look is left with the tracker.
        """
        if self.selection.ignored(path) is not None:
            overlooked = self.selection.overlooked(path)
            if overlooked is not None:
                self.say_once(path, Code.WRONG_ENDING, overlooked)
            return None
        try:
            seen = Fingerprint.of(stat or self._spool.stat(path))
            if self._known(path, seen):
                return None
            return self._examine(path, now)
        except SourceError as error:
            self.tracker.forget(path)
            if error.code is Code.GONE:
                self._said.pop(path, None)
            else:
                self.say_once(path, error.code, str(error))
        except OSError as error:
            # The disk, or a server of files, fails on this one; the next sweep asks.
            self.tracker.forget(path)
            self.say_once(path, Code.UNREADABLE, error.strerror or str(error))
        return None

    def say_once(self, path: bytes, code: Code, reason: str) -> None:
        """Log what keeps a path from being sent; again only when that changes."""
        if self._said.get(path) is code:
            return
        self._said[path] = code
        _tell_incomplete(path, code, reason)

    def admitted(self, path: bytes) -> None:
        """Note that a path is in the journal now."""
        self.tracker.forget(path)
        self._said.pop(path, None)

    def finding(self, path: bytes) -> str | None:
        """Return what the catalogue objects to in a path that is sent all the same."""
        return self._said_against(path) if self._objections == "warn" else None

    def _known(self, path: bytes, seen: Fingerprint) -> bool:
        known = self._journal.latest(path)
        if known is None or not known.settles(seen):
            return False
        self.tracker.forget(path)
        if known.disposal == "due":
            self._disposal.dispose(known.id, path, seen)
        return True

    def _examine(self, path: bytes, now: float) -> Admission | None:
        """Return the admission of a file that is complete, or hopeless."""
        with self._spool.open(path) as file:
            held = proof(file)
            seen = Fingerprint.of(os.fstat(file.fileno()))
            if not self.tracker.observe(path, seen, held, now):
                if self.tracker.stalled(path, now):
                    reason = "open for writing, and unchanged for long"
                    self.say_once(path, Code.STILL_WRITTEN, reason)
                return None
            flaw = zip_flaw(read_at(file), seen.size_bytes)
        if flaw is None:
            trouble = self._objection(path, seen)
        else:
            trouble = self._incomplete(path, seen, held, flaw, now)
            if trouble is None:
                return None
        place = self._catalogue.place(path)
        return Admission(
            path,
            seen,
            place.flow,
            place.rank,
            trouble,
            dispose=trouble is not None and not self._disposal.keeps_rejected,
        )

    def _objection(self, path: bytes, seen: Fingerprint) -> Trouble | None:
        if seen.size_bytes > MAX_BYTES:
            return _rejection(Code.TOO_LARGE, f"it has {seen.size_bytes} bytes")
        if self._objections != "enforce":
            return None
        finding = self._said_against(path)
        return _rejection(Code.CATALOGUE, finding) if finding else None

    def _said_against(self, path: bytes) -> str | None:
        return "; ".join(map(str, self._catalogue.findings(path))) or None

    def _incomplete(
        self, path: bytes, seen: Fingerprint, held: Proof, flaw: str, now: float
    ) -> Trouble | None:
        report, give_up = self.tracker.incomplete(path, seen, held, now)
        if give_up:
            return _rejection(Code.INCOMPLETE, flaw)
        if report:
            _tell_incomplete(path, Code.INCOMPLETE, flaw)
        return None


def _tell_incomplete(path: bytes, code: Code, reason: str) -> None:
    log.warning(
        "file.incomplete",
        path=display(path),
        error=code,
        reason=reason,
        hint=MEANING[code].remedy,
    )


def _rejection(code: Code, reason: str) -> Trouble:
    return Trouble(Verdict.REJECT, code, reason)
