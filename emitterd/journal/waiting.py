"""What waits in the journal, made due sooner."""

import time
from collections.abc import Collection

from emitterd.codes import Code
from emitterd.journal.database import Database


class Waiting:
    """The entries that are neither ended nor held. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forgive(self, entry_ids: Collection[int]) -> None:
        """Take back an attempt each, once for every time that it is named.

        They were charged before it was known whose trouble it was. Raises
        `JournalFull`.
        """
        self._database.write(
            lambda connection: connection.executemany(
                """update entry set attempts = attempts - 1
                   where id = ? and attempts > 0""",
                [(one,) for one in entry_ids],
            )
        )

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
