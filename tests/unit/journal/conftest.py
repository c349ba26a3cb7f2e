"""The contract of a store: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.postgresql.connection import DatabaseAddress
from emitterd.journal.postgresql.reading import PostgresqlReader
from emitterd.journal.postgresql.store import PostgresqlStore
from emitterd.journal.reader import JournalReader
from emitterd.journal.sqlite.store import SqliteStore
from support.journal import Place


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)


@pytest.fixture
def new_place(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Place]]:
    """Return what makes an empty database; each call makes another one."""
    numbers = count(1)
    if store_kind == "sqlite":
        yield lambda: FilePlace(tmp_path / f"state-{next(numbers)}" / "journal.db")
        return
    cluster = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("journal_template")
    made: list[str] = []

    def make() -> Place:
        made.append(cluster.create(template))
        return DatabasePlace(DatabaseAddress(cluster.url(made[-1])))

    yield make
    for name in made:
        cluster.drop(name)


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """Make an empty database."""
    return new_place()


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    """Open an empty journal; it is closed at the end."""
    with place.open() as journal:
        yield journal


@pytest.fixture
def reader(journal: Journal, place: Place) -> Iterator[JournalReader]:
    """Open the journal for reading, as another process does."""
    assert journal.counts()
    with place.reader() as reader:
        yield reader


class FilePlace:
    """A journal in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> Journal:
        """Open the journal."""
        return Journal(SqliteStore(self.path), backoff_max_s=600.0)

    def reader(self) -> JournalReader:
        """Open it for reading."""
        return JournalReader(self.path)


class DatabasePlace:
    """A journal in a PostgreSQL database."""

    def __init__(self, address: DatabaseAddress) -> None:
        self.address = address

    def open(self) -> Journal:
        """Open the journal."""
        return Journal(PostgresqlStore(self.address, "host-1"), backoff_max_s=600.0)

    def reader(self) -> JournalReader:
        """Open it for reading."""
        return JournalReader(Path(), store=PostgresqlReader(self.address))
