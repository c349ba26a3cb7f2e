"""Benchmarks of the pages: their speed over a long past, and what readers cost the uploads."""

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import cargo
import seed
from emitterd.datasets.catalogue_file import load_catalogue
from scenario import Bench, Case, Figures, Goal, Metric, Scenario
from subject import Failed, Source

KIB = 1024
ANSWER_S = 60.0
LOOK_S = 0.05
READERS = 10
READ_EVERY_S = 1.0
"""A reader opens a page this often."""

TITLES = [data.title for data in load_catalogue().datasets if not data.title.endswith("/")]
PAGES = {
    "overview": "/",
    "datasets": "/datasets",
    "files": "/files",
    "dataset": f"/files?dataset={TITLES[0]}",
    "search": "/files?q=no+such+file",
    "begins": f"/files?q={TITLES[0].partition('/')[2]}_past_00000",
    "file": f"/explain?path={TITLES[0]}_past_0000000.zip",
    "skipped": "/skipped",
}
"""The pages by name. `search` finds nothing, and so looks at the most files."""

SLOWEST = Metric("slowest_ms", "slowest", "ms")
BY_PAGE = tuple(Metric(f"{name}_ms", name, "ms") for name in PAGES)
RATE = Metric("rate", "files a second", more=True)
TOOK = Metric("page_ms", "a page", "ms")


def _with_past(bench: Bench, source: Source, rows: int) -> Path:
    """Return a journal with so many deliveries of the last month."""
    spool = bench.new_folder("past")
    cargo.fill(spool, 1, KIB)
    subject = bench.subject(source, spool)
    bench.far.reset()
    subject.once()
    seed.deliveries(subject.journal, seed.month(rows, TITLES, time.time()), seed.DATED)
    return subject.journal


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(port: int, path: str) -> int:
    """Read a page to its end; return its size. Raises `Failed` for another status than 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        size_bytes = sum(map(len, iter(partial(response.read, 64 * KIB), b"")))
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise Failed(f"{path}: status {response.status}")
    return size_bytes


def _timed_ms(port: int, path: str) -> float:
    began_at = time.perf_counter()
    get(port, path)
    return 1000 * (time.perf_counter() - began_at)


def _pages(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")

    def measure(source: Source, past: Path) -> Figures:
        subject, port = bench.subject(source, spool), free_port()
        shutil.copyfile(past, subject.journal)
        with subject.running(EMITTERD_WEB_LISTEN=f"127.0.0.1:{port}") as daemon:
            daemon.wait_for("web.served")
            daemon.wait_for("sweep.finished")
            figures = {
                f"{name}_ms": median(_timed_ms(port, path) for _ in range(sizes["times"]))
                for name, path in PAGES.items()
            }
        return figures | {"slowest_ms": max(figures.values())}

    yield [
        Case(
            f"{source.name}, {rows:,} files",
            partial(measure, source, _with_past(bench, source, rows)),
            ours=True,
        )
        for source in bench.sources
        for rows in (sizes["most"], sizes["least"])
    ]


@contextmanager
def _reading(port: int, paths: Sequence[str], every_s: float) -> Iterator[list[float]]:
    """Have a reader for each path, who goes on to the next page; yields what pages took, in ms."""
    took_ms, stopped = list[float](), threading.Event()

    def read(first: int) -> None:
        number = first
        while not stopped.is_set():
            began_at = time.monotonic()
            took_ms.append(_timed_ms(port, paths[number % len(paths)]))
            number += 1
            stopped.wait(max(0.0, began_at + every_s - time.monotonic()))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    try:
        yield took_ms
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _readers(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, sizes["files"], 8 * KIB)
    pages = [*PAGES.values(), *PAGES.values()][:READERS]

    def measure(source: Source, past: Path, paths: Sequence[str], every_s: float) -> Figures:
        bench.far.reset()
        subject, port = bench.subject(source, spool), free_port()
        shutil.copyfile(past, subject.journal)
        with subject.running(EMITTERD_WEB_LISTEN=f"127.0.0.1:{port}") as daemon:
            daemon.wait_for("web.served")
            with _reading(port, paths, every_s) as took_ms:
                _await(bench, len(files))
        bench.far.check(files)
        took_s = subject.last_at("file.delivered") - bench.far.arrived().first_at
        figures = {"rate": len(files) / took_s}
        return figures | ({"page_ms": median(took_ms)} if took_ms else {})

    source = bench.sources[0]
    case = partial(partial, measure, source, _with_past(bench, source, sizes["rows"]))
    cases: dict[str, Callable[[], Figures]] = {
        "ten readers": case(pages, READ_EVERY_S),
        "no reader": case([], 0.0),
        "one download after the other": case(["/receipts.csv"], 0.0),
    }
    yield [Case(name, run, ours=name == "ten readers") for name, run in cases.items()]


def _await(bench: Bench, count: int) -> None:
    until = time.monotonic() + 10 * ANSWER_S
    while bench.far.arrived().stored < count:
        if time.monotonic() > until:
            raise Failed("not every file came")
        time.sleep(LOOK_S)


PAGE = Scenario(
    "page",
    "The pages over a long past",
    "Each page is read {times} times from a daemon whose journal has {least:,} or {most:,}"
    " files of the last month, of all datasets. `search` looks for a name that no file has.",
    {"times": (20, 3), "least": (1000, 1000), "most": (1_000_000, 10_000)},
    _pages,
    (SLOWEST, *BY_PAGE),
    "slowest_ms",
    (Goal("slowest_ms", 50, "every page in 50 ms"),),
    rounds=2,
)
READING = Scenario(
    "readers",
    "Uploads while people read the pages",
    "{files:,} files of 8 KiB are sent by a daemon whose journal has {rows:,} files, with and"
    " without ten readers who open a page each second.",
    {"files": (4000, 200), "rows": (1_000_000, 10_000)},
    _readers,
    (RATE, TOOK),
    "rate",
    (Goal("rate", 0.9, "ten readers take no more than a tenth of the speed", against="no reader"),),
)
