"""What was dropped, against what the journal says and the bucket holds.

The ledger knows the producer's side and nothing of how the daemon works. It audits as
it goes: an object that was found right is taken out of the bucket, so that a long run
needs little room, and must never come back.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from emitterd.codes import Code
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.text import display
from soak.server import Far

OVERLAP_S = 30.0
"""Receipts are read again from so long before the last: a receipt's instant is taken
shortly before its commit, so a later one may be seen first."""


@dataclass(slots=True)
class Version:
    """One content of one path. `owed`: nothing took it back before its delivery."""

    path: str
    sha256: str
    bytes: int
    owed: bool = True
    delivered: bool = False


@dataclass(slots=True)
class Verdicts:
    """What is wrong, in words, by kind.

    `silent`: of the lost, those of which the journal says nothing.
    """

    lost: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.wrong)


class Ledger:
    """Remembers every version, and judges."""

    def __init__(self, journal: Path, far: Far) -> None:
        self.verdicts = Verdicts()
        self.counts: Counter[str] = Counter()
        self.delivered_bytes = 0
        self._journal = journal
        self._far = far
        self._versions: dict[tuple[str, str], Version] = {}
        self._current: dict[str, Version] = {}
        self._receipts: dict[str, str] = {}
        self._taken: dict[str, str] = {}
        self._since = 0.0

    def dropped(self, path: bytes, sha256: str, size_bytes: int) -> None:
        """Note a completed file; what stood under the path is owed no longer."""
        shown = display(path)
        self._take_back(shown)
        version = Version(shown, sha256, size_bytes)
        self._versions[shown, sha256] = self._current[shown] = version
        self.counts["versions"] += 1

    def removed(self, path: bytes) -> None:
        """Note that the producer took a file away."""
        self._take_back(display(path))
        self._current.pop(display(path), None)

    def is_delivered(self, path: bytes) -> bool:
        """Tell whether what stands under the path is known to be delivered."""
        version = self._current.get(display(path))
        return version is not None and version.delivered

    @property
    def owing(self) -> int:
        """How many versions are still to be delivered."""
        return sum(item.owed and not item.delivered for item in self._current.values())

    @property
    def delivered(self) -> int:
        """How many versions were delivered."""
        return len(self._receipts)

    def audit(self) -> None:
        """Hold the receipts that are new against the ledger and the bucket."""
        with JournalReader(self._journal) as records:
            found = list(records.receipts(self._since - OVERLAP_S))
        new = [match for match in found if match["key"] not in self._receipts]
        keys = [key for item in new for key in _keys(item)]
        stored = self._far.take(keys) if keys else {}
        for receipt in new:
            self._audit(receipt, stored)
        for receipt in new:
            self._since = max(self._since, _instant(receipt["delivered_at"]))

    def close(self) -> None:
        """Judge the whole: the daemon has stopped and the last audit is done."""
        with JournalReader(self._journal) as records:
            entries = list(records.entries())
        for entry in entries:
            # What is still under way at the end is lost if it was owed; if not, it is
            # a file that was touched just before.
            if entry["state"] == State.REJECTED:
                self.verdicts.wrong.append(f"{entry['path']}: {entry['reason']}")
            self.counts[entry["state"]] += 1
        open_paths = {entry["path"] for entry in entries if entry["state"] != State.DELIVERED}
        for version in self._current.values():
            if version.owed and not version.delivered:
                self.verdicts.lost.append(version.path)
                if version.path not in open_paths:
                    self.verdicts.silent.append(version.path)
        self._judge_rest(entries)

    def _take_back(self, path: str) -> None:
        version = self._current.get(path)
        if version is not None and not version.delivered:
            version.owed = False
            self.counts["taken back"] += 1

    def _audit(self, receipt: dict[str, Any], stored: dict[str, Any]) -> None:
        path, key = receipt["path"], receipt["key"]
        self._receipts[key] = path
        self._taken |= dict.fromkeys(_keys(receipt), path)
        self.delivered_bytes += receipt["bytes"]
        version = self._versions.get((path, receipt["sha256"]))
        if version is None or version.bytes != receipt["bytes"]:
            self.verdicts.wrong.append(f"{path}: delivered what was never dropped")
            return
        if version.delivered:
            self.verdicts.doubled.append(f"{path}: two receipts for one version")
        version.delivered = True
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
        for key in self._far.left():
            if key in self._taken:
                self.verdicts.doubled.append(f"{key}: sent again after its delivery")
            elif key not in given_up:
                self.verdicts.doubled.append(f"{key}: an object of nobody's")
            else:
                self.counts["objects of withdrawn versions"] += 1


class Log:
    """The daemon's log as it comes: lines are counted, and none may tell of a bug."""

    def __init__(self) -> None:
        self.bytes = 0
        self.events: Counter[str] = Counter()
        self.problems: list[str] = []
        self.last = b""
        self._told: set[tuple[str, str]] = set()

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
        if event == "file.delivered":
            reported = fields["path"], fields["sha256"]
            if reported in self._told:
                self.problems.append(f"reported twice: {reported}")
            self._told.add(reported)

    def untold(self, delivered: int) -> list[str]:
        """Say how many of the deliveries on record have no line, if any."""
        missing = delivered - len(self._told)
        return [f"{missing} deliveries were not logged"] if missing else []


def _keys(entry: dict[str, Any]) -> list[str]:
    own = [entry["key"]] if "key" in entry else []
    return own + [item for item in entry.get("earlier_keys", []) if item not in own]


def _instant(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
