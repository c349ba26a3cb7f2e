"""What the journal knows of uploads whose answers were lost, and of files processed at once."""

import json
import time
from dataclasses import replace

from emitterd.journal.journal import Journal
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.model import Entry, Grant
from emitterd.shutdown import Shutdown
from support.journal import LOST, NOW, PATH, admission, grant, receipt

FIRST, SECOND = b"a/x.zip", b"b/x.zip"


def claimed(journal: Journal, path: bytes) -> Entry:
    """Admit a file and claim it; there is no other one that waits."""
    journal.admit([admission(path)])
    entry = journal.claim(time.time())
    assert entry is not None
    assert entry.path == path
    return entry


def lost(journal: Journal, path: bytes, pinned: Grant) -> Entry:
    """Upload a file whose answer is lost; return the entry as the next attempt has it."""
    entry = claimed(journal, path)
    journal.pin(entry, pinned)
    journal.defer(entry, LOST, time.time() + 3000, charge=True)
    return replace(entry, grant=pinned, ambiguous=True)


def test_a_lost_answer_is_unconfirmed_for_other_files(journal: Journal) -> None:
    """The entry itself, entries without a grant, and answers that are known do not count."""
    first = lost(journal, FIRST, grant())
    second = claimed(journal, SECOND)

    assert journal.unconfirmed(second) == [FIRST]
    assert journal.unconfirmed(first) == []
    journal.pin(second, grant("key-2"))
    assert journal.unconfirmed(first) == []


def test_a_lost_answer_is_unconfirmed_until_its_entry_ends(journal: Journal) -> None:
    """A worker that has claimed it may not have begun, and a held one is looked up later."""
    lost(journal, FIRST, grant())
    second = claimed(journal, SECOND)
    again = journal.claim(time.time() + 4000)
    assert again is not None
    assert again.path == FIRST

    assert journal.unconfirmed(second) == [FIRST]
    journal.defer(again, LOST, time.time() + 3000, charge=True)
    hold = OperationRequest(Operation.HOLD, (FIRST,))
    assert Operations(journal.store, Shutdown()).apply(hold, "asha", lambda _: None).done == 1
    assert journal.unconfirmed(second) == [FIRST]


def test_two_lost_answers_do_not_wait_for_each_other(journal: Journal) -> None:
    """Of two of them the later one waits, and the earlier one is looked up."""
    earlier = lost(journal, FIRST, replace(grant(), granted_at=NOW - 10))
    later = lost(journal, SECOND, grant("key-2"))

    assert journal.unconfirmed(earlier) == []
    assert journal.unconfirmed(later) == [FIRST]


def test_a_file_processed_at_once_is_the_last_of_its_dataset(journal: Journal) -> None:
    """The counts are recorded with the receipt, and the dataset has a processed file."""
    journal.admit([admission(PATH, flow="programs/nas")])
    entry = journal.claim(time.time())
    assert entry is not None
    rows = {"total": 3, "accepted": 2, "dropped": 1}
    dropped: list[tuple[bytes, int]] = []
    journal.on_processed = lambda path, number: dropped.append((path, number))
    journal.deliver(entry, replace(receipt(), etag="", rows=rows), duration_s=1.0, dispose=False)

    assert dropped == [(PATH, 1)]
    assert journal.read("select etag, state from entry") == [(None, "delivered")]
    [(state, packed)] = journal.read("select state, rows from tracked")
    assert (state, json.loads(packed)["accepted"]) == ("processed", 2)
    [(accepted_at,)] = journal.read("select accepted_at from arrival")
    assert accepted_at is not None
