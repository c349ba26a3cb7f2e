"""What the rehearsal server says, as data: S3's XML, the API's JSON and HTML, faults.

The wording is that of the real servers, because clients classify by it.
"""

import hashlib
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from emitterd.rehearsal.faults import Fault

_HUGE_BYTES = 10 * 1000 * 1000
_DEPTH = 100_000


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. `close`: the connection ends with it."""

    status: int
    body: bytes = b""
    media_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def as_bytes(self) -> bytes:
        """Return the answer as it stands on the wire, closing the connection."""
        phrase = HTTPStatus(self.status).phrase
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += ["Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


class RefusedError(Exception):
    """The bucket refuses the request, in S3's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.answer = as_xml_error(status, code, message)


def as_json(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """Answer with `value` as JSON."""
    body = json.dumps(value).encode()
    return Reply(status, body, "application/json", headers or {})


def as_text(text: str) -> Reply:
    """Answer 200 with bare text, which the emission API labels as HTML."""
    return Reply(200, text.encode("utf-8", "replace"), "text/html")


def as_page(status: int, title: str, text: str) -> Reply:
    """Answer with a web page, as the API's framework does for errors."""
    page = (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n'
        f"<title>{status} {title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n"
    )
    return Reply(status, page.encode(), "text/html")


def as_xml_error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Reply:
    """Answer with an error of S3."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{html.escape(message)}</Message>"
        "<RequestId>REHEARSAL</RequestId><HostId>rehearsal</HostId></Error>"
    )
    encoded = body.encode("utf-8", "replace")
    return Reply(status, encoded, "application/xml", headers or {})


UNAUTHORIZED = as_json({"message": "Unauthorized"}, 401)
NO_ROUTE = as_json({"message": "no Route matched with those values"}, 404)
BAD_PAYLOAD = as_page(400, "Bad Request", "Bad request, validate the payload")
BAD_BUCKET = as_page(
    400,
    "Bad Request",
    "Bad request, not cqube bucket - validate the bucket name",
)
API_ERROR = as_page(
    500,
    "Internal Server Error",
    "The server encountered an internal error and was unable to complete your request.",
)
WRONG_PASSWORD = as_json(
    {"error": "invalid_grant", "error_description": "Invalid user credentials"}
)
_PORTAL = Reply(
    200,
    b"<!doctype html><title>Welcome</title><p>Please accept the terms of use.</p>",
    "text/html; charset=utf-8",
)
_UPSTREAM_DOWN = "An invalid response was received from the upstream server"


_WRONG_ROLE = as_page(401, "Unauthorized", "Invalid user roles to access api")


def login_fault(fault: Fault) -> Reply:
    """Answer a login that a fault struck."""
    return WRONG_PASSWORD if fault.name == "auth-error" else API_ERROR


def grant_fault(fault: Fault, grant: dict[str, Any]) -> Reply:
    """Answer a request for a grant that a fault struck; `grant` is the right one."""
    return _GRANT_FAULTS[fault.name](fault, grant)


def _retry_after(fault: Fault) -> dict[str, str]:
    if fault.parameter is None:
        return {}
    return {"Retry-After": f"{fault.parameter:g}"}


def _huge(grant: dict[str, Any]) -> Reply:
    return as_json(grant | {"padding": "x" * _HUGE_BYTES})


def _deep() -> Reply:
    body = b'{"fields": ' + b"[" * _DEPTH + b"]" * _DEPTH + b', "url": ""}'
    return Reply(200, body, "application/json")


_GRANT_FAULTS: dict[str, Callable[[Fault, dict[str, Any]], Reply]] = {
    "429": lambda fault, _: as_json(
        {"message": "API rate limit exceeded"}, 429, _retry_after(fault)
    ),
    "api-500": lambda _, __: API_ERROR,
    "api-503": lambda fault, _: as_json(
        {"message": _UPSTREAM_DOWN}, 503, _retry_after(fault)
    ),
    "api-401": lambda _, __: UNAUTHORIZED,
    "api-captive-portal": lambda _, __: _PORTAL,
    "malformed-grant": lambda _, grant: Reply(
        200, json.dumps(grant).encode()[:-20], "application/json"
    ),
    "grant-missing-fields": lambda _, grant: as_json(
        {"fields": {"key": grant["fields"]["key"]}, "url": grant["url"]}
    ),
    "huge-grant": lambda _, grant: _huge(grant),
    "deep-grant": lambda _, __: _deep(),
    "hostile-grant": lambda _, grant: as_json(grant | {"url": "file:///etc/passwd"}),
    "hostile-link-local": lambda _, grant: as_json(
        grant | {"url": "http://169.254.169.254/"}
    ),
}


def download_fault(fault: Fault) -> Reply:
    """Answer a request for the url of a download that a fault struck."""
    match fault.name:
        case "no-download":
            return NO_ROUTE
        case "download-401":
            return _WRONG_ROLE
        case "hostile-download":
            return as_text("http://169.254.169.254/")
    return as_json({"message": _UPSTREAM_DOWN}, 503, _retry_after(fault))


def object_fault(fault: Fault) -> Reply:
    """Answer a good download that a fault struck."""
    if fault.name == "object-403":
        return as_xml_error(403, "AccessDenied", "Access Denied")
    return as_xml_error(*_REFUSALS["503"], headers=_retry_after(fault))


_REFUSALS: dict[str, tuple[int, str, str]] = {
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "500": (500, "InternalError", "We encountered an internal error. Try again."),
    "expired": (403, "AccessDenied", "Invalid according to Policy: Policy expired."),
    "signature": (
        403,
        "SignatureDoesNotMatch",
        (
            "The request signature we calculated does not match the signature you"
            " provided. Check your key and signing method."
        ),
    ),
    "no-such-bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
    "too-large": (
        400,
        "EntityTooLarge",
        "Your proposed upload exceeds the maximum allowed size",
    ),
    "request-timeout": (
        400,
        "RequestTimeout",
        (
            "Your socket connection to the server was not read from or written to"
            " within the timeout period. Idle connections will be closed."
        ),
    ),
}


def refused(name: str) -> RefusedError:
    """Return the refusal that a fault of this name feigns, to be raised in earnest."""
    return RefusedError(*_REFUSALS[name])


def bucket_fault(fault: Fault, home: str) -> Reply:
    """Answer a good upload that a fault struck; `home` is `http://host:port`."""
    if fault.name == "captive-portal":
        return _PORTAL
    if fault.name == "redirect":
        return redirected(f"{home}/bucket-regional/")
    if fault.name == "redirect-foreign":
        return redirected("http://other.invalid/")
    return as_xml_error(*_REFUSALS[fault.name], headers=_retry_after(fault))


def redirected(url: str) -> Reply:
    """Answer 307, as S3 does while the name of a new bucket spreads."""
    answer = as_xml_error(
        307,
        "TemporaryRedirect",
        "Please re-send this request to the specified temporary endpoint.",
    )
    return Reply(307, answer.body, answer.media_type, {"Location": url})


def early_refusal() -> Reply:
    """Answer 403 to a body that nobody read."""
    answer = as_xml_error(403, "AccessDenied", "Access Denied")
    return Reply(answer.status, answer.body, answer.media_type, close=True)


def stored(md5: str, location: str, fault: Fault | None) -> Reply:
    """Answer 204 for an object that was stored; a fault may bend the ETag."""
    etag, headers = md5, {"Location": location}
    name = fault.name if fault is not None else ""
    if name in {"wrong-etag", "kms-etag"}:
        etag = hashlib.md5(md5.encode(), usedforsecurity=False).hexdigest()
    elif name == "non-md5-etag":
        etag = f"{md5}-2"
    if name == "kms-etag":
        headers["x-amz-server-side-encryption"] = "aws:kms"
    return Reply(204, headers={"ETag": f'"{etag}"', **headers})


LAST_WORDS: dict[str, bytes] = {
    "lost-answer": b"",
    "truncated-answer": b'HTTP/1.1 204 No Content\r\nETag: "d41d8cd98f',
    "garbage": b"\x16\x03\x01 this is no status line\r\n\r\n",
}
"""What is said before the connection is closed, by fault."""
