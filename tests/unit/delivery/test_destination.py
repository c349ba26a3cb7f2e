"""The circuit breakers of the three stages: permits, and what an outcome means."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from emitterd.codes import Code
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.concurrency import FORGET_S, START
from emitterd.delivery.destination import AttemptPermit, Destination, StageFailure
from emitterd.errors import Decision, DeliveryError, Stage

NOW = 1_700_000_000.0
DUE = NOW + 60.0
WORKERS = 8
LOGIN, GRANT, BUCKET = Stage
WRONG_PASSWORD = DeliveryError(Decision.PAUSE, Code.CREDENTIALS, "login answered 401", stage=LOGIN)
API_DOWN = DeliveryError(Decision.PAUSE, Code.API_TROUBLE, "upload-url answered 500")
NO_BUCKET = DeliveryError(Decision.PAUSE, Code.NO_SUCH_BUCKET, "the bucket answered 404")
LOST = DeliveryError(Decision.DEFER, Code.CONNECTION_LOST, "reset")
OF = {LOGIN: WRONG_PASSWORD, GRANT: API_DOWN, BUCKET: NO_BUCKET}

each_stage = pytest.mark.parametrize("stage", list(Stage))


@pytest.fixture
def destination() -> Destination:
    """Return a destination that is up; its waits are the longest of each bound."""
    rule = Backoff(2.0, 600.0, lambda _, high: high)
    return Destination(rule, workers=WORKERS)


def permit_for(destination: Destination, now: float, *stages: Stage) -> AttemptPermit:
    """Return a permit for these stages, or for all of them."""
    permit = destination.acquire(now)
    assert isinstance(permit, dict)
    if stages:
        destination.release(permit, [one for one in permit if one not in stages])
    return permit


def fail(
    destination: Destination,
    error: DeliveryError,
    now: float = NOW,
    permit: AttemptPermit | None = None,
    *,
    again: bool = False,
    entry: int = 1,
) -> StageFailure:
    """Let an attempt fail, from its beginning to its end."""
    permit = permit or permit_for(destination, now)
    failure = destination.record_failure(permit, error, now, entry=entry, again=again)
    destination.release(permit)
    return failure


def stages_down(destination: Destination) -> list[Stage]:
    """Return the stages that are down."""
    return [down.stage for down in destination.open_circuits]


@each_stage
def test_a_failure_opens_its_own_circuit_only(destination: Destination, stage: Stage) -> None:
    """An error opens the circuit of its stage, and the entry is not charged."""
    failure = fail(destination, OF[stage])

    assert failure.to_report == destination.down
    assert failure.to_report is not None
    assert failure.to_report.stage is stage
    assert failure.due_at == failure.to_report.probe_at
    assert stages_down(destination) == [stage]
    assert not isinstance(destination.acquire(NOW), dict)


@each_stage
def test_of_many_threads_one_probes(destination: Destination, stage: Stage) -> None:
    """When many threads ask at the same moment, exactly one gets a permit."""
    fail(destination, OF[stage])
    together = threading.Barrier(WORKERS)

    def ask() -> AttemptPermit | float:
        together.wait()
        return destination.acquire(DUE)

    with ThreadPoolExecutor(WORKERS) as pool:
        asked = [pool.submit(ask) for _ in range(WORKERS)]
    [probe] = [request.result() for request in asked if isinstance(request.result(), dict)]

    assert isinstance(probe, dict)
    assert [down.stage for down in destination.probes(probe)] == [stage]


def test_an_attempt_waits_for_the_last_of_all_circuits(destination: Destination) -> None:
    """One attempt probes two stages once both probes are due."""
    early = permit_for(destination, NOW)
    fail(destination, API_DOWN)
    fail(destination, NO_BUCKET, NOW + 1.0, early)
    assert destination.acquire(NOW + 2.5) == pytest.approx(0.5)

    probe = permit_for(destination, NOW + 3.0)
    assert [down.stage for down in destination.probes(probe)] == [GRANT, BUCKET]


def test_a_grant_ends_the_failures_of_login_and_grant(destination: Destination) -> None:
    """Who was permit one has logged in; of the bucket that says nothing."""
    for stage, since in zip(Stage, (NOW, DUE, 2 * DUE), strict=True):
        fail(destination, OF[stage], since, permit_for(destination, since, stage))
    probe = permit_for(destination, 3 * DUE)
    ended = destination.record_answer(probe, GRANT)

    assert [down.stage for down in ended] == [LOGIN, GRANT]
    assert stages_down(destination) == [BUCKET]
    assert [down.stage for down in destination.probes(probe)] == [BUCKET]


def test_a_grant_by_an_old_token_does_not_end_a_refused_login(destination: Destination) -> None:
    """An attempt from before the refused login proves nothing about the login."""
    early = permit_for(destination, NOW)
    fail(destination, WRONG_PASSWORD)

    assert destination.record_answer(early, GRANT) == []
    assert stages_down(destination) == [LOGIN]


def test_failure_with_the_grant_ends_that_of_the_login(destination: Destination) -> None:
    """A probe that is refused a grant has logged in."""
    fail(destination, WRONG_PASSWORD)
    probe = permit_for(destination, DUE)
    failure = destination.record_failure(probe, API_DOWN, DUE, entry=1, again=False)

    assert [down.stage for down in failure.ended] == [LOGIN]
    assert [failure.to_report] == destination.open_circuits
    assert stages_down(destination) == [GRANT]


def test_an_upload_by_a_pinned_grant_says_nothing_of_the_api(destination: Destination) -> None:
    """The bucket has answered, and nobody else was asked."""
    early = permit_for(destination, NOW, BUCKET)
    fail(destination, API_DOWN)
    assert destination.record_answer(early, BUCKET) == []
    assert stages_down(destination) == [GRANT]


def test_a_probe_that_said_nothing_is_given_on(destination: Destination) -> None:
    """A probe that found no entry passes its permit to the next attempt."""
    fail(destination, API_DOWN)
    probe = permit_for(destination, DUE)
    assert not isinstance(destination.acquire(DUE), dict)
    destination.release(probe)

    assert destination.probes(permit_for(destination, DUE))


def test_a_probe_that_needs_no_grant_leaves_the_api_to_others(destination: Destination) -> None:
    """An entry that turns out to have its grant passes the bucket alone."""
    fail(destination, API_DOWN)
    probe = permit_for(destination, DUE)
    destination.release(probe, [LOGIN, GRANT])

    assert destination.probes(probe) == []
    assert destination.probes(permit_for(destination, DUE))


def test_failure_that_one_entry_meets_again_is_its_own(destination: Destination) -> None:
    """It must not pause the others again and again; a whole streak does."""
    failures = [fail(destination, API_DOWN, again=True) for _ in range(WORKERS)]

    assert [failure.due_at for failure in failures[:-1]] == [None] * (WORKERS - 1)
    assert failures[-1].due_at is not None
    assert failures[-1].charged_entries == [1] * (WORKERS - 1)


def test_a_refused_login_is_no_entrys_own(destination: Destination) -> None:
    """No file can be to blame for a password."""
    assert fail(destination, WRONG_PASSWORD, again=True).due_at is not None


def test_a_late_failure_is_paused_with_the_others(destination: Destination) -> None:
    """A failure after the circuit opened is charged to no file."""
    early = permit_for(destination, NOW)
    down = fail(destination, NO_BUCKET).to_report
    late = fail(destination, LOST, NOW + 1.0, early)

    assert down is not None
    assert late == StageFailure(None, down.probe_at, [], [])


def test_a_failure_from_before_the_outage_is_due_at_once(destination: Destination) -> None:
    """What broke with an outage that is over is charged to no file."""
    early = permit_for(destination, NOW)
    fail(destination, NO_BUCKET)
    destination.record_answer(permit_for(destination, DUE), BUCKET)

    assert fail(destination, LOST, DUE, early) == StageFailure(None, DUE, [], [])
    assert destination.down is None


def test_other_credentials_are_tried_at_once(destination: Destination) -> None:
    """`probe_now` makes the probe of a refused login due, once."""
    fail(destination, WRONG_PASSWORD)
    assert not isinstance(destination.acquire(NOW + 1), dict)

    assert destination.probe_now({Code.CREDENTIALS}, NOW + 1)
    assert destination.probes(permit_for(destination, NOW + 1))
    assert not isinstance(destination.acquire(NOW + 1), dict)


def test_the_probe_of_another_failure_stays(destination: Destination) -> None:
    """Other credentials end no outage, and a destination that is up needs no probe."""
    assert not destination.probe_now({Code.CREDENTIALS}, NOW)
    fail(destination, API_DOWN)

    assert not destination.probe_now({Code.CREDENTIALS}, NOW)
    assert not isinstance(destination.acquire(NOW), dict)


def test_another_number_of_workers_is_another_streak(destination: Destination) -> None:
    """As many failures in a row as workers pause uploads."""
    destination.apply_settings(destination.backoff, workers=6)

    assert [fail(destination, LOST, entry=entry).due_at for entry in range(5)] == [None] * 5
    assert fail(destination, LOST, entry=5).due_at is not None


def test_overload_makes_fewer_workers() -> None:
    """A sign of overload makes fewer workers; another failure does not."""
    destination = Destination(Backoff(2.0, 600.0), workers=None)
    reported: list[int] = []
    destination.on_resized = lambda: reported.append(destination.workers)
    fail(destination, LOST)
    fail(destination, NO_BUCKET)

    assert reported == [START // 2]


def test_more_workers_are_let_through() -> None:
    """As many may pass at once as there are workers, also after more have come."""
    destination = Destination(Backoff(2.0, 600.0), workers=None)
    reported: list[int] = []
    destination.on_resized = lambda: reported.append(destination.workers)
    for number in range(2 * START):
        destination.record_delivery(NOW + number, 1000)
    permit = [destination.acquire(NOW) for _ in range(2 * START + 1)]

    assert reported == [2 * START]
    assert sum(isinstance(item, dict) for item in permit) >= 2 * START


def test_after_a_pause_it_begins_anew() -> None:
    """Where nothing was delivered for long, there are as many as at the start."""
    destination = Destination(Backoff(2.0, 600.0), workers=None)
    reported: list[int] = []
    destination.on_resized = lambda: reported.append(destination.workers)
    for number in range(2 * START):
        destination.record_delivery(NOW + number, 1000)
    destination.record_idle(NOW + 2 * START)
    destination.record_idle(NOW + 2 * START + FORGET_S)

    assert reported == [2 * START, START]
