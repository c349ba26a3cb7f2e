"""The contract of a store: the tests of this folder run on SQLite and on PostgreSQL."""

from collections.abc import Iterator

import pytest

from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation
from emitterd.journal.reader import JournalReader


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)


@pytest.fixture
def reader(journal: Journal, place: JournalLocation) -> Iterator[JournalReader]:
    """Open the journal for reading, as another process does."""
    assert journal.counts()
    with JournalReader(place) as reader:
        yield reader
