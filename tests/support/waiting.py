"""What every test may need: waiting without sleeping, and a whole zip."""

import io
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv

T = TypeVar("T")

CSV = b"school_id,present\n1001,17\n"


def wait_until(probe: Callable[[], T | None], deadline_s: float, what: str) -> T:
    """Return the first true answer of `probe`; TimeoutError names what never came."""
    pause = threading.Event()
    end = time.monotonic() + deadline_s
    while not (found := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        pause.wait(0.01)
    return found


def zip_bytes(content: bytes = CSV) -> bytes:
    """Return a whole zip with one stored CSV; equal content gives equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("data.csv"), content)
    return buffer.getvalue()


def make_zip(path: Path, content: bytes = CSV) -> Path:
    """Write such a zip, with the folders above it; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_bytes(content))
    return path


def sample(path: str, rows: int = 3) -> bytes:
    """Return a CSV that the server would take for the zip at this path."""
    dataset = load_catalogue().dataset(path.encode())
    assert dataset is not None
    return sample_csv(dataset, rows).encode()
