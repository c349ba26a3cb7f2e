"""What cQube does with delivered objects: it picks them up, drops rows, and writes a log summary.

An object leaves the emission bucket, and the log summary of its dataset in the output bucket gets
an entry for it. The counts come from the file by the rules of the inspection. Source: cQube's NiFi
templates, 1.12 to 4.1.
"""

import csv
import io
import json
import time
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from emitterd.codes import Code
from emitterd.datasets.catalogue import Catalogue, Dataset
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.csv_header import check_header
from emitterd.datasets.csv_text import BLANKS, server_rows
from emitterd.datasets.csv_values import checked_columns
from emitterd.rehearsal.bucket import BucketObject
from emitterd.rehearsal.faults import Fault, FaultStage

_INDIA = timezone(timedelta(hours=5, minutes=30))
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_WITHOUT_TYPES = ("crc_loc", "udise")
"""What is in the names of the log summaries that do not count type mismatches."""


@dataclass(slots=True)
class _RowCounts:
    """The records of a file, and those that the server drops, by reason."""

    total_records: int = 0
    blank_lines: int = 0
    duplicate_records: int = 0
    datatype_mismatch: int = 0
    records_with_null_value: dict[str, int] = field(default_factory=dict)

    def processed(self) -> int:
        """Return the records that are left, as the server subtracts.

        A record with two empty values is subtracted twice, so this may be negative.
        """
        dropped = self.blank_lines + self.duplicate_records + self.datatype_mismatch
        return self.total_records - dropped - sum(self.records_with_null_value.values())


class Processing:
    """Picks objects up and writes log summaries.

    `objects` are those of the emission bucket. `draw` draws the fault of a file. `logs` has the
    entries of each log summary by its key in the output bucket; they may be changed.
    `clock_offset_s`: how far the clock of the server's log is ahead.
    """

    def __init__(
        self,
        directory: Path,
        objects: dict[str, BucketObject],
        draw: Callable[[FaultStage], Fault | None],
        after_s: float | None,
    ) -> None:
        """`after_s`: how long an object stays in the bucket; None: until `process` is called."""
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.clock_offset_s = 0.0
        self._file = directory / "log_summary.json"
        self._objects = objects
        self._draw = draw
        self._after_s = after_s
        self._catalogue: Catalogue | None = None

    def open(self) -> None:
        """Read the log summaries of a former run."""
        if not self.logs and self._file.exists():
            self.logs.update(json.loads(self._file.read_bytes()))

    def process_due(self, now_at: float) -> None:
        """Process the objects that have been in the bucket long enough."""
        if self._after_s is not None:
            self.process(now_at - self._after_s)

    def process(self, stored_until: float = float("inf")) -> None:
        """Process the objects that were stored until then, the oldest first.

        Objects that no dataset folder takes stay in the bucket.
        """
        self._catalogue = self._catalogue or load_catalogue()
        folders = {dataset.folder for dataset in self._catalogue.datasets}
        due = [
            item
            for item in list(self._objects.values())
            if item.stored_at <= stored_until and item.key.partition("/")[0] in folders
        ]
        for item in sorted(due, key=lambda item: (item.stored_at, item.key)):
            dataset = self._catalogue.dataset(item.key.encode("utf-8", "replace"))
            self._log(item, dataset)
            del self._objects[item.key]
            item.path.with_suffix(".json").unlink(missing_ok=True)
            item.path.unlink(missing_ok=True)
        if due:
            self._file.write_text(json.dumps(self.logs))

    def _log(self, item: BucketObject, dataset: Dataset | None) -> None:
        fault = self._draw(FaultStage.PROCESS)
        if dataset is None or not dataset.log or (fault and fault.name == "no-log"):
            return
        try:
            counts, dropped = _count_rows(item.path, dataset)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, IndexError):
            # cQube notes a zip that it cannot unpack in its database only.
            return
        if fault and fault.name == "drop-rows":
            counts.duplicate_records += max(0, min(int(fault.parameter or 1), counts.processed()))
        if dropped or (fault and fault.name == "drop-file"):
            counts = _RowCounts(counts.total_records)
            dropped = True
        now = datetime.fromtimestamp(time.time() + self.clock_offset_s, _INDIA)
        entry = {
            "filename": item.key.partition("/")[2],
            "ff_uuid": str(uuid.uuid4()),
            **asdict(counts),
            "processed_records": counts.processed(),
            "process_start_time": now.strftime(_TIME_FORMAT),
            "process_end_time": None if dropped else now.strftime(_TIME_FORMAT),
        }
        if any(name in dataset.log for name in _WITHOUT_TYPES):
            del entry["datatype_mismatch"]
        self.logs.setdefault(dataset.log, []).append(entry)


def _count_rows(path: Path, dataset: Dataset) -> tuple[_RowCounts, bool]:
    """Return the counts of a zip's CSV, and whether the server drops the whole file."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        lines = io.TextIOWrapper(member, "utf-8", "replace")
        line = lines.readline().rstrip("\n")
        try:
            header = check_header(line, dataset, None, "")
            counts = _RowCounts()
            if header.finding is None:
                _count(counts, lines, dataset, header.columns)
            else:
                counts.total_records = sum(1 for _ in lines)
        except csv.Error:
            return _RowCounts(), True
    return counts, header.finding is not None or counts.total_records == 0


def _count(
    counts: _RowCounts, lines: Iterable[str], dataset: Dataset, columns: tuple[str, ...]
) -> None:
    checked = list(checked_columns(dataset, columns, None))
    keys = {name.lower() for name in dataset.keys}
    places = [at for at, name in enumerate(columns) if name.lower() in keys]
    counts.records_with_null_value.update({column.name: 0 for column in checked if column.needed})
    rows: Counter[tuple[bytes, ...]] = Counter()
    for values in server_rows(lines, dataset.delimiter):
        row = tuple(value.encode().strip(BLANKS) for value in values)
        counts.total_records += 1
        if any(row):
            rows[row] += 1
        else:
            counts.blank_lines += 1
    by_key = Counter(tuple(row[at] for at in places if at < len(row)) for row in rows)
    for row, times in rows.items():
        counts.duplicate_records += times - 1
        # The server keeps none of several records with one key.
        if places and by_key[tuple(row[at] for at in places if at < len(row))] > 1:
            counts.duplicate_records += 1
            continue
        problems = [(c, c.problem(row[c.at] if c.at < len(row) else b"")) for c in checked]
        missing = [column.name for column, code in problems if code is Code.MISSING_VALUE]
        for name in missing:
            counts.records_with_null_value[name] += 1
        if not missing and any(code for _, code in problems):
            counts.datatype_mismatch += 1
