"""A benchmark of one large file: how fast, and in how much memory."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import cargo
import gauges
import peers
from far import Far
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from sequential import post
from soak.gauges import look
from subject import Source, run

GIB = 2**30
MIB = 2**20
CALM_S = 1.5
RECEIVE_BYTES = 2**20
SEND_BYTES = 2**24

SPEED = Metric("speed", "transfer", "GiB/s", more=True)
SENDING = Metric("sending", "without digests", "GiB/s", more=True)
TOTAL = Metric("total_s", "whole", "s")
PEAK = Metric("peak_mib", "memory above idle", "MiB")
CPU = Metric("cpu_s", "CPU", "s")


def _large(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    folder = bench.new_folder("large")
    digests = cargo.large(folder, sizes["mib"] * MIB)
    (name,) = digests
    path = folder / name

    def emitterd(source: Source) -> Figures:
        figures = _emitterd(bench, source, path, name, digests)
        return figures | {"sending": _sending(bench, source, path, name, digests)}

    def curl() -> Figures:
        bench.far.reset(sampled=True)
        fields = _grant(bench.far, name)
        ran = peers.curl(f"{_origin(bench.far)}/emission", fields, path, bench.log())
        bench.far.check(digests)
        speed = _speed(bench.far, path)
        return {"speed": speed, "sending": speed, "total_s": ran.took_s}

    def digest(tool: str) -> Figures:
        ran = peers.digest(tool, path, bench.log())
        return {"speed": _gib(path) / ran.took_s, "total_s": ran.took_s}

    def sendfile() -> Figures:
        took_s = sent_s(path)
        return {"speed": _gib(path) / took_s, "total_s": took_s}

    yield [
        *ours(bench, emitterd),
        Case("curl -F", curl),
        Case("limit: sha256sum", partial(digest, "sha256sum")),
        Case("limit: md5sum", partial(digest, "md5sum")),
        Case("limit: sendfile over loopback", sendfile),
    ]
    path.unlink()


def _emitterd(
    bench: Bench, source: Source, path: Path, name: str, digests: dict[str, str]
) -> Figures:
    """Rename the file into the folder of a daemon that idles, and back at the end."""
    bench.far.reset(sampled=True)
    spool = bench.new_folder("spool")
    (spool / name).parent.mkdir(parents=True)
    subject = bench.subject(source, spool)
    with subject.running() as daemon:
        daemon.wait_for("sweep.finished")
        time.sleep(CALM_S)
        gauges.reset_peak(daemon.pid)
        idle_bytes, cpu_s = gauges.rss_bytes(daemon.pid), look(daemon.pid).cpu_s
        dropped_at = time.time()
        path.rename(spool / name)
        try:
            delivered_at = daemon.wait_for("file.delivered")
        finally:
            (spool / name).rename(path)
        figures = {
            "speed": _speed(bench.far, path),
            "total_s": delivered_at - dropped_at,
            "peak_mib": (gauges.peak_bytes(daemon.pid) - idle_bytes) / MIB,
            "cpu_s": look(daemon.pid).cpu_s - cpu_s,
        }
    bench.far.check(digests)
    return figures


def _sending(bench: Bench, source: Source, path: Path, name: str, digests: dict[str, str]) -> float:
    """Return how fast the body is sent if nothing hashes it."""
    bench.far.reset(sampled=True)
    fields = json.dumps(_grant(bench.far, name))
    script = str(Path(__file__).with_name("sending.py"))
    url = f"{_origin(bench.far)}/emission"
    command = [str(source.python), "-P", script, url, str(path), fields]
    run(command, source.environment(), bench.log())
    bench.far.check(digests)
    return _speed(bench.far, path)


def _speed(far: Far, path: Path) -> float:
    """Return what the far side saw, from the first byte of the POST to the last."""
    arrived = far.arrived()
    return _gib(path) / (arrived.last_at - arrived.posted_at)


def _gib(path: Path) -> float:
    return path.stat().st_size / GIB


def _origin(far: Far) -> str:
    return f"http://{urlsplit(far.url).netloc}"


def _grant(far: Far, name: str) -> dict[str, str]:
    body = urlencode({"filename": name}).encode()
    headers = {
        "Authorization": f"Bearer {far.api_key}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = post(urlsplit(f"{far.url}/upload-url"), body, headers)
    fields: dict[str, str] = json.loads(answer)["fields"]
    return fields


def sent_s(path: Path) -> float:
    """Return how long the kernel takes to copy a file through a loopback socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as out,
        path.open("rb") as file,
    ):
        line, _ = server.accept()
        reader = threading.Thread(target=_drain, args=(line,))
        reader.start()
        began_at = time.perf_counter()
        offset, size_bytes = 0, path.stat().st_size
        while offset < size_bytes:
            offset += os.sendfile(out.fileno(), file.fileno(), offset, SEND_BYTES)
        out.shutdown(socket.SHUT_WR)
        reader.join()
        return time.perf_counter() - began_at


def _drain(line: socket.socket) -> None:
    room = bytearray(RECEIVE_BYTES)
    with line:
        while line.recv_into(room):
            pass


LARGE = Scenario(
    "large",
    "One large file",
    "A zip of {mib:,} MiB, in the page cache. It is renamed into the folder of an idle daemon."
    ' "whole" is the time from then to the recorded delivery, with both digests. The test server'
    " compares a sample of each MiB. emitterd reads the file once, so the transfer takes as long"
    ' as the digests. "without digests" is emitterd\'s HTTP client alone, in its own process.',
    {"mib": (4096, 256)},
    _large,
    (SPEED, SENDING, TOTAL, PEAK, CPU),
    "speed",
    (
        Goal("sending", 1, "sent at curl's speed or better", against="curl -F"),
        Goal(
            "total_s",
            1.25,
            "at most 1.25 times the slowest single pass, md5sum",
            against="limit: md5sum",
            at_most=True,
        ),
        Goal("peak_mib", 8, "8 MiB above idle"),
    ),
)
