"""Admission of a batch: all files with new paths as one statement.

The turns of the fair queue are in the table `flow`, because any host may admit. Its rows are locked
in the order of the names.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from emitterd.journal.admission import (
    COLUMNS,
    Admit,
    admit_file,
    first_state,
    new_row,
    read_rebuilt_at,
)
from emitterd.journal.fair_queue import FairQueue
from emitterd.journal.postgresql.listening import CHANNEL
from emitterd.journal.postgresql.transaction import PostgresqlTransaction
from emitterd.journal.rows import AdmissionResult, Admitted
from emitterd.model import LIVE, State

_TYPES: Final = (
    *("bytea", "text", "text", "bigint", "bigint"),
    *("bigint",) * 5,
    *("double precision",) * 2,
    *("text",) * 4,
    *("boolean", "text"),
)
"""The types of `COLUMNS`."""

_LIVE = ", ".join(f"'{state}'" for state in sorted(LIVE))

# In the order of the files: the ids must rise. A path that another host admits at this moment is
# known then.
_INSERT = f"""insert into entry ({COLUMNS})
    select {COLUMNS} from unnest({", ".join(f"%s::{kind}[]" for kind in _TYPES)})
        with ordinality as new ({COLUMNS}, number) order by number
    on conflict (path) where state in ({_LIVE}) do nothing returning path"""  # noqa: S608  names are ours

_MAKE_FLOWS = """insert into flow (name, turn, used)
    select name, 0, 0 from unnest(%s::text[]) as name on conflict do nothing"""

_LOCK_FLOWS = """select name, turn, used from flow where name = any (%s) order by name
    for update"""

_SAVE_FLOWS = """update flow set turn = new.turn, used = new.used
    from unnest(%s::text[], %s::bigint[], %s::bigint[]) as new (name, turn, used)
    where flow.name = new.name"""

_CURRENT = "select coalesce(max(turn), 0) from host where ended_at is null"

_KNOWN = "select distinct path from entry where path = any (%s)"


def lock_turns(
    transaction: PostgresqlTransaction, admissions: Sequence[Admit], current: int
) -> FairQueue:
    """Lock the turns of all flows of these admissions until the end of the transaction.

    `current`: the last turn that this host claimed from.
    """
    names = sorted({file.flow for admit in admissions for file in admit.files})
    execute = transaction.connection.execute
    execute(_MAKE_FLOWS, (names,))
    queue = FairQueue()
    for name, turn, used in execute(_LOCK_FLOWS, (names,)).fetchall():
        queue.last[name] = turn, used
    # The host that sweeps may be one that claims nothing at the moment.
    ((of_all,),) = execute(_CURRENT).fetchall()
    queue.current = max(current, of_all, *(admit.queue.current for admit in admissions))
    return queue


def save_turns(transaction: PostgresqlTransaction, queue: FairQueue) -> None:
    """Save the turns, and wake up the hosts whose workers wait."""
    places = queue.last.values()
    columns = ([*queue.last], [turn for turn, _ in places], [used for _, used in places])
    transaction.connection.execute(_SAVE_FLOWS, columns)
    transaction.connection.execute(f"notify {CHANNEL}")


def admit_together(
    transaction: PostgresqlTransaction, admit: Admit, queue: FairQueue
) -> list[Admitted]:
    """Admit files, those with new paths as one statement. `queue` assigns the turns."""
    rebuilt_at = read_rebuilt_at(transaction)
    once = {path for path, n in Counter(file.path for file in admit.files).items() if n == 1}
    known = transaction.connection.execute(_KNOWN, ([*once],)).fetchall()
    new = once - {path for (path,) in known}
    begins = {file.path: first_state(file, rebuilt_at) for file in admit.files if file.path in new}
    rows = [
        new_row(file, begins[file.path], queue, admit.now)
        for file in admit.files
        if file.path in new
    ]
    inserted = _insert(transaction, rows) if rows else set()
    return [
        _answer(begins[file.path][0], is_inserted=file.path in inserted)
        if file.path in new
        else admit_file(transaction, queue, file, admit.now, rebuilt_at)
        for file in admit.files
    ]


def _insert(transaction: PostgresqlTransaction, rows: Sequence[tuple[object, ...]]) -> set[bytes]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {path for (path,) in transaction.connection.execute(_INSERT, columns).fetchall()}


def _answer(state: State, *, is_inserted: bool) -> Admitted:
    if not is_inserted:
        return Admitted(AdmissionResult.KNOWN)
    return Admitted(AdmissionResult.ADMITTED, held=state is State.HELD)


def was_admitted(answers: Sequence[Admitted] | None) -> bool:
    """Tell whether one of the files is new."""
    return any(answer.result is AdmissionResult.ADMITTED for answer in answers or ())
