"""Reads what the server says about delivered objects: lists, single objects, and its logs.

For `emitterd.tracking`, and only with the emission protocol: cQube 5 gives the counts of rows with
the receipt. Answers are not trusted: their size is limited, their types are checked,
and a url is checked before emitterd requests it. Each method sends one request, and none is sent
again. Each raises `DeliveryError` if it learns nothing. Source: cQube's views.py, 1.7 to 4.1.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from emitterd.client.emission import NotConfirmed
from emitterd.client.http import HttpClient, Response
from emitterd.client.presigned import grant as grants
from emitterd.client.presigned.lookup import FIRST_BYTE, stored
from emitterd.client.responses import (
    RequestKind,
    as_delivery_errors,
    bucket_error,
    is_etag,
    s3_code,
)
from emitterd.client.session import ANSWER_MAX_BYTES
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Confirmation

LIST_MAX_BYTES = 4 * 1024**2
"""A list has 1000 keys of at most 1024 bytes, which JSON may escape, and some fields for each."""

LOG_MAX_BYTES = 8 * 1024**2
"""A log with some 20,000 files."""

ERROR_MAX_BYTES = 64 * 1024
URL_MAX_BYTES = 8 * 1024
"""A key of 1024 bytes, percent-encoded, and a signature with a session token."""

_BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_OK, _UNCHANGED, _NOT_FOUND = 200, 304, 404

Ask = Callable[[RequestKind, dict[str, str] | None, int], Response]
"""Asks the emission API; the last argument limits the size of the answer in bytes."""


class Buckets(NamedTuple):
    """The names of the buckets: to which files are uploaded, and which has the server's logs."""

    emission: str
    output: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The first keys of a bucket. `last` is the last one listed; None if the list is complete."""

    keys: frozenset[str]
    last: str | None

    def has(self, key: str) -> bool | None:
        """Return whether the bucket has the key; None if the list does not reach so far."""
        # Keys come in the order of their UTF-8 bytes, which is that of Python's text.
        decided = self.last is None or key <= self.last
        return key in self.keys if decided else None


class ServerLog(NamedTuple):
    """The content of a log of the server, and its ETag; None if the log is as before."""

    content: bytes | None
    etag: str


class ServerReader:
    """Reads with the session of the uploads. Thread-safe.

    `api_url`: the emission API. `bucket_url`: where the last upload went. Downloads must lead to
    the same place; None allows any that `grant.check_url` allows.
    """

    def __init__(self, http: HttpClient, url: str, ask: Ask, *, insecure: bool) -> None:
        self._http = http
        self.api_url = url
        self._ask = ask
        self._insecure = insecure
        self.bucket_url: str | None = None

    def buckets(self) -> Buckets:
        """Return the names of the server's buckets."""
        request = RequestKind.BUCKETS
        names = _document(request, self._ask(request, None, ANSWER_MAX_BYTES))
        emission, output = names.get("emission"), names.get("output")
        for name in (emission, output):
            if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name):
                raise _malformed(request, "it names no emission and output bucket")
        return Buckets(str(emission), str(output))

    def listing(self, bucket: str) -> Listing:
        """Return the first keys of a bucket: S3 lists 1000."""
        request = RequestKind.FILES
        listed = _document(request, self._ask(request, {"bucket": bucket}, LIST_MAX_BYTES))
        contents, truncated = listed.get("Contents", []), listed.get("IsTruncated")
        if listed.get("Name", bucket) != bucket:
            raise _malformed(request, "it is about another bucket")
        if not isinstance(contents, list) or not isinstance(truncated, bool):
            raise _malformed(request, "it is no list of objects")
        keys = [item.get("Key") if isinstance(item, dict) else None for item in contents]
        # Without the order a missing key proves nothing.
        names = [key for key in keys if isinstance(key, str)]
        if len(names) < len(keys) or names != sorted(names) or (truncated and not names):
            raise _malformed(request, "its keys are not in order")
        return Listing(frozenset(names), names[-1] if truncated else None)

    def download_url(self, bucket: str, key: str) -> str:
        """Return a url for an object, which need not exist. It is valid for a day."""
        request = RequestKind.DOWNLOAD
        answer = self._ask(request, {"filename": key, "bucket": bucket}, URL_MAX_BYTES)
        if not answer.whole:
            raise _malformed(request, "it is too long")
        return grants.download_url(
            answer.body, near=self.bucket_url, api_url=self.api_url, insecure=self._insecure
        )

    def has_object(self, url: str) -> bool | None:
        """Return whether the object of a download url exists; None if the answer does not say."""
        answer = self._get(url, FIRST_BYTE, ERROR_MAX_BYTES)
        try:
            stored(answer.status, answer.headers, answer.body)
        except NotConfirmed as error:
            return False if error.confirmation is Confirmation.ABSENT else None
        return True

    def log(self, url: str, etag: str) -> ServerLog:
        """Return a log of the server by its download url; `etag`: of the content that is known.

        A log that does not exist is empty.
        """
        answer = self._get(url, {"If-None-Match": etag} if etag else {}, LOG_MAX_BYTES)
        if answer.status == _UNCHANGED and etag:
            return ServerLog(None, etag)
        if answer.status == _NOT_FOUND and s3_code(answer.body) == "NoSuchKey":
            return ServerLog(b"", "")
        if answer.status != _OK:
            reason = f"the bucket answered {answer.status} to a download"
            error = bucket_error(answer.status, answer.headers, answer.body, {})
            raise error or DeliveryError(Decision.DEFER, Code.BUCKET_TROUBLE, reason)
        if not answer.whole:
            reason = f"a log of the server is larger than {LOG_MAX_BYTES} bytes"
            raise DeliveryError(Decision.DEFER, Code.MALFORMED_ANSWER, reason)
        etag = answer.headers.get("etag", "")
        return ServerLog(answer.body, etag if is_etag(etag) else "")

    def close_thread(self) -> None:
        """Close the connections of this thread: the next requests come much later."""
        self._http.close_thread()

    def _get(self, url: str, headers: dict[str, str], limit_bytes: int) -> Response:
        with as_delivery_errors(RequestKind.BUCKET):
            return self._http.request("GET", url, headers, limit_bytes=limit_bytes)


def _document(request: RequestKind, answer: Response) -> dict[str, object]:
    if not answer.whole:
        raise _malformed(request, "it is too long")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise _malformed(request, "it is not JSON") from error
    if not isinstance(document, dict):
        raise _malformed(request, "it is not a JSON object")
    return document


def _malformed(request: RequestKind, problem: str) -> DeliveryError:
    reason = f"the answer to {request}: {problem}"
    return DeliveryError(Decision.PAUSE, Code.MALFORMED_ANSWER, reason)
