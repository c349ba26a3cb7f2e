"""The board of uploads under way."""

import time
from concurrent.futures import ThreadPoolExecutor

from emitterd.monitoring.uploads import UploadTracker
from support.journal import entry


def test_an_upload_is_on_the_board_while_it_lasts() -> None:
    """It is there from its beginning, with what was sent of it, and then gone."""
    board = UploadTracker()
    before = time.time()

    board.began(entry(1, attempts=2))
    board.sent(entry(1), 300)
    board.sent(entry(1), 400)
    [seen] = board.now()
    board.ended(entry(1))

    assert (seen.path, seen.size_bytes, seen.sent_bytes) == (b"pat/1.zip", 1000, 700)
    assert seen.attempt == 3
    assert before <= seen.started_at <= time.time()
    assert board.now() == []


def test_the_first_to_begin_is_the_first_told() -> None:
    """The order is that of beginning, not of names or ids."""
    board = UploadTracker()
    for number in (3, 1, 2):
        board.began(entry(number))

    assert [one.id for one in board.now()] == [3, 1, 2]


def test_a_body_sent_twice_is_not_more_than_the_file() -> None:
    """A second grant within the attempt sends again, and the bar ends at its end."""
    board = UploadTracker()
    board.began(entry(1))
    for _ in range(3):
        board.sent(entry(1), 600)

    assert board.now()[0].sent_bytes == 1000


def test_what_was_asked_does_not_move() -> None:
    """An answer is of its moment: what is sent later does not change it."""
    board = UploadTracker()
    board.began(entry(1))
    [seen] = board.now()
    board.sent(entry(1), 500)

    assert seen.sent_bytes == 0


def test_workers_and_lookers_on_do_not_disturb_each_other() -> None:
    """Many uploads in many threads are all counted whole, whoever looks meanwhile."""
    board = UploadTracker()

    def upload(number: int) -> int:
        board.began(entry(number))
        for _ in range(200):
            board.sent(entry(number), 5)
            board.now()
        sent = next(one.sent_bytes for one in board.now() if one.id == number)
        board.ended(entry(number))
        return sent

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(upload, range(16)))

    assert sent == [1000] * 16
    assert board.now() == []
