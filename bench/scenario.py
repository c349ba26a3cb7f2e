"""What a benchmark is: contestants on the same work, round after round, and goals."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

from far import Far
from subject import Source, Subject
from support.seaweed import Seaweed

MEMORY = Path("/dev/shm")  # noqa: S108  a folder of its own in it
FILE_BYTES = 6000
"""What a tiny file takes there."""
MEMORY_SHARE = 2
"""As much again has to stay free."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column: what is measured, in which unit, and whether more is better."""

    name: str
    label: str
    unit: str = ""
    more: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal: a limit for a figure of emitterd, or for its ratio to that of a peer."""

    metric: str
    limit: float
    text: str
    against: str = ""
    """A peer; then the figure is how many times better emitterd is."""
    at_most: bool = False
    """With a peer: emitterd may be worse, by no more times than `limit`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A contestant; `measure` does the work once."""

    name: str
    measure: Callable[[], Figures]
    ours: bool = False


class Bench:
    """What all benchmarks of a run share: where, how much, and which emitterd."""

    def __init__(self, folder: Path, sources: Sequence[Source], *, quick: bool) -> None:
        self.folder = folder
        self.sources = sources
        self.quick = quick
        self._stack = ExitStack()
        self._far: Far | None = None
        self._seaweed: Seaweed | None = None
        self._memory: Path | None = None
        self._number = 0

    def close(self) -> None:
        """End the far side."""
        self._stack.close()

    @property
    def far(self) -> Far:
        """The light far side; started when it is first asked for."""
        if self._far is None:
            self._far = self._stack.enter_context(Far())
        return self._far

    @property
    def seaweed(self) -> Seaweed:
        """The S3 engine; started when it is first asked for."""
        if self._seaweed is None:
            self._seaweed = self._stack.enter_context(Seaweed(self.new_folder("s3")))
        return self._seaweed

    def new_folder(self, name: str) -> Path:
        """Make an empty folder."""
        self._number += 1
        folder = self.folder / f"{self._number}-{name}"
        folder.mkdir()
        return folder

    def new_crowd(self, files: int) -> Path:
        """Make an empty folder for very many small files.

        In memory where there is room: a disk may take minutes to free them all.
        """
        if _available_bytes() < files * FILE_BYTES * MEMORY_SHARE:
            return self.new_folder("spool")
        if self._memory is None:
            self._memory = Path(mkdtemp(prefix="bench-", dir=MEMORY))
            self._stack.callback(shutil.rmtree, self._memory, ignore_errors=True)
        self._number += 1
        folder = self._memory / str(self._number)
        folder.mkdir()
        return folder

    def clear(self) -> None:
        """Remove what a benchmark has left; the S3 engine goes on."""
        engine_folder = self._seaweed.directory if self._seaweed is not None else None
        folders = filter(None, (self.folder, self._memory))
        files = (file for folder in folders for file in folder.iterdir())
        paths = [str(path) for path in files if path != engine_folder]
        # A million files: by a tool that does nothing else.
        subprocess.run(["rm", "-rf", "--", *paths], check=True)  # noqa: S603, S607

    def subject(self, source: Source, spool: Path, url: str = "") -> Subject:
        """Install a source in a new folder, for the light far side if no other is named."""
        self._number += 1
        folder = self.folder / f"{self._number}-{source.name}"
        return Subject(source, folder, spool, url or self.far.url, Far.api_key)

    def log(self) -> Path:
        """Return the file for the output of the peers."""
        return self.folder / "peers.log"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A benchmark. `stage` sets up, yields the contestants, and clears away."""

    name: str
    title: str
    says: str
    """May name the sizes in braces."""
    sizes: dict[str, tuple[int, int]]
    """How much is to be done, by name: in full, and with `--quick`."""
    stage: Callable[[Bench, dict[str, int]], Iterator[list[Case]]]
    metrics: tuple[Metric, ...]
    main: str
    """The metric whose ratios are shown."""
    goals: tuple[Goal, ...] = ()
    rounds: int = 3
    quick_rounds: int = 1

    def sized(self, *, quick: bool) -> dict[str, int]:
        """Return how much is to be done."""
        return {name: amounts[quick] for name, amounts in self.sizes.items()}


@dataclass(slots=True)
class Sheet:
    """What one contestant showed, round by round."""

    name: str
    ours: bool
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: Figures) -> None:
        """Take in a round."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


def play(scenario: Scenario, bench: Bench, rounds: int, say: Callable[[str], None]) -> list[Sheet]:
    """Let the contestants take turns, each round in another order."""
    sheets: dict[str, Sheet] = {}
    sizes = scenario.sized(quick=bench.quick)
    with contextmanager(scenario.stage)(bench, sizes) as cases:
        for case in cases:
            sheets[case.name] = Sheet(case.name, case.ours)
        for number in range(rounds):
            # Another one begins each round: the first one may find the disk busy.
            for case in cases[number % len(cases) :] + cases[: number % len(cases)]:
                figures = case.measure()
                sheets[case.name].add(figures)
                main = figures.get(scenario.main, float("nan"))
                say(f"{scenario.name} {number + 1}/{rounds} {case.name}: {main:.4g}")
    bench.clear()
    return list(sheets.values())


def _available_bytes() -> int:
    """Return how many bytes of files may be in memory."""
    if not os.access(MEMORY, os.W_OK):
        return 0
    text = Path("/proc/meminfo").read_text("ascii").split("MemAvailable:")[1]
    return min(int(text.split()[0]) * 1024, shutil.disk_usage(MEMORY).free)


def ours(bench: Bench, measure: Callable[[Source], Figures]) -> list[Case]:
    """Return one contestant for each source of emitterd."""

    def case(source: Source) -> Case:
        return Case(source.name, lambda: measure(source), ours=True)

    return [case(source) for source in bench.sources]


def ratio(metric: Metric, mine: Sequence[float], other: Sequence[float]) -> float:
    """Return how many times better the first is, as the median over the rounds."""
    pairs = zip(mine, other, strict=False)
    return median(a / b if metric.more else b / a for a, b in pairs)
