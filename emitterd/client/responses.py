"""The retry table: which answer, or missing answer, means reject, defer or pause.

| who is at fault | decision | what follows |
|---|---|---|
| the file, for good | REJECT | the file is rejected |
| the file, as far as is known now | REFUSE | this file waits; all others go on |
| the file or the destination | DEFER | this file waits; several such files in a row pause uploads |
| the destination, or this host | PAUSE | uploads pause until a probe passes |
| the grant or the token | RENEW_… | another one is requested at once |

An answer that nobody knows is taken for a temporary failure. emitterd rejects a file only where a
retry of this file cannot succeed. A 4xx that is not in a table concerns the one request that it
answers: REFUSE. A web page in place of S3's XML is from a filter or a portal on the way, and only
other files can tell whether it is for this body or for all: DEFER.
Source: "Error responses" and "POST Object" of the Amazon S3 API reference.
"""

import email.utils
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

from emitterd.client.body import Body
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.text import MASK, masked

T = TypeVar("T")


class RequestKind(StrEnum):
    """A kind of request. The value is the API's endpoint; `bucket` is a request to the bucket."""

    LOGIN = "login"
    GRANT = "upload-url"
    DOWNLOAD = "download_url"
    BUCKETS = "list_s3_buckets"
    FILES = "list_s3_files"
    BUCKET = "bucket"
    TOKEN = "generatejwt"  # noqa: S105  the name of an endpoint
    STATUS = "file-status"
    UPLOAD = "national_programs"

    @property
    def stage(self) -> Stage:
        """The stage of an attempt that this request belongs to."""
        if self in {RequestKind.LOGIN, RequestKind.TOKEN}:
            return Stage.LOGIN
        # A download url needs the same API and token as a grant, so what stops one stops the other.
        return Stage.BUCKET if self in {RequestKind.BUCKET, RequestKind.UPLOAD} else Stage.GRANT


class TransportError(Exception):
    """A request ended without an answer; `code` says in which way.

    `stale`: the server had closed the idle connection before it read the request.
    """

    def __init__(self, code: Code, detail: str, *, stale: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.stale = stale


class Stopped(Exception):
    """The daemon is stopping, so the request was given up."""


class Withheld(Exception):
    """The last bytes of a body were not sent, because `Body.may_finish` did not allow it."""


_ANY_API: dict[int, tuple[Decision, Code]] = {
    404: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    405: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    407: (Decision.PAUSE, Code.PROXY),
    408: (Decision.PAUSE, Code.API_TROUBLE),
    429: (Decision.PAUSE, Code.RATE_LIMITED),
}
_LOGIN = _ANY_API | dict.fromkeys((400, 401, 403), (Decision.PAUSE, Code.CREDENTIALS))
_WITH_TOKEN = {
    **_ANY_API,
    401: (Decision.RENEW_TOKEN, Code.TOKEN_REFUSED),
    403: (Decision.PAUSE, Code.FORBIDDEN),
}
_BUCKET_CODES: dict[str, tuple[Decision, Code]] = {
    "EntityTooLarge": (Decision.REJECT, Code.BODY_REFUSED),
    "EntityTooSmall": (Decision.REJECT, Code.BODY_REFUSED),
    "KeyTooLongError": (Decision.REJECT, Code.KEY_REFUSED),
    # The temporary credentials that signed the grant have expired.
    "ExpiredToken": (Decision.RENEW_GRANT, Code.GRANT_EXPIRED),
    "RequestTimeTooSkewed": (Decision.PAUSE, Code.CLOCK_SKEW),
    # The server signs with a wrong key, so every other grant fails too.
    "SignatureDoesNotMatch": (Decision.PAUSE, Code.GRANT_REFUSED),
    "InvalidAccessKeyId": (Decision.PAUSE, Code.GRANT_REFUSED),
    "InvalidToken": (Decision.PAUSE, Code.GRANT_REFUSED),
    "InvalidPolicyDocument": (Decision.PAUSE, Code.GRANT_REFUSED),
    "AccountProblem": (Decision.PAUSE, Code.GRANT_REFUSED),
    "AllAccessDisabled": (Decision.PAUSE, Code.GRANT_REFUSED),
    "NoSuchBucket": (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    "IllegalLocationConstraintException": (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    "RequestTimeout": (Decision.DEFER, Code.BUCKET_TROUBLE),
    "IncompleteBody": (Decision.DEFER, Code.BUCKET_TROUBLE),
    "OperationAborted": (Decision.DEFER, Code.BUCKET_TROUBLE),
    "SlowDown": (Decision.DEFER, Code.BUCKET_TROUBLE),
}
_BUCKET: dict[int, tuple[Decision, Code]] = {
    401: (Decision.PAUSE, Code.NOT_A_BUCKET),
    # A policy may forbid one key, and a server without permission all of them.
    403: (Decision.DEFER, Code.GRANT_REFUSED),
    404: (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    405: (Decision.PAUSE, Code.NOT_A_BUCKET),
    407: (Decision.PAUSE, Code.PROXY),
    **dict.fromkeys((408, 425, 429), (Decision.DEFER, Code.BUCKET_TROUBLE)),
    413: (Decision.REJECT, Code.BODY_REFUSED),
}
_UPLOAD: dict[int, tuple[Decision, Code]] = {
    **dict.fromkeys((408, 425), (Decision.DEFER, Code.BUCKET_TROUBLE)),
    413: (Decision.REJECT, Code.BODY_REFUSED),
}
_NO_SCHEMA = b"Schema doesn't exist"
_TLS_MISMATCH = {
    b"No required SSL certificate was sent": "wants a client certificate",
    b"The SSL certificate error": "refuses the client certificate",
    b"The plain HTTP request was sent to HTTPS port": "speaks https here, not http",
}
"""What nginx answers with 400 in front of the API. Source: its file ngx_http_special_response.c."""

# An internal error, or the timeout of a gateway, may come after the object is stored.
_MAYBE_STORED = frozenset({500, 502, 504})
_OF_ONE_BODY = frozenset({Code.ANSWER_LOST, Code.CONNECTION_LOST, Code.TOO_SLOW, Code.NOT_A_BUCKET})
_STORED = 204
_SEE_OTHER = 303
_ASKED = "success_action_status"
_ETAG = re.compile(r'(?:W/)?"[!#-~]+"|[0-9A-Fa-f]{32}(?:-[0-9]+)?')
"""An entity tag of RFC 9110, section 8.8.3; some gateways leave the quotes of an MD5 away."""
_SECRET = re.compile("(?i)policy|signature|token")
"""The fields of a form that are secret, by name."""
_ENCRYPTION = "x-amz-server-side-encryption"
_MD5 = re.compile(r"[0-9a-f]{32}")
_XML_CODE = re.compile(r"<Code>\s*([A-Za-z]{1,64})\s*</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,200})")


def api_error(
    request: RequestKind, status: int, headers: Mapping[str, str], body: bytes
) -> DeliveryError | None:
    """Return what an answer of the emission API means, or None for a success.

    The keys of `headers` are lower-case names.
    """
    if status == 200:  # noqa: PLR2004  the one success of this API
        return None
    table = _LOGIN if request.stage is Stage.LOGIN else _WITH_TOKEN
    decision, code = table.get(status, (Decision.PAUSE, Code.MALFORMED_ANSWER))
    if status not in table and table is _WITH_TOKEN and 400 <= status < 500:  # noqa: PLR2004  4xx
        decision, code = Decision.REFUSE, Code.REQUEST_REFUSED
    if status >= 500:  # noqa: PLR2004  5xx
        decision, code = Decision.PAUSE, Code.API_TROUBLE
    reason = f"{request} answered {status}{_s3_message(body) or _json_message(body)}"
    return _tls_mismatch(request, status, body) or DeliveryError(
        decision, code, reason, stage=request.stage, retry_after_s=retry_after_s(headers)
    )


def upload_error(status: int, headers: Mapping[str, str], body: bytes) -> DeliveryError | None:
    """Return what the answer of cQube 5 to an upload means, or None if it is accepted.

    Raises nothing. A failure of the service concerns this file first: the file may be the cause.
    """
    request = RequestKind.UPLOAD
    error = api_error(request, status, headers, body)
    if error is None:
        # A portal's page is no acceptance.
        if _json_message(body):
            return None
        reason = f"{request} answered {status} without a message"
        return DeliveryError(
            Decision.PAUSE, Code.MALFORMED_ANSWER, reason, stage=request.stage, ambiguous=True
        )
    if status in _UPLOAD:
        error.decision, error.code = _UPLOAD[status]
    elif status >= 500:  # noqa: PLR2004  5xx
        error.decision, error.code = Decision.DEFER, Code.BUCKET_TROUBLE
        error.ambiguous = status in _MAYBE_STORED
    elif status < 300:  # noqa: PLR2004  2xx
        # Another success than the service's own 200, as of a gateway: it may have the file.
        error.ambiguous = True
    elif _NO_SCHEMA in body:
        error.code = Code.UNKNOWN_PROGRAM
    return error


def _tls_mismatch(request: RequestKind, status: int, body: bytes) -> DeliveryError | None:
    """Return the error where a 400 is about TLS: it is no refusal of one file."""
    mismatch = next((text for mark, text in _TLS_MISMATCH.items() if mark in body), "")
    if status != 400 or not mismatch:  # noqa: PLR2004
        return None
    reason = f"{request}: the server {mismatch}"
    return DeliveryError(Decision.PAUSE, Code.TLS, reason, stage=request.stage)


def bucket_error(
    status: int, headers: Mapping[str, str], body: bytes, fields: Mapping[str, str]
) -> DeliveryError | None:
    """Return what the bucket's answer to a whole or partial body means.

    None for a success. `fields`: those of the grant, which may ask for another status.
    """
    if 200 <= status < 300 or status == _SEE_OTHER:  # noqa: PLR2004  2xx
        return _unless_stored(status, headers, body, fields)
    for field, secret in fields.items():
        # A bucket may quote the form, whose signature permits an upload.
        if secret and _SECRET.search(field):
            body = body.replace(secret.encode(), MASK.encode())
    reason = f"the bucket answered {status}{_s3_message(body)}"
    name = s3_code(body)
    # S3 has no code for an expired policy: only the message says so.
    if name == "AccessDenied" and b"expired" in body.lower():
        return DeliveryError(Decision.RENEW_GRANT, Code.GRANT_EXPIRED, reason)
    if 300 <= status < 400:  # noqa: PLR2004  3xx
        return DeliveryError(Decision.PAUSE, Code.REDIRECT_REFUSED, reason)
    decision, code = _BUCKET_CODES.get(name) or _BUCKET.get(status) or _unlisted(status)
    if code in {Code.GRANT_REFUSED, Code.FILE_REFUSED} and not name and _is_page(headers, body):
        decision, code = Decision.DEFER, Code.NOT_A_BUCKET
    return _tls_mismatch(RequestKind.BUCKET, status, body) or DeliveryError(
        decision,
        code,
        reason,
        retry_after_s=retry_after_s(headers),
        ambiguous=status in _MAYBE_STORED,
    )


def _unlisted(status: int) -> tuple[Decision, Code]:
    if 400 <= status < 500:  # noqa: PLR2004  4xx
        return Decision.REFUSE, Code.FILE_REFUSED
    return Decision.DEFER, Code.BUCKET_TROUBLE


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    begins = body[:64].lstrip().lower()
    page = begins.startswith((b"<!doctype", b"<html"))
    return page or headers.get("content-type", "").lower().startswith("text/html")


def _unless_stored(
    status: int, headers: Mapping[str, str], body: bytes, fields: Mapping[str, str]
) -> DeliveryError | None:
    """Return None if this is S3's own success, which is 204 unless the form asks for another.

    Anything else comes from a portal or a broken server. The object may be there all the same.
    """
    form = {name.lower(): value for name, value in fields.items()}
    asked = {_STORED} | {code for code in (200, 201) if form.get(_ASKED) == str(code)}
    if form.get("success_action_redirect") or form.get("redirect"):
        asked |= {200, 201, _SEE_OTHER}
    # S3's 201 has a document; its 200 and 204 have no body.
    odd_body = status != _SEE_OTHER and body.strip() and b"<PostResponse" not in body
    if status not in asked:
        problem = "which the form did not ask for"
    elif not is_etag(headers.get("etag", "")):
        problem = "without a valid ETag"
    elif odd_body:
        problem = "with a body that is not S3's"
    else:
        return None
    reason = f"the bucket answered {status} {problem}"
    return DeliveryError(Decision.PAUSE, Code.NOT_A_BUCKET, reason, ambiguous=True)


def is_etag(value: str) -> bool:
    """Return whether a header is one well-formed ETag."""
    return _ETAG.fullmatch(value.strip()) is not None


def etag_of(headers: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the ETag, and the MD5 in hex where the ETag is one."""
    etag = headers["etag"].strip().removeprefix("W/").strip('"')
    # Encrypted with a key of KMS or of the customer, an object has an ETag that looks like an MD5
    # and is none.
    encrypted = f"{_ENCRYPTION}-customer-algorithm" in headers or headers.get(
        _ENCRYPTION, ""
    ).startswith("aws:kms")
    is_md5 = not encrypted and _MD5.fullmatch(etag.lower())
    return (etag, etag.lower()) if is_md5 else (masked(etag), None)


def s3_code(body: bytes) -> str:
    """Return the code in S3's error, or an empty text where there is none."""
    return _match(_XML_CODE, body.decode("utf-8", "replace"))


@contextmanager
def as_delivery_errors(request: RequestKind, body: Body | None = None) -> Iterator[None]:
    """Raise `DeliveryError` in place of `TransportError`, `Stopped` and `Withheld`.

    `body`: the one that is sent; once it is `sent`, the object may be in the bucket.
    """
    try:
        yield
    except TransportError as error:
        sent = body is not None and body.sent
        raise transport_error(request, error.code, str(error), body_sent=sent) from error
    except Stopped as error:
        raise interrupted(ambiguous=body is not None and body.sent) from error
    except Withheld as error:
        # Not ambiguous, although the body had handed over its last piece: S3 "never adds partial
        # objects" (PutObject, Amazon S3 API reference), and cQube 5's parser of forms fails
        # without the closing boundary.
        reason = "this host has lost its claim of the file, so it did not finish the upload"
        raise DeliveryError(Decision.INTERRUPT, Code.CONNECTION_LOST, reason) from error


def is_stale(error: DeliveryError) -> bool:
    """Return whether the server had closed the idle connection before it read the request."""
    return isinstance(error.__cause__, TransportError) and error.__cause__.stale


def resend_if_stale(send: Callable[[], T], *, overwrites: bool = True) -> tuple[T, bool]:
    """Send a body; send it once more if the server had closed the idle connection.

    Then neither the file nor the server failed. Return the answer, and whether the server may have
    stored the first body as well. `overwrites`: whether a second body replaces the first; if not, a
    body that was sent to its end is never sent again. Raises what `send` raises.
    """
    try:
        return send(), False
    except DeliveryError as error:
        # The loss of a busy connection can look like that of an idle one.
        if not is_stale(error) or (error.ambiguous and not overwrites):
            raise
        ambiguous = error.ambiguous
    try:
        return send(), ambiguous
    except DeliveryError as error:
        error.ambiguous = error.ambiguous or ambiguous
        raise


def transport_error(
    request: RequestKind, code: Code, detail: str, *, body_sent: bool
) -> DeliveryError:
    """Return what a request without an answer means.

    `body_sent`: the last byte of the body was handed over, so the object may be there.
    """
    bucket = request.stage is Stage.BUCKET
    if request is RequestKind.BUCKET and code is Code.MALFORMED_ANSWER:
        code = Code.NOT_A_BUCKET
    elif bucket and body_sent:
        code, detail = Code.ANSWER_LOST, f"no answer after the whole body: {detail}"
    # A connection that breaks in a body may do so because of this body. All else would stop every
    # other file as well.
    file_only = bucket and code in _OF_ONE_BODY
    return DeliveryError(
        Decision.DEFER if file_only else Decision.PAUSE,
        code,
        detail if code is Code.ANSWER_LOST else f"{request}: {detail}",
        stage=request.stage,
        ambiguous=bucket and body_sent,
    )


def interrupted(*, ambiguous: bool) -> DeliveryError:
    """Return the error of an attempt that the daemon's stop has ended."""
    return DeliveryError(
        Decision.INTERRUPT, Code.CONNECTION_LOST, "the daemon is stopping", ambiguous=ambiguous
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds, from either of its forms (RFC 9110, 10.2.3).

    A date counts from the answer's own `Date`: this host's clock may be wrong.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until, served_at = http_date(value), http_date(headers.get("date", ""))
    if until is None or served_at is None:
        return None
    return max(0.0, until - served_at)


def http_date(value: str) -> float | None:
    """Return an HTTP date in seconds since the epoch, or None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def _match(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group(1) if match else ""


def _s3_message(body: bytes) -> str:
    # Masked before it is cut: a part of a secret would not be recognised.
    content = masked(body.decode("utf-8", "replace"))
    text = ": ".join(
        part for part in (_match(_XML_CODE, content), _match(_XML_MESSAGE, content)) if part
    )
    return f" ({text})" if text else ""


def _json_message(body: bytes) -> str:
    try:
        message = json.loads(body)["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    text = masked(message)[:200] if isinstance(message, str) else ""
    return f" ({text})" if text else ""
