"""What waits in the journal: how long already, and how long still."""

import time
from collections.abc import Collection

from emitterd.codes import Code
from emitterd.database import Database


class Waiting:
    """The entries that are neither ended nor held. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def oldest_at(self) -> float | None:
        """Return when the oldest of them was admitted, or None where none waits."""
        rows = self._database.read(
            """select min(admitted_at) from entry
               where state in ('queued', 'delivering', 'deferred')"""
        )
        oldest: float | None = rows[0][0]
        return oldest

    def hasten(self, codes: Collection[Code]) -> None:
        """Make due at once what was deferred for one of these reasons.

        Raises `JournalFull`.
        """
        now = time.time()
        self._database.write(
            lambda connection: connection.executemany(
                """update entry set due_at = min(due_at, ?)
                   where state = 'deferred' and error = ?""",
                [(now, code.value) for code in codes],
            )
        )
