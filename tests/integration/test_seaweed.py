"""What a real S3 engine says to grants that boto3 signed.

These hold the equipment of the end-to-end tests itself; the exact answers are those of
SeaweedFS, and the daemon must read them right.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from support.seaweed import BotoEmission, Seaweed, empty, listening, objects, read, stamped
from support.waiting import wait_until

pytest_plugins = ["support.seaweed"]

NAME = "student_attendance/student_attendance.zip"
CHUNK = 4 * 2**20  # SeaweedFS cuts larger objects into chunks of this size


@pytest.fixture
def emission(seaweed: Seaweed) -> Iterator[BotoEmission]:
    """Serve an emission API on an empty bucket."""
    empty(seaweed)
    with BotoEmission(seaweed) as api:
        yield api


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """Open a client that no proxy setting of the machine leads astray."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


def ask(http: httpx.Client, emission: BotoEmission, name: str = NAME) -> dict[str, Any]:
    """Ask for a grant as upstream's client does, form-encoded, with the API key."""
    answer = http.post(
        f"{emission.url}/upload-url",
        data={"filename": name},
        headers={"Authorization": f"Bearer {emission.api_key}"},
    )
    assert answer.status_code == 200
    grant: dict[str, Any] = answer.json()
    return grant


def send(http: httpx.Client, grant: dict[str, Any], body: bytes, **more: str) -> httpx.Response:
    """Post the body with the grant's fields, and any `more`, before it."""
    return http.post(
        grant["url"],
        data={**grant["fields"], **more},
        files={"file": ("a.zip", body, "application/zip")},
    )


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """Return status, code and message of S3's XML error."""
    assert answer.headers["content-type"] == "application/xml"
    tree = ET.fromstring(answer.text)  # noqa: S314  from our own engine
    assert tree.tag == "Error"
    return answer.status_code, tree.findtext("Code", ""), tree.findtext("Message", "")


@pytest.mark.parametrize("size", [0, 5, 2 * CHUNK + 7])
def test_a_grant_is_accepted_with_the_md5_as_etag(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client, size: int
) -> None:
    """The engine takes the body whole and answers 204 with its quoted MD5."""
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()

    grant = ask(http, emission)
    answer = send(http, grant, body)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["etag"] == f'"{md5}"'
    assert objects(seaweed) == {grant["fields"]["key"]: md5}
    assert read(seaweed, grant["fields"]["key"]) == body


def test_an_expired_grant_is_refused(emission: BotoEmission, http: httpx.Client) -> None:
    """The engine says AccessDenied, "Policy expired", once the lifetime is over."""
    emission.grant_lifetime_s = 1
    grant = ask(http, emission)

    def refusal() -> httpx.Response | None:
        answer = send(http, grant, b"late")
        return None if answer.status_code == 204 else answer

    assert error(wait_until(refusal, 10, "expiry of the grant")) == (
        403,
        "AccessDenied",
        "Invalid according to Policy: Policy expired",
    )


def test_a_tampered_signature_is_refused(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client
) -> None:
    """The engine says SignatureDoesNotMatch and stores nothing."""
    emission.tamper = True

    status, code, _ = error(send(http, ask(http, emission), b"forged"))

    assert (status, code) == (403, "SignatureDoesNotMatch")
    assert objects(seaweed) == {}


def test_an_extra_metadata_field_is_refused(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client
) -> None:
    """A metadata field that the policy does not name makes the engine refuse."""
    answer = send(http, ask(http, emission), b"more", **{"x-amz-meta-note": "hello"})

    assert error(answer) == (
        403,
        "AccessDenied",
        "Invalid according to Policy: Extra input fields: X-Amz-Meta-Note",
    )
    assert objects(seaweed) == {}


@pytest.mark.parametrize("field", ["Content-Type", "acl", "tagging", "foreign"])
def test_other_extra_fields_are_let_through(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client, field: str
) -> None:
    """The engine is laxer than S3 here, so it cannot prove that no field is extra."""
    answer = send(http, ask(http, emission), b"more", **{field: "private"})

    assert answer.status_code == 204
    assert len(objects(seaweed)) == 1


def test_a_grant_binds_the_key(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client
) -> None:
    """A body sent under another key than the granted one is refused."""
    grant = ask(http, emission)
    grant["fields"]["key"] = "elsewhere.zip"

    assert error(send(http, grant, b"astray")) == (
        403,
        "AccessDenied",
        "Invalid according to Policy: Policy Condition failed",
    )
    assert objects(seaweed) == {}


def test_the_same_key_twice_overwrites(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client
) -> None:
    """A retry with the pinned grant leaves one object, the later one."""
    grant = ask(http, emission)
    for body in (b"first and longer", b"second"):
        assert send(http, grant, body).status_code == 204

    assert list(objects(seaweed)) == [grant["fields"]["key"]]
    assert read(seaweed, grant["fields"]["key"]) == b"second"


def test_objects_are_listed_over_pages(
    seaweed: Seaweed, emission: BotoEmission, http: httpx.Client
) -> None:
    """The listing goes on where a page ends."""
    for name in ("a.zip", "b/c.zip", "b/d.zip", "e f/é.zip", "g.zip"):
        assert send(http, ask(http, emission, name), b"x").status_code == 204

    keys = {grant["fields"]["key"] for grant in emission.grants}
    assert objects(seaweed, page_size=2).keys() == keys
    assert len(objects(seaweed, prefix="b/")) == 2


def test_the_login_opens_the_grant(emission: BotoEmission, http: httpx.Client) -> None:
    """A token from `auth` earns a grant of the six fields under a stamped key."""
    login = {"username": emission.username, "password": emission.password}
    answer = http.post(f"{emission.url}/auth", json=login).json()
    assert answer == {"access_token": emission.tokens[0], "expires_in": 1800}

    grant = http.post(
        f"{emission.url}/upload-url",
        json={"filename": NAME},
        headers={"Authorization": f"Bearer {answer['access_token']}"},
    ).json()
    assert emission.grants == [grant]
    assert re.fullmatch(
        r"student_attendance/student_attendance_\d{14}\.zip", grant["fields"]["key"]
    )
    assert sorted(grant["fields"]) == [
        "key",
        "policy",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-signature",
    ]


def test_the_api_refuses_as_upstream_does(emission: BotoEmission, http: httpx.Client) -> None:
    """Wrong login, wrong token, no name, no route: status and body are upstream's."""
    key = {"Authorization": f"Bearer {emission.api_key}"}
    slot = f"{emission.url}/upload-url"
    refused = http.post(f"{emission.url}/auth", json={"username": "x"})
    assert (refused.status_code, refused.json()) == (200, {"error": "invalid_grant"})
    for authorization in ("", "JWT x", "Bearer x"):
        answer = http.post(slot, headers={"Authorization": authorization})
        assert answer.status_code == 401
    assert http.post(slot, headers=key).status_code == 400
    malformed = {**key, "Content-Type": "application/json"}
    assert http.post(slot, headers=malformed, content=b"{").status_code == 400
    assert http.post(f"{emission.url}/nothing", headers=key).status_code == 404
    assert http.get(slot, headers=key).status_code == 405
    assert emission.grants == []


@pytest.mark.parametrize(
    ("name", "key"), [("a/b.zip", "a/b_7.zip"), ("none", "none_7"), ("x.y/none", "x_7.y/none")]
)
def test_the_stamp_stands_before_the_last_dot(name: str, key: str) -> None:
    """The key is made as upstream makes it, its blunder with folders included."""
    assert stamped(name, "7") == key


def test_every_port_is_on_loopback(seaweed: Seaweed) -> None:
    """The engine listens on nothing that another machine could reach."""
    # The admin page may open its port after the others.
    wait_until(lambda: len(listening(seaweed.pid)) == 10, 30, "ten open ports")
    addresses = listening(seaweed.pid)

    assert {address.partition(":")[0] for address in addresses} == {"0100007F"}


@pytest.mark.slow
def test_an_outage_keeps_address_and_objects(
    seaweed: Seaweed, tmp_path: Path, http: httpx.Client
) -> None:
    """A second engine goes away and comes back as it was, and its grant still holds."""
    with Seaweed(tmp_path) as second, BotoEmission(second) as emission:
        grant = ask(http, emission)
        assert send(http, grant, b"before").status_code == 204
        second.stop()
        with pytest.raises(httpx.ConnectError):
            send(http, grant, b"during")
        second.start()
        assert read(second, grant["fields"]["key"]) == b"before"
        assert send(http, grant, b"after").status_code == 204
        assert read(second, grant["fields"]["key"]) == b"after"
        assert grant["fields"]["key"] not in objects(seaweed)
