"""The texts of alerts: what is wrong, since when, and what to do about it.

A text message has 160 characters, and Apprise puts the title before the body there. So the title
and the first line of the body name host, level and alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emitterd.monitoring.alarms import AlarmLevel
from emitterd.monitoring.alerts.incidents import Notification, NotificationKind
from emitterd.text import count, iso, local_time, masked, printable

SUMMARY_MAX = 72
"""The longest alarm in a title: mail programs show about 100 characters."""

WORDS_MAX = 600
"""The longest description of one alarm. It may hold the names of several files."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which installation an alert is about."""

    host: str
    folder: str


@dataclass(frozen=True, slots=True)
class Message:
    """One alert. `alarms` are its alarms for programs."""

    level: AlarmLevel
    title: str
    body: str
    place: Place
    alarms: tuple[dict[str, Any], ...] = field(default=())

    @property
    def is_test(self) -> bool:
        """Whether it is about no alarm."""
        return not self.alarms

    def record(self) -> dict[str, Any]:
        """Return what `alerts.command` gets as JSON."""
        return {
            "test": self.is_test,
            "level": self.level,
            "title": self.title,
            "body": self.body,
            "host": self.place.host,
            "folder": self.place.folder,
            "alarms": list(self.alarms),
        }


def compose(notifications: Sequence[Notification], present: int, place: Place) -> Message:
    """Return the message with these notifications, the worst first.

    `present`: how many alarms are on.
    """
    current = [
        item.incident.alarm for item in notifications if item.kind is not NotificationKind.ENDED
    ]
    if current:
        level = current[0].level
        summary = f"{level}: {_summary(current[0].words)} ({count(present, 'alarm')})"
    else:
        level = AlarmLevel.OK
        summary = f"{count(len(notifications), 'alarm')} ended, {present or 'none'} left"
    title = _clean(f"emitterd on {place.host.partition('.')[0]}: {summary}")
    paragraphs = [_paragraph(item) for item in notifications]
    records = tuple(_record(item) for item in notifications)
    return Message(level, title, _body(paragraphs, place), place, records)


def compose_test(place: Place) -> Message:
    """Return the message of `notify-test`."""
    title = _clean(f"emitterd on {place.host.partition('.')[0]}: test alert")
    words = "This is a test by emitterd notify-test. If you can read it, this channel works."
    return Message(AlarmLevel.OK, title, _body([words], place), place)


def _body(paragraphs: Sequence[str], place: Place) -> str:
    end = f"Host {place.host}, folder {place.folder}. To see all alarms: emitterd status"
    return "\n\n".join([*paragraphs, _clean(end)])


def _paragraph(item: Notification) -> str:
    incident = item.incident
    alarm, since = incident.alarm, local_time(incident.since)
    words = _clean(alarm.words)[:WORDS_MAX]
    if item.kind is NotificationKind.ENDED:
        return f"Ended at {local_time(item.at)}: {words} (since {since})"
    begins = {
        NotificationKind.BEGAN: f"{alarm.level} since {since}",
        NotificationKind.GREW: f"{alarm.level}, more than before, since {since}",
        NotificationKind.GOES_ON: f"{alarm.level}, still, since {since}",
    }[item.kind]
    return f"{begins}: {words}\nWhat to do: {_clean(alarm.hint)}"


def _record(item: Notification) -> dict[str, Any]:
    incident = item.incident
    ended = item.kind is NotificationKind.ENDED
    return {
        "code": incident.alarm.code,
        "level": incident.alarm.level,
        "change": item.kind,
        "since": iso(incident.since),
        "ended_at": iso(item.at) if ended else None,
        "words": _clean(incident.alarm.words),
        "hint": _clean(incident.alarm.hint),
    }


def _summary(words: str) -> str:
    """Return the alarm without its details, which follow a colon or stand in brackets."""
    short = words.partition(" (")[0].partition(": ")[0]
    return short if len(short) <= SUMMARY_MAX else f"{short[: SUMMARY_MAX - 1]}…"


def _clean(text: str) -> str:
    return printable(masked(text))
