"""What the bucket shows under the key of a body whose answer was lost.

Asked once the pinned grant is spent, before another one would give a second key. Only
bytes that are there, all of them, confirm a delivery. That nothing is there proves
nothing: the server takes an object out of the bucket as soon as it reads it.
Source: "Life of an emitted object" in the protocol's notes, and GET Object of the
Amazon S3 API reference.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from emitterd.client.responses import bucket_trouble, etag_of, s3_code
from emitterd.errors import DeliveryError
from emitterd.model import Confirmation
from emitterd.text import printable

FIRST_BYTE = {"Range": "bytes=0-0"}
"""The url is signed for GET; so little is asked for that it does for a HEAD."""

_PART = 206
_WHOLE = 200
_NOT_FOUND = 404
_PASSING = frozenset({407, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes 0-0/([0-9]{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")


class NotConfirmed(Exception):
    """The delivery is not confirmed; `confirmation` says in which way, and why."""

    def __init__(self, confirmation: Confirmation, reason: str) -> None:
        super().__init__(reason)
        self.confirmation = confirmation
        self.reason = printable(reason)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the bucket shows it. `md5`: in hex, where the ETag is one."""

    size_bytes: int
    etag: str
    md5: str | None

    def check_size(self, size_bytes: int) -> None:
        """Raise `NotConfirmed` where it is no object of this size."""
        if self.size_bytes != size_bytes:
            raise NotConfirmed(
                Confirmation.OTHER,
                f"an object of {self.size_bytes} bytes is there, not of {size_bytes}",
            )

    def verify(self, md5: bytes, *, shared_key: bool) -> bool:
        """Return whether the ETag proves it to be a file of this MD5.

        `shared_key`: all versions of the path have this key, as where the server
        stamps none. Raises `NotConfirmed` where it is another one's, or may be.
        """
        if self.md5 is not None and self.md5 != md5.hex():
            raise NotConfirmed(
                Confirmation.OTHER,
                f"an object of MD5 {self.md5} is there, not of {md5.hex()}",
            )
        if self.md5 is None and shared_key:
            raise NotConfirmed(
                Confirmation.UNKNOWN, "an object whose ETag is no MD5 may be any"
            )
        return self.md5 is not None


def stored(status: int, headers: Mapping[str, str], body: bytes) -> StoredObject:
    """Return the object that the answer to a GET of its first byte shows.

    `headers` is looked up by lower-case name. Raises `NotConfirmed` where it shows
    none, and `DeliveryError` where what is in the way will pass.
    """
    size_bytes = _size_bytes(status, headers)
    if size_bytes is not None and headers.get("etag"):
        return StoredObject(size_bytes, *etag_of(headers))
    if status == _NOT_FOUND and s3_code(body) == "NoSuchKey":
        raise NotConfirmed(
            Confirmation.ABSENT,
            "no such object: it was never stored, or the server has taken it",
        )
    trouble = bucket_trouble(status, headers, body)
    if trouble is not None and status in _PASSING:
        # No object can come of a question: it is not ambiguous.
        raise DeliveryError(
            trouble.decision,
            trouble.code,
            trouble.reason,
            retry_after_s=trouble.retry_after_s,
        )
    said = trouble.reason if trouble else f"the bucket answered {status}"
    raise NotConfirmed(Confirmation.UNKNOWN, f"{said} to a download")


def _size_bytes(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole object, or None where the answer shows none."""
    if status == _PART:
        found = _RANGE.fullmatch(headers.get("content-range", ""))
        return int(found.group(1)) if found else None
    length = headers.get("content-length", "")
    if status == _WHOLE and _LENGTH.fullmatch(length):
        return int(length)
    return None
