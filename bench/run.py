"""Measures the speed of emitterd and of the tools that people use instead.

    bench/run                                  everything, some 20 minutes
    bench/run small latency                    these alone
    bench/run --quick                          everything in small, under 3 minutes
    bench/run small --source . --source DIR    this checkout and another, in one run
    bench/run small --profile                  and where the time goes

The machine is noisy and never the same. So all contestants do the same work in turns in
one run, and the report shows ratios next to the times. Exit code 0 if all was measured,
also if a goal was missed; 1 if a contestant failed or a file was lost. `--write` puts the
report into docs/performance.md.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import report
from bulk import LARGE
from far import Lost
from growth import FLAT
from hotspots import PROFILES
from idleness import IDLE, STATUS
from inspection import INSPECT
from machine import describe
from peers import find_tool
from plot import draw
from readers import PAGE, READING
from response import FAIR, FRESH_FILE
from scenario import Bench, Scenario, play
from soak.reliability import Unusable, written
from startup import BACKLOG, RESTART
from subject import ROOT, Failed, Source
from traffic import ENGINE, LATENCY, SMALL

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN = "<!-- begin: what `bench/run` wrote -->\n"
INSTALL = ".venv/bin/pip install -e '.[test,bench]'"

SCENARIOS: dict[str, Scenario] = {
    item.name: item
    for item in (
        LATENCY, SMALL, ENGINE, LARGE, FRESH_FILE, FAIR, RESTART, BACKLOG, FLAT, IDLE,
        STATUS, INSPECT, PAGE, READING,
    )
}  # fmt: skip


def say(line: str) -> None:
    """Report the progress."""
    print(line, file=sys.stderr, flush=True)


def measured(scenario: Scenario, bench: Bench, rounds: int | None) -> report.Outcome:
    """Return what a benchmark showed. Raises `Failed` and `Lost`."""
    rounds = rounds or (scenario.quick_rounds if bench.quick else scenario.rounds)
    began_at = time.monotonic()
    sheets = play(scenario, bench, rounds, say)
    took_s = time.monotonic() - began_at
    sizes = scenario.sized(quick=bench.quick)
    return report.Outcome(scenario, sheets, rounds, took_s, sizes)


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


def profiles(names: Sequence[str], bench: Bench, failures: list[str]) -> dict[str, Any]:
    """Return where the time of the first emitterd goes, case by case.

    What failed is added to `failures`.
    """
    shares = {}
    for name in names:
        if name in PROFILES:
            say(f"profile {name}")
            try:
                shares[name] = PROFILES[name](bench, bench.sources[0])
            except (Failed, Lost) as error:
                failures.append(f"profile of {name}: {error}")
            bench.clear()
    return shares


def facts(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Return what the JSON file holds in addition to the figures."""
    return {
        "command": shlex.join(["bench/run", *sys.argv[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "quick": options.quick,
        "machine": describe(bench.folder),
        "sources": {source.name: source.commit() for source in bench.sources},
    }


def measure(options: argparse.Namespace, bench: Bench) -> tuple[dict[str, Any], str]:
    """Measure; return what the JSON file holds, and the report.

    The failures are in the former; one failure does not stop the other measurements.
    """
    results = facts(options, bench)
    names = options.scenarios or list(SCENARIOS)
    outcomes, failures = [], []
    for name in names:
        try:
            outcomes.append(measured(SCENARIOS[name], bench, options.rounds))
        except (Failed, Lost) as error:
            failures.append(f"{name}: {error}")
            say(failures[-1])
            bench.clear()
    results |= {"goals": report.goals(outcomes), "scenarios": report.as_json(outcomes)}
    results["failures"] = failures
    if options.profile:
        results["profiles"] = profiles(names, bench, failures)
    return results, report.markdown(results, outcomes)


def write(results: dict[str, Any], text: str, document: Path = DOCUMENT) -> None:
    """Put the report into the document, and figures and plot next to it.

    Raises `Unusable` where it has no place there.
    """
    figures = document.with_suffix(".json")
    picture = document.with_name(f"{document.stem}-{FLAT.name}.svg")
    (flat,) = (scenario for scenario in results["scenarios"] if scenario["scenario"] == FLAT.name)
    whole = written(
        document.read_text("utf-8"),
        f"{text}\n![{FLAT.title}]({picture.name})\n\n"
        f"All figures, round by round: [{figures.name}]({figures.name}).\n",
        BEGIN,
    )
    draw(flat["contestants"], picture)
    figures.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    document.write_text(whole, "utf-8")


def missing(options: argparse.Namespace) -> list[str]:
    """Return the tools of the `bench` extra that this run needs and that are missing."""
    needed = {
        "rclone": not options.scenarios or ENGINE.name in options.scenarios,
        "py-spy": options.profile,
    }
    lacking = [name for name, wanted in needed.items() if wanted and not find_tool(name)]
    if options.write and find_spec("matplotlib") is None:
        lacking.append("matplotlib")
    return lacking


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="little work, one round")
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own")
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        default=[],
        help="measure the emitterd of this checkout; may be given several times",
    )
    parser.add_argument(
        "--profile", action="store_true", help=f"show where the time goes: {', '.join(PROFILES)}"
    )
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--directory", type=Path, help="work below this directory")
    options = parser.parse_args()
    refuse(parser, options)
    return options


def refuse(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with 2 if the command line asks for something impossible."""
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be above 0")
    for path in options.source:
        if not (path / "emitterd" / "__main__.py").exists():
            parser.error(f"{path} is no checkout of emitterd")
    if options.write and (options.scenarios or options.quick or options.source):
        parser.error("--write needs all benchmarks in full, of this checkout")
    if lacking := missing(options):
        parser.error(f"{', '.join(lacking)} not installed: {INSTALL}")


def main() -> int:
    """Run as the command line says."""
    options = parse()
    # `sys.exit` stops every process, and leaves nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with (
            tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as folder,
            closing(Bench(Path(folder), sources(options.source), quick=options.quick)) as bench,
        ):
            results, text = measure(options, bench)
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        print(text)
        if options.write and not results["failures"]:
            write(results, text)
    except (Failed, Lost, Unusable) as error:
        results = {"failures": [str(error)]}
    for failure in results["failures"]:
        print(failure, file=sys.stderr)
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
