"""One circuit breaker: probes while it is open, and slow start once it has closed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.circuit_breaker import RECHECK_S, STREAK, CircuitBreaker, OpenCircuit, Permit
from emitterd.errors import RETRY_AFTER_CAP_S, Decision, DeliveryError, Stage

NOW = 1_700_000_000.0
WORKERS = 8
DNS = DeliveryError(Decision.PAUSE, Code.DNS, "no such host")
REFUSED = DeliveryError(Decision.PAUSE, Code.REFUSED, "connection refused")
FORBIDDEN = DeliveryError(Decision.PAUSE, Code.FORBIDDEN, "upload-url answered 403")
LOST = DeliveryError(Decision.DEFER, Code.CONNECTION_LOST, "reset")
ENTRIES = itertools.count(1000)
LONGEST = Backoff(2.0, 600.0, lambda _, high: high)


@pytest.fixture
def breaker() -> CircuitBreaker:
    """Return a closed circuit breaker, whose waits have no jitter."""
    return CircuitBreaker(Stage.BUCKET, LONGEST, WORKERS)


def down(breaker: CircuitBreaker) -> OpenCircuit:
    """Return the failure of an open circuit."""
    assert breaker.down is not None
    return breaker.down


def open_circuit(
    breaker: CircuitBreaker, error: DeliveryError, now: float = NOW, permit: Permit | None = None
) -> OpenCircuit | None:
    """Let an attempt fail because of the destination; return the failure to report."""
    permit = permit or breaker.acquire()
    news, _ = breaker.record_failure(error, permit, now, entry=1, file_only=False)
    breaker.release(permit)
    return news


def fail_once(
    breaker: CircuitBreaker, entry: int | None = None
) -> tuple[OpenCircuit | None, list[int]]:
    """Let an attempt of an entry, by default of another one each time, fail in passing."""
    entry = next(ENTRIES) if entry is None else entry
    permit = breaker.acquire()
    reported = breaker.record_failure(LOST, permit, NOW, entry=entry, file_only=True)
    breaker.release(permit)
    return reported


def succeed(breaker: CircuitBreaker, permit: Permit | None = None) -> OpenCircuit | None:
    """Let an attempt succeed; return the error that it ends."""
    permit = permit or breaker.acquire()
    ended = breaker.record_answer(permit)
    breaker.release(permit)
    return ended


def probe(breaker: CircuitBreaker, error: DeliveryError) -> float:
    """Probe when that is due, fail, and return how long the next wait is."""
    now = down(breaker).probe_at
    assert breaker.wait_s(now) == 0.0
    open_circuit(breaker, error, now)
    return down(breaker).probe_at - now


def fill(breaker: CircuitBreaker) -> list[Permit]:
    """Let in as many as may pass at once."""
    permits = []
    while breaker.wait_s(NOW) == 0.0:
        permits.append(breaker.acquire())
    return permits


def test_a_closed_circuit_lets_all_workers_pass(breaker: CircuitBreaker) -> None:
    """Nothing holds a worker back, and there is no error to show."""
    assert len(fill(breaker)) == WORKERS
    assert breaker.down is None
    assert not breaker.limited


def test_failure_opens_it_until_the_probe(breaker: CircuitBreaker) -> None:
    """Until the probe is due everybody waits just that long."""
    news = open_circuit(breaker, DNS)

    assert news is not None
    assert news == breaker.down
    assert (news.stage, news.code, news.reason) == (Stage.BUCKET, Code.DNS, DNS.reason)
    assert (news.remedy, news.since, news.probes) == (DNS.remedy, NOW, 0)
    assert breaker.wait_s(NOW + 0.5) == 1.5


def test_one_file_that_fails_again_and_again_opens_nothing(breaker: CircuitBreaker) -> None:
    """Only failures of several files in a row are a failure of the destination."""
    assert [fail_once(breaker, entry=1) for _ in range(10 * WORKERS)] == [(None, [])] * 10 * WORKERS
    others = [fail_once(breaker)[0] for _ in range(WORKERS - 1)]

    assert others[:-1] == [None] * (WORKERS - 2)
    assert others[-1] is not None


def test_one_probes_and_the_others_wait(breaker: CircuitBreaker) -> None:
    """The first attempt after the pause is the probe; the others wait again."""
    open_circuit(breaker, DNS)
    prober = breaker.acquire()

    assert breaker.is_probe(prober)
    assert breaker.wait_s(NOW + 60.0) == RECHECK_S
    breaker.release(prober)
    assert breaker.wait_s(NOW + 60.0) == 0.0


def test_a_failed_probe_waits_longer(breaker: CircuitBreaker) -> None:
    """The waits grow from probe to probe up to the maximum."""
    open_circuit(breaker, DNS)
    waits = [probe(breaker, DNS) for _ in range(10)]

    assert waits == [4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]
    assert down(breaker).probes == 10


def test_an_answer_closes_it(breaker: CircuitBreaker) -> None:
    """The error that ended is returned once, and waits start over after it."""
    open_circuit(breaker, DNS)
    probe(breaker, DNS)
    ended = succeed(breaker)

    assert ended is not None
    assert (ended.code, ended.since) == (Code.DNS, NOW)
    assert succeed(breaker) is None
    open_circuit(breaker, DNS)
    assert down(breaker).probe_at == NOW + 2.0


def test_the_same_failure_again_is_no_news(breaker: CircuitBreaker) -> None:
    """An outage is reported once, and again when its cause moves to another stage."""
    open_circuit(breaker, DNS)
    assert open_circuit(breaker, DNS, NOW + 3.0) is None
    assert open_circuit(breaker, REFUSED, NOW + 61.0) is None

    news = open_circuit(breaker, FORBIDDEN, NOW + 121.0)
    assert news is not None
    assert (news.code, news.since) == (Code.FORBIDDEN, NOW)


def test_a_late_failure_brings_no_news(breaker: CircuitBreaker) -> None:
    """A failure after the circuit opened reports nothing and adds no wait."""
    late = [breaker.acquire() for _ in range(4)]
    open_circuit(breaker, DNS)
    before = down(breaker)

    assert [open_circuit(breaker, FORBIDDEN, NOW + 1.0, item) for item in late] == [None] * 4
    assert breaker.down == before


def test_a_late_failure_leaves_the_probe_alone(breaker: CircuitBreaker) -> None:
    """While another probes, it is that one's outcome that counts."""
    late = breaker.acquire()
    open_circuit(breaker, DNS)
    prober = breaker.acquire()
    open_circuit(breaker, REFUSED, NOW + 2.0, late)

    assert breaker.is_probe(prober)
    assert down(breaker).code is Code.DNS


def test_a_failure_from_before_an_outage_does_not_open_it_again(breaker: CircuitBreaker) -> None:
    """A late failure of the last outage does not open the circuit again."""
    late = breaker.acquire()
    open_circuit(breaker, DNS)
    succeed(breaker)

    assert breaker.is_stale(late)
    assert open_circuit(breaker, DNS, NOW + 9.0, late) is None
    assert breaker.down is None


def test_an_implied_answer_is_believed_of_the_probe_only(breaker: CircuitBreaker) -> None:
    """A later stage's answer says nothing of what was passed before the outage."""
    late = breaker.acquire()
    open_circuit(breaker, DNS)
    assert breaker.record_answer(late, implied=True) is None
    assert breaker.down is not None

    assert breaker.record_answer(breaker.acquire(), implied=True) is not None
    assert breaker.down is None


def test_a_streak_of_passing_failures_opens_it(breaker: CircuitBreaker) -> None:
    """A failure for each worker in a row opens it, and names the charged entries."""
    reported = [fail_once(breaker, entry) for entry in range(WORKERS)]

    assert reported[:-1] == [(None, [])] * (WORKERS - 1)
    news, suspects = reported[-1]
    assert news is not None
    assert news.code is Code.CONNECTION_LOST
    assert suspects == list(range(WORKERS - 1))


def test_an_outage_names_whom_a_passing_failure_was_charged_to(breaker: CircuitBreaker) -> None:
    """What faltered just before was the destination's error already."""
    fail_once(breaker, 7)
    fail_once(breaker, 8)
    _, suspects = breaker.record_failure(DNS, None, NOW, entry=9, file_only=False)
    assert suspects == [7, 8]


def test_an_answer_breaks_a_streak(breaker: CircuitBreaker) -> None:
    """Failures between successes are those of single attempts."""
    for _ in range(5):
        for _ in range(WORKERS - 1):
            assert fail_once(breaker) == (None, [])
        succeed(breaker)
    assert breaker.down is None


def test_a_streak_is_never_shorter_than_four() -> None:
    """With one worker, two lost connections are no outage."""
    breaker = CircuitBreaker(Stage.BUCKET, LONGEST, 1)
    assert [fail_once(breaker)[0] is None for _ in range(STREAK)] == [True] * 3 + [False]


def test_a_probe_that_fails_in_passing_opens_it_again(breaker: CircuitBreaker) -> None:
    """In an outage a failed probe of any kind keeps the circuit open."""
    open_circuit(breaker, DNS)
    fail_once(breaker)

    assert down(breaker).code is Code.CONNECTION_LOST
    assert breaker.wait_s(NOW) == 4.0


def test_after_an_outage_one_passes_then_ever_more(breaker: CircuitBreaker) -> None:
    """A server that has just come back gets one, then two, four, all."""
    open_circuit(breaker, DNS)
    succeed(breaker)
    seen = []
    for _ in range(5):
        permits = fill(breaker)
        seen.append(len(permits))
        succeed(breaker, permits[0])
        for permit in permits[1:]:
            breaker.release(permit)

    assert seen == [1, 2, 4, 8, 8]
    assert not breaker.limited


def test_a_success_from_before_the_outage_lets_no_more_pass(breaker: CircuitBreaker) -> None:
    """What began while it was open says nothing of how much can be borne now."""
    early = [breaker.acquire() for _ in range(3)]
    open_circuit(breaker, DNS)
    succeed(breaker)
    for item in early:
        succeed(breaker, item)
    assert len(fill(breaker)) == 1


def test_a_passing_failure_halves_how_many_may_pass(breaker: CircuitBreaker) -> None:
    """An overload is met by fewer attempts at once, and by one at the least."""
    seen = []
    for _ in range(5):
        fail_once(breaker)
        permits = fill(breaker)
        seen.append(len(permits))
        for permit in permits:
            breaker.release(permit)
    assert seen == [4, 2, 1, 1, 1]


@given(st.lists(st.booleans()), st.integers(1, 64))
def test_slow_start_stays_within_its_bounds(outcomes: list[bool], workers: int) -> None:
    """One attempt may always pass, and never more than there are workers."""
    breaker = CircuitBreaker(Stage.BUCKET, LONGEST, workers)
    for success in outcomes:
        if success or fail_once(breaker)[0] is not None:
            succeed(breaker)
        permits = fill(breaker)
        assert 1 <= len(permits) <= workers
        for permit in permits:
            breaker.release(permit)


def test_another_number_of_workers_is_applied() -> None:
    """A limit of slow start stays, within the new number; otherwise there is none."""
    free = CircuitBreaker(Stage.BUCKET, LONGEST, 4)
    limited = CircuitBreaker(Stage.BUCKET, LONGEST, 4)
    fail_once(limited)
    free.apply_settings(LONGEST, 8)
    limited.apply_settings(LONGEST, 8)

    assert len(fill(free)) == 8
    assert limited.limited
    limited.apply_settings(LONGEST, 1)
    assert not limited.limited


@given(st.lists(st.sampled_from(["enter", "leave", "fail", "fail_once", "answer"])))
def test_an_open_circuit_has_one_probe_and_a_closed_one_is_never_stuck(acts: list[str]) -> None:
    """In any order of events there is at most one probe, and no dead end."""
    breaker, permits, now = (CircuitBreaker(Stage.BUCKET, LONGEST, 4), list[Permit](), NOW)
    for act in acts:
        now += 700.0
        if act == "enter":
            if breaker.wait_s(now) == 0.0:
                permits.append(breaker.acquire())
        elif permits:
            permit = permits.pop(0)
            if act == "answer":
                breaker.record_answer(permit)
            elif act != "leave":
                file_only = act == "fail_once"
                breaker.record_failure(LOST, permit, now, entry=1, file_only=file_only)
            breaker.release(permit)
        assert sum(breaker.is_probe(permit) for permit in permits) <= 1
    for item in permits:
        breaker.release(item)
    assert breaker.wait_s(now + 700.0) == 0.0


def test_the_wish_of_the_server_is_kept(breaker: CircuitBreaker) -> None:
    """`Retry-After` puts the probe off, with the jitter on top."""
    open_circuit(
        breaker, DeliveryError(Decision.PAUSE, Code.RATE_LIMITED, "429", retry_after_s=120.0)
    )
    assert down(breaker).probe_at == NOW + 122.0


def test_the_wait_of_a_refused_login_is_kept_as_it_is(breaker: CircuitBreaker) -> None:
    """It grows by itself, so the longer of both waits counts, and not their sum."""
    refused = DeliveryError(Decision.PAUSE, Code.CREDENTIALS, "401", retry_after_s=60.0)
    open_circuit(breaker, refused)
    assert down(breaker).probe_at == NOW + 60.0


def test_a_clock_that_was_set_back_does_not_put_the_probe_off(breaker: CircuitBreaker) -> None:
    """A day back costs no more than the longest wait there is, not a day."""
    open_circuit(breaker, DNS)
    now, longest_s = NOW - 86_400.0, RETRY_AFTER_CAP_S + 600.0
    until = now + longest_s
    while (wait_s := breaker.wait_s(now)) > 0 and now < until:
        now += min(wait_s, 60.0)
    assert wait_s == 0.0


def test_a_clock_that_was_set_forward_probes_at_once(breaker: CircuitBreaker) -> None:
    """Ten years on, the probe is due and nothing else happens."""
    open_circuit(breaker, DNS)
    assert breaker.wait_s(NOW + 3e8) == 0.0
    breaker.acquire()
    assert breaker.wait_s(NOW + 3e8) == RECHECK_S


def test_another_rule_holds_from_the_next_failure_on(breaker: CircuitBreaker) -> None:
    """A probe that is due stays so; the next one's time is the new rule's."""
    open_circuit(breaker, DNS)
    before = down(breaker).probe_at
    breaker.apply_settings(Backoff(100.0, 600.0, lambda _, high: high), WORKERS)

    assert down(breaker).probe_at == before
    assert probe(breaker, DNS) == 200.0
