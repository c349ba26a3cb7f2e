"""The files that crash tests send with each protocol."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emitterd.model import WireProtocol
from emitterd.rehearsal.ingestion import PROGRAMS
from support.trees import MASTERS, TRANSACTIONAL

PROGRAM_FOLDER = "programs"
SMALL_BYTES = 100
LARGE_BYTES = 1_800_000
"""More than three chunks."""

_PROGRAM_FILES = [f"{PROGRAM_FOLDER}/{name}.zip" for name in PROGRAMS]


@dataclass(frozen=True, slots=True)
class Samples:
    """Paths below the folder, and what is in the files.

    `content` returns other bytes at each call: about this many for a path. `pairs`: two more paths
    for each random kill.
    """

    protocol: WireProtocol
    files: list[str]
    large: str
    content: Callable[[str, int], bytes]
    pairs: list[tuple[str, str]]


def program_csv(path: str, size_bytes: int = SMALL_BYTES) -> bytes:
    """Return a CSV that cQube 5 accepts for the program of this path."""
    columns = PROGRAMS[Path(path).stem] or ("name", "value")
    rows = [",".join(columns)]
    length = 0
    while length <= size_bytes:
        # Every column takes a number.
        rows.append(",".join(str(10_000 + byte) for byte in os.urandom(len(columns))))
        length += len(rows[-1]) + 1
    return "\n".join(rows).encode() + b"\n"


def random_bytes(_: str, size_bytes: int) -> bytes:
    """Return bytes that are no CSV: a bucket takes anything."""
    return os.urandom(size_bytes)


EMISSION_SAMPLES = Samples(
    "emission",
    [f"{dataset}.zip" for dataset in (*MASTERS[:4], *TRANSACTIONAL[:2])],
    f"{TRANSACTIONAL[6]}.zip",
    random_bytes,
    [(f"{dataset}_0.zip", f"{dataset}_1.zip") for dataset in MASTERS[:15]],
)
INGESTION_SAMPLES = Samples(
    "ingestion",
    _PROGRAM_FILES[:6],
    _PROGRAM_FILES[6],
    program_csv,
    # A program has one name, so there are as many pairs as programs allow.
    list(zip(_PROGRAM_FILES[::2], _PROGRAM_FILES[1::2], strict=False)),
)
