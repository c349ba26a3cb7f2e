"""When the queue will be empty, from the speed of recent deliveries. Pure.

Only the time in which something was being sent counts, so neither a quiet night nor a
burst spoils the speed. What one file costs is a line through its size: thousands of
small files and a few large ones are different work, even for equal bytes.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

RECENT = 200
"""So many deliveries are looked at: enough for a line, and a change of the line soon
shows."""

RECENT_S = 86400.0
"""Older deliveries say nothing of today."""

GAP_S = 1.0
"""A shorter pause between two deliveries is part of the work: a claim, a commit."""


class RecentDelivery(NamedTuple):
    """A delivery: when it was done, how long it took, and the size of its file."""

    delivered_at: float
    duration_s: float
    size_bytes: int


def eta_s(
    recent: Sequence[RecentDelivery], files: int, size_bytes: int
) -> float | None:
    """Return in how many seconds so many files, so large together, will be delivered.

    As if as much went on side by side as of late. None where nothing is known.
    """
    if files == 0:
        return 0.0
    if not recent:
        return None
    fixed_s, per_byte_s = _cost(recent)
    done = sum(fixed_s + per_byte_s * one.size_bytes for one in recent)
    left = fixed_s * files + per_byte_s * size_bytes
    return round(busy_s(recent) * left / done, 1)


def busy_s(recent: Sequence[RecentDelivery]) -> float:
    """Return for how long something was being sent: the union of the deliveries."""
    spans = sorted(
        (one.delivered_at - one.duration_s, one.delivered_at) for one in recent
    )
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        # A pause that is short is filled; a long one is skipped.
        start = begin if begin > until + GAP_S else until
        if end > start:
            busy, until = busy + end - start, end
    return max(busy, 0.001)


def _cost(recent: Sequence[RecentDelivery]) -> tuple[float, float]:
    """Return what a file costs, and what a byte of it: a resistant line.

    Through the medians of the smaller and of the larger third, so that one stalled
    upload does not turn it. Source: Tukey, "Exploratory Data Analysis", chapter 5.
    """
    ordered = sorted(recent, key=lambda one: one.size_bytes)
    third = -(-len(ordered) // 3)
    small, large = _middle(ordered[:third]), _middle(ordered[-third:])
    mean_s = max(statistics.fmean(one.duration_s for one in recent), 0.001)
    if large[0] <= small[0]:
        # All of one size: nothing tells files from bytes, so half is either's.
        mean_bytes = max(statistics.fmean(one.size_bytes for one in recent), 1.0)
        return mean_s / 2, mean_s / 2 / mean_bytes
    per_byte_s = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
    fixed_s = max(0.0, small[1] - per_byte_s * small[0])
    return (fixed_s, per_byte_s) if fixed_s or per_byte_s else (mean_s, 0.0)


def _middle(some: Sequence[RecentDelivery]) -> tuple[float, float]:
    """Return the medians of size and duration."""
    return (
        statistics.median(one.size_bytes for one in some),
        statistics.median(one.duration_s for one in some),
    )
