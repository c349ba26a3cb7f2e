"""Workers of several hosts that share a journal and a folder, with real servers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from emitterd.client.emission import EmissionClient
from emitterd.client.ingestion.client import IngestionClient
from emitterd.client.session import Credentials
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import WakeUp
from emitterd.delivery.worker import Worker
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.journal.journal import Journal
from emitterd.journal.postgresql.connection import DatabaseAddress
from emitterd.journal.postgresql.hosts import Timing
from emitterd.journal.postgresql.store import PostgresqlStore
from emitterd.journal.rows import Admission
from emitterd.model import Entry, Fingerprint, State
from emitterd.rehearsal.ingestion import KILLED
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from support.client import emission_to, http_client
from support.waiting import wait_until
from support.worker import SHORT_WAITS
from support.zips import make_zip, zipped

NAME = "pat/exam.zip"
PROGRAM = "diksha_etb_plays-per-capita"
TIMING = Timing(lease_s=2.0, heartbeat_s=0.3, grace_s=0.3)


class Observer:
    """Calls `on_sent` once an upload has sent something."""

    def __init__(self) -> None:
        self.on_sent: Callable[[], None] = lambda: None

    def began(self, entry: Entry) -> None:
        """Ignore it."""

    def sent(self, size_bytes: int) -> None:
        """Call once."""
        del size_bytes
        call, self.on_sent = self.on_sent, lambda: None
        call()

    def ended(self) -> None:
        """Ignore it."""


class Host:
    """One host: its journal, and a worker."""

    def __init__(
        self, name: str, address: DatabaseAddress, root: Path, emission: EmissionClient
    ) -> None:
        self.journal = Journal(PostgresqlStore(address, name, TIMING), 600.0)
        self.observer = Observer()
        spool = Spool(root)
        self.worker = Worker(
            spool,
            self.journal,
            emission,
            Destination(Backoff(0.1, 600.0), workers=4),
            Disposal(spool, self.journal, DisposalRule()),
            wake_up=WakeUp(),
            shutdown=Shutdown(),
            on_changed=lambda _: None,
            observer=self.observer,
            holds_claim=self.journal.holds_claim,
        )

    def step(self) -> float:
        """Do one attempt if one is due."""
        return self.worker.step(self.journal.now())

    def admit(self, root: Path, name: str) -> None:
        """Admit a file."""
        fingerprint = Fingerprint.of((root / name).stat())
        self.journal.admit([Admission(name.encode(), fingerprint, name.partition("/")[0], 0)])

    def row(self, name: str) -> tuple[object, ...]:
        """Return state, key and ambiguous of a file."""
        sql = "select state, key, ambiguous from entry where path = ?"
        return self.journal.read(sql, (name.encode(),))[0]


OpenHost = Callable[[str, RehearsalServer], Host]


@pytest.fixture
def open_host(journal_address: DatabaseAddress, spool_root: Path) -> Iterator[OpenHost]:
    """Return what opens a host of this name, with a client of its own."""
    with ExitStack() as stack:

        def opened(name: str, server: RehearsalServer) -> Host:
            client = stack.enter_context(http_client())
            emission: EmissionClient = emission_to(client, server.url)
            if server.protocol == "ingestion":
                nobody = Credentials(None, str, "Bearer")
                emission = IngestionClient(
                    client, server.url, nobody, shutdown=Shutdown(), waits=SHORT_WAITS
                )
            host = Host(name, journal_address, spool_root, emission)
            stack.callback(host.journal.close)
            return host

        yield opened


def test_a_host_that_is_fenced_in_mid_body_stores_nothing(
    server: RehearsalServer, open_host: OpenHost, spool_root: Path
) -> None:
    """It has its claim no more when it could send the end; another host uploads to the same key.

    Meanwhile it has begun another life, whose lease is no permission for the claims of the former.
    """
    first, second = open_host("a", server), open_host("b", server)
    life = first.journal.store.host
    assert life is not None
    former = life.id
    make_zip(spool_root / NAME, bytes(3 * 1024 * 1024))
    first.admit(spool_root, NAME)

    def lose() -> None:
        end = "update host set ended_at = 2, until_at = 1 where name = 'a' and ended_at is null"
        with second.journal.store._connector.connect() as session:  # type: ignore[attr-defined]
            session.execute(end)
        wait_until(lambda: second.row(NAME)[0] == State.QUEUED, 10, "the claim is taken back")
        wait_until(lambda: life.id != former and life.holds_lease(), 10, "the host is back")

    first.observer.on_sent = lose
    first.step()
    state, key, ambiguous = second.row(NAME)

    assert (state, ambiguous) == (State.QUEUED, True)
    assert not server.objects
    second.step()
    assert second.row(NAME) == (State.DELIVERED, key, True)
    assert [*server.objects] == [key]
    assert server.objects[str(key)].posts == 1


@pytest.fixture
def ingestion(tmp_path: Path) -> Iterator[RehearsalServer]:
    """Run a service of cQube 5, which dies if two uploads of a program overlap."""
    with RehearsalServer(
        tmp_path / "cqube5", protocol="ingestion", process_after_s=0.05, restart_s=0.1
    ) as server:
        yield server


def test_hosts_do_not_upload_one_program_at_the_same_time(
    ingestion: RehearsalServer, open_host: OpenHost, spool_root: Path
) -> None:
    """The service of cQube 5 would die of it: one host makes the upload, the others wait."""
    hosts = [open_host(name, ingestion) for name in "abc"]
    header = b"state_name,state_code,plays_per_capita,latitude,longitude"
    table = header + b"\nKerala,32,1.5,10.85,76.27\n"
    names = [f"folder-{number}/{PROGRAM}.zip" for number in range(9)]
    for name in names:
        path = spool_root / name
        path.parent.mkdir()
        path.write_bytes(zipped({f"{PROGRAM}.csv": table}))
    for name in names:
        hosts[0].admit(spool_root, name)
    barrier, over = threading.Barrier(len(hosts)), threading.Event()

    def work(host: Host) -> None:
        with suppress(threading.BrokenBarrierError):
            while not over.is_set():
                # Together: each sees that no other one is under way.
                barrier.wait(60)
                host.step()

    def delivered() -> int:
        sql = "select count(*) from entry where state = 'delivered'"
        return int(hosts[0].journal.read(sql)[0][0])

    threads = [threading.Thread(target=work, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: delivered() == len(names), 90, "all files are delivered")
    finally:
        over.set()
        barrier.abort()
        for thread in threads:
            thread.join(60)

    assert [ingestion.fired[way] for way in KILLED] == [0] * len(KILLED)
    assert len(ingestion.ingestion.files) == len(names)
