"""A benchmark of age: what a file costs when the journal remembers ever more."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cargo
import seed
from scenario import Bench, Case, Figures, Goal, Metric, Scenario
from subject import Source
from traffic import send_all

SIZE_BYTES = 8192
STEP = 10

PER_FILE = Metric("per_file_ms", "time a file", "ms")
CPU = Metric("cpu_ms", "CPU a file", "ms")


def _flat(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, sizes["files"], SIZE_BYTES)
    cases = []
    for source in bench.sources:
        # The most rows come first: they are compared with all others.
        for rows, journal in reversed(list(_journals(bench, source, sizes))):
            measure = partial(_measure, bench, source, spool, files, journal)
            cases.append(Case(f"{source.name}, {rows:,} rows", measure, ours=True))
    yield cases


def _journals(bench: Bench, source: Source, sizes: dict[str, int]) -> Iterator[tuple[int, Path]]:
    """Yield journals with ever more deliveries of files that are gone since."""
    spool = bench.new_folder("past")
    cargo.fill(spool, 1, SIZE_BYTES, start=sizes["files"])
    subject = bench.subject(source, spool)
    bench.far.reset()
    subject.once()
    rows, delivered = sizes["least"], 1
    while rows <= sizes["most"]:
        seed.deliveries(subject.journal, seed.invented(range(delivered, rows)))
        delivered = rows
        copy = subject.folder / f"journal-{rows}.db"
        shutil.copyfile(subject.journal, copy)
        yield rows, copy
        rows *= STEP


def _measure(
    bench: Bench, source: Source, spool: Path, files: dict[str, str], journal: Path
) -> Figures:
    bench.far.reset()
    subject = bench.subject(source, spool)
    shutil.copyfile(journal, subject.journal)
    return send_all(bench, subject, files)


FLAT = Scenario(
    "flat",
    "What a file costs as the journal grows",
    "{files:,} files of 8 KiB are sent with a journal that already holds {least:,} to {most:,}"
    " deliveries. The CPU time includes the start of the process.",
    {"files": (1000, 100), "least": (1000, 1000), "most": (1_000_000, 10_000)},
    _flat,
    (PER_FILE, CPU),
    "cpu_ms",
    (
        Goal(
            "cpu_ms",
            1.2,
            "the most rows cost no more than 1.2 times the least",
            against="emitterd, 1,000 rows",
            at_most=True,
        ),
    ),
)
