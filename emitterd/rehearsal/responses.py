"""What the rehearsal server responds: S3's XML, the JSON and HTML of both APIs.

The wording is that of the real servers, because clients classify by it.
"""

import html
import json
from collections.abc import Mapping

from starlette.responses import Response


class RefusedError(Exception):
    """The bucket refuses the request; `response` says so in S3's words."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body)
        self.response = response


def json_response(value: object, status: int = 200) -> Response:
    """Respond with `value` as JSON."""
    return Response(json.dumps(value), status, media_type="application/json")


def text_response(text: str) -> Response:
    """Respond 200 with bare text, which the emission API labels as HTML."""
    return Response(text.encode("utf-8", "replace"), media_type="text/html")


def error_page(status: int, title: str, text: str) -> Response:
    """Respond with a web page, as the API's framework does for errors."""
    page = (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n'
        f"<title>{status} {title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n"
    )
    return Response(page, status, media_type="text/html")


def s3_error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Respond with an error of S3."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{html.escape(message)}</Message>"
        "<RequestId>REHEARSAL</RequestId><HostId>rehearsal</HostId></Error>"
    )
    encoded = body.encode("utf-8", "replace")
    return Response(encoded, status, headers, media_type="application/xml")


def with_headers(response: Response, headers: Mapping[str, str]) -> Response:
    """Return a copy of a response with these headers too."""
    merged = {**response.headers, **headers}
    return Response(response.body, response.status_code, merged)


UNAUTHORIZED = json_response({"message": "Unauthorized"}, 401)
NO_ROLE = error_page(401, "Unauthorized", "Invalid user roles to access api")
NO_ROUTE = json_response({"message": "no Route matched with those values"}, 404)
API_UNAVAILABLE = json_response(
    {"message": "An invalid response was received from the upstream server"}, 503
)
WRONG_PASSWORD = json_response(
    {"error": "invalid_grant", "error_description": "Invalid user credentials"}
)
RATE_LIMIT = json_response({"message": "API rate limit exceeded"}, 429)
BAD_PAYLOAD = error_page(400, "Bad Request", "Bad request, validate the payload")
BAD_BUCKET = error_page(
    400, "Bad Request", "Bad request, not cqube bucket - validate the bucket name"
)
API_ERROR = error_page(
    500,
    "Internal Server Error",
    "The server encountered an internal error and was unable to complete your request.",
)
CAPTIVE_PORTAL = Response(
    "<!doctype html><title>Welcome</title><p>Please accept the terms of use.</p>",
    media_type="text/html",
)

SLOW_DOWN = s3_error(503, "SlowDown", "Please reduce your request rate.")
ACCESS_DENIED = s3_error(403, "AccessDenied", "Access Denied")
POLICY_EXPIRED = s3_error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
BAD_SIGNATURE = s3_error(
    403,
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided."
    " Check your key and signing method.",
)
TOO_LARGE = s3_error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
NO_SUCH_KEY = s3_error(404, "NoSuchKey", "The specified key does not exist.")
NO_LENGTH = s3_error(
    411, "MissingContentLength", "You must provide the Content-Length HTTP header."
)
NO_FORM = s3_error(
    412, "PreconditionFailed", "Bucket POST must be of the enclosure-type multipart/form-data"
)
MALFORMED_FORM = s3_error(
    400,
    "MalformedPOSTRequest",
    "The body of your POST request is not well-formed multipart/form-data.",
)
NOT_ONE_FILE = s3_error(
    400, "InvalidArgument", "POST requires exactly one file upload per request, as the last field."
)
FIELDS_TOO_LARGE = s3_error(
    400,
    "MaxPostPreDataLengthExceeded",
    "Your POST request fields preceding the upload file were too large.",
)


def service_error(status: int, message: str, title: str) -> Response:
    """Respond with an error of cQube 5's framework."""
    return json_response({"statusCode": status, "message": message, "error": title}, status)


NO_TOKEN = service_error(403, "Forbidden resource", "Forbidden")
BAD_TOKEN = json_response({"statusCode": 401, "message": "Unauthorized"}, 401)
BAD_SCHEME = json_response({"statusCode": 500, "message": "Internal server error"}, 500)
NO_FILE = service_error(400, "File is required", "Bad Request")
NOT_ZIP_TYPE = service_error(400, "Validation failed (expected type is zip)", "Bad Request")
BAD_MULTIPART = service_error(400, "Unexpected end of form", "Bad Request")
UNKNOWN_PROGRAM = json_response({"message": "Schema doesn't exists for this program"}, 400)
ACCEPTED = json_response({"message": "File is being processed"})
NO_RECORDS = json_response({"message": "No records found"}, 400)
