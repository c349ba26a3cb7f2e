"""How long a refused login waits: for the same credentials, and over restarts."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.client.session import LOGIN_CEILING_S, LOGIN_FLOOR_S, LoginLockout
from emitterd.codes import Code
from emitterd.errors import Decision, Stage

NOW = 1_700_000_000.0
ACCOUNT = b'["https://cqube.example.org/data", "emission", "a password"]'
OTHER = b'["https://cqube.example.org/data", "emission", "another password"]'
SAID = "login answered 401"


def refused(times: int = 1, now: float = NOW) -> LoginLockout:
    """Return the refusal of a login that was refused so often."""
    refusal = LoginLockout.after(ACCOUNT, SAID, now, None)
    for _ in range(times - 1):
        refusal = LoginLockout.after(ACCOUNT, SAID, now, refusal)
    return refusal


def test_the_wait_grows_to_a_quarter_of_an_hour() -> None:
    """A minute at least: upstream locks an account after five failures."""
    waits = [refused(times).wait_s(NOW) for times in range(1, 8)]
    assert waits == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]


@given(st.integers(1, 2000), st.floats(-1e9, 1e9))
def test_no_clock_makes_it_wait_for_longer(times: int, off_s: float) -> None:
    """A clock that was set may bring a try too early, but never puts it off."""
    refusal = LoginLockout("", "", SAID, times, NOW)
    wait_s = refusal.wait_s(NOW + off_s)

    assert 0.0 <= wait_s <= LOGIN_CEILING_S
    # An instant of this size has a precision of some tenths of a microsecond.
    assert off_s < 0 or wait_s >= LOGIN_FLOOR_S - off_s - 1e-6


def test_it_concerns_the_same_credentials_only() -> None:
    """Another password, user or server is tried at once."""
    assert refused().concerns(ACCOUNT)
    assert refused(3).concerns(ACCOUNT)
    assert not refused().concerns(OTHER)


def test_it_outlasts_the_process_without_a_secret() -> None:
    """The fact in the journal matches the same password only and does not reveal it."""
    kept = json.dumps(asdict(refused(2)))
    again = LoginLockout.read(json.loads(kept))

    assert again == LoginLockout.read(json.loads(kept))
    assert again is not None
    assert again.concerns(ACCOUNT)
    assert (again.count, again.wait_s(NOW)) == (2, 120.0)
    assert "password" not in kept
    assert "emission" not in kept
    assert refused().mark != refused().mark


@pytest.mark.parametrize("fact", [None, 7, [], {}, {"mark": "x"}, {**asdict(refused()), "more": 1}])
def test_what_is_no_refusal_is_none(fact: object) -> None:
    """Another version's fact costs one try, and no daemon."""
    assert LoginLockout.read(fact) is None


def test_it_pauses_for_the_remaining_wait() -> None:
    """What is not asked says until when, and that another password is tried."""
    asked = refused().error(NOW, asked=True)
    kept = refused().error(NOW + 20.0, asked=False)

    assert (asked.decision, asked.code, asked.stage) == (
        Decision.PAUSE,
        Code.CREDENTIALS,
        Stage.LOGIN,
    )
    assert (asked.reason, asked.retry_after_s) == (SAID, 60.0)
    assert kept.retry_after_s == 40.0
    assert "before 2023-11-14T22:14:20.000Z, or with another password" in kept.reason
