"""One gate: a probe at a time while it is shut, few at a time once it has opened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.circuit_breaker import (
    LOOK_S,
    STREAK,
    CircuitBreaker,
    OpenCircuit,
    Permit,
    SlowStart,
)
from emitterd.errors import RETRY_AFTER_CAP_S, Decision, DeliveryError, Stage

NOW = 1_700_000_000.0
WORKERS = 8
DNS = DeliveryError(Decision.PAUSE, Code.DNS, "no such host")
REFUSED = DeliveryError(Decision.PAUSE, Code.REFUSED, "connection refused")
FORBIDDEN = DeliveryError(Decision.PAUSE, Code.FORBIDDEN, "upload-url answered 403")
LOST = DeliveryError(Decision.DEFER, Code.CONNECTION_LOST, "reset")
LONGEST = Backoff(2.0, 600.0, lambda _, high: high)


@pytest.fixture
def gate() -> CircuitBreaker:
    """Return a gate that is open; its waits are the longest of each bound."""
    return CircuitBreaker(Stage.BUCKET, LONGEST, WORKERS)


def down(gate: CircuitBreaker) -> OpenCircuit:
    """Return the trouble of a gate that is shut."""
    assert gate.down is not None
    return gate.down


def shut(
    gate: CircuitBreaker,
    trouble: DeliveryError,
    now: float = NOW,
    ticket: Permit | None = None,
) -> OpenCircuit | None:
    """Let an attempt fail in a way that is the destination's; return what is news."""
    ticket = ticket or gate.enter()
    news, _ = gate.failed(trouble, ticket, now, entry=1, passing=False)
    gate.leave(ticket)
    return news


def falter(
    gate: CircuitBreaker, entry: int = 1
) -> tuple[OpenCircuit | None, list[int]]:
    """Let an attempt of an entry fail in passing."""
    ticket = gate.enter()
    told = gate.failed(LOST, ticket, NOW, entry=entry, passing=True)
    gate.leave(ticket)
    return told


def succeed(gate: CircuitBreaker, ticket: Permit | None = None) -> OpenCircuit | None:
    """Let an attempt succeed; return the trouble that it ends."""
    ticket = ticket or gate.enter()
    ended = gate.answered(ticket)
    gate.leave(ticket)
    return ended


def probe(gate: CircuitBreaker, trouble: DeliveryError) -> float:
    """Probe when that is due, fail, and return how long the next wait is."""
    now = down(gate).probe_at
    assert gate.wait_s(now) == 0.0
    shut(gate, trouble, now)
    return down(gate).probe_at - now


def fill(gate: CircuitBreaker) -> list[Permit]:
    """Let in as many as may pass at once."""
    tickets = []
    while gate.wait_s(NOW) == 0.0:
        tickets.append(gate.enter())
    return tickets


def test_an_open_gate_lets_all_workers_pass(gate: CircuitBreaker) -> None:
    """Nothing holds a worker back, and there is no trouble to show."""
    assert len(fill(gate)) == WORKERS
    assert gate.down is None
    assert not gate.limited


def test_trouble_shuts_it_until_the_probe(gate: CircuitBreaker) -> None:
    """Until the probe is due everybody waits just that long."""
    news = shut(gate, DNS)

    assert news is not None
    assert news == gate.down
    assert (news.stage, news.code, news.reason) == (Stage.BUCKET, Code.DNS, DNS.reason)
    assert (news.hint, news.since, news.probes) == (DNS.hint, NOW, 0)
    assert gate.wait_s(NOW + 0.5) == 1.5


def test_one_probes_and_the_others_wait(gate: CircuitBreaker) -> None:
    """When the probe is due the first who enters has it; the rest come back."""
    shut(gate, DNS)
    prober = gate.enter()

    assert gate.is_probe(prober)
    assert gate.wait_s(NOW + 60.0) == LOOK_S
    gate.leave(prober)
    assert gate.wait_s(NOW + 60.0) == 0.0


def test_a_failed_probe_waits_longer(gate: CircuitBreaker) -> None:
    """The waits grow from probe to probe up to the maximum."""
    shut(gate, DNS)
    waits = [probe(gate, DNS) for _ in range(10)]

    assert waits == [4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]
    assert down(gate).probes == 10


def test_an_answer_opens_it(gate: CircuitBreaker) -> None:
    """The trouble that ended is returned once, and waits start over after it."""
    shut(gate, DNS)
    probe(gate, DNS)
    ended = succeed(gate)

    assert ended is not None
    assert (ended.code, ended.since) == (Code.DNS, NOW)
    assert succeed(gate) is None
    shut(gate, DNS)
    assert down(gate).probe_at == NOW + 2.0


def test_the_same_trouble_again_is_no_news(gate: CircuitBreaker) -> None:
    """One line for an outage however long; another one when it lies elsewhere."""
    shut(gate, DNS)
    assert shut(gate, DNS, NOW + 3.0) is None
    assert shut(gate, REFUSED, NOW + 61.0) is None

    news = shut(gate, FORBIDDEN, NOW + 121.0)
    assert news is not None
    assert (news.code, news.since) == (Code.FORBIDDEN, NOW)


def test_a_late_failure_brings_no_news(gate: CircuitBreaker) -> None:
    """Who was under way when another shut it neither reports nor lengthens the wait."""
    late = [gate.enter() for _ in range(4)]
    shut(gate, DNS)
    before = down(gate)

    assert [shut(gate, FORBIDDEN, NOW + 1.0, one) for one in late] == [None] * 4
    assert gate.down == before


def test_a_late_failure_leaves_the_probe_alone(gate: CircuitBreaker) -> None:
    """While another probes, it is that one's outcome that counts."""
    late = gate.enter()
    shut(gate, DNS)
    prober = gate.enter()
    shut(gate, REFUSED, NOW + 2.0, late)

    assert gate.is_probe(prober)
    assert down(gate).code is Code.DNS


def test_a_failure_from_before_an_outage_does_not_shut_it_again(
    gate: CircuitBreaker,
) -> None:
    """What broke with the last outage is told once that is over, and is no new one."""
    late = gate.enter()
    shut(gate, DNS)
    succeed(gate)

    assert gate.is_stale(late)
    assert shut(gate, DNS, NOW + 9.0, late) is None
    assert gate.down is None


def test_an_implied_answer_is_believed_of_the_probe_only(gate: CircuitBreaker) -> None:
    """A later stage's answer says nothing of what was passed before the outage."""
    late = gate.enter()
    shut(gate, DNS)
    assert gate.answered(late, implied=True) is None
    assert gate.down is not None

    assert gate.answered(gate.enter(), implied=True) is not None
    assert gate.down is None


def test_a_streak_of_passing_failures_shuts_it(gate: CircuitBreaker) -> None:
    """As many in a row as there are workers; whoever was charged is named."""
    told = [falter(gate, entry) for entry in range(WORKERS)]

    assert told[:-1] == [(None, [])] * (WORKERS - 1)
    news, suspects = told[-1]
    assert news is not None
    assert news.code is Code.CONNECTION_LOST
    assert suspects == list(range(WORKERS - 1))


def test_an_outage_names_whom_a_passing_failure_was_charged_to(
    gate: CircuitBreaker,
) -> None:
    """What faltered just before was the destination's trouble already."""
    falter(gate, 7)
    falter(gate, 8)
    _, suspects = gate.failed(DNS, None, NOW, entry=9, passing=False)
    assert suspects == [7, 8]


def test_an_answer_breaks_a_streak(gate: CircuitBreaker) -> None:
    """Failures between successes are those of single attempts."""
    for _ in range(5):
        for _ in range(WORKERS - 1):
            assert falter(gate) == (None, [])
        succeed(gate)
    assert gate.down is None


def test_a_streak_is_never_shorter_than_four() -> None:
    """With one worker, two lost connections are no outage."""
    gate = CircuitBreaker(Stage.BUCKET, LONGEST, 1)
    assert [falter(gate)[0] is None for _ in range(STREAK)] == [True] * 3 + [False]


def test_a_probe_that_fails_in_passing_shuts_it_again(gate: CircuitBreaker) -> None:
    """While it is shut one failure is enough, whatever its kind."""
    shut(gate, DNS)
    falter(gate)

    assert down(gate).code is Code.CONNECTION_LOST
    assert gate.wait_s(NOW) == 4.0


def test_after_an_outage_one_passes_then_ever_more(gate: CircuitBreaker) -> None:
    """A server that has just come back gets one, then two, four, all."""
    shut(gate, DNS)
    succeed(gate)
    seen = []
    for _ in range(5):
        tickets = fill(gate)
        seen.append(len(tickets))
        succeed(gate, tickets[0])
        for one in tickets[1:]:
            gate.leave(one)

    assert seen == [1, 2, 4, 8, 8]
    assert not gate.limited


def test_a_success_from_before_the_outage_lets_no_more_pass(
    gate: CircuitBreaker,
) -> None:
    """What began while it was open says nothing of how much can be borne now."""
    early = [gate.enter() for _ in range(3)]
    shut(gate, DNS)
    succeed(gate)
    for one in early:
        succeed(gate, one)
    assert len(fill(gate)) == 1


def test_a_passing_failure_halves_how_many_may_pass(gate: CircuitBreaker) -> None:
    """An overload is met by fewer attempts at once, and by one at the least."""
    seen = []
    for _ in range(5):
        falter(gate)
        tickets = fill(gate)
        seen.append(len(tickets))
        for one in tickets:
            gate.leave(one)
    assert seen == [4, 2, 1, 1, 1]


@given(st.lists(st.booleans()), st.integers(1, 64))
def test_the_allowance_stays_within_its_bounds(outcomes: list[bool], most: int) -> None:
    """Whatever happens, one may always pass, and never more than there are workers."""
    allowance = SlowStart(most)
    for well in outcomes:
        (allowance.grow if well else allowance.shrink)()
        entered = 0
        while allowance.room():
            allowance.enter()
            entered += 1
        assert 1 <= entered <= most
        for _ in range(entered):
            allowance.leave()


def test_other_numbers_of_workers_are_adopted() -> None:
    """What was not limited grows along; what was stays so, within the new number."""
    free, held = SlowStart(4), SlowStart(4)
    held.shrink()
    free.adopt(8)
    held.adopt(8)

    assert not free.limited
    assert held.limited
    held.adopt(1)
    assert not held.limited


@given(st.lists(st.sampled_from(["enter", "leave", "fail", "falter", "answer"])))
def test_a_shut_gate_has_one_probe_and_an_open_one_is_never_stuck(
    acts: list[str],
) -> None:
    """In any order of events: at most one probe, and once all have left, a way in."""
    gate, tickets, now = CircuitBreaker(Stage.BUCKET, LONGEST, 4), list[Permit](), NOW
    for act in acts:
        now += 700.0
        if act == "enter":
            if gate.wait_s(now) == 0.0:
                tickets.append(gate.enter())
        elif tickets:
            ticket = tickets.pop(0)
            if act == "answer":
                gate.answered(ticket)
            elif act != "leave":
                passing = act == "falter"
                gate.failed(LOST, ticket, now, entry=1, passing=passing)
            gate.leave(ticket)
        assert sum(gate.is_probe(one) for one in tickets) <= 1
    for one in tickets:
        gate.leave(one)
    assert gate.wait_s(now + 700.0) == 0.0


def test_the_wish_of_the_server_is_kept(gate: CircuitBreaker) -> None:
    """`Retry-After` puts the probe off, with the jitter on top."""
    shut(
        gate,
        DeliveryError(Decision.PAUSE, Code.RATE_LIMITED, "429", retry_after_s=120.0),
    )
    assert down(gate).probe_at == NOW + 122.0


def test_the_wait_of_a_refused_login_is_kept_as_it_is(gate: CircuitBreaker) -> None:
    """It grows by itself, so the longer of both waits counts, and not their sum."""
    refused = DeliveryError(Decision.PAUSE, Code.CREDENTIALS, "401", retry_after_s=60.0)
    shut(gate, refused)
    assert down(gate).probe_at == NOW + 60.0


def test_a_clock_that_was_set_back_does_not_put_the_probe_off(
    gate: CircuitBreaker,
) -> None:
    """A day back costs no more than the longest wait there is, not a day."""
    shut(gate, DNS)
    now, longest_s = NOW - 86_400.0, RETRY_AFTER_CAP_S + 600.0
    until = now + longest_s
    while (wait_s := gate.wait_s(now)) > 0 and now < until:
        now += min(wait_s, 60.0)
    assert wait_s == 0.0


def test_a_clock_that_was_set_forward_probes_at_once(gate: CircuitBreaker) -> None:
    """Ten years on, the probe is due and nothing else happens."""
    shut(gate, DNS)
    assert gate.wait_s(NOW + 3e8) == 0.0
    gate.enter()
    assert gate.wait_s(NOW + 3e8) == LOOK_S


def test_another_rule_holds_from_the_next_failure_on(gate: CircuitBreaker) -> None:
    """A probe that is due stays so; the next one's time is the new rule's."""
    shut(gate, DNS)
    before = down(gate).probe_at
    gate.adopt(Backoff(100.0, 600.0, lambda _, high: high), WORKERS)

    assert down(gate).probe_at == before
    assert probe(gate, DNS) == 200.0
