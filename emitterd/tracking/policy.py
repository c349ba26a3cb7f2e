"""Decides what is known about a delivered file after each look, and when the next look is due.

Does no I/O; `now` is passed in, in seconds since the epoch by this host's clock. Times of the
server are never compared with it, so a clock that is wrong by an hour changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emitterd.model import ServerState, Tracked
from emitterd.tracking.server_log import LogRecord
from emitterd.units import DAY_S

if TYPE_CHECKING:
    # The configuration imports this, and no command that only reads needs an HTTP client.
    from emitterd.client.server_reader import Listing

HOUR_S = 3600.0

STALLED_AFTER_S = DAY_S
"""cQube processes each dataset once a day, for 1 to 4 hours."""


@dataclass(frozen=True, slots=True)
class TrackingRule:
    """How often emitterd looks, and after which time it gives up."""

    poll_every_s: float
    give_up_after_s: float

    @property
    def wait_max_s(self) -> float:
        """The longest time between two looks at a file."""
        return max(self.poll_every_s, HOUR_S)

    def is_over(self, file: Tracked, now: float) -> bool:
        """Return whether emitterd has stopped asking about a file: its delivery is too old."""
        return now - file.delivered_at >= self.give_up_after_s

    def given_up(self, file: Tracked) -> Tracked:
        """Return a file about which emitterd has stopped asking.

        A stalled one stays stalled, and one that the server left in the bucket stays there: its
        alarm must not end as if all were well.
        """
        left = file.seen_at is not None and file.seen_at - file.delivered_at > DAY_S
        stays = file.state is ServerState.STALLED or (file.state is ServerState.WAITING and left)
        return replace(file, state=file.state if stays else ServerState.UNKNOWN, due_at=None)

    def listed(self, file: Tracked, listing: "Listing", now: float) -> Tracked | None:
        """Return the file after a look at the list; None if the list does not decide."""
        present = listing.has(file.key)
        return None if present is None else self.looked_up(file, now, present=present)

    def looked_up(self, file: Tracked, now: float, *, present: bool) -> Tracked:
        """Return the file after a look whether its object is in the emission bucket."""
        if present:
            return self.looked_at(replace(file, seen_at=now), now)
        file = self.looked_at(replace(file, state=ServerState.PICKED_UP, gone_at=now), now)
        # Its log can be read at once.
        return replace(file, due_at=now)

    def without_log(self, file: Tracked) -> Tracked:
        """Return a file that was picked up, and of whose dataset the server keeps no log."""
        return replace(file, due_at=None)

    def logged(self, file: Tracked, records: Mapping[str, LogRecord] | None, now: float) -> Tracked:
        """Return the file after a look at the log of its dataset.

        `records`: what the log says about each file; None if the log is as before.
        """
        record = records.get(file.file_name) if records else None
        if record is not None:
            file = replace(file, started_at=record.started_at, ended_at=record.ended_at)
        if record is not None and record.ended_at is not None:
            file = replace(file, state=ServerState.PROCESSED, rows=record.rows)
            return replace(self.looked_at(file, now), due_at=None)
        if record is not None and file.begun_at is None:
            file = replace(file, begun_at=now)
        late = file.begun_at is not None and now - file.begun_at >= STALLED_AFTER_S
        if late or (record is not None and record.overtaken):
            file = replace(file, state=ServerState.STALLED)
        return self.looked_at(file, now)

    def looked_at(self, file: Tracked, now: float) -> Tracked:
        """Return the file after a look, also one that failed."""
        return replace(self.postponed(file, now), looks=file.looks + 1, looked_at=now)

    def postponed(self, file: Tracked, now: float) -> Tracked:
        """Return the file with the time of its next look."""
        young = now - file.delivered_at < DAY_S
        return replace(file, due_at=now + (self.poll_every_s if young else self.wait_max_s))
