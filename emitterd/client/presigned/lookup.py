"""Looks up an object in the bucket, after the answer to its upload was lost.

emitterd does this when the pinned grant has expired, before a new grant gives a second key. Only a
complete object confirms a delivery. An absent object proves nothing: the server removes objects
from the bucket as soon as it has read them.

`found`: an object of the file's size, and its ETag is the file's MD5. Without an MD5 (KMS) the size
is enough if the key has the server's time stamp. `absent`: the entry stays ambiguous and gets a new
grant. `other`: other content. `unknown`: no answer, or the server has no `download_url` (cQube 1.0;
1.1 to 1.6 give it to administrators only). A temporary failure defers the file. A grant older than
6 hours counts as `unknown`, so that a bucket that cannot be read does not block the file. Source:
cQube's use of the bucket, and GET Object of the Amazon S3 API reference.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from emitterd.client.emission import NotConfirmed
from emitterd.client.responses import bucket_error, etag_of, is_etag, s3_code
from emitterd.errors import DeliveryError
from emitterd.model import Confirmation

FIRST_BYTE = {"Range": "bytes=0-0"}
"""The download url is signed for GET only. With this range a GET does for a HEAD."""

_PART = 206
_WHOLE = 200
_NOT_FOUND = 404
_TEMPORARY = frozenset({407, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes 0-0/([0-9]{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in the bucket. `md5`: in hex, where the ETag is one."""

    size_bytes: int
    etag: str
    md5: str | None

    def check_size(self, size_bytes: int) -> None:
        """Raise `NotConfirmed` if the object has another size."""
        if self.size_bytes != size_bytes:
            raise NotConfirmed(
                Confirmation.OTHER,
                f"an object of {self.size_bytes} bytes is there, not of {size_bytes}",
            )

    def verify(self, md5: bytes, *, shared_key: bool) -> bool:
        """Return whether the ETag proves that the object has this MD5.

        `shared_key`: all versions of the path have this key, because the server stamps none. Raises
        `NotConfirmed` if the object is, or may be, another version.
        """
        if self.md5 is not None and self.md5 != md5.hex():
            raise NotConfirmed(
                Confirmation.OTHER, f"an object of MD5 {self.md5} is there, not of {md5.hex()}"
            )
        if self.md5 is None and shared_key:
            raise NotConfirmed(Confirmation.UNKNOWN, "an object whose ETag is no MD5 may be any")
        return self.md5 is not None


def stored(status: int, headers: Mapping[str, str], body: bytes) -> StoredObject:
    """Return the object that the answer to a GET of its first byte describes.

    The keys of `headers` are lower-case names. Raises `NotConfirmed` if it describes none, and
    `DeliveryError` for a temporary failure.
    """
    size_bytes = _object_size(status, headers)
    if size_bytes is not None and is_etag(headers.get("etag", "")):
        return StoredObject(size_bytes, *etag_of(headers))
    # To a caller that may not list the bucket S3 answers 403 for a missing key. Only its own
    # NoSuchKey proves that the object is not there.
    if status == _NOT_FOUND and s3_code(body) == "NoSuchKey":
        raise NotConfirmed(
            Confirmation.ABSENT, "no such object: it was never stored, or the server has taken it"
        )
    error = bucket_error(status, headers, body, {})
    if error is not None and status in _TEMPORARY:
        # Unlike the POST, a GET stores nothing, so its failure is not ambiguous.
        raise DeliveryError(
            error.decision, error.code, error.reason, retry_after_s=error.retry_after_s
        )
    reason = error.reason if error else f"the bucket answered {status}"
    raise NotConfirmed(Confirmation.UNKNOWN, f"{reason} to a download")


def _object_size(status: int, headers: Mapping[str, str]) -> int | None:
    # A bucket may ignore `Range` and answer with the whole object.
    if status == _PART:
        match = _RANGE.fullmatch(headers.get("content-range", ""))
        return int(match.group(1)) if match else None
    length = headers.get("content-length", "")
    if status == _WHOLE and _LENGTH.fullmatch(length):
        return int(length)
    return None
