"""What waits in the journal: since when, and made due by hand."""

import time

from emitterd.codes import Code
from emitterd.errors import Trouble, Verdict
from emitterd.journal import Journal
from emitterd.waiting import Waiting
from test_journal import BROKE, admission, admit, deliver, take

REFUSED = Trouble(Verdict.PARK, Code.CREDENTIALS, "refused")
LATER = time.time() + 3000.0


def test_oldest_that_waits(journal: Journal) -> None:
    """It is the one admitted first of those that have not ended."""
    waiting = Waiting(journal.database)
    assert waiting.oldest_at() is None
    before = time.time()
    deliver(journal, take(journal, 1, b"first"))
    between = time.time()
    admit(journal, admission(b"second"))
    admit(journal, admission(b"third"))

    oldest_at = waiting.oldest_at()
    assert oldest_at is not None
    assert before <= between <= oldest_at <= time.time()


def test_only_what_other_credentials_mend_is_hastened(journal: Journal) -> None:
    """What was put off for another reason stays put off."""
    journal.defer(take(journal, 1, b"refused"), REFUSED, LATER, charge=False)
    journal.defer(take(journal, 1, b"broke"), BROKE, LATER, charge=True)
    Waiting(journal.database).hasten({Code.CREDENTIALS, Code.TOKEN_REFUSED})

    entry = journal.claim(time.time())
    assert entry is not None
    assert entry.path == b"refused"
    assert journal.claim(time.time()) is None
