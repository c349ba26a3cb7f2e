"""The forecast: from the recent deliveries to when nothing will wait."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.journal.journal import Journal
from emitterd.journal.numbers import RECENT, RECENT_S, Recent
from emitterd.journal.work import Execute
from emitterd.monitoring.status import eta_s, read_queue
from emitterd.monitoring.uploads import UploadTracker
from support.journal import deliver, entry, take

KIB = 1024


def test_nothing_is_known_without_a_delivery() -> None:
    """Without a delivery there is no forecast; but nothing to do takes no time."""
    assert eta_s(Recent(0, 0, 0.0), 1, 10) is None
    assert eta_s(Recent(0, 0, 0.0), 0, 0) == 0.0


def test_an_even_stream_goes_on_at_its_rate() -> None:
    """A hundred files in a hundred seconds: ten more take ten."""
    assert eta_s(Recent(100, 100 * KIB, 100.0), 10, 10 * KIB) == pytest.approx(10.0)


def test_files_and_bytes_count_alike() -> None:
    """After small files, a large one takes longer than by the number of files alone."""
    assert eta_s(Recent(100, 100 * KIB, 100.0), 1, 99 * KIB) == pytest.approx(50.0)


@given(
    st.builds(Recent, st.integers(1, RECENT), st.integers(0, 10**15), st.floats(0, RECENT_S)),
    st.integers(1, 10**6),
    st.integers(0, 10**15),
)
def test_a_forecast_grows_with_the_queue(recent: Recent, files: int, size_bytes: int) -> None:
    """A forecast is never negative, and twice the work takes no less."""
    first = eta_s(recent, files, size_bytes)
    second = eta_s(recent, 2 * files, 2 * size_bytes)

    assert first is not None
    assert second is not None
    assert 0 <= first <= second


def test_the_rate_is_from_the_begin_of_the_first_to_the_end_of_the_last(journal: Journal) -> None:
    """Deliveries side by side count once, and older ones not at all."""
    for version, ended_s in enumerate((0, 1, 10, RECENT_S + 1), 1):
        entry = take(journal, 1, b"pat/%d.zip" % version)
        deliver(journal, entry)
        sql = "update entry set duration_s = 2, delivered_at = ? where id = ?"
        values = time.time() - ended_s, entry.id
        journal.store.write(Execute(sql, [values]))
    recent = read_queue(journal.read, time.time()).recent

    assert (recent.files, recent.size_bytes) == (3, 30)
    assert recent.took_s == pytest.approx(12.0, abs=0.5)


def test_what_is_sent_of_a_file_under_way_counts_no_more(journal: Journal) -> None:
    """The forecast is for what is left of the uploads, not for their whole sizes."""
    for number in range(4):
        deliver(journal, take(journal, number))
    take(journal, 9)
    queue, tracker = read_queue(journal.read, time.time()), UploadTracker()
    upload = entry(9)
    tracker.began(upload)
    whole = queue.eta_s(moving=True, sent=tracker.sent_share())
    tracker.sent(upload.fingerprint.size_bytes * 3 // 4)
    left = queue.eta_s(moving=True, sent=tracker.sent_share())
    assert whole is not None
    assert left is not None
    assert left <= whole / 2
    assert tracker.sent_share() == (0.75, 750)
