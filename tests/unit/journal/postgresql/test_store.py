"""The store in PostgreSQL: several hosts, lost connections, and what is committed once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from emitterd.codes import Code
from emitterd.errors import HostFenced, JournalBusy, JournalLocked, JournalUnreachable, KeyTaken
from emitterd.journal.journal import Journal
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.postgresql.connection import Connection, DatabaseAddress
from emitterd.journal.postgresql.store import PostgresqlStore
from emitterd.journal.work import Execute
from emitterd.model import ClaimOrder, Entry, State
from emitterd.shutdown import Shutdown
from support.cutting_proxy import Cut, CuttingProxy
from support.journal import BROKE, NOW, admission, admit, counted, deliver, grant, row, take
from support.postgresql import Cluster
from support.waiting import wait_until

DEADLINE_S = 60.0

OpenHost = Callable[..., Journal]


@pytest.fixture
def open_host(journal_address: DatabaseAddress) -> Iterator[OpenHost]:
    """Return what opens the journal as a host; all are closed at the end."""
    with ExitStack() as stack:

        def opened(name: str, address: DatabaseAddress = journal_address) -> Journal:
            journal = Journal(PostgresqlStore(address, name), 600.0)
            stack.callback(journal.close)
            return journal

        yield opened


@pytest.fixture
def host(open_host: OpenHost) -> Journal:
    """Open an empty journal as host `a`."""
    return open_host("a")


@pytest.fixture
def proxy(postgresql: Cluster) -> Iterator[CuttingProxy]:
    """Start a proxy before the server."""
    with CuttingProxy(f"{postgresql.directory}/.s.PGSQL.{postgresql.port}") as proxy:
        yield proxy


@pytest.fixture
def behind(
    proxy: CuttingProxy, postgresql: Cluster, journal_address: DatabaseAddress, open_host: OpenHost
) -> Journal:
    """Open the journal as host `behind`, through the proxy."""
    database = journal_address.name.partition(" ")[0]
    return open_host("behind", DatabaseAddress(postgresql.tcp_url(database, port=proxy.port)))


@pytest.fixture
def session(postgresql: Cluster, journal_address: DatabaseAddress) -> Iterator[Connection]:
    """Connect as another program does, which may do anything."""
    connection = postgresql.connect(journal_address.name.partition(" ")[0])
    yield connection
    connection.close()


def store_of(journal: Journal) -> PostgresqlStore:
    """Return the store of a journal."""
    assert isinstance(journal.store, PostgresqlStore)
    return journal.store


def end_host(session: Connection, journal: Journal) -> None:
    """End a host, and take back what it held, as another host does after its lease."""
    session.execute("update host set ended_at = 1 where id = %s", (store_of(journal).host.id,))
    session.execute(
        """update entry set state = 'queued', token = token + 1, host = null
        where state = 'delivering' and host = %s""",
        (store_of(journal).host.id,),
    )


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Start work in a thread of its own."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_hosts_deliver_each_file_once(open_host: OpenHost) -> None:
    """Three hosts with four workers each claim, pin and deliver every file exactly once."""
    hosts = [open_host(name) for name in "abc"]
    paths = [b"pat/%03d.zip" % number for number in range(300)]
    admit(hosts[0], *map(admission, paths))
    sent: list[bytes] = []

    def work(journal: Journal) -> None:
        while (entry := journal.claim(NOW)) is not None:
            journal.pin(entry, grant(f"key-{entry.id}"))
            deliver(journal, entry)
            sent.append(entry.path)

    for thread in [in_thread(partial(work, hosts[number % 3])) for number in range(12)]:
        thread.join(DEADLINE_S)

    assert sorted(sent) == paths
    assert hosts[0].counts() == counted(hosts[0])
    assert hosts[0].counts()[State.DELIVERED] == len(paths)
    assert len(hosts[0].read("select distinct host from entry")) == 3


@pytest.mark.parametrize("cut", Cut)
def test_a_commit_whose_connection_is_lost_is_done_once(
    cut: Cut, behind: Journal, proxy: CuttingProxy
) -> None:
    """Whether the server got the commit or not, each change is made exactly once."""
    entry = take(behind)
    behind.defer(entry, BROKE, NOW, charge=True)
    proxy.lose(cut)
    behind.uncharge([entry.id, entry.id])
    assert proxy.has_lost()
    assert row(behind, entry.id, "attempts") == (0,)

    proxy.lose(cut)
    again = behind.claim(NOW)
    assert proxy.has_lost()
    assert again is not None
    proxy.lose(cut)
    behind.defer(again, BROKE, NOW, charge=True)
    assert proxy.has_lost()
    assert row(behind, entry.id, "attempts, state, token") == (1, "deferred", again.token + 1)


@pytest.mark.parametrize("cut", Cut)
def test_an_outcome_waits_for_the_database(cut: Cut, behind: Journal, proxy: CuttingProxy) -> None:
    """A delivery that meets an outage is recorded when the database is back, and once."""
    entry = take(behind)
    proxy.lose(cut, closes=True)
    delivery = in_thread(partial(deliver, behind, entry))
    wait_until(
        lambda: behind.store.state.unreachable_since, DEADLINE_S, "the database is unreachable"
    )
    with pytest.raises(JournalUnreachable):
        behind.claim(NOW)
    assert delivery.is_alive()

    proxy.is_open = True
    delivery.join(DEADLINE_S)

    assert not delivery.is_alive()
    assert row(behind, entry.id, "state, token") == ("delivered", entry.token + 1)
    assert behind.store.state.unreachable_since is None


def test_a_claim_that_nobody_got_goes_back(behind: Journal, proxy: CuttingProxy) -> None:
    """A claim that was committed, whose worker was told of an outage, does not stay claimed."""
    admit(behind, admission())
    proxy.lose(Cut.AFTER, closes=True)
    with pytest.raises(JournalUnreachable):
        behind.claim(NOW)
    assert proxy.has_lost()
    proxy.is_open = True

    entry = wait_until(lambda: claimed(behind), DEADLINE_S, "the entry can be claimed")

    assert row(behind, entry.id, "attempts, ambiguous") == (0, False)


def claimed(journal: Journal) -> Entry | None:
    """Claim an entry, if the database can be reached."""
    try:
        return journal.claim(NOW)
    except JournalUnreachable:
        return None


def test_a_server_that_is_restarted_is_no_outage(host: Journal, session: Connection) -> None:
    """Connections that the server has ended are replaced without an error."""
    admit(host, admission())
    listening = "select 1 from pg_stat_activity where query like 'listen%' and state = 'idle'"
    wait_until(lambda: host.read(listening), DEADLINE_S, "the host listens")
    session.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    assert host.counts()[State.QUEUED] == 1
    assert host.claim(NOW) is not None
    assert host.store.state.unreachable_since is None


def test_a_host_that_was_ended_goes_on_as_another_one(host: Journal, session: Connection) -> None:
    """Its claims are lost to it, and only these: nothing that it says of them is recorded."""
    entry = take(host)
    former = store_of(host).host.id
    end_host(session, host)

    with pytest.raises(HostFenced):
        deliver(host, entry)
    with pytest.raises(HostFenced):
        host.pin(entry, grant())

    assert store_of(host).host.id != former
    again = host.claim(NOW)
    assert again is not None
    assert again.id == entry.id
    assert again.token >= entry.token + 2
    deliver(host, again)


def test_one_living_host_has_a_name(
    host: Journal, open_host: OpenHost, session: Connection
) -> None:
    """Another process of the same name is refused until the lease is over."""
    session.execute("update host set boot_id = 'another machine'")
    with pytest.raises(JournalLocked, match="as host a"):
        open_host("a")
    entry = take(host)
    session.execute("update host set until_at = 1")

    later = open_host("a")

    assert later.store.reclaimed == 1
    assert row(later, entry.id, "state, host") == ("queued", None)


def test_a_key_belongs_to_one_file(open_host: OpenHost) -> None:
    """Of two hosts that get one key within a second, one has to ask again."""
    hosts = [open_host("a"), open_host("b")]
    admit(hosts[0], admission(b"pat/1"), admission(b"pat/2"))
    first, second = (host.claim(NOW) for host in hosts)
    assert first is not None
    assert second is not None
    hosts[0].pin(first, grant("key"))

    with pytest.raises(KeyTaken):
        hosts[1].pin(second, grant("key"))

    hosts[1].pin(second, grant("other"))


def test_one_refused_pin_of_a_batch_concerns_its_worker_only(
    host: Journal, session: Connection
) -> None:
    """Work of one kind is one statement, and yet each is refused alone."""
    admit(host, *(admission(b"pat/%d" % number) for number in range(6)))
    entries = [host.claim(NOW) for _ in range(6)]
    taken: list[object] = []

    def pin(entry: Entry | None) -> None:
        assert entry is not None
        try:
            # The entries 1 and 2 get one key.
            host.pin(entry, grant(f"key-{max(entry.id, 2)}"))
        except KeyTaken:
            taken.append(entry)

    with session.transaction():
        # All pins wait for one batch: the first commit waits for this lock.
        session.execute("select 1 from host for update")
        threads = [in_thread(partial(pin, entry)) for entry in entries]
        wait_until(lambda: len(store_of(host)._group._queue) == 5, DEADLINE_S, "a batch of five")
    for thread in threads:
        thread.join(DEADLINE_S)

    assert len(taken) == 1
    keys = host.read("select key from entry where key is not null order by key")
    assert [key for (key,) in keys] == [f"key-{number}" for number in range(2, 7)]


def test_a_lock_of_another_session_is_busy_and_passes(host: Journal, session: Connection) -> None:
    """The journal waits a while for a lock, and says that another program holds it."""
    take(host)
    connection = store_of(host)._connection
    assert connection is not None
    connection.execute("set lock_timeout = '200ms'")
    with session.transaction():
        session.execute("lock table entry")
        with pytest.raises(JournalBusy):
            host.admit([admission(b"other")])
        assert host.store.state.busy_since is not None
    admit(host, admission(b"other"))
    assert host.store.state.busy_since is None


def test_deadlocked_batches_are_tried_again(host: Journal, session: Connection) -> None:
    """The victim of a deadlock is the batch, and it is done in the end."""
    first, second = take(host, path=b"pat/1"), take(host, path=b"pat/2")
    # So the batch is the one that notices.
    session.execute("set deadlock_timeout = '1min'")
    set_attempts = "update entry set attempts = 7 where id = ?"
    session.execute("begin")
    session.execute("update entry set attempts = 1 where id = %s", (second.id,))
    change = Execute(set_attempts, [(first.id,), (second.id,)])
    batch = in_thread(lambda: host.store.write(change))
    waits = "select 1 from pg_stat_activity where wait_event = 'transactionid'"
    wait_until(lambda: host.read(waits), DEADLINE_S, "the batch waits for the session")
    session.execute("update entry set attempts = 1 where id = %s", (first.id,))
    session.execute("commit")
    batch.join(DEADLINE_S)

    attempts = host.read("select attempts from entry order by id")
    assert attempts == [(7,), (7,)]


def test_other_hosts_hear_of_files_at_once(open_host: OpenHost) -> None:
    """An admission wakes the workers of all hosts."""
    admitting, waiting = open_host("a"), open_host("b")
    heard = threading.Event()
    store_of(waiting).on_work(heard.set)
    # The first call may be that of the beginning.
    heard.clear()
    admit(admitting, admission())

    assert heard.wait(DEADLINE_S)


def test_a_file_that_came_back_is_found_below_the_floor(open_host: OpenHost) -> None:
    """An entry of an earlier turn that another host gives back is claimed soon."""
    hosts = [open_host("a"), open_host("b")]
    admit(hosts[0], *(admission(b"a/%03d" % n, flow="a") for n in range(100)))
    early = hosts[1].claim(NOW)
    assert early is not None
    for _ in range(70):
        assert hosts[0].claim(NOW) is not None
    hosts[1].interrupt(early)

    found = wait_until(
        lambda: next((e for e in [hosts[0].claim(NOW)] if e and e.id == early.id), None),
        DEADLINE_S,
        "the entry is claimed",
    )
    assert found.token >= early.token + 2


def test_hosts_share_the_turns_of_the_queue(open_host: OpenHost) -> None:
    """Whichever host admits, a backlog of a flow does not go before a newcomer."""
    hosts = [open_host("a"), open_host("b")]
    for host in hosts:
        admit(host, *(admission(b"%d/%03d" % (id(host), n), flow="a") for n in range(40)))
    turns = hosts[0].read("select turn, count(*) from entry group by turn order by turn")
    assert turns == [(0, 32), (1, 32), (2, 16)]
    for _ in range(70):
        assert hosts[0].claim(NOW) is not None

    # The other host has claimed up to turn 2. Its turn is known with its next commit.
    hosts[0].claim(NOW)
    admit(hosts[1], admission(b"c/1", flow="c"))
    assert hosts[1].read("select turn from entry where flow = 'c'") == [(2,)]


@pytest.mark.parametrize("want", ClaimOrder)
def test_no_two_hosts_claim_one_file(want: ClaimOrder, open_host: OpenHost) -> None:
    """Two hosts that claim at the same moment get two files, in any order of claims."""
    hosts = [open_host("a"), open_host("b")]
    admit(hosts[0], *(admission(b"pat/%02d" % number) for number in range(40)))
    got: list[int] = []

    def claim_all(journal: Journal) -> None:
        while (entry := journal.claim(NOW, want)) is not None:
            got.append(entry.id)

    for thread in [in_thread(partial(claim_all, host)) for host in hosts]:
        thread.join(DEADLINE_S)
    # A claim that met another one may have come back with nothing.
    claim_all(hosts[0])

    assert sorted(got) == sorted(set(got))
    assert len(got) == 40


def test_an_operator_command_of_any_host_is_of_all(open_host: OpenHost) -> None:
    """A file is held on one host, and no other one claims it."""
    hosts = [open_host("a"), open_host("b")]
    admit(hosts[0], admission())
    path = admission().path
    request = OperationRequest(Operation.HOLD, (path,))
    report = Operations(hosts[1].store, Shutdown()).apply(request, "asha", lambda _: None)

    assert report.done == 1
    assert hosts[0].claim(NOW) is None


def test_the_clock_is_the_database_s(host: Journal, session: Connection) -> None:
    """Instants are the server's, within what a round trip takes."""
    before = time.monotonic()
    ((at,),) = session.execute(
        "select extract(epoch from clock_timestamp())::double precision"
    ).fetchall()
    assert abs(host.now() - at) <= 0.05 + (time.monotonic() - before)


def test_a_clean_end_is_on_record(open_host: OpenHost, session: Connection) -> None:
    """The row of a host that was stopped says when."""
    journal = Journal(PostgresqlStore(store_of(open_host("a")).address, "b"), 600.0)
    journal.close()
    rows = session.execute("select name from host where ended_at is not null").fetchall()
    assert rows == [("b",)]


def test_counts_are_right_after_any_mixture(open_host: OpenHost) -> None:
    """Counts of states are sums over the hosts, whoever changed what."""
    hosts = [open_host("a"), open_host("b")]
    admit(hosts[0], *(admission(b"pat/%d" % number) for number in range(9)))
    for number in range(6):
        entry = hosts[number % 2].claim(NOW)
        assert entry is not None
        match number % 3:
            case 0:
                deliver(hosts[number % 2], entry)
            case 1:
                hosts[number % 2].reject(entry, BROKE)
            case _:
                hosts[number % 2].defer(entry, BROKE, NOW + 60, charge=True)
    hosts[1].make_due([Code(BROKE.code)])
    hosts[1].withdraw_waiting("examined again")

    assert hosts[0].counts() == counted(hosts[0])
    sizes = "select coalesce(sum(bytes), 0) from {}"
    assert hosts[0].read(sizes.format("tally")) == hosts[0].read(sizes.format("entry"))
