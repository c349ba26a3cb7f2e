"""The status of the queue: text of `status --check`, JSON of `status`, the forecast.

Each query uses an index or the state counts, so that it costs the same at a million rows as at ten.
Instants are seconds since the epoch.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from emitterd.codes import Code
from emitterd.errors import Outage
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import DROPPED, READ_FACT, SUPERSEDED
from emitterd.journal.store import Read
from emitterd.model import WAITING, State
from emitterd.monitoring.alarms import Alarm, AlarmLimits, Health, files_wait
from emitterd.monitoring.arrivals import Arrival
from emitterd.text import iso, printable
from emitterd.units import DAY_S

RECENT = 200
"""The forecast uses this many deliveries, so it follows a change of speed soon."""

RECENT_S = 3600.0
"""The forecast ignores older deliveries, so a quiet night does not lower the speed."""

REJECTED_MAX = 1000
"""Current rejections, and held files, are counted up to this number: each costs a look-up."""

_REJECTED = f"""select count(*), min(changed_at), max(path) from (
    select changed_at, path from entry where state = 'rejected' and forgotten_at is null
    and not {SUPERSEDED} order by changed_at desc limit ?)"""  # noqa: S608  names are ours

_UNCERTAIN = """select count(*), min(changed_at), max(path) from (
    select changed_at, path from entry where state = 'held' and error = 'E107'
    order by changed_at desc limit ?)"""

_DROPPED = f"select count(*), min(delivered_at), max(path) from ({DROPPED})"  # noqa: S608

_OF_TRACKED = f"""select count(*), min(at), max(path) from (
    select coalesce(begun_at, delivered_at) as at, path from tracked
    join entry on entry.id = tracked.id
    where forgotten_at is null and not {SUPERSEDED} and tracked.state ="""  # noqa: S608  names are ours

_STALLED = f"{_OF_TRACKED} 'stalled' limit ?)"

# The server reads each dataset once a day. A file with findings gets another day.
_NOT_TAKEN = f"""{_OF_TRACKED} 'waiting'
    and seen_at - delivered_at > iif(findings is null, ?, ?) limit ?)"""

_NOT_DISPOSED = f"""select count(*), min(delivered_at), max(path) from (
    select * from entry where disposal = 'due' order by id limit {REJECTED_MAX})
    where error = 'E211'"""  # noqa: S608  names are ours

_RECENT = """select count(*), coalesce(sum(bytes), 0),
    coalesce(max(delivered_at) - min(delivered_at - coalesce(duration_s, 0)), 0)
    from (select delivered_at, duration_s, bytes from entry
          where state = 'delivered' and delivered_at > ?
          order by delivered_at desc limit ?)"""

_OLDEST = """select min(admitted_at) from entry
    where state in ('queued', 'delivering', 'deferred')"""

_ARRIVALS = "select dataset, admitted_at, delivered_at, accepted_at from arrival"

_LAST_DELIVERED = "select max(delivered_at) from entry where state = 'delivered'"


class AffectedFiles(NamedTuple):
    """The files with one problem: how many, since when, and one of them; None without any."""

    files: int = 0
    since: float | None = None
    path: bytes | None = None


_NONE = AffectedFiles()


class Recent(NamedTuple):
    """The recent deliveries: files, bytes, and the seconds from first to last."""

    files: int
    size_bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The journal's numbers at one moment.

    `tally`: entries and bytes by state. `rejected`: neither replaced nor forgotten. `uncertain`:
    held, because a rebuilt journal may lack the receipt. `outages`: of the destination, as the
    daemon noted them. `noted` and `not_sent`: alarms that only the daemon can see, and paths that
    are not sent by code, as it noted them. `arrivals` and `expected_since`: by dataset. `tracked`:
    delivered files by what the server made of them. `stalled`: those that it has begun and not
    ended. `not_taken`: those that it has left in the bucket for a day. `not_disposed`: those that
    cannot be archived or deleted.
    """

    tally: Mapping[State, tuple[int, int]]
    oldest_waiting_at: float | None
    delivered_at: float | None
    rejected: AffectedFiles
    recent: Recent
    outages: tuple[Outage, ...]
    noted: tuple[Alarm, ...]
    restored_at: float | None = None
    """When emitterd found an older copy in place of the journal."""
    not_sent: Mapping[str, int] = field(default_factory=dict)
    dropped: AffectedFiles = _NONE
    uncertain: AffectedFiles = _NONE
    answered_at: float | None = None
    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    expected_since: Mapping[str, float] = field(default_factory=dict)
    tracked: Mapping[str, int] = field(default_factory=dict)
    stalled: AffectedFiles = _NONE
    not_taken: AffectedFiles = _NONE
    not_disposed: AffectedFiles = _NONE

    @property
    def waiting(self) -> int:
        """How many files wait."""
        return sum(self.tally[state][0] for state in WAITING)

    @property
    def waiting_bytes(self) -> int:
        """The size of all waiting files."""
        return sum(self.tally[state][1] for state in WAITING)

    @property
    def counts(self) -> dict[State, int]:
        """How many entries there are by state."""
        return {state: entries for state, (entries, _) in self.tally.items()}

    def eta_s(self, *, moving: bool, sent: tuple[float, int] = (0.0, 0)) -> float | None:
        """Return in how many seconds nothing will wait; None if it is not known.

        `moving`: whether a daemon runs and its destination is up.
        """
        if self.waiting and not moving:
            return None
        # An upload may have ended since the queue was read.
        files = max(self.waiting - sent[0], 0.0)
        return eta_s(self.recent, files, max(self.waiting_bytes - sent[1], 0))


@dataclass(frozen=True, slots=True)
class QueueReading:
    """What the journal and the running daemon know at one moment."""

    queue: QueueStatus
    health: Health
    outages: tuple[Outage, ...]
    eta_s: float | None
    swept_at: float | None
    not_sent: Mapping[Code, int] = field(default_factory=dict)


def read_queue(read: Read, now: float) -> QueueStatus:
    """Return the status of the queue; `read` runs a query on the journal."""
    facts = {name: json.loads(value) for name, value in read("select name, value from fact", ())}
    tally = read("select state, entries, bytes from tally", ())
    recent = Recent(*read(_RECENT, (now - RECENT_S, RECENT))[0])
    arrivals, expected_since = read_arrivals(read)
    # An earlier version noted no stages; its process is gone.
    outages = (facts.get("destination") or {}).get("stages", [])
    return QueueStatus(
        tally={State(state): (entries, size) for state, entries, size in tally},
        oldest_waiting_at=read(_OLDEST, ())[0][0],
        delivered_at=read(_LAST_DELIVERED, ())[0][0],
        rejected=AffectedFiles(*read(_REJECTED, (REJECTED_MAX,))[0]),
        recent=recent,
        outages=tuple(Outage(**outage) for outage in outages),
        noted=tuple(Alarm(**alarm) for alarm in facts.get("alarms") or []),
        restored_at=facts.get("restored_at"),
        not_sent=facts.get("not_sent") or {},
        dropped=AffectedFiles(*read(_DROPPED, ())[0]),
        uncertain=AffectedFiles(*read(_UNCERTAIN, (REJECTED_MAX,))[0]),
        answered_at=facts.get("answered_at"),
        arrivals=arrivals,
        expected_since=expected_since,
        tracked=dict(read("select state, files from tracked_tally", ())),
        stalled=AffectedFiles(*read(_STALLED, (REJECTED_MAX,))[0]),
        not_taken=AffectedFiles(*read(_NOT_TAKEN, (DAY_S, 2 * DAY_S, REJECTED_MAX))[0]),
        not_disposed=AffectedFiles(*read(_NOT_DISPOSED, ())[0]),
    )


def read_arrivals(read: Read) -> tuple[dict[str, Arrival], dict[str, float]]:
    """Return when files of each dataset last came, and since when each is expected."""
    rows = read(READ_FACT, ("", "expected"))
    expected_since = (json.loads(rows[0][0]) if rows else None) or {}
    return {dataset: Arrival(*at) for dataset, *at in read(_ARRIVALS, ())}, expected_since


def eta_s(recent: Recent, files: float, size_bytes: int) -> float | None:
    """Return in how many seconds the waiting files will be delivered.

    At the rate of recent deliveries: the mean of files a second and bytes a second, because each
    alone is far off after a change from small files to large ones. None if nothing is known.
    """
    if files == 0:
        return 0.0
    if recent.files == 0:
        return None
    by_files = files / recent.files
    by_bytes = size_bytes / recent.size_bytes if recent.size_bytes else by_files
    return round(max(recent.took_s, 0.001) * (by_files + by_bytes) / 2, 1)


def check_line(
    health: Health, queue: QueueStatus, limits: AlarmLimits, *, running: bool, now: float
) -> str:
    """Return the line of `status --check`: level, message, and the numbers after a bar.

    Source: Monitoring Plugins Development Guidelines, "Plugin Output".
    """
    words = "; ".join(alarm.words for alarm in health.alarms)
    words = words or without_alarm(queue.waiting, running=running)
    # A bar in the words would begin the numbers.
    words = printable(words).replace("|", "/")
    oldest_at = queue.oldest_waiting_at
    oldest_s = max(0.0, now - oldest_at) if oldest_at is not None else 0.0
    # Each number has its value, warning limit, critical limit and minimum.
    return (
        f"{health.level} - {words} | waiting={queue.waiting};;;0"
        f" waiting_bytes={queue.waiting_bytes}B;;;0"
        f" oldest={oldest_s:.0f}s;;{limits.oldest_waiting_s:.0f};0"
        f" rejected={queue.rejected.files};0;;0"
    )


def without_alarm(waiting: int, *, running: bool) -> str:
    """Return the words for a queue without an alarm."""
    words = files_wait(waiting) if waiting else "nothing waits"
    return words if running else f"{words}; no daemon runs"


def health_record(health: Health) -> dict[str, object]:
    """Return the JSON of `/healthz` and `status --check --json`."""
    return {
        "level": health.level,
        "alarms": [
            {
                "code": alarm.code,
                "level": alarm.level,
                "since": iso(alarm.since),
                "words": alarm.words,
                "hint": alarm.hint,
            }
            for alarm in health.alarms
        ],
    }


def status_record(reader: JournalReader, sent: tuple[float, int] = (0.0, 0)) -> dict[str, Any]:
    """Return the JSON of `status --json`: counts, ages and the destination."""
    queue, running = queue_status(reader), reader.running()
    return {
        "running": running,
        "counts": {state.value: queue.counts[state] for state in State},
        "not_sent": queue.not_sent if running else {},
        "waiting_bytes": queue.waiting_bytes,
        "oldest_waiting_at": iso(queue.oldest_waiting_at),
        "last_delivered_at": iso(queue.delivered_at),
        "journal_restored_at": iso(queue.restored_at),
        "destination": _destination(queue.outages, queue.answered_at),
        "eta_s": queue.eta_s(moving=running and not queue.outages, sent=sent),
    }


def queue_status(reader: JournalReader) -> QueueStatus:
    """Return the status of the queue now."""
    return read_queue(reader.read, time.time())


def _destination(outages: Sequence[Outage], answered_at: float | None) -> dict[str, Any]:
    if not outages:
        return {"state": "unknown" if answered_at is None else "up"}
    stages = [
        {
            "stage": outage.stage,
            "error": outage.code,
            "reason": outage.reason,
            "since": iso(outage.since),
        }
        for outage in outages
    ]
    return {"state": "down", **stages[0], "stages": stages}
