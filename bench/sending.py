"""Posts one file as emitterd does, but without its digests: what its sending can do.

    python sending.py URL FILE FIELDS

FIELDS are the grant's, as JSON.
"""

import json
import os
import ssl
import sys
from http import HTTPStatus
from pathlib import Path

from emitterd.client.body import Body
from emitterd.client.http import HttpClient
from emitterd.client.sockets import TransferLimits
from emitterd.model import Fingerprint
from emitterd.shutdown import Shutdown

LIMITS = TransferLimits(connect_s=10.0, stall_s=60.0, minimum_bytes_s=1)


class Unhashed:
    """Stands in for `Hashing`, and takes no digest."""

    def update(self, chunk: bytes) -> None:
        """Leave the bytes alone."""

    def finish(self) -> None:
        """Have nothing to wait for."""

    def close(self) -> None:
        """Have nothing to end."""


def main(url: str, path: Path, fields: dict[str, str]) -> int:
    """Send it; return 0 where the bucket has accepted it."""
    client = HttpClient(LIMITS, tls=ssl.create_default_context(), proxy=None, shutdown=Shutdown())
    with path.open("rb", buffering=0) as file:
        body = Body(file, Fingerprint.of(os.fstat(file.fileno())), fields)
        body.hashing = Unhashed()  # type: ignore[assignment]
        answer = client.request("POST", url, {}, body, limit_bytes=65536)
    client.close()
    return 0 if answer.status == HTTPStatus.NO_CONTENT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])))
