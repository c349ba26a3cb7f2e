"""The texts of alerts: short where a text message is cut, complete below that."""

import pytest

from emitterd.monitoring.alarms import Alarm, AlarmCode, AlarmLevel
from emitterd.monitoring.alerts.incidents import Incident, Notification, NotificationKind
from emitterd.monitoring.alerts.message import SUMMARY_MAX, Place, compose, compose_test
from emitterd.text import MASK, keep_secret
from emitterd.translation.languages import LANGUAGES
from emitterd.translation.text import Text, plural

PLACE = Place("deo-patna.example.org", "/srv/cqube_emission")
SINCE = 1_796_000_000.0

DOWN = Alarm(
    AlarmCode.DESTINATION_DOWN,
    SINCE,
    "the destination is down at the login: E201 connection refused",
    "see whether the server can be reached: emitterd check --online",
)
REJECTED = Alarm(AlarmCode.REJECTED, SINCE + 60, "2 files are rejected", "emitterd list", 2)


pytestmark = pytest.mark.usefixtures("in_india")


def notifications(
    change: NotificationKind, alarm: Alarm, ended_at: float | None = None
) -> Notification:
    """Return one notice."""
    return Notification(change, Incident(alarm, alarm.since + 5, ended_at))


def test_a_message_says_what_since_when_and_what_to_do() -> None:
    """The whole text of a message about two alarms, in local time."""
    message = compose(
        [
            notifications(NotificationKind.BEGAN, DOWN),
            notifications(NotificationKind.GREW, REJECTED),
        ],
        3,
        PLACE,
    )

    assert message.level is AlarmLevel.CRITICAL
    assert message.title == (
        "emitterd on deo-patna: CRITICAL: the destination is down at the login (3 alarms)"
    )
    assert message.body == (
        "CRITICAL since 2026-11-30 06:23:20+05:30: the destination is down at the login: E201"
        " connection refused\n"
        "What to do: see whether the server can be reached: emitterd check --online\n\n"
        "WARNING, more than before, since 2026-11-30 06:24:20+05:30: 2 files are rejected\n"
        "What to do: emitterd list\n\n"
        "Host deo-patna.example.org, folder /srv/cqube_emission."
        " To see all alarms: emitterd status"
    )


def test_the_end_says_how_long_it_was_and_what_is_left() -> None:
    """An ended alarm needs no remedy; the title says whether others are left."""
    message = compose([notifications(NotificationKind.ENDED, DOWN, SINCE + 3600)], 0, PLACE)
    assert message.level is AlarmLevel.OK
    assert message.title == "emitterd on deo-patna: 1 alarm ended, none left"
    assert message.body.startswith(
        "Ended at 2026-11-30 07:23:20+05:30: the destination is down at the login: E201 connection"
        " refused (since 2026-11-30 06:23:20+05:30)\n\nHost "
    )
    assert message.record()["alarms"][0]["ended_at"] == "2026-11-30T01:53:20.000Z"

    message = compose([notifications(NotificationKind.ENDED, DOWN, SINCE + 3600)], 2, PLACE)
    assert message.title.endswith("1 alarm ended, 2 left")


def test_a_text_message_has_what_matters() -> None:
    """160 characters of title and body name host, level and the whole alarm."""
    message = compose([notifications(NotificationKind.GOES_ON, DOWN)], 1, PLACE)

    short = f"{message.title}\r\n{message.body}"[:160]
    assert "deo-patna" in short
    assert "CRITICAL" in short
    assert "the destination is down at the login" in short


def test_words_from_outside_forge_no_line_and_show_no_secret() -> None:
    """A reason that a server sent is masked, made printable, and cut."""
    keep_secret("password", "hunter2hunter2")
    words = f"down: hunter2hunter2\nEnded at noon {'x' * 5000}"
    message = compose(
        [notifications(NotificationKind.BEGAN, Alarm("x", SINCE, words, "wait"))], 1, PLACE
    )

    assert "hunter2" not in f"{message.record()}"
    assert MASK in message.body
    assert "\nEnded" not in message.body
    assert len(message.body) < 1000


def test_a_long_alarm_is_cut_in_the_title() -> None:
    """A title has a length that mail programs show."""
    alarm = Alarm("x", SINCE, "w" * 300, "wait")
    title = compose([notifications(NotificationKind.BEGAN, alarm)], 1, PLACE).title
    assert f"{'w' * (SUMMARY_MAX - 1)}…" in title
    assert len(title) < 130


def test_the_test_message_is_marked() -> None:
    """A command can distinguish a test from an alarm."""
    assert compose_test(PLACE).record()["test"] is True
    assert (
        compose([notifications(NotificationKind.BEGAN, DOWN)], 1, PLACE).record()["test"] is False
    )


def test_an_alert_in_hindi_has_no_english_sentence() -> None:
    """Title, body and the texts for a command; codes, names and commands stay as they are."""
    words = plural(
        "{number} file is rejected, and not replaced ({path})",
        "{number} files are rejected, and not replaced (for example {path})",
        number=2,
        path="pat/a.zip",
    )
    alarm = Alarm(
        AlarmCode.REJECTED, SINCE, words, Text("see why: emitterd explain {path}", path="x")
    )
    message = compose(
        [
            notifications(NotificationKind.BEGAN, alarm),
            notifications(NotificationKind.ENDED, alarm, SINCE + 3600),
        ],
        1,
        PLACE,
        LANGUAGES["hi"],
    )

    assert message.title == (
        "deo-patna पर emitterd: चेतावनी: 2 फ़ाइलें अस्वीकृत हैं, और बदली नहीं गईं (1 अलार्म)"
    )
    assert message.body == (
        "चेतावनी, 30 नवंबर 2026, 06:23 से: 2 फ़ाइलें अस्वीकृत हैं, और बदली नहीं गईं (जैसे pat/a.zip)\n"
        "क्या करें: कारण देखें: emitterd explain x\n\n"
        "30 नवंबर 2026, 07:23 को समाप्त: 2 फ़ाइलें अस्वीकृत हैं, और बदली नहीं गईं (जैसे pat/a.zip)"
        " (30 नवंबर 2026, 06:23 से)\n\n"
        "मशीन deo-patna.example.org, फ़ोल्डर /srv/cqube_emission।"
        " सभी अलार्म देखने के लिए: emitterd status"
    )
    assert message.record()["level"] == "WARNING"
    assert message.record()["alarms"][0]["hint"] == "कारण देखें: emitterd explain x"
