"""An entry of the journal, its states, and the verbs that change them."""

import json
import os
import time
import zlib
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self

from emitterd.text import display

WireProtocol = Literal["emission", "ingestion"]
"""The protocol of an emission API. `emission`: cQube 1.0 to 4.1. `ingestion`: cQube 5."""

CLOCK_TICK_S = time.clock_getres(5)
"""How far apart time stamps are that the kernel gives: CLOCK_REALTIME_COARSE of time.h."""

COARSE_TICK_S = 2.0
"""The same where stamps are whole seconds (ext3, ext4 with 128-byte inodes) or two (FAT)."""


class Fingerprint(NamedTuple):
    """What a stat says about a version of a file.

    ctime is in it because `touch -r` can forge mtime but not ctime.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Return the fingerprint of a stat result."""
        # SQLite stores signed integers; device and inode are unsigned, 64 bits.
        return cls(
            stat.st_dev & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_ino & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_size,
            _int64(stat.st_mtime_ns),
            _int64(stat.st_ctime_ns),
        )

    def same_version(self, other: Self) -> bool:
        """Tell whether both are one version, without reading the file.

        Device and inode do not decide: FUSE and FAT number files anew, and a remount changes the
        device. A file that replaces another one by a rename has a new ctime.
        """
        return self[2:] == other[2:]

    def same_times(self, other: Self) -> bool:
        """Tell whether size and mtime are equal: then nobody has written the file openly.

        The ctime alone also changes with permissions, links and names. Only the content can tell
        these from a program that has set the mtime back.
        """
        return self[2:4] == other[2:4]

    def young_s(self, now: float) -> float:
        """Return for how long another version could still get these time stamps, in seconds.

        A write within one tick of the file system's clock does not change the ctime. The problem
        and the name "racily clean" are Git's.
        """
        age_s = now - self.ctime_ns / 1e9
        tick_s = CLOCK_TICK_S if self.ctime_ns % 10**9 else COARSE_TICK_S
        return max(0.0, tick_s - age_s) if age_s >= 0 else 0.0


def _int64(number: int) -> int:
    # File systems hold dates before 1677 and after 2262, which are more nanoseconds.
    return max(-(2**63), min(number, 2**63 - 1))


class State(StrEnum):
    """The state of an entry."""

    QUEUED = "queued"
    DELIVERING = "delivering"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    HELD = "held"


LIVE = frozenset({State.QUEUED, State.DELIVERING, State.DEFERRED, State.HELD})
"""States of an entry that is not ended; each path has at most one such entry."""

WAITING = LIVE - {State.HELD}
"""States of an entry that is neither ended nor held."""


class Verb(StrEnum):
    """A change of an entry from one state to another."""

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
    """Which of the entries that are due is claimed next."""

    ANY = "any"
    """The next one in the fair queue."""
    FRESH_FIRST = "fresh-first"
    """One that has not failed yet, else the one that waited longest: a bad file must not be used
    for every probe of a destination that is down."""
    PINNED_FIRST = "pinned-first"
    """The one with a grant that waited longest, else a fresh one."""


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
    # A rejected file must pass inspection and admission again, as a new version.
    Verb.REOPEN: (frozenset({State.REJECTED}), State.WITHDRAWN),
}
"""The whole state machine: for each verb, the states that allow it and its target."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A presigned upload: permission to upload one object for one hour.

    It is the answer of `POST /upload-url`. `granted_at` and `expires_at` are seconds since the
    epoch by this host's clock. The fields hold a policy and its signature: secrets, never logged.
    """

    url: str
    fields: dict[str, str]
    granted_at: float
    expires_at: float
    issuer: str = ""
    """The emission API that issued it; another one must not use it."""

    @property
    def key(self) -> str:
        """The object key that this grant is pinned to."""
        return self.fields["key"]

    def ended(self) -> Self:
        """Return what emitterd keeps of a refused grant, to look for its object."""
        left = {name: self.fields.get(name, "") for name in ("key", "policy")}
        return replace(self, fields=left, expires_at=0.0)

    def pack(self) -> bytes:
        """Return the grant as the journal stores it: compressed, so not readable."""
        values = [getattr(self, field.name) for field in fields(self)]
        return zlib.compress(json.dumps(values).encode())

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the grant that `pack` stored."""
        return cls(*json.loads(zlib.decompress(packed)))

    def __repr__(self) -> str:
        return f"Grant(key={self.key!r}, expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one file, as claimed by a worker."""

    id: int
    path: bytes
    fingerprint: Fingerprint
    attempts: int
    error: str | None
    grant: Grant | None
    ambiguous: bool
    first: bool = False
    """Whether the journal has no other version of the path, and never had a grant."""
    token: int = 0
    """The number of the claim: each change of state raises it."""
    host: int | None = None
    """The number of the host that has claimed it; None where there is only one."""

    @property
    def name(self) -> str:
        """The path as text for logs and tables."""
        return display(self.path)


class Confirmation(StrEnum):
    """The result of the look-up of an object whose upload was not answered, or `marked`."""

    FOUND = "found"
    """The bucket has all the bytes: the file is delivered."""
    ABSENT = "absent"
    """There is no object: never stored, or already collected by the server."""
    OTHER = "other"
    """The object has different bytes."""
    UNKNOWN = "unknown"
    """The look-up failed, or its answer proves nothing."""
    MARKED = "marked"
    """An operator says that the server has the file. emitterd has not sent it."""


class ServerState(StrEnum):
    """What the server made of a delivered file, as far as emitterd could see."""

    WAITING = "waiting"
    """At the last look the object was in the emission bucket."""
    PICKED_UP = "picked_up"
    """The object is gone from the bucket. The server's log does not show its end yet."""
    PROCESSED = "processed"
    """The server's log has an end for the file, and counts its rows."""
    STALLED = "stalled"
    """The server has begun the file and not ended it."""
    UNKNOWN = "unknown"
    """emitterd has stopped asking without an answer."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A delivered file, and what the server made of it.

    All instants are of this host's clock, but `started_at` and `ended_at`, which are of the
    server's: the two are never compared. `due_at`: the next look; None when there is none any more.
    `seen_at`: the last look that found the object in the bucket. `gone_at`: the first one that did
    not. `begun_at`: the first look at which the server's log had a start without an end. `rows`:
    the server's counts, as in `receipts --json`.
    """

    id: int
    path: bytes
    key: str
    delivered_at: float
    state: ServerState = ServerState.WAITING
    looks: int = 0
    looked_at: float | None = None
    due_at: float | None = None
    seen_at: float | None = None
    gone_at: float | None = None
    begun_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    rows: dict[str, Any] | None = None

    @property
    def file_name(self) -> str:
        """The name of the file in the server's logs: the key after its first slash."""
        return self.key.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of delivery: what was sent and what the server answered."""

    key: str
    etag: str
    size_bytes: int
    md5: bytes
    sha256: bytes
    verified: bool
    """Whether the ETag is an MD5 and equals that of the bytes sent."""
    confirmed: bool = False
    """Whether a look-up proved it, because the upload was not answered."""
    ambiguous: bool = False
    """Whether the body was sent twice, and the server may have stored the first one as well."""
    rows: dict[str, Any] | None = None
    """The server's counts, if it has processed the file; as in `Tracked`."""
