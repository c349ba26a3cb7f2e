"""The retry table: what each answer, and each lack of one, means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.client.responses import (
    RequestKind,
    api_error,
    bucket_error,
    http_date,
    retry_after_s,
    transport_error,
)
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.text import MASK

ETAG = {"etag": '"d41d8cd98f00b204e9800998ecf8427e"'}
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
IN_TWO_MINUTES = "Tue, 14 Nov 2023 22:15:20 GMT"


def xml(code: str, message: str = "") -> bytes:
    """Return an error document of S3."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        "<RequestId>1</RequestId></Error>"
    ).encode()


def judged(error: DeliveryError | None) -> tuple[Decision, Code]:
    """Return decision and code of an error."""
    assert error is not None
    return error.decision, error.code


LOGIN = {
    302: (Decision.PAUSE, Code.MALFORMED_ANSWER),
    400: (Decision.PAUSE, Code.CREDENTIALS),
    401: (Decision.PAUSE, Code.CREDENTIALS),
    403: (Decision.PAUSE, Code.CREDENTIALS),
    404: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    405: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    407: (Decision.PAUSE, Code.PROXY),
    408: (Decision.PAUSE, Code.API_TROUBLE),
    418: (Decision.PAUSE, Code.MALFORMED_ANSWER),
    422: (Decision.PAUSE, Code.MALFORMED_ANSWER),
    429: (Decision.PAUSE, Code.RATE_LIMITED),
    500: (Decision.PAUSE, Code.API_TROUBLE),
    502: (Decision.PAUSE, Code.API_TROUBLE),
    503: (Decision.PAUSE, Code.API_TROUBLE),
    504: (Decision.PAUSE, Code.API_TROUBLE),
}
GRANT = {
    **LOGIN,
    418: (Decision.REFUSE, Code.REQUEST_REFUSED),
    451: (Decision.REFUSE, Code.REQUEST_REFUSED),
    201: (Decision.PAUSE, Code.MALFORMED_ANSWER),
    204: (Decision.PAUSE, Code.MALFORMED_ANSWER),
    400: (Decision.REFUSE, Code.REQUEST_REFUSED),
    401: (Decision.RENEW_TOKEN, Code.TOKEN_REFUSED),
    403: (Decision.PAUSE, Code.FORBIDDEN),
    413: (Decision.REFUSE, Code.REQUEST_REFUSED),
    414: (Decision.REFUSE, Code.REQUEST_REFUSED),
    415: (Decision.REFUSE, Code.REQUEST_REFUSED),
    422: (Decision.REFUSE, Code.REQUEST_REFUSED),
}


@pytest.mark.parametrize(("status", "meaning"), LOGIN.items())
def test_what_a_login_answers(status: int, meaning: tuple[Decision, Code]) -> None:
    """A failed login concerns the destination, never one file."""
    assert judged(api_error(RequestKind.LOGIN, status, {}, b"")) == meaning


@pytest.mark.parametrize(("status", "meaning"), GRANT.items())
def test_what_upload_url_answers(status: int, meaning: tuple[Decision, Code]) -> None:
    """Only a refusal of this very name concerns the file."""
    assert judged(api_error(RequestKind.GRANT, status, {}, b"")) == meaning


@pytest.mark.parametrize("asked", [RequestKind.LOGIN, RequestKind.GRANT])
@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"No required SSL certificate was sent", "wants a client certificate"),
        (b"The SSL certificate error", "refuses the client certificate"),
        (b"The plain HTTP request was sent to HTTPS port", "speaks https"),
    ],
    ids=["none sent", "refused", "http to https"],
)
def test_a_400_of_the_server_before_the_api_is_the_lines(
    asked: RequestKind, page: bytes, expected: str
) -> None:
    """What nginx refuses for the connection's sake rejects no file, and no login."""
    body = b"<html><center>%s</center><hr><center>nginx</center></html>" % page
    error = api_error(asked, 400, {}, body)

    assert judged(error) == (Decision.PAUSE, Code.TLS)
    assert expected in str(error)


@pytest.mark.parametrize("asked", [RequestKind.LOGIN, RequestKind.GRANT])
def test_200_is_the_one_success_of_the_api(asked: RequestKind) -> None:
    """What the body of a 200 holds is for others to read."""
    assert api_error(asked, 200, {}, b"<html>") is None


ASK_200 = {"Success_Action_Status": "200"}
ASK_201 = {"success_action_status": "201"}
ASK_PAGE = {"success_action_redirect": "https://cqube.example.org/done"}
DOCUMENT = b"<?xml version='1.0'?><PostResponse><ETag>x</ETag></PostResponse>"


@pytest.mark.parametrize(
    ("status", "body", "fields"),
    [
        (204, b"", {}),
        (204, b"", ASK_200),
        (200, b"", ASK_200),
        (201, DOCUMENT, ASK_201),
        (201, b"", ASK_201),
        (303, b"<html>see other</html>", ASK_PAGE),
        (200, b"", ASK_PAGE),
    ],
)
def test_a_success_of_the_bucket_is_what_the_form_asks_for(
    status: int, body: bytes, fields: dict[str, str]
) -> None:
    """Success is 204, or the status that the grant asks for, together with an ETag."""
    assert bucket_error(status, ETAG, body, fields) is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "fields"),
    [
        pytest.param(200, ETAG, b"", {}, id="200 not asked for"),
        pytest.param(201, ETAG, DOCUMENT, {}, id="201 not asked for"),
        pytest.param(200, ETAG, b"", ASK_201, id="200 for 201"),
        pytest.param(303, ETAG, b"", {}, id="303 not asked for"),
        pytest.param(206, ETAG, b"", {}, id="206"),
        pytest.param(202, ETAG, b"", ASK_200, id="202"),
        pytest.param(200, ETAG, b"<html>log in</html>", ASK_200, id="a page"),
        pytest.param(200, ETAG, b"<Error><Code>SlowDown</Code></Error>", ASK_200, id="an error"),
        pytest.param(204, {}, b"", {}, id="no ETag"),
        pytest.param(204, {"etag": ""}, b"", {}, id="empty ETag"),
        pytest.param(204, {"etag": '""'}, b"", {}, id="empty quotes"),
        pytest.param(204, {"etag": '"a", "b"'}, b"", {}, id="two ETags"),
        pytest.param(204, {"etag": '""ab""'}, b"", {}, id="doubled quotes"),
        pytest.param(204, {"etag": '"ab'}, b"", {}, id="half a quote"),
        pytest.param(204, {"etag": "log in"}, b"", {}, id="text"),
    ],
)
def test_what_is_not_s3s_success_is_no_delivery(
    status: int, headers: dict[str, str], body: bytes, fields: dict[str, str]
) -> None:
    """A portal or a broken server pauses uploads; the object may still be stored."""
    error = bucket_error(status, headers, body, fields)

    assert judged(error) == (Decision.PAUSE, Code.NOT_A_BUCKET)
    assert error is not None
    assert error.ambiguous


DEFERRED = (Decision.DEFER, Code.BUCKET_TROUBLE)
BAD_SIGNATURE = (Decision.PAUSE, Code.GRANT_REFUSED)
DENIED = (Decision.DEFER, Code.GRANT_REFUSED)
PAGE = (Decision.DEFER, Code.NOT_A_BUCKET)
FILE_REFUSED = (Decision.REFUSE, Code.FILE_REFUSED)
NO_BUCKET = (Decision.PAUSE, Code.NO_SUCH_BUCKET)
EXPIRED = (Decision.RENEW_GRANT, Code.GRANT_EXPIRED)
BODY_REFUSED = (Decision.REJECT, Code.BODY_REFUSED)
POLICY_EXPIRED = "Invalid according to Policy: Policy expired."
EXTRA_FIELDS = "Invalid according to Policy: Extra input fields: x"


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (400, xml("EntityTooLarge"), BODY_REFUSED),
        (400, xml("EntityTooSmall"), BODY_REFUSED),
        (400, xml("ExpiredToken"), EXPIRED),
        (400, xml("RequestTimeout"), DEFERRED),
        (400, xml("MalformedPOSTRequest"), FILE_REFUSED),
        (400, xml("IncompleteBody"), DEFERRED),
        (400, xml("IllegalLocationConstraintException"), NO_BUCKET),
        (400, xml("KeyTooLongError"), (Decision.REJECT, Code.KEY_REFUSED)),
        (400, xml("InvalidToken"), BAD_SIGNATURE),
        (400, b"", FILE_REFUSED),
        (400, b"<html>no</html>", PAGE),
        (400, b"The plain HTTP request was sent to HTTPS port", (Decision.PAUSE, Code.TLS)),
        (401, b"", (Decision.PAUSE, Code.NOT_A_BUCKET)),
        (403, xml("AccessDenied", POLICY_EXPIRED), EXPIRED),
        (403, xml("AccessDenied", EXTRA_FIELDS), DENIED),
        (403, xml("AccessDenied", "Access Denied"), DENIED),
        (403, xml("ExpiredToken"), EXPIRED),
        (403, xml("SignatureDoesNotMatch"), BAD_SIGNATURE),
        (403, xml("InvalidAccessKeyId"), BAD_SIGNATURE),
        (403, xml("RequestTimeTooSkewed"), (Decision.PAUSE, Code.CLOCK_SKEW)),
        (403, b"<html>expired</html>", PAGE),
        (404, xml("NoSuchBucket"), NO_BUCKET),
        (404, b"", NO_BUCKET),
        (405, b"", (Decision.PAUSE, Code.NOT_A_BUCKET)),
        (407, b"", (Decision.PAUSE, Code.PROXY)),
        (408, b"", DEFERRED),
        (411, xml("MissingContentLength"), FILE_REFUSED),
        (412, b"", FILE_REFUSED),
        (413, b"", BODY_REFUSED),
        (414, b"", FILE_REFUSED),
        (422, b"", FILE_REFUSED),
        (429, b"", DEFERRED),
        (451, b"", FILE_REFUSED),
        (451, b"\n <!DOCTYPE html>", PAGE),
        (301, xml("PermanentRedirect"), (Decision.PAUSE, Code.REDIRECT_REFUSED)),
        (307, b"", (Decision.PAUSE, Code.REDIRECT_REFUSED)),
        (500, xml("InternalError"), DEFERRED),
        (502, b"<html>", DEFERRED),
        (503, xml("SlowDown"), DEFERRED),
        (503, xml("ServiceUnavailable"), DEFERRED),
        (504, b"", DEFERRED),
        (599, b"", DEFERRED),
        (418, b"", FILE_REFUSED),
        (400, xml("NoOneHasSeenThisCode"), FILE_REFUSED),
    ],
)
def test_what_the_bucket_answers(status: int, body: bytes, meaning: tuple[Decision, Code]) -> None:
    """S3's code decides, else the status; an unknown refusal concerns this file only."""
    assert judged(bucket_error(status, ETAG, body, {})) == meaning


@pytest.mark.parametrize(
    ("status", "ambiguous"),
    [(500, True), (502, True), (504, True), (503, False), (400, False), (403, False)],
)
def test_an_error_after_which_the_object_may_exist(status: int, *, ambiguous: bool) -> None:
    """A gateway timeout or a crash does not prove that nothing was stored."""
    error = bucket_error(status, {}, b"", {})

    assert error is not None
    assert error.ambiguous is ambiguous


def test_a_form_that_the_bucket_quotes_is_masked() -> None:
    """Who has policy and signature may upload: they reach no log."""
    fields = {"key": "pat/a.zip", "policy": "cG9saWN5", "x-amz-signature": "5ec2e7"}
    error = bucket_error(403, {}, xml("AccessDenied", "cG9saWN5 5ec2e7 pat/a.zip"), fields)
    assert str(error) == f"the bucket answered 403 (AccessDenied: {MASK} {MASK} pat/a.zip)"


def test_the_reason_quotes_what_was_said() -> None:
    """The operator reads status, code and message of the bucket."""
    error = bucket_error(403, {}, xml("AccessDenied", POLICY_EXPIRED), {})
    assert str(error) == (f"the bucket answered 403 (AccessDenied: {POLICY_EXPIRED})")


def test_a_long_message_is_cut() -> None:
    """A long message of a server is cut to one line."""
    error = bucket_error(500, {}, xml("InternalError", "x" * 10_000), {})
    assert len(str(error)) < 300


BREAKS = [
    Code.DNS,
    Code.REFUSED,
    Code.TLS,
    Code.CONNECT_TIMEOUT,
    Code.PROXY,
    Code.CONNECTION_LOST,
    Code.TOO_SLOW,
]


@pytest.mark.parametrize("code", BREAKS)
@pytest.mark.parametrize("asked", [RequestKind.LOGIN, RequestKind.GRANT])
@pytest.mark.parametrize("body_sent", [True, False])
def test_an_api_that_does_not_answer_pauses_uploads(
    asked: RequestKind, code: Code, *, body_sent: bool
) -> None:
    """Without an answer of the API nothing goes on, and no object can exist."""
    error = transport_error(asked, code, "gone", body_sent=body_sent)

    assert judged(error) == (Decision.PAUSE, code)
    assert not error.ambiguous


@pytest.mark.parametrize("code", BREAKS)
def test_a_bucket_that_breaks_off_the_body(code: Code) -> None:
    """A broken transfer is this attempt's; a host out of reach the destination's."""
    passing = code in {Code.CONNECTION_LOST, Code.TOO_SLOW}
    error = transport_error(RequestKind.BUCKET, code, "gone", body_sent=False)

    assert judged(error) == (Decision.DEFER if passing else Decision.PAUSE, code)
    assert not error.ambiguous
    assert error.reason == "bucket: gone"


@pytest.mark.parametrize("code", BREAKS)
def test_a_lost_answer_is_ambiguous(code: Code) -> None:
    """After the last byte the object may exist: same grant, same key, again."""
    error = transport_error(RequestKind.BUCKET, code, "gone", body_sent=True)

    assert judged(error) == (Decision.DEFER, Code.ANSWER_LOST)
    assert error.ambiguous


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"retry-after": "120"}, 120.0, id="seconds"),
        pytest.param({"retry-after": " 0 "}, 0.0, id="zero"),
        pytest.param({"retry-after": "9" * 400}, 999_999_999.0, id="absurd"),
        pytest.param({"retry-after": IN_TWO_MINUTES, "date": DATE}, 120.0, id="date"),
        pytest.param({"retry-after": DATE, "date": IN_TWO_MINUTES}, 0.0, id="past"),
        pytest.param({"retry-after": IN_TWO_MINUTES}, None, id="date without Date"),
        pytest.param({"retry-after": "-5"}, None, id="negative"),
        pytest.param({"retry-after": "1.5"}, None, id="fraction"),
        pytest.param({"retry-after": "soon", "date": DATE}, None, id="garbage"),
        pytest.param({"retry-after": "²"}, None, id="superscript"),
    ],
)
def test_retry_after_in_both_its_forms(headers: dict[str, str], wait_s: float | None) -> None:
    """Seconds, or a date counted from the answer's own Date."""
    assert retry_after_s(headers) == wait_s


@pytest.mark.parametrize(
    "error",
    [
        api_error(RequestKind.LOGIN, 503, {"retry-after": "7"}, b""),
        api_error(RequestKind.GRANT, 429, {"retry-after": "7"}, b""),
        bucket_error(503, {"retry-after": "7"}, xml("SlowDown"), {}),
    ],
    ids=["login", "upload-url", "bucket"],
)
def test_the_wish_to_wait_is_handed_on(error: DeliveryError | None) -> None:
    """For every kind of request, `Retry-After` reaches the backoff."""
    assert error is not None
    assert error.retry_after_s == 7.0


def test_an_http_date_is_seconds_since_the_epoch() -> None:
    """The zone of an HTTP date is GMT, in any zone of this host."""
    assert http_date(DATE) == 1_700_000_000.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Mon,",
        "120",
        "yesterday",
        "Tue, 99 Nov 2023 22:13:20 GMT",
        "Tue, 14 Nov 99999 22:13:20 GMT",
        pytest.param(f"Tue, 14 Nov {'9' * 20} 22:13:20 GMT"),
        pytest.param(f"Tue, 14 Nov 2023 22:13:20 +{'9' * 15}"),
    ],
)
def test_what_is_no_date_is_none(value: str) -> None:
    """A header that makes no sense is as good as none."""
    assert http_date(value) is None


@given(st.integers(100, 599), st.binary(max_size=80), st.sampled_from(RequestKind))
def test_every_answer_is_judged(status: int, body: bytes, asked: RequestKind) -> None:
    """Any answer of a server is a success or an error with a reason."""
    if asked is RequestKind.BUCKET:
        error = bucket_error(status, {}, body, {})
        assert error is not None
    else:
        error = api_error(asked, status, {}, body)
        assert (error is None) == (status == 200)
    assert error is None or str(status) in error.reason
