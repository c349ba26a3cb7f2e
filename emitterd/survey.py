"""What lies in the folder and is not delivered, and why: the verdict of `once`."""

from dataclasses import dataclass

from emitterd.codes import Code
from emitterd.container import zip_flaw
from emitterd.entry import State, display
from emitterd.errors import SourceError
from emitterd.fingerprint import Fingerprint
from emitterd.journal import Journal
from emitterd.meanings import MEANING
from emitterd.selection import Selection
from emitterd.settle import Proof
from emitterd.spool import Spool, proof, read_at


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A file that did not reach the bucket."""

    path: str
    error: str | None
    reason: str


def undelivered(
    spool: Spool, selection: Selection, journal: Journal
) -> list[Undelivered]:
    """Return every candidate in the folder that is not delivered, in path order."""
    left: list[Undelivered] = []

    def unreadable(path: bytes, error: OSError) -> None:
        left.append(
            Undelivered(
                display(path or b"."), Code.UNREADABLE, error.strerror or str(error)
            )
        )

    for path, stat in spool.walk(selection.hidden, unreadable):
        if selection.ignored(path) is not None:
            overlooked = selection.overlooked(path)
            if overlooked is not None:
                left.append(Undelivered(display(path), Code.CATALOGUE, overlooked))
            continue
        found = _reason(spool, journal, path, Fingerprint.of(stat))
        if found is not None:
            left.append(found)
    return sorted(left, key=lambda one: one.path)


def _reason(
    spool: Spool, journal: Journal, path: bytes, seen: Fingerprint
) -> Undelivered | None:
    known = journal.latest(path)
    if known is not None and known.settles(seen):
        if known.state is State.DELIVERED:
            return None
        reason = known.reason or known.state.value
        return Undelivered(display(path), known.error, reason)
    try:
        with spool.open(path) as file:
            if proof(file) is Proof.OPEN:
                return _because(path, Code.STILL_WRITTEN)
            flaw = zip_flaw(read_at(file), seen.size_bytes)
    except SourceError as error:
        return Undelivered(display(path), error.code, str(error))
    if flaw is not None:
        return Undelivered(display(path), Code.INCOMPLETE, flaw)
    return Undelivered(display(path), None, "not looked at yet")


def _because(path: bytes, code: Code) -> Undelivered:
    return Undelivered(display(path), code, MEANING[code].title)
