"""The closing lines of a run: what was skipped, and what was not selected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT, TESTS
from support.tiers import PACKAGES

CI = ROOT / ".ci" / "run"

CONFIGURATION = """
[pytest]
markers =
    slow:
    system:
    browser:
    tools:
"""

SUITE = """
import pytest
from support import tiers

tiers.PACKAGES["no-such-program"] = "some-package"

def test_passes():
    pass

@pytest.mark.slow
@pytest.mark.system
def test_in_two_tiers():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.parametrize("path", ["/a", "/b"])
def test_that_may_not_mount(path):
    pytest.skip(f"only root may mount: {path}")

@pytest.mark.parametrize("page", [1, 2, 3])
@pytest.mark.tools("no-such-program")
def test_with_a_program(page):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_closing_lines(tmp_path: Path, processes: str) -> None:
    """A run ends with its skips by reason and the number of unselected tests by tier.

    It is the same with one process and with the processes of pytest-xdist.
    """
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    (tmp_path / "test_suite.py").write_text(SUITE)
    done = subprocess.run(  # noqa: S603  our own argument list
        [
            *(sys.executable, "-m", "pytest", "-p", "support.tiers", "-p", "no:cacheprovider"),
            *("-n", processes, "-m", "not (slow or system)"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line]
    skipped = next(n for n, line in enumerate(lines) if "skipped on this" in line)

    assert lines[skipped + 1 : skipped + 3] == [
        "    3 Debian package some-package is missing",
        "    2 only root may mount",
    ]
    assert "not selected" in lines[skipped + 3]
    assert lines[skipped + 4] == ("2 tests, by tier (a test can be in two): slow 2, system 1.")
    assert "1 passed, 5 skipped" in lines[-1]


@pytest.mark.slow
def test_each_process_names_the_tests_alike() -> None:
    """The names of all cases hold no time, no order of a set, and nothing random.

    If two processes of pytest-xdist have different names, nothing runs.
    """
    names = [
        subprocess.run(  # noqa: S603  our own argument list
            [
                *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", ""),
                *("-n0", "-p", "no:randomly", "-p", "no:cacheprovider"),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[:-1]
        for seed in ("1", "2")
    ]

    assert len(names[0]) > 1000
    assert names[0] == names[1]


def test_ci_installs_every_program() -> None:
    """The list in .ci/run names the package of each program that a test may need."""
    lines = [line.split() for line in CI.read_text("utf-8").splitlines()]

    for program, package in PACKAGES.items():
        assert any(line[:1] == [program] and package in line[1:] for line in lines), program
