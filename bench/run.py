"""How fast emitterd is, measured beside what people would use instead.

    bench/run                         everything, some 20 minutes
    bench/run small latency           these alone
    bench/run --quick                 everything in small, under 3 minutes
    bench/run small --source DIR      another checkout beside this one, in one run

The machine is noisy and never the same: so all contestants do the same work in one
run, by turns, and ratios are shown beside the times. Exit code 0 if all was measured,
whatever the figures; 1 where a contestant failed or a file was lost.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import report
from bulk import LARGE
from far import Lost
from machine import describe
from growth import FLAT
from idleness import IDLE, STATUS
from response import FAIR, FRESH_FILE
from scenario import Bench, Scenario, play
from startup import BACKLOG, RESTART
from subject import ROOT, Failed, Source
from traffic import ENGINE, LATENCY, SMALL

SCENARIOS: dict[str, Scenario] = {
    one.name: one
    for one in (
        LATENCY, SMALL, ENGINE, LARGE, FRESH_FILE, FAIR, RESTART, BACKLOG, FLAT, IDLE,
        STATUS,
    )
}  # fmt: skip


def say(line: str) -> None:
    """Tell of the progress."""
    print(line, file=sys.stderr, flush=True)


def measured(
    names: Sequence[str], bench: Bench, rounds: int | None
) -> Iterator[report.Outcome]:
    """Yield what each benchmark showed. Raises `Failed` and `Lost`."""
    for name in names:
        scenario = SCENARIOS[name]
        usual = scenario.quick_rounds if bench.quick else scenario.rounds
        began_at = time.monotonic()
        sheets = play(scenario, bench, rounds or usual, say)
        took_s = time.monotonic() - began_at
        sizes = scenario.sized(quick=bench.quick)
        yield report.Outcome(scenario, sheets, rounds or usual, took_s, sizes)


def sources(paths: Sequence[Path]) -> list[Source]:
    """Return what is to be measured: this checkout, or those that are named."""
    if not paths:
        return [Source("emitterd", ROOT, Path(sys.executable))]
    if len(paths) == 1:
        return [Source.at(paths[0].resolve(), "emitterd")]
    return [
        Source.at(path.resolve(), f"emitterd {number}, {path.resolve().name}")
        for number, path in enumerate(paths, 1)
    ]


def found(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Return what the JSON file holds beside the figures."""
    return {
        "command": shlex.join(["bench/run", *sys.argv[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "quick": options.quick,
        "machine": describe(bench.folder),
        "sources": {one.name: one.commit() for one in bench.sources},
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS)
    )
    parser.add_argument("--quick", action="store_true", help="little work, one round")
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own")
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        default=[],
        help="measure the emitterd of this checkout; may be given several times",
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--directory", type=Path, help="work below this directory")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for path in options.source:
        if not (path / "emitterd" / "__main__.py").exists():
            parser.error(f"{path} is no checkout of emitterd")
    return options


def main() -> int:
    """Run as the command line says."""
    options = parse()
    # An end in the usual way stops every process, and leaves nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as folder,
        closing(
            Bench(Path(folder), sources(options.source), quick=options.quick)
        ) as bench,
    ):
        whole = found(options, bench)
        try:
            names = options.scenarios or list(SCENARIOS)
            outcomes = list(measured(names, bench, options.rounds))
        except (Failed, Lost) as error:
            print(error, file=sys.stderr)
            return 1
    whole |= {"goals": report.goals(outcomes), "scenarios": report.as_json(outcomes)}
    if options.json is not None:
        options.json.write_text(json.dumps(whole, indent=1), "utf-8")
    print(report.markdown(whole, outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
