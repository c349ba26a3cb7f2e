"""What was answered is on disk: the kernel is asked in which order things are done."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from emitterd.journal.work import Execute
from support.crashes import MEMORY
from support.installation import Installation
from support.worker import rigged

CALLS = "openat,write,pwrite64,fsync,fdatasync,unlink,unlinkat,rename,renameat"

ADMITTING = """
import os, sys
from pathlib import Path
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint
from emitterd.journal.opening import open_journal

with open_journal(Path(sys.argv[1])) as journal:
    journal.admit([Admission(b"a.zip", Fingerprint(1, 2, 3, 4, 5), "flow", 0)])
    os.write(1, b"answered")
    os.kill(os.getpid(), 9)
"""

CLAIMING = """
import os, sys
from pathlib import Path
from emitterd.journal.rows import Admission
from emitterd.model import Grant
from emitterd.model import Fingerprint
from emitterd.journal.opening import open_journal

with open_journal(Path(sys.argv[1])) as journal:
    journal.admit([Admission(b"a.zip", Fingerprint(1, 2, 3, 4, 5), "flow", 0)])
    os.write(1, b"admitted")
    entry = journal.claim(0.0)
    os.write(1, b"claimed")
    journal.pin(entry, Grant("http://b", {"key": "a"}, 1.0, 2.0, "http://a"))
    os.write(1, b"pinned")
    journal.interrupt(entry)
    os.write(1, b"back")
    assert journal.claim(0.0).grant is not None
    os.write(1, b"claimed again")
    os.kill(os.getpid(), 9)
"""

SOURCE_GONE = r"unlink\S*\(.*/(a\.zip|\.emitterd-\d+)\""
"""Under its own name, or under the one it has while it is moved."""

REFUSING = """create trigger refusing before update of state on entry
    when new.state = 'delivered' begin select raise(abort, 'no'); end"""


def traced(command: list[str], environment: dict[str, str]) -> list[str]:
    """Run a command; return its system calls, with paths, in their order."""
    done = subprocess.run(  # noqa: S603  our own script
        [*("strace", "-f", "-y", "-qq", "-s", "16", "-e", f"trace={CALLS}"), *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    return done.stderr.splitlines()


def last(calls: list[str], pattern: str) -> int:
    """Return the place of the last call that succeeded and matches."""
    found = [
        place
        for place, call in enumerate(calls)
        if re.search(pattern, call) and " = -1 " not in call
    ]
    assert found, f"{pattern} was never called"
    return found[-1]


@pytest.mark.tools("strace")
def test_commit_is_synced_before_it_is_answered(tmp_path: Path) -> None:
    """A power cut after the answer finds the commit: the log was synced before it."""
    command = [sys.executable, "-c", ADMITTING, str(tmp_path / "journal.db")]
    calls = traced(command, dict(os.environ))
    written = last(calls, r"pwrite64\(\d+<\S+-wal>")
    synced = last(calls, r"f(data)?sync\(\d+<\S+-wal>")

    assert written < synced < last(calls, r'write\(1<.*"answered"')


@pytest.mark.tools("strace")
def test_only_a_claim_without_a_grant_is_not_synced(tmp_path: Path) -> None:
    """A claim waits for no disk: what is pinned before a byte is sent syncs it too."""
    command = [sys.executable, "-c", CLAIMING, str(tmp_path / "journal.db")]
    calls = traced(command, dict(os.environ))
    reported = [
        last(calls, rf'write\(1<.*"{word}"')
        for word in ("admitted", "claimed", "pinned", "back", "claimed again")
    ]
    synced = [
        any(re.search(r"f(data)?sync\(\d+<\S+-wal>", call) for call in calls[a:b])
        for a, b in pairwise(reported)
    ]

    assert synced == [False, True, True, True]


@pytest.mark.tools("strace")
def test_copy_is_synced_before_its_source_goes(site: Installation) -> None:
    """A power cut in a move between file systems finds the file in one of them."""
    content = site.drop("pat/a.zip").read_bytes()
    with tempfile.TemporaryDirectory(dir=MEMORY) as elsewhere:
        if Path(elsewhere).stat().st_dev == site.spool.stat().st_dev:
            pytest.skip(f"{MEMORY} is no file system of its own here")
        settings = {
            "EMITTERD_SPOOL_AFTER_DELIVERY": "archive",
            "EMITTERD_SPOOL_ARCHIVE_DIRECTORY": elsewhere,
        }
        calls = traced(site.command("once"), site.environment(**settings))
        (archived,) = Path(elsewhere).rglob("*.zip")

        assert archived.read_bytes() == content
    synced = last(calls, rf"fsync\(\d+<{elsewhere}/\S+\.part>")
    named = last(calls, r"rename\S*\(.*\.part")

    assert synced < named < last(calls, SOURCE_GONE)


def test_without_the_record_nothing_follows(tmp_path: Path) -> None:
    """A delivery that the journal refuses is not logged, and its file stays."""
    with rigged(tmp_path, delete=True) as rig:
        rig.journal.store.write(Execute(REFUSING))
        path = rig.drop("pat/a.zip")
        with pytest.raises(sqlite3.IntegrityError):
            rig.step()

        assert rig.server.objects
        assert rig.logged("file.delivered") == []
        assert path.exists()
