"""Alarms: which there are, their start, their level and their words."""

from collections.abc import Callable
from functools import partial

import pytest

from emitterd.codes import Code
from emitterd.errors import Outage, Stage
from emitterd.journal.numbers import AffectedFiles, Recent
from emitterd.model import State
from emitterd.monitoring.alarms import (
    WARNINGS,
    Alarm,
    AlarmCode,
    AlarmLevel,
    AlarmLimits,
    DaemonFacts,
    Health,
    daemon_alarms,
    judge,
    queue_alarms,
    sweep_limit_s,
)
from emitterd.monitoring.status import QueueStatus

NOW = 1_800_000_000.0
LIMITS = AlarmLimits(oldest_waiting_s=3600.0, no_success_s=1800.0)
OUTAGE = Outage(Stage.GRANT, Code.REFUSED, "connection refused", NOW - 60)


def judged(
    *,
    running: bool,
    waiting: int = 0,
    oldest_waiting_at: float | None = None,
    delivered_at: float | None = None,
    outages: tuple[Outage, ...] = (),
    rejected: AffectedFiles = AffectedFiles(),  # noqa: B008  it never changes
) -> list[Alarm]:
    """Return the alarms of a queue with these numbers."""
    tally = dict.fromkeys(State, (0, 0)) | {State.QUEUED: (waiting, 0)}
    recent = Recent(0, 0, 0.0)
    ages = oldest_waiting_at, delivered_at
    queue = QueueStatus(tally, *ages, rejected, recent, outages, ())
    return queue_alarms(queue, outages, LIMITS, NOW, running=running)


TWO = AffectedFiles(2, NOW - 9, b"pat/b.zip")
EMPTY = partial(judged, running=True)
BUSY = partial(judged, running=True, waiting=3, oldest_waiting_at=NOW - 30, delivered_at=NOW - 5)
WATCHED = DaemonFacts(swept_at=NOW - 10, sweep_limit_s=900.0)


def codes(alarms: list[Alarm]) -> list[str]:
    """Return the codes of the alarms."""
    return [alarm.code for alarm in alarms]


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (EMPTY, []),
        (BUSY, []),
        (partial(judged, running=False), []),
        (partial(judged, running=True, delivered_at=NOW - 9e6), []),
        (
            partial(judged, running=False, waiting=1, oldest_waiting_at=NOW - 1),
            [AlarmCode.DAEMON_ABSENT],
        ),
        (partial(judged, running=True, outages=(OUTAGE,)), [AlarmCode.DESTINATION_DOWN]),
        (partial(judged, running=False, outages=(OUTAGE,)), []),
        (
            partial(
                judged, running=True, waiting=1, oldest_waiting_at=NOW - 3601, delivered_at=NOW - 1
            ),
            [AlarmCode.OLDEST_WAITING],
        ),
        (
            partial(
                judged,
                running=True,
                waiting=1,
                oldest_waiting_at=NOW - 3599,
                delivered_at=NOW - 1801,
            ),
            [AlarmCode.NO_SUCCESS],
        ),
        (
            partial(
                judged,
                running=True,
                waiting=1,
                oldest_waiting_at=NOW - 60,
                delivered_at=NOW - 90_000,
            ),
            [],
        ),
        (
            partial(judged, running=True, waiting=1, oldest_waiting_at=NOW - 1801),
            [AlarmCode.NO_SUCCESS],
        ),
        (partial(judged, running=True, rejected=TWO), [AlarmCode.REJECTED]),
        (partial(judged, running=True, waiting=1, oldest_waiting_at=NOW + 7200), []),
    ],
    ids=[
        "nothing-waits",
        "things-move",
        "not-needed-and-absent",
        "nothing-to-succeed-with",
        "absent-while-one-waits",
        "down",
        "what-a-dead-daemon-thought",
        "oldest-too-old",
        "no-success",
        "idle-before-it-came",
        "never-a-success",
        "rejected",
        "a-clock-set-back",
    ],
)
def test_the_queue_is_judged(queue: Callable[[], list[Alarm]], expected: list[str]) -> None:
    """What waits, and for how long nothing moved, is judged against the limits."""
    assert codes(queue()) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WATCHED, []),
        (DaemonFacts(NOW - 901, 900.0), [AlarmCode.SWEEP_OVERDUE]),
        (DaemonFacts(NOW, 900.0, journal_full_since=NOW - 1), [AlarmCode.JOURNAL_FULL]),
        (DaemonFacts(NOW, 900.0, journal_busy_since=NOW - 1), [AlarmCode.JOURNAL_BUSY]),
        (DaemonFacts(NOW, 900.0, degraded_since=NOW), [AlarmCode.WATCH_DEGRADED]),
        (DaemonFacts(NOW - 901, 900.0, root_lost_since=NOW - 950), [AlarmCode.ROOT_LOST]),
    ],
    ids=["all-well", "no-sweep", "journal-full", "journal-busy", "degraded", "root-lost"],
)
def test_the_watch_is_judged(facts: DaemonFacts, expected: list[str]) -> None:
    """A lost folder raises one alarm, not a second one for the overdue sweep."""
    assert codes(daemon_alarms(facts, NOW)) == expected


def test_an_alarm_says_since_when_and_what_to_do() -> None:
    """The words name the file's age and the key that sets the limit."""
    oldest, idle = judged(running=True, waiting=1, oldest_waiting_at=NOW - 7500)

    assert oldest.since == idle.since == NOW - 7500
    assert oldest.words == ("a file has waited for 2h, longer than 1h (alerts.oldest_waiting_max)")
    assert "alerts.no_success_max" in idle.words
    assert all(alarm.hint for alarm in (oldest, idle))


def test_an_alarm_about_files_names_one() -> None:
    """Of several files it names an example, without a look at the list."""
    (alarm,) = judged(running=True, rejected=TWO)
    assert alarm.words == "2 files are rejected, and not replaced (for example pat/b.zip)"
    assert alarm.affected == 2


def test_an_outage_is_reported_with_its_code_and_remedy() -> None:
    """What the operator can do about it depends on the code."""
    (alarm,) = judged(running=True, outages=(OUTAGE,))

    assert alarm.words == "the destination is down at the upload request: E302 connection refused"
    assert alarm.since == NOW - 60
    assert alarm.hint


def test_an_outage_of_several_stages_is_one_alarm() -> None:
    """The alarm names each stage in order, and begins with the earliest outage."""
    bucket = Outage(Stage.BUCKET, Code.DNS, "no such host", NOW - 90)
    (alarm,) = judged(running=True, outages=(OUTAGE, bucket))

    assert alarm.words == (
        "the destination is down at the upload request: E302 connection refused;"
        " at the upload: E301 no such host"
    )
    assert alarm.since == NOW - 90


def test_an_outage_of_a_code_unknown_here_is_reported() -> None:
    """A journal may have been written by a version that knows more codes."""
    outage = Outage(Stage.GRANT, "E999", "something new", NOW)
    (alarm,) = judged(running=True, outages=(outage,))

    assert "E999 something new" in alarm.words


def test_the_gravest_comes_first() -> None:
    """Critical before warning, and among equals the oldest."""
    alarms = [
        Alarm(AlarmCode.REJECTED, 1.0, "", ""),
        Alarm(AlarmCode.NO_SUCCESS, 3.0, "", ""),
        Alarm(AlarmCode.JOURNAL_FULL, 2.0, "", ""),
    ]
    judged = judge(alarms)

    assert codes(list(judged.alarms)) == [
        AlarmCode.JOURNAL_FULL,
        AlarmCode.NO_SUCCESS,
        AlarmCode.REJECTED,
    ]
    assert judged.level is AlarmLevel.CRITICAL


def test_no_alarm_is_well() -> None:
    """The level is OK only without an alarm."""
    warned = judge([Alarm(AlarmCode.REJECTED, 1.0, "", "")])

    assert Health().ok
    assert Health().level is AlarmLevel.OK
    assert not warned.ok
    assert warned.level is AlarmLevel.WARNING


def test_every_cause_has_a_level() -> None:
    """Every alarm is a warning or critical; one that stops deliveries is critical."""
    assert set(AlarmCode) > WARNINGS
    assert Alarm(AlarmCode.DESTINATION_DOWN, 0.0, "", "").level is AlarmLevel.CRITICAL


@pytest.mark.parametrize(
    ("every_s", "took_s", "limit_s"),
    [(30.0, 1.0, 900.0), (3600.0, 1.0, 10800.0), (30.0, 1200.0, 3600.0)],
    ids=["floor", "seldom", "slow"],
)
def test_a_slow_sweep_is_not_overdue(every_s: float, took_s: float, limit_s: float) -> None:
    """The limit grows with the interval and with the duration of the last sweep."""
    assert sweep_limit_s(every_s, took_s) == limit_s
