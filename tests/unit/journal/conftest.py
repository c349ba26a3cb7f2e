"""The contract of a store: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.postgresql.reading import PostgresqlReader
from emitterd.journal.postgresql.store import PostgresqlStore
from emitterd.journal.reader import JournalReader
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.store import Store

OpenJournal = Callable[[], Journal]


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)


@pytest.fixture
def open_store(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[], Store]:
    """Return what opens the test's database, also again."""
    if store_kind == "sqlite":
        return lambda: SqliteStore(tmp_path / "state" / "journal.db")
    address = request.getfixturevalue("journal_address")
    return lambda: PostgresqlStore(address, "host-1")


@pytest.fixture
def open_journal(open_store: Callable[[], Store]) -> OpenJournal:
    """Return what opens the journal in the test's database, also again."""
    return lambda: Journal(open_store(), backoff_max_s=600.0)


@pytest.fixture
def journal(open_journal: OpenJournal) -> Iterator[Journal]:
    """Open an empty journal; it is closed at the end."""
    with open_journal() as journal:
        yield journal


@pytest.fixture
def reader(
    journal: Journal, store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[JournalReader]:
    """Open the journal for reading, as another process does."""
    assert journal.read("select count(*) from entry")
    if store_kind == "sqlite":
        source: Path | PostgresqlReader = tmp_path / "state" / "journal.db"
    else:
        source = PostgresqlReader(request.getfixturevalue("journal_address"))
    with JournalReader(source) as reader:
        yield reader
