"""docs/tutorial.md: its commands do what it says, from the first to the last."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.paths import ROOT
from support.waiting import wait_until

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
FUNCTION = f'emitterd() {{ "{sys.executable}" -m emitterd "$@"; }}\n'
FIRST = "school_category/school_category_master.zip"


def shell(block: str, folder: Path, server: RehearsalServer) -> subprocess.CompletedProcess[str]:
    """Run the commands of a block; the practice server is that of the test."""
    text = re.sub(r"^\$ ", "", block, flags=re.MULTILINE)
    text = text.replace("http://127.0.0.1:8642/data", server.url)
    return subprocess.run(  # noqa: S603  the commands of the tutorial
        ["bash", "-ec", FUNCTION + text],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def delivered(folder: Path, server: RehearsalServer) -> list[str]:
    """Return the paths of the receipts."""
    receipts = json.loads(shell("emitterd receipts --json", folder, server).stdout)
    return [receipt["path"] for receipt in receipts]


@pytest.mark.slow
def test_the_commands_do_what_the_tutorial_says(tmp_path: Path, server: RehearsalServer) -> None:
    """Two versions of a file are delivered, and the mistake is found before it is sent."""
    folder = tmp_path / "first-receipt"
    output, daemon = "", None
    for block in BLOCKS:
        if block == "$ emitterd rehearse\n":
            continue
        if block == "$ emitterd run\n":
            assert delivered(folder, server) == [FIRST]
            daemon = subprocess.Popen([sys.executable, "-m", "emitterd", "run"], cwd=folder)
            continue
        done = shell(block, folder if folder.exists() else tmp_path, server)
        output += done.stdout

        assert done.returncode == ("emitterd inspect" in block), done.stderr
    assert daemon is not None
    try:
        wait_until(
            lambda: delivered(folder, server) == [FIRST, FIRST],
            30,
            "the second version is delivered",
        )
    finally:
        daemon.terminate()

    assert daemon.wait() == 0
    assert "E233" in output
    assert "login" in output
    assert "grant" in output
