"""What has ended, and is to be forgotten one day: the journal's past."""

from emitterd.journal import statements
from emitterd.journal.database import Database


class History:
    """The versions and the deeds that are history. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def endings(
        self, before: float, after_id: int, limit: int
    ) -> list[tuple[int, bytes, bool]]:
        """Return (id, path, superseded) of versions that ended before an instant.

        `superseded`: a later version of the path is on record. Pages by id.
        """
        return self._database.read(statements.ENDINGS, (after_id, before, limit))

    def prune(self, entry_ids: list[int]) -> None:
        """Forget ended versions. Raises `JournalFull`."""
        sql, ids = "delete from entry where id = ?", [(one,) for one in entry_ids]
        self._database.write(lambda connection: connection.executemany(sql, ids))

    def prune_actions(self, before: float) -> None:
        """Forget what the operator did before an instant."""
        sql = "delete from action where at < ?"
        self._database.write(lambda one: one.execute(sql, (before,)), final=True)
