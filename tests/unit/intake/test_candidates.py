"""Which files are settled: by a lease at once, or after the quiet period."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.intake.candidates import FIRST_WAIT_S, SettleRule, Tracker
from emitterd.model import Fingerprint
from emitterd.spool.folder import LeaseState

PATH = b"pat/x.zip"
RULE = SettleRule(quiet_s=5.0, check_max_s=1.0, incomplete_after_s=600.0)
FAR = 1e12


def version(number: int) -> Fingerprint:
    """Return the fingerprint of one version of a file."""
    return Fingerprint(1, 2, 100, number, number)


@pytest.fixture
def tracker() -> Tracker:
    """Return an empty tracker."""
    return Tracker(RULE)


def test_a_granted_lease_settles_at_once(tracker: Tracker) -> None:
    """A closed file is settled at once and is not looked at again."""
    assert tracker.observe(PATH, version(1), LeaseState.CLOSED, now=100.0)
    assert PATH not in tracker
    assert tracker.due(FAR) == []


def test_an_open_file_is_looked_at_at_growing_waits(tracker: Tracker) -> None:
    """The waits for an open file double up to the longest."""
    now, waits = 100.0, []
    for _ in range(8):
        assert not tracker.observe(PATH, version(1), LeaseState.OPEN, now)
        waits.append(round(tracker.next_due_at() - now, 6))
        now = tracker.next_due_at()
        assert tracker.due(now) == [PATH]

    assert waits == [FIRST_WAIT_S, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_an_open_file_that_grows_is_looked_at_soon(tracker: Tracker) -> None:
    """A change of an open file restarts the waits."""
    for step in range(6):
        tracker.observe(PATH, version(1), LeaseState.OPEN, now=100.0 + step)
    tracker.observe(PATH, version(2), LeaseState.OPEN, now=200.0)

    assert PATH in tracker.due(200.0 + FIRST_WAIT_S)


def test_an_open_file_never_settles_by_being_quiet(tracker: Tracker) -> None:
    """A writer that pauses longer than the quiet period is still a writer."""
    tracker.observe(PATH, version(1), LeaseState.OPEN, now=0.0)
    assert not tracker.observe(PATH, version(1), LeaseState.OPEN, now=1e6)


def test_a_file_settles_when_its_writer_closes(tracker: Tracker) -> None:
    """An open file is settled as soon as a lease is granted."""
    tracker.observe(PATH, version(1), LeaseState.OPEN, now=0.0)
    assert tracker.observe(PATH, version(1), LeaseState.CLOSED, now=0.01)


def test_without_a_lease_the_quiet_period_is_waited(tracker: Tracker) -> None:
    """Without a lease the path is due and settled when the quiet period ends."""
    assert not tracker.observe(PATH, version(1), LeaseState.NONE, now=100.0)
    assert not tracker.observe(PATH, version(1), LeaseState.NONE, now=104.9)
    assert tracker.due(104.9) == []
    assert tracker.due(105.0) == [PATH]
    assert tracker.observe(PATH, version(1), LeaseState.NONE, now=105.0)


@pytest.mark.parametrize("field", ["device", "inode"])
def test_another_number_does_not_restart_the_quiet_period(tracker: Tracker, field: str) -> None:
    """On FUSE and FAT each look can give a file another inode."""
    tracker.observe(PATH, version(1), LeaseState.NONE, now=100.0)
    assert tracker.observe(PATH, version(1)._replace(**{field: 99}), LeaseState.NONE, now=105.0)


@pytest.mark.parametrize("field", ["size_bytes", "mtime_ns", "ctime_ns"])
def test_any_change_restarts_the_quiet_period(tracker: Tracker, field: str) -> None:
    """Size, mtime or ctime: each change counts as writing."""
    tracker.observe(PATH, version(1), LeaseState.NONE, now=100.0)
    changed = version(1)._replace(**{field: 99})

    assert not tracker.observe(PATH, changed, LeaseState.NONE, now=104.0)
    assert not tracker.observe(PATH, changed, LeaseState.NONE, now=108.9)
    assert tracker.observe(PATH, changed, LeaseState.NONE, now=109.0)


def test_no_quiet_period_settles_at_once() -> None:
    """A rule of zero seconds waits for nothing."""
    tracker = Tracker(SettleRule(0.0, 1.0, 600.0))
    assert tracker.observe(PATH, version(1), LeaseState.NONE, now=100.0)


def test_a_lost_lease_starts_the_quiet_period(tracker: Tracker) -> None:
    """Time that a file was seen open does not count as quiet."""
    tracker.observe(PATH, version(1), LeaseState.OPEN, now=0.0)
    assert not tracker.observe(PATH, version(1), LeaseState.NONE, now=100.0)
    assert tracker.observe(PATH, version(1), LeaseState.NONE, now=105.0)


def test_an_incomplete_file_that_changed_has_its_time_again(tracker: Tracker) -> None:
    """The time of another incomplete version begins when it is seen."""
    tracker.incomplete(PATH, version(1), LeaseState.CLOSED, now=0.0)
    answers = [
        tracker.incomplete(PATH, version(2), LeaseState.CLOSED, now)
        for now in (599.0, 600.0, 1199.0)
    ]

    assert answers == [False, False, True]


def test_an_incomplete_file_is_given_up_in_the_end(tracker: Tracker) -> None:
    """Unchanged for `incomplete_after_s`, it is due once more and given up then."""
    assert not tracker.incomplete(PATH, version(1), LeaseState.CLOSED, now=0.0)
    assert tracker.due(599.9) == []
    assert tracker.due(600.0) == [PATH]
    assert tracker.incomplete(PATH, version(1), LeaseState.CLOSED, 600.0)


def test_an_incomplete_file_that_was_completed_settles(tracker: Tracker) -> None:
    """A cut-off copy that is completed is settled at once."""
    tracker.incomplete(PATH, version(1), LeaseState.CLOSED, now=0.0)
    assert tracker.observe(PATH, version(2), LeaseState.CLOSED, now=10.0)


def test_due_yields_each_path_once(tracker: Tracker) -> None:
    """Many looks at one path leave one due time, and yielding it uses it up."""
    for now in (0.0, 0.01, 0.02, 0.03):
        tracker.observe(PATH, version(1), LeaseState.OPEN, now)
    tracker.observe(b"other.zip", version(1), LeaseState.NONE, now=0.0)

    assert sorted(tracker.due(10.0)) == [b"other.zip", PATH]
    assert tracker.due(10.0) == []


def test_what_is_forgotten_is_never_due(tracker: Tracker) -> None:
    """A path that was admitted or is gone leaves nothing behind."""
    tracker.observe(PATH, version(1), LeaseState.NONE, now=0.0)
    tracker.forget(PATH)
    tracker.forget(b"never seen.zip")

    assert PATH not in tracker
    assert tracker._candidates == {}
    assert tracker.due(FAR) == []


def test_a_postponed_path_is_due_at_the_instant_named(tracker: Tracker) -> None:
    """Whether known or not, the path is looked at then and not before."""
    tracker.observe(PATH, version(1), LeaseState.NONE, now=0.0)
    tracker.postpone(PATH, version(1), due_at=50.0)
    tracker.postpone(b"new.zip", version(1), due_at=50.0)

    assert tracker.due(49.9) == []
    assert sorted(tracker.due(50.0)) == [b"new.zip", PATH]


def test_settling_means_waiting_for_quiet_only(tracker: Tracker) -> None:
    """An open file and an incomplete one are not about to settle by themselves."""
    tracker.observe(b"open.zip", version(1), LeaseState.OPEN, now=0.0)
    tracker.incomplete(b"broken.zip", version(1), LeaseState.NONE, now=0.0)
    assert not tracker.settling()

    tracker.observe(PATH, version(1), LeaseState.NONE, now=0.0)
    assert tracker.settling()


def test_the_next_due_time_is_never_late(tracker: Tracker) -> None:
    """Who sleeps until `next_due_at` misses nothing; empty, it is never."""
    assert tracker.next_due_at() == float("inf")
    tracker.observe(PATH, version(1), LeaseState.NONE, now=0.0)
    tracker.observe(b"open.zip", version(1), LeaseState.OPEN, now=0.0)
    assert tracker.next_due_at() == FIRST_WAIT_S


PATHS = [b"a.zip", b"b.zip", b"c.zip"]
Sight = tuple[int, LeaseState, str]
SIGHTS = st.tuples(
    st.integers(1, 2), st.sampled_from(LeaseState), st.sampled_from(["whole", "broken", "busy"])
)


def look(tracker: Tracker, path: bytes, sight: Sight, now: float) -> None:
    """Look at a path as the intake does: admit, wait, give up, or come back."""
    number, proof, what = sight
    seen = version(number)
    if not tracker.observe(path, seen, proof, now):
        return
    if what == "broken":
        if tracker.incomplete(path, seen, proof, now):
            tracker.forget(path)
    elif what == "busy":
        tracker.postpone(path, seen, now + 1.0)
    else:
        tracker.forget(path)


@given(st.lists(st.tuples(st.sampled_from(PATHS), SIGHTS, st.floats(0, 700)), max_size=30))
def test_a_tracked_path_always_has_a_due_time(story: list[tuple[bytes, Sight, float]]) -> None:
    """For any order of events, a path is due some day or forgotten."""
    tracker, now = Tracker(RULE), 0.0
    world: dict[bytes, Sight] = {}
    for path, sight, pause_s in story:
        now += pause_s
        world[path] = sight
        for item in [*tracker.due(now), path]:
            look(tracker, item, world[item], now)

    assert sorted(tracker.due(FAR)) == [path for path in PATHS if path in tracker]
