"""Decides what to tell and when: from the alarms of now, and what was told before.

An alarm code is one incident, from its first sight until the alarm has been gone for `QUIET_S`. A
channel is told when an incident begins, when it grows, again after `alerts.repeat_every`, and when
it ends. Pure: no I/O. Instants are seconds since the epoch. If the clock was set back, what waits
for its time is due at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from emitterd.monitoring.alarms import Alarm, AlarmLevel

GATHER_S = 10.0
"""The wait after an alarm begins: its cause often raises others within seconds."""

QUIET_S = 600.0
"""An alarm that returns within this time has not ended: an unsteady line is one incident."""

GROWTH_S = 3600.0
"""A growing incident is told again after this time at the earliest."""

AHEAD_S = 300.0
"""A message also tells what would be due this soon after it."""

RETRY_S = 86400.0
"""How long a failed message is tried again."""

BACKOFF_S, BACKOFF_MAX_S = 60.0, 3600.0
"""The wait after a channel's first failure, and the longest one."""


class NewsKind(StrEnum):
    """What is told about an incident."""

    BEGAN = "began"
    GREW = "grew"
    GOES_ON = "goes_on"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Incident:
    """An alarm as it was last seen; `began_at`: when it was first seen."""

    alarm: Alarm
    began_at: float
    ended_at: float | None = None

    @property
    def since(self) -> float:
        """Since when it is: the alarm itself may know of an earlier time."""
        return min(self.alarm.since, self.began_at)


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel was last told about an incident, which `began_at` identifies."""

    began_at: float
    at: float
    affected: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """What one channel was told, by alarm code, and its failures since its last success."""

    told: Mapping[str, Told] = field(default_factory=dict)
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0

    def succeeded(self, news: "Iterable[News]", now: float) -> Self:
        """Return the record after this was told."""
        return replace(self, told=self._with(news, now), failures=0)

    def failed(self, news: "Iterable[News]", now: float) -> Self:
        """Return the record after this could not be told.

        What could not be told for a day counts as told.
        """
        # The clock may have been set back since.
        since = min(self.failing_since, now) if self.failures else now
        given_up = [item for item in news if now - max(since, item.at) >= RETRY_S]
        # The exponent is bounded: a channel may fail for years.
        wait_s = min(BACKOFF_S * 2 ** min(self.failures, 10), BACKOFF_MAX_S)
        return replace(
            self,
            told=self._with(given_up, now),
            failures=self.failures + 1,
            failing_since=now if given_up else since,
            retry_at=now + wait_s,
        )

    def waits(self, now: float) -> bool:
        """Tell whether the next try is not due yet."""
        return self.failures > 0 and 0 < self.retry_at - now <= BACKOFF_MAX_S

    def _with(self, news: "Iterable[News]", now: float) -> dict[str, Told]:
        return {**self.told, **{item.code: item.told(now) for item in news}}


@dataclass(frozen=True, slots=True)
class News:
    """One thing to tell."""

    kind: NewsKind
    incident: Incident

    @property
    def code(self) -> str:
        """The alarm's code."""
        return self.incident.alarm.code

    @property
    def at(self) -> float:
        """When the incident ended, or else when it began."""
        ended_at = self.incident.ended_at
        return self.incident.began_at if ended_at is None else ended_at

    def told(self, now: float) -> Told:
        """Return the record that this was told."""
        incident, ended = self.incident, self.kind is NewsKind.ENDED
        return Told(incident.began_at, now, incident.alarm.affected, ended)


Incidents = Mapping[str, Incident]


def is_over(since: float, wait_s: float, now: float) -> bool:
    """Tell whether a wait is over; it also is if the clock was set back."""
    return not since <= now < since + wait_s


def observe(incidents: Incidents, alarms: Iterable[Alarm], now: float) -> dict[str, Incident]:
    """Return the incidents after a look at the current alarms."""
    seen: dict[str, Incident] = {}
    for alarm in alarms:
        known = incidents.get(alarm.code)
        returns = known is not None and not _is_quiet(known, now)
        seen[alarm.code] = Incident(alarm, known.began_at if known and returns else now)
    for code, known in incidents.items():
        if code not in seen:
            seen[code] = known if known.ended_at is not None else replace(known, ended_at=now)
    return seen


def find_news(
    incidents: Incidents, told: Mapping[str, Told], repeat_s: float, now: float
) -> list[News]:
    """Return what to tell a channel now, the worst first; nothing while nothing is due."""
    due = _due(incidents, told, repeat_s, now)
    if not due:
        return []
    # A reminder reminds of all: otherwise each alarm would have a message of its own each day.
    reminds = any(item.kind is NewsKind.GOES_ON for item in due)
    ahead = _due(incidents, told, 0.0 if reminds else repeat_s, now + AHEAD_S)
    rank = list(AlarmLevel).index
    return sorted(
        ahead,
        key=lambda item: (
            item.kind is NewsKind.ENDED,
            -rank(item.incident.alarm.level),
            item.kind is NewsKind.GOES_ON,
            item.incident.since,
            item.code,
        ),
    )


def shrink(record: ChannelRecord, incidents: Incidents) -> ChannelRecord:
    """Return the record with the numbers that have become smaller: growth counts from them."""
    told = dict(record.told)
    for code, entry in told.items():
        incident = incidents.get(code)
        if incident is not None and incident.ended_at is None:
            told[code] = replace(entry, affected=min(entry.affected, incident.alarm.affected))
    return record if told == record.told else replace(record, told=told)


def without_finished(
    incidents: Incidents, records: Iterable[ChannelRecord], now: float
) -> dict[str, Incident]:
    """Return the incidents without those that have ended, and of which every channel knows."""
    records = list(records)
    return {
        code: incident
        for code, incident in incidents.items()
        if not _is_quiet(incident, now)
        or any(_change(incident, record.told.get(code), 0.0, now) for record in records)
    }


def _due(incidents: Incidents, told: Mapping[str, Told], repeat_s: float, now: float) -> list[News]:
    changes = {
        code: _change(incident, told.get(code), repeat_s, now)
        for code, incident in incidents.items()
    }
    return [News(change, incidents[code]) for code, change in changes.items() if change]


def _is_quiet(incident: Incident, now: float) -> bool:
    return incident.ended_at is not None and is_over(incident.ended_at, QUIET_S, now)


def _change(incident: Incident, told: Told | None, repeat_s: float, now: float) -> NewsKind | None:
    """Return what a channel is to be told about one incident at this moment."""
    if told is not None and told.began_at != incident.began_at:
        told = None
    if incident.ended_at is not None:
        # Nobody needs to know of what was over before it was told. But what began while this
        # channel failed is told, with its end.
        brief = incident.ended_at - incident.began_at < GATHER_S
        known = brief if told is None else told.ended
        return NewsKind.ENDED if _is_quiet(incident, now) and not known else None
    if told is None:
        return NewsKind.BEGAN if is_over(incident.began_at, GATHER_S, now) else None
    if incident.alarm.affected > told.affected and is_over(told.at, GROWTH_S, now):
        return NewsKind.GREW
    return NewsKind.GOES_ON if is_over(told.at, repeat_s, now) else None


@dataclass(frozen=True, slots=True)
class AlertState:
    """All incidents, and what each channel was told, as the journal keeps them."""

    incidents: Incidents = field(default_factory=dict)
    records: Mapping[str, ChannelRecord] = field(default_factory=dict)

    @classmethod
    def unpack(cls, saved: Any) -> Self:  # noqa: ANN401  JSON
        """Read what `dataclasses.asdict` made of a state; another form is an empty state."""
        try:
            incidents = {
                code: Incident(Alarm(**item["alarm"]), item["began_at"], item["ended_at"])
                for code, item in saved["incidents"].items()
            }
            records = {
                key: ChannelRecord(
                    **{**item, "told": {code: Told(**told) for code, told in item["told"].items()}}
                )
                for key, item in saved["records"].items()
            }
        except (AttributeError, KeyError, TypeError):
            return cls()
        return cls(incidents, records)
