"""The bars of a chart over the last day: pure, `now` is passed in.

Slots are half hours since the epoch, so that they begin on the hour, or half past it,
in every time zone of South Asia but Nepal's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SLOT_S = 1800
SLOTS = 48
"""Twenty-four hours, the one that is running last."""

HEIGHT = 100.0
PITCH = 10.0
GAP = 2.0
WIDTH = SLOTS * PITCH

LEAST = 2.0
"""A slot with anything in it is seen, however little that is."""


@dataclass(frozen=True, slots=True)
class PeriodTotal:
    """What was delivered within a time."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: "PeriodTotal") -> "PeriodTotal":
        return PeriodTotal(self.files + other.files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True, slots=True)
class Bar:
    """One slot, and its rectangle in a field of `WIDTH` by `HEIGHT`; y points down."""

    began_at: float
    sum: PeriodTotal
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A day of deliveries; `busiest` is the slot of the most bytes, if any had any."""

    bars: tuple[Bar, ...]
    total: PeriodTotal
    busiest: Bar | None

    @property
    def began_at(self) -> float:
        """When the first slot began."""
        return self.bars[0].began_at


def slot_of(at: float) -> int:
    """Return the slot that an instant falls into."""
    return int(at // SLOT_S)


def chart(sums: Mapping[int, PeriodTotal], now: float) -> Chart:
    """Draw the day that ends with the running slot; `sums` are by slot."""
    last = slot_of(now)
    day = {
        slot: sums.get(slot, PeriodTotal())
        for slot in range(last - SLOTS + 1, last + 1)
    }
    most_bytes = max(one.size_bytes for one in day.values())
    bars = tuple(
        _bar(position, slot, day[slot], most_bytes) for position, slot in enumerate(day)
    )
    busiest = max(bars, key=lambda bar: bar.sum.size_bytes) if most_bytes else None
    return Chart(bars, sum(day.values(), PeriodTotal()), busiest)


def _bar(position: int, slot: int, total: PeriodTotal, most_bytes: int) -> Bar:
    height = 0.0
    if total.files:
        share = total.size_bytes / most_bytes if most_bytes else 0.0
        height = max(LEAST, round(HEIGHT * share, 1))
    return Bar(
        float(slot * SLOT_S),
        total,
        position * PITCH + GAP / 2,
        HEIGHT - height,
        PITCH - GAP,
        height,
    )
