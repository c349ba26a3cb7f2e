"""The lists of the page: their order, their filters, and what a query costs."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emitterd.journal import listing
from emitterd.journal.listing import (
    BATCH,
    SHOWN,
    DayFiles,
    FileFilter,
    FileList,
    RowKey,
    all_files,
    files_by_day,
    last_files,
    list_files,
)
from emitterd.journal.postgresql.connection import connect
from emitterd.journal.postgresql.transaction import PostgresqlTransaction
from emitterd.journal.sqlite.store import SqliteTransaction
from emitterd.journal.store import Parameters, Row, Transaction
from emitterd.model import WAITING, State
from emitterd.text import display

EXAM, MASTER, OTHER = "pat/periodic_exam_mst", "school_master/school_mst", "/elsewhere"
BEGAN_AT = 1_790_000_000.0
DAY_S = 86400.0

ALL = FileFilter()

_INSERT = """insert into entry (path, state, flow, turn, rank, device, inode, bytes, mtime_ns,
    ctime_ns, admitted_at, changed_at, delivered_at, host)
    values (?, ?, ?, ?, 0, 1, ?, 8, 1, 1, ?, ?, ?, 1)"""


class Shelf:
    """A journal whose entries are written directly."""

    def __init__(self, transaction: Transaction) -> None:
        self.read = transaction.query
        self.change = transaction.execute
        self._insert = partial(transaction.execute_many, _INSERT)

    def add(self, path: str, state: State, flow: str, at: float) -> None:
        """Add an entry."""
        number = self.read("select coalesce(max(id), 0) + 1 from entry")[0][0]
        delivered_at = at + 1 if state is State.DELIVERED else None
        row = (path.encode(), state, flow, number, number, at, at, delivered_at)
        self._insert([row])

    def fill(self, number: int, flow: str = EXAM, state: State = State.DELIVERED) -> None:
        """Add files, one every second."""
        rows = [
            (
                f"{flow}_{second:06}.zip".encode(), state, flow, second, second,
                BEGAN_AT + second, BEGAN_AT + second, BEGAN_AT + second,
            )
            for second in range(number)
        ]  # fmt: skip
        self._insert(rows)

    @property
    def counts(self) -> dict[State, int]:
        """The number of entries by state."""
        return {State(state): n for state, n in self.read("select state, entries from tally")}

    def page(self, chosen: FileFilter = ALL, **where: RowKey | None) -> FileList:
        """Return a page."""
        return list_files(self.read, chosen, self.counts, **where)

    def pages(self, chosen: FileFilter = ALL) -> Iterator[FileList]:
        """Yield all pages, from the newest on."""
        shown = self.page(chosen)
        yield shown
        while shown.older is not None:
            shown = self.page(chosen, after=shown.older)
            yield shown


class FileShelf(Shelf):
    """One in a SQLite database in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        schema = files("emitterd.journal.sqlite").joinpath("schema.sql")
        connection.executescript(schema.read_text())
        self._connection = connection
        super().__init__(SqliteTransaction(connection))

    def cost(self, work: Callable[[], object]) -> int:
        """Return how many steps of SQLite a piece of work takes, in tens."""
        steps = count()
        self._connection.set_progress_handler(lambda: next(steps) < 0, 10)
        work()
        self._connection.set_progress_handler(None, 0)
        return next(steps)


@pytest.fixture
def new_shelf(store_kind: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], Shelf]]:
    """Return what makes an empty journal; it takes the place of the last one."""
    with ExitStack() as stack:
        if store_kind == "sqlite":
            yield lambda: FileShelf(stack.enter_context(memory()))
            return
        address = request.getfixturevalue("journal_address")
        connection = stack.enter_context(closing(connect(address)))

        def emptied() -> Shelf:
            connection.execute("truncate entry, entry_count, host_arrival restart identity cascade")
            return Shelf(PostgresqlTransaction(connection))

        yield emptied


@pytest.fixture
def shelf(new_shelf: Callable[[], Shelf]) -> Shelf:
    """Make an empty journal."""
    return new_shelf()


def memory() -> closing[sqlite3.Connection]:
    """Open a database in memory."""
    return closing(sqlite3.connect(":memory:", isolation_level=None))


@pytest.fixture(scope="module")
def filled() -> Iterator[list[FileShelf]]:
    """Make a small journal, and one of ten times the size."""
    with ExitStack() as stack:
        shelves = []
        for number in (400, 4000):
            shelves.append(FileShelf(stack.enter_context(memory())))
            shelves[-1].fill(number)
            shelves[-1].fill(number, MASTER, State.REJECTED)
        yield shelves


def paths(shown: FileList) -> list[str]:
    """Return the paths on a page."""
    return [record["path"] for record in shown.files]


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["a", "B_c", "%", "exam"]),
        st.sampled_from(sorted(State)),
        st.sampled_from([EXAM, MASTER, OTHER]),
        # Many at the same instant, as of one batch; and the clock is set back.
        st.integers(0, 5),
    ),
    max_size=60,
)
FILTERS = st.builds(
    FileFilter,
    states=st.sampled_from([frozenset(), WAITING, *(frozenset({state}) for state in State)]),
    dataset=st.sampled_from(["", EXAM, OTHER]),
    since=st.sampled_from([None, BEGAN_AT + 2]),
    until=st.sampled_from([None, BEGAN_AT + 4]),
    text=st.sampled_from(["", "b_C", "%", "EXAM", "x"]),
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(entries=ENTRIES, chosen=FILTERS, searched=st.integers(1, 70))
def test_all_pages_together_are_all_files_that_match(
    new_shelf: Callable[[], Shelf],
    entries: list[tuple[str, State, str, int]],
    chosen: FileFilter,
    searched: int,
) -> None:
    """No file is missing or doubled, in the order of admission, however far a query searches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "SHOWN", 7)
        patch.setattr(listing, "SEARCHED", searched)
        patch.setattr(listing, "BATCH", 5)
        shelf = new_shelf()
        expected = []
        for number, (name, state, flow, second) in enumerate(entries):
            path, at = f"{flow}/{number}/{name}", BEGAN_AT + second
            # One live version of a path: the number makes it another path.
            shelf.add(path, state, flow, at)
            if (
                (not chosen.states or state in chosen.states)
                and chosen.dataset in {"", flow}
                and (chosen.since is None or at >= chosen.since)
                and (chosen.until is None or at < chosen.until)
                and chosen.text.lower() in path.lower()
            ):
                expected.append((at, number, path))
        expected.sort(reverse=True)
        shown = list(shelf.pages(chosen))

        assert [path for page in shown for path in paths(page)] == [row[2] for row in expected]
        downloaded = all_files(shelf.read, chosen, shelf.counts)
        assert [file["path"] for batch in downloaded for file in batch] == [
            row[2] for row in expected
        ]


def test_the_way_back_shows_the_same_pages(shelf: Shelf) -> None:
    """The newest page comes again whole, and has no newer one."""
    shelf.fill(3 * SHOWN + 5)
    pages = list(shelf.pages())
    assert [len(page.files) for page in pages] == [SHOWN, SHOWN, SHOWN, 5]
    for newer, page in pairwise(pages):
        assert paths(shelf.page(before=page.newer)) == paths(newer)
    assert shelf.page(before=pages[1].newer).newer is None


def test_a_key_survives_the_address() -> None:
    """The text of a key gives the same key, and anything else is an error."""
    key = RowKey(BEGAN_AT + 0.123, 7)
    assert RowKey.parse(str(key)) == key
    for text in ("", "1", "1_", "_1", "a_1", f"1_{2**70}"):
        with pytest.raises(ValueError, match=r"."):
            RowKey.parse(text)


def named(value: object) -> str:
    """Name a case. The order of a set differs from process to process, and so would its name."""
    if not isinstance(value, FileFilter):
        return str(value)
    states = "+".join(sorted(value.states)) or "any state"
    return f"{states} {value.dataset} {value.since} {value.until} {value.text}"


@pytest.mark.parametrize("store_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("chosen", "index"),
    [
        (FileFilter(), "entry_admitted"),
        (FileFilter(since=BEGAN_AT, until=BEGAN_AT + 9), "entry_admitted"),
        (FileFilter(frozenset({State.DELIVERED})), "entry_admitted"),
        (FileFilter(frozenset({State.REJECTED})), "entry_ended"),
        (FileFilter(frozenset({State.QUEUED})), "entry_waiting"),
        (FileFilter(WAITING), "entry_waiting"),
        (FileFilter(frozenset({State.DEFERRED})), "entry_due"),
        (FileFilter(dataset=EXAM), "entry_dataset"),
        (FileFilter(frozenset({State.DELIVERED}), EXAM), "entry_dataset"),
        (FileFilter(frozenset({State.HELD}), EXAM), "entry_ended"),
    ],
    ids=named,
)
def test_each_filter_uses_an_index(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, chosen: FileFilter, index: str
) -> None:
    """An index serves the filter and its order; only a state of few rows is sorted."""
    monkeypatch.setattr(listing, "SEARCHED", 10)
    shelf.fill(20)
    shelf.fill(20, OTHER, State.QUEUED)
    shelf.add("a", State.HELD, EXAM, BEGAN_AT)
    plans: list[str] = []

    def read(sql: str, parameters: Parameters = ()) -> list[Row]:
        plans.append(str(shelf.read(f"explain query plan {sql}", parameters)))
        return shelf.read(sql, parameters)

    list_files(read, chosen, shelf.counts, after=RowKey(BEGAN_AT + 15, 16))

    assert f"INDEX {index}" in plans[0]
    assert ("TEMP B-TREE" in plans[0]) == (index == "entry_due")
    if index != "entry_due":
        assert "admitted_at<" in plans[0]


@pytest.mark.parametrize(
    "chosen",
    [
        FileFilter(),
        FileFilter(frozenset({State.DELIVERED})),
        FileFilter(frozenset({State.REJECTED})),
        FileFilter(WAITING),
        FileFilter(frozenset({State.REJECTED}), MASTER),
        FileFilter(dataset=EXAM),
        FileFilter(since=BEGAN_AT + 100, until=BEGAN_AT + 350),
        FileFilter(text="no such file"),
        FileFilter(text="periodic_exam_mst_0000"),
        FileFilter(dataset=EXAM, text="no such file"),
    ],
    ids=named,
)
def test_a_page_costs_the_same_in_a_large_journal(
    filled: list[FileShelf], monkeypatch: pytest.MonkeyPatch, chosen: FileFilter
) -> None:
    """With ten times the files a page takes no more steps of SQLite, wherever it is."""
    monkeypatch.setattr(listing, "SEARCHED", 100)
    for after in (None, RowKey(BEGAN_AT + 300, 300)):
        small, large = (
            shelf.cost(partial(list_files, shelf.read, chosen, shelf.counts, after=after))
            for shelf in filled
        )
        assert large <= 1.1 * small + 10


def test_a_search_says_how_far_it_went(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is looked for in the newest files, and the next page goes on behind them."""
    monkeypatch.setattr(listing, "SEARCHED", 100)
    shelf.fill(250)
    shown = shelf.page(FileFilter(text="000007"))
    assert (shown.files, shown.searched_to) == ([], RowKey(BEGAN_AT + 150, 151))
    assert shown.older == shown.searched_to

    *between, last = shelf.pages(FileFilter(text="000007"))
    assert [len(page.files) for page in between] == [0, 0]
    assert paths(last) == [f"{EXAM}_000007.zip"]
    assert last.searched_to is None


def test_names_that_begin_with_the_text_are_found_at_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the whole journal, with and without the folder, unless there are very many."""
    monkeypatch.setattr(listing, "SEARCHED", 100)
    monkeypatch.setattr(listing, "NAMED_MAX", 10)
    shelf.fill(250)
    for text in ("periodic_exam_mst_00000", "PERIODIC_EXAM_MST_00000", f"{EXAM}_00000"):
        shown = shelf.page(FileFilter(text=text))
        assert shown.named is not None
        found = [record["path"] for record in shown.named]
        assert found == [f"{EXAM}_00000{number}.zip" for number in range(9, -1, -1)]
        assert shown.files == []
    assert shelf.page(FileFilter(text="periodic_exam_mst_0000")).named is None
    assert shelf.page(FileFilter(text="\udcff")).named == []
    chosen = FileFilter(text="periodic_exam_mst_00000", since=BEGAN_AT + 8)
    recent = shelf.page(chosen).named
    assert [record["path"] for record in recent or ()] == [
        f"{EXAM}_000009.zip", f"{EXAM}_000008.zip"
    ]  # fmt: skip
    chosen = FileFilter(text="periodic_exam_mst_00000", since=BEGAN_AT + 5, until=BEGAN_AT + 6)
    assert paths(shelf.page(chosen)) == [f"{EXAM}_000005.zip"]


def test_a_text_of_the_last_byte_is_searched_like_any_other(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""No byte follows `\xff`, and names may begin with it."""
    monkeypatch.setattr(listing, "SEARCHED", 100)
    shelf.fill(250)
    path = b"\xff\xff.zip"
    shelf.change("update entry set path = ? where id = 1", (path,))
    shown = shelf.page(FileFilter(text=r"\xff"))

    assert shown.searched_to is not None
    assert [record["path"] for record in shown.named or ()] == [display(path)]


def test_a_name_that_is_not_utf_8_is_found_as_it_is_shown(shelf: Shelf) -> None:
    """People copy it from the page."""
    path = b"pat/caf\xe9.zip"
    shelf.add("pat/cafe.zip", State.HELD, EXAM, BEGAN_AT)
    shelf.change("update entry set path = ?", (path,))

    assert paths(shelf.page(FileFilter(text=r"CAF\xe9"))) == [r"pat/caf\xe9.zip"]
    assert paths(shelf.page(FileFilter(text="caf\udce9"))) == [r"pat/caf\xe9.zip"]
    assert paths(shelf.page(FileFilter(text="caf_"))) == []


def test_the_last_files_of_a_dataset(shelf: Shelf) -> None:
    """The latest of all, and the latest that was delivered."""
    shelf.add("1", State.DELIVERED, EXAM, BEGAN_AT)
    shelf.add("2", State.DELIVERED, EXAM, BEGAN_AT + 1)
    shelf.add("3", State.REJECTED, EXAM, BEGAN_AT + 2)
    shelf.add("4", State.HELD, MASTER, BEGAN_AT)
    last = last_files(shelf.read, [EXAM, MASTER, "none/"])

    assert {
        dataset: [record and record["path"] for record in pair] for dataset, pair in last.items()
    } == {EXAM: ["3", "2"], MASTER: ["4", None], "none/": [None, None]}


def test_the_days_of_a_dataset(shelf: Shelf) -> None:
    """Each day has what came on it, in any state now."""
    days = [(BEGAN_AT + day * DAY_S, BEGAN_AT + (day + 1) * DAY_S) for day in range(4)]
    shelf.fill(10)
    shelf.add("1", State.REJECTED, EXAM, BEGAN_AT + DAY_S)
    shelf.add("2", State.QUEUED, EXAM, BEGAN_AT + 3 * DAY_S - 1)
    shelf.add("3", State.DELIVERED, MASTER, BEGAN_AT + 3 * DAY_S)

    assert files_by_day(shelf.read, EXAM, days) == [
        DayFiles(listing.DAY_MAX, listing.DAY_MAX, 0),
        DayFiles(1, 0, 1),
        DayFiles(1, 0, 0),
        DayFiles(),
    ]


def test_a_download_reads_in_batches(shelf: Shelf) -> None:
    """Each query returns few rows, and an entry that is gone since is left out."""
    shelf.fill(BATCH + 10)
    batches = all_files(shelf.read, replace(FileFilter(), dataset=EXAM), shelf.counts)
    assert len(next(batches)) == BATCH
    shelf.change("delete from entry where id < 4")
    assert len(next(batches)) == 7
    assert list(batches) == []
