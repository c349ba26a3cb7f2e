"""What `POST /upload-url` answered: good grants are read, all others refused."""

import base64
import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.client.presigned.grant import GRANT_LIFETIME_S, parse, redirected, remote_name
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.model import Grant

API = "https://cqube.example.org/data"
BUCKET = "https://cqube-emission.s3.amazonaws.com/"
NOW = 1_700_000_000.0
KEY = "pat/periodic_exam_mst_20231114221320.zip"


def policy(expiration: object) -> str:
    """Return a policy document as boto3 encodes it."""
    document = {"expiration": expiration, "conditions": [{"key": KEY}]}
    return base64.b64encode(json.dumps(document).encode()).decode()


def instant(at: float) -> str:
    """Return an instant as boto3 writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fields(**changes: object) -> dict[str, object]:
    """Return the six fields of boto3's `generate_presigned_post`."""
    return {
        "key": KEY,
        "policy": policy(instant(NOW + 3600)),
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": "AKIA/20231114/ap-south-1/s3/aws4_request",
        "x-amz-date": "20231114T221320Z",
        "x-amz-signature": "0" * 64,
        **changes,
    }


def read(
    answer: object, *, api_url: str = API, insecure: bool = False, served_at: float | None = NOW
) -> Grant:
    """Parse an answer; bytes as they are, anything else as JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return parse(body, api_url=api_url, insecure=insecure, now=NOW, served_at=served_at)


def test_a_grant_of_boto3_is_read() -> None:
    """Url, fields, key, and both instants are those of the answer."""
    grant = read({"url": BUCKET, "fields": fields()})

    assert (grant.url, grant.fields, grant.key) == (BUCKET, fields(), KEY)
    assert (grant.granted_at, grant.expires_at) == (NOW, NOW + 3600)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("k" * 1021 + ".zip", "1,025 bytes"),
        ("\u00e9" * 511 + ".zip", "1,026 bytes"),
        ("pat/${filename}.zip", "replaces"),
        ("pat/a${.zip", "replaces"),
    ],
)
def test_a_key_that_no_object_can_have_rejects_the_file(key: str, problem: str) -> None:
    """The API has answered, so this concerns the file only; nothing is sent to the bucket."""
    with pytest.raises(DeliveryError) as caught:
        read({"url": BUCKET, "fields": fields(key=key)})

    error = caught.value
    assert (error.decision, error.code, error.stage) == (
        Decision.REJECT,
        Code.KEY_REFUSED,
        Stage.GRANT,
    )
    assert problem in error.reason


@pytest.mark.parametrize("key", ["k" * 1020 + ".zip", "pat/$filename {a}.zip"])
def test_a_key_that_s3_takes_is_used(key: str) -> None:
    """The longest key, and other dollar signs, are keys like all others."""
    assert read({"url": BUCKET, "fields": fields(key=key)}).key == key


@pytest.mark.parametrize(
    ("url", "api_url", "insecure"),
    [
        pytest.param("https://s3.ap-south-1.amazonaws.com/b", API, False, id="path"),
        pytest.param("http://minio.example.org:9000/b", API, True, id="allowed http"),
        pytest.param("http://10.1.2.3:9000/b", "http://10.1.2.3/", False, id="both"),
        pytest.param("http://127.0.0.1:1/b", "http://127.0.0.1:2/", False, id="local"),
        pytest.param("http://[::1]:1/b", "http://localhost:2/", False, id="local v6"),
        pytest.param("https://10.0.0.9/b", API, False, id="a private network"),
    ],
)
def test_a_bucket_may_be_anywhere_but_here(url: str, api_url: str, *, insecure: bool) -> None:
    """Other hosts and private networks are fine; this host for an API on it, too."""
    answer = {"url": url, "fields": fields()}
    assert read(answer, api_url=api_url, insecure=insecure).url == url


@pytest.mark.parametrize("skew_s", [-86_400.0, -900.0, 0.0, 900.0, 86_400.0])
def test_the_end_is_reckoned_by_the_clock_of_the_server(skew_s: float) -> None:
    """However wrong this clock is, the grant lives an hour from now."""
    answer = {"url": BUCKET, "fields": fields(policy=policy(instant(NOW + skew_s + 3600)))}
    assert read(answer, served_at=NOW + skew_s).expires_at == NOW + 3600


def test_without_a_date_this_clock_is_believed() -> None:
    """An answer without a Date leaves nothing else to reckon by."""
    answer = {"url": BUCKET, "fields": fields(policy=policy(instant(NOW + 60)))}
    assert read(answer, served_at=None).expires_at == NOW + 60


@pytest.mark.parametrize(
    "hidden",
    [
        "no base64 é",
        "AAA",
        pytest.param(base64.b64encode(b"no JSON").decode(), id="no JSON"),
        pytest.param(base64.b64encode(b"\xff\xfe").decode(), id="no UTF-8"),
        pytest.param(base64.b64encode(b"[]").decode(), id="no object"),
        pytest.param(base64.b64encode(b"{}").decode(), id="no expiration"),
        pytest.param(policy(None), id="null"),
        pytest.param(policy(12), id="a number"),
        pytest.param(policy("tomorrow"), id="no date"),
        pytest.param(policy("0000-00-00T00:00:00Z"), id="no such day"),
        pytest.param(base64.b64encode(b"[" * 150_000).decode(), id="deep"),
    ],
)
def test_a_policy_that_does_not_say_gives_an_hour(hidden: str) -> None:
    """The policy is the bucket's; where it is strange, upstream's hour holds."""
    answer = {"url": BUCKET, "fields": fields(policy=hidden)}
    assert read(answer).expires_at == NOW + GRANT_LIFETIME_S


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>log in</html>",
        b"\xff\xfe\x00",
        b"null",
        b'"text"',
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"a":' * 40_000,
        b"1" * 10_000,
        {"url": BUCKET},
        {"fields": fields()},
        {"url": None, "fields": fields()},
        {"url": [BUCKET], "fields": fields()},
        {"url": BUCKET, "fields": None},
        {"url": BUCKET, "fields": [["key", KEY]]},
        {"url": BUCKET, "fields": {}},
        {"url": BUCKET, "fields": fields(key="")},
        {"url": BUCKET, "fields": fields(key=7)},
        {"url": BUCKET, "fields": fields(policy="")},
        {"url": BUCKET, "fields": fields(policy=None)},
        {"url": BUCKET, "fields": fields(policy={"a": 1})},
        {"url": BUCKET, "fields": fields(key="a\r\nb")},
        {"url": BUCKET, "fields": fields(key="a\0b")},
        {"url": BUCKET, "fields": {**fields(), "x\r\ny": "z"}},
        pytest.param({"url": BUCKET, "fields": fields(key="\ud800")}),
    ],
)
def test_an_answer_that_is_no_grant_pauses_uploads(answer: object) -> None:
    """A portal's page, a wrong address or a broken server is the destination's."""
    with pytest.raises(DeliveryError) as caught:
        read(answer)

    assert caught.value.decision is Decision.PAUSE
    assert caught.value.code is Code.MALFORMED_ANSWER


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/upload",
        "//b.example.org/",
        "file:///etc/passwd",
        "ftp://b.example.org/",
        "javascript:alert(1)",
        "https:///b",
        "http://b.example.org/",
        "https://127.0.0.1/",
        "https://127.9.9.9:9000/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://0.0.0.0/",
        "https://[::1]/",
        "https://[::]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://user@169.254.169.254/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00::1%25eth0]/",
        "https://[::1",
        "https://[x]/",
        "https://b.example.org:99999/",
        "https://b.example.org:x/",
        "https://b.example.org/\0",
        "https://b.example.org/\ud800",
        "https://localhost./",
        "https://x.localhost/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://2852039166/",
        "https://0/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
    ],
)
def test_a_hostile_url_pauses_uploads(url: str) -> None:
    """Nothing is sent without TLS, to this host, or to the metadata of a cloud."""
    with pytest.raises(DeliveryError) as caught:
        read({"url": url, "fields": fields()})

    assert caught.value.decision is Decision.PAUSE
    assert caught.value.code is Code.HOSTILE_GRANT


def test_metadata_is_refused_over_http_as_well() -> None:
    """Where http is allowed, the link's own addresses still are not."""
    answer = {"url": "http://169.254.169.254/", "fields": fields()}
    with pytest.raises(DeliveryError, match="back to this host or link"):
        read(answer, api_url="http://cqube.example.org/", insecure=True)


def follow(location: str, *, url: str = BUCKET, api_url: str = API) -> None:
    """Ask whether a body may follow a redirect."""
    redirected(url, location, api_url=api_url, insecure=False)


@pytest.mark.parametrize(
    ("location", "url", "api_url"),
    [
        pytest.param("https://cqube-emission.s3.ap-south-1.amazonaws.com/", BUCKET, API, id="S3"),
        pytest.param(BUCKET + "again", BUCKET, API, id="same host"),
        pytest.param("https://a.data.gov.in/", "https://b.data.gov.in/", API, id="gov.in"),
        pytest.param("http://minio.lan/b2", "http://minio.lan/b1", "http://api.lan/", id="http"),
    ],
)
def test_a_redirect_within_the_domain_is_followed(location: str, url: str, api_url: str) -> None:
    """A bucket's global host may answer with its regional host."""
    follow(location, url=url, api_url=api_url)


@pytest.mark.parametrize(
    ("location", "url", "api_url"),
    [
        pytest.param("https://evil.example.net/", BUCKET, API, id="elsewhere"),
        pytest.param("https://amazonaws.com.evil.net/", BUCKET, API, id="lookalike"),
        pytest.param("https://notamazonaws.com/", BUCKET, API, id="suffix"),
        pytest.param("https://b.gov.in/", "https://a.gov.in/", API, id="gov.in"),
        pytest.param("http://x.s3.amazonaws.com/", BUCKET, API, id="no TLS"),
        pytest.param("http://b.lan/", "http://a.lan/", "http://api.lan/", id="http elsewhere"),
        pytest.param("https://169.254.169.254/", BUCKET, API, id="metadata"),
        pytest.param("https://localhost/", BUCKET, API, id="this host"),
        pytest.param("file:///etc/passwd", BUCKET, API, id="no http"),
        pytest.param("https://[", BUCKET, API, id="none"),
        pytest.param("https://203.0.113.7/", "https://10.0.113.7/", API, id="another address"),
    ],
)
def test_a_redirect_to_another_place_pauses_uploads(location: str, url: str, api_url: str) -> None:
    """Data and grant go nowhere that the grant did not name."""
    with pytest.raises(DeliveryError) as caught:
        follow(location, url=url, api_url=api_url)

    assert caught.value.decision is Decision.PAUSE
    assert caught.value.code is Code.REDIRECT_REFUSED


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"pat/periodic_exam_mst.zip", "pat/periodic_exam_mst.zip"),
        (b"pat/a b%20c.zip", "pat/a b%2520c.zip"),
        (b"pat/50%.zip", "pat/50%.zip"),
        ("pat/données.zip".encode(), "pat/données.zip"),
        (b"pat/caf\xe9.zip", "pat/caf%E9.zip"),
        (b"\xff\x80/x.zip", "%FF%80/x.zip"),
    ],
)
def test_the_remote_name_is_the_path(path: bytes, name: str) -> None:
    """The server routes by it; bytes that are not UTF-8 are percent-encoded."""
    assert remote_name(path) == name


@given(st.binary(max_size=40))
def test_every_path_has_a_remote_name(path: bytes) -> None:
    """For any bytes of a path, its remote name can stand in JSON."""
    assert json.loads(json.dumps(remote_name(path)).encode()) == remote_name(path)
    remote_name(path).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["url", "fields", "key", "policy"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | JSON)
def test_no_answer_is_too_strange(answer: object) -> None:
    """Any answer is a grant or a `DeliveryError`, never another exception."""
    with contextlib.suppress(DeliveryError):
        assert read(answer).key


def test_no_two_files_share_a_remote_name() -> None:
    """A name that looks escaped is not taken for one that is."""
    paths = [b"a\n.zip", b"a%0A.zip", b"a%250A.zip", b"a%0A\n.zip", b"\xe9%E9", b"%E9"]

    assert len({remote_name(path) for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("answer", "code", "named"),
    [
        (
            {
                "fields": {"key": "pat/exam_30112026.zip"},
                "url": "https://cqube.blob.core.windows.net/emission/pat/exam one.zip"
                "?se=2026-11-30&sp=rwdxlt&sr=b&sig=c2VjcmV0",
            },
            Code.AZURE_STORAGE,
            "cqube.blob.core.windows.net",
        ),
        ({"url": "/opt/cqube/emission_data"}, Code.LOCAL_STORAGE, "/opt/cqube/emission_data"),
    ],
)
def test_cqube_4_on_other_storage_has_a_code_of_its_own(
    answer: dict[str, object], code: Code, named: str
) -> None:
    """The answers of cQube 4 for Azure and for a local folder pause uploads, each by its code."""
    with pytest.raises(DeliveryError) as raised:
        read(answer)
    assert (raised.value.code, raised.value.decision) == (code, Decision.PAUSE)
    assert named in raised.value.reason
    assert "sig=" not in raised.value.reason


@pytest.mark.parametrize("url", ["opt/data", "//cqube.test/data", "", 7, None])
def test_a_grant_without_a_url_is_no_local_storage(url: object) -> None:
    """Only the path of a folder means local storage; anything else is no answer of the API."""
    with pytest.raises(DeliveryError) as raised:
        read({"url": url})
    assert raised.value.code is Code.MALFORMED_ANSWER
