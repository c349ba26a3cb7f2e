"""The policy of tracking: a table of looks, and what each makes of a file."""

from dataclasses import replace

import pytest

from emitterd.client.server_reader import Listing
from emitterd.model import ServerState, Tracked
from emitterd.tracking.policy import HOUR_S, TrackingRule
from emitterd.tracking.server_log import LogRecord
from emitterd.units import DAY_S

RULE = TrackingRule(poll_every_s=900.0, give_up_after_s=8 * DAY_S)
SENT_AT = 1_000_000.0
FILE = Tracked(1, b"pat/exam.zip", "pat/exam_1.zip", SENT_AT, due_at=SENT_AT)
PICKED_UP = replace(FILE, state=ServerState.PICKED_UP, seen_at=SENT_AT, gone_at=SENT_AT + 60)
SERVER_AT = 5.0
"""The server's clock: decades off."""

STARTED = LogRecord(SERVER_AT, None, overtaken=False, rows={})
OVERTAKEN = LogRecord(SERVER_AT, None, overtaken=True, rows={})
ENDED = LogRecord(SERVER_AT, SERVER_AT + 9, overtaken=False, rows={"total": 3, "accepted": 2})


@pytest.mark.parametrize(
    ("keys", "last", "present"),
    [
        (["pat/exam_1.zip"], None, True),
        ([], None, False),
        (["pat/a.zip", "pat/z.zip"], None, False),
        (["pat/a.zip", "pat/exam_1.zip"], "pat/exam_1.zip", True),
        (["pat/a.zip", "pat/f.zip"], "pat/f.zip", False),
        (["pat/a.zip", "pat/b.zip"], "pat/b.zip", None),
        # In the order of bytes, capitals come before small letters.
        (["Pat/z.zip"], "Pat/z.zip", None),
    ],
)
def test_a_list_decides_up_to_its_last_key(
    keys: list[str], last: str | None, *, present: bool | None
) -> None:
    """A missing key beyond the last one of a truncated list may be there."""
    listing = Listing(frozenset(keys), last)
    after = RULE.listed(FILE, listing, SENT_AT + 60)
    assert listing.has(FILE.key) is present
    if present is None:
        assert after is None
    else:
        assert after == RULE.looked_up(FILE, SENT_AT + 60, present=present)


def test_a_file_in_the_bucket_keeps_waiting() -> None:
    """The look is counted, and the next one is due after `poll_every`."""
    now = SENT_AT + 60
    after = RULE.looked_up(FILE, now, present=True)
    assert after == replace(FILE, looks=1, looked_at=now, seen_at=now, due_at=now + 900)


def test_a_file_that_left_the_bucket_was_picked_up_between_two_looks() -> None:
    """Its log is due at once."""
    seen = RULE.looked_up(FILE, SENT_AT + 60, present=True)
    gone = RULE.looked_up(seen, SENT_AT + 960, present=False)
    assert gone.state is ServerState.PICKED_UP
    assert (gone.seen_at, gone.gone_at) == (SENT_AT + 60, SENT_AT + 960)
    assert (gone.looks, gone.due_at) == (2, SENT_AT + 960)
    assert RULE.without_log(gone) == replace(gone, due_at=None)


@pytest.mark.parametrize(
    ("age_s", "wait_s"), [(0.0, 900.0), (DAY_S - 1, 900.0), (DAY_S, HOUR_S), (7 * DAY_S, HOUR_S)]
)
def test_after_a_day_emitterd_looks_once_an_hour(age_s: float, wait_s: float) -> None:
    """The age counts from the delivery."""
    now = SENT_AT + age_s
    assert RULE.looked_at(FILE, now).due_at == now + wait_s


def test_a_longer_interval_than_an_hour_stays() -> None:
    """`poll_every: 6h` is never shortened."""
    rule = replace(RULE, poll_every_s=6 * HOUR_S)
    assert rule.looked_at(FILE, SENT_AT + 2 * DAY_S).due_at == SENT_AT + 2 * DAY_S + 6 * HOUR_S


LATER = SENT_AT + HOUR_S
BEGUN = replace(PICKED_UP, begun_at=LATER)


@pytest.mark.parametrize(
    ("before", "record", "now", "state"),
    [
        (PICKED_UP, None, LATER, ServerState.PICKED_UP),
        (PICKED_UP, STARTED, LATER, ServerState.PICKED_UP),
        (PICKED_UP, OVERTAKEN, LATER, ServerState.STALLED),
        (PICKED_UP, ENDED, LATER, ServerState.PROCESSED),
        (BEGUN, STARTED, LATER + DAY_S - 1, ServerState.PICKED_UP),
        (BEGUN, STARTED, LATER + DAY_S, ServerState.STALLED),
        # The log is as before, or no longer names the file.
        (BEGUN, None, LATER + DAY_S, ServerState.STALLED),
        (BEGUN, ENDED, LATER + DAY_S, ServerState.PROCESSED),
        # Long after the pick-up, but the log does not name it.
        (PICKED_UP, None, LATER + 7 * DAY_S, ServerState.PICKED_UP),
        # A late end is an end.
        (replace(BEGUN, state=ServerState.STALLED), ENDED, LATER, ServerState.PROCESSED),
        (replace(BEGUN, state=ServerState.STALLED), STARTED, LATER, ServerState.STALLED),
    ],
)
def test_the_log_moves_a_file_on(
    before: Tracked, record: LogRecord | None, now: float, state: ServerState
) -> None:
    """A start without an end stalls after a day of this host's clock, or when overtaken."""
    after = RULE.logged(before, {before.file_name: record} if record else None, now)
    assert after.state is state
    assert after.looks == before.looks + 1
    final = state is ServerState.PROCESSED
    assert (after.due_at is None) is final
    assert after.rows == (ENDED.rows if final else None)
    if record is not None:
        assert (after.started_at, after.ended_at) == (record.started_at, record.ended_at)
        assert final or after.begun_at == (before.begun_at or now)


@pytest.mark.parametrize(
    ("state", "seen_after_s", "final"),
    [
        (ServerState.WAITING, HOUR_S, ServerState.UNKNOWN),
        (ServerState.WAITING, 7 * DAY_S, ServerState.WAITING),
        (ServerState.PICKED_UP, 7 * DAY_S, ServerState.UNKNOWN),
        (ServerState.STALLED, HOUR_S, ServerState.STALLED),
    ],
)
def test_emitterd_gives_up_after_eight_days(
    state: ServerState, seen_after_s: float, final: ServerState
) -> None:
    """What is not known by then stays unknown; what the server left in the bucket is known."""
    file = replace(FILE, state=state, seen_at=SENT_AT + seen_after_s)
    assert not RULE.is_over(file, SENT_AT + 8 * DAY_S - 1)
    assert RULE.is_over(file, SENT_AT + 8 * DAY_S)
    assert RULE.given_up(file) == replace(file, state=final, due_at=None)
