"""MD5 and SHA-256 of a file's bytes, computed while the file is sent.

hashlib releases the interpreter lock while it hashes. A large file therefore takes as long as the
slowest of sending, MD5 and SHA-256, and not as long as all three together.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

THREADS_FROM_BYTES = 8 * 1024 * 1024
"""Measured: below this size two threads cost more than they save."""

QUEUED_CHUNKS_MAX = 2
"""How many chunks may wait to be hashed. More are not faster, and use memory."""

THREAD_NAME = "hashing"


class Hashing:
    """Both digests of the chunks that one thread passes in; a context manager.

    Close it in any case: the digests of a large file have a thread each.
    """

    def __init__(self, size_bytes: int) -> None:
        """Start threads if `size_bytes` is large."""
        # MD5 is no protection here, so a host in FIPS mode must not forbid it.
        self._digests = (hashlib.md5(usedforsecurity=False), hashlib.sha256())
        # One thread for each digest, because chunks must be hashed in order.
        self._threads = [
            ThreadPoolExecutor(1, THREAD_NAME)
            for _ in self._digests
            if size_bytes >= THREADS_FROM_BYTES
        ]
        self._unhashed: deque[list[Future[None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def md5(self) -> bytes:
        """MD5 of all bytes that are hashed so far."""
        return self._digests[0].digest()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of all bytes that are hashed so far."""
        return self._digests[1].digest()

    def update(self, chunk: bytes) -> None:
        """Take the next bytes; raises the error of an earlier chunk."""
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
        self._wait(QUEUED_CHUNKS_MAX)

    def finish(self) -> None:
        """Wait until everything is hashed; raises the error of an earlier chunk."""
        self._wait(0)
        self.close()

    def close(self) -> None:
        """End the threads; chunks that still wait are dropped."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)

    def _wait(self, queued_max: int) -> None:
        while len(self._unhashed) > queued_max:
            for future in self._unhashed.popleft():
                future.result()
