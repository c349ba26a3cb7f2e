"""The tracker of the uploads under way."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from emitterd.monitoring.uploads import (
    LOG_S,
    SLOT_S,
    SLOTS,
    SPEED_S,
    SpeedHistory,
    UploadProgress,
    UploadTracker,
)
from support.journal import entry
from support.page import HOSTILE
from support.waiting import wait_until

DEADLINE_S = 20.0


def log_for(tracker: UploadTracker, seconds: int) -> list[dict[str, Any]]:
    """Call the tracker once a second for so long; return what it logs."""
    began_at = tracker.now()[0].started_at
    with capture_logs() as lines:
        for second in range(1, seconds + 1):
            tracker.log_long(began_at + second)
    return [dict(line) for line in lines]


def test_an_upload_is_on_the_board_while_it_lasts() -> None:
    """An upload is listed with its sent bytes from its begin to its end."""
    tracker = UploadTracker()
    before = time.time()

    tracker.began(entry(1, attempts=2))
    tracker.sent(300)
    tracker.sent(400)
    [seen] = tracker.now()
    tracker.ended()

    assert (seen.path, seen.size_bytes, seen.sent_bytes) == (b"pat/1.zip", 1000, 700)
    assert seen.attempt == 3
    assert before <= seen.started_at <= time.time()
    assert tracker.now() == []


def test_the_first_to_begin_is_the_first_in_the_list() -> None:
    """The order is that of beginning, not of names or ids."""
    tracker, all_began = UploadTracker(), threading.Barrier(3)

    def begin(number: int) -> None:
        tracker.began(entry(number))
        # A thread that ends leaves its identity to the next one.
        all_began.wait(DEADLINE_S)

    def listed(number: int) -> bool:
        return number in {upload.id for upload in tracker.now()}

    with ThreadPoolExecutor(3) as pool:
        for number in (3, 1, 2):
            pool.submit(begin, number)
            wait_until(partial(listed, number), DEADLINE_S, "a beginning")

    assert [upload.id for upload in tracker.now()] == [3, 1, 2]


def test_an_entry_may_be_claimed_again_before_its_attempt_has_ended() -> None:
    """Two workers with the same entry disturb each other in nothing."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    with ThreadPoolExecutor(1) as second_worker:
        second_worker.submit(tracker.began, entry(1)).result()
        tracker.ended()
        second_worker.submit(tracker.sent, 5).result()
        sent = [upload.sent_bytes for upload in tracker.now()]
        second_worker.submit(tracker.ended).result()

    assert sent == [5]
    assert tracker.now() == []


def test_a_body_sent_twice_is_not_more_than_the_file() -> None:
    """A second grant within the attempt sends again, and the bar ends at its end."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    for _ in range(3):
        tracker.sent(600)

    assert tracker.now()[0].sent_bytes == 1000


def test_what_was_asked_does_not_move() -> None:
    """A returned copy does not change when more bytes are sent."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    [seen] = tracker.now()
    tracker.sent(500)

    assert seen.sent_bytes == 0


def test_workers_and_lookers_on_do_not_disturb_each_other() -> None:
    """Uploads of many threads are counted correctly while others read them."""
    tracker = UploadTracker()

    def upload(number: int) -> int:
        tracker.began(entry(number))
        for _ in range(200):
            tracker.sent(5)
            tracker.now()
        sent = next(path.sent_bytes for path in tracker.now() if path.id == number)
        tracker.ended()
        return sent

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(upload, range(16)))

    assert sent == [1000] * 16
    assert tracker.now() == []


def test_the_time_left_follows_a_change_of_speed() -> None:
    """An upload that slows down after an hour soon has the time left of its new speed."""
    size_bytes, began = 10_000_000, (0.0, 0)
    upload = UploadProgress(1, b"pat/1.zip", size_bytes, 1, 0.0, 0.0, (began, began))
    for second in range(1, 3601):
        upload.add(1000, float(second))
    fast = upload.bytes_s(3600.0)
    for second in range(3601, 3601 + 2 * int(SPEED_S)):
        upload.add(10, float(second))
    now = 3600 + 2 * SPEED_S
    left_s = upload.eta_s(now)

    assert fast == pytest.approx(1000)
    assert upload.bytes_s(now) == pytest.approx(10)
    assert left_s == pytest.approx((size_bytes - upload.sent_bytes) / 10)


def test_an_upload_that_stands_still_has_no_time_left() -> None:
    """Where nothing moves any more, the speed falls."""
    upload = UploadProgress(1, b"pat/1.zip", 1000, 1, 0.0, 0.0, ((0.0, 0), (0.0, 0)))
    upload.add(500, 1.0)

    assert upload.bytes_s(1.0) == 500
    assert upload.bytes_s(100.0) == 5
    assert upload.bytes_s(-1.0) == 0
    assert upload.eta_s(-1.0) is None


def test_the_speed_of_ten_minutes_is_kept() -> None:
    """Each ten seconds have their bytes; older ones go, and a clock that goes back adds none."""
    history = SpeedHistory()
    for slot in range(100):
        history.add(slot, slot * SLOT_S)
        history.add(1, slot * SLOT_S + 5)
    now = 100 * SLOT_S
    full = history.slots(now)
    history.add(7, now - 500)
    later = history.slots(now - 500 + SLOT_S)

    assert full == [slot + 1 for slot in range(100 - SLOTS, 100)]
    assert later == [*full[1:], 7]
    assert history.slots(now + 10_000) == [0] * SLOTS


def test_bytes_of_all_uploads_make_the_speed() -> None:
    """The bytes of an upload are in the history also when the upload has ended."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    tracker.sent(400)
    tracker.ended()
    tracker.began(entry(2))
    tracker.sent(500)

    assert sum(tracker.last_minutes(time.time() + SLOT_S)) == 900


def test_a_short_upload_is_not_logged() -> None:
    """An upload of less than 30 s leaves no line."""
    tracker = UploadTracker()
    tracker.began(entry(1))

    assert log_for(tracker, int(LOG_S) - 1) == []


def test_a_long_upload_is_logged_at_intervals() -> None:
    """A long upload is logged every 30 s, and no more often."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    lines = log_for(tracker, 100)

    assert [line["event"] for line in lines] == ["file.delivering"] * 3
    assert [line["duration_s"] for line in lines] == [LOG_S, 2 * LOG_S, 3 * LOG_S]


def test_the_line_of_a_long_upload_has_its_progress() -> None:
    """Path, sizes, share, mean speed and the time left are in the line."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    tracker.sent(250)
    [line] = log_for(tracker, 31)

    assert line["log_level"] == "info"
    assert (line["path"], line["attempt"]) == ("pat/1.zip", 1)
    assert (line["bytes"], line["sent_bytes"], line["percent"]) == (1000, 250, 25)
    assert line["bytes_s"] == pytest.approx(250 / 30, rel=0.1)
    assert line["eta_s"] == pytest.approx(90, rel=0.1)


def test_an_upload_without_a_byte_has_no_forecast() -> None:
    """Before the first byte no time left is estimated."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    [line] = log_for(tracker, 31)

    assert (line["percent"], line["bytes_s"], line["eta_s"]) == (0, 0, None)


def test_a_hostile_name_is_escaped_in_the_log() -> None:
    """The path of a logged upload is printable."""
    tracker = UploadTracker()
    tracker.began(replace(entry(1), path=HOSTILE))
    [line] = log_for(tracker, 31)

    assert line["path"].isprintable()
