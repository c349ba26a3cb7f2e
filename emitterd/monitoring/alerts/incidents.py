"""Decides on notifications: from the alarms of now, and the notifications before.

An alarm code is one incident, from its first sight until the alarm has been gone for `QUIET_S`. A
channel is notified when an incident begins, when it grows, again after `alerts.repeat_every`, and
when it ends. Pure: no I/O. Instants are seconds since the epoch. If the clock was set back, what
waits for its time is due at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from emitterd.monitoring.alarms import Alarm, AlarmLevel
from emitterd.translation.text import text_from_record, text_record

GATHER_S = 10.0
"""The wait after an alarm begins: its cause often raises others within seconds."""

QUIET_S = 600.0
"""An alarm that returns within this time has not ended: an unsteady line is one incident."""

GROWTH_S = 3600.0
"""Channels are notified of growth after this time at the earliest."""

AHEAD_S = 300.0
"""A message also has what would be due this soon after it."""

RETRY_S = 86400.0
"""How long a failed message is tried again."""

BACKOFF_S, BACKOFF_MAX_S = 60.0, 3600.0
"""The wait after a channel's first failure, and the longest one."""


class NotificationKind(StrEnum):
    """What has happened to an incident."""

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
class LastNotification:
    """The last notification of a channel about an incident, which `began_at` identifies."""

    began_at: float
    at: float
    affected: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """The notifications of one channel by alarm code, and its failures since its last success."""

    notified: Mapping[str, LastNotification] = field(default_factory=dict)
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0

    def succeeded(self, notifications: "Iterable[Notification]", now: float) -> Self:
        """Return the record after a message with these notifications."""
        return replace(self, notified=self._with(notifications, now), failures=0)

    def failed(self, notifications: "Iterable[Notification]", now: float) -> Self:
        """Return the record after the message could not be sent.

        After a day without success a notification counts as sent.
        """
        # The clock may have been set back since.
        since = min(self.failing_since, now) if self.failures else now
        given_up = [item for item in notifications if now - max(since, item.at) >= RETRY_S]
        # The exponent is bounded: a channel may fail for years.
        wait_s = min(BACKOFF_S * 2 ** min(self.failures, 10), BACKOFF_MAX_S)
        return replace(
            self,
            notified=self._with(given_up, now),
            failures=self.failures + 1,
            failing_since=now if given_up else since,
            retry_at=now + wait_s,
        )

    def waits(self, now: float) -> bool:
        """Return whether the next try is not due yet."""
        return self.failures > 0 and 0 < self.retry_at - now <= BACKOFF_MAX_S

    def _with(
        self, notifications: "Iterable[Notification]", now: float
    ) -> dict[str, LastNotification]:
        return {**self.notified, **{item.code: item.record(now) for item in notifications}}


@dataclass(frozen=True, slots=True)
class Notification:
    """One message's part about one incident."""

    kind: NotificationKind
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

    def record(self, now: float) -> LastNotification:
        """Return what the channel's record has of it after it was sent."""
        incident, ended = self.incident, self.kind is NotificationKind.ENDED
        return LastNotification(incident.began_at, now, incident.alarm.affected, ended)


Incidents = Mapping[str, Incident]


def is_over(since: float, wait_s: float, now: float) -> bool:
    """Return whether a wait is over; it also is if the clock was set back."""
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


def due_notifications(
    incidents: Incidents, notified: Mapping[str, LastNotification], repeat_s: float, now: float
) -> list[Notification]:
    """Return what a channel's next message has, the worst first; nothing while nothing is due."""
    due = _due(incidents, notified, repeat_s, now)
    if not due:
        return []
    # A reminder reminds of all: otherwise each alarm would have a message of its own each day.
    reminds = any(item.kind is NotificationKind.GOES_ON for item in due)
    ahead = _due(incidents, notified, 0.0 if reminds else repeat_s, now + AHEAD_S)
    rank = list(AlarmLevel).index
    return sorted(
        ahead,
        key=lambda item: (
            item.kind is NotificationKind.ENDED,
            -rank(item.incident.alarm.level),
            item.kind is NotificationKind.GOES_ON,
            item.incident.since,
            item.code,
        ),
    )


def shrink(record: ChannelRecord, incidents: Incidents) -> ChannelRecord:
    """Return the record with the numbers that have become smaller: growth counts from them."""
    notified = dict(record.notified)
    for code, entry in notified.items():
        incident = incidents.get(code)
        if incident is not None and incident.ended_at is None:
            notified[code] = replace(entry, affected=min(entry.affected, incident.alarm.affected))
    return record if notified == record.notified else replace(record, notified=notified)


def without_finished(
    incidents: Incidents, records: Iterable[ChannelRecord], now: float
) -> dict[str, Incident]:
    """Return the incidents without those that have ended, and of which every channel knows."""
    records = list(records)
    return {
        code: incident
        for code, incident in incidents.items()
        if not _is_quiet(incident, now)
        or any(_change(incident, record.notified.get(code), 0.0, now) for record in records)
    }


def _due(
    incidents: Incidents, notified: Mapping[str, LastNotification], repeat_s: float, now: float
) -> list[Notification]:
    changes = {
        code: _change(incident, notified.get(code), repeat_s, now)
        for code, incident in incidents.items()
    }
    return [Notification(change, incidents[code]) for code, change in changes.items() if change]


def _is_quiet(incident: Incident, now: float) -> bool:
    return incident.ended_at is not None and is_over(incident.ended_at, QUIET_S, now)


def _change(
    incident: Incident, last: LastNotification | None, repeat_s: float, now: float
) -> NotificationKind | None:
    """Return what has happened to an incident since a channel's last notification about it."""
    if last is not None and last.began_at != incident.began_at:
        last = None
    if incident.ended_at is not None:
        # A brief incident needs no message. One that began while this channel failed does, with
        # its end.
        brief = incident.ended_at - incident.began_at < GATHER_S
        known = brief if last is None else last.ended
        return NotificationKind.ENDED if _is_quiet(incident, now) and not known else None
    if last is None:
        return NotificationKind.BEGAN if is_over(incident.began_at, GATHER_S, now) else None
    if incident.alarm.affected > last.affected and is_over(last.at, GROWTH_S, now):
        return NotificationKind.GREW
    return NotificationKind.GOES_ON if is_over(last.at, repeat_s, now) else None


@dataclass(frozen=True, slots=True)
class AlertState:
    """All incidents, and the notifications of each channel, as the journal keeps them."""

    incidents: Incidents = field(default_factory=dict)
    records: Mapping[str, ChannelRecord] = field(default_factory=dict)

    @classmethod
    def unpack(cls, saved: Any) -> Self:  # noqa: ANN401  JSON
        """Read what `record` made of a state; another form is an empty state."""
        try:
            incidents = {
                code: Incident(_alarm(item["alarm"]), item["began_at"], item["ended_at"])
                for code, item in saved["incidents"].items()
            }
            records = {key: _channel_record(item) for key, item in saved["records"].items()}
        except (AttributeError, KeyError, TypeError):
            return cls()
        return cls(incidents, records)

    def record(self) -> dict[str, Any]:
        """Return it as JSON. The texts of alarms can still be translated when it is read."""
        record = asdict(self)
        for code, incident in self.incidents.items():
            alarm = record["incidents"][code]["alarm"]
            alarm["texts"] = [text_record(incident.alarm.words), text_record(incident.alarm.hint)]
        return record


def _alarm(saved: dict[str, Any]) -> Alarm:
    # Up to version 0.2 there were only the English texts.
    words, hint = saved.pop("texts", (saved["words"], saved["hint"]))
    return Alarm(**{**saved, "words": text_from_record(words), "hint": text_from_record(hint)})


def _channel_record(saved: dict[str, Any]) -> ChannelRecord:
    """Read what `dataclasses.asdict` made of a record. Raises what a wrong form raises."""
    # Up to version 0.1 the key was `told`.
    notified = saved.pop("told") if "told" in saved else saved.pop("notified")
    last = {code: LastNotification(**item) for code, item in notified.items()}
    return ChannelRecord(last, **saved)
