"""How many attempts run at once: emitterd adds workers while the throughput grows.

A fixed number of workers does not change. Otherwise emitterd tries different numbers. A round is
as many deliveries as there are workers, and is compared with the round before. While twice as many
workers deliver a quarter more, the number is doubled. Later emitterd sometimes tries a few more.
Signs of overload halve the number. Does no I/O; `now` is passed in. Not thread-safe. Source: slow
start and additive increase of TCP (RFC 5681), applied to deliveries.
"""

from dataclasses import dataclass

START = 8
MOST = 64

ROUND_S = 0.1
"""The shortest round. In a shorter one the scheduler of the host decides."""

ROUND_LONGEST_S = 10.0
"""The longest round after which another number is tried. A longer one was not spent waiting for
round trips, so more uploads at once would only be slower uploads."""

DOUBLED_GAIN = 1.25
"""What twice the workers must deliver, at least, compared with half of them."""

STEP = 1.25
STEP_GAIN = 1.08
"""How many more are tried later, and what they must deliver to stay."""

NO_LOSS = 0.97
"""What they must deliver below the start, where only overload leads."""

CALM_ROUNDS = 20
"""The rounds between two trials."""

FORGET_S = 60.0
"""After such a pause the network may have changed, so the number is determined again."""

SIZE_BYTES = 64 * 1024
"""This much of a body counts like one more file."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A test of another number of workers against the former number."""

    former: int
    needed: float
    doubling: bool
    again: bool = False
    """Whether it has failed once: the first round still opens connections."""


class Concurrency:
    """The number of workers: a fixed one, or the best of those that were tried."""

    def __init__(self, workers: int | None) -> None:
        """`workers`: a fixed number, or None to find it."""
        self._fixed = workers
        self._trial: _Trial | None = None
        self._round_at: float | None = None
        self._ignored = 0
        self.limit = START
        """How many attempts may be under way at once."""
        self._start_again()

    def apply_settings(self, workers: int | None) -> None:
        """Use another number; a number that was found stays where none is fixed."""
        if workers != self._fixed:
            self._fixed = workers
            self._start_again()

    def record_delivery(self, now: float, size_bytes: int) -> None:
        """Count a delivered file."""
        self._ignored -= 1
        if self._fixed is not None:
            return
        self._last_at = now
        # The second case: the clock was set back.
        if self._round_at is None or now < self._round_at:
            self._begin_round(now)
            return
        self._count += 1
        self._work += 1 + size_bytes / SIZE_BYTES
        took_s = now - self._round_at
        if self._count >= self.limit and took_s >= ROUND_S:
            self._judge(self._work / took_s, took_s)
            self._begin_round(now)

    def record_idle(self, now: float) -> None:
        """Record that a worker had nothing to do: this round proves nothing."""
        if self._fixed is not None:
            return
        self._round_at = None
        # The absolute value, because the clock may have been set back. `now` may also be a little
        # early: a worker reads the clock before it looks for work.
        if abs(now - self._last_at) > FORGET_S:
            self._start_again()
            self._last_at = now

    def record_overload(self) -> None:
        """Record a sign of overload: 429, 503, a timeout, a lost connection."""
        self._ignored -= 1
        if self._fixed is not None or self._ignored > 0:
            return
        # All attempts under way may fail in the same way: that is one sign.
        self._ignored = self.limit
        self.limit = max(1, self.limit // 2)
        self._growing, self._trial, self._calm = False, None, 0
        self._round_at = None

    def _start_again(self) -> None:
        self.limit = START if self._fixed is None else self._fixed
        self._growing = True
        self._trial = self._round_at = None
        self._calm = self._ignored = 0
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
            self.limit, self._trial, self._calm = trial.former, None, 0
            self._growing = self._growing and not trial.doubling

    def _try_another(self, rate: float) -> None:
        before = self.limit
        if self._growing and before < MOST:
            self.limit = min(2 * before, MOST)
            self._trial = _Trial(before, rate * DOUBLED_GAIN, doubling=True)
        elif self._calm >= CALM_ROUNDS and before < MOST:
            self.limit = min(max(before + 1, int(before * STEP)), MOST)
            needed = rate * (NO_LOSS if self.limit <= START else STEP_GAIN)
            self._trial = _Trial(before, needed, doubling=False)
