"""The pace at which slices are let through, by a clock of the test's own."""

import heapq
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emitterd.client.bandwidth import BURST_SLICES, SLICE_LEAST_BYTES, SLICE_S, Pacer, Slice

KIB, MIB = 1024, 1024**2
LATE_S = 1e-6
RATES = st.integers(1 * KIB, 64 * MIB)
AMOUNTS = st.lists(st.integers(1, 128 * KIB), min_size=1, max_size=8)


class Line:
    """Uploads that share a pacer: each asks for its next slice when one has gone."""

    def __init__(self, rate: int | None, amounts: list[int], now: float = 1e6) -> None:
        self.pacer = Pacer()
        self.pacer.set_rate(rate, now)
        self.began_at = self.now = now
        self.left = amounts[:]
        self.went: list[tuple[float, int, int]] = []
        """When what was let through, and of whose."""
        self._due: list[tuple[float, int, Slice | None]] = [
            (now, upload, None) for upload in range(len(amounts))
        ]

    def step(self) -> None:
        """Let the upload whose time comes next do the next thing."""
        at, upload, asked = heapq.heappop(self._due)
        self.now = max(self.now, at)
        if asked and asked.era != self.pacer.era:
            asked = None
        if asked and not self.pacer.wait_s(asked, self.now):
            self.went.append((self.now, asked.size_bytes, upload))
            self.left[upload] -= asked.size_bytes
            asked = None
        if self.left[upload]:
            asked = asked or self.pacer.ask(self.left[upload], self.now)
            due = self.now + self.pacer.wait_s(asked, self.now)
            heapq.heappush(self._due, (due, upload, asked))

    def adopt(self, rate: int | None) -> None:
        """Set another limit; uploads that wait ask again."""
        self.pacer.set_rate(rate, self.now)
        self._due = [(self.now, upload, None) for _, upload, _ in self._due]

    def run(self, until: float = float("inf")) -> None:
        """Go on until all has gone, or so long."""
        while self._due and self._due[0][0] <= until:
            self.step()


def burst(rate: int) -> int:
    """Return how much may go at once."""
    return BURST_SLICES * max(SLICE_LEAST_BYTES, int(rate * SLICE_S))


@settings(deadline=None)
@given(rate=RATES, amounts=AMOUNTS)
def test_no_stretch_of_time_has_more_than_the_limit(rate: int, amounts: list[int]) -> None:
    """From any slice to any later one goes what the rate lets, and a burst."""
    line = Line(rate, amounts)
    line.run()

    # Of all beginnings only the worst can be broken: a running minimum finds it.
    gone, ahead = 0, float("inf")
    for at, size, _ in line.went:
        since = at - line.began_at
        ahead = min(ahead, gone - rate * since)
        gone += size
        assert gone - rate * (since + LATE_S) - ahead <= burst(rate) + 1
    assert gone == sum(amounts)


@settings(deadline=None)
@given(rate=RATES, amounts=AMOUNTS)
def test_what_is_allowed_is_used(rate: int, amounts: list[int]) -> None:
    """The line is never idle while an upload waits."""
    line = Line(rate, amounts)
    line.run()

    took_s = line.now - line.began_at
    assert took_s <= sum(amounts) / rate + LATE_S


@settings(deadline=None)
@given(rate=RATES, count=st.integers(2, 16))
def test_uploads_under_way_get_the_same(rate: int, count: int) -> None:
    """No upload is ever more than a slice ahead of another that sends too."""
    line = Line(rate, [1024 * MIB] * count)
    line.run(line.now + 20 * count * SLICE_LEAST_BYTES / rate)

    got = Counter(dict.fromkeys(range(count), 0))
    for _, size, upload in line.went:
        got[upload] += size
    assert max(got.values()) - min(got.values()) <= burst(rate) // BURST_SLICES


@settings(deadline=None)
@given(rate=RATES, count=st.integers(1, 16), size=st.integers(1, 64 * KIB))
def test_small_file_waits_a_round_for_each_slice(rate: int, count: int, size: int) -> None:
    """Beside large ones it takes as many rounds as it has slices, with any rest."""
    line = Line(rate, [1024 * MIB] * count + [size])
    while line.left[count]:
        line.step()

    first = burst(rate) // BURST_SLICES
    rounds = -(-size // first)
    assert line.now - line.began_at <= rounds * (count + 1) * first / rate + LATE_S


@settings(deadline=None)
@given(rates=st.lists(RATES, min_size=2, max_size=6), pause_s=st.floats(0, 3))
def test_another_limit_holds_from_its_moment_on(rates: list[int], pause_s: float) -> None:
    """Uploads keep and use each new limit, also after no limit or a lower one."""
    line = Line(rates[0], [1024 * MIB] * 4)
    for rate in rates:
        line.adopt(rate)
        before, began_at = len(line.went), line.now
        line.run(line.now + pause_s)
        line.now = began_at + pause_s

        gone = sum(size for _, size, _ in line.went[before:])
        assert gone <= rate * (pause_s + LATE_S) + burst(rate) + 1
        assert gone >= rate * pause_s - 5 * burst(rate)


@pytest.mark.parametrize("rate", [None, 1 << 40], ids=["none", "much higher"])
def test_who_waits_goes_on_when_the_limit_goes(rate: int | None) -> None:
    """A slice that would have waited for long is free under the new limit."""
    pacer = Pacer()
    pacer.set_rate(1 * KIB, 10.0)
    waiting = [pacer.ask(4 * KIB, 10.0) for _ in range(64)]
    assert pacer.wait_s(waiting[-1], 10.0) > 60

    pacer.set_rate(rate, 10.0)
    again = pacer.ask(4 * KIB, 10.0)

    assert {item.era for item in waiting} != {again.era}
    assert pacer.wait_s(again, 10.1) == 0.0


def test_without_a_limit_all_goes_at_once() -> None:
    """Nothing waits, and a slice is all there is."""
    pacer = Pacer()
    asked = pacer.ask(1 << 40, 5.0)

    assert (asked.size_bytes, pacer.wait_s(asked, 5.0)) == (1 << 40, 0.0)


def test_idle_time_is_not_saved_up() -> None:
    """After a night without files no more than a burst goes at once."""
    line = Line(1 * MIB, [8 * MIB])
    line.pacer.ask(1, line.now)
    line.now += 86400
    line.run(line.now)

    assert sum(size for _, size, _ in line.went) <= burst(1 * MIB)


def test_time_without_a_limit_is_not_saved_up() -> None:
    """What went through before a limit begins gives no credit, and takes none."""
    line = Line(None, [64 * MIB, 64 * MIB, 8 * MIB])
    line.run()
    assert line.now == line.began_at

    line.adopt(1 * MIB)
    asked = line.pacer.ask(8 * MIB, line.now)

    assert asked.size_bytes == int(1 * MIB * SLICE_S)
    assert 0 < line.pacer.wait_s(asked, line.now) <= asked.size_bytes / MIB


def test_clock_that_stands_still() -> None:
    """Two looks at one instant agree; a look never takes anything back."""
    pacer = Pacer()
    pacer.set_rate(8 * KIB, 100.0)
    asked = [pacer.ask(64 * KIB, 100.0) for _ in range(5)]

    waits = [pacer.wait_s(request, 100.0) for request in asked]

    assert waits == sorted(waits)
    assert waits == [pacer.wait_s(request, 100.0) for request in asked]
