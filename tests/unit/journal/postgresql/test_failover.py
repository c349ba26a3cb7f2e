"""A server that lacks commits which the former one had confirmed: an asynchronous standby."""

import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from emitterd.errors import JournalUnreachable
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.model import Entry, State
from support.journal import BROKE, admission, admit, grant, receipt, take
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


def other(place: JournalLocation) -> JournalLocation:
    """Return the journal as another host opens it."""
    return replace(place, path=place.path.with_name("other"), host="b")


def claim(journal: Journal) -> Entry:
    """Claim the next file; the claim of a life that has ended is free after the grace."""
    claimed: list[Entry] = []

    def one() -> bool:
        entry = journal.claim(journal.now())
        claimed.extend([entry] if entry is not None else [])
        return bool(claimed)

    soon(one)
    return claimed[0]


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


def test_a_lost_delivery_of_a_known_claim_is_restored(failover: Failover) -> None:
    """The standby has the claim and the grant: no other attempt is made of them."""
    with open_journal(failover.place) as journal:
        entry = take(journal)
        journal.pin(entry, grant())
        failover.copy()
        soon(lambda: back(journal))
        journal.deliver(entry, receipt(), duration_s=1.0, dispose=False)
        before = rows(journal)
        failover.fail_over()
        soon(lambda: rows(journal) == before)


def test_a_lost_delivery_of_a_later_version_is_restored(failover: Failover) -> None:
    """The standby has only the version before: the later one is not sent again."""
    with open_journal(failover.place) as journal:
        first = take(journal)
        journal.pin(first, grant("key-0"))
        journal.deliver(first, receipt(key="key-0"), duration_s=1.0, dispose=False)
        failover.copy()
        soon(lambda: back(journal))
        second = take(journal, version=2)
        journal.pin(second, grant())
        journal.deliver(second, receipt(), duration_s=1.0, dispose=False)
        failover.fail_over()
        soon(lambda: journal.counts()[State.DELIVERED] == 2)
        assert admit(journal, admission(version=2)) == ["known"]


def test_a_lost_delivery_leaves_a_later_version_alone(failover: Failover) -> None:
    """Another host has admitted it on the new server: it is sent."""
    with open_journal(failover.place) as journal:
        failover.copy()
        soon(lambda: back(journal))
        deliver(journal)
    failover.fail_over()
    with open_journal(other(failover.place)) as journal:
        admit(journal, admission(version=2))
        with open_journal(failover.place):
            counts = journal.counts()
            assert (counts[State.QUEUED], counts[State.DELIVERED]) == (1, 0)


@pytest.mark.parametrize("kept", ["nothing", "admission", "claim"])
def test_a_lost_pin_is_restored(failover: Failover, kept: str) -> None:
    """An object may exist: the next attempt has the same grant, as after a crash."""
    with open_journal(failover.place) as journal:
        entry = None
        if kept != "nothing":
            admit(journal, admission())
        if kept == "claim":
            entry = claim(journal)
        failover.copy()
        soon(lambda: back(journal))
        if kept == "nothing":
            admit(journal, admission())
        pinned = entry or claim(journal)
        journal.pin(pinned, grant())
        failover.fail_over()
        soon(lambda: back(journal) and not journal.holds_claim(pinned))
        again = claim(journal)
        assert (again.path, again.grant, again.ambiguous) == (pinned.path, grant(), True)


def test_a_host_that_was_off_restores_its_pins(failover: Failover) -> None:
    """They are in a file that only its owner can read: a grant is a secret."""
    with open_journal(failover.place) as journal:
        admit(journal, admission())
        failover.copy()
        soon(lambda: back(journal))
        journal.pin(claim(journal), grant())
    tail = failover.place.path.with_name("journal.tail")
    assert stat.S_IMODE(tail.stat().st_mode) == 0o600
    failover.fail_over()
    with open_journal(failover.place) as journal:
        assert claim(journal).grant == grant()


def test_a_lost_pin_is_noted_where_another_host_sends_the_file(failover: Failover) -> None:
    """The grant of the other host stays; the receipt will name both keys."""
    with open_journal(failover.place) as journal:
        admit(journal, admission())
        failover.copy()
        soon(lambda: back(journal))
        journal.pin(claim(journal), grant())
    failover.fail_over()
    with open_journal(other(failover.place)) as journal:
        journal.pin(claim(journal), grant("key-2"))
        with open_journal(failover.place):
            keys = journal.read("select state, key, earlier_keys, ambiguous from entry")
            assert keys == [("delivering", "key-2", "key-1", True)]


def test_a_pin_that_is_not_lost_is_not_restored(failover: Failover) -> None:
    """Another host has pinned a later grant since; a start is no failover."""
    with open_journal(failover.place) as journal:
        entry = take(journal)
        journal.pin(entry, grant())
        journal.interrupt(entry)
    with open_journal(other(failover.place)) as journal:
        entry = claim(journal)
        journal.pin(entry, grant("key-2"))
        journal.defer(entry, BROKE, journal.now(), charge=False)
        with open_journal(failover.place):
            keys = journal.read("select state, key, earlier_keys, ambiguous from entry")
            assert keys == [("deferred", "key-2", None, False)]


def test_a_record_that_contradicts_the_database_keeps_no_host_off(failover: Failover) -> None:
    """The new server knows its key under another path."""
    with open_journal(failover.place) as journal:
        failover.copy()
        soon(lambda: back(journal))
        journal.pin(take(journal), grant())
    failover.fail_over()
    with open_journal(other(failover.place)) as journal:
        journal.pin(take(journal, path=b"pat/other.zip"), grant())
        with open_journal(failover.place):
            assert journal.read("select path from entry") == [(b"pat/other.zip",)]
