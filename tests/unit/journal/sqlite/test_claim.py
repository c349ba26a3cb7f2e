"""What a claim costs in a SQLite file."""

import re
import sqlite3
from contextlib import closing
from importlib.resources import files

from emitterd.journal import rows as statements
from support.journal import NOW


def test_a_claim_goes_through_no_history() -> None:
    """However many rows have ended, only indexes of what waits are gone through."""
    asked = {"now": NOW, "due_max": NOW, "want": "any"}
    with closing(sqlite3.connect(":memory:")) as connection:
        schema = files("emitterd.journal.sqlite").joinpath("schema.sql")
        connection.executescript(schema.read_text("utf-8"))
        sql = f"explain query plan {statements.claim([])}"
        plan = [str(row[3]) for row in connection.execute(sql, asked)]
    scanned = [step for step in plan if re.match("SCAN (entry|other)", step)]

    assert {step.rpartition(" ")[2] for step in scanned} == {"entry_queue", "entry_pinned"}
