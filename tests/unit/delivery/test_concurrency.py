"""How many workers there are: found by what gets through, and halved by overload."""

import random
from collections.abc import Callable

import pytest

from emitterd.delivery.concurrency import (
    CALM_ROUNDS,
    FORGET_S,
    MOST,
    ROUND_LONGEST_S,
    START,
    Concurrency,
)

NOW = 1_000_000.0
Rate = Callable[[int], float]
"""Files a second, by the number of workers."""


def waits_for_answers(workers: int) -> float:
    """Return the rate of a server that answers after 0.1 s, however many ask."""
    return workers / 0.1


def bears_300(workers: int) -> float:
    """Return the rate of one that gets no more than 300 a second through."""
    return min(workers / 0.1, 300.0)


def is_full(workers: int) -> float:
    """Return the rate of a line that one upload fills."""
    return 75.0 + 0 * workers


def falls_over(workers: int) -> float:
    """Return the rate of a server that thrashes beyond 10."""
    return workers / 0.1 if workers <= 10 else 20.0


class Line:
    """Deliveries at the rate that the number of workers gives."""

    def __init__(self, rate: Rate, workers: int | None = None) -> None:
        self.concurrency = Concurrency(workers)
        self.now = NOW
        self.rate = rate
        self.seen: list[int] = []

    def deliver(self, files: int, size_bytes: int = 20_000) -> int:
        """Deliver `count` files; return the number of workers then."""
        for _ in range(files):
            self.now += 1 / self.rate(self.concurrency.limit)
            self.concurrency.record_delivery(self.now, size_bytes)
            self.seen.append(self.concurrency.limit)
        return self.concurrency.limit


def test_it_begins_with_eight() -> None:
    """Before anything is known there are as many as there always were."""
    assert Concurrency(None).limit == START == 8


def test_it_grows_while_more_gets_through() -> None:
    """Where each file waits for answers, 200 files reach the most there is."""
    line = Line(waits_for_answers)

    assert line.deliver(200) == MOST


@pytest.mark.parametrize(
    ("rate", "least", "most"), [(bears_300, 16, 40), (is_full, 8, 10), (falls_over, 6, 12)]
)
def test_it_settles_where_more_is_no_gain(rate: Rate, least: int, most: int) -> None:
    """It stays about where the rate stops growing, and comes back from each trial."""
    line = Line(rate)
    line.deliver(20_000)
    late = sorted(line.seen[10_000:])

    assert least <= late[len(late) // 2] <= most


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_lead_down(seed: int) -> None:
    """Where each step down costs a little, chance does not add up to few workers."""
    dice = random.Random(seed)  # noqa: S311  noise, no secret
    line = Line(lambda workers: dice.gauss(300, 60) * workers / (workers + 2))
    line.deliver(30_000)

    assert min(line.seen) >= START


def test_after_overload_it_comes_back_to_where_it_began() -> None:
    """Up to the first eight no gain is asked for, only that nothing is lost."""
    line = Line(is_full)
    line.deliver(500)
    for _ in range(200):
        line.concurrency.record_overload()
    lowest = line.concurrency.limit

    assert lowest == 1
    assert line.deliver(20_000) >= START


def test_overload_halves_it_once() -> None:
    """Failures of all attempts under way are one sign; the next one counts again."""
    line = Line(waits_for_answers)
    line.deliver(500)
    for _ in range(MOST):
        line.concurrency.record_overload()
    once = line.concurrency.limit
    line.concurrency.record_overload()

    assert (once, line.concurrency.limit) == (MOST // 2, MOST // 4)


def test_overload_leaves_one() -> None:
    """However bad it is, one worker goes on."""
    concurrency = Concurrency(None)
    for _ in range(10 * MOST):
        concurrency.record_overload()

    assert concurrency.limit == 1


def test_after_overload_it_grows_in_steps() -> None:
    """It does not double again what has been too much, and still comes back."""
    line = Line(waits_for_answers)
    line.deliver(500)
    line.concurrency.record_overload()
    halved = line.concurrency.limit
    soon = line.deliver(halved * CALM_ROUNDS // 2)
    later = line.deliver(20_000)

    assert (halved, soon) == (MOST // 2, MOST // 2)
    assert later > 0.9 * MOST


def test_large_files_bring_no_more() -> None:
    """Where a round takes long, more uploads at once would only be slower ones."""
    line = Line(lambda workers: workers / (2 * ROUND_LONGEST_S))

    assert line.deliver(500, 10**9) == START


def test_idleness_proves_nothing() -> None:
    """While there is too little to do, the number stays."""
    line = Line(waits_for_answers)
    for _ in range(100):
        line.deliver(START)
        line.concurrency.record_idle(line.now)

    assert line.concurrency.limit == START


def test_after_a_pause_it_begins_anew() -> None:
    """What was found before a pause is forgotten, and the threads with it."""
    line = Line(waits_for_answers)
    line.deliver(500)
    line.concurrency.record_idle(line.now + 1)
    short = line.concurrency.limit
    line.concurrency.record_idle(line.now + FORGET_S + 1)

    assert (short, line.concurrency.limit) == (MOST, START)


def test_clock_set_back_does_no_harm() -> None:
    """A round that would have taken a negative time is none."""
    line = Line(waits_for_answers)
    line.deliver(START + 1)
    line.now -= 86_400.0

    assert line.deliver(500) == MOST


@pytest.mark.parametrize("workers", [1, 3, MOST])
def test_fixed_number_stays(workers: int) -> None:
    """What the operator has set is neither raised nor lowered."""
    line = Line(waits_for_answers, workers)
    line.deliver(500)
    line.concurrency.record_overload()
    line.concurrency.record_idle(line.now + FORGET_S + 1)

    assert set(line.seen) == {workers} == {line.concurrency.limit}


def test_another_number_is_applied() -> None:
    """A reload sets it, and `auto` begins anew; the same again changes nothing."""
    line = Line(waits_for_answers)
    line.deliver(500)
    found = line.concurrency.limit
    line.concurrency.apply_settings(None)
    same = line.concurrency.limit
    line.concurrency.apply_settings(5)
    fixed = line.concurrency.limit
    line.concurrency.apply_settings(None)

    assert (found, same, fixed, line.concurrency.limit) == (MOST, MOST, 5, START)
