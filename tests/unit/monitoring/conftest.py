"""What reads the journal is tested on both stores."""

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name the store that the test runs on."""
    return str(request.param)
