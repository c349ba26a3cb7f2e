"""The tracker of the uploads under way."""

import time
from concurrent.futures import ThreadPoolExecutor

from emitterd.monitoring.uploads import UploadTracker
from support.journal import entry


def test_an_upload_is_on_the_board_while_it_lasts() -> None:
    """An upload is listed with its sent bytes from its begin to its end."""
    tracker = UploadTracker()
    before = time.time()

    tracker.began(entry(1, attempts=2))
    tracker.sent(entry(1), 300)
    tracker.sent(entry(1), 400)
    [seen] = tracker.now()
    tracker.ended(entry(1))

    assert (seen.path, seen.size_bytes, seen.sent_bytes) == (b"pat/1.zip", 1000, 700)
    assert seen.attempt == 3
    assert before <= seen.started_at <= time.time()
    assert tracker.now() == []


def test_the_first_to_begin_is_the_first_told() -> None:
    """The order is that of beginning, not of names or ids."""
    tracker = UploadTracker()
    for number in (3, 1, 2):
        tracker.began(entry(number))

    assert [upload.id for upload in tracker.now()] == [3, 1, 2]


def test_a_body_sent_twice_is_not_more_than_the_file() -> None:
    """A second grant within the attempt sends again, and the bar ends at its end."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    for _ in range(3):
        tracker.sent(entry(1), 600)

    assert tracker.now()[0].sent_bytes == 1000


def test_what_was_asked_does_not_move() -> None:
    """A returned copy does not change when more bytes are sent."""
    tracker = UploadTracker()
    tracker.began(entry(1))
    [seen] = tracker.now()
    tracker.sent(entry(1), 500)

    assert seen.sent_bytes == 0


def test_workers_and_lookers_on_do_not_disturb_each_other() -> None:
    """Uploads of many threads are counted correctly while others read them."""
    tracker = UploadTracker()

    def upload(number: int) -> int:
        tracker.began(entry(number))
        for _ in range(200):
            tracker.sent(entry(number), 5)
            tracker.now()
        sent = next(one.sent_bytes for one in tracker.now() if one.id == number)
        tracker.ended(entry(number))
        return sent

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(upload, range(16)))

    assert sent == [1000] * 16
    assert tracker.now() == []
