"""The database's clock: all hosts store its instants, however their own clocks are set."""

import time

from emitterd.journal.postgresql.connection import Connection


class DatabaseClock:
    """The database's clock, carried on by this host's boot-time clock between two measurements.

    The boot-time clock goes on while a machine sleeps, and nobody can set it.
    """

    def __init__(self) -> None:
        self._offset_s = 0.0

    def measure(self, connection: Connection) -> None:
        """Measure the clock again. The error is half of the round trip at most."""
        before = boot_time()
        sql = "select extract(epoch from clock_timestamp())::double precision"
        ((now,),) = connection.execute(sql).fetchall()
        self._offset_s = now - (before + boot_time()) / 2

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return boot_time() + self._offset_s


def boot_time() -> float:
    """Return the seconds since this machine was booted, those of its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
