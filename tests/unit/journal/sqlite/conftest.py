"""What is SQLite's own is tested on SQLite."""

import pytest


@pytest.fixture
def store_kind() -> str:
    """Name the store that the test runs on."""
    return "sqlite"
