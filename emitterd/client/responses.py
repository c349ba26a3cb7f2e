"""What an answer, or the lack of one, means: the whole retry table in one place.

Unknown answers are taken for passing trouble; only what is known to be hopeless for
one file rejects it. Source: the retry table of the project's failure cases, and
"Error responses" of the Amazon S3 API reference.
"""

import email.utils
import re
from collections.abc import Mapping
from enum import StrEnum

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage


class RequestKind(StrEnum):
    """A request of an attempt, by its name on the wire; the body's is `bucket`."""

    LOGIN = "login"
    GRANT = "upload-url"
    DOWNLOAD = "download_url"
    BUCKET = "bucket"

    @property
    def stage(self) -> Stage:
        """The stage of the way that it belongs to."""
        return _STAGES[self]


_STAGES = {
    RequestKind.LOGIN: Stage.LOGIN,
    RequestKind.GRANT: Stage.GRANT,
    # One API, with one token: what is in the way of one is in that of the other.
    RequestKind.DOWNLOAD: Stage.GRANT,
    RequestKind.BUCKET: Stage.BUCKET,
}


class BrokenConnection(StrEnum):
    """How a request ended without an answer."""

    DNS = "dns"
    REFUSED = "refused"
    TLS = "tls"
    CONNECT_TIMEOUT = "connect-timeout"
    PROXY = "proxy"
    LOST = "lost"
    SLOW = "slow"


_BREAK_CODES = {
    BrokenConnection.DNS: Code.DNS,
    BrokenConnection.REFUSED: Code.REFUSED,
    BrokenConnection.TLS: Code.TLS,
    BrokenConnection.CONNECT_TIMEOUT: Code.CONNECT_TIMEOUT,
    BrokenConnection.PROXY: Code.PROXY,
    BrokenConnection.LOST: Code.CONNECTION_LOST,
    BrokenConnection.SLOW: Code.TOO_SLOW,
}

_ANY_API: dict[int, tuple[Decision, Code]] = {
    404: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    405: (Decision.PAUSE, Code.NOT_AN_EMISSION_API),
    407: (Decision.PAUSE, Code.PROXY),
    408: (Decision.PAUSE, Code.API_TROUBLE),
    429: (Decision.PAUSE, Code.RATE_LIMITED),
}
_ASKED = {
    **_ANY_API,
    400: (Decision.REJECT, Code.REQUEST_REFUSED),
    401: (Decision.RENEW_TOKEN, Code.TOKEN_REFUSED),
    403: (Decision.PAUSE, Code.FORBIDDEN),
    413: (Decision.REJECT, Code.REQUEST_REFUSED),
    414: (Decision.REJECT, Code.REQUEST_REFUSED),
    415: (Decision.REJECT, Code.REQUEST_REFUSED),
    422: (Decision.REJECT, Code.REQUEST_REFUSED),
}
_API: dict[RequestKind, dict[int, tuple[Decision, Code]]] = {
    RequestKind.LOGIN: {
        **_ANY_API,
        400: (Decision.PAUSE, Code.CREDENTIALS),
        401: (Decision.PAUSE, Code.CREDENTIALS),
        403: (Decision.PAUSE, Code.CREDENTIALS),
    },
    RequestKind.GRANT: _ASKED,
    RequestKind.DOWNLOAD: _ASKED,
}
_BUCKET_CODES: dict[str, tuple[Decision, Code]] = {
    "EntityTooLarge": (Decision.REJECT, Code.BODY_REFUSED),
    "EntityTooSmall": (Decision.REJECT, Code.BODY_REFUSED),
    "ExpiredToken": (Decision.RENEW_GRANT, Code.GRANT_EXPIRED),
    "RequestTimeTooSkewed": (Decision.PAUSE, Code.CLOCK_SKEW),
    "SignatureDoesNotMatch": (Decision.PAUSE, Code.GRANT_REFUSED),
    "InvalidAccessKeyId": (Decision.PAUSE, Code.GRANT_REFUSED),
    "NoSuchBucket": (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    "IllegalLocationConstraintException": (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    "RequestTimeout": (Decision.DEFER, Code.BUCKET_TROUBLE),
    "SlowDown": (Decision.DEFER, Code.BUCKET_TROUBLE),
}
_BUCKET: dict[int, tuple[Decision, Code]] = {
    401: (Decision.PAUSE, Code.NOT_A_BUCKET),
    403: (Decision.PAUSE, Code.GRANT_REFUSED),
    404: (Decision.PAUSE, Code.NO_SUCH_BUCKET),
    405: (Decision.PAUSE, Code.NOT_A_BUCKET),
    407: (Decision.PAUSE, Code.PROXY),
    413: (Decision.REJECT, Code.BODY_REFUSED),
}
_WRONG_LINE = {
    b"No required SSL certificate was sent": "wants a client certificate",
    b"The SSL certificate error": "refuses the client certificate",
    b"The plain HTTP request was sent to HTTPS port": "speaks https here, not http",
}
"""What nginx says before the API, with 400; source: ngx_http_special_response.c."""

_MAYBE_STORED = frozenset({500, 502, 504})
_SUCCESS = frozenset({200, 201, 204})
_SEALED = "x-amz-server-side-encryption"
_SEALED_BY_CUSTOMER = f"{_SEALED}-customer-algorithm"
_MD5 = re.compile(r"[0-9a-f]{32}")
_XML_CODE = re.compile(rb"<Code>\s*([A-Za-z]{1,64})\s*</Code>")
_XML_MESSAGE = re.compile(rb"<Message>([^<]{1,200})")


def api_trouble(
    request: RequestKind, status: int, headers: Mapping[str, str], body: bytes
) -> DeliveryError | None:
    """Return what an answer of the emission API means, or None for a success.

    `headers` is looked up by lower-case name.
    """
    if status == 200:  # noqa: PLR2004  the one success of this API
        return None
    verdict, code = _API[request].get(status, (Decision.PAUSE, Code.MALFORMED_ANSWER))
    if status >= 500:  # noqa: PLR2004  5xx
        verdict, code = Decision.PAUSE, Code.API_TROUBLE
    # Taken for the API's own 400 it would reject every file, for none of theirs.
    if status == 400 and (said := _wrong_line(body)):  # noqa: PLR2004
        reason = f"{request}: the server {said}"
        return DeliveryError(Decision.PAUSE, Code.TLS, reason, stage=request.stage)
    return DeliveryError(
        verdict,
        code,
        f"{request} answered {status}{_said(body)}",
        stage=request.stage,
        retry_after_s=retry_after_s(headers),
    )


def bucket_trouble(
    status: int, headers: Mapping[str, str], body: bytes
) -> DeliveryError | None:
    """Return what the bucket's answer to a whole or partial body means.

    None for a success: the expected status and an ETag.
    """
    if status in _SUCCESS and headers.get("etag"):
        return None
    name = s3_code(body)
    reason = f"the bucket answered {status}{_said(body)}"
    if status in _SUCCESS:
        return DeliveryError(
            Decision.PAUSE,
            Code.NOT_A_BUCKET,
            f"the bucket answered {status} without an ETag",
            ambiguous=True,
        )
    if name == "AccessDenied" and b"expired" in body.lower():
        return DeliveryError(Decision.RENEW_GRANT, Code.GRANT_EXPIRED, reason)
    if 300 <= status < 400:  # noqa: PLR2004  3xx
        return DeliveryError(Decision.PAUSE, Code.REDIRECT_REFUSED, reason)
    verdict, code = _BUCKET_CODES.get(name) or _BUCKET.get(
        status, (Decision.DEFER, Code.BUCKET_TROUBLE)
    )
    return DeliveryError(
        verdict,
        code,
        reason,
        retry_after_s=retry_after_s(headers),
        ambiguous=status in _MAYBE_STORED,
    )


def etag_of(headers: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the ETag of an answer that has one, and the MD5 that it is, or None."""
    etag = headers["etag"].removeprefix("W/").strip('"')
    # With a key of KMS or of the customer's the ETag is no MD5, however it looks.
    sealed = _SEALED_BY_CUSTOMER in headers or headers.get(_SEALED, "").startswith(
        "aws:kms"
    )
    plain = not sealed and _MD5.fullmatch(etag.lower())
    return etag, etag.lower() if plain else None


def s3_code(body: bytes) -> str:
    """Return the code in S3's error, or an empty text where there is none."""
    return _match(_XML_CODE, body)


def transport_error(
    request: RequestKind, how: BrokenConnection, detail: str, *, body_sent: bool
) -> DeliveryError:
    """Return what a request without an answer means.

    `body_sent`: the last byte of the body was handed over, so the object may be there.
    """
    if body_sent and request is RequestKind.BUCKET:
        return DeliveryError(
            Decision.DEFER,
            Code.ANSWER_LOST,
            f"no answer after the whole body: {detail}",
            ambiguous=True,
        )
    passing = request is RequestKind.BUCKET and how in {
        BrokenConnection.LOST,
        BrokenConnection.SLOW,
    }
    verdict = Decision.DEFER if passing else Decision.PAUSE
    reason = f"{request}: {detail}"
    return DeliveryError(verdict, _BREAK_CODES[how], reason, stage=request.stage)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds, from either of its forms (RFC 9110, 10.2.3).

    The date form counts from the answer's own `Date`, not from this host's clock.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until, served_at = http_date(value), http_date(headers.get("date", ""))
    if until is None or served_at is None:
        return None
    return max(0.0, until - served_at)


def http_date(value: str) -> float | None:
    """Return an HTTP date in seconds since the epoch, or None where it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def _wrong_line(body: bytes) -> str:
    return next((said for text, said in _WRONG_LINE.items() if text in body), "")


def _match(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return found.group(1).decode("utf-8", "replace") if found else ""


def _said(body: bytes) -> str:
    parts = (s3_code(body), _match(_XML_MESSAGE, body))
    text = ": ".join(part for part in parts if part)
    return f" ({text})" if text else ""
