"""A journal, the rehearsal server, and a tracker between them; the test runs round by round."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from emitterd.client.http import HttpClient
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint
from emitterd.rehearsal.server import BucketObject, RehearsalServer
from emitterd.shutdown import Shutdown
from emitterd.tracking.policy import TrackingRule
from emitterd.tracking.tracker import ServerTracker
from emitterd.units import DAY_S
from support.client import emission_to, http_client
from support.faults import fault_list
from support.journal import receipt
from support.zips import make_zip, sample, shipped

KEY = "tracking-key"
RULE = TrackingRule(poll_every_s=900.0, give_up_after_s=8 * DAY_S)
READS = ("list_s3_buckets", "list_s3_files", "download_url", "object")
"""The endpoints that tracking uses."""


class TrackingRig:
    """The parts. `events`: what was logged; `dropped`: what the tracker counted."""

    def __init__(
        self, folder: Path, url: str, client: HttpClient, server: RehearsalServer | None
    ) -> None:
        self.url = url
        self.server = server
        self.shutdown = Shutdown()
        self.is_busy = False
        self.rule = RULE
        self.events: list[Any] = []
        self.dropped: list[tuple[bytes, int]] = []
        self._folder = folder
        self._client = client
        self.journal = self._open()

    def _open(self) -> Journal:
        journal = open_journal(self._folder / "state" / "journal.db")
        journal.deliver_to(self.url)
        self.emission = emission_to(self._client, self.url, username=None, secret=KEY)
        self.tracker = ServerTracker(
            journal,
            self.emission.reader,
            shipped().dataset,
            self.shutdown,
            busy=lambda: self.is_busy,
            rule=lambda: self.rule,
        )
        self.tracker.on_processed = lambda *counted: self.dropped.append(counted)
        return journal

    def restart(self) -> None:
        """Begin anew with what is on disk."""
        self.journal.close()
        self.journal = self._open()

    def send(self, path: str, content: bytes = b"") -> str:
        """Deliver a zip, which the server accepts unless there is a content; return its key."""
        file = make_zip(self._folder / "sent" / path, content or sample(path))
        name = path.encode()
        fingerprint = Fingerprint.of(file.stat())
        self.journal.admit([Admission(name, fingerprint, "flow", 0)])
        entry = self.journal.claim(time.time())
        assert entry is not None
        grant = self.emission.grant(name)
        with file.open("rb", buffering=0) as opened:
            proof = self.emission.deliver(grant, opened, fingerprint)
        self.journal.deliver(entry, proof, duration_s=0.1, dispose=False)
        return proof.key

    def pretend(self, path: str, key: str) -> None:
        """Record a delivery under a key without sending anything."""
        self.journal.admit([Admission(path.encode(), Fingerprint(1, 2, 3, 4, 5), "flow", 0)])
        entry = self.journal.claim(time.time())
        assert entry is not None
        self.journal.deliver(entry, replace(receipt(), key=key), duration_s=0.1, dispose=False)

    def fill(self, count: int, folder: str = "aaa") -> None:
        """Put objects into the bucket that nobody takes."""
        assert self.server is not None
        for number in range(count):
            key = f"{folder}/{number:05}.zip"
            self.server.objects[key] = BucketObject(key, self._folder, 1, "0" * 32, 1, 0.0)

    def faults(self, text: str) -> None:
        """Order other faults from the server."""
        assert self.server is not None
        self.server.faults = fault_list(text)

    def look(self, after_s: float = 0.0) -> None:
        """Run one round of the loop as if so many seconds had gone by."""
        self.tracker.try_round(time.time() + after_s)

    def sides(self) -> dict[str, dict[str, Any]]:
        """Return `server_side` of each receipt that has one, by path."""
        with JournalReader(self._folder / "state" / "journal.db") as reader:
            return {
                row["path"]: row["server_side"] for row in reader.receipts() if "server_side" in row
            }

    def states(self) -> list[str]:
        """Return the states of the receipts in the order of delivery."""
        return [side["state"] for side in self.sides().values()]

    def asked(self) -> list[str]:
        """Return the endpoints that tracking asked since the last call."""
        assert self.server is not None
        asked = [request.endpoint for request in self.server.requests if request.endpoint in READS]
        self.server.requests.clear()
        return asked

    def logged(self, event: str) -> list[Any]:
        """Return what was logged under a name."""
        return [item for item in self.events if item["event"] == event]


@contextmanager
def tracking(folder: Path) -> Iterator[TrackingRig]:
    """Open a rig with a rehearsal server that processes on request."""
    with (
        RehearsalServer(folder / "server", api_key=KEY) as server,
        http_client() as client,
        tracking_at(folder, server.url, client, server) as rig,
    ):
        yield rig


@contextmanager
def tracking_at(
    folder: Path, url: str, client: HttpClient, server: RehearsalServer | None = None
) -> Iterator[TrackingRig]:
    """Open a rig with the server at `url`."""
    with capture_logs() as events:
        rig = TrackingRig(folder, url, client, server)
        rig.events = events
        try:
            yield rig
        finally:
            rig.journal.close()
