"""Hosts that share a journal: leases, take-over, and the host that sweeps."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from emitterd.errors import HostFenced, JournalUnreachable
from emitterd.journal.journal import Journal
from emitterd.journal.postgresql.connection import Connection, DatabaseAddress
from emitterd.journal.postgresql.hosts import Timing
from emitterd.journal.postgresql.store import PostgresqlStore
from emitterd.model import Entry, State
from support.cutting_proxy import CuttingProxy
from support.journal import PATH, admission, admit, grant, receipt, take
from support.postgresql import Cluster
from support.waiting import wait_until

SOON = Timing(lease_s=1.0, heartbeat_s=0.2, grace_s=0.3)

Join = Callable[[str], Journal]


@pytest.fixture
def line(postgresql: Cluster) -> Iterator[CuttingProxy]:
    """Make the line between host `a` and the database."""
    with CuttingProxy(f"{postgresql.directory}/.s.PGSQL.{postgresql.port}") as proxy:
        yield proxy


@pytest.fixture
def join(postgresql: Cluster, line: CuttingProxy, journal_template: str) -> Iterator[Join]:
    """Return what opens the journal as the host of a name; `a` reaches it by `line`."""
    database = postgresql.create(journal_template)
    urls = {"a": postgresql.tcp_url(database, port=line.port)}
    with ExitStack() as opened:

        def open_as(name: str) -> Journal:
            address = DatabaseAddress(urls.get(name, postgresql.url(database)))
            return opened.enter_context(Journal(PostgresqlStore(address, name, SOON), 60.0))

        yield open_as
    postgresql.drop(database)


@pytest.fixture
def session(postgresql: Cluster, join: Join) -> Iterator[Connection]:
    """Connect as another program does, which may do anything."""
    address = join("session").store.address  # type: ignore[attr-defined]
    connection = postgresql.connect(address.name.partition(" ")[0])
    yield connection
    connection.close()


@contextmanager
def cut(line: CuttingProxy) -> Iterator[None]:
    """Keep host `a` from reaching the database."""
    line.close_all()
    yield
    line.is_open = True


def state_of(journal: Journal, entry: Entry) -> tuple[object, ...]:
    """Return state, ambiguous and host of an entry."""
    rows = journal.read("select state, ambiguous, host from entry where id = ?", (entry.id,))
    return rows[0]


def test_another_host_takes_over_from_a_lost_one(join: Join, line: CuttingProxy) -> None:
    """Once its lease and the grace are over, its claim is queued again, with the pinned grant."""
    first, second = join("a"), join("b")
    entry = take(first)
    first.pin(entry, grant())
    with cut(line):
        wait_until(
            lambda: state_of(second, entry)[0] == State.QUEUED, 10.0, "the hosts are as expected"
        )
        assert not first.holds_claim(entry)
    again = second.claim(second.now())
    assert again is not None
    assert (again.id, again.grant, again.ambiguous) == (entry.id, grant(), True)
    assert second.holds_claim(again)


def test_what_a_fenced_host_offers_counts_for_nothing(join: Join, line: CuttingProxy) -> None:
    """Its delivery is refused, and the host goes on in another life."""
    first, second = join("a"), join("b")
    entry = take(first)
    former = entry.host
    with cut(line):
        wait_until(
            lambda: state_of(second, entry)[0] == State.QUEUED, 10.0, "the hosts are as expected"
        )
    with pytest.raises(HostFenced):
        first.deliver(entry, receipt(), duration_s=1.0, dispose=False)
    wait_until(
        lambda: first.store.host is not None and first.store.host.holds_lease(),
        10.0,
        "the hosts are as expected",
    )
    again = first.claim(first.now())
    assert again is not None
    assert (again.id, again.host) != (entry.id, former)
    assert first.holds_claim(again)
    assert not first.holds_claim(entry)


def test_the_claims_of_a_process_that_died_are_free_after_the_grace(
    join: Join, session: Connection
) -> None:
    """Its system may still be sending the end of a body, also if the process starts again at once.

    That the process is dead ends its life before its lease is over.
    """
    first = join("a")
    entry = take(first)
    session.execute("update host set pid = 4194305, until_at = until_at + 60")
    again = join("a")
    host = again.store.host

    assert host is not None
    assert host.id != entry.host
    assert again.store.reclaimed == 0
    assert state_of(again, entry) == (State.DELIVERING, False, entry.host)
    wait_until(lambda: state_of(again, entry)[0] == State.QUEUED, 10.0, "the claim is taken back")
    ((ended_at, changed_at),) = again.read(
        "select ended_at, changed_at from host, entry where host.id = ?", (entry.host,)
    )
    assert changed_at - ended_at >= SOON.grace_s


def test_without_its_lease_a_host_claims_nothing(join: Join, line: CuttingProxy) -> None:
    """A host that the database does not hear waits."""
    first = join("a")
    admit(first, admission())
    with cut(line):
        host = first.store.host
        assert host is not None
        wait_until(lambda: not host.holds_lease(), 10.0, "the hosts are as expected")
        with pytest.raises(JournalUnreachable):
            first.claim(first.now())
    wait_until(host.holds_lease, 10.0, "the hosts are as expected")
    assert first.claim(first.now()) is not None


def test_one_host_sweeps_until_it_is_lost(join: Join, line: CuttingProxy) -> None:
    """Another one takes the role over, and the former one knows at once that it has lost it."""
    first, second = join("a"), join("b")
    assert first.is_sweeper()
    assert not second.is_sweeper()
    with cut(line):
        wait_until(second.is_sweeper, 10.0, "the hosts are as expected")
        assert not first.is_sweeper()


def test_a_host_that_ends_gives_the_role_to_another(join: Join) -> None:
    """The next heartbeat of any other host finds it."""
    first, second = join("a"), join("b")
    first.close()
    wait_until(second.is_sweeper, 10.0, "the hosts are as expected")


def test_each_file_is_claimed_by_one_host(join: Join) -> None:
    """What one host has claimed no other one gets."""
    hosts = [join(name) for name in ("a", "b", "c")]
    admit(hosts[0], *(admission(b"pat/%d.zip" % number) for number in range(30)))
    claimed = [host.claim(host.now()) for _ in range(10) for host in hosts]
    ids = [entry.id for entry in claimed if entry is not None]
    assert len(ids) == len(set(ids)) == 30
    assert hosts[0].claim(hosts[0].now()) is None


def test_two_hosts_admit_a_file_once(join: Join) -> None:
    """Both saw it appear."""
    first, second = join("a"), join("b")
    assert admit(first, admission()) == ["admitted"]
    assert admit(second, admission()) == ["known"]
    assert admit(second, replace(admission(), path=PATH + b"2")) == ["admitted"]


def test_an_admission_wakes_the_other_hosts(join: Join) -> None:
    """Their workers need not poll."""
    first, second = join("a"), join("b")
    heard: list[None] = []
    second.store.on_work(lambda: heard.append(None))
    before = len(heard)
    admit(first, admission())
    wait_until(lambda: len(heard) > before, 4.0, "the other host heard of it")


def test_one_mark_of_the_folder_for_all_hosts(join: Join) -> None:
    """The first host gives it, and knows that the journal is new."""
    first, second = join("a"), join("b")
    mark, is_new = first.folder_mark()
    assert is_new
    admit(first, admission())
    assert second.folder_mark() == (mark, False)
