"""Where the time goes: samples of all threads by py-spy, folded into rooms.

Twice, because each half shows what the other cannot. The samples of the thread that
holds the interpreter's lock show what Python itself is busy with. Those of all threads
also show what runs at the same time: hashing, SQLite, the kernel.
"""

import linecache
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cargo
from peers import tool
from scenario import Bench
from subject import Source

RATE = 100
LEAST = 0.02
"""A room with less of the samples is counted to the rest."""

MIB = 2**20
Shares = dict[str, dict[str, float]]
"""Of the interpreter's time and of all threads' time, the share of each room."""

IMPORTS = "start: imports"
WAITING = "waiting for a lock"

_FRAME = re.compile(r"^.* \((?P<file>.+):(?P<line>\d+)\)$")
_COUNT = re.compile(r"^(?P<stack>.+) (?P<count>\d+)$")

# By the text of the line that a thread executes: calls into C are no frames.
_LINES = (
    ("SQLite: commit", re.compile(r"""["']commit|\.commit\(""")),
    ("SQLite", re.compile(r"\.(execute\w*|fetch\w+)\(")),
    (WAITING, re.compile(r"with self\.\w+:$|\.acquire\(|\.wait\(")),
    # The digests are all that emitterd hands to a pool, which calls them by `fn`.
    ("hashing", re.compile(r"(md5|sha256|digest)\.update\(|sha256\(|self\.fn\(")),
    ("socket", re.compile(r"\.(send|sendall|recv|recv_into|poll|connect|select)\(")),
    ("files", re.compile(r"os\.(f?stat|open|read|scandir|pread)\(|fcntl\(|\.read\(")),
)
_OURS = re.compile(r"/emitterd/(\w+(?:/\w+)?)\.py$")
_OTHERS = re.compile(r"/(?:site-packages|python3\.\d+)/(?!site-packages)([\w-]+)")


def rooms(raw: str, line: Callable[[str, int], str] = linecache.getline) -> Counter[str]:
    """Fold py-spy's raw output: the samples of each room."""
    samples: Counter[str] = Counter()
    for text in raw.splitlines():
        if (sample := _COUNT.match(text)) is not None:
            samples[_room(sample["stack"].split(";"), line)] += int(sample["count"])
    return samples


def _room(stack: list[str], line: Callable[[str, int], str]) -> str:
    if any("<frozen importlib" in frame for frame in stack):
        return IMPORTS
    frame = _FRAME.match(stack[-1])
    if frame is None:
        return "Python"
    text = line(frame["file"], int(frame["line"]))
    for name, pattern in _LINES:
        if pattern.search(text.rstrip()):
            return name
    if ours := _OURS.search(frame["file"]):
        return f"emitterd.{ours[1].replace('/', '.')}"
    other = _OTHERS.search(frame["file"])
    return other[1] if other else "Python"


def shares(samples: Counter[str]) -> dict[str, float]:
    """Return the share of each room, the largest first; without start and waits."""
    running = Counter({k: v for k, v in samples.items() if k not in {IMPORTS, WAITING}})
    total = running.total() or 1
    reported = {k: v / total for k, v in running.most_common() if v / total >= LEAST}
    return reported | {"the rest": max(0.0, 1 - sum(reported.values()))}


def _profile(
    bench: Bench, source: Source, spool: Path, files: dict[str, str], **far: object
) -> Shares:
    """Send a folder twice, under the eyes of py-spy."""
    results = {}
    for kind, options in (("interpreter", ["--gil"]), ("threads", [])):
        bench.far.reset(**far)
        subject = bench.subject(source, spool)
        output = subject.folder / "py-spy.raw"
        by = [
            *(tool("py-spy"), "record", "--output", str(output), "--format", "raw"),
            *("--rate", str(RATE), "--full-filenames", *options, "--"),
        ]
        subject.once(by)
        bench.far.check(files)
        results[kind] = shares(rooms(output.read_text("utf-8")))
    return results


def of_small(bench: Bench, source: Source) -> Shares:
    """Look where the time goes with many small files."""
    spool = bench.new_folder("spool")
    files = cargo.fill(spool, 300 if bench.quick else 3000, 8192)
    return _profile(bench, source, spool, files)


def of_large(bench: Bench, source: Source) -> Shares:
    """Look where the time goes with one large file."""
    spool = bench.new_folder("spool")
    files = cargo.large(spool, (256 if bench.quick else 2048) * MIB)
    return _profile(bench, source, spool, files, sampled=True)


PROFILES: dict[str, Callable[[Bench, Source], Shares]] = {"small": of_small, "large": of_large}
