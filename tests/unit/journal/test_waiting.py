"""What waits in the journal, made due by hand."""

import time

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.journal import Journal, Waiting
from support.journal import BROKE, take

REFUSED = DeliveryError(Decision.PAUSE, Code.CREDENTIALS, "refused")
LATER = time.time() + 3000.0


def test_only_what_other_credentials_mend_is_hastened(journal: Journal) -> None:
    """What was put off for another reason stays put off."""
    journal.defer(take(journal, 1, b"refused"), REFUSED, LATER, charge=False)
    journal.defer(take(journal, 1, b"broke"), BROKE, LATER, charge=True)
    Waiting(journal.database).hasten({Code.CREDENTIALS, Code.TOKEN_REFUSED})

    entry = journal.claim(time.time())
    assert entry is not None
    assert entry.path == b"refused"
    assert journal.claim(time.time()) is None
