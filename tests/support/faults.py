"""Faults of the rehearsal server that only tests order; `emitterd rehearse` lacks them.

`fault_list` reads a list of these and of the ones that operators can order.
"""

import hashlib
import json
from http import HTTPStatus

from starlette.responses import Response

from emitterd.rehearsal import responses
from emitterd.rehearsal.exchange import Exchange
from emitterd.rehearsal.faults import (
    FAULTS,
    REGIONAL_PATH,
    RETRY_AFTER,
    FaultAction,
    FaultKind,
    FaultList,
    FaultStage,
    delay,
    respond,
)

NO_SUCH_BUCKET = responses.s3_error(404, "NoSuchBucket", "The specified bucket does not exist")
LINK_LOCAL = "http://169.254.169.254/"
HUGE_BYTES = 10 * 1000 * 1000
DEPTH = 100_000


def redirect_response(url: str) -> Response:
    """Respond 307, as S3 does while the name of a new bucket spreads."""
    message = "Please re-send this request to the specified temporary endpoint."
    return responses.s3_error(307, "TemporaryRedirect", message, {"Location": url})


async def redirect(exchange: Exchange, _: float | None, __: Response) -> Response:
    """Redirect to the regional address, which accepts the upload."""
    return redirect_response(f"{exchange.home}{REGIONAL_PATH}")


def change_grant(changes: dict[str, str]) -> FaultAction:
    """Return an action that responds with the right grant, but for these values."""

    async def action(_: Exchange, __: float | None, response: Response) -> Response:
        return responses.json_response(json.loads(bytes(response.body)) | changes)

    return action


async def cut_grant(_: Exchange, __: float | None, response: Response) -> Response:
    """Respond with a grant whose JSON has no end."""
    return Response(bytes(response.body)[:-20], media_type="application/json")


async def strip_grant(_: Exchange, __: float | None, response: Response) -> Response:
    """Respond with a grant that has the key and no other field."""
    grant = json.loads(bytes(response.body))
    fields = {"key": grant["fields"]["key"]}
    return responses.json_response({"fields": fields, "url": grant["url"]})


def deep_grant() -> Response:
    """Return a grant that is nested so deep that a recursive parser fails."""
    body = '{"fields": ' + "[" * DEPTH + "]" * DEPTH + ', "url": ""}'
    return Response(body, media_type="application/json")


def change_etag(suffix: str = "", **headers: str) -> FaultAction:
    """Return an action that responds with another ETag, and with these headers.

    With a suffix the ETag is that of a multipart upload, without one another MD5.
    """

    async def action(_: Exchange, __: float | None, response: Response) -> Response:
        md5 = response.headers["ETag"].strip('"')
        if suffix:
            etag = md5 + suffix
        else:
            etag = hashlib.md5(md5.encode(), usedforsecurity=False).hexdigest()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return responses.with_headers(response, {"etag": f'"{etag}"', **named})

    return action


def send_raw(raw: bytes) -> FaultAction:
    """Return an action that sends these bytes in place of a response, and closes."""

    async def action(exchange: Exchange, _: float | None, __: Response) -> None:
        exchange.connection.transport.write(raw)
        exchange.connection.transport.close()

    return action


async def dribble(exchange: Exchange, pause_s: float | None, right: Response) -> None:
    """Send the right response byte by byte."""
    exchange.record.status = right.status_code
    phrase = HTTPStatus(right.status_code).phrase
    lines = [f"HTTP/1.1 {right.status_code} {phrase}"]
    lines += [f"{name}: {value}" for name, value in right.headers.items()]
    lines += ["Connection: close", "", ""]
    for byte in "\r\n".join(lines).encode("latin-1") + bytes(right.body):
        exchange.connection.transport.write(bytes([byte]))
        await exchange.connection.wait(pause_s or 0)
    exchange.connection.transport.close()


TEST_FAULTS: dict[str, FaultKind] = {
    "auth-error": FaultKind(
        FaultStage.LOGIN, "the login answers 200 with an error", respond(responses.WRONG_PASSWORD)
    ),
    "api-401": FaultKind(
        FaultStage.GRANT, "upload-url refuses a valid token", respond(responses.UNAUTHORIZED)
    ),
    "redirect": FaultKind(FaultStage.REDIRECT, "307 to /bucket-regional/, which accepts", redirect),
    "expired": FaultKind(
        FaultStage.REFUSE,
        "the bucket calls a valid policy expired",
        respond(responses.POLICY_EXPIRED),
    ),
    "no-such-bucket": FaultKind(
        FaultStage.REFUSE, "the bucket answers NoSuchBucket", respond(NO_SUCH_BUCKET)
    ),
    "auth-500": FaultKind(FaultStage.LOGIN, "the login answers 500", respond(responses.API_ERROR)),
    "api-500": FaultKind(FaultStage.GRANT, "upload-url answers 500", respond(responses.API_ERROR)),
    "api-captive-portal": FaultKind(
        FaultStage.GRANT,
        "upload-url answers 200 with a web page",
        respond(responses.CAPTIVE_PORTAL),
    ),
    "slow-grant": FaultKind(FaultStage.GRANT, "upload-url answers late", delay, "seconds", 1),
    "malformed-grant": FaultKind(FaultStage.GRANT, "the grant is not JSON", cut_grant),
    "grant-missing-fields": FaultKind(
        FaultStage.GRANT, "the grant has a key and nothing else", strip_grant
    ),
    "huge-grant": FaultKind(
        FaultStage.GRANT, "the grant is 10 MB of JSON", change_grant({"padding": "x" * HUGE_BYTES})
    ),
    "deep-grant": FaultKind(
        FaultStage.GRANT, "the grant is nested 100,000 deep", respond(deep_grant())
    ),
    "hostile-grant": FaultKind(
        FaultStage.GRANT,
        "the grant's url is file:///etc/passwd",
        change_grant({"url": "file:///etc/passwd"}),
    ),
    "hostile-link-local": FaultKind(
        FaultStage.GRANT, f"the grant's url is {LINK_LOCAL}", change_grant({"url": LINK_LOCAL})
    ),
    "early-403": FaultKind(
        FaultStage.ARRIVAL,
        "403 before the body is read, and closed",
        respond(responses.with_headers(responses.ACCESS_DENIED, {"Connection": "close"})),
    ),
    "500": FaultKind(
        FaultStage.REFUSE,
        "the bucket answers 500 InternalError",
        respond(
            responses.s3_error(500, "InternalError", "We encountered an internal error. Try again.")
        ),
    ),
    "signature": FaultKind(
        FaultStage.REFUSE,
        "the bucket answers SignatureDoesNotMatch",
        respond(responses.BAD_SIGNATURE),
    ),
    "malformed": FaultKind(
        FaultStage.REFUSE,
        "the bucket answers MalformedPOSTRequest",
        respond(responses.MALFORMED_FORM),
    ),
    "denied": FaultKind(
        FaultStage.REFUSE, "the bucket answers AccessDenied", respond(responses.ACCESS_DENIED)
    ),
    "filter": FaultKind(
        FaultStage.REFUSE,
        "a filter on the way answers 403 with a web page",
        respond(responses.error_page(403, "Forbidden", "This upload is blocked.")),
    ),
    "too-large": FaultKind(
        FaultStage.REFUSE, "the bucket answers EntityTooLarge", respond(responses.TOO_LARGE)
    ),
    "request-timeout": FaultKind(
        FaultStage.REFUSE,
        "the bucket answers RequestTimeout",
        respond(
            responses.s3_error(
                400,
                "RequestTimeout",
                "Your socket connection to the server was not read from or written to"
                " within the timeout period. Idle connections will be closed.",
            )
        ),
    ),
    "redirect-foreign": FaultKind(
        FaultStage.REDIRECT,
        "307 to http://other.invalid/",
        respond(redirect_response("http://other.invalid/")),
    ),
    "truncated-answer": FaultKind(
        FaultStage.ANSWER,
        "stored, then half an answer",
        send_raw(b'HTTP/1.1 204 No Content\r\nETag: "d41d8cd98f'),
    ),
    "garbage": FaultKind(
        FaultStage.ANSWER,
        "stored, then an answer that is not HTTP",
        send_raw(b"\x16\x03\x01 this is no status line\r\n\r\n"),
    ),
    "wrong-etag": FaultKind(FaultStage.ANSWER, "stored, answered with another MD5", change_etag()),
    "non-md5-etag": FaultKind(
        FaultStage.ANSWER, "stored, answered with the ETag of a multipart upload", change_etag("-2")
    ),
    "kms-etag": FaultKind(
        FaultStage.ANSWER,
        "stored, encrypted with a key of KMS: no MD5",
        change_etag(x_amz_server_side_encryption="aws:kms"),
    ),
    "dribble": FaultKind(
        FaultStage.ANSWER, "stored, answered byte by byte", dribble, "seconds a byte", 0.5
    ),
    "download-503": FaultKind(
        FaultStage.DOWNLOAD,
        "download_url answers 503",
        respond(responses.API_UNAVAILABLE),
        RETRY_AFTER,
    ),
    "hostile-download": FaultKind(
        FaultStage.DOWNLOAD,
        f"the download's url is {LINK_LOCAL}",
        respond(responses.text_response(LINK_LOCAL)),
    ),
    "object-403": FaultKind(
        FaultStage.OBJECT,
        "the bucket refuses the download: AccessDenied",
        respond(responses.ACCESS_DENIED),
    ),
    "object-503": FaultKind(
        FaultStage.OBJECT,
        "the bucket answers the download with SlowDown",
        respond(responses.SLOW_DOWN),
        RETRY_AFTER,
    ),
}
ALL_FAULTS = FAULTS | TEST_FAULTS


def fault_list(text: str = "", *, seed: int | None = None) -> FaultList:
    """Read a list of all faults; see `FaultList.parse`."""
    return FaultList.parse(text, kinds=ALL_FAULTS, seed=seed)
