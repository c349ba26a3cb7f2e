"""Benchmark of the inspection of CSVs."""

import json
from collections.abc import Iterator
from pathlib import Path

import cargo
from scenario import Bench, Case, Figures, Goal, Metric, Scenario, ours
from subject import Source, output

MIB = 2**20
SCRIPT = Path(__file__).with_name("inspect_files.py")

RATE = Metric("rate_mib_s", "CSV read a second of CPU", "MiB", more=True)
SMALL_FILE = Metric("small_ms", "CPU of a small file", "ms")


def _inspect(bench: Bench, sizes: dict[str, int]) -> Iterator[list[Case]]:
    large, small = bench.new_folder("large"), bench.new_folder("small")
    datasets = len(cargo.DATASETS)
    cargo.fill(large, datasets, sizes["mib"] * MIB)
    cargo.fill(small, datasets, sizes["small_bytes"])

    def measure(source: Source) -> Figures:
        files = _measured(source, large).values()
        read_bytes, cpu_s = (sum(file[key] for file in files) for key in ("read_bytes", "cpu_s"))
        small_s = sum(file["cpu_s"] for file in _measured(source, small).values())
        return {"rate_mib_s": read_bytes / MIB / cpu_s, "small_ms": 1000 * small_s / datasets}

    yield ours(bench, measure)


def _measured(source: Source, folder: Path) -> dict[str, dict[str, float]]:
    command = [str(source.python), "-P", str(SCRIPT), str(folder)]
    measured: dict[str, dict[str, float]] = json.loads(output(command, source.environment()))
    return measured


INSPECT = Scenario(
    "inspect",
    "Inspection",
    "A CSV of {mib} MiB and one of {small_bytes:,} bytes of each of five datasets, with the default"
    " `spool.inspection_budget`. The figures are CPU time without the start of the process.",
    {"mib": (8, 1), "small_bytes": (5000, 5000)},
    _inspect,
    (RATE, SMALL_FILE),
    "rate_mib_s",
    (Goal("rate_mib_s", 40, "40 MiB a second"),),
    rounds=5,
    quick_rounds=1,
)
