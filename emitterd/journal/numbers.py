"""The journal's numbers: what `status`, the alarms and the page count.

Each query uses an index or the state counts, so that it costs the same at a million rows as at ten.
Instants are seconds since the epoch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from emitterd.journal.rows import DROPPED, READ_FACT, SUPERSEDED
from emitterd.journal.store import Read
from emitterd.model import State
from emitterd.units import DAY_S

RECENT = 200
"""The forecast uses this many deliveries, so it follows a change of speed soon."""

RECENT_S = 3600.0
"""The forecast ignores older deliveries, so a quiet night does not lower the speed."""

REJECTED_MAX = 1000
"""Current rejections, and held files, are counted up to this number: each costs a look-up."""


def _affected(files: str) -> str:
    """Return the query of `AffectedFiles` for a query of (instant, path)."""
    return f"""with found (at, path) as ({files}) select count(*), min(at),
        (select path from found order by path desc limit 1) from found"""  # noqa: S608  no input


_REJECTED = _affected(f"""select changed_at, path from entry where state = 'rejected'
    and forgotten_at is null and not {SUPERSEDED} order by changed_at desc limit ?""")  # noqa: S608

_UNCERTAIN = _affected("""select changed_at, path from entry where state = 'held'
    and error = 'E107' order by changed_at desc limit ?""")

_DROPPED = _affected(f"select delivered_at, path from ({DROPPED}) as dropped")  # noqa: S608

_OF_TRACKED = f"""select coalesce(begun_at, delivered_at), path from tracked
    join entry on entry.id = tracked.id
    where forgotten_at is null and not {SUPERSEDED} and tracked.state ="""  # noqa: S608  no input

_STALLED = _affected(f"{_OF_TRACKED} 'stalled' limit ?")

# The server reads each dataset once a day. A file with findings gets another day.
_NOT_TAKEN = _affected(f"""{_OF_TRACKED} 'waiting' and seen_at - delivered_at
    > case when findings is null then {DAY_S} else {2 * DAY_S} end limit ?""")

_NOT_DISPOSED = _affected(f"""select delivered_at, path from (
    select * from entry where disposal = 'due' order by id limit {REJECTED_MAX}) as due
    where error = 'E211'""")  # noqa: S608  no input

_RECENT = """select count(*), cast(coalesce(sum(bytes), 0) as bigint),
    coalesce(max(delivered_at) - min(delivered_at - coalesce(duration_s, 0)), 0)
    from (select delivered_at, duration_s, bytes from entry
          where state = 'delivered' and delivered_at > ?
          order by delivered_at desc limit ?) as recent"""

_OLDEST = """select min(admitted_at) from entry
    where state in ('queued', 'delivering', 'deferred')"""

_ARRIVALS = "select dataset, admitted_at, delivered_at, accepted_at from arrival"

_LAST_DELIVERED = "select max(delivered_at) from entry where state = 'delivered'"

_DELIVERED = """select count(*), cast(coalesce(sum(bytes), 0) as bigint) from entry
    where state = 'delivered' and delivered_at >= ? and delivered_at < ?"""


_HOSTS = """select id, name, begun_at, until_at, ended_at, version from host
    where not exists (select 1 from host later where later.name = host.name and later.id > host.id)
    order by name"""

_CLAIMS = "select host, count(*) from entry where state = 'delivering' group by host"


class AffectedFiles(NamedTuple):
    """The files with one problem: how many, since when, and one of them; None without any."""

    files: int = 0
    since: float | None = None
    path: bytes | None = None


class HostStatus(NamedTuple):
    """The last life of a host: since when, until when its lease runs, and when it ended.

    `claims`: how many files it is sending. `sweeps`: whether it looks at the folder for all.
    """

    name: str
    since: float
    until_at: float
    ended_at: float | None
    version: str
    claims: int
    sweeps: bool

    @property
    def is_living(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None

    @property
    def is_lost(self) -> bool:
        """Whether others have ended it, because its lease was over."""
        return self.ended_at is not None and self.ended_at > self.until_at


class Recent(NamedTuple):
    """The recent deliveries: files, bytes, and the seconds from first to last."""

    files: int
    size_bytes: int
    took_s: float


class Arrival(NamedTuple):
    """When a file of a dataset was last admitted, delivered, and processed; None: never.

    `accepted_at`: when the server ended it, by its own clock; None without tracking.
    """

    admitted_at: float | None = None
    delivered_at: float | None = None
    accepted_at: float | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """The journal's numbers at one moment.

    `facts`: of all hosts, by name. `host_facts`: by host and name; where there is only one host,
    its name is empty. `hosts`: by name; empty where no other host can share the journal. `tally`:
    entries and bytes by state. `rejected`: neither replaced nor forgotten. `dropped`: delivered,
    although the server drops them. `uncertain`: held, because a rebuilt journal may lack the
    receipt. `tracked`: delivered files by what the server made of them. `stalled`: those that it
    has begun and not ended. `not_taken`: those that it has left in the bucket for a day.
    `not_disposed`: those that cannot be archived or deleted.
    """

    facts: Mapping[str, Any]
    host_facts: Mapping[str, Mapping[str, Any]]
    hosts: tuple[HostStatus, ...]
    tally: Mapping[State, tuple[int, int]]
    oldest_waiting_at: float | None
    delivered_at: float | None
    recent: Recent
    rejected: AffectedFiles
    dropped: AffectedFiles
    uncertain: AffectedFiles
    tracked: Mapping[str, int]
    stalled: AffectedFiles
    not_taken: AffectedFiles
    not_disposed: AffectedFiles


def read_numbers(read: Read, now: float) -> Numbers:
    """Return the numbers of the journal."""
    facts: dict[str, dict[str, Any]] = {"": {}}
    hosts = tuple(read_hosts(read))
    living = {""} | {host.name for host in hosts if host.is_living}
    for host, name, value in read("select host, name, value from fact", ()):
        if host in living:
            facts.setdefault(host, {})[name] = json.loads(value)
    tally = read("select state, entries, bytes from tally", ())
    return Numbers(
        facts=facts[""],
        host_facts=facts if not hosts else {name: facts.get(name, {}) for name in living if name},
        hosts=hosts,
        tally={State(state): (entries, size) for state, entries, size in tally},
        oldest_waiting_at=read(_OLDEST, ())[0][0],
        delivered_at=read(_LAST_DELIVERED, ())[0][0],
        recent=Recent(*read(_RECENT, (now - RECENT_S, RECENT))[0]),
        rejected=AffectedFiles(*read(_REJECTED, (REJECTED_MAX,))[0]),
        dropped=AffectedFiles(*read(_DROPPED, ())[0]),
        uncertain=AffectedFiles(*read(_UNCERTAIN, (REJECTED_MAX,))[0]),
        tracked=dict(read("select state, files from tracked_tally", ())),
        stalled=AffectedFiles(*read(_STALLED, (REJECTED_MAX,))[0]),
        not_taken=AffectedFiles(*read(_NOT_TAKEN, (REJECTED_MAX,))[0]),
        not_disposed=AffectedFiles(*read(_NOT_DISPOSED, ())[0]),
    )


def read_hosts(read: Read) -> list[HostStatus]:
    """Return the last life of each host, by name."""
    rows = read(_HOSTS, ())
    if not rows:
        return []
    claims: dict[int, int] = dict(read(_CLAIMS, ()))
    # Only a store with hosts has one that sweeps.
    sweeper = read("select sweeper from meta", ())[0][0]
    return [
        HostStatus(name, since, until_at, ended_at, version, claims.get(host, 0), host == sweeper)
        for host, name, since, until_at, ended_at, version in rows
        # A command that wrote has a name with its process in it.
        if "/" not in name
    ]


def read_arrivals(read: Read) -> tuple[dict[str, Arrival], dict[str, float]]:
    """Return when files of each dataset last came, and since when each is expected."""
    rows = read(READ_FACT, ("", "expected"))
    expected_since = (json.loads(rows[0][0]) if rows else None) or {}
    return {dataset: Arrival(*at) for dataset, *at in read(_ARRIVALS, ())}, expected_since


def delivered_between(read: Read, since: float, until: float) -> tuple[int, int]:
    """Return files and bytes that were delivered at or after `since`, and before `until`."""
    files, size_bytes = read(_DELIVERED, (since, until))[0]
    return files, size_bytes
