"""A worker with a real folder, journal and server; the test runs one step at a time."""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from emitterd.client.emission import EmissionClient  # noqa: TC001
from emitterd.client.http import HttpClient, tls_context
from emitterd.client.ingestion.client import IngestionClient, Waits
from emitterd.client.presigned.client import PresignedClient
from emitterd.client.session import Credentials
from emitterd.client.sockets import TransferLimits
from emitterd.delivery.attempt import HoldsClaim
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.circuit_breaker import STREAK
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import WakeUp
from emitterd.delivery.worker import Worker
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.journal.opening import open_journal
from emitterd.journal.rows import Admission, Admitted
from emitterd.model import Entry, Fingerprint, Grant, State, WireProtocol
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from emitterd.text import display
from support.client import PATIENT, PLAIN_TLS, Identity, http_client
from support.faults import fault_list
from support.zips import make_zip

INITIAL_S = 8.0
LATER_S = 3000.0
"""Beyond every due time, within what the journal takes for a clock set back."""

SHORT_WAITS = Waits(first_s=0.01, longest_s=0.05, final_s=0.3, absent_s=0.3, abandoned_s=2.0)
"""How long the client of cQube 5 waits for the service in tests."""

COLUMNS = (
    "state, error, reason, attempts, due_at, key, earlier_keys, ambiguous, sha256, md5,"
    ' bytes, etag, verified, disposal, confirmation, "grant" is not null as pinned'
)


class Poisonable(PresignedClient):
    """An emission client that fails with some files only."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **named)
        self.poison: dict[bytes, Exception] = {}

    def grant(self, path: bytes) -> Grant:
        """Ask for a grant, or fail as ordered."""
        poison = self.poison.get(path)
        if poison is not None:
            raise poison
        return super().grant(path)


class Watcher:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def began(self, entry: Entry) -> None:
        """Keep the beginning."""
        self.seen.append(("began", entry.id))

    def sent(self, size_bytes: int) -> None:
        """Keep the progress."""
        self.seen.append(("sent", size_bytes))

    def ended(self) -> None:
        """Keep the end."""
        self.seen.append(("ended", 0))


class Rig:
    """Folder, journal, server and worker. `events` is what was logged so far."""

    def __init__(  # noqa: PLR0913  what `rigged` opened, and the rules
        self,
        directory: Path,
        server: RehearsalServer,
        client: HttpClient,
        events: list[Any],
        shutdown: Shutdown,
        *,
        backoff: Backoff,
        workers: int | None = STREAK,
        delete: bool = False,
        waits: Waits = SHORT_WAITS,
    ) -> None:
        self.server = server
        self._waits = waits
        self.events = events
        self.changed: list[bytes] = []
        self.watcher = Watcher()
        self.wake_up = WakeUp()
        self.shutdown = shutdown
        self.root = directory / "cqube_emission"
        self.root.mkdir(exist_ok=True)
        self.spool = Spool(self.root)
        self.journal = open_journal(directory / "state" / "journal.db")
        self.destination = Destination(backoff, workers=workers)
        self._client = client
        self._backoff = backoff
        self._disposal = Disposal(self.spool, self.journal, DisposalRule(delete=delete))
        self.send_to(server.url)

    def send_to(self, url: str) -> None:
        """Have files sent to the API at `url`, with a login of its own."""
        self.emission = Poisonable(
            self._client,
            url,
            Credentials("emission", lambda: "rehearsal", "Bearer"),
            insecure=False,
            shutdown=self.shutdown,
        )
        self._sender: EmissionClient = self.emission
        if self.server.protocol == "ingestion":
            nobody = Credentials(None, str, "Bearer")
            self._sender = IngestionClient(
                self._client, url, nobody, shutdown=self.shutdown, waits=self._waits
            )
        self.worker = self.another_worker()

    def limit(self, limits: TransferLimits) -> None:
        """Bound the requests from now on by these limits."""
        self._client.apply_settings(limits, None)

    def another_worker(self, holds_claim: HoldsClaim | None = None) -> Worker:
        """Return one more worker on the same parts."""
        return Worker(
            self.spool,
            self.journal,
            self._sender,
            self.destination,
            self._disposal,
            wake_up=self.wake_up,
            shutdown=self.shutdown,
            on_changed=self.changed.append,
            observer=self.watcher,
            holds_claim=holds_claim,
        )

    def faults(self, text: str) -> None:
        """Order other faults from the server."""
        self.server.faults = fault_list(text)

    def drop(self, name: str, content: bytes = b"", rank: int = 0) -> Path:
        """Write a zip and admit it."""
        path = make_zip(self.root / name, content or name.encode())
        self.admit(name, rank)
        return path

    def admit(self, name: str, rank: int = 0) -> Admitted:
        """Admit a file as it is now."""
        stat = (self.root / name).stat()
        admission = Admission(name.encode(), Fingerprint.of(stat), "pat", rank)
        return self.journal.admit([admission])[0]

    def step(self) -> float:
        """Take one turn now."""
        return self.worker.step(time.time())

    def later(self) -> float:
        """Take one turn when everything deferred and every probe is due."""
        return self.worker.step(time.time() + LATER_S)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return all versions of a path, the oldest first."""
        names = [column.split()[-1] for column in COLUMNS.split(", ")]
        rows = self.journal.read(
            f"select {COLUMNS} from entry where path = ? order by id",  # noqa: S608
            (name.encode(),),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def row(self, name: str) -> dict[str, Any]:
        """Return the only version of a path."""
        [row] = self.rows(name)
        return row

    def state(self, name: str) -> State:
        """Return the state of the latest version of a path."""
        return State(self.rows(name)[-1]["state"])

    def fact(self, name: str) -> str | None:
        """Return a fact that the journal keeps, as JSON."""
        rows = self.journal.read("select value from fact where name = ?", (name,))
        return rows[0][0] if rows else None

    def logged(self, event: str, name: str | None = None) -> list[Any]:
        """Return the log lines of an event, of one path where `name` is given."""
        return [
            item
            for item in self.events
            if item["event"] == event
            and (name is None or item.get("path") == display(name.encode()))
        ]

    def reached(self, endpoint: str) -> int:
        """Return how many requests an endpoint got."""
        return sum(request.endpoint == endpoint for request in list(self.server.requests))


@contextmanager
def rigged(  # noqa: PLR0913  all by keyword, and each of its own kind
    directory: Path,
    *,
    protocol: WireProtocol = "emission",
    process_after_s: float | None = None,
    port: int = 0,
    grant_lifetime_s: float = 3600,
    identity: Identity | None = None,
    trusted: Identity | None = None,
    limits: TransferLimits = PATIENT,
    backoff: Backoff | None = None,
    workers: int | None = STREAK,
    delete: bool = False,
    waits: Waits = SHORT_WAITS,
    idle_s: float = 3600.0,
) -> Iterator[Rig]:
    """Set up a rig; called again on the same directory it is a restart.

    `identity`: what the server shows, over https; `trusted`: what the client trusts. `idle_s`:
    after how long a connection counts as idle. On a busy machine each would.
    """
    # The longest delay every time: nothing is due before a test says so.
    rule = backoff or Backoff(INITIAL_S, 600.0, uniform=lambda _, high: high)
    shutdown = Shutdown()
    with (
        RehearsalServer(
            directory / "server",
            protocol=protocol,
            process_after_s=process_after_s,
            restart_s=0.2,
            port=port,
            grant_lifetime_s=grant_lifetime_s,
            tls=identity.server_context() if identity else None,
        ) as server,
        http_client(limits, tls=_trusting(trusted), shutdown=shutdown) as client,
        patch("emitterd.client.sockets.IDLE_S", idle_s),
        capture_logs() as events,
    ):
        rig = Rig(
            directory,
            server,
            client,
            events,
            shutdown,
            backoff=rule,
            workers=workers,
            delete=delete,
            waits=waits,
        )
        try:
            yield rig
        finally:
            rig.journal.close()


def _trusting(identity: Identity | None) -> ssl.SSLContext:
    return tls_context(identity.certificate, None, None) if identity else PLAIN_TLS
