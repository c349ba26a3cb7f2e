"""A client of upstream's shape: what emitterd replaces, without its slow imports.

    sequential.py URL API_KEY FOLDER [COUNT]

As upstream's client.py: the files of a folder one after the other, for each a request
for a grant and a POST, each over a new connection, the whole file in memory. Kinder
than upstream: no library between it and the socket, and statuses are looked at.
"""

import http.client
import json
import sys
from pathlib import Path
from urllib.parse import SplitResult, urlencode, urlsplit

BOUNDARY = "d1f4c5b86a0e4b0f9a3c7e2d"


def post(target: SplitResult, body: bytes, headers: dict[str, str]) -> bytes:
    """Send one POST over a connection of its own; return the answer's body."""
    connection = http.client.HTTPConnection(target.netloc)
    try:
        connection.request("POST", target.path, body, {**headers, "Connection": "close"})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status not in {200, 204}:
        raise SystemExit(f"{target.path}: {answer.status} {content[:200]!r}")
    return content


def form(fields: dict[str, str], name: str, content: bytes) -> bytes:
    """Return the multipart body, whole."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    )
    return "".join(parts).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(url: str, api_key: str, folder: Path, path: Path) -> None:
    """Send one file."""
    name = str(path.relative_to(folder))
    granted = post(
        urlsplit(f"{url}/upload-url"),
        urlencode({"filename": name}).encode(),
        {"Authorization": f"Bearer {api_key}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    grant = json.loads(granted)
    post(
        urlsplit(grant["url"]),
        form(grant["fields"], path.name, path.read_bytes()),
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )


def main(url: str, api_key: str, folder: str, count: str = "") -> None:
    """Send all files of the folder, or its first `count` files."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for path in paths[: int(count)] if count else paths:
        send(url, api_key, Path(folder), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
