"""What is sent: zips that follow the dataset schema, each with other bytes."""

import io
import multiprocessing
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from sink import Digest

DATASETS = (
    "student_attendance/student_attendance",
    "teacher_attendance/teacher_attendance",
    "pat/periodic_exam_result_trans",
    "sat/semester_exam_result_trans",
    "infra_trans/infra_trans",
)
CHUNK_BYTES = 2**20
TINY_BYTES = 400
ZIP_BYTES = 250


def fill(folder: Path, count: int, size_bytes: int, *, start: int = 0) -> dict[str, str]:
    """Write `count` zips of about `size_bytes` bytes; return the MD5 of each by its path."""
    templates = [_template(name, size_bytes) for name in DATASETS]
    for name in DATASETS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    digests = {}
    for number in range(start, start + count):
        dataset = DATASETS[number % len(DATASETS)]
        path = f"{dataset}_{number}.zip"
        content = numbered(templates[number % len(templates)], number)
        (folder / path).write_bytes(content)
        digests[path] = digest(content)
    return digests


def another(dataset: str, number: int, size_bytes: int) -> tuple[str, bytes]:
    """Return the path of one more zip, relative to the folder, and its bytes."""
    return f"{dataset}_{number}.zip", numbered(_template(dataset, size_bytes), number)


def flood(folder: Path, count: int, datasets: Sequence[str] = DATASETS) -> None:
    """Write very many tiny zips, by two processes."""
    for name in datasets:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    halves = [
        context.Process(target=_flood, args=(folder, range(n, count, 2), datasets))
        for n in range(2)
    ]
    for half in halves:
        half.start()
    for half in halves:
        half.join()
        if half.exitcode:
            raise OSError(f"the files could not be made in {folder}")


def _flood(folder: Path, numbers: range, datasets: Sequence[str]) -> None:
    templates = [_template(name, TINY_BYTES) for name in datasets]
    for number in numbers:
        turn = number % len(datasets)
        path = f"{folder}/{datasets[turn]}_{number}.zip"
        # Bare calls: a million files would take minutes by others.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, numbered(templates[turn], number))
        os.close(descriptor)


def numbered(template: bytes, number: int) -> bytes:
    """Return the zip with a number in its comment: other bytes, the same length."""
    return template[:-12] + b"%012d" % number


def digest(content: bytes) -> str:
    """Return what the far side calls the digest of a small file."""
    total = Digest(sampled=False)
    total.update(memoryview(content))
    return total.hex()


def large(folder: Path, size_bytes: int) -> dict[str, str]:
    """Write one zip of this size or a little more; return its samples' digest."""
    path = f"{DATASETS[0]}_large.zip"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = _csv(DATASETS[0], CHUNK_BYTES).encode()
    head, _, body = rows.partition(b"\n")
    with (
        zipfile.ZipFile(target, "w") as archive,
        archive.open(f"{target.stem}.csv", "w", force_zip64=True) as file,
    ):
        file.write(head + b"\n")
        for _ in range(size_bytes // len(body) + 1):
            file.write(body)
    return {path: sampled(target)}


def sampled(path: Path) -> str:
    """Return what the far side calls the digest of a large file."""
    total = Digest(sampled=True)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(memoryview(chunk))
    return total.hex()


def _template(dataset: str, size_bytes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        name = dataset.rpartition("/")[2]
        archive.writestr(zipfile.ZipInfo(f"{name}.csv"), _csv(dataset, size_bytes))
        archive.comment = b"0" * 12
    return buffer.getvalue()


def _csv(dataset: str, size_bytes: int) -> str:
    """Return a CSV of about this size, less what the zip adds; of one row at least."""
    definition = load_catalogue().dataset(f"{dataset}.zip".encode())
    if definition is None:
        raise LookupError(f"the catalogue has no dataset {dataset}")
    text = sample_csv(definition, max(1, size_bytes // 8))
    least = len("".join(text.splitlines(keepends=True)[:2]))
    cut = text[: max(size_bytes - ZIP_BYTES, least)]
    return cut[: cut.rindex("\n") + 1]
