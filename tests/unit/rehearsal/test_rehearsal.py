"""The rehearsal server: the protocol, the bucket's checks, and every fault."""

import base64
import hashlib
import http.client
import io
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest

from emitterd.rehearsal.api import emitted_key
from emitterd.rehearsal.bucket import NAME
from emitterd.rehearsal.faults import FaultStage
from emitterd.rehearsal.server import FaultList, FaultListError, RehearsalServer, RequestRecord
from support import waiting
from support.client import make_identity
from support.faults import ALL_FAULTS, fault_list

ZIP = b"PK\x03\x04" + b"some content " * 100
MD5 = hashlib.md5(ZIP, usedforsecurity=False).hexdigest()
FILE = "student_attendance/student_attendance.zip"
DEADLINE_S = 30.0
HANGS_S = 60
"""How long a request hangs that a test does not wait for."""


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Yield one client for all tests: its TLS context is dear to make."""
    with httpx.Client(timeout=DEADLINE_S, trust_env=False) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RehearsalServer]:
    """Yield a running server without faults."""
    with RehearsalServer(tmp_path) as server:
        yield server


class Sender:
    """A client that has logged in."""

    def __init__(self, client: httpx.Client, server: RehearsalServer) -> None:
        self.client = client
        self.server = server
        credentials = {"username": "emission", "password": "rehearsal"}
        answer = client.post(f"{server.url}/auth", json=credentials)
        token = answer.json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def api(self, endpoint: str, **arguments: str) -> httpx.Response:
        """POST these arguments to an endpoint of the API."""
        url = f"{self.server.url}/{endpoint}"
        return self.client.post(url, json=arguments, headers=self.headers)

    def grant(self, filename: str = FILE) -> dict[str, Any]:
        """Ask for a grant."""
        grant: dict[str, Any] = self.api("upload-url", filename=filename).json()
        return grant

    def emit(self, body: bytes = ZIP, filename: str = FILE) -> httpx.Response:
        """Ask for a grant and use it."""
        return post(self.client, self.grant(filename), body)


@pytest.fixture
def sender(client: httpx.Client, server: RehearsalServer) -> Sender:
    """Return a client that has logged in to the server."""
    return Sender(client, server)


def post(client: httpx.Client, grant: dict[str, Any], body: bytes = ZIP) -> httpx.Response:
    """POST a body with a grant."""
    # As a stream: httpx sends bytes in one piece, at a cost that grows by the square.
    files = {"file": io.BytesIO(body)}
    return client.post(grant["url"], data=grant["fields"], files=files)


def code(answer: httpx.Response) -> str:
    """Return the code of S3's error, or nothing."""
    _, _, rest = answer.text.partition("<Code>")
    return rest.partition("</Code>")[0]


def wait_until(predicate: Callable[[], bool], description: str) -> None:
    """Wait for a thing that another thread does."""
    waiting.wait_until(predicate, DEADLINE_S, description)


def form(fields: dict[str, str], *parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body of these fields and parts, and its content type."""
    body = b""
    for name, value in [*((k, v.encode()) for k, v in fields.items()), *parts]:
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_a_login_a_grant_and_a_post_store_one_object(
    sender: Sender, server: RehearsalServer
) -> None:
    """The whole way stores the bytes under the stamped key and answers with the MD5."""
    grant = sender.grant()
    answer = post(sender.client, grant)

    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["etag"] == f'"{MD5}"'
    assert answer.headers["location"].endswith(grant["fields"]["key"])
    stored = server.objects[grant["fields"]["key"]]
    assert stored.path.read_bytes() == ZIP
    assert (stored.size_bytes, stored.md5, stored.posts) == (len(ZIP), MD5, 1)


def test_every_request_is_noted(sender: Sender, server: RehearsalServer) -> None:
    """The notes say which endpoint was asked, for what, and what it answered."""
    began_at = time.time()
    sender.emit()

    assert [(r.endpoint, r.status, r.authorization_present) for r in server.requests] == [
        ("auth", 200, False),
        ("upload-url", 200, True),
        ("bucket", 204, False),
    ]
    note = server.requests[-1]
    assert note.name in server.objects
    assert note.bytes > len(ZIP)
    assert began_at <= note.at <= time.time()
    assert note.fault is None


def test_the_same_grant_overwrites(sender: Sender, server: RehearsalServer) -> None:
    """A second POST under one key leaves one object, counted twice."""
    grant = sender.grant()
    post(sender.client, grant, b"first")
    post(sender.client, grant)

    (stored,) = server.objects.values()
    assert stored.posts == 2
    assert stored.path.read_bytes() == ZIP


def test_the_grant_is_what_upstream_grants(sender: Sender) -> None:
    """Six sorted fields, an exact policy, an hour to live, and the bucket's url."""
    before_at = int(time.time())
    grant = sender.grant()
    fields = grant["fields"]
    policy = json.loads(base64.b64decode(fields["policy"]))

    signed = ("key", "x-amz-algorithm", "x-amz-credential", "x-amz-date")
    assert list(fields) == sorted([*signed, "policy", "x-amz-signature"])
    assert grant["url"] == sender.server.url.replace("/data", "/bucket/")
    conditions = [{"bucket": NAME}, *({name: fields[name]} for name in signed)]
    assert policy["conditions"] == conditions
    expires_at = time.mktime(time.strptime(policy["expiration"], "%Y-%m-%dT%H:%M:%SZ"))
    assert 0 <= expires_at - time.timezone - before_at - 3600 <= 2
    assert fields["x-amz-credential"].endswith("/ap-south-1/s3/aws4_request")


@pytest.mark.parametrize(
    ("filename", "key"),
    [
        ("pat/a.zip", "pat/a_{}.zip"),
        ("noext", "noext_{}"),
        ("x.y/noext", "x_{}.y/noext"),
        ("../a b/é#?.zip", "../a b/é#?_{}.zip"),
        ("folder\\file.zip", "folder\\file_{}.zip"),
    ],
)
def test_the_key_is_stamped_before_the_last_dot(filename: str, key: str) -> None:
    """The stamp is local time, and the whole string's last dot counts."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(1_600_000_000))

    assert emitted_key(filename, 1_600_000_000.9) == key.format(stamp)


@pytest.mark.parametrize("way", ["json", "data", "params"])
def test_the_file_name_comes_in_any_form(sender: Sender, way: str) -> None:
    """JSON, form and query are taken alike."""
    arguments: dict[str, Any] = {way: {"filename": FILE}}
    answer = sender.client.post(
        f"{sender.server.url}/upload-url", headers=sender.headers, **arguments
    )

    assert answer.status_code == 200
    assert answer.json()["fields"]["key"].startswith(FILE[:-4])


@pytest.mark.parametrize("body", [b"{}", b"", b"{not json", b"[]"])
def test_a_grant_without_a_file_name_is_refused(sender: Sender, body: bytes) -> None:
    """No name, or a malformed payload, is a web page with status 400."""
    headers = sender.headers | {"Content-Type": "application/json"}
    url = f"{sender.server.url}/upload-url"
    answer = sender.client.post(url, content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "Bad request, validate the payload" in answer.text


def test_a_wrong_password_is_an_error_with_status_200(
    client: httpx.Client, server: RehearsalServer
) -> None:
    """The login passes the identity server's error on, as upstream does."""
    credentials = {"username": "emission", "password": "wrong"}
    answer = client.post(f"{server.url}/auth", json=credentials)

    assert answer.status_code == 200
    assert answer.json() == {
        "error": "invalid_grant",
        "error_description": "Invalid user credentials",
    }


@pytest.mark.parametrize("header", [None, "Bearer unknown", "Basic eDp5", "Bearer"])
def test_the_api_asks_for_a_token(
    client: httpx.Client, server: RehearsalServer, header: str | None
) -> None:
    """Without a valid token every endpoint but the login answers 401."""
    headers = {} if header is None else {"Authorization": header}
    for endpoint in ("upload-url", "list_s3_files", "download_url"):
        answer = client.post(f"{server.url}/{endpoint}", headers=headers)
        assert answer.status_code == 401
        assert answer.json() == {"message": "Unauthorized"}
    assert client.get(f"{server.url}/list_s3_buckets").status_code == 401


def test_a_token_lives_only_its_time(client: httpx.Client, tmp_path: Path) -> None:
    """An expired token is refused; so is any after they were revoked."""
    with RehearsalServer(tmp_path, token_lifetime_s=0) as server:
        assert Sender(client, server).api("upload-url").status_code == 401
    with RehearsalServer(tmp_path) as server:
        sender = Sender(client, server)
        assert sender.emit().status_code == 204
        server.logins.tokens.clear()
        assert sender.api("upload-url").status_code == 401


def test_an_api_key_replaces_the_login(client: httpx.Client, tmp_path: Path) -> None:
    """With a key the login is gone, as after cQube 1.7, and the key opens the API."""
    with RehearsalServer(tmp_path, api_key="the-key") as server:
        login = client.post(f"{server.url}/auth", json={})
        headers = {"Authorization": "Bearer the-key"}
        url = f"{server.url}/upload-url"
        grant = client.post(url, json={"filename": FILE}, headers=headers)

    assert login.status_code == 404
    assert login.json() == {"message": "no Route matched with those values"}
    assert grant.status_code == 200


def test_a_login_of_its_own_stays_beside_an_api_key(client: httpx.Client, tmp_path: Path) -> None:
    """A user name given together with a key keeps the login open."""
    with RehearsalServer(tmp_path, api_key="k", username="u", password="p") as server:
        credentials = {"username": "u", "password": "p"}
        answer = client.post(f"{server.url}/auth", json=credentials)

    assert "access_token" in answer.json()


def test_an_unknown_path_has_no_route(client: httpx.Client, server: RehearsalServer) -> None:
    """Kong's answer comes for what does not exist, and it is noted."""
    answer = client.post(f"{server.url}/nowhere")

    assert answer.status_code == 404
    assert answer.json() == {"message": "no Route matched with those values"}
    assert (server.requests[-1].endpoint, server.requests[-1].status) == ("unknown", 404)


def test_boto3_signs_the_same_way(sender: Sender, server: RehearsalServer) -> None:
    """A grant made by boto3 with the same keys is accepted."""
    signer = server.bucket.signer
    s3 = boto3.client(
        "s3",
        aws_access_key_id=signer.access_key,
        aws_secret_access_key=signer.secret,
        region_name="ap-south-1",
    )
    grant = s3.generate_presigned_post(NAME, "some/key.zip")
    url = server.url.replace("/data", "/bucket/")
    answer = post(sender.client, grant | {"url": url})

    assert answer.status_code == 204
    assert "some/key.zip" in server.objects


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"x-amz-signature": "0" * 64}, 403, "SignatureDoesNotMatch"),
        ({"policy": "e30="}, 403, "SignatureDoesNotMatch"),
        ({"key": "another.zip"}, 403, "AccessDenied"),
        ({"acl": "public-read"}, 403, "AccessDenied"),
        ({"x-amz-credential": "OTHER/x"}, 403, "InvalidAccessKeyId"),
        ({"x-amz-date": ""}, 400, "InvalidArgument"),
        ({"x-ignore-me": "anything"}, 204, ""),
    ],
)
def test_the_policy_is_kept_to_the_letter(
    sender: Sender, change: dict[str, str], status: int, expected: str
) -> None:
    """Any field changed or added is refused in S3's words, and nothing is stored."""
    grant = sender.grant()
    answer = post(sender.client, grant | {"fields": grant["fields"] | change})

    assert (answer.status_code, code(answer)) == (status, expected)
    assert len(sender.server.objects) == (status == 204)


def test_an_extra_field_is_named(sender: Sender) -> None:
    """S3 says which field was not in the policy."""
    grant = sender.grant()
    grant["fields"]["Content-Type"] = "application/zip"
    answer = post(sender.client, grant)

    message = "Invalid according to Policy: Extra input fields: content-type"
    assert message in answer.text


def test_a_form_without_a_policy_is_denied(sender: Sender) -> None:
    """An anonymous POST is refused."""
    url = sender.grant()["url"]
    answer = sender.client.post(url, data={"key": "x"}, files={"file": ZIP})

    assert (answer.status_code, code(answer)) == (403, "AccessDenied")


def test_an_expired_grant_is_refused(client: httpx.Client, tmp_path: Path) -> None:
    """After its lifetime a grant is worth nothing."""
    with RehearsalServer(tmp_path, grant_lifetime_s=-1) as server:
        answer = Sender(client, server).emit()

        assert (answer.status_code, code(answer)) == (403, "AccessDenied")
        assert "Invalid according to Policy: Policy expired." in answer.text
        assert server.objects == {}


@pytest.mark.parametrize(
    "parts",
    [[], [("file", ZIP), ("late", b"x")], [("file", ZIP), ("file", ZIP)]],
    ids=["none", "field after it", "two"],
)
def test_the_file_comes_once_and_last(sender: Sender, parts: list[tuple[str, bytes]]) -> None:
    """A form without a file, or with anything after it, is refused."""
    grant = sender.grant()
    body, content_type = form(grant["fields"], *parts)
    headers = {"Content-Type": content_type}
    answer = sender.client.post(grant["url"], content=body, headers=headers)

    assert (answer.status_code, code(answer)) == (400, "InvalidArgument")
    assert sender.server.objects == {}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/zip", 412),
        ("multipart/form-data", 412),
        ("multipart/form-data; boundary=other", 400),
        (f"multipart/form-data; boundary={'x' * 300}", 400),
    ],
)
def test_a_body_that_is_no_form_is_refused(sender: Sender, content_type: str, status: int) -> None:
    """What cannot be parsed is answered in XML, with the connection intact."""
    grant = sender.grant()
    body, _ = form(grant["fields"], ("file", ZIP))
    headers = {"Content-Type": content_type}
    answer = sender.client.post(grant["url"], content=body, headers=headers)

    assert answer.status_code == status
    assert code(answer)
    assert sender.server.objects == {}


def test_a_form_cut_off_inside_is_refused(sender: Sender) -> None:
    """A body without the closing boundary is malformed, however it was framed."""
    grant = sender.grant()
    body, content_type = form(grant["fields"], ("file", ZIP))
    headers = {"Content-Type": content_type}
    answer = sender.client.post(grant["url"], content=body[:-20], headers=headers)

    assert (answer.status_code, code(answer)) == (400, "MalformedPOSTRequest")


def test_endless_fields_are_refused(sender: Sender) -> None:
    """Fields are held in memory, so there is a limit to them."""
    grant = sender.grant()
    grant["fields"]["x-ignore-long"] = "x" * 100_000
    answer = post(sender.client, grant)

    assert (answer.status_code, code(answer)) == (400, "MaxPostPreDataLengthExceeded")


@pytest.mark.parametrize("size_bytes", [1001, 3_000_000], ids=["counted", "declared"])
def test_too_large_an_object_is_refused(sender: Sender, size_bytes: int) -> None:
    """One byte above the limit is too much, whether declared or only counted."""
    sender.server.bucket.limit_bytes = 1000
    fits = sender.emit(b"x" * 1000, "fits.zip")
    answer = sender.emit(b"x" * size_bytes, "large.zip")

    assert fits.status_code == 204
    assert (answer.status_code, code(answer)) == (400, "EntityTooLarge")
    assert len(sender.server.objects) == 1


def test_a_body_without_a_length_is_refused(sender: Sender) -> None:
    """S3 takes no chunked POST, and so a client that sends one is found out."""
    grant = sender.grant()
    body, content_type = form(grant["fields"], ("file", ZIP))
    headers = {"Content-Type": content_type}
    answer = sender.client.post(grant["url"], content=iter([body]), headers=headers)

    assert (answer.status_code, code(answer)) == (411, "MissingContentLength")
    assert sender.server.objects == {}


def open_upload(sender: Sender, body: bytes, length_bytes: int) -> socket.socket:
    """Send the head of a POST and a part of its body; return the open socket."""
    parts = urlsplit(sender.server.url)
    line = socket.create_connection((parts.hostname, parts.port or 0))
    head = (
        f"POST /bucket/ HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n"
        f"Content-Length: {length_bytes}\r\n\r\n"
    )
    line.sendall(head.encode() + body)
    return line


def test_a_body_is_streamed_and_dropped_when_cut(
    sender: Sender, server: RehearsalServer, tmp_path: Path
) -> None:
    """What has come is on disk at once, but no object appears if the client goes."""
    body, _ = form(sender.grant()["fields"], ("file", b"x" * 1_000_000))
    incoming = tmp_path / "incoming"
    with open_upload(sender, body[:900_000], len(body)):
        wait_until(lambda: server.requests[-1].bytes == 900_000, "bytes are read")
        (partial,) = incoming.iterdir()
        assert partial.stat().st_size > 890_000
        assert server.objects == {}
    wait_until(lambda: not list(incoming.iterdir()), "the rest is removed")

    assert server.objects == {}
    assert server.requests[-1].status is None


@pytest.mark.parametrize(
    "filename", ["../../outside.zip", "/etc/x.zip", "a\nb\x00.zip", "é" * 250 + ".zip"]
)
def test_no_key_leaves_the_directory(
    sender: Sender, server: RehearsalServer, tmp_path: Path, filename: str
) -> None:
    """Any key is stored and found again, and none becomes a path."""
    grant = sender.grant(filename)
    body, content_type = form(grant["fields"], ("file", ZIP))
    headers = {"Content-Type": content_type}
    answer = sender.client.post(grant["url"], content=body, headers=headers)

    assert answer.status_code == 204
    stored = server.objects[grant["fields"]["key"]]
    assert stored.path.resolve().is_relative_to(tmp_path.resolve())


def test_a_restart_keeps_objects_grants_and_port(client: httpx.Client, tmp_path: Path) -> None:
    """Stopped and started again, on the same object or another, it goes on."""
    server = RehearsalServer(tmp_path)
    with server:
        sender = Sender(client, server)
        grant = sender.grant()
        assert post(client, grant).status_code == 204
        url = server.url
    (tmp_path / "incoming" / "leftover").touch()
    with server:
        assert server.url == url
        assert post(client, grant).status_code == 204
    with RehearsalServer(tmp_path) as other:
        stored = other.objects[grant["fields"]["key"]]

        assert (stored.posts, stored.md5, stored.size_bytes) == (2, MD5, len(ZIP))
        assert not list((tmp_path / "incoming").iterdir())


def test_a_stopped_server_refuses_connections(
    client: httpx.Client, server: RehearsalServer
) -> None:
    """Stopping twice is harmless, and nobody listens afterwards."""
    server.stop()
    server.stop()

    with pytest.raises(httpx.ConnectError):
        client.post(f"{server.url}/auth")


def test_a_running_server_does_not_start_again(server: RehearsalServer, tmp_path: Path) -> None:
    """A second start is a mistake, and so is a port that is taken."""
    with pytest.raises(RuntimeError, match="running"):
        server.start()
    with pytest.raises(OSError, match="in use"):
        RehearsalServer(tmp_path / "other", port=server.port).start()


def test_the_buckets_are_listed(sender: Sender) -> None:
    """The three names come as a text that happens to be JSON."""
    url = f"{sender.server.url}/list_s3_buckets"
    answer = sender.client.get(url, headers=sender.headers)

    assert answer.headers["content-type"].startswith("text/html")
    assert set(json.loads(answer.text)) == {"input", "output", "emission"}
    assert json.loads(answer.text)["emission"] == NAME


def test_the_objects_are_listed(sender: Sender) -> None:
    """The list is boto3's: no Contents when empty, quoted ETags, lexical order."""
    empty = sender.api("list_s3_files", bucket=NAME).json()
    sender.emit(filename="b.zip")
    sender.emit(filename="a.zip")
    listed = sender.api("list_s3_files", bucket=NAME).json()

    assert "Contents" not in empty
    assert [item["Key"][0] for item in listed["Contents"]] == ["a", "b"]
    assert listed["Contents"][0]["ETag"] == f'"{MD5}"'
    assert listed["Contents"][0]["Size"] == len(ZIP)
    assert not listed["IsTruncated"]
    assert "Contents" not in sender.api("list_s3_files", bucket="rehearsal-input").json()
    assert sender.api("list_s3_files", bucket="other").status_code == 400


def test_the_list_ends_after_a_thousand(sender: Sender, server: RehearsalServer) -> None:
    """There is no second page, only a note that the list is cut."""
    sender.emit()
    (stored,) = server.objects.values()
    server.objects.update({f"{n:04}": stored for n in range(1000)})
    listed = sender.api("list_s3_files", bucket=NAME).json()

    assert len(listed["Contents"]) == 1000
    assert listed["IsTruncated"]


def test_an_object_is_fetched_by_a_signed_url(sender: Sender) -> None:
    """The url gives the object, whole or in part, to GET only and unchanged only."""
    sender.emit(filename="x y/é+&.zip")
    (key,) = sender.server.objects
    answer = sender.api("download_url", filename=key, bucket=NAME)
    url = answer.text
    client = sender.client

    assert answer.headers["content-type"].startswith("text/html")
    assert client.get(url).content == ZIP
    assert client.get(url).headers["etag"] == f'"{MD5}"'
    probe = client.get(url, headers={"Range": "bytes=0-0"})
    assert (probe.status_code, probe.content) == (206, ZIP[:1])
    assert client.head(url).status_code == 403
    assert code(client.get(url.replace(".zip", ".zap"))) == "SignatureDoesNotMatch"
    assert client.get(url.partition("?")[0]).status_code == 403


def test_a_missing_object_is_not_found(sender: Sender) -> None:
    """An object that was picked up, or lies in another bucket, is NoSuchKey."""
    sender.emit()
    (key,) = sender.server.objects
    url = sender.api("download_url", filename=key, bucket=NAME).text
    other = sender.api("download_url", filename=key, bucket="rehearsal-input").text
    del sender.server.objects[key]

    for item in (url, other):
        answer = sender.client.get(item)
        assert (answer.status_code, code(answer)) == (404, "NoSuchKey")
    assert sender.api("download_url", bucket=NAME).status_code == 500
    assert sender.api("download_url", filename=key).status_code == 400


@pytest.mark.parametrize(
    ("menu", "status", "expected"),
    [
        ("no-lists", 404, "no Route matched"),
        ("no-role", 401, "Invalid user roles"),
        ("download-503", 503, "invalid response"),
        ("hostile-download", 200, "http://169.254.169.254/"),
    ],
)
def test_a_url_for_a_download_is_withheld(
    sender: Sender, server: RehearsalServer, menu: str, status: int, expected: str
) -> None:
    """The API refuses as its versions do, once, and then gives one that works."""
    sender.emit()
    (key,) = server.objects
    server.faults = fault_list(f"{menu}@1")
    answer = sender.api("download_url", filename=key, bucket=NAME)

    assert server.fired == {menu: 1}
    assert (answer.status_code, expected in answer.text) == (status, True)
    again = sender.api("download_url", filename=key, bucket=NAME)
    assert sender.client.get(again.text).content == ZIP


@pytest.mark.parametrize(
    ("menu", "status", "error"),
    [("object-403", 403, "AccessDenied"), ("object-503", 503, "SlowDown")],
)
def test_a_download_is_refused(
    sender: Sender, server: RehearsalServer, menu: str, status: int, error: str
) -> None:
    """The bucket refuses what is there, and says nothing else of what is not."""
    sender.emit()
    (key,) = server.objects
    url = sender.api("download_url", filename=key, bucket=NAME).text
    server.faults = fault_list(f"{menu}@1")
    answer = sender.client.get(url)

    assert server.fired == {menu: 1}
    assert (answer.status_code, code(answer)) == (status, error)
    assert sender.client.get(url).content == ZIP


def test_an_old_signed_url_is_refused(sender: Sender, server: RehearsalServer) -> None:
    """A signed url lives its time and no longer."""
    host = urlsplit(server.url).netloc
    old_at = time.time() - 100
    query = server.bucket.signer.presign(host, "/bucket/x", old_at, 99)
    answer = sender.client.get(f"http://{host}/bucket/x", params=query)

    assert (answer.status_code, code(answer)) == (403, "AccessDenied")
    assert "Request has expired" in answer.text


def test_with_tls_everything_is_https(tmp_path: Path) -> None:
    """Its url and the grants' lead to itself, over https."""
    identity = make_identity(tmp_path, "rehearsal")
    context = ssl.create_default_context(cafile=identity.certificate)
    with (
        RehearsalServer(tmp_path / "server", tls=identity.server_context()) as server,
        httpx.Client(verify=context, trust_env=False) as client,
    ):
        answer = Sender(client, server).emit()
        grant = Sender(client, server).grant()

    assert answer.status_code == 204
    assert grant["url"] == server.url.replace("/data", "/bucket/")
    assert server.url.startswith("https://")


def test_latency_delays_every_request(client: httpx.Client, tmp_path: Path) -> None:
    """Each request waits that long before it is served."""
    with RehearsalServer(tmp_path, latency_s=0.05) as server:
        began_at = time.monotonic()
        Sender(client, server).emit()

    assert time.monotonic() - began_at >= 0.15


def test_the_first_post_is_redirected_on_request(client: httpx.Client, tmp_path: Path) -> None:
    """A fresh bucket redirects the first POST to its regional address, once."""
    with RehearsalServer(tmp_path, faults=fault_list("redirect@1")) as server:
        grant = Sender(client, server).grant()
        first = post(client, grant)
        second = post(client, grant | {"url": first.headers["location"]})
        third = post(client, grant)

        assert [a.status_code for a in (first, second, third)] == [307, 204, 204]
        assert first.headers["location"].endswith("/bucket-regional/")
        assert server.requests[-2].endpoint == "bucket-regional"
        assert server.fired == {"redirect": 1}


def only(sender: Sender, menu: str) -> None:
    """Set the menu of faults for what comes."""
    sender.server.faults = fault_list(menu)


@pytest.mark.parametrize(
    ("menu", "status", "expected"),
    [
        ("503@1:7", 503, "SlowDown"),
        ("500@1", 500, "InternalError"),
        ("expired@1", 403, "AccessDenied"),
        ("denied@1", 403, "AccessDenied"),
        ("filter@1", 403, ""),
        ("signature@1", 403, "SignatureDoesNotMatch"),
        ("no-such-bucket@1", 404, "NoSuchBucket"),
        ("too-large@1", 400, "EntityTooLarge"),
        ("request-timeout@1", 400, "RequestTimeout"),
        ("captive-portal@1", 200, ""),
        ("redirect@1", 307, "TemporaryRedirect"),
        ("redirect-foreign@1", 307, "TemporaryRedirect"),
    ],
)
def test_a_refusal_stores_nothing(
    sender: Sender, server: RehearsalServer, menu: str, status: int, expected: str
) -> None:
    """The fault answers once in the bucket's stead; the next POST is taken."""
    only(sender, menu)
    grant = sender.grant()
    answer = post(sender.client, grant)
    stored = dict(server.objects)
    again = post(sender.client, grant)

    name = menu.partition("@")[0]
    assert (answer.status_code, code(answer)) == (status, expected)
    assert answer.headers.get("retry-after") == ("7" if name == "503" else None)
    assert stored == {}
    assert again.status_code == 204
    assert server.fired == {name: 1}
    assert [r.fault for r in server.requests[-2:]] == [name, None]


def test_a_redirect_leads_to_a_place_that_accepts(sender: Sender, server: RehearsalServer) -> None:
    """However often the global place redirects, the regional one never does."""
    only(sender, "redirect")
    grant = sender.grant()
    answer = post(sender.client, grant)
    followed = post(sender.client, grant | {"url": answer.headers["location"]})

    assert followed.status_code == 204
    assert server.fired == {"redirect": 1}
    only(sender, "redirect-foreign")
    foreign = post(sender.client, grant).headers["location"]
    assert foreign == "http://other.invalid/"


@pytest.mark.parametrize(
    ("menu", "status"),
    [
        ("429@1:3", 429),
        ("api-500@1", 500),
        ("api-503@1", 503),
        ("api-401@1", 401),
        ("api-captive-portal@1", 200),
        ("malformed-grant@1", 200),
        ("deep-grant@1", 200),
    ],
)
def test_a_grant_is_withheld(sender: Sender, menu: str, status: int) -> None:
    """The fault answers in the API's stead with what is no grant; then all is well."""
    only(sender, menu)
    answer = sender.api("upload-url", filename=FILE)

    name = menu.partition("@")[0]
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == ("3" if name == "429" else None)
    with pytest.raises((ValueError, KeyError, RecursionError)):
        answer.json()["fields"]
    assert sender.server.fired == {name: 1}
    assert sender.emit().status_code == 204


@pytest.mark.parametrize(
    ("name", "url"),
    [("hostile-grant", "file:///etc/passwd"), ("hostile-link-local", "http://169.254.169.254/")],
)
def test_a_grant_is_hostile(sender: Sender, name: str, url: str) -> None:
    """The grant is whole, but its url leads astray."""
    only(sender, f"{name}@1")
    grant = sender.grant()

    assert grant["url"] == url
    assert "policy" in grant["fields"]
    assert sender.server.fired == {name: 1}


def test_a_grant_is_huge_or_lacks_fields(sender: Sender) -> None:
    """Ten megabytes of grant, and one with a key alone."""
    only(sender, "huge-grant@1,grant-missing-fields@1")
    huge = sender.api("upload-url", filename=FILE)
    poor = sender.grant()

    assert len(huge.content) > 10_000_000
    assert list(poor["fields"]) == ["key"]
    assert sender.server.fired == {"huge-grant": 1, "grant-missing-fields": 1}


def test_a_login_fails(client: httpx.Client, server: RehearsalServer) -> None:
    """The right password is refused, or the login breaks, and then it works."""
    server.faults = fault_list("auth-error@1,auth-500@1")
    credentials = {"username": "emission", "password": "rehearsal"}
    answers = [client.post(f"{server.url}/auth", json=credentials) for _ in range(3)]

    assert [a.status_code for a in answers] == [200, 500, 200]
    assert answers[0].json()["error"] == "invalid_grant"
    assert "access_token" in answers[2].json()
    assert server.fired == {"auth-error": 1, "auth-500": 1}


@pytest.mark.parametrize("name", ["lost-answer", "truncated-answer", "garbage"])
def test_an_answer_is_lost_after_the_object_was_stored(
    sender: Sender, server: RehearsalServer, name: str
) -> None:
    """The client hears nothing useful, yet the object is there; a retry overwrites."""
    only(sender, f"{name}@1")
    grant = sender.grant()
    with pytest.raises(httpx.RemoteProtocolError):
        post(sender.client, grant)
    (stored,) = server.objects.values()

    assert stored.posts == 1
    assert server.fired == {name: 1}
    assert (server.requests[-1].status, server.requests[-1].fault) == (None, name)
    assert post(sender.client, grant).status_code == 204
    assert server.objects[stored.key].posts == 2


@pytest.mark.parametrize("name", ["wrong-etag", "non-md5-etag", "kms-etag"])
def test_an_etag_is_bent(sender: Sender, server: RehearsalServer, name: str) -> None:
    """The object is stored right, but the answer's ETag is not its MD5."""
    only(sender, f"{name}@1")
    answer = sender.emit()
    etag = answer.headers["etag"].strip('"')

    assert answer.status_code == 204
    assert etag != MD5
    assert etag.endswith("-2") == (name == "non-md5-etag")
    (stored,) = server.objects.values()
    assert stored.md5 == MD5
    assert server.fired == {name: 1}


@pytest.mark.parametrize("menu", ["slow-grant@1:0.2", "slow-answer@1:0.2", "dribble@1:0.001"])
def test_an_answer_is_slow(sender: Sender, server: RehearsalServer, menu: str) -> None:
    """The answer takes its time, and is right in the end."""
    only(sender, menu)
    began_at = time.monotonic()
    answer = sender.emit()

    assert time.monotonic() - began_at >= 0.1
    assert (answer.status_code, answer.headers["etag"]) == (204, f'"{MD5}"')
    assert server.requests[-1].status == 204
    assert server.fired == {menu.partition("@")[0]: 1}


def test_a_reader_is_slow(sender: Sender, server: RehearsalServer) -> None:
    """The body is read at the rate asked for, and then accepted."""
    only(sender, "slow-reader@1:1000000")
    began_at = time.monotonic()
    answer = sender.emit(b"x" * 300_000)

    assert answer.status_code == 204
    assert time.monotonic() - began_at >= 0.3
    assert server.fired == {"slow-reader": 1}


@pytest.mark.parametrize("menu", ["reset@1", "reset@1:100", "reset@1:9000000000"])
def test_a_connection_is_reset_in_mid_body(
    sender: Sender, server: RehearsalServer, menu: str
) -> None:
    """Wherever the cut is, nothing is stored and the next attempt works."""
    only(sender, menu)
    grant = sender.grant()
    # Where a write meets the reset, httpx hides it and then reads the end.
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        post(sender.client, grant, ZIP * 1000)

    assert server.objects == {}
    assert server.fired == {"reset": 1}
    assert server.requests[-1].status is None
    assert post(sender.client, grant).status_code == 204


def test_a_connection_is_reset_at_once(server: RehearsalServer) -> None:
    """The first connection dies as it is accepted, the second is served."""
    server.faults = fault_list("reset-connect@1")
    parts = urlsplit(server.url)
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        ask(parts.netloc)

    assert ask(parts.netloc) == 404
    assert server.fired == {"reset-connect": 1}
    assert [r.endpoint for r in server.requests] == ["connect", "unknown"]


def ask(netloc: str) -> int:
    """Make one request on a connection of its own; return the status."""
    connection = http.client.HTTPConnection(netloc, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            return answer.status
    finally:
        connection.close()


def test_an_early_403_comes_before_the_body_is_read(
    sender: Sender, server: RehearsalServer
) -> None:
    """The refusal is readable although most of a large body was never sent."""
    only(sender, "early-403@1")
    answer = sender.emit(b"x" * 64_000_000)

    assert (answer.status_code, code(answer)) == (403, "AccessDenied")
    assert answer.headers["connection"] == "close"
    assert server.fired == {"early-403": 1}
    assert server.requests[-1].bytes == 0


def test_a_black_hole_gives_no_answer(sender: Sender, server: RehearsalServer) -> None:
    """A client waits in vain, until the fault's time is over."""
    only(sender, "black-hole@1,black-hole@1:0.05")
    grant = sender.grant()
    with pytest.raises(httpx.TimeoutException):
        sender.client.post(grant["url"], data=grant["fields"], files={"file": ZIP}, timeout=0.1)
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        post(sender.client, grant)

    assert server.fired == {"black-hole": 2}
    assert server.objects == {}


@pytest.mark.parametrize("menu", ["black-hole", f"slow-answer@1:{HANGS_S}", f"dribble@1:{HANGS_S}"])
def test_a_stop_does_not_wait_for_hanging_requests(
    sender: Sender, server: RehearsalServer, menu: str
) -> None:
    """However a request hangs, the server is gone long before the request ends."""
    only(sender, menu)
    body, _ = form(sender.grant()["fields"], ("file", ZIP))
    with open_upload(sender, body, len(body)):
        wait_until(lambda: bool(server.fired), "the fault has struck")
        began_at = time.monotonic()
        server.stop()

    assert time.monotonic() - began_at < HANGS_S / 2


def test_many_uploads_at_once_are_all_stored(sender: Sender, server: RehearsalServer) -> None:
    """Concurrent uploads do not mix, and each note is complete."""
    grants = [sender.grant(f"{n}.zip") for n in range(8)]
    bodies = [str(n).encode() * 500_000 for n in range(8)]
    statuses: list[int] = []

    def send(number: int) -> None:
        answer = post(sender.client, grants[number], bodies[number])
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [204] * 8
    for grant, body in zip(grants, bodies, strict=True):
        assert server.objects[grant["fields"]["key"]].path.read_bytes() == body


def test_the_server_is_quiet(
    sender: Sender, server: RehearsalServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither requests nor broken ones leave a line in the log."""
    with caplog.at_level(logging.DEBUG):
        sender.emit()
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port or 0)) as line:
            line.sendall(b"no http at all\r\n\r\n")
            line.recv(1000)

    assert not [r for r in caplog.records if r.name.startswith("uvicorn")]


def test_a_menu_names_unknown_faults_and_the_known_ones() -> None:
    """A typing error is answered with the whole menu."""
    with pytest.raises(FaultListError) as caught:
        fault_list("503:0.2,lost-anwser")

    assert "'lost-anwser'" in str(caught.value)
    for name in ALL_FAULTS:
        assert name in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "text",
    [
        "503:2",
        "503:-1",
        "503:often",
        "503:0.5:x",
        "503:0.5:1:2",
        "503:nan",
        "503:1:inf",
        "503@",
        "503@x",
        "503@-1",
        "503@1:2:3",
    ],
)
def test_a_menu_that_cannot_be_read_says_where(text: str) -> None:
    """The item at fault is in the message."""
    with pytest.raises(FaultListError, match=text.replace(".", r"\.")):
        fault_list(f"500,{text}")


def draws(menu: FaultList, count: int) -> list[str]:
    """Draw for so many uploads that could be refused."""
    found = (menu.draw(FaultStage.REFUSE) for _ in range(count))
    return [fault.name if fault else "" for fault in found]


def test_a_counted_fault_strikes_the_first_requests() -> None:
    """`name@N` is exact, and the items take their turns in the order of the text."""
    menu = fault_list(" 503@2 , 500@1,, lost-answer ")

    assert draws(menu, 5) == ["503", "503", "500", "", ""]
    assert draws(fault_list("503@0"), 2) == ["", ""]
    assert draws(fault_list(""), 2) == ["", ""]


def test_a_seed_makes_chance_repeatable() -> None:
    """The same seed gives the same faults, in about the share asked for."""
    first, second = (draws(fault_list("503:0.2,500:0.5", seed=7), 1000) for _ in range(2))

    assert first == second
    assert 150 < first.count("503") < 250
    assert 350 < first.count("500") < 450


def test_a_fault_carries_its_parameter() -> None:
    """A parameter is taken from the text, or else from the catalogue of faults."""
    menu = fault_list("503@1:9,dribble@1,slow-answer:1:0.5")

    refused = menu.draw(FaultStage.REFUSE)
    dribble = menu.draw(FaultStage.ANSWER)
    slow = menu.draw(FaultStage.ANSWER)
    assert refused is not None
    assert refused.parameter == 9
    assert dribble is not None
    assert dribble.parameter == 0.5
    assert slow is not None
    assert slow.parameter == 0.5


def test_every_fault_is_tried_here() -> None:
    """No fault on the menu is without a test that orders it by name."""
    files = Path(__file__).parent.glob("*.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)

    missing = [name for name in ALL_FAULTS if f'"{name}' not in text]
    in_lists = [name for name in missing if f",{name}@" not in text]
    assert in_lists == []


def test_a_note_starts_without_an_answer() -> None:
    """A request is noted before anybody knows how it ends."""
    note = RequestRecord(0.0, "bucket")

    assert (note.status, note.fault, note.bytes, note.name) == (None, None, 0, "")
