"""The end of an upload's body: it goes out only while the host holds the claim of the file."""

import os
import select
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from emitterd.client import sockets
from emitterd.client.sockets import END_BYTES, END_MAX_S
from emitterd.codes import Code
from emitterd.config.fields import timetable
from emitterd.errors import Decision, DeliveryError
from emitterd.model import State
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from support.client import (
    LOOPBACK,
    PLAIN_TLS,
    Listener,
    answering,
    deliver,
    emission_to,
    hand_made,
    http_client,
    make_identity,
    proxy_to,
    sparse,
)
from support.network import other_network
from support.waiting import wait_until
from support.worker import rigged
from support.zips import zipped

AFAR = "http://cqube.example.test/data"
KIB = 1024
MIB = 1024 * 1024
PROGRAM = "diksha_etb_plays-per-capita"
DATA = zipped(
    {
        f"{PROGRAM}.csv": b"state_name,state_code,plays_per_capita,latitude,longitude\n"
        b"Kerala,32,1.5,10.85,76.27\n"
    }
)
STORED = b'HTTP/1.1 204 No Content\r\nETag: "opaque-1"\r\n\r\n'
SMALL, LARGE = END_BYTES // 2, 3 * MIB
sizes = pytest.mark.parametrize("size_bytes", [0, SMALL, END_BYTES, LARGE])


def withheld(deliver_file: Callable[[], object]) -> DeliveryError:
    """Return the error of an upload that must not be finished."""
    with pytest.raises(DeliveryError) as caught:
        deliver_file()
    assert caught.value.decision is Decision.INTERRUPT
    return caught.value


@sizes
@pytest.mark.parametrize("way", ["http", "https", "proxy"])
def test_a_host_that_may_not_finish_leaves_no_object(
    tmp_path: Path, size_bytes: int, way: str
) -> None:
    """The bucket gets a part of the body and stores nothing; the attempt is not ambiguous."""
    identity = make_identity(tmp_path, "server") if way == "https" else None
    tls = ssl.create_default_context(cafile=identity.certificate) if identity else PLAIN_TLS
    path = sparse(tmp_path / "data.zip", size_bytes)
    server_tls = identity.server_context() if identity else None
    with RehearsalServer(tmp_path / "server", tls=server_tls) as server, proxy_to(server) as proxy:
        through = f"http://{LOOPBACK}:{proxy.port}" if way == "proxy" else None
        with http_client(tls=tls, proxy=through) as client:
            emission = emission_to(client, server.url)
            grant = emission.grant(b"pat/periodic_exam_mst.zip")
            error = withheld(lambda: deliver(emission, path, grant, may_finish=lambda: False))
            assert not server.objects
            # The next one may: nothing is left over from the first.
            receipt = deliver(emission, path, grant, may_finish=lambda: True)

    assert not error.ambiguous
    assert receipt.verified
    assert server.objects[grant.key].path.stat().st_size == size_bytes


@sizes
def test_only_the_end_waits_for_the_permission(tmp_path: Path, size_bytes: int) -> None:
    """It is asked once, when all but the end is at the server; a small body is one write."""
    asked_at: list[int] = []
    sent: list[int] = []

    def may_finish() -> bool:
        asked_at.append(sum(sent))
        return True

    with Listener(answering(STORED)) as bucket, http_client() as client:
        path = sparse(tmp_path / "data.zip", size_bytes)
        deliver(
            emission_to(client, bucket.url), path, hand_made(bucket.url), sent.append, may_finish
        )
        [request] = bucket.heard

    assert len(asked_at) == 1
    assert 0 < len(request.body) - asked_at[0] <= END_BYTES
    assert (asked_at[0] == 0) is (len(request.body) < END_BYTES // 2 + KIB)


def test_the_end_is_not_sent_while_the_server_is_behind(tmp_path: Path) -> None:
    """The permission is asked when the server has acknowledged the rest, not when it is queued.

    Otherwise the end could wait in this host's buffer until long after the lease.
    """
    path, read, goes_on = sparse(tmp_path / "data.zip", 2 * MIB), [0], threading.Event()
    asked_at: list[int] = []

    def serve(bucket: Listener, connection: socket.socket) -> None:
        del bucket
        goes_on.wait()
        while part := connection.recv(64 * KIB):
            read[0] += len(part)
            if read[0] > 2 * MIB:
                connection.sendall(STORED)

    def may_finish() -> bool:
        asked_at.append(read[0])
        return True

    sent: list[int] = []
    with Listener(serve) as bucket, http_client() as client, ThreadPoolExecutor(1) as pool:
        # Its small buffer is the only place where bytes may be that it has not read.
        bucket._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        emission = emission_to(client, bucket.url)
        grant = hand_made(bucket.url)
        upload = pool.submit(deliver, emission, path, grant, sent.append, may_finish)
        # This host's buffer takes all of it.
        wait_until(lambda: sum(sent) >= 2 * MIB - END_BYTES, 30, "all but the end is sent")
        goes_on.set()
        upload.result(30)

    assert asked_at[0] > MIB


def test_a_bandwidth_limit_comes_before_the_permission(tmp_path: Path) -> None:
    """A lease that ends while the end of a body waits for bandwidth stops the upload."""
    lost = threading.Event()
    asked: list[bool] = []

    def may_finish() -> bool:
        asked.append(not lost.is_set())
        return asked[-1]

    path = sparse(tmp_path / "data.zip", 1)
    with (
        Listener(answering(STORED)) as bucket,
        http_client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client._throttle.apply_timetable(timetable("1B/s"))
        emission = emission_to(client, bucket.url)
        upload = pool.submit(deliver, emission, path, hand_made(bucket.url), may_finish=may_finish)
        wait_until(lambda: client._throttle._pacer._asked > 0, 30, "the body waits")
        lost.set()
        client._throttle.apply_timetable(None)
        withheld(lambda: upload.result(30))

    assert asked == [False]
    assert not bucket.heard


STOPPED_UPLOAD = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from support.client import deliver, emission_to, hand_made, http_client
url, path, lease_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
until = time.clock_gettime(time.CLOCK_BOOTTIME) + lease_s
with http_client() as client:
    emission = emission_to(client, url)
    may_finish = lambda: time.clock_gettime(time.CLOCK_BOOTTIME) < until
    print(deliver(emission, path, hand_made(url), may_finish=may_finish))
"""


@pytest.mark.parametrize(("pause_s", "whole"), [(0.0, True), (2.5, False)])
def test_a_process_that_was_stopped_beyond_its_lease_does_not_finish(
    tmp_path: Path, pause_s: float, *, whole: bool
) -> None:
    """SIGSTOP in mid-body, for longer than the lease: after SIGCONT the body has no end."""
    size_bytes = 64 * MIB
    begun, goes_on, ended = threading.Event(), threading.Event(), threading.Event()
    read = [0]

    def serve(bucket: Listener, connection: socket.socket) -> None:
        del bucket
        begun.set()
        while part := connection.recv(MIB):
            read[0] += len(part)
            goes_on.wait()
            if read[0] > size_bytes:
                connection.sendall(STORED)
                break
        ended.set()

    path = sparse(tmp_path / "data.zip", size_bytes)
    with Listener(serve) as bucket:
        lease_s = 2.0 if pause_s else 60.0
        arguments = [sys.executable, "-c", STOPPED_UPLOAD, bucket.url, str(path), str(lease_s)]
        uploader = subprocess.Popen(  # noqa: S603  our own argument list
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert begun.wait(60)
        uploader.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_until(lambda: time.monotonic() >= stopped_at + pause_s, 30, "the lease is over")
        goes_on.set()
        uploader.send_signal(signal.SIGCONT)
        _, errors = uploader.communicate(timeout=60)
        assert ended.wait(60)

    assert (read[0] > size_bytes) is whole
    assert (uploader.returncode == 0) is whole, errors
    assert ("lost its claim" in errors) is not whole


def user_timeouts_ms(port: int) -> list[int]:
    """Return TCP_USER_TIMEOUT of this process's connections to a port of loopback."""
    limits = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            number = int(link.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        with connection:
            try:
                if connection.getpeername()[1] == port:
                    limits.append(
                        connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                    )
            except OSError:
                continue
    return limits


def test_the_system_gives_up_the_end_of_a_body_within_the_grace(tmp_path: Path) -> None:
    """Each upload of a connection sets TCP_USER_TIMEOUT for its end, and only for its end.

    A server that pauses in the middle of a body has the usual time.
    """
    under_way: list[list[int]] = []
    at_the_end: list[list[int]] = []
    path = sparse(tmp_path / "data.zip", MIB)
    with Listener(answering(STORED)) as bucket, http_client() as client:
        emission, port = emission_to(client, bucket.url), bucket.port

        def on_sent(size_bytes: int) -> None:
            if size_bytes > END_BYTES:
                under_way.append(user_timeouts_ms(port))

        def may_finish() -> bool:
            at_the_end.append(user_timeouts_ms(port))
            return True

        for _ in range(2):
            deliver(emission, path, hand_made(bucket.url), on_sent, may_finish)
        lines = bucket.lines

    assert lines == 1
    assert at_the_end == [[int(END_MAX_S * 1000)]] * 2
    assert under_way
    assert all(limits == [0] for limits in under_way)


FAR_SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
read, size = b"", None
while size is None or len(read) < size:
    try:
        part = connection.recv(65536)
    except OSError:
        break
    if not part:
        break
    read += part
    head, end, _ = read.partition(b"\\r\\n\\r\\n")
    if end:
        size = len(head) + 4 + int(head.lower().split(b"content-length: ")[1].split()[0])
if len(read) == size:
    print("whole", flush=True)
connection.sendall(sys.argv[2].encode("latin-1"))
connection.recv(1)
"""


@pytest.mark.system
@pytest.mark.parametrize(
    ("outage_s", "stopped", "code"),
    [
        pytest.param(1.0, False, None, id="a short outage loses nothing"),
        pytest.param(END_MAX_S + 4, False, Code.ANSWER_LOST, id="after the grace it is given up"),
        pytest.param(1.0, True, Code.CONNECTION_LOST, id="a stop drops it"),
    ],
)
def test_an_end_that_the_network_holds_up_arrives_within_the_grace_or_never(
    tmp_path: Path, outage_s: float, code: Code | None, *, stopped: bool
) -> None:
    """The network fails just as the end is sent. When it is back, no old end may arrive."""
    path = sparse(tmp_path / "data.zip", MIB)
    with ExitStack() as stack:
        network = stack.enter_context(other_network())
        shutdown = Shutdown()
        emission = emission_to(stack.enter_context(http_client(shutdown=shutdown)), AFAR)
        words = (sys.executable, "-c", FAR_SERVER, network.address, STORED.decode("latin-1"))
        server = stack.enter_context(network.start(*words))
        stack.callback(server.kill)
        assert server.stdout is not None
        grant = hand_made(f"http://{network.address}:{int(server.stdout.readline())}/")
        back = threading.Timer(outage_s, network.plug)

        def may_finish() -> bool:
            network.pull()
            back.start()
            if stopped:
                threading.Timer(0.3, shutdown.now.set).start()
            return True

        errors = []
        try:
            deliver(emission, path, grant, may_finish=may_finish)
        except DeliveryError as error:
            errors.append((error.code, error.ambiguous, back.is_alive()))
        back.join()
        # Nobody told the other side: it waits on. Longer than any packet would be on its way.
        received, _, _ = select.select([server.stdout], [], [], END_MAX_S)
        result = server.stdout.readline() if received else "nothing whole"

    assert result.strip() == ("nothing whole" if code else "whole")
    assert errors == ([(code, True, True)] if code else [])


def test_a_body_that_is_sent_again_needs_another_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closed the idle connection; meanwhile the claim was lost.

    The first body may be stored, so the attempt is ambiguous.
    """
    monkeypatch.setattr(sockets, "IDLE_S", 0.0)

    def serve(bucket: Listener, connection: socket.socket) -> None:
        bucket.hear(connection)
        connection.sendall(STORED)
        bucket.hear(connection)

    answers = [True, True, False]
    path = sparse(tmp_path / "data.zip", SMALL)
    with Listener(serve) as bucket, http_client() as client:
        emission, grant = emission_to(client, AFAR), hand_made(bucket.url)
        deliver(emission, path, grant, may_finish=lambda: answers.pop(0))
        error = withheld(lambda: deliver(emission, path, grant, may_finish=lambda: answers.pop(0)))
        wait_until(lambda: bucket.lines == 2, 30, "the body was begun again")
        heard = len(bucket.heard)

    assert not answers
    assert heard == 2
    assert error.ambiguous


@pytest.mark.parametrize("protocol", ["emission", "ingestion"])
def test_a_file_whose_claim_is_lost_goes_back_to_the_queue(tmp_path: Path, protocol: str) -> None:
    """No attempt is counted, uploads go on, and the next attempt delivers the file."""
    name = f"vsk/{PROGRAM}.zip"
    with rigged(tmp_path, protocol=protocol, process_after_s=0.0) as rig:  # type: ignore[arg-type]
        (rig.root / name).parent.mkdir()
        (rig.root / name).write_bytes(DATA)
        rig.admit(name)
        held = [False]
        worker = rig.another_worker(lambda entry: held[0] and entry.path == name.encode())
        worker.step(time.time())
        row = rig.row(name)

        assert (row["state"], row["attempts"], row["ambiguous"]) == (State.QUEUED, 0, 0)
        assert not rig.server.objects
        assert not rig.server.ingestion.files
        assert rig.destination.down is None

        held[0] = True
        worker.step(time.time())
        assert rig.state(name) is State.DELIVERED
        assert len(rig.server.objects) + len(rig.server.ingestion.files) == 1
