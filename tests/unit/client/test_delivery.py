"""One file to the bucket: the body, the receipt, and what each fault means."""

import email.parser
import email.policy
import hashlib
import os
import socket
from pathlib import Path

import pytest

from emitterd.client import sockets
from emitterd.client.presigned.client import PresignedClient
from emitterd.client.sockets import TransferLimits
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Grant, Receipt
from emitterd.rehearsal.server import RehearsalServer
from support.client import (
    Listener,
    answering,
    asked,
    deliver,
    emission_to,
    hand_made,
    http_client,
    proxy_to,
    sparse,
)
from support.faults import fault_list
from support.zips import make_zip

AFAR = "http://cqube.example.test/data"
MIB = 1024 * 1024
LARGE_BYTES = 24 * MIB
"""More than the kernel's buffers take: it goes out only while somebody reads."""

BRISK = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=100 * MIB)
LATE = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a small zip."""
    return make_zip(tmp_path / "small.zip")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a sparse file that is larger than all buffers."""
    return sparse(tmp_path / "large.zip", LARGE_BYTES)


def trouble_of(emission: PresignedClient, path: Path, grant: Grant | None = None) -> DeliveryError:
    """Deliver what must not succeed."""
    with pytest.raises(DeliveryError) as caught:
        deliver(emission, path, grant)
    return caught.value


def stored_answer(etag: str) -> bytes:
    """Return a bucket's 204."""
    return f"HTTP/1.1 204 No Content\r\nETag: {etag}\r\n\r\n".encode()


@pytest.mark.parametrize("size", [0, 1, 512 * 1024, 512 * 1024 + 1, 3 * MIB])
def test_a_delivery_gives_a_receipt(
    emission: PresignedClient, server: RehearsalServer, tmp_path: Path, size: int
) -> None:
    """The receipt holds key, digests and ETag, and the object is the file."""
    content = os.urandom(size)
    path = tmp_path / "data.zip"
    path.write_bytes(content)
    sent: list[int] = []
    receipt = deliver(emission, path, on_sent=sent.append)

    [(key, stored)] = server.objects.items()
    md5 = hashlib.md5(content, usedforsecurity=False)
    assert stored.path.read_bytes() == content
    assert receipt == Receipt(
        key=key,
        etag=md5.hexdigest(),
        size_bytes=size,
        md5=md5.digest(),
        sha256=hashlib.sha256(content).digest(),
        verified=True,
    )
    # The file and the form around it, without the headers of the request.
    [post] = [request for request in server.requests if request.endpoint == "bucket"]
    assert size < sum(sent) < size + 4096
    assert sum(sent) == post.bytes


def test_the_token_stays_with_the_api(
    emission: PresignedClient, server: RehearsalServer, small: Path
) -> None:
    """No Authorization header reaches the bucket or the target of its redirect."""
    server.faults = fault_list("redirect@1")
    deliver(emission, small)
    present = {request.endpoint: request.authorization_present for request in server.requests}

    assert server.fired["redirect"] == 1
    assert present == {"auth": False, "upload-url": True, "bucket": False, "bucket-regional": False}


def test_the_body_is_the_grants_fields_and_then_the_file(small: Path) -> None:
    """Nothing is added to the form, the file stands last, the length is declared."""
    etag = hashlib.md5(small.read_bytes(), usedforsecurity=False).hexdigest()
    with Listener(answering(stored_answer(f'"{etag}"'))) as bucket, http_client() as client:
        grant = hand_made(bucket.url)
        deliver(emission_to(client, AFAR), small, grant)
        [request] = bucket.heard
    kind = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    parts = list(parser.parsebytes(kind + request.body).iter_parts())
    names = [part.get_param("name", header="content-disposition") for part in parts]

    assert int(request.headers["content-length"]) == len(request.body)
    assert "transfer-encoding" not in request.headers
    assert names == ["key", "policy", "o%22dd", "x-amz-date", "file"]
    values = [part.get_payload(decode=True) for part in parts]
    assert values[:-1] == [value.encode() for value in grant.fields.values()]
    assert values[-1] == small.read_bytes()
    assert small.name.encode() not in request.body


@pytest.mark.parametrize(
    ("menu", "verdict", "code", "ambiguous"),
    [
        ("503:1:7", Decision.DEFER, Code.BUCKET_TROUBLE, False),
        ("500", Decision.DEFER, Code.BUCKET_TROUBLE, True),
        ("request-timeout", Decision.DEFER, Code.BUCKET_TROUBLE, False),
        ("expired", Decision.RENEW_GRANT, Code.GRANT_EXPIRED, False),
        ("signature", Decision.PAUSE, Code.GRANT_REFUSED, False),
        ("no-such-bucket", Decision.PAUSE, Code.NO_SUCH_BUCKET, False),
        ("too-large", Decision.REJECT, Code.BODY_REFUSED, False),
        ("captive-portal", Decision.PAUSE, Code.NOT_A_BUCKET, True),
        ("redirect-foreign", Decision.PAUSE, Code.REDIRECT_REFUSED, False),
        ("lost-answer", Decision.DEFER, Code.ANSWER_LOST, True),
        ("truncated-answer", Decision.DEFER, Code.ANSWER_LOST, True),
        ("garbage", Decision.DEFER, Code.ANSWER_LOST, True),
    ],
)
def test_each_fault_of_the_bucket_has_its_meaning(
    server: RehearsalServer,
    small: Path,
    menu: str,
    verdict: Decision,
    code: Code,
    *,
    ambiguous: bool,
) -> None:
    """What the bucket answers, or fails to, decides what the journal does."""
    server.faults = fault_list(menu)
    with proxy_to(server) as proxy, http_client(proxy=proxy.url) as client:
        caught = trouble_of(emission_to(client, AFAR), small)
        hosts = {request.headers["host"] for request in proxy.heard}

    assert server.fired == {menu.partition(":")[0]: 1}
    assert (caught.decision, caught.code) == (verdict, code)
    assert caught.ambiguous is ambiguous
    assert caught.retry_after_s == (7.0 if menu == "503:1:7" else None)
    assert hosts == {"cqube.example.test"}
    assert len(server.objects) == (code is Code.ANSWER_LOST)


@pytest.mark.parametrize(
    ("menu", "code", "ambiguous", "limits"),
    [
        ("reset:1:1", Code.CONNECTION_LOST, False, LATE),
        ("black-hole", Code.TOO_SLOW, False, LATE),
        ("slow-reader:1:65536", Code.TOO_SLOW, False, BRISK),
        ("slow-answer:1:60", Code.ANSWER_LOST, True, LATE),
        ("dribble:1:0.1", Code.ANSWER_LOST, True, LATE),
    ],
)
def test_a_line_that_breaks_or_stalls_is_deferred(
    server: RehearsalServer,
    large: Path,
    menu: str,
    code: Code,
    limits: TransferLimits,
    *,
    ambiguous: bool,
) -> None:
    """Only what happens after the last byte may have left an object behind."""
    server.faults = fault_list(menu)
    with http_client(limits) as client:
        caught = trouble_of(emission_to(client, server.url), large)

    assert server.fired == {menu.partition(":")[0]: 1}
    assert (caught.decision, caught.code) == (Decision.DEFER, code)
    assert caught.ambiguous is ambiguous
    assert len(server.objects) == ambiguous


def test_an_answer_that_is_late_is_an_answer(
    emission: PresignedClient, server: RehearsalServer, small: Path
) -> None:
    """A bucket may take its time within the limit."""
    server.faults = fault_list("slow-answer@1:0.5")

    assert deliver(emission, small).verified
    assert server.fired["slow-answer"] == 1


def test_an_early_refusal_saves_the_rest_of_the_body(
    emission: PresignedClient, server: RehearsalServer, tmp_path: Path
) -> None:
    """An answer before the end is read, and the rest of the file stays here."""
    server.faults = fault_list("early-403")
    sent: list[int] = []
    path = sparse(tmp_path / "huge.zip", 256 * MIB)
    with pytest.raises(DeliveryError) as caught:
        deliver(emission, path, on_sent=sent.append)

    assert server.fired["early-403"] == 1
    assert (caught.value.decision, caught.value.code) == (Decision.DEFER, Code.GRANT_REFUSED)
    assert sum(sent) < 128 * MIB


def test_a_success_before_the_end_is_none(large: Path) -> None:
    """A 204 to a body that was not sent whole is no delivery."""

    def hasty(bucket: Listener, connection: socket.socket) -> None:
        del bucket
        connection.recv(65536)
        connection.sendall(stored_answer('"0123"'))

    with Listener(hasty) as bucket, http_client() as client:
        caught = trouble_of(emission_to(client, AFAR), large, hand_made(bucket.url))

    assert (caught.decision, caught.code) == (Decision.DEFER, Code.CONNECTION_LOST)
    assert not caught.ambiguous


@pytest.mark.parametrize("fault", ["non-md5-etag", "kms-etag"])
def test_an_etag_that_is_no_md5_is_taken_unverified(
    emission: PresignedClient, server: RehearsalServer, small: Path, fault: str
) -> None:
    """An object encrypted with a key of KMS is delivered, and the receipt says how."""
    server.faults = fault_list(fault)
    receipt = deliver(emission, small)

    assert server.fired[fault] == 1
    assert not receipt.verified
    assert receipt.etag != receipt.md5.hex()


def test_an_etag_of_other_bytes_is_no_delivery(
    emission: PresignedClient, server: RehearsalServer, small: Path
) -> None:
    """What the bucket stored is not what was sent: it is sent again."""
    server.faults = fault_list("wrong-etag@1")
    caught = trouble_of(emission, small)

    assert server.fired["wrong-etag"] == 1
    assert (caught.decision, caught.code) == (Decision.DEFER, Code.ETAG_MISMATCH)
    assert deliver(emission, small).verified


@pytest.mark.parametrize("form", ['"{}"', "{}", 'W/"{}"', '"{}" '])
@pytest.mark.parametrize("upper", [True, False])
def test_an_etag_may_be_spelt_in_many_ways(small: Path, form: str, *, upper: bool) -> None:
    """Quotes, a weak mark and capital letters are spelling, not content."""
    etag = hashlib.md5(small.read_bytes(), usedforsecurity=False).hexdigest()
    answer = stored_answer(form.format(etag.upper() if upper else etag))
    with Listener(answering(answer)) as bucket, http_client() as client:
        assert deliver(emission_to(client, AFAR), small, hand_made(bucket.url)).verified


def test_a_redirect_is_followed_once_with_the_whole_body(
    emission: PresignedClient, server: RehearsalServer, large: Path
) -> None:
    """The regional host of a new bucket gets all fields and the whole file."""
    server.faults = fault_list("redirect")
    receipt = deliver(emission, large)

    assert server.fired["redirect"] == 1
    assert [request.status for request in asked(server, "bucket")] == [307]
    assert [request.status for request in asked(server, "bucket-regional")] == [204]
    [stored] = server.objects.values()
    assert (stored.key, stored.size_bytes) == (receipt.key, LARGE_BYTES)
    assert receipt.verified


def test_a_second_redirect_is_refused(small: Path) -> None:
    """A bucket that redirects in circles gets two bodies and no third."""
    circle = b"HTTP/1.1 307 T\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"
    with Listener(answering(circle)) as bucket, http_client() as client:
        caught = trouble_of(emission_to(client, bucket.url), small, hand_made(bucket.url))
        assert len(bucket.heard) == 2

    assert (caught.decision, caught.code) == (Decision.PAUSE, Code.REDIRECT_REFUSED)


@pytest.fixture
def stored(small: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the bucket's answer to a small file; each used connection counts as idle."""
    monkeypatch.setattr(sockets, "IDLE_S", 0.0)
    etag = hashlib.md5(small.read_bytes(), usedforsecurity=False).hexdigest()
    return stored_answer(f'"{etag}"')


def test_an_upload_on_a_connection_that_ended_is_repeated_at_once(
    small: Path, stored: bytes
) -> None:
    """If the server closes an idle connection, no failed attempt is counted, and nothing waits.

    The receipt says that the server may have had the first body as well.
    """

    def serve(bucket: Listener, connection: socket.socket) -> None:
        bucket.hear(connection)
        connection.sendall(stored)
        # Closed on this side once the next request is there: the client cannot know it.
        bucket.hear(connection)

    with Listener(serve) as bucket, http_client() as client:
        emission = emission_to(client, AFAR)
        receipts = [deliver(emission, small, hand_made(bucket.url)) for _ in range(2)]

        assert len(bucket.heard) == 3
        assert bucket.lines == 2
    assert [receipt.verified for receipt in receipts] == [True, True]
    assert [receipt.ambiguous for receipt in receipts] == [False, True]


def test_what_was_ambiguous_before_the_repetition_stays_so(small: Path, stored: bytes) -> None:
    """A request without an answer may have stored the object, also if the next one is refused."""

    def serve(bucket: Listener, connection: socket.socket) -> None:
        bucket.hear(connection)
        if bucket.lines > 1:
            connection.sendall(b"HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n")
            return
        connection.sendall(stored)
        bucket.hear(connection)

    with Listener(serve) as bucket, http_client() as client:
        emission = emission_to(client, AFAR)
        deliver(emission, small, hand_made(bucket.url))
        caught = trouble_of(emission, small, hand_made(bucket.url))

        assert len(bucket.heard) == 3
    assert (caught.code, caught.ambiguous) == (Code.BUCKET_TROUBLE, True)


def test_an_illegal_header_line_defers_the_file_and_names_the_header(small: Path) -> None:
    """The object may be there; the operator reads which header is wrong."""
    answer = b"HTTP/1.1 204 No Content\r\nX Bad: 1\r\n\r\n"
    with Listener(answering(answer)) as bucket, http_client() as client:
        caught = trouble_of(emission_to(client, AFAR), small, hand_made(bucket.url))
        assert len(bucket.heard) == 1

    assert (caught.decision, caught.code) == (Decision.DEFER, Code.NOT_A_BUCKET)
    assert caught.ambiguous
    assert "illegal header line: X Bad" in caught.reason
