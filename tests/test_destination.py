"""The gate before every claim: one probe at a time while the destination is down."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.backoff import RETRY_AFTER_CAP_S, Backoff
from emitterd.codes import Code
from emitterd.destination import (
    LOGIN_CEILING_S,
    LOGIN_FLOOR_S,
    STREAK,
    Destination,
    Leave,
)
from emitterd.errors import Trouble, Verdict

NOW = 1_700_000_000.0
DNS = Trouble(Verdict.PARK, Code.DNS, "no such host")
REFUSED = Trouble(Verdict.PARK, Code.REFUSED, "connection refused")
WRONG_PASSWORD = Trouble(Verdict.PARK, Code.CREDENTIALS, "login answered 401")
LOST = Trouble(Verdict.DEFER, Code.CONNECTION_LOST, "reset")


@pytest.fixture
def gate() -> Destination:
    """Return a destination that is up; its waits are the longest of each bound."""
    return Destination(Backoff(2.0, 600.0, lambda _, high: high))


def probe_at(gate: Destination) -> float:
    """Return the time of the next probe of a destination that is down."""
    assert gate.down is not None
    return gate.down.probe_at


def probe(gate: Destination, trouble: Trouble) -> float:
    """Probe when that is due, fail, and return how long the next wait is."""
    now = probe_at(gate)
    assert gate.ask(now) == (Leave.PROBE, 0.0)
    gate.parked(trouble, now)
    return probe_at(gate) - now


def test_while_it_is_up_everybody_goes(gate: Destination) -> None:
    """Nothing holds a worker back, and there is no trouble to show."""
    assert [gate.ask(NOW) for _ in range(3)] == [(Leave.GO, 0.0)] * 3
    assert gate.down is None


def test_trouble_parks_until_the_probe(gate: Destination) -> None:
    """Until the probe is due everybody waits just that long."""
    down = gate.parked(DNS, NOW)

    assert down is not None
    assert (down.code, down.reason, down.since) == (Code.DNS, "no such host", NOW)
    assert down.hint == DNS.hint
    assert gate.down == down
    assert gate.ask(NOW + 0.5) == (Leave.WAIT, 1.5)


def test_one_worker_probes_and_the_others_wait(gate: Destination) -> None:
    """When the probe is due the first who asks has it; the rest come back."""
    gate.parked(DNS, NOW)
    asked = [gate.ask(NOW + 2.0) for _ in range(3)]
    assert asked == [(Leave.PROBE, 0.0), (Leave.WAIT, 1.0), (Leave.WAIT, 1.0)]


def test_of_many_threads_one_probes(gate: Destination) -> None:
    """Asked at the same moment, the gate lets exactly one through."""
    gate.parked(DNS, NOW)
    together = threading.Barrier(8)

    def ask() -> Leave:
        together.wait()
        return gate.ask(NOW + 60.0)[0]

    with ThreadPoolExecutor(8) as pool:
        leaves = [one.result() for one in [pool.submit(ask) for _ in range(8)]]

    assert sorted(leaves) == [Leave.PROBE] + [Leave.WAIT] * 7


def test_a_failed_probe_waits_longer(gate: Destination) -> None:
    """The waits grow from probe to probe up to the maximum."""
    gate.parked(DNS, NOW)
    waits = [probe(gate, DNS) for _ in range(10)]
    assert waits == [4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]


def test_an_answer_ends_it(gate: Destination) -> None:
    """The trouble that ended is returned once, and waits start over after it."""
    down = gate.parked(DNS, NOW)
    probe(gate, DNS)
    ended = gate.answered()

    assert down is not None
    assert ended is not None
    assert (ended.code, ended.since) == (Code.DNS, NOW)
    assert gate.answered() is None
    assert gate.ask(NOW) == (Leave.GO, 0.0)
    gate.parked(DNS, NOW)
    assert probe_at(gate) == NOW + 2.0


def test_the_same_trouble_again_is_no_news(gate: Destination) -> None:
    """One line for an outage however long; another one when it lies elsewhere."""
    gate.parked(DNS, NOW)
    gate.ask(NOW + 2.0)
    assert gate.parked(DNS, NOW + 3.0) is None
    gate.ask(NOW + 60.0)
    assert gate.parked(REFUSED, NOW + 61.0) is None

    gate.ask(NOW + 120.0)
    news = gate.parked(WRONG_PASSWORD, NOW + 121.0)
    assert news is not None
    assert (news.code, news.since) == (Code.CREDENTIALS, NOW)


@pytest.mark.parametrize("late", [DNS, REFUSED, LOST])
def test_a_late_failure_brings_no_news(gate: Destination, late: Trouble) -> None:
    """Who was under way when others parked neither reports nor lengthens the wait."""
    down = gate.parked(DNS, NOW)
    note = gate.deferred if late is LOST else gate.parked

    assert [note(late, NOW + 1.0) for _ in range(6)] == [None] * 6
    assert gate.down == down
    assert gate.ask(NOW + 2.0) == (Leave.PROBE, 0.0)


def test_a_probe_that_said_nothing_is_given_on(gate: Destination) -> None:
    """Where the prober found no entry, the next who asks probes at once."""
    gate.parked(DNS, NOW)
    gate.ask(NOW + 2.0)
    gate.passed()
    assert gate.ask(NOW + 2.0) == (Leave.PROBE, 0.0)


def test_a_streak_of_passing_failures_parks(gate: Destination) -> None:
    """So many in a row, of whichever files, are the destination's own."""
    news = [gate.deferred(LOST, NOW) for _ in range(STREAK)]

    assert news[:-1] == [None] * (STREAK - 1)
    assert news[-1] is not None
    assert news[-1].code is Code.CONNECTION_LOST
    assert gate.ask(NOW)[0] is Leave.WAIT


def test_an_answer_breaks_a_streak(gate: Destination) -> None:
    """Failures between successes are those of single attempts."""
    for _ in range(5):
        for _ in range(STREAK - 1):
            assert gate.deferred(LOST, NOW) is None
        gate.answered()
    assert gate.ask(NOW) == (Leave.GO, 0.0)


def test_a_probe_that_fails_in_passing_parks_again(gate: Destination) -> None:
    """While it is down one failure is enough, whatever its kind."""
    gate.parked(DNS, NOW)
    gate.ask(NOW + 2.0)
    gate.deferred(LOST, NOW + 2.0)

    assert gate.down is not None
    assert gate.down.code is Code.CONNECTION_LOST
    assert gate.ask(NOW + 2.0) == (Leave.WAIT, 4.0)


def test_refused_credentials_are_probed_slowly(gate: Destination) -> None:
    """The server locks accounts: a minute at least, growing to a quarter of an hour."""
    gate.parked(WRONG_PASSWORD, NOW)
    waits = [probe_at(gate) - NOW]
    waits += [probe(gate, WRONG_PASSWORD) for _ in range(7)]
    assert waits == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0, 900.0]


@given(st.integers(0, 300), st.floats(0.0, 1.0))
def test_no_chance_probes_a_password_early(failures: int, luck: float) -> None:
    """However the jitter falls, the floor for a refused login holds."""
    gate = Destination(Backoff(0.1, 600.0, lambda low, high: low + luck * (high - low)))
    gate.parked(WRONG_PASSWORD, NOW)
    wait_s = probe_at(gate) - NOW
    for _ in range(failures):
        wait_s = probe(gate, WRONG_PASSWORD)

    # The times are near 2e9, where a float is good to a quarter of a microsecond.
    assert LOGIN_FLOOR_S - 1e-6 <= wait_s <= LOGIN_CEILING_S + 1e-6


def test_the_wish_of_the_server_is_kept(gate: Destination) -> None:
    """`Retry-After` puts the probe off, with the jitter on top."""
    busy = Trouble(Verdict.PARK, Code.RATE_LIMITED, "429", retry_after_s=120.0)
    gate.parked(busy, NOW)
    assert probe_at(gate) == NOW + 122.0


def test_a_clock_that_was_set_back_does_not_put_the_probe_off(
    gate: Destination,
) -> None:
    """A day back costs no more than the longest wait there is, not a day."""
    gate.parked(DNS, NOW)
    now, longest_s = NOW - 86_400.0, RETRY_AFTER_CAP_S + 600.0
    until = now + longest_s
    leave, wait_s = gate.ask(now)
    while leave is Leave.WAIT and now < until:
        now += min(wait_s, 60.0)
        leave, wait_s = gate.ask(now)

    assert leave is Leave.PROBE


def test_a_clock_that_was_set_forward_probes_at_once(gate: Destination) -> None:
    """Ten years on, the probe is due and nothing else happens."""
    gate.parked(DNS, NOW)
    assert gate.ask(NOW + 3e8) == (Leave.PROBE, 0.0)
    assert gate.ask(NOW + 3e8)[0] is Leave.WAIT


def test_other_credentials_are_tried_at_once(gate: Destination) -> None:
    """A refused login is probed now where that is asked for; a probe is one only."""
    gate.parked(WRONG_PASSWORD, NOW)
    assert gate.ask(NOW + 1)[0] is Leave.WAIT

    assert gate.hasten({Code.CREDENTIALS}, NOW + 1)
    assert gate.ask(NOW + 1) == (Leave.PROBE, 0.0)
    assert gate.ask(NOW + 1)[0] is Leave.WAIT


def test_other_trouble_is_not_hastened(gate: Destination) -> None:
    """Other credentials mend no outage, and a destination that is up needs none."""
    assert not gate.hasten({Code.CREDENTIALS}, NOW)
    gate.parked(DNS, NOW)

    assert not gate.hasten({Code.CREDENTIALS}, NOW)
    assert gate.ask(NOW)[0] is Leave.WAIT


def test_another_rule_holds_from_the_next_failure_on(gate: Destination) -> None:
    """A probe that is due stays so; the next one's time is the new rule's."""
    gate.parked(DNS, NOW)
    before = probe_at(gate)
    gate.adopt(Backoff(100.0, 600.0, lambda _, high: high), streak=8)
    assert probe_at(gate) == before

    assert probe(gate, DNS) == 200.0


def test_another_number_of_workers_is_another_streak(gate: Destination) -> None:
    """As many passing failures as there are workers park."""
    gate.adopt(gate.backoff, streak=6)

    assert [gate.deferred(LOST, NOW) for _ in range(5)] == [None] * 5
    assert gate.deferred(LOST, NOW) is not None
