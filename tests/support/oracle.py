"""Checks after a crash at any moment: folder, journal, bucket and log must agree.

The oracle knows which files were dropped, and not how the daemon works. It looks once
while the daemon is dead, and again at the end.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from emitterd.model import LIVE, State
from emitterd.rehearsal.ingestion import KILLED, TrackedFile
from emitterd.rehearsal.server import RehearsalServer
from support.installation import DEADLINE_S, Installation, Process
from support.samples import EMISSION_SAMPLES, Samples
from support.waiting import wait_until


class Oracle:
    """Remembers what was dropped into an installation's folder, and judges it."""

    def __init__(
        self, site: Installation, server: RehearsalServer, samples: Samples = EMISSION_SAMPLES
    ) -> None:
        self.samples = samples
        self.site = site
        self.server = server
        self.archive: Path | None = None
        self.aside: Path | None = None
        """Where rejected files go, if they are moved."""
        self.deletes = False
        self.grants_expire = False
        """Whether grants end within the test: only then may a version have two keys."""
        self._versions: dict[str, list[bytes]] = {}
        self._posts: dict[str, int] = {}

    def put_rejected_aside(self, folder: Path) -> None:
        """Have rejected files moved."""
        self.aside = folder
        self.site.settings["EMITTERD_SPOOL_REJECTED_DIRECTORY"] = str(folder)

    def drop(self, path: str, content: bytes = b"id|name\n1|one\n") -> Path:
        """Drop a version of a file, and remember its bytes."""
        dropped = self.site.drop(path, content)
        self._versions.setdefault(path, []).append(dropped.read_bytes())
        return dropped

    def forget(self, path: str) -> None:
        """Remove a file before it was sent: it must not be delivered any more."""
        (self.site.spool / path).unlink()
        del self._versions[path]

    def look(self) -> None:
        """Look at what a dead daemon left: nothing ran ahead of the journal."""
        entries = self.site.entries(State.DELIVERED)
        self._posts |= {self._identity(entry): self._times_sent(entry) for entry in entries}
        entries += self.site.entries(State.REJECTED)
        recorded = {entry["path"] for entry in entries}
        events = {event["path"] for event in self.site.events("file.delivered")}
        missing = {p for p in self._versions if not (self.site.spool / p).exists()}
        assert events <= recorded, "a line before its record"
        assert missing <= recorded, "a file touched before the record"

    def settle(self, daemon: Process, *, rejected: int = 0) -> None:
        """Wait until the daemon has nothing more to do."""
        daemon.wait_for_event("sweep.finished")
        owed = len(self._versions) - rejected

        def settled() -> bool:
            counts = self.site.counts()
            live = sum(counts[state] for state in LIVE)
            return not live and counts["delivered"] >= owed and not self.site.disposals_due()

        wait_until(settled, DEADLINE_S, f"{owed} delivered, no file under way or to be moved")

    def judge(self, *, rejected: int = 0, withdrawn: int = 0) -> None:
        """Judge what has become of everything; the daemon is to be stopped."""
        entries = self.site.entries()
        states = Counter(entry["state"] for entry in entries)
        assert not LIVE & states.keys(), states
        assert (states["rejected"], states["withdrawn"]) == (rejected, withdrawn)
        refused = {entry["path"] for entry in entries if entry["state"] == "rejected"}
        for path in self._versions.keys() - refused:
            self._judge_file(path, [entry for entry in entries if entry["path"] == path])
        if self.aside is not None:
            for path in refused:
                self._judge_aside(self.aside, path)
        self._judge_server(entries)
        self._judge_log()

    def _judge_file(self, path: str, entries: list[dict[str, Any]]) -> None:
        """Hold that the last version is delivered, once, with the right bytes."""
        content = self._versions[path][-1]
        digest = hashlib.sha256(content).hexdigest()
        (last,) = [
            entry
            for entry in entries
            if entry["state"] == "delivered" and entry["sha256"] == digest
        ]
        self._judge_stored(path, content, last)
        self._judge_disposal(path, content)

    def _judge_stored(self, path: str, content: bytes, entry: dict[str, Any]) -> None:
        """Hold that the server has the content of this entry."""
        stored = self.server.objects[entry["key"]]
        assert stored.path.read_bytes() == content, path
        assert (entry["bytes"], entry["md5"]) == (stored.size_bytes, stored.md5)

    def _identity(self, entry: dict[str, Any]) -> str:
        """Return what tells a delivered entry from others at the server."""
        return str(entry["key"])

    def _times_sent(self, entry: dict[str, Any]) -> int:
        """Return how often the server got a delivered entry."""
        return self.server.objects[entry["key"]].posts

    def _judge_disposal(self, path: str, content: bytes) -> None:
        source = self.site.spool / path
        assert not list(source.parent.glob(".emitterd-*")), "a file left aside"
        if self.archive is None and not self.deletes:
            assert source.read_bytes() == content
            return
        assert not source.exists(), path
        if self.archive is None:
            return
        # Only the file: no second copy, and no rest of an unfinished one.
        (name,) = {item.name for item in self.archive.glob(f"*/{path}")}
        stem = name.removesuffix(".zip")
        folders = self.archive.glob(f"*/{Path(path).parent}")
        (copy,) = [
            file
            for folder in folders
            for file in folder.iterdir()
            if file.name.lstrip(".").startswith(f"{stem}.")
        ]
        assert copy.read_bytes() == content

    def _judge_aside(self, aside: Path, path: str) -> None:
        """Hold that a rejected file was put aside once, whole, with its reason."""
        assert not (self.site.spool / path).exists(), path
        (folder,) = aside.glob(f"*/{Path(path).parent}")
        contents = {file.name: file.read_bytes() for file in folder.iterdir()}
        reason = contents.pop(f"{Path(path).name}.reason.json")
        assert contents == {Path(path).name: self._versions[path][-1]}
        assert json.loads(reason)["path"] == path

    def _judge_server(self, entries: list[dict[str, Any]]) -> None:
        """Hold that each object is some version's, and each version has one key."""
        owners: dict[str, dict[str, Any]] = {}
        for entry in entries:
            earlier = entry.get("earlier_keys", [])
            keys = {entry["key"], *earlier} if "key" in entry else set()
            stored = keys & self.server.objects.keys()
            owners |= dict.fromkeys(stored, entry)
            assert len(stored) <= 1 or (entry["ambiguous"] and self.grants_expire)
            assert not stored or entry["state"] == "delivered" or entry["ambiguous"]
        assert owners.keys() == self.server.objects.keys(), "an object of nobody's"
        for key, stored_object in self.server.objects.items():
            path = owners[key]["path"]
            assert stored_object.path.read_bytes() in self._versions[path], key
            assert stored_object.posts == 1 or owners[key]["ambiguous"], key
        for key, posts in self._posts.items():
            assert self.server.objects[key].posts == posts, f"{key} was sent again"

    def _judge_log(self) -> None:
        """Check that no line reports a bug, or the same delivery twice."""
        assert not [event for event in self.site.events() if event["level"] == "critical"]
        events = Counter(
            (event["path"], event["sha256"]) for event in self.site.events("file.delivered")
        )
        assert not [item for item, times in events.items() if times > 1]


class IngestionOracle(Oracle):
    """The oracle for cQube 5, where a file has no key of its own.

    The service knows uploads by their name and number, so the bytes tell which version it has.
    """

    def accepted(self, content: bytes) -> list[TrackedFile]:
        """Return the uploads of these bytes that the service answered with 200."""
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        files = self.server.ingestion.files
        return [item for item in files if item.accepted and item.md5 == md5]

    def _identity(self, entry: dict[str, Any]) -> str:
        return str(entry.get("md5"))

    def _times_sent(self, entry: dict[str, Any]) -> int:
        return sum(item.md5 == entry.get("md5") for item in self.server.ingestion.files)

    def _judge_stored(self, path: str, content: bytes, entry: dict[str, Any]) -> None:
        """Hold that the service processed the content, after all other versions."""
        processed = [item for item in self.accepted(content) if item.processed_data_count]
        assert processed, path
        assert len(processed) == 1 or entry["ambiguous"], path
        name = Path(path).name
        newest = max(
            (item for item in self.server.ingestion.files if item.file_name == name),
            key=lambda item: item.pid,
        )
        assert newest == processed[-1], "an older version was sent last"
        assert (entry["bytes"], entry["md5"]) == (newest.size_bytes, newest.md5)

    def _judge_server(self, entries: list[dict[str, Any]]) -> None:
        """Hold that emitterd never killed the service, and that each upload is some version's."""
        assert not {name: self.server.fired[name] for name in KILLED if self.server.fired[name]}
        versions = [content for contents in self._versions.values() for content in contents]
        known = {item.pid for content in versions for item in self.accepted(content)}
        assert known == {item.pid for item in self.server.ingestion.files if item.accepted}
        ambiguous = {entry["md5"] for entry in entries if entry.get("md5") and entry["ambiguous"]}
        for content in versions:
            uploads = self.accepted(content)
            assert len(uploads) <= 1 or uploads[0].md5 in ambiguous, uploads
        for entry in entries:
            sent = self._times_sent(entry)
            assert self._posts.get(self._identity(entry), sent) == sent, "sent again"
