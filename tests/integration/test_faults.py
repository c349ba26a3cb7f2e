"""Each fault of the other side, and what becomes of the file it strikes.

A worker meets the fault, on real sockets; then the fault is gone and the file is
delivered: once, with the right bytes, under one key, and with nothing charged to it
that was the destination's.
"""

import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from emitterd.client.sockets import TransferLimits
from emitterd.model import State
from emitterd.rehearsal.faults import FaultStage
from support.client import LOOPBACK, PATIENT, Identity, Listener, make_identity, silent_port, sparse
from support.faults import ALL_FAULTS
from support.outcomes import BRISK, ENDINGS, LARGE_BYTES, LATE, MIB, Struck, fault_of, struck_by
from support.worker import Rig, rigged

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")

NAME = "pat/exam.zip"
HASTY = TransferLimits(connect_s=0.4, stall_s=20.0, minimum_bytes_s=1)
WORKERS = 8
TURNS = 6


def lost(error: str, limits: TransferLimits = PATIENT) -> Struck:
    """Return an attempt that stored the object and cannot know it."""
    return Struck((error,), ambiguous=True, uploads=2, limits=limits)


ARRIVED = Struck(state=State.DELIVERED)
MENU = {
    # Whether the connection stood already is a matter of microseconds.
    "reset-connect": Struck.parked("E302", "E305"),
    "auth-error": Struck.parked("E401"),
    "auth-500": Struck.parked("E408"),
    "no-login": Struck.parked("E401"),
    "429:1:1": Struck.parked("E409"),
    "api-500": Struck.parked("E408"),
    "api-503:1:1": Struck.parked("E408"),
    "api-503": Struck.parked("E408"),
    "api-401": Struck.parked("E402"),
    "api-captive-portal": Struck.parked("E406"),
    "slow-grant:1:0.2": ARRIVED,
    "slow-grant:1:60": Struck(("E306",), parks=True, limits=LATE),
    "malformed-grant": Struck.parked("E406"),
    "grant-missing-fields": Struck.parked("E406"),
    "huge-grant": Struck.parked("E406"),
    "deep-grant": Struck.parked("E406"),
    "hostile-grant": Struck.parked("E407"),
    "hostile-link-local": Struck.parked("E407"),
    "early-403": Struck(("E503",)),
    "denied": Struck(("E503",)),
    "filter": Struck(("E508",)),
    "malformed": Struck(("E510",)),
    "reset": Struck(("E305",), large=True),
    "die-upload:1:0": Struck(("E305",), large=True),
    "die-before-answer:1:0": lost("E307"),
    "reset:1:0": Struck(("E307",), ambiguous=True),
    "slow-reader:1:65536": Struck(("E306",), limits=BRISK, large=True),
    "black-hole": Struck(("E306",), limits=LATE, large=True),
    "503": Struck(("E501",)),
    "503:1:7": Struck(("E501",)),
    "500": Struck(("E501",), ambiguous=True),
    "expired@1": ARRIVED,
    "expired": Struck.parked("E509"),
    "signature": Struck.parked("E503"),
    "no-such-bucket": Struck.parked("E504"),
    "too-large": Struck(("E505",), state=State.REJECTED, uploads=0),
    "request-timeout": Struck(("E501",)),
    "captive-portal": Struck.parked("E508", ambiguous=True),
    "redirect": ARRIVED,
    "redirect-foreign": Struck.parked("E506"),
    "lost-answer": lost("E307"),
    "truncated-answer": lost("E307"),
    "garbage": lost("E307"),
    "wrong-etag": lost("E507"),
    "non-md5-etag": ARRIVED,
    "kms-etag": ARRIVED,
    "slow-answer:1:60": lost("E307", LATE),
    "dribble:1:0.1": lost("E307", LATE),
}


def drop(rig: Rig, *, large: bool = False) -> bytes:
    """Drop the file; return its bytes."""
    content = os.urandom(LARGE_BYTES) if large else b"id|name\n1|one\n"
    return rig.drop(NAME, content).read_bytes()


def arrives(rig: Rig, content: bytes, posts: int = 1) -> None:
    """Deliver the file now that nothing is wrong; it arrives once, and as it is."""
    for _ in range(TURNS):
        if rig.state(NAME) is State.DELIVERED:
            break
        rig.later()
    row, [(key, stored)] = rig.row(NAME), rig.server.objects.items()

    assert (row["state"], row["key"]) == (State.DELIVERED, key)
    assert row["sha256"] == hashlib.sha256(content).digest()
    assert stored.path.read_bytes() == content
    assert stored.posts == posts
    assert sum(len(rig.logged(name, NAME)) for name in ENDINGS) == 1
    downs = rig.logged("destination.down")
    assert len(rig.logged("destination.up")) == len(downs)
    assert rig.destination.down is None


@pytest.mark.parametrize(("menu", "expected"), MENU.items(), ids=list(MENU))
def test_each_fault_of_the_server(tmp_path: Path, menu: str, expected: Struck) -> None:
    """What a fault does to one attempt, and that it does no more than that."""
    with rigged(tmp_path, limits=expected.limits) as rig:
        content = drop(rig, large=expected.large)
        rig.faults(menu)
        rig.step()

        assert rig.server.fired[fault_of(menu)]
        struck_by(rig, NAME, expected)
        if expected.state is State.REJECTED:
            assert not rig.server.objects
            return
        rig.faults("")
        # A busy machine may be slower than the limits that the fault had to break.
        rig.limit(PATIENT)
        if "E401" in expected.error:
            # A refused login is not asked again for half a minute.
            rig.send_to(rig.server.url)
        arrives(rig, content, expected.uploads)


def test_every_fault_of_the_menu_is_tried() -> None:
    """A new fault of an upload needs a line in the table; those of reading have their own."""
    tried = {fault_of(item) for item in MENU}
    reading = {FaultStage.READ, FaultStage.LIST, FaultStage.DOWNLOAD, FaultStage.OBJECT}
    ingestion = {FaultStage.TOKEN, FaultStage.INGEST, FaultStage.STATUS}
    others = reading | ingestion | {FaultStage.PROCESS}

    assert tried == {item for item, kind in ALL_FAULTS.items() if kind.stage not in others}


ERROR_PAGE = "<html>Bad Gateway</html>"


def page(status: str, text: str = ERROR_PAGE) -> bytes:
    """Return an answer of a web server or proxy in front of the server."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (page("502 Bad Gateway"), "E408"),
        (page("407 Proxy Authentication Required"), "E308"),
        (page("200 OK", "<html>Please accept</html>"), "E406"),
        (page("404 Not Found"), "E404"),
        (page("302 Found"), "E406"),
        (b"", "E305"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "E305"),
        (page("200 OK")[:-9], "E305"),
    ],
    ids=[
        "bad gateway",
        "proxy wants a login",
        "captive portal",
        "wrong path",
        "redirect",
        "silence",
        "another protocol",
        "half an answer",
    ],
)
def test_each_fault_on_the_way_to_the_login(tmp_path: Path, answer: bytes, error: str) -> None:
    """An answer from another server pauses uploads, and charges no file."""

    def serve(server: Listener, connection: socket.socket) -> None:
        server.hear(connection)
        connection.sendall(answer)

    with rigged(tmp_path) as rig, Listener(serve) as other:
        content = drop(rig)
        rig.send_to(other.url)
        rig.step()

        assert other.heard
        struck_by(rig, NAME, Struck.parked(error))
        rig.send_to(rig.server.url)
        arrives(rig, content)


def test_a_refused_connection(tmp_path: Path) -> None:
    """While nobody listens nothing is charged; when somebody does, it is sent."""
    with rigged(tmp_path) as rig:
        content = drop(rig)
        rig.server.stop()
        rig.step()
        struck_by(rig, NAME, Struck.parked("E302"))
        rig.server.start()
        arrives(rig, content)


def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    """DNS that fails is the destination's."""
    with rigged(tmp_path) as rig:
        content = drop(rig)
        rig.send_to("http://cqube.invalid/data")
        rig.step()
        struck_by(rig, NAME, Struck.parked("E301"))
        rig.send_to(rig.server.url)
        arrives(rig, content)


def test_a_host_that_is_silent(tmp_path: Path) -> None:
    """A firewall that drops packets is given up at `connect_timeout`."""
    with rigged(tmp_path, limits=HASTY) as rig, silent_port() as port:
        content = drop(rig)
        rig.send_to(f"http://{LOOPBACK}:{port}/data")
        rig.step()
        struck_by(rig, NAME, Struck.parked("E304"))
        rig.send_to(rig.server.url)
        arrives(rig, content)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Return a certificate that is good."""
    return make_identity(tmp_path_factory.mktemp("tls"), "cqube")


def make_expired(folder: Path) -> Identity:
    """Return a certificate whose time is over."""
    return make_identity(folder, "expired", days=-1)


def make_foreign(folder: Path) -> Identity:
    """Return a certificate of another host."""
    return make_identity(folder, "foreign", host="DNS:other.example.org")


@pytest.mark.parametrize(
    ("make", "expected"), [(make_expired, "expired"), (make_foreign, "mismatch")]
)
def test_a_certificate_that_is_refused(
    tmp_path: Path, identity: Identity, make: Callable[[Path], Identity], expected: str
) -> None:
    """Nothing is sent to a server with a bad certificate, until it is renewed."""
    wrong = make(tmp_path)
    with rigged(tmp_path, identity=wrong, trusted=wrong) as rig:
        content, port = drop(rig), rig.server.port
        rig.step()
        struck_by(rig, NAME, Struck.parked("E303"))
        assert expected in rig.row(NAME)["reason"]
        assert not rig.server.requests
    with rigged(tmp_path, identity=identity, trusted=identity, port=port) as rig:
        arrives(rig, content)


def test_a_handshake_that_fails(tmp_path: Path, identity: Identity) -> None:
    """A server that speaks no TLS is sent nothing."""

    def speak_plainly(server: Listener, connection: socket.socket) -> None:
        del server
        connection.recv(65536)
        connection.sendall(page("400 Bad Request"))

    with rigged(tmp_path, identity=identity, trusted=identity) as rig:
        content = drop(rig)
        with Listener(speak_plainly) as plain:
            rig.send_to(f"https://{LOOPBACK}:{plain.port}/data")
            rig.step()
            assert plain.lines
        struck_by(rig, NAME, Struck.parked("E303"))
        rig.send_to(rig.server.url)
        arrives(rig, content)


def test_a_grant_without_tls_from_an_api_with_it(tmp_path: Path, identity: Identity) -> None:
    """What came over https does not go on over http."""
    with rigged(tmp_path, identity=identity, trusted=identity) as rig:
        drop(rig)
        rig.faults("hostile-link-local")
        rig.step()
        struck_by(rig, NAME, Struck.parked("E407"))
        assert "http, the API's is https" in rig.row(NAME)["reason"]
        assert not rig.server.objects


def test_a_storm_of_401(tmp_path: Path) -> None:
    """Eight workers that meet 401 at once log in once, and nothing is charged."""
    names = [f"pat/{number}.zip" for number in range(WORKERS)]
    with rigged(tmp_path, workers=WORKERS) as rig:
        content = drop(rig)
        arrives(rig, content)
        for name in names:
            rig.drop(name)
        rig.server.logins.tokens.clear()
        # Late answers, so that all have sent the dead token before the first 401.
        rig.server.latency_s = 1.0
        threads = [
            threading.Thread(target=rig.another_worker().step, args=(time.time(),)) for _ in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        refused = [request for request in rig.server.requests if request.status == 401]
        assert len(refused) == WORKERS
        assert rig.reached("auth") == 2
        assert {rig.row(name)["state"] for name in names} == {State.DELIVERED}
        assert {rig.row(name)["attempts"] for name in names} == {0}
        assert not rig.logged("destination.down")


def test_a_refusal_early_in_a_huge_body(tmp_path: Path) -> None:
    """A 403 during 512 MiB is read at once, and the rest of the file stays here."""
    with rigged(tmp_path) as rig:
        path = rig.root / NAME
        path.parent.mkdir()
        sparse(path, 512 * MIB)
        rig.admit(NAME)
        rig.faults("early-403")
        rig.step()

        assert rig.server.fired["early-403"] == 1
        struck_by(rig, NAME, MENU["early-403"])
        sent = sum(count for kind, count in rig.watcher.seen if kind == "sent")
        assert sent < 256 * MIB
        assert not rig.server.objects


SIZE = 3 * MIB
CUTS = [0, 1, 200, 2000, SIZE // 100, SIZE // 2, -2, -1]
"""Of the request to the bucket, head and all; below none from its end."""


class Cut:
    """A proxy to the server that cuts one upload after some bytes."""

    def __init__(self, port: int, offset: int) -> None:
        self.cuts = 0
        self._port = port
        self._offset = offset

    def __call__(self, way: Listener, connection: socket.socket) -> None:
        """Serve one connection."""
        del way
        with socket.create_connection((LOOPBACK, self._port)) as further:
            back = threading.Thread(target=pump, args=(further, connection))
            back.start()
            self._forward(connection, further)
            back.join(30)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        while more := source.recv(65536):
            if not self.cuts and b"POST /bucket/" in more:
                self.cuts += 1
                self._cut(source, sink, more)
                return
            sink.sendall(more)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _cut(self, source: socket.socket, sink: socket.socket, more: bytes) -> None:
        while b"\r\n\r\n" not in more:
            more += source.recv(65536)
        head = more.partition(b"\r\n\r\n")[0]
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
        left = self._offset
        if left < 0:
            left += len(head) + 4 + int(length)
        while more:
            sink.sendall(more[:left])
            left -= len(more)
            if left <= 0:
                break
            more = source.recv(65536)
        for item in (sink, source):
            item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Only a shutdown wakes who reads from it.
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Forward all that comes."""
    with suppress(OSError):
        while more := source.recv(65536):
            sink.sendall(more)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def content() -> bytes:
    """Return what makes a zip of a few chunks."""
    return os.urandom(SIZE)


@pytest.mark.parametrize("offset", CUTS)
def test_a_cut_at_an_offset(tmp_path: Path, content: bytes, offset: int) -> None:
    """Wherever the connection is cut, there is one correct object in the end."""
    with rigged(tmp_path) as rig:
        cut = Cut(rig.server.port, offset)
        with Listener(cut) as way:
            whole = rig.drop(NAME, content).read_bytes()
            rig.send_to(f"http://{LOOPBACK}:{way.port}/data")
            rig.step()

            assert cut.cuts == 1
            # What the kernel has taken was handed over, also where it never arrived.
            sent = rig.row(NAME)["error"] == "E307"
            struck_by(rig, NAME, Struck(("E307" if sent else "E305",), ambiguous=sent))
            assert not rig.server.objects
            arrives(rig, whole)
            assert rig.reached("upload-url") == 1
