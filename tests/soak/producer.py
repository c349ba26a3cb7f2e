"""The producers of a soak: what an office does to its folder, only faster."""

import hashlib
import io
import os
import random
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from soak.ledger import Ledger
from support.trees import MASTERS, TRANSACTIONAL

DATASETS = (*MASTERS[:5], *TRANSACTIONAL[:5])
RECENT = 60
"""Acts on existing files take one of so many that came last."""

FILES_MAX = 300
"""So many delivered files stay in the folder; the oldest are deleted."""

OUTSIDE_MAX = 20
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
    wait: int = 0
    """So many steps it only has the file open."""
    written: int = 0


class Producer:
    """Fills the folder, a step at a time; all of it follows from the seed."""

    _part = b".new.part"

    def __init__(self, spool: Path, ledger: Ledger, dice: random.Random) -> None:
        self._spool = os.fsencode(spool)
        self._ledger = ledger
        self._dice = dice
        self._number = 0
        self._due = 0.0
        self._files: list[bytes] = []
        self._writers: list[_Writer] = []
        self._busy: set[bytes] = set()
        """The paths that a writer has open."""
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
        chances = self._chances()
        (act,) = self._dice.choices(list(chances), list(chances.values()))
        # emitterd may archive a file at any time.
        with suppress(FileNotFoundError):
            act()

    def _chances(self) -> dict[Callable[[], None], int]:
        return {
            self._new: 70,
            self._replace: 10,
            self._touch: 8,
            self._copy_anew: 5,
            self._drop_and_delete: 4,
            self._write_slowly: 3,
        }

    def _existing(self) -> bytes:
        """Return a file that is complete, or was; most are among the last ones.

        Raises `FileNotFoundError` where there is none.
        """
        files = [path for path in self._files[-RECENT:] if path not in self._busy]
        if not files:
            raise FileNotFoundError
        return self._dice.choice(files)

    def _new(self) -> None:
        self._place(self._path(), self._content())

    def _replace(self) -> None:
        self._place(self._existing(), self._content())

    def _touch(self) -> None:
        os.utime(self._full(self._existing()))

    def _copy_anew(self) -> None:
        """Put the same bytes there as another file: nothing new is owed for it."""
        path = self._full(self._existing())
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
            if writer.wait > 0:
                writer.wait -= 1
                continue
            if not writer.written:
                self._ledger.changing(writer.path)
                if self._dice.random() < 0.5:
                    writer.file.truncate()
            chunk = len(writer.content) // SLOW_CHUNKS + 1
            writer.file.write(writer.content[writer.written : writer.written + chunk])
            writer.written += chunk
            if writer.written >= len(writer.content):
                self._writers.remove(writer)
                self._busy.discard(writer.path)
                writer.file.truncate()
                writer.file.close()
                self._note(writer.path, writer.content)

    def _thin(self) -> None:
        """Delete the oldest delivered files, so that the folder stays small."""
        for path in self._files[: max(0, len(self._files) - FILES_MAX)]:
            if self._ledger.is_delivered(path) and path not in self._busy:
                self._delete(path)

    def _place(self, path: bytes, content: bytes) -> None:
        self._ledger.changing(path)
        dropped_at = time.time()
        self._rename_into(self._full(path), content)
        self._note(path, content, dropped_at)

    def _rename_into(self, full: bytes, content: bytes) -> None:
        part = Path(os.fsdecode(os.path.dirname(full) + b"/" + self._part))  # noqa: PTH120
        part.write_bytes(content)
        part.rename(os.fsdecode(full))

    def _note(self, path: bytes, content: bytes, dropped_at: float = 0.0) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self._ledger.dropped(path, digest, len(content), dropped_at)
        if path not in self._files:
            self._files.append(path)

    def _delete(self, path: bytes) -> None:
        self._ledger.changing(path)
        self._files.remove(path)
        Path(os.fsdecode(self._full(path))).unlink(missing_ok=True)

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


class Meddler(Producer):
    """A producer that also changes files in place, and uses hard links and links in the archive.

    `archive`: the folder of `spool.archive_directory`, in the watched folder.
    """

    def __init__(self, spool: Path, ledger: Ledger, dice: random.Random, archive: Path) -> None:
        super().__init__(spool, ledger, dice)
        self.acts: Counter[str] = Counter()
        self._archive = archive
        self._elsewhere = spool.with_name("elsewhere")
        self._elsewhere.mkdir()
        self._outside: dict[Path, bytes] = {}
        """The second names elsewhere, and the paths that they are names of."""
        self._links: list[tuple[Path, Path]] = []
        """The links in the archive, and the folders whose names they took."""

    def step(self, files: float) -> None:
        """Do what brings about so many files on the average, and take links away again."""
        super().step(files)
        if self._links and self._dice.random() < 0.05:
            self._unlink_archive()

    def finish(self) -> None:
        """Finish what is being written, and take the links away."""
        super().finish()
        while self._links:
            self._unlink_archive()

    def strays(self) -> list[str]:
        """Return what arrived behind a link in the archive, where nothing may arrive."""
        return [str(path) for path in self._target.rglob("*")]

    def _chances(self) -> dict[Callable[[], None], int]:
        return super()._chances() | {
            self._rewrite: 10,
            self._open_again: 10,
            self._link: 6,
            self._link_outside: 6,
            self._link_back: 4,
            self._link_archive: 1,
        }

    @property
    def _target(self) -> Path:
        target = self._elsewhere / "target"
        target.mkdir(exist_ok=True)
        return target

    def _rewrite(self) -> None:
        self._open(0)

    def _open_again(self) -> None:
        """Open a file, and write another version only later: perhaps after its delivery."""
        self._open(self._dice.randrange(1, 20))

    def _open(self, wait: int) -> None:
        path = self._existing()
        file = io.FileIO(os.fsdecode(self._full(path)), "r+")
        if os.fstat(file.fileno()).st_nlink > 1:
            # Another name, perhaps in the archive, would get the new version too.
            file.close()
            return
        self._busy.add(path)
        self._writers.append(_Writer(path, self._content(), file, wait))
        self.acts["opened again" if wait else "rewritten in place"] += 1

    def _link(self) -> None:
        """Give a file a second name in the folder."""
        path, name = self._existing(), self._path()
        content = Path(os.fsdecode(self._full(path))).read_bytes()
        os.link(self._full(path), self._full(name))
        self._note(name, content)
        self.acts["hard links in the folder"] += 1

    def _link_outside(self) -> None:
        """Give a file a second name elsewhere, as snapshots do: only its ctime changes."""
        path = self._existing()
        self._number += 1
        name = self._elsewhere / str(self._number)
        os.link(self._full(path), name)
        self._outside[name] = path
        self.acts["hard links elsewhere"] += 1
        if len(self._outside) > OUTSIDE_MAX:
            old = next(iter(self._outside))
            del self._outside[old]
            old.unlink()

    def _link_back(self) -> None:
        """Give a file that is archived its name back, by its second name elsewhere."""
        outside, path = self._dice.choice(list(self._outside.items()) or [(Path(), b"")])
        if path in self._files and path not in self._busy and outside.exists():
            with suppress(FileExistsError):
                os.link(outside, self._full(path))
                self._note(path, outside.read_bytes())
                self.acts["hard links back into the folder"] += 1

    def _link_archive(self) -> None:
        """Put a link in place of a folder of the archive; take it away later."""
        day = self._archive / f"{datetime.now(UTC):%Y-%m-%d}"
        place = day if self._dice.random() < 0.5 else day / DATASETS[0].partition("/")[0]
        aside = place.with_name(f"{place.name}.{self._number}")
        if place.is_symlink() or not place.parent.is_dir() or place.parent.is_symlink():
            return
        self._number += 1
        with suppress(FileNotFoundError):
            place.rename(aside)
        # emitterd may have made the folder again.
        with suppress(FileExistsError):
            place.symlink_to(self._target)
            self.acts["links in the archive"] += 1
            self._links.append((place, aside))

    def _unlink_archive(self) -> None:
        place, aside = self._links.pop()
        place.unlink()
        # emitterd may have made the folder again.
        with suppress(OSError):
            aside.rename(place)
