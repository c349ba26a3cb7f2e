"""The listener: who may ask what, and that nobody can keep it busy."""

import base64
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import pytest
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from conftest import NoThreads
from emitterd.web.endpoint import Endpoint
from emitterd.web.http_server import (
    CONNECTIONS,
    FORM_MAX_BYTES,
    FORM_TYPE,
    REQUESTS,
    SILENCE_S,
    THREADS,
    Request,
    RequestBody,
    Response,
    Route,
    has_token,
    is_own,
    keep_open,
    streamed,
)
from support.ports import free_port
from support.serving import DEADLINE_S, Serving, read_some, serving
from support.waiting import wait_until

TOKEN = "a-long-and-random-token"
LARGE_BYTES = 64 * 2**20
CHUNK = bytes(2**16)


def hello(request: Request) -> Response:
    """Answer with the path and the query."""
    return Response(f"{request.url.path}?{request.url.query}", media_type="text/plain")


def show_headers(request: Request) -> Response:
    """Answer with all headers that a handler gets."""
    return Response(repr(request.headers.items()))


def broken(_: Request) -> Response:
    """Fail as a bug would."""
    raise ZeroDivisionError


def large(_: Request) -> Response:
    """Answer with more than any buffer holds."""
    return Response(b"x" * LARGE_BYTES)


def endless(_: Request) -> Response:
    """Answer with more than any buffer holds, chunk by chunk."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(LARGE_BYTES // len(CHUNK)):
            yield CHUNK

    return StreamingResponse(body())


def show_form(request: Request) -> Response:
    """Answer with the fields of a form."""
    return Response(repr(request.state.form) if request.method == "POST" else "the form")


async def count_bytes(request: Request) -> Response:
    """Answer with the size of the body, counted as it comes."""
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
    return Response(await request.state.run(str, size_bytes))


async def count_kept(request: Request) -> Response:
    """Do the same; the connection does not make room for others."""
    keep_open(request)
    return await count_bytes(request)


def many(request: Request) -> Response:
    """Answer chunk by chunk."""
    return streamed(request, (b"%d\n" % number for number in range(1000)), {}, "text/plain")


ROUTES = [
    Route("/broken", broken),
    Route("/headers", show_headers),
    Route("/large", large),
    Route("/endless", endless),
    Route("/form", show_form, ("GET", "POST"), RequestBody.FORM),
    Route("/count", count_bytes, ("POST",), RequestBody.STREAM, deadline_s=60.0),
    Route("/kept", count_kept, ("POST",), RequestBody.STREAM, deadline_s=60.0),
    Route("/many", many),
    Route("/reserved", hello, reserved=True),
    Route("/{path:path}", hello),
]


@pytest.fixture
def local() -> Iterator[Serving]:
    """Serve at a loopback address, without a token."""
    with serving(Endpoint("127.0.0.1", free_port()), ROUTES) as item:
        yield item


@pytest.fixture
def guarded() -> Iterator[Serving]:
    """Serve with a token, as beyond this machine."""
    with serving(Endpoint("127.0.0.1", free_port()), ROUTES, TOKEN) as item:
        yield item


def test_an_application_answers_by_path(local: Serving) -> None:
    """What no other path has goes to the application at `/`, unquoted."""
    status, _, body = local.get("/a%20file?search=caf%C3%A9")

    assert (status, body) == (200, "/a file?search=caf%C3%A9")


def test_head_is_get_without_the_body(local: Serving) -> None:
    """The headers are those of GET, its length among them."""
    status, headers, body = local.get("/abc", method="HEAD")

    assert (status, body) == (200, "")
    assert headers["Content-Length"] == str(len("/abc?"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "x" * 300])
def test_nothing_can_be_changed(local: Serving, method: str) -> None:
    """Any method but GET and HEAD is refused, with those two named."""
    status, headers, _ = local.get(method=method)

    assert status == 405
    assert set(headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_a_form_is_read_before_its_handler(local: Serving) -> None:
    """The fields of a POST request are texts; a GET request of the same path has none."""
    status, body = local.post("/form", b"name=caf%C3%A9+bar&empty=&raw=%FF")

    assert (status, body) == (200, "{'name': 'caf\u00e9 bar', 'empty': '', 'raw': '\\udcff'}")
    assert local.get("/form")[2] == "the form"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=" + b"x" * FORM_MAX_BYTES, FORM_TYPE, 413),
        (b"a=" + b"x" * 16 * FORM_MAX_BYTES, FORM_TYPE, 413),
        (b"&".join(b"a=b" for _ in range(200)), FORM_TYPE, 400),
        ("a=\u0905".encode(), FORM_TYPE, 400),
        (b"{}", "application/json", 415),
        (b"", "", 415),
    ],
    ids=["too large", "far too large", "too many fields", "not ASCII", "JSON", "no type"],
)
def test_what_is_no_small_form_is_refused(
    local: Serving, body: bytes, kind: str, status: int
) -> None:
    """Only a small form of a browser reaches a handler."""
    assert local.post("/form", body, kind)[0] == status
    assert local.post("/form", b"a=b")[0] == 200


def test_a_slow_form_is_refused(local: Serving) -> None:
    """A form that does not arrive in time ends with an answer."""
    head = f"POST /form HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM_TYPE}\r\n"
    answer = local.say(f"{head}Content-Length: 10\r\n\r\na=")

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_body_can_be_read_as_it_comes(local: Serving) -> None:
    """A route that reads the body itself gets one that is larger than every buffer."""
    assert local.post("/count", b"x" * 5_000_000, "application/zip") == (200, "5000000")


def test_a_long_response_comes_in_chunks(local: Serving) -> None:
    """All chunks arrive, in their order, and the next request is answered."""
    status, headers, body = local.get("/many")

    assert (status, body.split()) == (200, [str(number) for number in range(1000)])
    assert headers["Content-Type"].startswith("text/plain")
    assert local.get("/")[0] == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:9464", True),
        ("LOCALHOST", True),
        ("127.0.0.1:9464", True),
        ("[::1]:9464", True),
        ("192.0.2.1", True),
        ("", True),
        ("attacker.example:9464", False),
        ("127.0.0.1.attacker.example", False),
        ("localhost.attacker.example", False),
        ("[::1", False),
    ],
)
def test_a_name_of_another_site_is_not_ours(host: str, own: bool) -> None:  # noqa: FBT001
    """Only an address, or localhost, cannot be made to lead here by another's DNS."""
    assert is_own(host) is own


def test_another_site_cannot_read_through_a_browser(local: Serving) -> None:
    """A request under a foreign name is refused before any application sees it."""
    status, _, body = local.get(Host="attacker.example:9464")

    assert status == 421
    assert "localhost" in body


BASIC = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"Basic {BASIC}", True),
        (f"Bearer {TOKEN}x", False),
        ("Bearer ", False),
        (f"Basic {TOKEN}", False),
        ("Basic \xff", False),
        (f"Digest {TOKEN}", False),
        ("", False),
    ],
)
def test_the_token_is_shown_in_either_way(header: str, good: bool) -> None:  # noqa: FBT001
    """Monitoring shows it as a bearer token, a browser as the password."""
    assert has_token(header, TOKEN) is good


def test_without_the_token_nothing_is_said(guarded: Serving) -> None:
    """The refusal makes a browser ask; with the token any host name will do."""
    refused, headers, _ = guarded.get("/abc")
    taken, _, body = guarded.get(
        "/abc", Authorization=f"Bearer {TOKEN}", Host="emitter.example.org"
    )

    assert refused == 401
    assert headers["WWW-Authenticate"].startswith("Basic ")
    assert (taken, body) == (200, "/abc?")


def test_a_handler_does_not_get_the_token(guarded: Serving) -> None:
    """The server removes the header that has it."""
    _, _, body = guarded.get("/headers", Authorization=f"Bearer {TOKEN}", Accept="x/y")

    assert "x/y" in body
    assert TOKEN not in body


def test_a_bug_of_an_application_is_one_answer(local: Serving) -> None:
    """It is answered by 500 and logged; the next request is answered."""
    with capture_logs() as logged:
        failed, _, _ = local.get("/broken")
        status, _, _ = local.get("/")

    assert (failed, status) == (500, 200)
    assert [(record["event"], record["path"]) for record in logged] == [("web.failed", "/broken")]


@pytest.mark.parametrize(
    "request_line",
    ["\x1b[31mGET", "GET / HTTP/9.9\r\n\r\n", "GET /\r\n\r\n", "\r\n\r\n"],
    ids=["colour", "version", "old", "empty"],
)
def test_nothing_of_a_bad_request_is_echoed(
    local: Serving, request_line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no request is refused or ignored, and nothing reaches the log."""
    answer = local.say(request_line + "\r\n\r\n")

    assert b"\x1b" not in answer
    assert local.get("/")[0] == 200
    assert capfd.readouterr().err == ""


def test_silent_clients_do_not_block_others(local: Serving) -> None:
    """With more connections than there may be, the oldest silent one makes room."""
    with ExitStack() as stack:
        silent = [stack.enter_context(closing(local.connect())) for _ in range(CONNECTIONS)]
        begun = time.monotonic()
        status, _, _ = local.get("/")
        took_s = time.monotonic() - begun
        ended = [client.recv(1) for client in silent[:1]]

    assert status == 200
    assert took_s < SILENCE_S
    assert ended == [b""]


def test_a_burst_of_connections_ends_no_new_one() -> None:
    """A request that comes with more connections than there may be is read and answered."""
    gate, loop_gate, stopped = threading.Event(), threading.Event(), threading.Event()

    def wait(_: Request) -> Response:
        gate.wait(DEADLINE_S)
        return Response("done")

    async def stop_loop(_: Request) -> Response:
        stopped.set()
        loop_gate.wait(DEADLINE_S)
        return Response("done")

    own = [Route("/wait", wait), Route("/stop", stop_loop, body=RequestBody.STREAM), *ROUTES]
    with serving(Endpoint("127.0.0.1", free_port()), own) as server, ExitStack() as stack:
        try:
            for _ in range(REQUESTS):
                stack.enter_context(server.connect()).sendall(b"GET /wait HTTP/1.0\r\n\r\n")
            wait_until(lambda: server.get("/")[0] == 503, DEADLINE_S, "no more pages")
            stack.enter_context(server.connect()).sendall(b"GET /stop HTTP/1.0\r\n\r\n")
            assert stopped.wait(DEADLINE_S)
            monitoring = stack.enter_context(server.connect())
            monitoring.sendall(b"GET /reserved HTTP/1.0\r\n\r\n")
            silent = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS - 10)]
            loop_gate.set()
            answer = read_some(monitoring)
            ended = read_some(silent[0])
        finally:
            loop_gate.set()
            gate.set()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert ended == b""


def slow_body(server: Serving, path: str = "/form") -> socket.socket:
    """Send a request without the end of its body."""
    client = server.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM_TYPE}\r\n"
    client.sendall(f"{head}Content-Length: 10\r\n\r\na=".encode())
    return client


@pytest.mark.parametrize("path", ["/form", "/x"])
def test_slow_bodies_do_not_block_others(local: Serving, path: str) -> None:
    """With more of them than there may be connections, the oldest makes room."""
    with ExitStack() as stack:
        slow = [stack.enter_context(slow_body(local, path)) for _ in range(CONNECTIONS + 10)]
        answers = [local.get("/")[0] for _ in range(20)]
        answers += [local.get("/reserved")[0] for _ in range(20)]
        ended = read_some(slow[0])

    assert set(answers) == {200}
    assert b"HTTP/1.1 200" not in ended


def test_clients_that_do_not_read_do_not_block_others(local: Serving) -> None:
    """Their connections make room as well, once their answers wait."""

    def answers(path: str) -> bool:
        with suppress(OSError):
            return bool(local.get(path)[0] == 200)
        return False

    with ExitStack() as stack:
        for _ in range(CONNECTIONS + 10):
            client = stack.enter_context(local.connect())
            client.sendall(b"GET /endless HTTP/1.0\r\n\r\n")
        for path in ("/reserved", "/"):
            wait_until(partial(answers, path), DEADLINE_S, path)


def test_a_kept_connection_makes_no_room(local: Serving) -> None:
    """An upload or download that its page has accepted goes on during a flood."""
    with ExitStack() as stack:
        kept = stack.enter_context(slow_body(local, "/kept"))
        for _ in range(CONNECTIONS + 10):
            stack.enter_context(slow_body(local))
        kept.sendall(b"12345678")
        answer = kept.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"10")


def test_busy_pages_do_not_block_monitoring() -> None:
    """Reserved routes have threads and places of their own; further pages are refused at once."""
    gate, begun = threading.Event(), threading.Semaphore(0)

    def wait(_: Request) -> Response:
        begun.release()
        gate.wait(DEADLINE_S)
        return Response("done")

    own = [Route("/wait", wait), *ROUTES]
    with serving(Endpoint("127.0.0.1", free_port()), own) as server, ExitStack() as stack:
        try:
            clients = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS)]
            for client in clients:
                client.sendall(b"GET /wait HTTP/1.0\r\n\r\n")
            assert all(begun.acquire(timeout=DEADLINE_S) for _ in range(THREADS))
            wait_until(lambda: server.get("/")[0] == 503, DEADLINE_S, "no more pages")
            assert server.get("/reserved")[0] == 200
        finally:
            gate.set()
        answers = [client.makefile("rb").read()[:12] for client in clients]

    assert answers.count(b"HTTP/1.1 200") == REQUESTS
    assert set(answers) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}


def test_slow_headers_end_a_connection(local: Serving) -> None:
    """A client that does not finish its request is disconnected."""
    with local.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        begun = time.monotonic()
        rest = client.recv(1)
        took_s = time.monotonic() - begun

    assert rest == b""
    assert SILENCE_S - 1 < took_s < DEADLINE_S


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected(local: Serving) -> None:
    """The server drops the rest of an answer that is not read within its deadline."""
    with local.connect() as client:
        client.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        wait_until(lambda: local.is_open(client), DEADLINE_S, "the answer")
        wait_until(lambda: not local.is_open(client), DEADLINE_S, "the end")
        received = sum(map(len, iter(lambda: read_some(client), b"")))

    assert 0 < received < LARGE_BYTES


def test_a_taken_address_is_logged_once_and_used_later() -> None:
    """Somebody else's port is an error in the log, and no reason to end."""
    endpoint = Endpoint("127.0.0.1", free_port())
    with socket.socket() as other, capture_logs() as logged:
        other.bind((endpoint.host, endpoint.port))
        other.listen()
        item = Serving(endpoint, ROUTES)
        item.thread.start()
        wait_until(lambda: logged, DEADLINE_S, "a line")
        item.shutdown.drain(0.0)
        item.thread.join(DEADLINE_S)

    assert [line["event"] for line in logged] == ["web.unserved"]
    assert str(endpoint) in logged[0]["address"]


def test_a_socket_is_for_its_group(tmp_path: Path) -> None:
    """It has mode 0660, any host name will do, and it goes with the listener."""
    path = tmp_path / "page.sock"
    with serving(Endpoint(path=path), ROUTES) as item:
        mode = stat.S_IMODE(path.stat().st_mode)
        status, _, _ = item.get("/", Host="emitter.example.org")

    assert mode == 0o660
    assert status == 200
    assert not path.exists()


def test_a_dead_processes_socket_is_taken_over(tmp_path: Path) -> None:
    """What a crash left at the path does not keep the next one from serving."""
    path = tmp_path / "page.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(Endpoint(path=path), ROUTES) as item:
        status, _, _ = item.get("/")

    assert status == 200


def test_a_file_at_the_path_is_left_alone(tmp_path: Path) -> None:
    """What is no socket is not removed to make room for one."""
    path = tmp_path / "page.sock"
    path.write_text("mine")
    with capture_logs() as logged:
        item = Serving(Endpoint(path=path), ROUTES)
        item.thread.start()
        wait_until(lambda: logged, DEADLINE_S, "a line")
        item.shutdown.drain(0.0)
        item.thread.join(DEADLINE_S)

    assert path.read_text() == "mine"
    assert logged[0]["event"] == "web.unserved"


@pytest.mark.parametrize(
    ("text", "endpoint", "local_only"),
    [
        ("127.0.0.1:9464", Endpoint("127.0.0.1", 9464), True),
        ("[::1]:9464", Endpoint("::1", 9464), True),
        ("localhost:9464", Endpoint("localhost", 9464), True),
        ("unix:/run/x.sock", Endpoint(path=Path("/run/x.sock")), True),
        ("192.0.2.1:9464", Endpoint("192.0.2.1", 9464), False),
        ("[::]:80", Endpoint("::", 80), False),
        ("metrics.example.org:80", Endpoint("metrics.example.org", 80), False),
    ],
)
def test_an_endpoint_is_read_and_shown(
    text: str,
    endpoint: Endpoint,
    local_only: bool,  # noqa: FBT001
) -> None:
    """What was written comes out again, and whether others can reach it is known."""
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text
    assert endpoint.local is local_only


@pytest.mark.parametrize(
    "text",
    [
        "9464",
        ":9464",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:\u0663",
        "::1:9464",
        "unix:page.sock",
        "unix:" + "/x" * 60,
        "",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """Nothing is guessed: an empty host would be the whole network elsewhere."""
    with pytest.raises(ValueError, match=r"\w"):
        Endpoint.parse(text)


def test_a_path_of_bytes_is_measured_in_bytes() -> None:
    """The kernel counts bytes, not characters."""
    longest = "/" + "é" * 53

    assert len(os.fsencode(longest)) == 107
    assert Endpoint.parse(f"unix:{longest}").local
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        Endpoint.parse(f"unix:{longest}x")


def test_at_the_limit_of_threads_the_page_answers(local: Serving, no_threads: NoThreads) -> None:
    """The threads of the pages run from the start: none has to be started for a caller."""

    def running() -> bool:
        return sum(thread.name.startswith("http_") for thread in threading.enumerate()) >= THREADS

    wait_until(running, DEADLINE_S, "the threads of the pages run")
    with no_threads():
        answers = [local.get("/x?y") for _ in range(10)]
    assert all("/x?y" in str(answer) for answer in answers)
