"""Runs everything that tests the guarantee of docs/design.md, and prints one table.

    tests/soak/run-reliability                            some twenty minutes
    tests/soak/run-reliability --rounds 20 --minutes 60 --kills 500   the long form

Kills at every failpoint, every fault, the model, random kills, and the soak. `--write`
puts the table into docs/reliability.md. Exit code 0 if nothing failed, 1 if something
did, 2 if a part could not be run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from soak.soak import KINDS
from support.paths import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- begin: what `run-reliability` wrote -->\n"
END = "<!-- end -->\n"
HEADER = "| part | how much | failed | lost | doubled | silent | minutes |"
RULE = "|---|---|---|---|---|---|---|"
MODEL_RUNS = 100
"""Of the model, a round."""

KILLS_MINUTES_MAX = 120.0
"""Random kills end after this time, if the number of kills is not reached before."""

SHOWN = 20
"""So many failures of a part are named."""


class Unusable(Exception):
    """A part could not be run, so it says nothing."""


class Effort(NamedTuple):
    """How much is to be done: rounds of kills, faults and model; random kills; of the soak."""

    rounds: int
    minutes: float
    kills: int


@dataclass(slots=True)
class Found:
    """What a part has found. `counted`: lost, doubled, silent, where that is known."""

    how_much: str
    failed: list[str]
    counted: tuple[int, int, int] | None = None
    more: str = ""


@dataclass(slots=True)
class Tally:
    """Outcome of a run of tests: their names, and the sums of what they recorded."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    recorded: Counter[str] = field(default_factory=Counter)


def tally(report: Path) -> Tally:
    """Read pytest's report in JUnit's format. Raises `Unusable` where it is none."""
    try:
        root = ET.parse(report).getroot()  # noqa: S314  our own file
    except (OSError, ET.ParseError) as error:
        raise Unusable(f"no report of the tests: {error}") from error
    found = Tally()
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        name = name.removeprefix("tests.")
        if case.find("failure") is not None or case.find("error") is not None:
            found.failed.append(name)
        elif case.find("skipped") is None:
            found.passed.append(name)
        for item in case.iter("property"):
            found.recorded[item.get("name", "")] += int(item.get("value", "0"))
    if not found.passed and not found.failed:
        raise Unusable("no test ran")
    return found


def run_tests(folder: Path, *tests: str, **settings: int) -> Tally:
    """Run tests, with `EMITTERD_` settings. Raises `Unusable`."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-n", "0", "-m", ""),  # all tiers, one after the other
        *("-o", "junit_family=xunit1", f"--junitxml={report}", *tests),
    ]
    more = {f"EMITTERD_{key.upper()}": str(value) for key, value in settings.items()}
    # Beside the table only the progress is of interest.
    subprocess.run(  # noqa: S603  our own command line
        command, cwd=ROOT, env=os.environ | more, stdout=sys.stderr, check=False
    )
    return tally(report)


def kills(effort: Effort, folder: Path) -> Found:
    """Kill the daemon at every failpoint."""
    done = run_tests(folder, "tests/integration/test_crash.py", crash_rounds=effort.rounds)
    points, deaths = done.recorded["points"], done.recorded["kills"]
    return Found(f"{points} failpoints, {deaths} kills", done.failed)


def faults(effort: Effort, folder: Path) -> Found:
    """Let every fault of the far side strike."""
    runs: Counter[str] = Counter()
    failed: list[str] = []
    for _ in range(effort.rounds):
        done = run_tests(folder, "tests/integration/test_faults.py", "-k", "not menu_is_tried")
        runs.update(done.passed + done.failed)
        failed += done.failed
    return Found(f"{len(runs)} faults, {runs.total()} runs", failed)


def model(effort: Effort, folder: Path) -> Found:
    """Let the model be held, through any order of everything."""
    runs = MODEL_RUNS * effort.rounds
    done = run_tests(folder, "tests/integration/test_model.py", model_examples=runs)
    reported = done.recorded
    return Found(f"{reported['runs']} runs, {reported['steps']} steps", done.failed)


def random_kills(effort: Effort, folder: Path) -> Found:
    """Soak, and kill the daemon at random instants, with producers that meddle with files."""
    return run_soak(folder, "--minutes", str(KILLS_MINUTES_MAX), "--kills", str(effort.kills))


def soak(effort: Effort, folder: Path) -> Found:
    """Soak."""
    return run_soak(folder, "--minutes", str(effort.minutes))


def run_soak(folder: Path, *options: str) -> Found:
    """Run a soak and read its report. Raises `Unusable`."""
    report = folder / "soak.json"
    done = subprocess.run(  # noqa: S603  our own command line
        [Path(__file__).with_name("run-soak"), *options, "--json", report],
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.exists():
        raise Unusable(f"the soak ended with {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(report.read_text("utf-8"))
    growing = [f"{name} grows" for name in found["growing"]]
    how_much = (
        f"{found['minutes']} minutes, {found['delivered']} versions,"
        f" {sum(found['fired'].values())} faults of {len(found['fired'])} kinds"
    )
    if found["kills"]:
        how_much = f"{sum(found['kills'].values())} kills, {how_much}"
    elif not found["slopes_judged"]:
        how_much += ", too short for slopes"
    return Found(
        how_much,
        [f"{kind}: {match}" for kind in KINDS for match in found[kind]] + growing,
        (len(found["lost"]), len(found["doubled"]), len(found["silent"])),
        done.stdout,
    )


PARTS: dict[str, Callable[[Effort, Path], Found]] = {
    "kills": kills,
    "faults": faults,
    "model": model,
    "random kills": random_kills,
    "soak": soak,
}


def row(name: str, found: Found, took_s: float) -> str:
    """Return a part's line of the table.

    An oracle that passed has found nothing lost, doubled or silent. Where one failed,
    its message says what it was, and the table does not.
    """
    numbers = [str(item) for item in found.counted or (0, 0, 0)]
    if found.counted is None and found.failed:
        numbers = ["?"] * 3
    cells = [name, found.how_much, str(len(found.failed)), *numbers]
    return f"| {' | '.join(cells)} | {took_s / 60:.1f} |"


def written(document: str, table: str, begin: str = BEGIN) -> str:
    """Return the document with another table between its marks.

    Raises `Unusable` where the marks are not there.
    """
    before, begun, rest = document.partition(begin)
    _, end, after = rest.partition(END)
    if not begun or not end:
        raise Unusable(f"the document has no {begin.strip()} … {END.strip()}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def measured(names: list[str], effort: Effort) -> Iterator[tuple[str, Found]]:
    """Yield the table's lines, part by part, each with what the part has found.

    Raises `Unusable`.
    """
    for name in names:
        began_at = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            found = PARTS[name](effort, Path(folder))
        yield row(name, found, time.monotonic() - began_at), found


def caption(effort: Effort) -> str:
    """Return what stands above the table: how it came about."""
    command = f"run-reliability --rounds {effort.rounds} --minutes {effort.minutes:g}"
    command += f" --kills {effort.kills}"
    machine = f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}"
    return (
        f"`tests/soak/{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine},"
        f" Python {platform.python_version()}:\n"
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=2, help="kills, faults, model")
    parser.add_argument("--minutes", type=float, default=3.0, help="of the soak")
    parser.add_argument("--kills", type=int, default=20, help="at random")
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.minutes <= 0 or options.kills < 1:
        parser.error("--rounds, --minutes and --kills must be above 0")
    if options.write and options.parts:
        parser.error("--write wants the whole table: name no part")
    return options


def main() -> int:
    """Run as the command line says."""
    options = parse()
    effort = Effort(options.rounds, options.minutes, options.kills)
    lines = [caption(effort), HEADER, RULE]
    print("\n".join(lines), flush=True)
    details: list[str] = []
    failures = 0
    try:
        for line, found in measured(options.parts or list(PARTS), effort):
            print(line, flush=True)
            lines.append(line)
            details += [found.more, *found.failed[:SHOWN]]
            failures += len(found.failed)
        if options.write:
            text = DOCUMENT.read_text("utf-8")
            DOCUMENT.write_text(written(text, "\n".join(lines) + "\n"), "utf-8")
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(["", *filter(None, details)]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
