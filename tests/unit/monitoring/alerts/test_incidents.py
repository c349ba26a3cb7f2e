"""What a channel is notified of, and when: the alarms at instants, and its messages."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import pytest

from emitterd.codes import Code
from emitterd.monitoring.alarms import Alarm, AlarmCode, files_wait
from emitterd.monitoring.alerts.incidents import (
    AHEAD_S,
    BACKOFF_MAX_S,
    BACKOFF_S,
    GATHER_S,
    GROWTH_S,
    QUIET_S,
    RETRY_S,
    AlertState,
    ChannelRecord,
    Incident,
    due_notifications,
    observe,
    shrink,
    without_finished,
)
from emitterd.translation.languages import LANGUAGES
from emitterd.translation.text import Text

DAY_S = 86400.0
START = 1_000_000.0

DOWN = Alarm(AlarmCode.DESTINATION_DOWN, START, "the destination is down", "wait")
OLD = Alarm(AlarmCode.OLDEST_WAITING, START, "a file has waited for 1 h", "look")


def rejected(files: int) -> Alarm:
    """Return the alarm of so many rejected files."""
    return Alarm(AlarmCode.REJECTED, START, f"{files} files are rejected", "list", affected=files)


class Listener:
    """A channel and the incidents, looked at by hand. `works`: it takes what it is sent."""

    def __init__(self) -> None:
        self.state = AlertState()
        self.works = True

    def look(self, after_s: float, *alarms: Alarm) -> list[str]:
        """Return what the channel gets when these are the alarms, so long after the start."""
        now = START + after_s
        # Each look goes through the journal, as after a kill.
        saved = AlertState.unpack(json.loads(json.dumps(self.state.record())))
        incidents = observe(saved.incidents, alarms, now)
        record = shrink(saved.records.get("x", ChannelRecord()), incidents)
        notifications = (
            [] if record.waits(now) else due_notifications(incidents, record.notified, DAY_S, now)
        )
        if notifications:
            record = (
                record.succeeded(notifications, now)
                if self.works
                else record.failed(notifications, now)
            )
        self.state = AlertState(without_finished(incidents, [record], now), {"x": record})
        return [f"{item.kind} {item.code}" for item in notifications]


TABLE: dict[str, Sequence[tuple[float, list[Alarm], list[str]]]] = {
    "an incident is sent once, and its end": [
        (0, [DOWN], []),
        (GATHER_S, [DOWN], ["began destination_down"]),
        (GATHER_S + 1, [DOWN], []),
        (3600, [DOWN], []),
        (4000, [], []),
        (4000 + QUIET_S, [], ["ended destination_down"]),
        (4001 + QUIET_S, [], []),
        (9000, [DOWN], []),
        (9000 + GATHER_S, [DOWN], ["began destination_down"]),
    ],
    "a burst is one message, the worst first": [
        (0, [rejected(1)], []),
        (4, [rejected(1), OLD], []),
        (8, [rejected(1), OLD, DOWN], []),
        (
            GATHER_S,
            [rejected(1), OLD, DOWN],
            ["began destination_down", "began oldest_waiting", "began rejected"],
        ),
        (GATHER_S + 9, [rejected(1), OLD, DOWN], []),
    ],
    "a moment's alarm is not sent": [
        (0, [DOWN], []),
        (GATHER_S - 1, [], []),
        (GATHER_S + 1, [], []),
        (QUIET_S * 2, [], []),
    ],
    "an alarm that comes and goes is one incident": [
        (0, [DOWN], []),
        (GATHER_S, [DOWN], ["began destination_down"]),
        (60, [], []),
        (120, [DOWN], []),
        (180, [], []),
        (179 + QUIET_S, [DOWN], []),
        (200 + QUIET_S, [], []),
        (200 + 2 * QUIET_S, [], ["ended destination_down"]),
    ],
    "an alarm that flickers is sent although no look lasts": [
        (0, [DOWN], []),
        (3, [], []),
        (GATHER_S, [DOWN], ["began destination_down"]),
    ],
    "a reminder names all that goes on": [
        (0, [DOWN], []),
        (GATHER_S, [DOWN], ["began destination_down"]),
        (DAY_S / 2, [DOWN, OLD], []),
        (DAY_S / 2 + GATHER_S, [DOWN, OLD], ["began oldest_waiting"]),
        (DAY_S, [DOWN, OLD], []),
        (DAY_S + GATHER_S, [DOWN, OLD], ["goes_on destination_down", "goes_on oldest_waiting"]),
        (2 * DAY_S, [DOWN, OLD], []),
        (2 * DAY_S + GATHER_S, [DOWN, OLD], ["goes_on destination_down", "goes_on oldest_waiting"]),
    ],
    "growth is sent once an hour": [
        (0, [rejected(1)], []),
        (GATHER_S, [rejected(1)], ["began rejected"]),
        (60, [rejected(3)], []),
        (120, [rejected(4)], []),
        (GATHER_S + GROWTH_S, [rejected(4)], ["grew rejected"]),
        (GATHER_S + GROWTH_S + 1, [rejected(9)], []),
        (GATHER_S + 2 * GROWTH_S, [rejected(9)], ["grew rejected"]),
    ],
    "growth counts from the smallest number since": [
        (0, [rejected(4)], []),
        (GATHER_S, [rejected(4)], ["began rejected"]),
        (60, [rejected(1)], []),
        (GATHER_S + GROWTH_S, [rejected(3)], ["grew rejected"]),
    ],
    "what is nearly due goes along": [
        (0, [DOWN, OLD], []),
        (GATHER_S, [DOWN, OLD], ["began destination_down", "began oldest_waiting"]),
        (100, [OLD], []),
        (100 + AHEAD_S, [], []),
        (100 + QUIET_S, [], ["ended destination_down", "ended oldest_waiting"]),
        (300 + AHEAD_S + QUIET_S, [], []),
    ],
    "a clock that is set back delays nothing": [
        (0, [DOWN], []),
        (-DAY_S, [DOWN], ["began destination_down"]),
        (-DAY_S + 60, [DOWN], []),
        (-2 * DAY_S, [DOWN], ["goes_on destination_down"]),
        (-2 * DAY_S + 60, [], []),
        (-3 * DAY_S, [], ["ended destination_down"]),
    ],
}


@pytest.mark.parametrize("case", TABLE)
def test_notified_as_in_the_table(case: str) -> None:
    """The alarms at these instants make these messages."""
    listener = Listener()

    assert [listener.look(at, *alarms) for at, alarms, _ in TABLE[case]] == [
        sent for _, _, sent in TABLE[case]
    ]


def test_a_failing_channel_is_tried_with_growing_waits_for_a_day() -> None:
    """A day of looks each ten seconds makes some 30 tries, and then the message is given up."""
    listener = Listener()
    listener.works = False
    listener.look(0, DOWN)
    tries = [at for at in range(10, int(RETRY_S) + 9000, 10) if listener.look(at, DOWN)]

    assert [later - at for at, later in pairwise(tries)][:8] == [
        *(BACKOFF_S * 2**n for n in range(6)),
        BACKOFF_MAX_S,
        BACKOFF_MAX_S,
    ]
    assert RETRY_S <= tries[-1] <= RETRY_S + BACKOFF_MAX_S + 10
    # Given up: what is sent next is the reminder.
    listener.works = True
    assert listener.look(tries[-1] + DAY_S, DOWN) == ["goes_on destination_down"]


def test_a_channel_that_fails_is_given_a_day_for_each_alarm() -> None:
    """An alarm that begins 23 hours later is not given up with the first one."""
    listener = Listener()
    listener.works = False
    for at in range(0, int(RETRY_S) + 7200, 10):
        listener.look(at, DOWN, *[OLD] * (at >= RETRY_S - 3600))

    listener.works = True
    assert listener.look(RETRY_S + 3 * 3600, DOWN, OLD) == ["began oldest_waiting"]


def test_a_clock_that_was_set_back_gives_no_message_up() -> None:
    """The second failure is earlier than the first one; the message is still due."""
    listener = Listener()
    listener.works = False
    listener.look(0, DOWN)
    assert listener.look(10, DOWN) == ["began destination_down"]
    assert listener.look(10 - DAY_S, DOWN) == ["began destination_down"]

    listener.works = True
    assert listener.look(10 - DAY_S + BACKOFF_MAX_S, DOWN) == ["began destination_down"]


def test_a_channel_that_failed_hears_of_what_is_over() -> None:
    """While the line was down no mail could go out; afterwards it reports the outage."""
    listener = Listener()
    listener.works = False
    listener.look(0, DOWN)
    assert listener.look(10, DOWN) == ["began destination_down"]
    listener.works = True
    listener.look(60, DOWN)
    assert listener.look(65) == []
    assert listener.look(65 + QUIET_S) == ["ended destination_down"]
    assert listener.state.incidents == {}


def test_an_incident_is_kept_until_every_channel_knows_its_end() -> None:
    """One channel that fails keeps the incident; the other does not get it twice."""
    ended = {DOWN.code: Incident(DOWN, START, START + 100)}
    now = START + 100 + QUIET_S
    notifications = due_notifications(ended, {}, DAY_S, now)
    knows, not_yet = (
        ChannelRecord().succeeded(notifications, now),
        ChannelRecord().failed(notifications, now),
    )

    assert without_finished(ended, [knows, not_yet], now) == ended
    assert without_finished(ended, [knows], now) == {}
    assert due_notifications(ended, knows.notified, DAY_S, now + DAY_S) == []


def test_an_incident_that_returns_is_a_new_one_for_a_channel_that_knew_the_end() -> None:
    """Another channel keeps the old incident alive, which must not hide the new one."""
    ended = {DOWN.code: Incident(DOWN, START, START + 100)}
    now = START + 200 + QUIET_S
    knows = ChannelRecord().succeeded(due_notifications(ended, {}, DAY_S, now), now)
    again = observe(ended, [DOWN], now)

    notifications = due_notifications(again, knows.notified, DAY_S, now + GATHER_S)
    assert [item.kind for item in notifications] == ["began"]


@pytest.mark.parametrize("saved", [None, [], {}, {"incidents": {"a": {}}, "records": {}}, "text"])
def test_a_state_of_another_form_is_an_empty_one(saved: object) -> None:
    """A fact that a rebuild or another version left begins anew, instead of an error."""
    assert AlertState.unpack(saved) == AlertState()


def test_a_state_of_version_0_1_is_read() -> None:
    """After the upgrade no channel is notified again of what it knows."""
    listener = Listener()
    listener.look(0, DOWN)
    assert listener.look(GATHER_S, DOWN) == ["began destination_down"]
    saved = asdict(listener.state)
    saved["records"]["x"]["told"] = saved["records"]["x"].pop("notified")

    assert AlertState.unpack(json.loads(json.dumps(saved))) == listener.state


def test_an_alarm_of_the_life_before_can_still_be_translated() -> None:
    """The journal keeps message and values: the end may be reported after a restart."""
    words = Text("no daemon runs, and {files_wait}", files_wait=files_wait(2))
    listener = Listener()
    listener.look(0, Alarm(AlarmCode.DAEMON_ABSENT, START, words, Code.INTERNAL.remedy))

    saved = AlertState.unpack(json.loads(json.dumps(listener.state.record())))

    alarm = saved.incidents[AlarmCode.DAEMON_ABSENT].alarm
    assert alarm.words == "no daemon runs, and 2 files wait"
    assert LANGUAGES["hi"].translate(alarm.words) == "डेमन नहीं चल रहा है, और 2 फ़ाइलें प्रतीक्षा में हैं"
