"""Lists of files for the page: filters, a search, and one page after the other.

A list has the order of admission, the newest first. The key of a row is its time and its id, and a
page begins after a key. Each query names its index and visits at most `SEARCHED` rows, so that a
page costs the same with a thousand rows and with a million. If these rows do not fill the page, it
says up to where emitterd has searched.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from emitterd.journal.reader import RECORD_COLUMNS, record_of, rows_of
from emitterd.journal.rows import SUPERSEDED
from emitterd.journal.store import Read, Row
from emitterd.model import WAITING, State
from emitterd.text import undisplay

SHOWN = 50
"""Rows on a page."""

SEARCHED = 20_000
"""Rows that one query visits at most."""

NAMED_MAX = 500
"""Files whose name begins with the searched text are found in the whole journal up to this number:
they come in the order of their names."""

BATCH = 500
"""Rows that a download reads at a time."""

PATH_MAX = 4096
"""The longest path of Linux, in bytes."""

ID_MAX = 2**63 - 1
"""The largest integer of SQLite."""

RECENT = 1000
"""The last delivery of a dataset is looked for among so many of its files."""

Record = dict[str, Any]

_WAITS = "state in ('queued', 'delivering', 'deferred')"
_ENDED = "state in ('rejected', 'withdrawn', 'held')"
"""The conditions of the indexes `entry_waiting` and `entry_ended`, word for word: otherwise SQLite
would not use them."""

_OWN_INDEX = {
    State.QUEUED: "entry_queue",
    State.DEFERRED: "entry_due",
    State.DELIVERED: "entry_delivered",
}
"""An index of the rows of a state, in another order: for a state of few rows, which are sorted."""


class RowKey(NamedTuple):
    """Where a row is in the list: when it was admitted, and its id."""

    admitted_at: float
    id: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; raises `ValueError` for anything else."""
        admitted_at, _, row_id = text.rpartition("_")
        key = cls(float(admitted_at), int(row_id))
        if abs(key.id) > ID_MAX:
            raise ValueError("the id is too large")
        return key

    def __str__(self) -> str:
        return f"{self.admitted_at!r}_{self.id}"


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files to list: everything that is not empty must match.

    `since` and `until`: admitted at or after, and before this time, in seconds since the epoch.
    `text` is a part of the path; the case of the letters a to z does not matter.
    """

    states: frozenset[State] = frozenset()
    dataset: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class FileList:
    """One page of files, the newest first, as in `list --json`.

    `newer` and `older`: the keys where the pages before and after it begin; None if there is no
    more. `searched_to`: where the search has ended, if the page is not full and there are rows that
    were not visited. `named`: files beyond that whose name begins with the text, in the same order;
    None if these are too many.
    """

    files: Sequence[Record]
    newer: RowKey | None = None
    older: RowKey | None = None
    searched_to: RowKey | None = None
    named: Sequence[Record] | None = field(default=())


@dataclass(frozen=True, slots=True)
class _Query:
    """The SQL of a list: which rows are visited by an index, and which of them match."""

    index: str
    visited: str
    matching: str
    parameters: Mapping[str, object]

    def keys(
        self, read: Read, start: RowKey | None, limit: int, *, upward: bool = False
    ) -> tuple[list[RowKey], RowKey | None]:
        """Return the keys of matching rows, and where the search has ended if it is not complete.

        The keys follow `start` downward, that is to older rows, or upward.
        """
        comparison, direction = (">", "asc") if upward else ("<", "desc")
        beyond = f"(admitted_at, id) {comparison} (:at, :id)" if start is not None else "true"
        rows = f"""select admitted_at, id, state, flow, path from entry indexed by {self.index}
            where {self.visited} and {beyond}
            order by admitted_at {direction}, id {direction}"""  # noqa: S608  names are ours
        at, row_id = start or (None, None)
        values = {**self.parameters, "at": at, "id": row_id, "searched": SEARCHED, "limit": limit}
        # The inner limit bounds the rows that are visited, the outer one those that are returned.
        matching = f"""select admitted_at, id from ({rows} limit :searched) as visited
            where {self.matching} limit :limit"""  # noqa: S608  names are ours
        keys = [RowKey(*row) for row in read(matching, values)]
        if len(keys) == limit:
            return keys, None
        last = f"select admitted_at, id from ({rows} limit 1 offset :searched - 1) as visited"  # noqa: S608
        return keys, next((RowKey(*row) for row in read(last, values)), None)


def list_files(
    read: Read,
    chosen: FileFilter,
    counts: Mapping[State, int],
    *,
    after: RowKey | None = None,
    before: RowKey | None = None,
) -> FileList:
    """Return a page of files: the newest, or those after a key, or those before one.

    `counts`: how many entries there are by state. Call it in a snapshot.
    """
    query, upward = _query(chosen, counts), before is not None
    keys, searched_to = query.keys(read, before or after, SHOWN + 1, upward=upward)
    more = len(keys) > SHOWN
    keys = keys[:SHOWN]
    if upward:
        if not (more or searched_to):
            # The newest page, which is full.
            return list_files(read, chosen, counts)
        keys.reverse()
        newer, older = keys[0] if more else searched_to, keys[-1] if keys else None
        return FileList(_records(read, keys), newer, older, searched_to)
    named: Sequence[Record] | None = ()
    if chosen.text and searched_to is not None:
        named_keys = _named(read, query, chosen.text, searched_to)
        named = None if named_keys is None else _records(read, named_keys)
    older = keys[-1] if more else searched_to
    newer = keys[0] if after and keys else None
    return FileList(_records(read, keys), newer, older, searched_to, named)


def all_files(
    read: Read, chosen: FileFilter, counts: Mapping[State, int]
) -> Iterator[Sequence[Record]]:
    """Yield all files in batches, which may be empty; each read is short."""
    query, start = _query(chosen, counts), None
    while True:
        keys, searched_to = query.keys(read, start, BATCH)
        yield _records(read, keys)
        start = keys[-1] if len(keys) == BATCH else searched_to
        if start is None:
            return


def arrived_datasets(read: Read) -> set[str]:
    """Return the datasets of which a file ever came."""
    return {dataset for (dataset,) in read("select dataset from arrival", ())}


def _query(chosen: FileFilter, counts: Mapping[State, int]) -> _Query:
    index, visited = _source(chosen, counts)
    matching, parameters = ["true"], dict[str, object]()
    for name, comparison in (("since", ">="), ("until", "<")):
        if (instant := getattr(chosen, name)) is not None:
            visited += f" and admitted_at {comparison} :{name}"
            parameters[name] = instant
    if chosen.states:
        states = ", ".join(f"'{state}'" for state in sorted(chosen.states))
        matching.append(f"state in ({states})")
    if chosen.dataset:
        matching.append("flow = :dataset")
        parameters["dataset"] = chosen.dataset
    if chosen.text:
        # A byte that is not UTF-8, as people copy it from the page.
        texts = {f"text{number}": text for number, text in enumerate(undisplay(chosen.text))}
        contains = [f"instr(lower(path), lower(:{name})) > 0" for name in texts]
        matching.append(f"({' or '.join(contains)})")
        parameters |= texts
    return _Query(index, visited, " and ".join(matching), parameters)


def _source(chosen: FileFilter, counts: Mapping[State, int]) -> tuple[str, str]:
    """Return the index with the fewest rows that do not match, and its condition."""
    states = chosen.states
    few = bool(states) and sum(counts[state] for state in states) <= SEARCHED
    if chosen.dataset and not few:
        return "entry_dataset", "flow = :dataset"
    if len(states) == 1:
        (state,) = states
        if few and state in _OWN_INDEX:
            return _OWN_INDEX[state], f"state = '{state}'"
        if state not in WAITING and state is not State.DELIVERED:
            return "entry_ended", f"{_ENDED} and state = '{state}'"
    if states and states <= WAITING:
        return "entry_waiting", _WAITS
    return "entry_admitted", "true"


def _named(read: Read, query: _Query, text: str, beyond: RowKey) -> list[RowKey] | None:
    """Return files older than a key whose path or name begins with a text; None if too many.

    The name may be in the folder of any dataset that ever came.
    """
    folders = {b""}
    if "/" not in text:
        folders |= {name.partition("/")[0].encode() + b"/" for name in arrived_datasets(read)}
    begins = {begin for known in undisplay(text) for begin in (known, known.lower())}
    sql = f"""select admitted_at, id from (
            select admitted_at, id, state, flow, path from entry indexed by entry_path
            where path >= :low and path < :high limit :named_max) as named
        where {query.visited} and {query.matching} and (admitted_at, id) < (:at, :id)"""  # noqa: S608  names are ours
    at, row_id = beyond
    values = {**query.parameters, "at": at, "id": row_id, "named_max": NAMED_MAX}
    keys = list[RowKey]()
    for low in sorted(folder + begin for folder in folders for begin in begins):
        limits = {"low": low, "high": _behind(low)}
        rows = read(sql, {**values, **limits})
        many = "select 1 from entry where path >= :low and path < :high limit 1 offset :named_max"
        if read(many, {**limits, "named_max": NAMED_MAX}):
            return None
        keys += (RowKey(*row) for row in rows)
    return sorted(set(keys), reverse=True)[:SHOWN]


def _behind(begin: bytes) -> bytes:
    """Return a text behind all paths that begin with this one: they are shorter."""
    return begin + b"\xff" * PATH_MAX


def _records(read: Read, keys: Sequence[RowKey]) -> list[Record]:
    if not keys:
        return []
    return [*map(record_of, rows_of(read, [key.id for key in keys], RECORD_COLUMNS))]


class LastFiles(NamedTuple):
    """The latest file of a dataset, and the one that was delivered last; None without one."""

    latest: Record | None
    delivered: Record | None


_LATEST = """select admitted_at, id from entry indexed by entry_dataset
    where flow = ? order by admitted_at desc, id desc limit 1"""

_LATEST_DELIVERED = f"""select admitted_at, id from (
    select admitted_at, id, state from entry indexed by entry_dataset
    where flow = ? order by admitted_at desc, id desc limit {RECENT}) as recent
    where state = 'delivered' limit 1"""  # noqa: S608  no input


def last_files(read: Read, datasets: Sequence[str]) -> dict[str, LastFiles]:
    """Return the last files of each dataset. Call it in a snapshot."""
    keys = {
        dataset: [
            next((RowKey(*row) for row in read(sql, (dataset,))), None)
            for sql in (_LATEST, _LATEST_DELIVERED)
        ]
        for dataset in datasets
    }
    wanted = list(dict.fromkeys(key for pair in keys.values() for key in pair if key is not None))
    records = dict(zip(wanted, _records(read, wanted), strict=True))
    return {
        dataset: LastFiles(*(records.get(key) if key else None for key in pair))
        for dataset, pair in keys.items()
    }


class DayFiles(NamedTuple):
    """How many files of a dataset came on a day, and what became of them.

    Of a day with more than `DAY_MAX` files only the last ones are counted.
    """

    files: int = 0
    delivered: int = 0
    rejected: int = 0


DAY_MAX = 5

_DAY = f"""select {{number}} as number, count(*), count(*) filter (where state = 'delivered'),
    count(*) filter (where state = 'rejected') from (
        select state from entry indexed by entry_dataset where flow = :dataset
        and admitted_at >= :from_{{number}} and admitted_at < :to_{{number}}
        and coalesce(confirmation, '') <> 'marked'
        order by admitted_at desc limit {DAY_MAX}) as day_{{number}}"""  # noqa: S608  no input


def files_by_day(read: Read, dataset: str, days: Sequence[tuple[float, float]]) -> list[DayFiles]:
    """Return what came on each day; `days`: when each begins and ends."""
    sql = " union all ".join(_DAY.format(number=number) for number in range(len(days)))
    values: dict[str, object] = {"dataset": dataset}
    for number, (begins_at, ends_at) in enumerate(days):
        values |= {f"from_{number}": begins_at, f"to_{number}": ends_at}
    rows = read(f"{sql} order by number", values)
    return [DayFiles(*numbers) for _, *numbers in rows]


SHORT = 6
"""Rows of a short list; the page says how many more there are."""

SHORT_REJECTED = 20
"""Rows of the rejected files: an operator must act on each."""

LATEST_REJECTED = 500
"""Current rejections are looked for among this many of the latest."""

_SIDE = """(select cast(json_object('state', state, 'rows', json(rows)) as text) from tracked
    where tracked.id = entry.id)"""


def _short(state: State, at: str, order: str, condition: str = "") -> str:
    return f"""select id, path, bytes, {at}, error, reason, findings, {_SIDE}, moved_to from entry
        where state = '{state}' {condition} order by {order} limit {SHORT}"""  # noqa: S608  names are ours


_SHORT_LISTS: Mapping[State, str] = {
    State.QUEUED: _short(State.QUEUED, "admitted_at", "turn, rank, id"),
    State.DEFERRED: _short(State.DEFERRED, "due_at", "due_at"),
    State.HELD: _short(State.HELD, "changed_at", "changed_at desc"),
    State.REJECTED: f"""
        select id, path, bytes, changed_at, error, reason, findings, null, moved_to from (
            select * from entry where state = 'rejected'
            order by changed_at desc limit {LATEST_REJECTED}) as entry
        where forgotten_at is null and not {SUPERSEDED}
        order by changed_at desc limit {SHORT_REJECTED}""",  # noqa: S608  names are ours
    # Without those that an operator has marked: nothing was sent.
    State.DELIVERED: _short(
        State.DELIVERED, "delivered_at", "delivered_at desc", "and delivered_at > 0"
    ),
}


def short_lists(read: Read) -> dict[State, list[Row]]:
    """Return some files of each state, for the overview. Call it in a snapshot.

    A row has id, path, size in bytes, instant, error, reason, findings as JSON, what the server
    made of it as JSON, and where the file was moved. The instant: when it was admitted, is due, was
    delivered, rejected or held, depending on the list; seconds since the epoch.
    """
    return {state: read(sql, ()) for state, sql in _SHORT_LISTS.items()}
