"""Every page, with values in its address that no form sends."""

from pathlib import Path
from urllib.parse import quote

import pytest

from emitterd.journal.journal import Journal
from support.page import HOSTILE, Desk

PARAMETERS = ("state", "dataset", "since", "until", "q", "after", "before", "path")
VALUES = [
    "%ff",
    "%00",
    "%ed%a0%80",
    "\\xff",
    "\\ud800",
    "%25_\\",
    "x" * 15_000,
    "9" * 5000,
    "-1",
    "nan_1",
    "inf_-1",
    "1_99999999999999999999",
    "0001-01-01",
    "9999-12-31",
    "2026-02-30",
    "'\"<script>`x`",
    "a\nb\u202e\u0085",
    "{0.__class__}{path}%s",
    "../../etc/passwd",
    "/etc/passwd",
]

CONTROLS = set("\0\x1b\u202e\u0085")


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up pages over a journal with hostile names."""
    desk = Desk(spool_root, journal, tmp_path / "state" / "journal.db")
    desk.admit(HOSTILE)
    desk.deliver()
    desk.reject(b"pat/\xff.zip", 2)
    desk.admit(b"\xe2\x80\xae\xff\x1b[1m/x.zip", number=3)
    return desk


@pytest.mark.slow
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_no_value_breaks_a_page(desk: Desk, parameter: str) -> None:
    """Each page answers, its HTML is right, and none of the value is markup."""
    for path in sorted(desk.paths - {"/metrics", "/healthz", "/readyz", "/favicon.svg"}):
        for value in VALUES:
            answer = desk.ask(f"{path}?{parameter}={quote(value, safe='%')}")

            assert answer.status < 500, (path, value)
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert answer.document.wrong == [], (path, value)
                assert "<script>`x`" not in answer.text, (path, value)
                assert not set(answer.document.words) & CONTROLS, (path, value)
