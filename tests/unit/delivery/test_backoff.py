"""When the next attempt is due: the bound grows, the jitter is full, a wish is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.delivery.backoff import Backoff
from emitterd.errors import RETRY_AFTER_CAP_S

NOW = 1_700_000_000.0


def longest(low: float, high: float) -> float:
    """Draw the longest delay; `low` must be zero, or the jitter is not full."""
    assert low == 0.0
    return high


@pytest.mark.parametrize(
    ("attempts", "bound_s"),
    [(0, 2.0), (1, 2.0), (2, 4.0), (3, 8.0), (8, 256.0), (9, 512.0), (10, 600.0)],
)
def test_the_bound_doubles_up_to_its_maximum(attempts: int, bound_s: float) -> None:
    """Each failure doubles the bound, and `max_s` caps it."""
    assert Backoff(2.0, 600.0).bound_s(attempts) == bound_s


def test_a_million_failures_do_not_overflow() -> None:
    """However many attempts have failed, the bound is a number."""
    assert Backoff(2.0, 600.0).bound_s(1_000_000) == 600.0


def test_an_initial_delay_above_the_maximum_is_capped() -> None:
    """The maximum holds for the first delay too."""
    assert Backoff(900.0, 600.0).bound_s(1) == 600.0


def test_the_jitter_is_full() -> None:
    """The delay is drawn between zero and the bound, and counts from `now`."""
    assert Backoff(2.0, 600.0, longest).due_at(NOW, 3, None) == NOW + 8.0


@pytest.mark.parametrize(
    ("retry_after_s", "floor_s"),
    [
        pytest.param(None, 0.0, id="no wish"),
        pytest.param(0.0, 0.0, id="at once"),
        pytest.param(120.0, 120.0, id="two minutes"),
        pytest.param(RETRY_AFTER_CAP_S, 3600.0, id="the most it may ask for"),
        pytest.param(1e9, 3600.0, id="a mistaken header"),
    ],
)
def test_retry_after_is_a_floor_below_the_jitter(
    retry_after_s: float | None, floor_s: float
) -> None:
    """The server's wish is kept up to an hour, and the jitter comes on top."""
    rule = Backoff(2.0, 600.0, longest)
    assert rule.due_at(NOW, 1, retry_after_s) == NOW + floor_s + 2.0


@given(attempts=st.integers(0, 10_000), retry_after_s=st.none() | st.floats(0, 1e12))
def test_a_due_time_is_never_early_and_never_far(
    attempts: int, retry_after_s: float | None
) -> None:
    """With real chance too, a due time lies between the wish and wish plus bound."""
    rule = Backoff(2.0, 600.0)
    floor = NOW + min(retry_after_s or 0.0, RETRY_AFTER_CAP_S)

    due_at = rule.due_at(NOW, attempts, retry_after_s)

    assert floor <= due_at <= floor + rule.bound_s(attempts)
