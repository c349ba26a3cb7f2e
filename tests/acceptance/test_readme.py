"""docs/troubleshooting.md, "What happened to this file?": each command gives its answer."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.command import emitterd
from support.installation import Installation
from support.paths import ROOT
from support.zips import sample

MANUAL = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
ROW = re.compile(r"^\| `emitterd ([^`]+)` \| (\d+) \| (.+) \|$", re.MULTILINE)
GOOD = "pat/periodic_exam_mst.zip"
WRONG = "sat/semester_exam_mst.zip"
HALF = "school_master/school_mst.zip"
WRITTEN = "block_master/block_mst.zip"


@contextmanager
def folder(site: Installation) -> Iterator[None]:
    """Fill the folder as the manual says."""
    site.drop(GOOD, sample(GOOD))
    site.drop(WRONG, sample(WRONG).replace(b"exam_code", b"examcode", 1))
    half = site.drop(HALF, sample(HALF))
    half.write_bytes(half.read_bytes()[:-20])
    (site.spool / "pat" / "notes.txt").write_text("buy chalk")
    with site.drop(WRITTEN, sample(WRITTEN)).open("ab"):
        yield


@pytest.mark.slow
def test_each_command_gives_the_answer_of_the_table(
    tmp_path: Path, server: RehearsalServer
) -> None:
    """Each row of the table is true: the exit code, and each word in code style."""
    site = Installation(tmp_path, server.url, spool_catalogue="enforce")
    rows = ROW.findall(MANUAL)

    with folder(site):
        for command, code, words in rows:
            arguments = shlex.split(command.replace("cqube_emission", str(site.spool)))
            if arguments[0] == "explain-error":
                done = emitterd(*arguments, cwd=tmp_path)
            else:
                done = site.call(*arguments)
            output = done.stdout + done.stderr

            assert done.returncode == int(code), command
            for word in re.findall(r"`([^`]+)`", words):
                assert word in output, f"{command}: {word}"

    assert len(rows) >= 15
