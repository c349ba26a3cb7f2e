"""The checks of the intake survive zips and CSVs that are changed at random."""

import json
import subprocess

from support.paths import TESTS

FUZZ = TESTS / "soak" / "run-fuzz"
MIB = 1024**2


def test_changed_zips_cause_no_exception_no_hang_and_little_memory() -> None:
    """Each of 2,000 changed zips and CSVs gets a verdict in less than 64 MiB of memory."""
    done = subprocess.run(  # noqa: S603
        [FUZZ, "2000"], capture_output=True, text=True, check=False, timeout=300
    )

    assert done.stderr == ""
    measured = json.loads(done.stdout)
    assert measured["mutants"] == 2000
    assert measured["peak_bytes"] <= 64 * MIB
    assert min(measured["results"][key] for key in ("incomplete", "rejected", "sent")) > 20
