"""The page `/inspect`: its report about a zip, and that no zip can harm the daemon."""

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from emitterd.datasets.inspection import InspectionSettings, Inspector
from emitterd.datasets.inspection_process import CPU_S
from emitterd.journal.journal import Journal
from emitterd.web.access.sessions import Address, Viewer
from emitterd.web.access.users import Role
from emitterd.web.endpoint import Endpoint
from emitterd.web.http_server import Request, RequestBody, Response, Route
from emitterd.web.inspection_page import InspectionLimits, InspectionPage
from support.page import Desk, Document
from support.ports import free_port
from support.serving import BOUNDARY, DEADLINE_S, FILE_FORM, Serving, file_form, serving
from support.visitors import Visitor, make_user, serve_page, write_users
from support.waiting import wait_until
from support.zip_writer import NAME
from support.zips import repeated, sample, shipped, zipped

if TYPE_CHECKING:
    from emitterd.datasets.catalogue import Version

MIB = 1024**2
TITLE = "student_attendance/student_attendance"
GOOD = zipped({NAME: sample(f"{TITLE}.zip")})
TWO_FILES = file_form(GOOD).removesuffix(f"--{BOUNDARY}--\r\n".encode()) + file_form(GOOD)


@dataclass(frozen=True)
class Order:
    """A value that does something to the child process, which unpickles it."""

    function: Any
    arguments: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        """Have the child call the function."""
        return self.function, self.arguments


@dataclass
class Site:
    """A page that is served. Everything that a test may change is read for each request."""

    limits: InspectionLimits = field(default_factory=InspectionLimits)
    viewer: Viewer = field(default_factory=Viewer)
    address: Address = field(default_factory=lambda: Address(local=True))
    enforces: bool = True
    order: Order | None = None

    def __post_init__(self) -> None:
        self.page = InspectionPage(self.inspector, lambda: self.enforces, self.address, self.limits)

    def inspector(self) -> Inspector:
        """Return the daemon's inspector; the child carries out `order`."""
        return Inspector(shipped(), InspectionSettings(cast("Version | None", self.order)))

    def routes(self) -> list[Route]:
        """Return the page, and another one that shows that the server is well."""
        return [
            Route("/inspect", self._show),
            Route("/inspect", self._inspect, ("POST",), RequestBody.STREAM, deadline_s=60.0),
            Route("/well", lambda _: Response("well")),
        ]

    def _prepare(self, request: Request) -> None:
        request.state.viewer = self.viewer
        request.state.language = "en"
        request.state.host = "cqube.example.org"

    def _show(self, request: Request) -> Response:
        self._prepare(request)
        return self.page.show(request)

    async def _inspect(self, request: Request) -> Response:
        self._prepare(request)
        return await self.page.inspect(request)


def children() -> frozenset[str]:
    """Return the child processes of this process."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text("ascii").split())
        except OSError:
            continue
    return frozenset(found)


@dataclass
class Client:
    """A visitor of a served page."""

    site: Site
    server: Serving
    others: frozenset[str] = field(default_factory=children)
    """The child processes that were there before."""

    def give(
        self, data: bytes = GOOD, name: str = "student_attendance.zip", **fields: str
    ) -> tuple[int, Document]:
        """Send the form; return the status and the page."""
        status, text = self.server.post("/inspect", file_form(data, name, **fields), FILE_FORM)
        return status, Document.of(text)

    def begin(self, head: bytes, length: int) -> socket.socket:
        """Send the beginning of a request, and keep the connection."""
        client = self.server.connect()
        lines = f"Host: localhost\r\nContent-Type: {FILE_FORM}\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(b"POST /inspect HTTP/1.1\r\n" + lines.encode() + head)
        return client

    def is_clean(self) -> bool:
        """Return whether nothing is left of any zip: no memory, no child process, no visitor."""
        return not (open_zips() or children() - self.others or self.site.page._visitors)


def open_zips() -> list[str]:
    """Return the zips in memory that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if "memfd:zip" in target:
            found.append(target)
    return found


@contextmanager
def visiting(site: Site | None = None) -> Iterator[Client]:
    """Serve a page; at the end the server is well and nothing is left."""
    site = site or Site()
    with serving(Endpoint("127.0.0.1", free_port()), site.routes()) as server:
        client = Client(site, server)
        yield client
        assert server.get("/well")[2] == "well"
        wait_until(client.is_clean, DEADLINE_S, "nothing is left")


@pytest.fixture
def visitor() -> Iterator[Client]:
    """Serve a page as it is without a login."""
    with visiting() as client:
        yield client


def test_a_good_zip_would_be_accepted(visitor: Client) -> None:
    """The page names verdict, dataset by the name, place, rows, and what to do."""
    status, document = visitor.give()

    assert status == 200
    assert document.wrong == []
    assert "The server would accept this file." in document.words
    assert f"Dataset {TITLE} Place {TITLE}.zip" in document.words
    assert "Rows 3" in document.words
    assert "Drop the file at this place" in document.words


def test_findings_are_shown_with_line_and_column(visitor: Client) -> None:
    """A wrong value is a warning that names its line, its column, and the remedy."""
    content = sample(f"{TITLE}.zip").decode().splitlines()
    content[2] = content[2].replace("|2|", "|x|", 1)
    status, document = visitor.give(zipped({NAME: "\n".join(content).encode()}))

    assert status == 200
    assert "lose some of its data" in document.words
    assert "1 row, in line 3: StudentId" in document.words
    assert "What to do" in document.words


@pytest.mark.parametrize(
    ("enforces", "expected"), [(True, "emitterd rejects it"), (False, "emitterd sends it")]
)
def test_a_lost_file_says_what_emitterd_does(enforces: bool, expected: str) -> None:  # noqa: FBT001
    """With `spool.catalogue: enforce` emitterd rejects the file, otherwise it sends it."""
    with visiting(Site(enforces=enforces)) as visitor:
        _, document = visitor.give(zipped({NAME: b"a|b\n1|2\n"}))

    assert "The server would lose the whole file." in document.words
    assert expected in document.words


def test_a_dataset_can_be_chosen(visitor: Client) -> None:
    """The chosen dataset decides the place; another name is replaced, and the page says so."""
    _, document = visitor.give(name="export.zip", dataset=TITLE)

    assert f"Place {TITLE}.zip" in document.words
    assert "Give the file the name above" in document.words


def test_a_name_without_a_dataset_asks_for_one(visitor: Client) -> None:
    """Where the name fits no dataset, the page asks for the dataset."""
    _, document = visitor.give(name="export.zip")

    assert "The name of the file fits no dataset." in document.words


def test_a_script_gets_the_answer_without_the_page(visitor: Client) -> None:
    """With `?fragment` the answer is one article, with the headers of every page."""
    headers = {"Content-Type": FILE_FORM, "Content-Length": str(len(file_form(GOOD)))}
    status, got, text = visitor.server.send("/inspect?fragment", "POST", file_form(GOOD), **headers)

    assert status == 200
    assert text.strip().startswith("<article")
    assert "default-src 'none'" in got["Content-Security-Policy"]


def test_the_form_works_without_a_script(visitor: Client) -> None:
    """The form names each dataset, and sends a file as multipart/form-data."""
    document = Document.of(visitor.server.get("/inspect")[2])
    sent = next(item for item in document.all("form") if item["action"] == "inspect")

    assert document.wrong == []
    assert (sent["method"], sent["enctype"]) == ("post", "multipart/form-data")
    assert len(document.all("option")) == 1 + len(shipped().datasets)
    assert {"form_token", "file"} <= {item["name"] for item in document.all("input")}


def test_what_is_no_zip_is_said(visitor: Client) -> None:
    """Any other file is no whole zip, with the code E201."""
    status, document = visitor.give(b"%PDF-1.4 no zip")

    assert status == 200
    assert "This is no whole zip. emitterd would not send it." in document.words
    assert "E201" in document.words


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/student_attendance.zip",
        "C:\\\\data\\\\student_attendance.zip",
        "/student_attendance.zip",
        "student_attendance\x1b[31m.zip",
        "student_attendance<script>.zip",
        "student_attendance\u202e.zip",
        "student_attendance%0D%0A.zip",
        "student_attendance\x00.zip",
    ],
)
def test_a_hostile_name_is_only_text(visitor: Client, name: str) -> None:
    """Folders of a name are dropped, and everything else is shown escaped."""
    status, document = visitor.give(name=name)

    assert status == 200
    assert document.wrong == []
    assert f"Place {TITLE}" in document.words
    assert ".." not in document.words
    assert not set(document.words) & set("\x00\x1b\u202e")
    assert len(document.all("script")) == 2


def test_a_bomb_is_read_to_the_budget(visitor: Client) -> None:
    """A small zip that unpacks to a GiB gets its answer like any other."""
    head, row = sample(f"{TITLE}.zip", 1).splitlines(keepends=True)
    bomb = repeated(head, row * 10_000, 1024**3 // (len(row) * 10_000))
    status, document = visitor.give(bomb)

    assert len(bomb) < 4 * MIB
    assert status == 200
    assert "checked in the first 8 MiB of the CSV" in document.words


@pytest.mark.parametrize(
    ("body", "kind", "status", "expected"),
    [
        (b"a=b", "application/x-www-form-urlencoded", 415, "no form with a file"),
        (b"{}", "application/json", 415, "no form with a file"),
        (b"", "multipart/form-data", 415, "no form with a file"),
        (GOOD, f"multipart/form-data; boundary={'x' * 300}", 415, "no form with a file"),
        (GOOD, FILE_FORM, 400, "not complete"),
        (file_form(GOOD)[:-30], FILE_FORM, 400, "not complete"),
        (file_form(GOOD, dataset="x" * 5000), FILE_FORM, 400, "not complete"),
        (file_form(GOOD, **{"x" * 5000: ""}), FILE_FORM, 400, "not complete"),
        (file_form(GOOD, dataset="no/such"), FILE_FORM, 400, "not complete"),
        (file_form(GOOD, name="x" * 300), FILE_FORM, 400, "not complete"),
        (file_form(b"", name=""), FILE_FORM, 400, "No file was chosen"),
        (file_form(GOOD).replace(b'"file"', b'"other"'), FILE_FORM, 400, "No file was chosen"),
        (
            file_form(GOOD)[: -len(f"--{BOUNDARY}--\r\n")] + file_form(GOOD),
            FILE_FORM,
            400,
            "not complete",
        ),
    ],
    ids=[
        "urlencoded",
        "json",
        "no boundary",
        "long boundary",
        "no parts",
        "cut",
        "long field",
        "long name of a field",
        "unknown dataset",
        "long name of a file",
        "no file",
        "another field",
        "two files",
    ],
)
def test_a_wrong_form_is_refused(
    visitor: Client, body: bytes, kind: str, status: int, expected: str
) -> None:
    """Each is refused with the reason, and starts no child process."""
    got, text = visitor.server.post("/inspect", body, kind)

    assert got == status
    assert expected in Document.of(text).words


def test_a_body_without_a_length_is_refused(visitor: Client) -> None:
    """Chunks of one byte would cost the daemon time: browsers send a length."""
    request = f"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FILE_FORM}\r\n"
    answers = [
        visitor.server.say(f"{request}{lines}\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        for lines in (
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 11",
            f"Content-Length: {'9' * 5000}",
            "Content-Length: \xb2",
            "Content-Length: -1",
        )
    ]

    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 400"] * len(answers)


def test_a_body_that_is_too_large_is_refused_by_its_length() -> None:
    """The page answers before the body, and starts to receive nothing."""
    with visiting(Site(InspectionLimits(size_bytes=MIB))) as visitor:
        with visitor.begin(b"", 10**15) as client:
            client.shutdown(socket.SHUT_RD)
            visitors = visitor.site.page._visitors
        status, document = visitor.give(b"x" * 2 * MIB)

    assert visitors == 0
    assert status == 413
    assert "larger than 1 MiB" in document.words


def test_a_file_that_is_too_large_is_refused_as_it_comes() -> None:
    """The size of the file counts, not the size that the request states."""
    with visiting(Site(InspectionLimits(size_bytes=MIB))) as visitor:
        status, document = visitor.give(b"x" * (MIB + 1))

    assert status == 413
    assert "larger than 1 MiB" in document.words


def test_a_client_that_stalls_is_dropped() -> None:
    """After a silence the page answers, and closes the connection."""
    with visiting(Site(InspectionLimits(silence_s=0.3))) as visitor:
        body = file_form(GOOD)
        with visitor.begin(body[:-50], len(body)) as client:
            answer = client.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too slowly" in answer


def test_a_body_that_never_ends_is_dropped() -> None:
    """A client that sends a little now and then is dropped at the end of its time."""
    with visiting(Site(InspectionLimits(receive_s=0.5))) as visitor:
        sent_bytes = 0
        with visitor.begin(file_form(b"")[:-40], 10**9) as client:
            client.settimeout(0.05)
            answer = b""
            while not answer:
                sent_bytes += client.send(b"x" * 100)
                try:
                    answer = client.recv(100)
                except TimeoutError:
                    continue

    assert sent_bytes >= 300
    assert answer.startswith(b"HTTP/1.1 408")


def test_too_many_visitors_are_asked_to_wait() -> None:
    """With all places taken the page answers at once; a place is free when a visitor goes."""
    with visiting(Site(InspectionLimits(visitors=2))) as visitor, ExitStack() as stack:
        body = file_form(GOOD)
        slow = [stack.enter_context(visitor.begin(body[:200], len(body))) for _ in range(2)]
        wait_until(lambda: visitor.site.page._visitors == 2, DEADLINE_S, "two visitors")
        headers = {"Content-Type": FILE_FORM, "Content-Length": str(len(body))}
        busy, got, text = visitor.server.send("/inspect", "POST", body, **headers)
        slow[0].close()
        wait_until(lambda: visitor.site.page._visitors == 1, DEADLINE_S, "a free place")
        status, _ = visitor.give()

    assert (busy, got["Retry-After"], status) == (503, "60", 200)
    assert "Other files are being checked." in text


def test_a_form_has_few_parts(visitor: Client) -> None:
    """Thousands of parts without headers would keep the server busy."""
    parts = f"--{BOUNDARY}\r\n\r\n\r\n".encode() * 1000
    status, _ = visitor.server.post("/inspect", parts + file_form(GOOD), FILE_FORM)
    assert status == 400


def test_a_client_that_goes_away_leaves_nothing(visitor: Client) -> None:
    """What came of its zip is gone with it."""
    body = file_form(os.urandom(MIB))
    with visitor.begin(body[:-100], len(body)):
        wait_until(open_zips, DEADLINE_S, "a zip in memory")
    wait_until(visitor.is_clean, DEADLINE_S, "nothing is left")


def test_a_client_that_goes_away_ends_its_inspection() -> None:
    """The child process is killed, and the next visitor has its turn."""
    with visiting(Site(order=Order(signal.pause))) as visitor:
        with visitor.begin(file_form(GOOD), len(file_form(GOOD))):
            wait_until(lambda: children() - visitor.others, DEADLINE_S, "a child process")
        wait_until(visitor.is_clean, DEADLINE_S, "nothing is left")
        visitor.site.order = None
        assert visitor.give()[0] == 200


def test_an_inspection_that_hangs_is_ended() -> None:
    """At its time limit the child process is killed, and the page says what else to do."""
    with visiting(Site(InspectionLimits(inspect_s=0.5), order=Order(signal.pause))) as visitor:
        status, document = visitor.give()

    assert status == 503
    assert "The check took too long." in document.words
    assert "emitterd inspect FILE" in document.words


@pytest.mark.parametrize("function", [os.abort, os._exit], ids=["crash", "exit"])
def test_an_inspection_that_dies_is_logged(function: Callable[..., None]) -> None:
    """The daemon lives on, and its log says that the check failed."""
    arguments = (3,) if function is os._exit else ()
    with capture_logs() as logged, visiting(Site(order=Order(function, arguments))) as visitor:
        status, document = visitor.give()

    assert status == 500
    assert "The check failed." in document.words
    assert [record["event"] for record in logged if record["log_level"] != "info"] == [
        "web.inspection_failed"
    ]


def test_one_zip_is_inspected_at_a_time() -> None:
    """The others wait for their turn: there is never more than one child process."""
    with visiting(Site(order=Order(signal.pause))) as visitor, ExitStack() as stack:
        body = file_form(GOOD)
        for _ in range(3):
            stack.enter_context(visitor.begin(body, len(body)))
        wait_until(lambda: visitor.site.page._visitors == 3, DEADLINE_S, "three visitors")
        wait_until(lambda: len(open_zips()) == 3, DEADLINE_S, "three zips")
        wait_until(lambda: children() - visitor.others, DEADLINE_S, "a child process")
        numbers = {len(children() - visitor.others) for _ in range(100)}

    assert numbers == {1}


def test_an_inspection_leaves_the_processor_to_the_deliveries() -> None:
    """It runs with the lowest priority, and for a bounded time of the processor."""
    with visiting(Site(order=Order(signal.pause))) as visitor:
        with visitor.begin(file_form(GOOD), len(file_form(GOOD))):
            wait_until(lambda: children() - visitor.others, DEADLINE_S, "a child process")
            (child,) = map(int, children() - visitor.others)
            # The child does this itself, when it has started.
            wait_until(
                lambda: os.getpriority(os.PRIO_PROCESS, child) == 19, DEADLINE_S, "the priority"
            )
            limit_s = resource.prlimit(child, resource.RLIMIT_CPU)
        wait_until(visitor.is_clean, DEADLINE_S, "nothing is left")

    assert limit_s == (CPU_S, CPU_S)


def test_a_daemon_that_stops_ends_the_inspection() -> None:
    """The server ends at once, with its child process."""
    site = Site(order=Order(signal.pause))
    with serving(Endpoint("127.0.0.1", free_port()), site.routes()) as server:
        client = Client(site, server)
        with client.begin(file_form(GOOD), len(file_form(GOOD))):
            wait_until(lambda: children() - client.others, DEADLINE_S, "a child process")
            server.shutdown.drain(0.0)
            server.thread.join(DEADLINE_S)
            alive = server.thread.is_alive()

        assert not alive
        assert client.is_clean()


def give(browser: Visitor, origin: str, token: str = "") -> int:
    """Send a form as a page at this origin would; return the status."""
    body = file_form(GOOD, form_token=token)
    headers = {"Content-Type": FILE_FORM, "Origin": origin}
    return browser._send("POST", "/inspect", body, headers).status


def test_another_sites_form_is_refused(spool_root: Path, journal: Journal, tmp_path: Path) -> None:
    """A page of another site cannot have the daemon work: its Origin is not ours."""
    with serve_page(Desk(spool_root, journal, tmp_path / "state" / "journal.db")) as site:
        browser = site.browser()
        others = ("https://attacker.example", "null", f"http://{site.local}.attacker.example", "")

        assert {give(browser, origin) for origin in others} == {403}
        assert give(browser, f"http://{site.local}") == 200


def test_a_producer_logs_in_and_checks_a_file(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """The form of the page has the token of the session; without a login there is no form."""
    operators = tmp_path / "operators"
    write_users(operators, make_user("asha", Role.PRODUCER))
    desk = Desk(spool_root, journal, tmp_path / "state" / "journal.db", operators=operators)
    with serve_page(desk) as site:
        browser, origin = site.browser(), f"http://{site.local}"
        assert give(browser, origin) == 403
        assert "Log in to check files." in browser.get("/inspect").text
        browser.log_in()
        token = browser.get("/inspect").token

        assert give(browser, origin, token) == 200
        assert give(browser, origin, "another") == 403


PRODUCER = Viewer("asha", Role.PRODUCER, "the-token", can_log_in=True)


@pytest.mark.parametrize(
    ("viewer", "token", "status"),
    [
        (PRODUCER, "the-token", 200),
        (replace(PRODUCER, role=Role.OPERATOR), "the-token", 200),
        (PRODUCER, "another", 403),
        (PRODUCER, "", 403),
        (Viewer(can_log_in=True), "", 403),
    ],
    ids=["producer", "operator", "wrong token", "no token", "no login"],
)
def test_with_a_login_only_its_users_may_check(viewer: Viewer, token: str, status: int) -> None:
    """Both roles may, with the token of their session; a visitor without a login may not."""
    with visiting(Site(viewer=viewer)) as visitor:
        got, _ = visitor.give(form_token=token)

    assert got == status


def test_a_visitor_without_a_login_is_asked_to_log_in() -> None:
    """The page has a link to the login in place of the form."""
    with visiting(Site(viewer=Viewer(can_log_in=True))) as visitor:
        document = Document.of(visitor.server.get("/inspect")[2])

    assert "Log in to check files." in document.words
    assert not [item for item in document.all("form") if item["action"] == "inspect"]


def test_beyond_this_machine_the_page_is_closed() -> None:
    """Files would cross the network unencrypted: the page says what to do, and takes none."""
    with visiting(Site(address=Address(local=False))) as visitor:
        document = Document.of(visitor.server.get("/inspect")[2])
        status, _ = visitor.give()

    assert status == 403
    assert "This page is closed" in document.words
    assert "SSH tunnel" in document.words


def test_behind_a_proxy_the_page_needs_a_login(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """Strangers of the network could keep the daemon busy, and the proxy may pass any Host on."""
    address = Address(local=True, public_url="https://emitterd.office.example")
    desk = Desk(spool_root, journal, tmp_path / "state" / "journal.db", address=address)
    with serve_page(desk) as site:
        stranger = site.browser("emitterd.office.example", "https")
        page = stranger.get("/inspect").text
        status = give(stranger, "https://emitterd.office.example")
        local = give(site.browser(), f"http://{site.local}")

    assert "This page is closed, because there is no login." in page
    assert (status, local) == (403, 403)


@pytest.mark.parametrize("host", ["192.0.2.7", "10.0.0.1:9464", "[2001:db8::1]"])
def test_behind_a_proxy_that_nobody_has_named_the_page_is_closed(
    spool_root: Path, journal: Journal, tmp_path: Path, host: str
) -> None:
    """The Host header is not that of a browser on this machine."""
    with serve_page(Desk(spool_root, journal, tmp_path / "state" / "journal.db")) as site:
        stranger = site.browser(host)
        assert "This page is closed, because there is no login." in stranger.get("/inspect").text
        assert give(stranger, f"http://{host}") == 403
        assert give(site.browser(), f"http://{site.local}") == 200
