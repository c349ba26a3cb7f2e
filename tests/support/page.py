"""What the tests of the page share: a page over a real journal."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlencode

from starlette.responses import StreamingResponse

from emitterd.codes import Code
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import finding
from emitterd.datasets.inspection import InspectionSettings, Inspector
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import Decision, DeliveryError
from emitterd.intake.file_status import FileStatusReader
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation
from emitterd.journal.operations import Operations
from emitterd.journal.rows import Admission, Known
from emitterd.journal.work import Execute
from emitterd.model import Entry, Fingerprint, Grant, Receipt
from emitterd.monitoring.alarms import Health
from emitterd.monitoring.arrivals import Expectation
from emitterd.monitoring.uploads import UploadTracker
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection
from emitterd.web.access.sessions import Address
from emitterd.web.access.users import UsersFile
from emitterd.web.http_server import Handler, Request, Response
from emitterd.web.site import Sources, routes

HOSTILE = b"pat/<script>alert(1)</script>\xe2\x80\xae\x1b[31m\xff\"'&.zip"
"""Markup, a right-to-left override, a terminal's colour, no UTF-8, and quotes."""


@dataclass
class Answered:
    """One answer of the page."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def document(self) -> "Document":
        """The answer, parsed."""
        return Document.of(self.text)


@dataclass
class Desk:
    """A page, and the journal behind it; what the daemon knows may be set."""

    root: Path
    journal: Journal
    place: Path
    uploads: UploadTracker = field(default_factory=UploadTracker)
    health: Health = field(default_factory=Health)
    outage: OpenCircuit | None = None
    expectations: tuple[Expectation, ...] = ()
    operators: Path | None = None
    inspector: Callable[[], Inspector] = lambda: Inspector(
        load_catalogue(None), InspectionSettings()
    )
    address: Address = field(default_factory=lambda: Address(local=True))

    def __post_init__(self) -> None:
        operations = Operations(self.journal.store, Shutdown())
        sources = Sources(
            journal=JournalLocation(self.place),
            uploads=self.uploads,
            status_reader=self.status_reader,
            datasets=lambda: [dataset.title for dataset in load_catalogue().datasets],
            expectations=lambda: self.expectations,
            health=lambda: self.health,
            outage=lambda: self.outage,
            host=lambda: "cqube.example.org",
            ready=lambda: True,
            scrape=lambda _: (b"", "text/plain"),
            enforces=lambda: True,
            users=UsersFile(lambda: self.operators),
            address=self.address,
            inspector=self.inspector,
            server=lambda: "https://cqube.example.org/data",
            apply=lambda request, user: operations.apply(request, user, lambda _: None),
        )
        self.routes = routes(sources)
        self._handlers = {
            route.path: route.handler for route in self.routes if "GET" in route.methods
        }

    @property
    def paths(self) -> set[str]:
        """Return the paths that can be read."""
        return set(self._handlers)

    def status_reader(self, latest: Callable[[bytes], Known | None]) -> FileStatusReader:
        """Return the reader of file status."""
        return FileStatusReader(Spool(self.root), Selection(["**/*.zip"], []), latest, 5.0)

    def ask(self, path: str = "/", **headers: str) -> Answered:
        """Get a path with its query."""
        response = self.respond(path, **headers)
        streams = isinstance(response, StreamingResponse)
        body = b"".join(asyncio.run(_read(response))) if streams else bytes(response.body)
        return Answered(response.status_code, dict(response.headers), body.decode())

    def respond(self, path: str, **headers: str) -> Response:
        """Get a path with its query; a download is not read yet."""
        address, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": "GET",
            "path": address,
            "raw_path": address.encode(),
            "query_string": query.encode("latin-1"),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
            "state": {"run": _run},
        }
        handler = self._handlers.get(address, self._handlers["/{path:path}"])
        return cast("Handler", handler)(Request(scope))

    def chunks(self, path: str) -> list[bytes]:
        """Get a download; return its chunks."""
        return asyncio.run(_read(self.respond(path)))

    def explain(self, text: str | bytes) -> Answered:
        """Ask what became of a file."""
        return self.ask(f"/explain?{urlencode({'path': text})}")

    def age(self, path: bytes, age_s: float) -> None:
        """Have a file, and the record of its dataset, be older."""
        sql = "update entry set admitted_at = admitted_at - ? where path = ?"
        self.journal.store.write(Execute(sql, [(age_s, path)]))

    @staticmethod
    def day(days: int) -> str:
        """Return the date so many days from now."""
        return str((datetime.now(UTC).astimezone() + timedelta(days=days)).date())

    def admit(self, path: bytes, size_bytes: int = 1000, number: int = 1) -> None:
        """Enter a complete file."""
        self.journal.admit([admission(path, size_bytes, number)])

    def reject(self, path: bytes, number: int = 1) -> None:
        """Admit a file that is rejected at once, with its findings."""
        item = admission(path, 1000, number)
        trouble = DeliveryError(Decision.REJECT, Code.CATALOGUE, "breaks the dataset schema")
        findings = (finding(Code.WRONG_HEADER, "school_id | <b>name", "id | \x1b[1m"),)
        self.journal.admit([Admission(path, item.fingerprint, "pat", 0, trouble, findings)])

    def claim(self) -> Entry:
        """Take the next file that is due."""
        entry = self.journal.claim(time.time())
        assert entry is not None
        return entry

    def defer(self, code: Code, reason: str, due_s: float = 60.0) -> None:
        """Have an attempt fail."""
        trouble = DeliveryError(Decision.DEFER, code, reason)
        self.journal.defer(self.claim(), trouble, time.time() + due_s, charge=True)

    def deliver(self) -> None:
        """Deliver the next file that is due."""
        entry = self.claim()
        fields = {"key": f"key-{entry.id}"}
        now = time.time()
        self.journal.pin(entry, Grant("https://b.test/", fields, now, now + 3600))
        receipt = Receipt(fields["key"], "e" * 32, 10, b"m" * 16, b"s" * 32, verified=True)
        self.journal.deliver(entry, receipt, duration_s=1.0, dispose=False)


async def _run(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  as executors
    return function(*arguments)


async def _read(response: Response) -> list[bytes]:
    return [
        cast("bytes", chunk) async for chunk in cast("StreamingResponse", response).body_iterator
    ]


def admission(path: bytes, size_bytes: int = 1000, number: int = 1) -> Admission:
    """Return a complete file as the intake admits it; `number` is its version."""
    flow = path.partition(b"/")[0].decode("utf-8", "replace")
    return Admission(path, Fingerprint(1, 2, size_bytes, number, number), flow, 0)


class Document(HTMLParser):
    """A page as a browser reads it: elements with their text, and the problems."""

    VOID = frozenset(["meta", "link", "input", "br", "rect", "path"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.wrong: list[str] = []
        self._open: list[str] = []

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse a page to its end."""
        document = cls()
        document.feed(text)
        document.close()
        document.wrong += [f"<{tag}> is not closed" for tag in document._open]
        return document

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element; two attributes of one name are wrong."""
        if len({name for name, _ in attrs}) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element of SVG that closes itself."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Close an element; another than the last is wrong."""
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> closes another")

    def handle_data(self, data: str) -> None:
        """Note text that is shown."""
        if not {"style", "script"} & set(self._open):
            self.texts.append(data)

    @property
    def words(self) -> str:
        """All text, spaces taken together."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of each element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]
