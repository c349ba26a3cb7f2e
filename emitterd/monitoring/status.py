"""The status of the queue: text of `status --check`, JSON of `status`, the forecast.

Instants are seconds since the epoch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from emitterd.codes import Code
from emitterd.errors import Outage
from emitterd.journal.numbers import (
    AffectedFiles,
    Arrival,
    HostStatus,
    Recent,
    read_arrivals,
    read_numbers,
)
from emitterd.journal.reader import JournalReader
from emitterd.journal.store import Read
from emitterd.model import WAITING, State
from emitterd.monitoring.alarms import Alarm, AlarmLimits, Health, files_wait
from emitterd.text import iso, printable
from emitterd.translation.text import Text

_NONE = AffectedFiles()


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
    hosts: tuple[HostStatus, ...] = ()

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
    numbers = read_numbers(read, now)
    facts, by_host = numbers.facts, numbers.host_facts
    arrivals, expected_since = read_arrivals(read)
    answered = [at for own in by_host.values() if (at := own.get("answered_at")) is not None]
    return QueueStatus(
        tally=numbers.tally,
        oldest_waiting_at=numbers.oldest_waiting_at,
        delivered_at=numbers.delivered_at,
        rejected=numbers.rejected,
        recent=numbers.recent,
        outages=tuple(chain.from_iterable(map(_outages, by_host.items()))),
        noted=tuple(chain.from_iterable(map(_noted, by_host.items()))),
        restored_at=facts.get("restored_at"),
        not_sent=_not_sent(by_host.values()),
        hosts=numbers.hosts,
        dropped=numbers.dropped,
        uncertain=numbers.uncertain,
        answered_at=max(answered, default=None),
        arrivals=arrivals,
        expected_since=expected_since,
        tracked=numbers.tracked,
        stalled=numbers.stalled,
        not_taken=numbers.not_taken,
        not_disposed=numbers.not_disposed,
    )


def _outages(of_host: tuple[str, Mapping[str, Any]]) -> Iterator[Outage]:
    """Yield the outages that a host has noted; the reason names the host, if it has a name."""
    host, facts = of_host
    # An earlier version noted no stages; its process is gone.
    for outage in (facts.get("destination") or {}).get("stages", []):
        yield Outage(**(outage | {"reason": _at_host(host, outage["reason"])}))


def _noted(of_host: tuple[str, Mapping[str, Any]]) -> Iterator[Alarm]:
    """Yield the alarms that only a host itself can see, as it has noted them."""
    host, facts = of_host
    for alarm in facts.get("alarms") or []:
        yield Alarm(**(alarm | {"words": _at_host(host, alarm["words"]), "host": host}))


def _at_host(host: str, words: str) -> str:
    return Text("host {host}: {words}", host=host, words=words) if host else words


def _not_sent(of_hosts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the counts of the host that sees most of them: only one sweeps the whole folder."""
    counts = [facts.get("not_sent") or {} for facts in of_hosts]
    return max(counts, key=lambda by_code: sum(by_code.values()), default={})


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
    } | ({"hosts": [*map(host_record, queue.hosts)]} if queue.hosts else {})


def host_record(host: HostStatus) -> dict[str, Any]:
    """Return a host as in `hosts --json`."""
    return {
        "name": host.name,
        "state": "living" if host.is_living else "lost" if host.is_lost else "ended",
        "since": iso(host.since),
        "lease_until": iso(host.until_at),
        "ended_at": iso(host.ended_at),
        "version": host.version,
        "delivering": host.claims,
        "sweeps": host.is_living and host.sweeps,
    }


def queue_status(reader: JournalReader) -> QueueStatus:
    """Return the status of the queue now."""
    return read_queue(reader.read, reader.now())


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
