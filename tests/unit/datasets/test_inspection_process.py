"""A zip that arrives piece by piece, and its inspection in a child process."""

import json
import os
import random
import signal
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from emitterd.datasets.inspection import InspectionSettings, Inspector
from emitterd.datasets.inspection_process import (
    MEMORY_BYTES,
    InspectionProcess,
    ReceivedZip,
    inspect_received,
    read_report,
)
from support.zip_writer import NAME
from support.zips import Counted, repeated, sample, shipped, zipped

if TYPE_CHECKING:
    from emitterd.datasets.catalogue import Version

MIB = 1024**2
TITLE = "student_attendance/student_attendance"
PATH = f"{TITLE}.zip".encode()
BUDGET_BYTES = 2 * MIB
KEPT_BYTES = 12 * MIB
"""More than is kept of any zip with this budget."""


@dataclass(frozen=True)
class Order:
    """A value that does something to the process that unpickles it."""

    function: Any
    arguments: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        """Have the other process call the function."""
        return self.function, self.arguments


def inspector(budget_bytes: int = BUDGET_BYTES, *, order: Order | None = None) -> Inspector:
    """Return an inspector; `order` is carried out by the child."""
    version = cast("Version | None", order)
    return Inspector(shipped(), InspectionSettings(version, budget_bytes=budget_bytes))


def receive(received: ReceivedZip, data: bytes, piece_bytes: int = 60_000) -> None:
    """Give the zip piece by piece."""
    for at in range(0, len(data), piece_bytes):
        received.write(data[at : at + piece_bytes])


def inspected(data: bytes, memory_bytes: int = MEMORY_BYTES) -> dict[str, Any]:
    """Return the report of the child."""
    with ReceivedZip(BUDGET_BYTES) as received:
        receive(received, data)
        with InspectionProcess(inspector(), PATH, received, memory_bytes) as process:
            return read_report(process.output.read())


def noise(size_bytes: int) -> bytes:
    """Return bytes that no method packs."""
    return random.Random(3).randbytes(size_bytes)  # noqa: S311  no secret


def large_zip(size_bytes: int) -> bytes:
    """Return a zip of this size: right rows, then very many wrong ones."""
    text = noise(size_bytes // 2).hex()
    wrong = [text[at : at + 1000] for at in range(0, len(text), 1000)]
    content = sample(PATH.decode(), 2000) + "\n".join(wrong).encode()
    return zipped({NAME: content}, zipfile.ZIP_STORED)


def test_the_child_reports_what_the_inspection_finds() -> None:
    """The report has the verdict, findings with line and column, and the number of rows."""
    lines = sample(PATH.decode(), 3).decode().splitlines()
    lines[2] = lines[2].replace("|2|", "|x|", 1)
    data = zipped({NAME: "\n".join(lines).encode()})
    report = inspector().report(PATH, Counted(data), len(data))

    record = inspected(data)

    assert record["verdict"] == report.verdict == "warning"
    assert record["dataset"] == TITLE
    assert record["findings"] == [finding.record() for finding in report.findings]
    assert "line 3" in record["findings"][0]["found"]
    assert (record["rows"], record["columns"]) == (3, len(report.columns))


def test_what_is_no_whole_zip_is_reported_like_by_the_intake() -> None:
    """A cut zip has code E201, with the reason and what to do."""
    record = inspected(zipped({NAME: b"a|b\n"})[:-10])

    assert (record["verdict"], record["error"]) == ("error", "E201")
    assert "end record" in record["reason"]
    assert record["hint"]


def test_only_what_an_inspection_reads_is_kept() -> None:
    """Of a large zip beginning and end are in memory, and the report is the same."""
    data = large_zip(30 * MIB)
    expected = inspector().report(PATH, Counted(data), len(data))
    with ReceivedZip(BUDGET_BYTES) as received:
        receive(received, data)
        descriptor, missing = received.finish()
        kept = os.fstat(descriptor)
        text = json.dumps(inspect_received(inspector(), PATH, descriptor, len(data), missing))
        record = read_report(text.encode())

    assert kept.st_size == len(data) > 2 * KEPT_BYTES
    assert kept.st_blocks * 512 < KEPT_BYTES
    assert len(missing) > len(data) - KEPT_BYTES
    assert record["verdict"] == expected.verdict
    assert record["findings"] == [finding.record() for finding in expected.findings]
    assert record["read_bytes"] == expected.read_bytes == BUDGET_BYTES


def test_a_zip_that_must_be_read_in_the_middle_is_not_judged() -> None:
    """The verdict is unknown rather than wrong where a second file begins in what is missing."""
    part = noise(12 * MIB)
    record = inspected(zipped({NAME: part, "second.csv": part}, zipfile.ZIP_STORED))

    assert record["verdict"] == "unknown"


@pytest.mark.parametrize("size_bytes", [0, 1, 100, 7 * MIB, 8 * MIB, 9 * MIB, 11 * MIB])
def test_every_byte_is_in_its_place(size_bytes: int) -> None:
    """What is kept is where it was in the zip, for any size."""
    data = noise(size_bytes)
    with ReceivedZip(BUDGET_BYTES) as received:
        receive(received, data)
        descriptor, missing = received.finish()
        kept = os.pread(descriptor, size_bytes + 1, 0)

    assert len(kept) == size_bytes
    assert kept[: missing.start] == data[: missing.start]
    assert kept[missing.stop :] == data[missing.stop :]


def test_a_bomb_costs_the_child_no_more_than_the_budget() -> None:
    """A GiB of zeros in a small zip is read to the budget, within the limits."""
    data = repeated(sample(PATH.decode(), 1), b"\0" * MIB, 1024)

    record = inspected(data)

    assert len(data) < 2 * MIB
    assert record["read_bytes"] <= BUDGET_BYTES
    assert record["verdict"] == "error"


def test_a_child_without_memory_ends_alone() -> None:
    """The output is empty, and this process goes on."""
    with ReceivedZip(BUDGET_BYTES) as received:
        receive(received, large_zip(4 * MIB))
        with InspectionProcess(inspector(), PATH, received, MIB) as process:
            output = process.output.read()

    assert output == b""


def test_a_child_that_hangs_is_ended() -> None:
    """It has no environment, and nothing of it is left after the block."""
    with ReceivedZip(BUDGET_BYTES) as received:
        order = Order(signal.pause)
        with InspectionProcess(inspector(order=order), PATH, received, MEMORY_BYTES) as process:
            pid = process._process.pid
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            hangs = process._process.poll() is None

    assert hangs
    assert environment == b""
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_cannot_write_to_a_file(tmp_path: Path) -> None:
    """For any program in it, not a byte of the zip reaches a disk."""
    target = tmp_path / "written"
    with ReceivedZip(BUDGET_BYTES) as received:
        order = Order(Path.write_text, (target, "text"))
        with InspectionProcess(inspector(order=order), PATH, received, MEMORY_BYTES) as process:
            output = process.output.read()

    assert output == b""
    assert target.read_text() == ""
