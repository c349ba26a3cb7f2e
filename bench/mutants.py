"""Whether the tests notice when a safeguard is taken away.

    bench/mutants [NAME ...]

Each mutant is applied to a copy of the package, and its tests are run against it.
Killed: they fail. Exit code 0 if all were killed, 1 if one survived, 2 if the copy
cannot be tested (unchanged it fails, or a mutant no longer applies).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mutant_list import MUTANTS, PACKAGE, Mutant, StaleMutant

ROOT = PACKAGE.parent
COPIED = ("emitterd", "tests", "bench", "docs", "systemd", "pyproject.toml",
          "emitter.yaml", "README.md", "CHANGELOG.md", "LICENSE")  # fmt: skip
LIMIT_S = 300.0
"""For the tests of one mutant; the unchanged copy, with all of them, gets more."""

BASELINE_LIMIT_S = 1200.0
PASSED, FAILED = 0, 1
"""pytest's exit codes: all tests passed, some failed. Others tell of no test."""

_FAILURE = re.compile(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", re.MULTILINE)


class Unusable(Exception):
    """The copy cannot be tested."""


class Outcome(NamedTuple):
    """What became of a run: whether all passed, and the first test that did not."""

    passed: bool
    by: str


def run(copy: Path, tests: list[str], limit_s: float = LIMIT_S) -> Outcome:
    """Run tests in a copy of the checkout. Raises `Unusable` where none ran."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-rfE"),
        *("-n", "0", "-m", ""),  # all tiers, one after the other
        *("-p", "no:cacheprovider", *(f"tests/{one}" for one in tests)),
    ]
    # The copy's package must win over the one that is installed.
    environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "300"}
    try:
        done = subprocess.run(  # noqa: S603  our own command line
            command,
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(passed=False, by=f"no end within {limit_s:.0f} s")
    failure = _FAILURE.search(done.stdout)
    if done.returncode == PASSED:
        return Outcome(passed=True, by="")
    if done.returncode != FAILED or failure is None:
        raise Unusable(f"{' '.join(tests)}: {(done.stdout + done.stderr)[-2000:]}")
    return Outcome(passed=False, by=failure.group(1))


def copied(folder: Path) -> Path:
    """Copy the checkout, without what was built in it."""
    copy = folder / "copy"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    return copy


def attempt(mutant: Mutant, *, whole: bool) -> Outcome:
    """Run a mutant's tests, or with `whole` all of them, against it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = copied(Path(folder))
        mutant.apply(copy / PACKAGE.name)
        return run(copy, [""] if whole else list(mutant.tests))


def baseline(mutants: list[Mutant]) -> None:
    """Hold that the unchanged copy passes: else everything would look killed.

    Raises `Unusable`.
    """
    tests = sorted({one for mutant in mutants for one in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        outcome = run(copied(Path(folder)), tests, BASELINE_LIMIT_S)
    if not outcome.passed:
        raise Unusable(f"without any change {outcome.by} fails")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    parser.add_argument("--whole", action="store_true", help="run the whole suite")
    options = parser.parse_args()
    if unknown := set(options.names) - {one.name for one in MUTANTS}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}; see --list")
    return options


def main() -> int:
    """Run as the command line says."""
    options = parse()
    chosen = [one for one in MUTANTS if not options.names or one.name in options.names]
    if options.list:
        print("\n".join(f"{one.name}: {one.loses}" for one in chosen))
        return 0
    survived = 0
    try:
        baseline(chosen)
        print("| mutant | what it takes away | killed by |\n|---|---|---|", flush=True)
        for mutant in chosen:
            outcome = attempt(mutant, whole=options.whole)
            survived += outcome.passed
            by = "**survived**" if outcome.passed else f"`{outcome.by}`"
            print(f"| {mutant.name} | {mutant.loses} | {by} |", flush=True)
    except (Unusable, StaleMutant) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{len(chosen) - survived} killed, {survived} survived.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
