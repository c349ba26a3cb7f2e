"""The body of a presigned POST: all fields first, the file last, streamed from disk.

The file is read once; both digests are taken beside the sending (`hashing`). Before the
closing boundary goes out they are whole, and the descriptor is compared with what was
admitted: a file that changed leaves the body unfinished, and a bucket stores whole
bodies or nothing.
Source: RFC 7578, and "POST Object" of the Amazon S3 API reference.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import IO

from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.failpoints import Point, reach
from emitterd.model import Fingerprint
from emitterd.spool.hashing import Hashing

CHUNK_BYTES = 512 * 1024
"""Measured: httpx sends 0.7 to 0.9 GB/s in its own 64 KiB chunks, 1.4 to 2.0 in
chunks of 256 KiB to 1 MiB. As `bytes`, which pass h11 as they are: it would copy
whatever a buffer for reuse could yield."""


class Body:
    """One attempt's body; iterate it once, and close it however that ends."""

    def __init__(
        self,
        file: IO[bytes],
        expected: Fingerprint,
        fields: dict[str, str],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare the body of a file that was just opened.

        `on_sent` is told the number of file bytes of each chunk that went out.
        """
        boundary = secrets.token_hex(16)
        self._file = file
        self._expected = expected
        self._on_sent = on_sent
        self._head = b"".join(_field(boundary, *one) for one in fields.items())
        # The part's file name is no secret, but a path of this host is nobody's
        # business: the bucket ignores it.
        self._head += (
            f"--{boundary}\r\nContent-Disposition: form-data;"
            ' name="file"; filename="file.zip"\r\n'
            "Content-Type: application/zip\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._hashing = Hashing(expected.size_bytes)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.size_bytes = len(self._head) + expected.size_bytes + len(self._tail)
        self.sent = False
        """Whether the last byte was handed over: the object may exist from then on."""

    @property
    def md5(self) -> bytes:
        """MD5 of the file's bytes, once `sent`."""
        return self._hashing.md5

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the file's bytes, once `sent`."""
        return self._hashing.sha256

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body. Raises `FileError` (CHANGED) where the file did."""
        left, chunk, pending = self._expected.size_bytes, b"", self._head
        reach(Point.BODY_DUE)
        while left:
            chunk = self._file.read(min(CHUNK_BYTES, left))
            if not chunk:
                break
            self._hashing.update(chunk)
            left -= len(chunk)
            pending += chunk
            # The last chunk goes out with the tail: a small file is one write.
            if left:
                yield pending
                pending = b""
                reach(Point.BODY_BEGUN)
                self._tell(len(chunk))
        self._hashing.finish()
        self._check(left)
        self.sent = True
        yield pending + self._tail
        reach(Point.BODY_SENT)
        self._tell(len(chunk))

    def close(self) -> None:
        """End the hashing of a body that may be unfinished."""
        self._hashing.close()

    def _check(self, left: int) -> None:
        stat = os.fstat(self._file.fileno())
        same = self._expected.same_bytes(Fingerprint.of(stat), stat.st_nlink)
        if left or not same:
            raise FileError("the file changed while it was sent", code=Code.CHANGED)

    def _tell(self, count: int) -> None:
        if self._on_sent is not None:
            self._on_sent(count)


def _field(boundary: str, name: str, value: str) -> bytes:
    # RFC 7578 section 4.2: a quote or a line break in a name is percent-encoded.
    quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return (
        f"--{boundary}\r\nContent-Disposition: form-data;"
        f' name="{quoted}"\r\n\r\n{value}\r\n'
    ).encode()
