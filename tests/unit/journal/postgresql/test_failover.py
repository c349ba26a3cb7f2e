"""A server that lacks commits which the former one had confirmed: an asynchronous standby."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from emitterd.errors import JournalUnreachable
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.model import State
from support.journal import admission, admit, grant, receipt, take
from support.postgresql import Cluster, need_postgresql
from support.waiting import wait_until

pytestmark = pytest.mark.slow


class Failover:
    """A server of its own, and a copy of its data as a standby that lags."""

    def __init__(self, cluster: Cluster, place: JournalLocation) -> None:
        self.cluster = cluster
        self.place = place
        self._copy = cluster.directory / "standby"

    def copy(self) -> None:
        """Copy the data now: what is committed later is lost by `fail_over`."""
        self.cluster.stop()
        shutil.copytree(self.cluster.data, self._copy, symlinks=True)
        owner = self.cluster.data.stat()
        for path in [self._copy, *self._copy.rglob("*")]:
            shutil.chown(path, owner.st_uid, owner.st_gid)
        self.cluster.start()

    def fail_over(self) -> None:
        """End the server, and start the copy at the same address."""
        self.cluster.stop()
        shutil.rmtree(self.cluster.data)
        self._copy.rename(self.cluster.data)
        self.cluster.start()


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    """Start a server with an empty database."""
    need_postgresql()
    with Cluster() as cluster:
        url = cluster.url(cluster.create())
        yield Failover(cluster, JournalLocation(tmp_path / "journal", url, host="a"))


def rows(journal: Journal) -> list[tuple[object, ...]]:
    """Return the versions in the journal."""
    sql = "select path, state, key, ambiguous, sha256 from entry order by id"
    return journal.read(sql)


def soon(condition: Callable[[], object]) -> None:
    """Wait until something is true of the journal, whose database may not answer yet."""

    def holds() -> object:
        with suppress(JournalUnreachable):
            return condition()
        return False

    wait_until(holds, 30.0, "the journal is as expected")


def back(journal: Journal) -> bool:
    """Tell whether the host has found the other server, and holds a lease there."""
    host = journal.store.host
    return host is not None and host.holds_lease() and journal.store.state.unreachable_since is None


def deliver(journal: Journal) -> None:
    """Deliver one file."""
    entry = take(journal)
    journal.pin(entry, grant())
    journal.deliver(entry, receipt(), duration_s=1.0, dispose=False)


def test_a_lost_receipt_is_restored(failover: Failover) -> None:
    """The file was admitted before, and delivered after what the standby has."""
    with open_journal(failover.place) as journal:
        admit(journal, admission())
        failover.copy()
        soon(lambda: back(journal))
        entry = journal.claim(journal.now())
        assert entry is not None
        journal.pin(entry, grant())
        journal.deliver(entry, receipt(), duration_s=1.0, dispose=False)
        before = rows(journal)
        failover.fail_over()
        soon(lambda: rows(journal) == before)
        assert journal.claim(journal.now()) is None


def test_a_file_of_which_nothing_is_left_is_restored(failover: Failover) -> None:
    """The sweep finds that it is delivered, and does not admit it again."""
    with open_journal(failover.place) as journal:
        failover.copy()
        soon(lambda: back(journal))
        deliver(journal)
        failover.fail_over()
        soon(lambda: journal.counts()[State.DELIVERED] == 1)
        assert admit(journal, admission()) == ["known"]


def test_a_host_that_was_off_restores_its_receipts(failover: Failover) -> None:
    """It finds the loss when it starts."""
    with open_journal(failover.place) as journal:
        failover.copy()
        soon(lambda: back(journal))
        deliver(journal)
    failover.fail_over()
    with open_journal(failover.place) as journal:
        assert journal.counts()[State.DELIVERED] == 1


def test_a_lost_claim_is_worth_nothing(failover: Failover) -> None:
    """What the host had claimed is claimed again, and the former claim changes nothing."""
    with open_journal(failover.place) as journal:
        admit(journal, admission())
        failover.copy()
        soon(lambda: back(journal))
        lost = journal.claim(journal.now())
        assert lost is not None
        failover.fail_over()
        soon(lambda: back(journal) and not journal.holds_claim(lost))
        again = journal.claim(journal.now())
        assert again is not None
        assert again.token != lost.token
        with pytest.raises(Exception, match="another"):
            journal.deliver(lost, receipt(), duration_s=1.0, dispose=False)
        journal.deliver(again, receipt(), duration_s=1.0, dispose=False)
        assert journal.counts()[State.DELIVERED] == 1
