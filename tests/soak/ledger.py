"""What was dropped, against what the journal says and the bucket holds.

The ledger knows the producer's side and nothing of how the daemon works. It audits as
it goes: an object that was found right is taken out of the bucket, so that a long run
needs little room, and must never come back.
"""

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

from emitterd.codes import Code
from emitterd.journal.reader import EntryQuery, JournalReader
from emitterd.model import State
from emitterd.text import display
from soak.server import Far

OVERLAP_S = 30.0
"""Receipts are read again from so long before the last: a receipt's instant is taken
shortly before its commit, so a later one may be seen first."""


ARCHIVED_S = 10.0
"""emitterd may still move an archived file that is younger than this."""

KILLED_S = 5.0
"""So long before a kill a delivery may be without its line in the log."""

_MOVED_ASIDE = re.compile(rb"^([^/]+?)\.\d+/")
"""A folder of the archive that a producer has renamed."""


@dataclass(slots=True)
class Version:
    """One content of one path. `owed`: nothing took it back before its delivery.

    `kept`: the producer has neither removed nor changed its file. `archived`: its file was found in
    the archive. `delay_s`: from the drop to the delivery.
    """

    name: bytes
    path: str
    sha256: str
    bytes: int
    dropped_at: float
    owed: bool = True
    kept: bool = True
    delivered: bool = False
    archived: bool = False
    delay_s: float = 0.0


@dataclass(slots=True)
class Verdicts:
    """What is wrong, in words, by kind.

    `silent`: of the lost, those of which the journal says nothing. `half_written`: bytes that were
    never a complete version. `misplaced`: delivered, but its file is gone.
    """

    lost: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(asdict(self).values())


class Ledger:
    """Remembers every version, and judges."""

    def __init__(
        self, journal: Path, far: Far, archive: Path | None = None, hostile: str | None = None
    ) -> None:
        """`hostile`: the top folder of a producer whose files are not judged."""
        self.verdicts = Verdicts()
        self.counts: Counter[str] = Counter()
        self.delivered_bytes = 0
        self._journal = journal
        self._far = far
        self._archive = os.fsencode(archive) if archive else None
        self._hostile = hostile
        self._contents: dict[str, list[Version]] = {}
        self._versions: dict[tuple[str, str], Version] = {}
        self._current: dict[str, Version] = {}
        self.receipts: dict[str, tuple[str, str, float]] = {}
        """Path, SHA-256 and time of each delivery, by its key."""
        self._taken: dict[str, str] = {}
        self._since = 0.0

    def dropped(self, path: bytes, sha256: str, size_bytes: int, dropped_at: float = 0.0) -> None:
        """Note a completed file; what stood under the path is owed no longer."""
        shown = display(path)
        self.changing(path)
        version = self._versions.get((shown, sha256))
        if version is None:
            version = Version(path, shown, sha256, size_bytes, dropped_at)
            self._contents.setdefault(sha256, []).append(version)
        version.owed = version.kept = True
        self._versions[shown, sha256] = self._current[shown] = version
        self.counts["versions"] += 1

    def changing(self, path: bytes) -> None:
        """Note that the producer is about to take away or change what is under the path."""
        shown = display(path)
        self._take_back(shown)
        if version := self._current.pop(shown, None):
            version.kept = False

    def is_delivered(self, path: bytes) -> bool:
        """Return whether what stands under the path is known to be delivered."""
        version = self._current.get(display(path))
        return version is not None and version.delivered

    @property
    def owing(self) -> int:
        """How many versions are still to be delivered."""
        return sum(item.owed and not item.delivered for item in self._current.values())

    @property
    def unplaced(self) -> int:
        """How many files of delivered versions are still to be archived."""
        if self._archive is None:
            return 0
        return sum(
            version.delivered and version.kept and not version.archived
            for version in self._versions.values()
        )

    @property
    def delivered(self) -> int:
        """How many versions were delivered."""
        return len(self.receipts)

    def audit(self) -> None:
        """Hold the receipts that are new against the ledger and the bucket."""
        with JournalReader(self._journal) as records:
            found = list(records.receipts(EntryQuery(since=self._since - OVERLAP_S)))
        new = [match for match in found if match["key"] not in self.receipts]
        keys = [key for item in new for key in _keys(item)]
        stored = self._far.take(keys) if keys else {}
        for receipt in new:
            self._audit(receipt, stored)
        for receipt in new:
            self._since = max(self._since, _instant(receipt["delivered_at"]))
        self._audit_archive(time.time() - ARCHIVED_S)

    @property
    def delays_s(self) -> list[float]:
        """How long each delivered version took, from the drop to the delivery."""
        return [item.delay_s for item in self._versions.values() if item.delivered]

    def close(self) -> None:
        """Judge the whole: the daemon has stopped and the last audit is done."""
        with JournalReader(self._journal) as records:
            entries = list(records.entries())
        for entry in entries:
            # What is still under way at the end is lost if it was owed; if not, it is
            # a file that was touched just before.
            if entry["state"] == State.REJECTED and not self._is_hostile(entry["path"]):
                self.verdicts.wrong.append(f"{entry['path']}: {entry['reason']}")
            self.counts[entry["state"]] += 1
        open_paths = {entry["path"] for entry in entries if entry["state"] != State.DELIVERED}
        for version in self._current.values():
            if version.owed and not version.delivered:
                self.verdicts.lost.append(version.path)
                if version.path not in open_paths:
                    self.verdicts.silent.append(version.path)
        self._judge_rest(entries)
        self._audit_archive(time.time() + ARCHIVED_S)
        if self._archive is not None:
            self._judge_places(self._archive)

    def _audit_archive(self, before: float) -> None:
        """Find the archived files of versions; remove each file, as an office does one day."""
        if self._archive is None:
            return
        for folder, folders, names in os.walk(self._archive):
            # The hostile producer's folders are too deep for `os.walk`.
            folders[:] = [name for name in folders if not self._is_hostile(display(name))]
            for name in names:
                path = folder + b"/" + name
                with suppress(FileNotFoundError):
                    stat = os.lstat(path)
                    if S_ISREG(stat.st_mode) and stat.st_ctime < before:
                        self._audit_archived(path)

    def _audit_archived(self, file: bytes) -> None:
        tail = file.removeprefix(self._archive or b"").lstrip(b"/").partition(b"/")[2]
        tail = _MOVED_ASIDE.sub(rb"\1/", tail)
        content = Path(os.fsdecode(file)).read_bytes()
        versions = self._contents.get(hashlib.sha256(content).hexdigest(), [])
        for version in versions:
            if version.delivered and _is_name_of(display(tail), version.path):
                version.archived = True
                self.counts["archived"] += 1
                Path(os.fsdecode(file)).unlink()
                return
        if not versions:
            self.verdicts.half_written.append(f"{display(file)}: in the archive")
            Path(os.fsdecode(file)).unlink()

    def _judge_places(self, archive: bytes) -> None:
        """Hold that each delivered file is archived, or at its place, if it was left alone."""
        spool = os.path.dirname(archive)  # noqa: PTH120  bytes
        for (_, sha256), version in self._versions.items():
            if not version.delivered or version.archived or not version.kept:
                continue
            place = Path(os.fsdecode(spool + b"/" + version.name))
            if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == sha256:
                self.counts["at its place"] += 1
            else:
                self.verdicts.misplaced.append(version.path)

    def _is_hostile(self, path: str) -> bool:
        return self._hostile is not None and path.partition("/")[0] == self._hostile

    def _take_back(self, path: str) -> None:
        version = self._current.get(path)
        if version is not None and not version.delivered:
            version.owed = False
            self.counts["taken back"] += 1

    def _audit(self, receipt: dict[str, Any], stored: dict[str, Any]) -> None:
        path, key = receipt["path"], receipt["key"]
        at = _instant(receipt["delivered_at"])
        self.receipts[key] = path, receipt["sha256"], at
        self._taken |= dict.fromkeys(_keys(receipt), path)
        self.delivered_bytes += receipt["bytes"]
        if self._is_hostile(path):
            self.counts["hostile files delivered"] += 1
            return
        version = self._versions.get((path, receipt["sha256"]))
        if version is None or version.bytes != receipt["bytes"]:
            self.verdicts.half_written.append(f"{path}: delivered what was never dropped")
            return
        if version.delivered:
            self.verdicts.doubled.append(f"{path}: two receipts for one version")
        version.delivered = True
        version.delay_s = at - version.dropped_at
        self.counts["ambiguous"] += receipt["ambiguous"]
        here = stored.get(key)
        if here is None or here.sha256 != version.sha256:
            held = "nothing" if here is None else "other bytes"
            self.verdicts.wrong.append(f"{path}: the bucket holds {held} at {key}")
        there = [stored[key] for key in _keys(receipt) if key in stored]
        if len(there) > 1:
            self.counts["second objects on record"] += 1
        # More than one POST, or object, is right only where an answer was lost.
        posts = sum(item.posts for item in there)
        if posts > 1 and not receipt["ambiguous"]:
            self.verdicts.doubled.append(f"{path}: posted {posts} times")

    def _judge_rest(self, entries: Iterable[dict[str, Any]]) -> None:
        """Hold that what is left in the bucket is of attempts that were given up."""
        given_up = {
            key
            for entry in entries
            if entry["state"] == State.WITHDRAWN and entry["ambiguous"]
            for key in _keys(entry)
        }
        hostile = {
            key for entry in entries if self._is_hostile(entry["path"]) for key in _keys(entry)
        }
        left = [key for key in self._far.left() if key not in hostile]
        stored = self._far.take(left)
        for key in left:
            if key in stored and stored[key].sha256 not in self._contents:
                self.verdicts.half_written.append(f"{key}: an object of no complete version")
            if key in self._taken:
                self.verdicts.doubled.append(f"{key}: sent again after its delivery")
            elif key not in given_up:
                self.verdicts.doubled.append(f"{key}: an object of nobody's")
            else:
                self.counts["objects of withdrawn versions"] += 1


class Log:
    """The daemon's log as it comes: lines are counted, and none may report a bug."""

    def __init__(self) -> None:
        self.bytes = 0
        self.events: Counter[str] = Counter()
        self.problems: list[str] = []
        self.outages: list[str] = []
        self.last = b""
        self._logged: set[tuple[str, str]] = set()
        self._kills: list[float] = []

    def take(self, line: bytes) -> None:
        """Take a line in."""
        self.bytes += len(line)
        self.last = line
        try:
            fields = json.loads(line)
            event = str(fields["event"])
        except (ValueError, KeyError, TypeError):
            self.problems.append(f"not an event: {line[:200]!r}")
            return
        self.events[event] += 1
        if fields["level"] == "critical" or fields.get("error") == Code.INTERNAL:
            self.problems.append(line.decode("utf-8", "replace"))
        if event == "destination.down":
            self.outages.append(line.decode("utf-8", "replace"))
        if event == "file.delivered":
            reported = fields["path"], fields["sha256"]
            if reported in self._logged:
                self.problems.append(f"reported twice: {reported}")
            self._logged.add(reported)

    def killed(self) -> None:
        """Note that the daemon was killed just now."""
        self._kills.append(time.time())

    def unlogged(self, receipts: Iterable[tuple[str, str, float]]) -> list[str]:
        """Return the deliveries on record that have no line, unless a kill explains it."""
        return [
            f"{path}: its delivery was not logged"
            for path, sha256, at in receipts
            if (path, sha256) not in self._logged
            and not any(at <= kill_at <= at + KILLED_S for kill_at in self._kills)
        ]


def _is_name_of(archived: str, path: str) -> bool:
    """Return whether a file in the archive may be that of a path: a second one gets a number."""
    return archived == path or archived.startswith(path.removesuffix(".zip") + ".")


def _keys(entry: dict[str, Any]) -> list[str]:
    own = [entry["key"]] if "key" in entry else []
    return own + [item for item in entry.get("earlier_keys", []) if item not in own]


def _instant(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
