"""Fixtures of the tests in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emitterd.rehearsal.server import RehearsalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.browser import Browser
    from support.office import Office


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    """Open one window for all tests."""
    # An extra, and heavy: only where a test asks for it.
    pytest.importorskip("selenium", reason="extra browser is missing: selenium")
    from support.browser import chromium  # noqa: PLC0415

    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def office(tmp_path: Path, server: RehearsalServer) -> "Office":
    """Lay out an installation with a page and a day behind it."""
    pytest.importorskip("selenium", reason="extra browser is missing: selenium")
    from support.office import Office  # noqa: PLC0415

    office = Office(tmp_path, server.url)
    office.remember_a_day()
    return office
