"""The errors of readers that cannot open a journal."""

from pathlib import Path

import pytest

from emitterd.journal.opening import start_remedy


@pytest.mark.parametrize(
    ("journal", "start"),
    [
        ("/var/lib/emitterd/journal.db", "systemctl start emitterd; "),
        ("/var/lib/emitterd/north/journal.db", "systemctl start emitterd@north; "),
        ("/home/asha/journal.db", "run `emitterd run`, or `emitterd once` "),
    ],
)
def test_the_folder_of_the_journal_decides_how_to_start(journal: str, start: str) -> None:
    """A service has its log too, because its start may have failed."""
    remedy = start_remedy(Path(journal))

    assert remedy.startswith(start)
    assert ("-p err" in remedy) == ("systemctl" in remedy)
