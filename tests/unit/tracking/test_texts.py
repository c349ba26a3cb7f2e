"""What people read: a word for a list, and sentences that say what to do."""

import re
from typing import Any

import pytest

from emitterd.tracking.texts import sentences, word

pytestmark = pytest.mark.usefixtures("in_india")

SENT = "2026-11-30T10:00:00.000Z"
SEEN = {"seen_at": "2026-11-30T10:15:00.000Z"}
GONE = {"gone_at": "2026-11-30T10:30:00.000Z", "looks": 2}
NEXT = {"next_look_at": "2026-11-30T10:45:00.000Z"}
ENDED = {"ended_at": "2026-11-30T10:20:00.000Z"}
ROWS = {"total": 3200, "accepted": 3100, "dropped": 100}
REASONS = {"blank": 0, "duplicate": 1500, "datatype": 3, "null_values": {"exam_id": 97}}


@pytest.mark.parametrize(
    ("side", "short", "expected"),
    [
        ({"state": "waiting", "looks": 0, **NEXT}, "waiting", ["no answer yet", "again at"]),
        # The only look failed.
        ({"state": "waiting", "looks": 1, **NEXT}, "waiting", ["no answer yet", "again at"]),
        (
            {"state": "waiting", "looks": 1, **SEEN, **NEXT},
            "waiting",
            [
                "waits in the bucket, last seen at 2026-11-30 15:45:00\\+05:30",
                "again at",
                "emitterd inspect",
            ],
        ),
        (
            {"state": "picked_up", **SEEN, **GONE, **NEXT},
            "picked up",
            ["between 2026-11-30 15:45:00.* and 2026-11-30 16:00:00", "again at"],
        ),
        ({"state": "picked_up", **GONE}, "picked up", ["between 2026-11-30 15:30.*no log"]),
        (
            {"state": "processed", "rows": ROWS | REASONS, **GONE, **ENDED},
            "processed, 100 rows dropped",
            [
                "accepted 3,100 of 3,200 rows",
                "100 rows: 1,500 with a duplicate key; 3 with a value of a.*97 without a value for",
                "inspect --full",
            ],
        ),
        (
            {"state": "processed", "rows": ROWS | {"accepted": 3200, "dropped": 0}, **ENDED},
            "processed",
            ["accepted 3,200 of 3,200 rows"],
        ),
        (
            # cQube 5: known at the delivery; the rows that it refuses are in a file of their own.
            {
                "state": "processed",
                "rows": ROWS | {"errors_file": "nas_errors.csv"},
                "looked_at": "2026-11-30T10:20:00.000Z",
            },
            "processed, 100 rows dropped",
            [
                "processed before 2026-11-30 15:50:00.*accepted 3,100 of 3,200 rows",
                "dropped 100 rows",
                "nas_errors.csv: ask its administrator",
            ],
        ),
        ({"state": "processed", "rows": {}, **ENDED}, "processed", ["did not count the rows"]),
        ({"state": "stalled", **GONE}, "stalled", ["did not end it", "probably dropped the whole"]),
        ({"state": "unknown", **GONE}, "unknown", ["does not name the file"]),
        ({"state": "unknown", "looks": 9, **SEEN}, "unknown", ["never saw it leave the bucket"]),
    ],
)
def test_each_state_has_a_word_and_says_what_to_do(
    side: dict[str, Any], short: str, expected: list[str]
) -> None:
    """One sentence for what happened, and one for what it means."""
    assert word(side) == short
    lines = sentences(side, SENT)
    assert lines[0].startswith("at the server: ")
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert line.isprintable()
        assert re.search(pattern, line)


def test_a_file_that_is_not_tracked_has_no_word() -> None:
    """The list shows nothing for it."""
    assert word(None) == ""
