"""The forecast: from what was delivered of late to when nothing will wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.monitoring.status import RecentDelivery, busy_s, eta_s

NOW = 1_800_000_000.0
KIB = 1024


def one_after_the_other(
    sizes: list[int], *, fixed_s: float, per_byte_s: float, pause_s: float = 0.0
) -> list[RecentDelivery]:
    """Return deliveries of these sizes by one worker, with a pause before each."""
    at, done = NOW, []
    for size_bytes in sizes:
        took_s = fixed_s + per_byte_s * size_bytes
        at += pause_s + took_s
        done.append(RecentDelivery(at, took_s, size_bytes))
    return done


def test_nothing_is_known_without_a_delivery() -> None:
    """No speed, no forecast; but nothing to do takes no time."""
    assert eta_s([], 1, 10) is None
    assert eta_s([], 0, 0) == 0.0


def test_an_even_stream_goes_on_as_it_went() -> None:
    """A hundred files in a hundred seconds: ten more take ten."""
    recent = one_after_the_other([KIB] * 100, fixed_s=1.0, per_byte_s=0.0)

    assert eta_s(recent, 10, 10 * KIB) == pytest.approx(10.0, rel=0.01)


def test_a_quiet_night_between_two_bursts_does_not_count() -> None:
    """The speed is that of the work, whenever that was done."""
    burst = one_after_the_other([KIB] * 50, fixed_s=1.0, per_byte_s=0.0)
    earlier = [item._replace(delivered_at=item.delivered_at - 40_000) for item in burst]

    assert busy_s(earlier + burst) == pytest.approx(100.0, rel=0.01)
    assert eta_s(earlier + burst, 10, 10 * KIB) == pytest.approx(10.0, rel=0.01)


def test_short_pauses_are_part_of_the_work() -> None:
    """What passes between two files of a stream passes between the next two."""
    recent = one_after_the_other([KIB] * 100, fixed_s=0.1, per_byte_s=0.0, pause_s=0.1)

    assert eta_s(recent, 100, 100 * KIB) == pytest.approx(20.0, rel=0.02)


def test_side_by_side_is_faster_than_one_by_one() -> None:
    """Eight uploads of a second each, at once, are one second."""
    recent = [RecentDelivery(NOW, 1.0, KIB)] * 8

    assert eta_s(recent, 16, 16 * KIB) == pytest.approx(2.0, rel=0.01)


def test_one_stalled_upload_does_not_spoil_it() -> None:
    """A minute lost once among ninety files is a share of the speed, and no more."""
    sizes = [KIB, 100 * KIB, KIB * KIB] * 30
    recent = one_after_the_other(sizes, fixed_s=0.2, per_byte_s=1 / KIB**2)
    whole_s = busy_s(recent)
    stalled = [*recent[:-1], recent[-1]._replace(delivered_at=recent[-1][0] + 60)]
    stalled[-1] = stalled[-1]._replace(duration_s=stalled[-1].duration_s + 60)
    reported = eta_s(stalled, len(sizes), sum(sizes))

    assert reported is not None
    assert reported == pytest.approx(whole_s + 60, rel=0.05)


DELIVERIES = st.lists(
    st.builds(
        RecentDelivery,
        st.floats(NOW - 86400, NOW),
        st.floats(0, 5000),
        st.integers(0, 5 * KIB**3),
    ),
    min_size=1,
    max_size=200,
)


@given(DELIVERIES, st.integers(1, 10**6), st.integers(0, 10**15))
def test_whatever_was_delivered_there_is_a_time(
    recent: list[RecentDelivery], files: int, size_bytes: int
) -> None:
    """It is a time, and never a negative one; twice the work takes no less."""
    first = eta_s(recent, files, size_bytes)
    second = eta_s(recent, 2 * files, 2 * size_bytes)

    assert first is not None
    assert second is not None
    assert 0 <= first <= second
