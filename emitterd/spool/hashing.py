"""MD5 and SHA-256 of a file's bytes, taken beside the work of who reads them.

hashlib lets other threads run while it hashes, so a large file costs the longest of
sending, MD5 and SHA-256, and not their sum.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

BESIDE_BYTES = 8 * 1024 * 1024
"""Measured: below this size two threads cost more than they save."""

AHEAD = 2
"""So many chunks may wait to be hashed. More make nothing faster, and an upload holds
them in memory."""

THREAD_NAME = "hashing"


class Hashing:
    """Both digests of the chunks it is given, by one thread; also a context manager.

    What ends early must be closed: a large file's digests have a thread each.
    """

    def __init__(self, size_bytes: int) -> None:
        """Make ready for so many bytes."""
        self._digests = (hashlib.md5(usedforsecurity=False), hashlib.sha256())
        self._threads = [
            ThreadPoolExecutor(1, THREAD_NAME)
            for _ in self._digests
            if size_bytes >= BESIDE_BYTES
        ]
        self._unhashed: deque[list[Future[None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def md5(self) -> bytes:
        """MD5 of what was hashed so far."""
        return self._digests[0].digest()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of what was hashed so far."""
        return self._digests[1].digest()

    def update(self, chunk: bytes) -> None:
        """Take the next bytes; raises what hashing earlier ones has raised."""
        if not self._threads:
            for digest in self._digests:
                digest.update(chunk)
            return
        self._unhashed.append(
            [
                thread.submit(digest.update, chunk)
                for thread, digest in zip(self._threads, self._digests, strict=True)
            ]
        )
        self._wait(AHEAD)

    def finish(self) -> None:
        """Wait until everything is hashed; raises what that has raised."""
        self._wait(0)
        self.close()

    def close(self) -> None:
        """End the threads; what is not hashed yet is left."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)

    def _wait(self, ahead: int) -> None:
        while len(self._unhashed) > ahead:
            for one in self._unhashed.popleft():
                one.result()
