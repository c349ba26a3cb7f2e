"""The journal's vocabulary: an entry, its states, and the verbs between them."""

import json
import os
import zlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Self

from emitterd.text import display

# What identifies a version of a file without reading it.


class Fingerprint(NamedTuple):
    """The stat fingerprint: equal means that the content need not be hashed again.

    ctime is in it because `touch -r` can forge mtime but not ctime.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Take the fingerprint out of a stat result."""
        # SQLite's integers are signed; a device or inode number is an unsigned 64.
        return cls(
            stat.st_dev & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_ino & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )

    def same_bytes(self, later: Self, links: int) -> bool:
        """Tell whether the descriptor still has the bytes this fingerprint stood for.

        A file that was deleted, or replaced by a rename, while it is read changes
        only its ctime and has no link left; the open descriptor keeps its bytes.
        """
        return self == later or (links == 0 and later.renamed_from(self))

    def renamed_from(self, earlier: Self) -> bool:
        """Tell whether it is the same file under another name: that changes ctime."""
        return self[:4] == earlier[:4]


class State(StrEnum):
    """Where an entry stands."""

    QUEUED = "queued"
    DELIVERING = "delivering"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    HELD = "held"


LIVE = frozenset({State.QUEUED, State.DELIVERING, State.DEFERRED, State.HELD})
"""States of an entry that still has to reach the bucket; one a path at the most."""

WAITING = LIVE - {State.HELD}
"""States of an entry that is neither ended nor held."""


class Verb(StrEnum):
    """What moves an entry from one state to another."""

    CLAIM = "claim"
    DELIVER = "deliver"
    DEFER = "defer"
    INTERRUPT = "interrupt"
    RECLAIM = "reclaim"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    REOPEN = "reopen"


class ClaimOrder(StrEnum):
    """Which of the entries that are due is to be claimed."""

    ANY = "any"
    """The one whose turn it is."""
    FRESH_FIRST = "fresh-first"
    """One that has not failed yet, or else the one that waited longest: a bad file
    must not be every probe of a destination that is down."""
    PINNED_FIRST = "pinned-first"
    """One that has its grant, the one that waited longest; or else a fresh one."""
    PINNED = "pinned"
    """One that has its grant, or none."""


TRANSITIONS: dict[Verb, tuple[frozenset[State], State]] = {
    Verb.CLAIM: (frozenset({State.QUEUED, State.DEFERRED}), State.DELIVERING),
    Verb.DELIVER: (frozenset({State.DELIVERING}), State.DELIVERED),
    Verb.DEFER: (frozenset({State.DELIVERING}), State.DEFERRED),
    Verb.INTERRUPT: (frozenset({State.DELIVERING}), State.QUEUED),
    Verb.RECLAIM: (frozenset({State.DELIVERING}), State.QUEUED),
    Verb.REJECT: (frozenset({State.DELIVERING}), State.REJECTED),
    Verb.WITHDRAW: (LIVE, State.WITHDRAWN),
    Verb.HOLD: (frozenset({State.QUEUED, State.DEFERRED}), State.HELD),
    Verb.RELEASE: (frozenset({State.HELD}), State.QUEUED),
    Verb.RETRY: (frozenset({State.DEFERRED}), State.QUEUED),
    # What was refused at the door must pass the door again: the rejection is taken
    # back, and the file, if it is there, is looked at as a new one.
    Verb.REOPEN: (frozenset({State.REJECTED}), State.WITHDRAWN),
}
"""The state machine, whole. A verb on any other state is an `IllegalTransition`."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to POST one object: what `POST /upload-url` answered.

    `expires_at` and `granted_at` are seconds since the epoch by this host's clock.
    The fields hold a policy and its signature: secrets, never logged.
    """

    url: str
    fields: dict[str, str]
    granted_at: float
    expires_at: float
    issuer: str = ""
    """The emission API that gave it: another one's grants lead elsewhere."""

    @property
    def key(self) -> str:
        """The object key that this grant is pinned to."""
        return self.fields["key"]

    def spent(self) -> Self:
        """Return what is left of it once it is refused: whose and where it was."""
        left = {name: self.fields.get(name, "") for name in ("key", "policy")}
        return replace(self, fields=left, expires_at=0.0)

    def pack(self) -> bytes:
        """Return the grant as the journal keeps it: not legible at a glance."""
        return zlib.compress(
            json.dumps(
                [
                    self.url,
                    self.fields,
                    self.granted_at,
                    self.expires_at,
                    self.issuer,
                ]
            ).encode()
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return a grant that `pack` packed."""
        return cls(*json.loads(zlib.decompress(packed)))

    def __repr__(self) -> str:
        return f"Grant(key={self.key!r}, expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one file, as a worker holds it after a claim."""

    id: int
    path: bytes
    fingerprint: Fingerprint
    attempts: int
    error: str | None
    grant: Grant | None
    ambiguous: bool
    first: bool = False
    """Whether nothing else is on record of its path: no version, and no grant."""

    @property
    def name(self) -> str:
        """The path for people."""
        return display(self.path)


class Confirmation(StrEnum):
    """What the bucket showed under the key of a body whose answer was lost."""

    FOUND = "found"
    """All the bytes: the file is delivered."""
    ABSENT = "absent"
    """Nothing: never stored, or taken by the server already."""
    OTHER = "other"
    """An object of other bytes."""
    UNKNOWN = "unknown"
    """It could not be asked, or its answer tells nothing."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of delivery: what was sent and what the bucket answered."""

    key: str
    etag: str
    size_bytes: int
    md5: bytes
    sha256: bytes
    verified: bool
    """Whether the ETag is an MD5 and equals that of the bytes sent."""
    confirmed: bool = False
    """Whether the bucket was asked afterwards, the answer to the body being lost."""
