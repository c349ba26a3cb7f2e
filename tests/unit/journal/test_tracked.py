"""What the server made of delivered files: rows that follow their receipts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.sqlite.salvage import salvage
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.model import Entry, ServerState, Tracked
from support.journal import NOW, PATH, deliver, take

HERE, ELSEWHERE = "https://here.example.org/data", "https://elsewhere.example.org/data"
ROWS = {"total": 3, "accepted": 2, "dropped": 1, "null_values": {"id": 1}}


def delivered(journal: Journal, path: bytes = PATH, version: int = 1) -> Entry:
    """Deliver a version of a path to the server, and track it."""
    journal.deliver_to(HERE)
    entry = take(journal, version, path)
    deliver(journal, entry)
    journal.track(0.0, NOW, 10)
    return entry


def due(journal: Journal, now: float = NOW) -> list[Tracked]:
    """Return what is due; no look can be planned for later than a day."""
    return journal.tracked_due(now, now + 86400, 100)


def tally_is_right(journal: Journal) -> bool:
    """Compare the counts by state with the rows, and these with the entries."""
    counted = Counter(state for (state,) in journal.read("select state from tracked"))
    tally: dict[str, int] = dict(journal.read("select * from tracked_tally"))
    orphans = journal.read("select id from tracked where id not in (select id from entry)")
    return tally == dict.fromkeys(ServerState, 0) | counted and not orphans


def test_a_delivered_file_is_due_until_its_last_look(journal: Journal) -> None:
    """Every value survives, and a final state is never due."""
    entry = delivered(journal)
    [file] = due(journal)
    assert (file.id, file.path, file.key, file.looks) == (entry.id, PATH, "key-1", 0)
    later = replace(file, looks=1, looked_at=NOW, due_at=NOW + 900, seen_at=NOW)
    assert journal.save_tracked([later]) == [later]
    assert due(journal, NOW + 899) == []
    assert due(journal, NOW + 900) == [later]
    final = replace(
        later,
        state=ServerState.PROCESSED,
        rows=ROWS,
        due_at=None,
        gone_at=NOW,
        started_at=1.0,
        ended_at=2.0,
    )
    journal.save_tracked([final])
    assert due(journal, NOW + 1e9) == []
    assert tally_is_right(journal)


def test_a_look_that_was_planned_before_the_clock_was_set_back_is_due(journal: Journal) -> None:
    """No look can be planned for so late."""
    delivered(journal)
    [file] = due(journal)
    journal.save_tracked([replace(file, due_at=NOW + 2 * 86400)])
    assert [late.id for late in due(journal)] == [file.id]


def test_each_delivery_is_tracked_once_and_only_at_its_server(journal: Journal) -> None:
    """After a change of `emission.url` the other server is not asked about it."""
    delivered(journal)
    journal.track(0.0, NOW, 10)
    assert len(due(journal)) == 1
    journal.deliver_to(ELSEWHERE)
    journal.track(0.0, NOW, 10)
    assert due(journal) == []
    assert tally_is_right(journal)


def test_only_so_many_files_are_tracked_at_a_time(journal: Journal) -> None:
    """The latest deliveries first; a file that is decided makes room for another one."""
    journal.deliver_to(HERE)
    for number in range(4):
        deliver(journal, take(journal, 1, b"pat/%d.zip" % number))
    journal.track(0.0, NOW, 2)
    assert {file.path for file in due(journal)} == {b"pat/2.zip", b"pat/3.zip"}
    journal.track(0.0, NOW, 2)
    assert len(due(journal)) == 2
    journal.save_tracked([replace(file, due_at=None) for file in due(journal)])
    journal.track(0.0, NOW, 2)
    assert {file.path for file in due(journal)} == {b"pat/0.zip", b"pat/1.zip"}


def test_the_row_goes_with_its_receipt(journal: Journal) -> None:
    """A look at an entry that retention has deleted meanwhile is lost with it."""
    entry = delivered(journal)
    [file] = due(journal)
    journal.prune([entry.id])
    assert journal.save_tracked([file]) == []
    assert journal.read("select * from tracked") == []
    assert tally_is_right(journal)


def test_the_row_stays_with_a_receipt_that_gets_another_number(journal: Journal) -> None:
    """Known content that was touched is merged into the delivered version."""
    first = delivered(journal)
    second = take(journal, 2)
    journal.merge_unchanged(second, first.id, dispose=False)
    [file] = due(journal)
    assert (file.id, file.path) == (second.id, PATH)
    assert tally_is_right(journal)


def test_rebuild_saves_it_and_the_reader_shows_it(tmp_path: Path) -> None:
    """`server_side` has instants as text, and no column without a value."""
    with open_journal(tmp_path / "damaged.db") as journal:
        entry, other = delivered(journal), delivered(journal, b"pat/other.zip")
        [file, _] = due(journal)
        journal.save_tracked([replace(file, looks=2, seen_at=NOW, rows=ROWS)])
    with SqliteStore(tmp_path / "fresh.db") as fresh:
        salvage(tmp_path / "damaged.db", fresh)
        assert fresh.read("select id, looks from tracked") == [(entry.id, 2), (other.id, 0)]
    with JournalReader(tmp_path / "fresh.db") as reader:
        side = next(reader.receipts())["server_side"]
    assert side["seen_at"].endswith("Z")
    assert (side["state"], side["looks"], side["rows"]) == ("waiting", 2, ROWS)
    assert "gone_at" not in side
