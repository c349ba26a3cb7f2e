"""A lost answer whose grant is spent: the bucket is asked before a second key is."""

import dataclasses
import hashlib
import json
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd.client.emission import NotConfirmed
from emitterd.client.presigned.lookup import StoredObject, stored
from emitterd.codes import Code
from emitterd.delivery.attempt import LOOK_UP_MAX_S
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.work import Execute
from emitterd.model import Confirmation, Grant
from emitterd.rehearsal.faults import FaultStage
from support.client import Listener, answering, emission_to, http_client
from support.faults import ALL_FAULTS
from support.waiting import wait_until
from support.worker import Rig, rigged
from support.zips import zip_bytes

NAME = "pat/exam.zip"
MD5 = hashlib.md5(b"bytes", usedforsecurity=False)
KEY_OF_KMS = {"x-amz-server-side-encryption": "aws:kms"}
MISSING = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
SPENT_S = 20
"""A grant's lifetime below the margin: each attempt needs another one."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose grants are spent by the next attempt."""
    with rigged(tmp_path, grant_lifetime_s=SPENT_S) as rig:
        yield rig


def lose(rig: Rig, fault: str = "lost-answer", name: str = NAME) -> str:
    """Make an attempt whose answer is lost; return the key."""
    rig.faults(f"{fault}@1")
    rig.drop(name)
    rig.step()
    assert rig.server.fired[fault.partition(":")[0]] == 1
    assert rig.row(name)["ambiguous"] == 1
    key: str = rig.row(name)["key"]
    return key


def replace(rig: Rig, key: str, content: bytes, etag: str = "") -> None:
    """Have the bucket hold other bytes under a key, or the same with another ETag."""
    path = rig.root.parent / "other"
    path.write_bytes(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    rig.server.bucket.keep(key, path, len(content), etag or md5)


def alter(rig: Rig, change: Callable[[Grant], Grant]) -> None:
    """Have the journal hold another grant for the file."""
    ((packed,),) = rig.journal.read('select "grant" from entry')
    packed = change(Grant.unpack(packed)).pack()
    rig.journal.store.write(Execute('update entry set "grant" = ?', [(packed,)]))


def aged(grant: Grant) -> Grant:
    """Return a grant so old that nothing is waited for any more."""
    return dataclasses.replace(grant, granted_at=grant.granted_at - LOOK_UP_MAX_S)


def unstamped(grant: Grant) -> Grant:
    """Return a grant as cQube 1.1 and 1.2 give it: the key is the file's name."""
    return dataclasses.replace(grant, fields=grant.fields | {"key": NAME})


def delivered_anew(rig: Rig, key: str, confirmation: str) -> dict[str, Any]:
    """Hold that the file went to a second key, and that the receipt says why."""
    row = rig.row(NAME)
    assert (row["state"], row["ambiguous"]) == ("delivered", 1)
    assert (row["earlier_keys"], row["confirmation"]) == (key, confirmation)
    assert row["key"] != key
    assert row["key"] in rig.server.objects
    [line] = rig.logged("file.unconfirmed")
    assert (line["path"], line["key"]) == (NAME, key)
    assert line["confirmation"] == confirmation
    [line] = rig.logged("file.delivered")
    assert "confirmed" not in line or line["confirmed"] is None
    return dict(row)


def test_an_object_that_is_there_is_delivered(rig: Rig) -> None:
    """One key and one POST: the bucket's word stands for the answer that was lost."""
    key = lose(rig)
    content = (rig.root / NAME).read_bytes()
    rig.later()

    row, [(only, stored_object)] = rig.row(NAME), rig.server.objects.items()
    assert (row["state"], row["key"], stored_object.posts) == ("delivered", only, 1)
    assert only == key
    assert (row["ambiguous"], row["confirmation"]) == (1, "found")
    assert (row["earlier_keys"], row["verified"], row["pinned"]) == (None, 1, 0)
    assert row["etag"] == row["md5"].hex() == stored_object.md5
    assert row["sha256"] == hashlib.sha256(content).digest()
    assert rig.reached("upload-url") == 1
    [line] = rig.logged("file.delivered")
    assert (line["key"], line["confirmed"], line["ambiguous"]) == (key, True, True)
    assert not rig.logged("file.unconfirmed")


@pytest.mark.parametrize("name", ["pat/a b+é#?%41&=.zip", "pat/`x`'\"$(y).zip", "pat/\r\n.zip"])
def test_an_odd_key_is_asked_for_as_it_is(rig: Rig, name: str) -> None:
    """What the url quotes is what the key was."""
    key = lose(rig, name=name)
    rig.later()

    assert list(rig.server.objects) == [key]
    assert rig.row(name)["confirmation"] == "found"


def test_the_bucket_is_asked_once_and_without_the_token(rig: Rig) -> None:
    """The token is the API's alone, for a download too."""
    lose(rig)
    rig.later()

    [asked] = [request for request in rig.server.requests if request.endpoint == "object"]
    assert not asked.authorization_present


def test_an_object_that_is_not_there_stays_ambiguous(rig: Rig) -> None:
    """The server may have taken it already: both keys are on record all the same."""
    key = lose(rig, "reset")
    rig.later()

    delivered_anew(rig, key, "absent")
    assert list(rig.server.objects) == [rig.row(NAME)["key"]]


@pytest.mark.parametrize(
    ("other", "etag"),
    [
        (lambda whole: whole[:-7], ""),
        (lambda whole: whole[:-7], "0123-2"),
        (lambda whole: bytes(len(whole)), ""),
    ],
    ids=["truncated", "truncated-no-md5", "same-size"],
)
def test_other_bytes_are_no_delivery(rig: Rig, other: Callable[[bytes], bytes], etag: str) -> None:
    """A cut object, or another's of the same size, is not taken for the file's."""
    key = lose(rig)
    whole = (rig.root / NAME).read_bytes()
    replace(rig, key, other(whole), etag)
    rig.later()

    row = delivered_anew(rig, key, "other")
    assert rig.server.objects[row["key"]].path.read_bytes() == whole


def test_without_an_md5_the_size_does_under_a_key_of_its_own(rig: Rig) -> None:
    """The server's stamp makes the object this version's; it is not verified."""
    key = lose(rig)
    replace(rig, key, (rig.root / NAME).read_bytes(), "0123-2")
    rig.later()

    row = rig.row(NAME)
    assert (row["state"], row["key"], row["confirmation"]) == ("delivered", key, "found")
    assert (row["etag"], row["verified"]) == ("0123-2", 0)


def test_without_an_md5_a_key_that_all_versions_have_proves_nothing(rig: Rig) -> None:
    """What lies under an unstamped key may be an earlier version of that size."""
    lose(rig)
    alter(rig, unstamped)
    replace(rig, NAME, (rig.root / NAME).read_bytes(), "0123-2")
    rig.later()

    row = rig.row(NAME)
    assert (row["state"], row["confirmation"]) == ("delivered", "unknown")
    assert row["key"] != NAME


LOOK_UPS = {
    "no-lists": None,
    "no-role": None,
    "read-500": Code.API_TROUBLE,
    "download-503": Code.API_TROUBLE,
    "hostile-download": None,
    "object-403": None,
    "object-503": Code.BUCKET_TROUBLE,
}
"""Each fault of a look-up, and its error where it is temporary."""


@pytest.mark.parametrize(("fault", "code"), LOOK_UPS.items(), ids=list(LOOK_UPS))
def test_a_look_up_that_fails_holds_up_nothing(rig: Rig, fault: str, code: Code | None) -> None:
    """What may pass is waited out for hours; then the file goes to a second key."""
    key = lose(rig)
    rig.faults(fault)
    for _ in range(3 if code else 0):
        rig.later()
        row = rig.row(NAME)
        assert (row["state"], row["error"], row["key"]) == ("deferred", code, key)
    assert rig.reached("upload-url") == 1
    alter(rig, aged)
    rig.later()

    assert rig.server.fired[fault] >= 1
    delivered_anew(rig, key, "unknown")
    assert set(rig.server.objects) == {key, rig.row(NAME)["key"]}


@pytest.mark.parametrize("fault", ["download-503", "object-503"])
def test_a_look_up_that_fails_in_passing_is_made_again(rig: Rig, fault: str) -> None:
    """A temporary failure does not lead to a second key."""
    key = lose(rig)
    # The API is asked three times within an attempt.
    rig.faults(f"{fault}@3" if fault == "download-503" else f"{fault}@1")
    rig.later()
    assert rig.row(NAME)["state"] == "deferred"
    rig.later()

    assert rig.server.fired[fault]
    assert list(rig.server.objects) == [key]
    assert rig.row(NAME)["confirmation"] == "found"


def test_every_fault_of_a_look_up_is_tried() -> None:
    """A new fault needs a line in the table."""
    stages = {FaultStage.READ, FaultStage.DOWNLOAD, FaultStage.OBJECT}
    assert {item for item, kind in ALL_FAULTS.items() if kind.stage in stages} == set(LOOK_UPS)


@pytest.mark.parametrize(("fault", "asked"), [("no-lists", 3), ("no-role", 6)])
def test_a_server_without_downloads_stops_no_file(rig: Rig, fault: str, asked: int) -> None:
    """Each file asks, and again with a new token; then it goes to a second key."""
    names = [f"pat/{number}.zip" for number in range(3)]
    rig.faults("lost-answer@3")
    for name in names:
        rig.drop(name)
        rig.step()
    assert rig.server.fired["lost-answer"] == 3
    rig.faults(fault)
    for _ in names:
        rig.later()

    assert rig.reached("download_url") == rig.server.fired[fault] == asked
    assert {rig.row(name)["confirmation"] for name in names} == {"unknown"}
    assert not rig.logged("destination.down")


def test_a_refused_grant_is_looked_up_too(tmp_path: Path) -> None:
    """A grant that the bucket calls expired is spent, even if our clock disagrees."""
    with rigged(tmp_path) as rig:
        key = lose(rig)
        rig.faults("expired@1")
        rig.later()

        assert rig.server.fired["expired"] == 1
        assert (rig.row(NAME)["state"], rig.row(NAME)["key"]) == ("delivered", key)
        assert rig.row(NAME)["confirmation"] == "found"
        assert rig.server.objects[key].posts == 1


def test_a_dropped_grant_is_looked_up_too(tmp_path: Path) -> None:
    """A grant whose signature is refused is no use, but names the place to look."""
    with rigged(tmp_path) as rig:
        key = lose(rig)
        rig.faults("signature@1")
        rig.later()
        assert rig.row(NAME)["error"] == Code.GRANT_REFUSED
        rig.later()

        assert rig.server.fired["signature"] == 1
        assert (rig.row(NAME)["key"], rig.row(NAME)["confirmation"]) == (key, "found")
        assert list(rig.server.objects) == [key]


def test_nothing_is_looked_up_where_nothing_can_be(rig: Rig) -> None:
    """After a refusal nothing is stored: nobody is asked."""
    rig.faults("503@1")
    rig.drop(NAME)
    rig.step()
    rig.later()

    assert rig.server.fired["503"] == 1
    assert rig.reached("download_url") == 0
    assert rig.row(NAME)["confirmation"] is None


def test_a_file_that_changed_is_not_confirmed(rig: Rig) -> None:
    """The version that was sent is withdrawn where the folder has another one."""
    key = lose(rig)
    (rig.root / NAME).write_bytes(zip_bytes(b"another\n"))
    rig.later()

    assert rig.row(NAME)["state"] == "withdrawn"
    assert (rig.row(NAME)["ambiguous"], rig.row(NAME)["key"]) == (1, key)
    assert rig.reached("download_url") == 0


def test_a_stop_ends_a_look_up(rig: Rig) -> None:
    """The entry goes back to the queue uncharged, with the same key."""
    key = lose(rig)
    rig.server.latency_s = 60
    seen = len(rig.server.requests)
    thread = threading.Thread(target=rig.later)
    thread.start()
    wait_until(lambda: len(rig.server.requests) > seen, 20, "the request")
    rig.shutdown.now.set()
    thread.join(30)

    row = rig.row(NAME)
    assert (row["state"], row["key"], row["confirmation"]) == ("queued", key, None)


LOGIN = b'{"access_token": "token", "expires_in": 1800}'


def reply(body: bytes) -> bytes:
    """Return an answer of the API."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def granted(url: str, **more: str) -> Grant:
    """Return a grant of the API at `url`, for its own host's bucket."""
    policy = {"conditions": [{"bucket": "emission"}, {"key": "k"}]}
    fields = {"key": "k", "policy": b64encode(json.dumps(policy).encode()).decode()}
    return Grant(f"{url}/bucket/", fields | more, 0.0, 0.0, url)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (b"file:///etc/passwd", "not http(s)"),
        (b"http://169.254.169.254/latest", "back to this host or link"),
        (b"http://other.invalid/x", "another place"),
        (b"https://bucket.invalid/x", "another place"),
        (b"http://127.0.0.1:0/", "its url is none"),
        (b"<html>Please accept the terms</html>", "not http(s)"),
        (b"http://127.0.0.1/\xff", "its url is none"),
        (b"http://127.0.0.1/\r\nHost: x", "its url is none"),
        (b"", "not http(s)"),
        (b"http://127.0.0.1/" + b"x" * 300_000, "too long"),
    ],
)
def test_a_hostile_url_is_not_fetched(place: bytes, reason: str) -> None:
    """Nothing is asked of another place than the one the body went to."""
    with Listener(answering(reply(LOGIN), reply(place))) as api, http_client() as client:
        url = api.url.rstrip("/")
        with pytest.raises(NotConfirmed, match=re.escape(reason)) as caught:
            emission_to(client, url).stored_object(granted(url))

        assert caught.value.confirmation is Confirmation.UNKNOWN
        assert [request.line.split()[1] for request in api.heard] == ["/auth", "/download_url"]


def test_a_redirected_download_is_not_followed() -> None:
    """Where the bucket sends elsewhere it has not shown the object."""
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n"
    with Listener(answering(moved)) as bucket:
        place = reply(f"{bucket.url}k?X-Amz-Signature=5ec2e7".encode())
        with Listener(answering(reply(LOGIN), place)) as api, http_client() as client:
            url = api.url.rstrip("/")
            with pytest.raises(NotConfirmed, match="answered 307") as caught:
                emission_to(client, url).stored_object(granted(url))

        assert "5ec2e7" not in caught.value.reason
        [asked] = bucket.heard
        assert asked.headers["range"] == "bytes=0-0"
        assert "authorization" not in asked.headers


def test_a_lost_download_shows_no_secret() -> None:
    """The url of a lost answer is signed, so the reason does not contain it."""
    with Listener(answering(b"no HTTP\r\n\r\n")) as bucket:
        place = reply(f"{bucket.url}k?X-Amz-Signature=5ec2e7".encode())
        with Listener(answering(reply(LOGIN), place)) as api, http_client() as client:
            url = api.url.rstrip("/")
            with pytest.raises(DeliveryError) as caught:
                emission_to(client, url).stored_object(granted(url))

    assert (caught.value.decision, caught.value.code) == (Decision.DEFER, Code.CONNECTION_LOST)
    assert not caught.value.ambiguous
    assert "5ec2e7" not in caught.value.reason


@pytest.mark.parametrize(
    "grant",
    [
        granted("http://former.test/data"),
        granted("http://api.test", policy=""),
        granted("http://api.test", policy="bm90IGpzb24="),
        granted("http://api.test", policy=b64encode(b'{"conditions": [1]}').decode()),
        granted("http://api.test", policy=b64encode(b"[]").decode()),
    ],
    ids=["another-api", "no-policy", "not-json", "no-bucket", "no-object"],
)
def test_a_grant_that_names_no_bucket_is_not_looked_up(grant: Grant) -> None:
    """Without the name of the bucket, or at another API, nothing is asked."""
    with http_client() as client, pytest.raises(NotConfirmed) as caught:
        emission_to(client, "http://api.test").stored_object(grant)

    assert caught.value.confirmation is Confirmation.UNKNOWN


HEX = MD5.hexdigest()
ETAG = {"etag": f'"{HEX}"'}
PART = {"content-range": "bytes 0-0/5", **ETAG}


@pytest.mark.parametrize(
    ("status", "headers", "shown"),
    [
        (206, PART, StoredObject(5, HEX, HEX)),
        (206, PART | KEY_OF_KMS, StoredObject(5, HEX, None)),
        (206, PART | {"etag": '"abc-2"'}, StoredObject(5, "abc-2", None)),
        (200, {"content-length": "5", **ETAG}, StoredObject(5, HEX, HEX)),
    ],
    ids=["part", "kms", "multipart", "range-ignored"],
)
def test_an_object_is_read_from_the_answer(
    status: int, headers: dict[str, str], shown: StoredObject
) -> None:
    """Size and ETag are those of the whole object."""
    assert stored(status, headers, b"x") == shown


@pytest.mark.parametrize(
    ("status", "headers", "body", "confirmation"),
    [
        (404, {}, MISSING, Confirmation.ABSENT),
        (404, {}, b"<html>", Confirmation.UNKNOWN),
        (404, {}, MISSING.replace(b"Key", b"Bucket"), Confirmation.UNKNOWN),
        (403, {}, b"<Error><Code>AccessDenied</Code>", Confirmation.UNKNOWN),
        (200, {"content-length": "5"}, b"<html>", Confirmation.UNKNOWN),
        (200, ETAG, b"", Confirmation.UNKNOWN),
        (206, ETAG, b"x", Confirmation.UNKNOWN),
        (206, PART | {"content-range": "bytes 0-0/*"}, b"x", Confirmation.UNKNOWN),
        (206, PART | {"content-range": "bytes 1-1/5"}, b"x", Confirmation.UNKNOWN),
        (204, ETAG, b"", Confirmation.UNKNOWN),
        (301, {"location": "/"}, b"", Confirmation.UNKNOWN),
        (416, {}, b"<Error><Code>InvalidRange</Code>", Confirmation.UNKNOWN),
    ],
)
def test_an_answer_that_shows_no_object(
    status: int, headers: dict[str, str], body: bytes, confirmation: Confirmation
) -> None:
    """Only S3's own NoSuchKey says that nothing is there; the rest says nothing."""
    with pytest.raises(NotConfirmed) as caught:
        stored(status, headers, body)

    assert caught.value.confirmation is confirmation


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(407, Decision.PAUSE)] + [(item, Decision.DEFER) for item in (429, 500, 502, 503, 504)],
)
def test_failure_of_the_bucket_that_passes(status: int, verdict: Decision) -> None:
    """It is waited out, as for a body; and no object can come of a question."""
    with pytest.raises(DeliveryError) as caught:
        stored(status, {"retry-after": "7"}, b"")

    trouble = caught.value
    assert (trouble.decision, trouble.ambiguous) == (verdict, False)
    assert trouble.retry_after_s == 7


def test_what_proves_an_object_to_be_the_file() -> None:
    """The MD5; without one the size, unless other versions have the same key."""
    unverifiable = StoredObject(5, "abc-2", None)

    assert StoredObject(5, HEX, HEX).verify(MD5.digest(), shared_key=True)
    assert not unverifiable.verify(MD5.digest(), shared_key=False)
    with pytest.raises(NotConfirmed, match="no MD5"):
        unverifiable.verify(MD5.digest(), shared_key=True)
    with pytest.raises(NotConfirmed, match="object of MD5"):
        StoredObject(5, HEX, HEX).verify(bytes(16), shared_key=False)
    with pytest.raises(NotConfirmed, match="5 bytes is there, not of 6"):
        StoredObject(5, HEX, HEX).check_size(6)
