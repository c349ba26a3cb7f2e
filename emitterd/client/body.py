"""The body of an upload: all fields first, the file last, streamed from disk.

emitterd reads the file once, and computes both digests while it sends. Before the closing boundary
it compares the open file with the version that was admitted. If the file changed, the body stays
unfinished, and the bucket stores nothing. Source: RFC 7578, and "POST Object" of the Amazon S3 API
reference.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import IO

from emitterd.codes import Code
from emitterd.errors import FileError
from emitterd.failpoints import Point, reach
from emitterd.model import Fingerprint
from emitterd.spool.folder import digests
from emitterd.spool.hashing import Hashing

CHUNK_BYTES = 512 * 1024
"""Measured: httpx sends 0.7 to 0.9 GB/s in its own chunks of 64 KiB, and 1.4 to 2.0 GB/s in chunks
of 256 KiB to 1 MiB. A reused buffer would gain nothing, because h11 copies everything but
`bytes`."""


OnSent = Callable[[int], None]
"""Gets the size in bytes of each part of a body that a socket took."""

MayFinish = Callable[[], bool]
"""Tells, without a wait, whether the last bytes of a body may be sent now."""


class Body:
    """The body of one attempt. Iterate it once, and always close it."""

    def __init__(
        self,
        file: IO[bytes],
        expected: Fingerprint,
        fields: dict[str, str],
        *,
        file_name: str = "file.zip",
        on_sent: OnSent | None = None,
        may_finish: MayFinish | None = None,
    ) -> None:
        """Prepare the body of a file that was just opened.

        `file_name`: the name of the part. The bucket ignores it, so no path of this host is sent.
        `may_finish` is asked directly before the last bytes are sent; None for always.
        """
        boundary = secrets.token_hex(16)
        self._file = file
        self._expected = expected
        self.on_sent = on_sent
        self.may_finish = may_finish
        self._head = (
            b"".join(_field(boundary, name, value) for name, value in fields.items())
            + (
                f"--{boundary}\r\nContent-Disposition: form-data;"
                f' name="file"; filename="{_quoted(file_name)}"\r\n'
                "Content-Type: application/zip\r\n\r\n"
            ).encode()
        )
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.hashing = Hashing(expected.size_bytes)
        """Holds the digests of the file's bytes, once `sent`."""
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.size_bytes = len(self._head) + expected.size_bytes + len(self._tail)
        self.sent = False
        """Whether the last byte was handed over: the object may exist from then on."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body. Raises `FileError` (CHANGED) where the file changed."""
        left, pending = self._expected.size_bytes, self._head
        reach(Point.BODY_DUE)
        while left:
            # Not more than announced: h11 raises an error for the surplus of a file that has grown.
            chunk = self._file.read(min(CHUNK_BYTES, left))
            if not chunk:
                break
            self.hashing.update(chunk)
            left -= len(chunk)
            pending += chunk
            # The last chunk goes out with the tail: a small file is one write.
            if left:
                yield pending
                pending = b""
                reach(Point.BODY_BEGUN)
        self.hashing.finish()
        stat = os.fstat(self._file.fileno())
        seen = Fingerprint.of(stat)
        if left or not self._expected.same_times(seen) or not self._is_content(seen, stat.st_nlink):
            raise FileError("the file changed while it was sent", code=Code.CHANGED)
        # Set before the last bytes go out: if the connection breaks in them, the bucket may have
        # them.
        self.sent = True
        yield pending + self._tail
        reach(Point.BODY_SENT)

    def _is_content(self, seen: Fingerprint, links: int) -> bool:
        """Tell whether what was sent is what lies there, if only the ctime has changed.

        A file that was deleted or replaced meanwhile has no link left: nobody can open it again.
        """
        if links == 0 or seen.same_version(self._expected):
            return True
        _, sha256 = digests(self._file, lambda: None)
        return sha256 == self.hashing.sha256

    def close(self) -> None:
        """End the hashing of a body that may be unfinished."""
        self.hashing.close()


def _field(boundary: str, name: str, value: str) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
    ).encode()


def _quoted(name: str) -> str:
    # RFC 7578 section 4.2: a quote or a line break in a name is percent-encoded.
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
