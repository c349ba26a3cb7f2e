"""What the machine itself can do: the bounds that no contestant passes."""

import json
import os
import socket
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from far import Far
from sequential import BOUNDARY, form

PAGE = b"\0" * 4096


def commits_a_second(folder: Path, count: int) -> float:
    """Return how many small writes a second this disk makes durable, one by one."""
    target = folder / "commits"
    descriptor = os.open(target, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        began_at = time.perf_counter()
        for _ in range(count):
            os.write(descriptor, PAGE)
            os.fdatasync(descriptor)
        return count / (time.perf_counter() - began_at)
    finally:
        os.close(descriptor)
        target.unlink()


def exchanges_a_second(far: Far, contents: list[tuple[str, bytes]]) -> float:
    """Return how many files a second a bare socket gets through, two requests each.

    One connection, requests as bytes, answers hardly looked at: what is left is the
    far side's own time and the system's.
    """
    api = urlsplit(far.url)
    with socket.create_connection((api.hostname or "", api.port or 80)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began_at = time.perf_counter()
        for name, content in contents:
            fields = _granted(line, api.path, name)
            body = form(fields, "file.zip", content)
            kind = f"multipart/form-data; boundary={BOUNDARY}"
            _exchange(line, "/emission", kind, body)
        return len(contents) / (time.perf_counter() - began_at)


def _granted(line: socket.socket, path: str, name: str) -> dict[str, str]:
    kind = "application/x-www-form-urlencoded"
    body = urlencode({"filename": name}).encode()
    answer = _exchange(line, f"{path}/upload-url", kind, body)
    fields: dict[str, str] = json.loads(answer.partition(b"\r\n\r\n")[2])["fields"]
    return fields


def _exchange(line: socket.socket, path: str, kind: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: far\r\nAuthorization: Bearer {Far.api_key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    line.sendall(head.encode() + body)
    # The answers are small, and the far side writes each in one piece.
    return line.recv(65_536)
