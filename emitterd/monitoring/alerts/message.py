"""The texts of alerts: what is wrong, since when, and what to do about it, in one language.

A text message has 160 characters, and Apprise puts the title before the body there. So the title
and the first line of the body name host, level and alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emitterd.monitoring.alarms import AlarmLevel
from emitterd.monitoring.alerts.incidents import Notification, NotificationKind
from emitterd.text import iso, local_time, masked, printable
from emitterd.translation.languages import ENGLISH, Language
from emitterd.translation.text import Text, plural

SUMMARY_MAX = 72
"""The longest alarm in a title: mail programs show about 100 characters."""

WORDS_MAX = 600
"""The longest description of one alarm. It may hold the names of several files."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which installation an alert is about."""

    host: str
    folder: str

    @property
    def short_host(self) -> str:
        """The host without its domain."""
        return self.host.partition(".")[0]


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


def compose(
    notifications: Sequence[Notification], present: int, place: Place, language: Language = ENGLISH
) -> Message:
    """Return the message with these notifications, the worst first.

    `present`: how many alarms are on.
    """
    current = [
        item.incident.alarm for item in notifications if item.kind is not NotificationKind.ENDED
    ]
    if current:
        level = current[0].level
        title = plural(
            "emitterd on {host}: {level}: {alarm} ({number} alarm)",
            "emitterd on {host}: {level}: {alarm} ({number} alarms)",
            number=present,
            host=place.short_host,
            level=_LEVELS[level],
            alarm=_summary(language.translate(current[0].words)),
        )
    else:
        level = AlarmLevel.OK
        title = plural(
            "emitterd on {host}: {number} alarm ended, {left} left",
            "emitterd on {host}: {number} alarms ended, {left} left",
            number=len(notifications),
            host=place.short_host,
            left=present or Text("none"),
        )
    return Message(
        level,
        _clean(language.translate(title)),
        _body([_paragraph(item, language) for item in notifications], place, language),
        place,
        tuple(_record(item, language) for item in notifications),
    )


def compose_test(place: Place, language: Language = ENGLISH) -> Message:
    """Return the message of `notify-test`."""
    title = Text("emitterd on {host}: test alert", host=place.short_host)
    words = Text("This is a test by emitterd notify-test. If you can read it, this channel works.")
    body = _body([language.translate(words)], place, language)
    return Message(AlarmLevel.OK, _clean(language.translate(title)), body, place)


def _body(paragraphs: Sequence[str], place: Place, language: Language) -> str:
    end = Text(
        "Host {host}, folder {folder}. To see all alarms: emitterd status",
        host=place.host,
        folder=place.folder,
    )
    return "\n\n".join([*paragraphs, _clean(language.translate(end))])


_LEVELS = {
    AlarmLevel.OK: Text("OK"),
    AlarmLevel.WARNING: Text("WARNING"),
    AlarmLevel.CRITICAL: Text("CRITICAL"),
}
_PARAGRAPHS = {
    NotificationKind.BEGAN: Text("{level} since {since}: {alarm}"),
    NotificationKind.GREW: Text("{level}, more than before, since {since}: {alarm}"),
    NotificationKind.GOES_ON: Text("{level}, still, since {since}: {alarm}"),
    NotificationKind.ENDED: Text("Ended at {ended}: {alarm} (since {since})"),
}


def _paragraph(item: Notification, language: Language) -> str:
    incident = item.incident
    values: dict[str, object] = {
        "since": local_time(incident.since),
        "alarm": _clean(language.translate(incident.alarm.words))[:WORDS_MAX],
    }
    if item.kind is NotificationKind.ENDED:
        values["ended"] = local_time(item.at)
        return language.translate(Text(_PARAGRAPHS[item.kind], **values))
    values["level"] = _LEVELS[incident.alarm.level]
    begins = language.translate(Text(_PARAGRAPHS[item.kind], **values))
    remedy = Text("What to do: {remedy}", remedy=incident.alarm.hint)
    return f"{begins}\n{_clean(language.translate(remedy))}"


def _record(item: Notification, language: Language) -> dict[str, Any]:
    incident = item.incident
    ended = item.kind is NotificationKind.ENDED
    return {
        "code": incident.alarm.code,
        "level": incident.alarm.level,
        "change": item.kind,
        "since": iso(incident.since),
        "ended_at": iso(item.at) if ended else None,
        "words": _clean(language.translate(incident.alarm.words)),
        "hint": _clean(language.translate(incident.alarm.hint)),
    }


def _summary(words: str) -> str:
    """Return the alarm without its details, which follow a colon or stand in brackets."""
    short = words.partition(" (")[0].partition(": ")[0]
    return short if len(short) <= SUMMARY_MAX else f"{short[: SUMMARY_MAX - 1]}…"


def _clean(text: str) -> str:
    return printable(masked(text))
