"""Changes zips and CSVs at random, and runs the checks of the intake on each."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import fatal
from emitterd.datasets.inspection import InspectionSettings, inspect
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.datasets.zip_members import DamagedZip, check_content
from support.zip_writer import member
from support.zips import Counted
from unit.datasets.zip_corpus import GOOD, PATH, SHAPES

DATASET = load_catalogue().dataset(PATH.encode())
LIMIT_S = 20
"""A check of one zip that takes longer hangs."""
BUDGET_BYTES = 1024**2
PIECES = (
    *(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"PK00"),
    *(b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff", b"\1\0\x10\0", b"\1\0\0\0"),
    *(b"\n", b"\r", b'"', b"|", b"\\", b"\xef\xbb\xbf", b"1" * 5000, b'"\n' * 900),
)


class Hang(Exception):
    """A check took too long."""


def mutant(number: int) -> bytes:
    """Return the zip of this number; equal numbers give equal bytes."""
    dice = random.Random(number)  # noqa: S311  no secret
    if dice.random() < 0.3:
        return member(mutated(GOOD, dice)).zip()
    shape = dice.choice(SHAPES)
    if dice.random() < 0.1:
        fields = ("flags", "method", "crc", "packed", "size")
        local = {field: dice.choice((0, 1, 8, 9, 12, 0x7FFF, 0xFFFF)) for field in fields}
        keys = dice.sample(fields, dice.randint(1, 2))
        changed = replace(member(GOOD), local={key: local[key] for key in keys})
        return replace(changed, local_extra=dice.randbytes(dice.randint(0, 24))).zip()
    return mutated(shape.data, dice)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with one to six random changes."""
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(data))
        size = min(dice.randint(1, 40), len(data) - at)
        kind = dice.randint(0, 6)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << dice.randint(0, 7)]) + data[at + 1 :]
        elif kind == 1 and dice.randint(0, 3) == 0:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + dice.choice(PIECES) + data[at:]
        elif kind == 3:
            piece = dice.choice(PIECES)
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == 4:
            data = data[:at] + data[at + size :]
        elif kind == 5:
            data = data[:at] + data[at : at + size] + data[at:]
        else:
            other = dice.choice(SHAPES).data
            start = dice.randint(0, len(other))
            data = data[:at] + other[start : start + dice.randint(1, 120)] + data[at:]
    return data


def check(data: bytes) -> str:
    """Run all checks; return the result in a word. Raises what no check may raise."""
    read_at, size_bytes = Counted(data), len(data)
    flaw = zip_flaw(read_at, size_bytes)
    damaged = False
    try:
        check_content(read_at, size_bytes, BUDGET_BYTES)
    except DamagedZip:
        damaged = True
    report = inspect(read_at, size_bytes, DATASET, InspectionSettings(budget_bytes=BUDGET_BYTES))
    for finding in report.findings:
        assert finding.found.isprintable()
        assert len(finding.found) <= 1001
    if flaw is not None or damaged:
        return "incomplete"
    return "rejected" if fatal(report.findings) else "sent"


def run(count: int) -> dict[str, object]:
    """Check a number of mutants; return what was measured."""
    results: Counter[str] = Counter()
    slowest_s = 0.0
    start = time.monotonic()
    for number in range(count):
        data = mutant(number)
        before = time.monotonic()
        signal.alarm(LIMIT_S)
        try:
            results[check(data)] += 1
        except Exception as error:
            error.add_note(f"mutant {number}")
            raise
        signal.alarm(0)
        slowest_s = max(slowest_s, time.monotonic() - before)
    return {
        "mutants": count,
        "results": dict(results),
        "slowest_s": round(slowest_s, 3),
        "peak_bytes": _peak_bytes(),
        "duration_s": round(time.monotonic() - start, 1),
    }


def _peak_bytes() -> int:
    # The `ru_maxrss` of `resource` includes the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _hangs(_signal: int, _frame: FrameType | None) -> None:
    raise Hang


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _hangs)
    os.nice(5)
    print(json.dumps(run(int(sys.argv[1]))))
