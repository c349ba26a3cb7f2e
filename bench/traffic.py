"""Benchmarks of sending: many files over a slow line, and many over a fast one."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import cargo
import limits
import peers
from far import Lost
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from subject import Ran, Source, Subject
from support.seaweed import Seaweed, objects

RATE = Metric("rate", "files a second", more=True)
PER_FILE = Metric("per_file_ms", "a file", "ms")
TOTAL = Metric("total_s", "start to end", "s")
CPU = Metric("cpu_ms", "CPU a file", "ms")

LATENCY_S = 0.05
SEQUENTIAL_SHARE = 10
"""Over the slow line, the sequential client sends only a tenth of the files."""

KIB = 1024


def send_all(bench: Bench, subject: Subject, files: dict[str, str]) -> Figures:
    """Send the whole folder by `once`. Raises `Failed`, and `Lost` for a file."""
    ran = subject.once()
    bench.far.check(files)
    return _delivered(bench, subject, ran, len(files))


def _delivered(bench: Bench, subject: Subject, ran: Ran, count: int) -> Figures:
    last_at = subject.last_at("file.delivered")
    first_at = bench.far.arrived().first_at
    return _figures(ran, count, last_at - first_at, last_at - ran.began_at)


def _sequential(bench: Bench, spool: Path, files: dict[str, str]) -> Figures:
    ran = peers.sequential(bench.far.url, bench.far.api_key, spool, bench.log(), len(files))
    bench.far.check(files)
    arrived = bench.far.arrived()
    took_s = ran.ended_at - arrived.first_at
    return _figures(ran, len(files), took_s, ran.took_s)


def _figures(ran: Ran, count: int, sending_s: float, total_s: float) -> Figures:
    return {
        "rate": count / sending_s,
        "per_file_ms": 1000 * sending_s / count,
        "total_s": total_s,
        "cpu_ms": 1000 * ran.cpu_s / count,
    }


def _latency(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, sizes["files"], 20 * KIB)
    count = len(files) // SEQUENTIAL_SHARE
    some = {name: files[name] for name in sorted(files)[:count]}

    def emitterd(source: Source) -> Figures:
        bench.far.reset(latency_s=LATENCY_S)
        return send_all(bench, bench.subject(source, spool), files)

    def sequential() -> Figures:
        bench.far.reset(latency_s=LATENCY_S)
        figures = _sequential(bench, spool, some)
        return figures | {"total_s": figures["total_s"] * len(files) / count}

    yield [*ours(bench, emitterd), Case("sequential client", sequential)]


def _small(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, sizes["files"], 8 * KIB)
    contents = [(name, (spool / name).read_bytes()) for name in files]

    def emitterd(source: Source) -> Figures:
        bench.far.reset()
        return send_all(bench, bench.subject(source, spool), files)

    def sequential() -> Figures:
        bench.far.reset()
        return _sequential(bench, spool, files)

    def bare() -> Figures:
        bench.far.reset()
        rate = limits.exchanges_a_second(bench.far, contents)
        bench.far.check(files)
        return {"rate": rate, "per_file_ms": 1000 / rate}

    def commits() -> Figures:
        rate = limits.commits_a_second(bench.folder, len(files))
        return {"rate": rate, "per_file_ms": 1000 / rate}

    yield [
        *ours(bench, emitterd),
        Case("sequential client", sequential),
        Case("limit: bare socket, two requests a file", bare),
        Case("limit: durable commits one by one", commits),
    ]


def _engine(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, sizes["files"], 8 * KIB)
    engine = bench.seaweed

    def emitterd(source: Source) -> Figures:
        bucket = _new_bucket(engine)
        bench.far.reset(
            bucket_url=f"{engine.url}/{bucket}",
            signer=(bucket, engine.access_key, engine.secret_key),
        )
        subject = bench.subject(source, spool)
        ran = subject.once()
        _check(engine, files)
        return _delivered(bench, subject, ran, len(files))

    def rclone(transfers: int) -> Figures:
        bucket = _new_bucket(engine)
        ran = peers.rclone(engine, bucket, spool, bench.log(), transfers)
        _check(engine, files)
        return _figures(ran, len(files), ran.took_s, ran.took_s)

    yield [
        *ours(bench, emitterd),
        Case("rclone, 4 transfers", lambda: rclone(4)),
        Case("rclone, 16 transfers", lambda: rclone(16)),
    ]


def _new_bucket(engine: Seaweed) -> str:
    """Let the engine go on with an empty bucket; return its name."""
    engine.bucket = f"b{secrets.token_hex(8)}"
    engine.client.create_bucket(Bucket=engine.bucket)
    return engine.bucket


def _check(engine: Seaweed, files: dict[str, str]) -> None:
    """Compare the bucket's objects with the files. Raises `Lost`."""
    stored = sorted(objects(engine).values())
    if stored != sorted(files.values()):
        raise Lost(f"of {len(files)} files {len(stored)} objects came, or others")


LATENCY = Scenario(
    "latency",
    "Small files over a slow line",
    "{files:,} files of 20 KiB; the far side answers each request after 50 ms. Default"
    " settings. The sequential client sends a tenth of them; the result is scaled up.",
    {"files": (400, 100)},
    _latency,
    (PER_FILE, RATE, TOTAL, CPU),
    "per_file_ms",
    (Goal("per_file_ms", 25, "25 times the sequential client", "sequential client"),),
    rounds=5,
)
SMALL = Scenario(
    "small",
    "Small files over a fast line",
    "{files:,} files of 8 KiB, no latency, each step of each file durable before the"
    " next. The rate counts from the first request to the last recorded delivery.",
    {"files": (5000, 250)},
    _small,
    (RATE, PER_FILE, TOTAL, CPU),
    "rate",
    (Goal("rate", 400, "400 files a second"),),
)
ENGINE = Scenario(
    "engine",
    "Small files to a real S3 engine",
    "{files:,} files of 8 KiB to SeaweedFS on the same machine: emitterd by signed grants, rclone"
    " with the engine's keys. rclone's rate includes its start. rclone keeps no record of what it"
    " sent.",
    {"files": (2000, 150)},
    _engine,
    (RATE, PER_FILE, TOTAL, CPU),
    "rate",
)
