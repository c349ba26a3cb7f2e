"""The producers of a soak: what an office does to its folder, only faster."""

import hashlib
import io
import os
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from soak.ledger import Ledger
from support.trees import MASTERS, TRANSACTIONAL

DATASETS = (*MASTERS[:5], *TRANSACTIONAL[:5])
FILES_MAX = 300
"""So many delivered files stay in the folder; the oldest are deleted."""

LARGE_BYTES = (8_000_000, 40_000_000)
BURST = 40
PAUSE_CHANCE = 0.3
SLOW_CHUNKS = 8

ODD = (
    b"line\nbreak", b'quo"te', b"back\\slash", b"per%41cent", b"-dash", b"a b",
    "\u0936\u0940\u0930\u094d\u0937\u0915".encode(), "\U0001f4e6".encode(),
    b"caf\xe9", b"esc\x1b[31m", "right\u202eleft".encode(), b"n" * 180,
)  # fmt: skip


@dataclass(slots=True)
class _Writer:
    """A file that is written slowly, in its place and under its final name."""

    path: bytes
    content: bytes
    file: io.FileIO
    written: int = 0


class Producer:
    """Fills the folder, a step at a time; all of it follows from the seed."""

    def __init__(self, spool: Path, ledger: Ledger, dice: random.Random) -> None:
        self._spool = os.fsencode(spool)
        self._ledger = ledger
        self._dice = dice
        self._number = 0
        self._due = 0.0
        self._files: list[bytes] = []
        self._writers: list[_Writer] = []
        catalogue = load_catalogue()
        found = {name: catalogue.dataset(f"{name}.zip".encode()) for name in DATASETS}
        self._rows = {
            name: sample_csv(dataset, 20) for name, dataset in found.items() if dataset is not None
        }
        for name in DATASETS:
            (spool / name).parent.mkdir(parents=True, exist_ok=True)

    def step(self, files: float) -> None:
        """Do what brings about so many files on the average; pauses are made up for."""
        self._due += files
        self._write_on()
        if self._dice.random() < PAUSE_CHANCE:
            return
        while self._due >= 1:
            self._due -= 1
            self._act()
        self._thin()

    def burst(self) -> None:
        """Drop many small files and a large one at once."""
        for _ in range(BURST):
            self._new()
        self._place(self._path(), self._content(self._dice.randint(*LARGE_BYTES)))

    def finish(self) -> None:
        """Finish what is being written."""
        while self._writers:
            self._write_on()

    def _act(self) -> None:
        chances = {
            self._new: 70,
            self._replace: 10,
            self._touch: 8,
            self._copy_anew: 5,
            self._drop_and_delete: 4,
            self._write_slowly: 3,
        }
        (act,) = self._dice.choices(list(chances), list(chances.values()))
        act()

    def _new(self) -> None:
        self._place(self._path(), self._content())

    def _replace(self) -> None:
        if self._files:
            self._place(self._dice.choice(self._files), self._content())

    def _touch(self) -> None:
        if self._files:
            os.utime(self._full(self._dice.choice(self._files)))

    def _copy_anew(self) -> None:
        """Put the same bytes there as another file: nothing new is owed for it."""
        if self._files:
            path = self._full(self._dice.choice(self._files))
            self._rename_into(path, Path(os.fsdecode(path)).read_bytes())

    def _drop_and_delete(self) -> None:
        path = self._path()
        self._place(path, self._content())
        self._delete(path)

    def _write_slowly(self) -> None:
        path = self._path()
        file = io.FileIO(os.fsdecode(self._full(path)), "x")
        self._writers.append(_Writer(path, self._content(), file))

    def _write_on(self) -> None:
        for writer in list(self._writers):
            chunk = len(writer.content) // SLOW_CHUNKS + 1
            writer.file.write(writer.content[writer.written : writer.written + chunk])
            writer.written += chunk
            if writer.written >= len(writer.content):
                self._writers.remove(writer)
                writer.file.close()
                self._note(writer.path, writer.content)

    def _thin(self) -> None:
        """Delete the oldest delivered files, so that the folder stays small."""
        for path in self._files[: max(0, len(self._files) - FILES_MAX)]:
            if self._ledger.is_delivered(path):
                self._delete(path)

    def _place(self, path: bytes, content: bytes) -> None:
        self._rename_into(self._full(path), content)
        self._note(path, content)

    def _rename_into(self, full: bytes, content: bytes) -> None:
        part = Path(os.fsdecode(os.path.dirname(full) + b"/.new.part"))  # noqa: PTH120
        part.write_bytes(content)
        part.rename(os.fsdecode(full))

    def _note(self, path: bytes, content: bytes) -> None:
        self._ledger.dropped(path, hashlib.sha256(content).hexdigest(), len(content))
        if path not in self._files:
            self._files.append(path)

    def _delete(self, path: bytes) -> None:
        Path(os.fsdecode(self._full(path))).unlink()
        self._files.remove(path)
        self._ledger.removed(path)

    def _path(self) -> bytes:
        """Return a new path, now and then an odd one."""
        self._number += 1
        dataset = self._dice.choice(DATASETS).encode()
        odd = b"_" + self._dice.choice(ODD) if self._dice.random() < 0.1 else b""
        return dataset + b"_%d%b.zip" % (self._number, odd)

    def _content(self, size_bytes: int = 0) -> bytes:
        """Return a zip of one CSV, at least so large, unlike every other."""
        self._number += 1
        rows = self._dice.choice(list(self._rows.values()))
        text = rows + f"{self._number}{rows[rows.index(chr(10)) :]}"
        text += rows.partition("\n")[2] * (size_bytes // len(rows))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.csv", text)
        return buffer.getvalue()

    def _full(self, path: bytes) -> bytes:
        return self._spool + b"/" + path
