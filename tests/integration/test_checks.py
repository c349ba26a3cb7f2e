"""Visitors of the page who mean harm, and a daemon that delivers meanwhile."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.installation import Installation, Process
from support.ports import free_port
from support.serving import FILE_FORM, file_form
from support.waiting import wait_until
from support.zips import repeated, sample

MIB = 1024**2
DEADLINE_S = 60.0
MEMORY_MAX_BYTES = 160 * MIB
"""For the daemon while four visitors send what they can. It starts with some 60 MiB."""

ZIP_MAX_BYTES = 24 * MIB
"""What is kept of one zip."""

TITLE = "school_master/school_mst"
FILES = 40


def begin(port: int, head: bytes, length: int) -> socket.socket:
    """Send the beginning of a request to `/inspect`, and keep the connection."""
    client = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    own = f"Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"
    lines = f"{own}Content-Type: {FILE_FORM}\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(b"POST /inspect?fragment HTTP/1.1\r\n" + lines.encode() + head)
    return client


def give(port: int, body: bytes) -> bytes:
    """Send a whole form; return the answer."""
    with begin(port, body, len(body)) as client:
        return client.makefile("rb").read()


def names(folder: Path) -> set[str]:
    """Return the paths of everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def kept_bytes(daemon: Process) -> list[int]:
    """Return the memory that each zip of a visitor takes."""
    sizes = []
    for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            if "memfd:zip" in str(descriptor.readlink()):
                sizes.append(descriptor.stat().st_blocks * 512)
        except OSError:
            continue
    return sizes


@pytest.mark.slow
def test_visitors_do_not_disturb_the_daemon(site: Installation) -> None:
    """With bombs and stalled uploads on the page all files are delivered, and nothing is left."""
    port = free_port()
    site.settings["EMITTERD_WEB_LISTEN"] = f"127.0.0.1:{port}"
    head, row = sample(f"{TITLE}.zip", 1).splitlines(keepends=True)
    bomb = file_form(repeated(head, row * 10_000, 1024**3 // (len(row) * 10_000)), "school_mst.zip")
    noise = file_form(os.urandom(40 * MIB))
    with site.running() as daemon:
        daemon.wait_for_event("web.served")
        before = names(site.folder)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(begin(port, noise[:-100], len(noise)))
            wait_until(
                lambda: [size for size in kept_bytes(daemon) if size > ZIP_MAX_BYTES / 2][2:],
                DEADLINE_S,
                "three stalled visitors",
            )
            for number in range(FILES):
                site.drop(f"{TITLE}_{number}.zip")
            answer = give(port, bomb)
            site.wait_delivered(FILES)
            peak, kept = daemon.peak_bytes, kept_bytes(daemon)
        wait_until(lambda: not kept_bytes(daemon), DEADLINE_S, "nothing is left")
        after = names(site.folder)

    assert len(bomb) < 4 * MIB
    assert b"checked in the first 8 MiB" in answer
    assert peak < MEMORY_MAX_BYTES
    assert max(kept) < ZIP_MAX_BYTES
    # The other new files are those that were dropped, and what the server has of them.
    assert not [name for name in after - before if not name.startswith(("cqube_", "server/"))]
    assert len(list(site.spool.rglob("*.zip"))) == FILES
