"""The contract of a store: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.journal.reader import JournalReader


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)


@pytest.fixture
def new_place(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], JournalLocation]]:
    """Return what makes an empty database; each call makes another one."""
    numbers = count(1)
    if store_kind == "sqlite":
        yield lambda: JournalLocation(tmp_path / f"state-{next(numbers)}" / "journal.db")
        return
    cluster = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("journal_template")
    made: list[str] = []

    def make() -> JournalLocation:
        made.append(cluster.create(template))
        return JournalLocation(tmp_path / "journal", cluster.url(made[-1]), host="host-1")

    yield make
    for name in made:
        cluster.drop(name)


@pytest.fixture
def place(new_place: Callable[[], JournalLocation]) -> JournalLocation:
    """Make an empty database."""
    return new_place()


@pytest.fixture
def journal(place: JournalLocation) -> Iterator[Journal]:
    """Open an empty journal; it is closed at the end."""
    with open_journal(place) as journal:
        yield journal


@pytest.fixture
def reader(journal: Journal, place: JournalLocation) -> Iterator[JournalReader]:
    """Open the journal for reading, as another process does."""
    assert journal.counts()
    with JournalReader(place) as reader:
        yield reader
