"""The machine of the package's tests: gone with its test run, however that ends."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from support.debian import HALT_S, cannot
from support.paths import TESTS
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.system, pytest.mark.xdist_group("machine")]

HOLDER = """
import sys
from pathlib import Path

from support.debian import fresh_machine

with fresh_machine(Path(sys.argv[1])) as machine:
    print(machine.leader, flush=True)
    sys.stdin.read()
"""


def members(namespace: str) -> list[int]:
    """Return the processes of a PID namespace."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with suppress(OSError):
            if link.readlink().name == namespace:
                found.append(int(link.parts[2]))
    return found


def test_killed_run_leaves_no_machine(tmp_path: Path) -> None:
    """With the process that holds a machine every process of the machine is killed."""
    if reason := cannot():
        pytest.skip(reason)
    with subprocess.Popen(  # noqa: S603  our own argument list
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        text=True,
    ) as holder:
        assert holder.stdout
        leader = holder.stdout.readline().strip()
        if not leader:
            pytest.skip("no machine boots here")
        namespace = Path(f"/proc/{leader}/ns/pid").readlink().name
        booted = members(namespace)
        holder.kill()
    try:
        wait_until(lambda: not members(namespace), HALT_S, "the machine's end")
    finally:
        for left in members(namespace):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)

    assert len(booted) > 1
