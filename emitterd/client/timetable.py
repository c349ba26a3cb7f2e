"""The bandwidth limit by the time of day. Does no I/O.

The time is local. Where clocks are put forward, a span across the gap is an hour shorter that day;
where they are put back, an hour longer.
"""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import permutations

from emitterd.units import exact_size

DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A span of every day, in minutes since midnight, and its limit.

    The end is exclusive. An end that is not after the beginning is on the next day. `limit`: bytes
    a second, None for none.
    """

    begin_min: int
    end_min: int
    limit: int | None

    def covers(self, minute: int) -> bool:
        """Return whether a minute of the day is in the span."""
        # 08:00-08:00 is the whole day, not nothing.
        length_min = (self.end_min - self.begin_min) % DAY_MIN or DAY_MIN
        return (minute - self.begin_min) % DAY_MIN < length_min

    @property
    def hours(self) -> str:
        """The span in the form of `emitter.yaml`: `08:00-18:00`."""
        return f"{clock(self.begin_min)}-{clock(self.end_min)}"


@dataclass(frozen=True, slots=True)
class Timetable:
    """Spans that do not overlap, and the limit at all other times."""

    spans: tuple[TimeSpan, ...] = ()
    otherwise: int | None = None

    def limit(self, now: float, zone: tzinfo | None = None) -> int | None:
        """Return the limit in force in bytes a second, None for none.

        `zone`: another time zone than the system's.
        """
        span = self._span(_minute(now, zone))
        return self.otherwise if span is None else span.limit

    @property
    def lowest(self) -> int | None:
        """The lowest limit of the day in bytes a second; None without any."""
        limits = [self.otherwise, *(span.limit for span in self.spans)]
        return min((limit for limit in limits if limit is not None), default=None)

    def overlap(self) -> tuple[TimeSpan, TimeSpan] | None:
        """Return two spans that overlap, or None if none do."""
        spans = sorted(self.spans, key=lambda span: span.begin_min)
        # In both orders: a span may go on after midnight.
        for span, other in permutations(spans, 2):
            if span.covers(other.begin_min):
                return span, other
        return None

    def _span(self, minute: int) -> TimeSpan | None:
        return next((span for span in self.spans if span.covers(minute)), None)

    def __str__(self) -> str:
        rest = format_rate(self.otherwise)
        if not self.spans:
            return rest
        spans = [f"{span.hours} {format_rate(span.limit)}" for span in self.spans]
        return ", ".join([*spans, f"else {rest}"])


def clock(minute: int) -> str:
    """Format a minute of the day: `08:00`, up to `24:00`."""
    return f"{minute // 60:02}:{minute % 60:02}"


def format_rate(limit: int | None) -> str:
    """Format a limit in bytes a second: `2MiB/s`, or `off`."""
    return "off" if limit is None else f"{exact_size(limit)}/s"


def _minute(now: float, zone: tzinfo | None) -> int:
    local = datetime.fromtimestamp(now, zone)
    return local.hour * 60 + local.minute
