"""How many attempts are to be under way at once: more for as long as more get through.

With a fixed number of workers that is all there is to it. Else each round, as many
deliveries as there are workers, is held against the round before: while twice as many
get a quarter more through, they are doubled; afterwards a few more, or a few less, are
tried now and then. What an overloaded server answers halves them. Pure, with `now`
passed in, and not thread-safe.
Source: slow start and additive increase of TCP (RFC 5681), over deliveries.
"""

from dataclasses import dataclass

START = 8
MOST = 64

ROUND_S = 0.1
"""The shortest round: below that a scheduler's whim decides."""

ROUND_LONGEST_S = 10.0
"""A round that took longer was not spent waiting for round trips: more uploads at once
would only be slower ones."""

DOUBLED_GAIN = 1.25
"""What twice the workers must get through, at least, of what half of them did."""

MORE_GAIN = 1.08
FEWER_GAIN = 0.97
STEP = 1.25
"""What is tried later, and what it must get through to stay: up, or without a loss."""

CALM_ROUNDS = 20
"""So many rounds go by between two trials."""

FORGET_S = 60.0
"""After such a pause the line may be another: all is found out anew."""

SIZE_BYTES = 64 * 1024
"""So much of a body counts like one more file."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Another number of workers, put to the test against what the former achieved."""

    former: int
    needed: float
    doubling: bool
    again: bool = False
    """Whether it has failed once: the first round still opens connections."""


class Concurrency:
    """The number of workers, found by trying; or a fixed one."""

    def __init__(self, workers: int | None) -> None:
        """`workers`: a fixed number, or None to find it."""
        self._fixed = workers
        self._trial: _Trial | None = None
        self._round_at: float | None = None
        self._spared = 0
        self._limit = START
        self._begin_anew()

    @property
    def limit(self) -> int:
        """How many attempts may be under way at once."""
        return self._limit

    def adopt(self, workers: int | None) -> None:
        """Go by another number; what was found out stays where it is to be found."""
        if workers != self._fixed:
            self._fixed = workers
            self._begin_anew()

    def delivered(self, now: float, size_bytes: int) -> None:
        """Note that a file was delivered."""
        self._spared -= 1
        if self._fixed is not None:
            return
        self._last_at = now
        if self._round_at is None or now < self._round_at:
            self._begin_round(now)
            return
        self._count += 1
        self._work += 1 + size_bytes / SIZE_BYTES
        took_s = now - self._round_at
        if self._count >= self._limit and took_s >= ROUND_S:
            self._judge(self._work / took_s, took_s)
            self._begin_round(now)

    def idle(self, now: float) -> None:
        """Note that a worker had nothing to do: how fast it goes is no proof now."""
        if self._fixed is not None:
            return
        self._round_at = None
        # Either way: the clock may have been set. A worker took the time before it
        # looked, so it may be a little behind.
        if abs(now - self._last_at) > FORGET_S:
            self._begin_anew()
            self._last_at = now

    def strained(self) -> None:
        """Note what may be a sign of overload: 429, 503, a timeout, a lost line."""
        self._spared -= 1
        if self._fixed is not None or self._spared > 0:
            return
        # All that are under way may be told the same: that is one sign.
        self._spared = self._limit
        self._limit = max(1, self._limit // 2)
        self._growing, self._trial, self._calm = False, None, 0
        self._round_at = None

    def _begin_anew(self) -> None:
        self._limit = START if self._fixed is None else self._fixed
        self._growing = True
        self._trial = self._round_at = None
        self._calm = self._tried = self._spared = 0
        self._last_at = 0.0

    def _begin_round(self, now: float) -> None:
        self._round_at, self._count, self._work = now, 0, 0.0

    def _judge(self, rate: float, took_s: float) -> None:
        if self._trial is not None:
            self._judge_trial(self._trial, rate)
        else:
            self._calm += 1
        if self._trial is None and took_s <= ROUND_LONGEST_S:
            self._try_another(rate)

    def _judge_trial(self, trial: _Trial, rate: float) -> None:
        if rate >= trial.needed:
            self._trial, self._calm = None, 0
        elif not trial.again:
            self._trial = _Trial(trial.former, trial.needed, trial.doubling, again=True)
        else:
            self._limit, self._trial, self._calm = trial.former, None, 0
            self._growing = self._growing and not trial.doubling

    def _try_another(self, rate: float) -> None:
        before = self._limit
        if self._growing and before < MOST:
            self._limit = min(2 * before, MOST)
            self._trial = _Trial(before, rate * DOUBLED_GAIN, doubling=True)
        elif self._calm >= CALM_ROUNDS:
            self._tried += 1
            # Each step down costs less than the noise hides, so that many of them would
            # lead to one: fewer than at the start there are after overload only.
            fewer = self._tried % 2 == 0 and before > START
            if fewer:
                self._limit = max(START, int(before / STEP))
            else:
                self._limit = min(max(before + 1, int(before * STEP)), MOST)
            no_loss = fewer or self._limit <= START
            needed = rate * (FEWER_GAIN if no_loss else MORE_GAIN)
            self._trial = _Trial(before, needed, doubling=False)
