"""The whole promise against a model: producers, faults, crashes, clocks, operators.

`EMITTERD_MODEL_EXAMPLES=2000` makes a long run of it.
"""

import hashlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from emitterd.client.presigned.grant import EXPIRY_MARGIN_S
from emitterd.journal.operations import Operation
from emitterd.model import LIVE, State
from emitterd.text import display
from support.in_process import Host, Killed
from support.zips import zip_bytes

EXAMPLES = int(os.environ.get("EMITTERD_MODEL_EXAMPLES", "40"))
STEPS = 40

PATHS = [b"pat/a.zip", b"pat/b.zip", b"sat/caf\xe9.zip", b"udise/top.zip"]
FOLDERS = [b"pat", b"sat", b"udise"]
CONTENTS = {
    "small-1": zip_bytes(b"id\n1\n"),
    "small-2": zip_bytes(b"id\n2\n"),
    # Of three chunks each, and of the same size.
    "large-1": zip_bytes(b"1" * 1_100_000),
    "large-2": zip_bytes(b"2" * 1_100_000),
}

FAULTS = [
    "",
    "reset-connect@1",
    "auth-500@1",
    "429@1:1",
    "api-503@1:1",
    "api-401@1",
    "api-401@2",
    "api-captive-portal@1",
    "malformed-grant@1",
    "grant-missing-fields@1",
    "hostile-grant@1",
    "early-403@1",
    "reset@1",
    "reset@2:0",
    "503@1",
    "503@1:7",
    "503@5",
    "500@1",
    "500@2",
    "expired@1",
    "expired@2",
    "signature@1",
    "no-such-bucket@1",
    "too-large@1",
    "request-timeout@1",
    "captive-portal@1",
    "redirect@1",
    "redirect-foreign@1",
    "lost-answer@1",
    "lost-answer@2",
    "truncated-answer@1",
    "garbage@1",
    "wrong-etag@1",
    "non-md5-etag@1",
    "kms-etag@1",
]
SPENDING = {"expired", "signature", "no-such-bucket", "redirect-foreign", "early-403"}
"""Faults after which a grant is not used again."""

GRANT_S = 3600.0 - EXPIRY_MARGIN_S - 5.0
DAY_S = 86400.0
ENDINGS = {"file.delivered", "file.rejected", "file.withdrawn"}
SETTLING_ROUNDS = 40

paths = st.sampled_from(PATHS)
contents = st.sampled_from(list(CONTENTS))


@dataclass
class File:
    """What stands under a name; `whole` once it is a zip that nobody writes."""

    content: bytes
    whole: bool
    writer: FileIO | None = None


class Folder:
    """The watched folder, and what the model knows of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[bytes, File] = {}
        self.ever: dict[bytes, set[bytes]] = {}
        """All whole contents that a name has had."""
        self._handles: list[FileIO] = []

    def at(self, path: bytes) -> Path:
        """Return where a path is."""
        return self.root / os.fsdecode(path)

    def close(self) -> None:
        """Close what is still open."""
        for handle in self._handles:
            handle.close()

    def drop(self, path: bytes, content: bytes) -> None:
        """Put a whole file there, over another if there is one."""
        self._make_room(path)
        part = self.at(path).with_name(".dropped.part")
        part.write_bytes(content)
        part.rename(self.at(path))
        self._put(path, File(content, whole=True))

    def rewrite(self, path: bytes, content: bytes) -> None:
        """Write into the file that is there, or make one, and close it."""
        self._make_room(path)
        self.at(path).write_bytes(content)
        former = self.files.get(path)
        writer = former.writer if former else None
        self._put(path, File(content, whole=writer is None, writer=writer))

    def break_off(self, path: bytes, content: bytes) -> None:
        """Leave a copy that was cut off."""
        self.rewrite(path, content[:-9])
        self.files[path].whole = False
        self.ever[path].discard(content[:-9])

    def begin(self, path: bytes, content: bytes) -> None:
        """Write a whole zip, and do not close it."""
        self.finish(path)
        self._make_room(path)
        handle = FileIO(self.at(path), "wb")
        self._handles.append(handle)
        handle.write(content)
        self._put(path, File(content, whole=False, writer=handle))

    def finish(self, path: bytes) -> None:
        """Close what is open there."""
        file = self.files.get(path)
        if file is not None and file.writer is not None:
            file.writer.close()
            file.writer = None
            file.whole = file.content in CONTENTS.values()
            self._put(path, file)

    def gone(self) -> dict[bytes, File]:
        """Return, once, what somebody else took away."""
        gone = [path for path in self.files if not os.path.lexists(self.at(path))]
        return {path: self.files.pop(path) for path in gone}

    def touch(self, path: bytes) -> None:
        """Change the times of what is there."""
        if path in self.files:
            os.utime(self.at(path))

    def delete(self, path: bytes) -> None:
        """Take it away."""
        if self.files.pop(path, None) is not None:
            self.at(path).unlink()

    def rename(self, path: bytes, other: bytes) -> None:
        """Give it another name."""
        if path in self.files and path != other:
            self._make_room(other)
            self.at(path).rename(self.at(other))
            self._put(other, self.files.pop(path))

    def rename_folder(self, folder: bytes, other: bytes) -> None:
        """Give a folder another name, with all that is in it."""
        if not self.at(folder).exists() or self.at(other).exists():
            return
        self.at(folder).rename(self.at(other))
        for path in [file for file in self.files if file.startswith(folder + b"/")]:
            self._put(other + path.removeprefix(folder), self.files.pop(path))

    def move_in(self, folder: bytes, content: bytes) -> None:
        """Have a folder appear with files in it."""
        if self.at(folder).exists():
            return
        made = self.root.parent / "made"
        made.mkdir()
        for name in (b"a.zip", b"b.zip"):
            (made / os.fsdecode(name)).write_bytes(content)
        made.rename(self.at(folder))
        for name in (b"a.zip", b"b.zip"):
            self._put(folder + b"/" + name, File(content, whole=True))

    def _make_room(self, path: bytes) -> None:
        self.at(path).parent.mkdir(exist_ok=True)

    def _put(self, path: bytes, file: File) -> None:
        self.files[path] = file
        known = self.ever.setdefault(path, set())
        if file.whole:
            known.add(file.content)


class Delivery(RuleBasedStateMachine):
    """Any order of what may happen to files, server, process and clocks."""

    taken: ClassVar[Counter[str]] = Counter()
    """How many runs and steps there were."""

    def __init__(self) -> None:
        super().__init__()
        self.taken["runs"] += 1
        self._stack = ExitStack()
        self.held: set[bytes] = set()
        self.steps: list[float] = []
        """When this host's clock was set, by the server's."""
        self.seen: dict[tuple[str, int], bytes] = {}
        self.too_large = False

    def teardown(self) -> None:
        """Let everything settle, and judge."""
        with self._stack:
            self.settle()
            self.judge()

    @initialize(content=contents, after=st.sampled_from(["keep", "delete", "archive"]))
    def begin(self, content: str, after: str) -> None:
        """Begin with two files."""
        made = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.host = self._stack.enter_context(
            Host(
                made,
                spool_catalogue="off",
                spool_after_delivery=after,
                spool_archive_directory=str(made / "archive"),
                journal_retain="36000d",
            )
        )
        self.folder = Folder(self.host.site.spool)
        self._stack.callback(self.folder.close)
        self.folder.drop(PATHS[0], CONTENTS[content])
        self.folder.drop(PATHS[3], CONTENTS["small-1"])

    @rule(path=paths, content=contents)
    def drop(self, path: bytes, content: str) -> None:
        """Drop or replace."""
        self.folder.drop(path, CONTENTS[content])

    @rule(path=paths, content=contents)
    def rewrite(self, path: bytes, content: str) -> None:
        """Write over in place."""
        self.folder.rewrite(path, CONTENTS[content])

    @rule(path=paths, content=contents)
    def break_off(self, path: bytes, content: str) -> None:
        """Cut a copy off."""
        self.folder.break_off(path, CONTENTS[content])

    @rule(path=paths, content=contents)
    def start_writing(self, path: bytes, content: str) -> None:
        """Write without closing."""
        self.folder.begin(path, CONTENTS[content])

    @rule(path=paths)
    def end_writing(self, path: bytes) -> None:
        """Close."""
        self.folder.finish(path)

    @rule(path=paths)
    def touch(self, path: bytes) -> None:
        """Touch."""
        self.folder.touch(path)

    @rule(path=paths)
    def delete(self, path: bytes) -> None:
        """Delete."""
        self.folder.delete(path)

    @rule(path=paths, other=paths)
    def rename(self, path: bytes, other: bytes) -> None:
        """Rename."""
        self.folder.rename(path, other)

    @rule(folder=st.sampled_from(FOLDERS), other=st.sampled_from(FOLDERS))
    def rename_folder(self, folder: bytes, other: bytes) -> None:
        """Rename a folder."""
        self.folder.rename_folder(folder, other)

    @rule(folder=st.sampled_from(FOLDERS), content=contents)
    def move_in(self, folder: bytes, content: str) -> None:
        """Move a folder in."""
        self.folder.move_in(folder, CONTENTS[content])

    @rule(path=paths)
    def hint(self, path: bytes) -> None:
        """Have an event come."""
        self.host.components.intake.hint(path)
        self.host.alive(self.host.look)

    @rule()
    def sweep(self) -> None:
        """Sweep."""
        self.host.alive(self.host.sweep)

    @rule(turns=st.integers(1, 4), pause_s=st.sampled_from([0.0, 2.0]))
    def work(self, turns: int, pause_s: float) -> None:
        """Deliver."""
        self.host.alive(lambda: self.host.work(turns, pause_s=pause_s))

    @rule(menu=st.sampled_from(FAULTS), turns=st.integers(1, 4))
    def work_badly(self, menu: str, turns: int) -> None:
        """Deliver amid a fault."""
        self.too_large |= menu.startswith("too-large")
        self.host.faults(menu)
        self.host.alive(lambda: self.host.work(turns))

    @rule(commits=st.integers(1, 5), late=st.booleans(), turns=st.integers(1, 3))
    def work_and_die(self, commits: int, turns: int, *, late: bool) -> None:
        """Deliver, and die at a commit, now or later."""
        self.host.doom(commits, late=late)
        self.host.alive(lambda: self.host.work(turns))

    @rule(skip=st.integers(0, 3))
    def die_in_mid_body(self, skip: int) -> None:
        """Die when a chunk has gone out, or the last one."""

        def die() -> None:
            raise Killed

        self.meanwhile(die, skip)

    @rule(
        skip=st.integers(0, 2),
        path=st.none() | paths,
        content=contents,
        deed=st.sampled_from(["drop", "rewrite", "break_off", "delete", "touch"]),
    )
    def change_in_mid_body(self, skip: int, path: bytes | None, content: str, deed: str) -> None:
        """Change a file, or the one that is being sent."""
        more = () if deed in {"delete", "touch"} else (CONTENTS[content],)

        def act() -> None:
            target = self.host.onlooker.path if path is None else path
            # emitterd may have moved or deleted it since the last step.
            if not more and not os.path.lexists(self.folder.at(target)):
                return
            getattr(self.folder, deed)(target, *more)

        self.meanwhile(act, skip)

    def meanwhile(self, act: Callable[[], None], skip: int) -> None:
        """Have something happen while a body goes out."""
        self.host.alive(self.host.sweep)
        self.host.onlooker.act, self.host.onlooker.skip = act, skip
        self.host.alive(self.host.work)
        self.host.onlooker.act = None

    @rule()
    def kill(self) -> None:
        """Kill between two steps."""
        self.host.kill()

    @rule()
    def restart(self) -> None:
        """Restart in good order."""
        self.host.restart()

    @rule(seconds=st.sampled_from([3.0, 60.0, 700.0, 3700.0]))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.host.pass_by(seconds)

    @rule(step_s=st.sampled_from([DAY_S, -DAY_S, 3650 * DAY_S, -3650 * DAY_S]))
    def set_clock(self, step_s: float) -> None:
        """Set this host's clock, within some decades."""
        if abs(self.host.clock.host_s + step_s) < 7000 * DAY_S:
            self.host.clock.host_s += step_s
            self.steps.append(self.host.clock.server)

    @rule(path=paths, act=st.sampled_from(Operation))
    def operate(self, path: bytes, act: Operation) -> None:
        """Act as the operator."""
        outcome = self.host.alive(lambda: self.host.apply_operation(act, path))
        if act is Operation.HOLD and (outcome is None or outcome.done):
            self.held.add(path)

    @invariant()
    def count(self) -> None:
        """Count the steps."""
        self.taken["steps"] += 1

    @invariant()
    def nothing_is_doubled(self) -> None:
        """Hold journal, bucket and log against each other."""
        rows = self.host.rows()
        states = Counter(State(row["state"]) for row in rows)
        assert {k: v for k, v in self.host.components.journal.counts().items() if v} == (states)
        owners: dict[str, dict[str, Any]] = {}
        former: dict[bytes, dict[str, Any]] = {}
        for row in rows:
            keys = keys_of(row)
            own = keys - left_by(former.get(row["path"]), row)
            former[row["path"]] = row
            assert not own & owners.keys(), "one key for two versions"
            owners |= dict.fromkeys(own, row)
            stored = keys & self.host.server.objects.keys()
            assert len(stored) <= 1 or row["ambiguous"], "two keys, unrecorded"
            self.check_keys(own)
            if row["state"] == State.DELIVERED:
                body = self.body(row["key"])
                assert hashlib.sha256(body).digest() == row["sha256"]
        for key, stored_object in list(self.host.server.objects.items()):
            owner = owners[key]
            assert self.body(key) in self.folder.ever[owner["path"]], key
            assert stored_object.posts == 1 or owner["ambiguous"], "sent twice"
        self.check_log(rows)
        for path, file in self.folder.gone().items():
            digest = hashlib.sha256(file.content).digest()
            sent = {row["sha256"] for row in rows if row["path"] == path}
            assert file.whole, f"{path!r} was touched as it was"
            assert digest in sent, f"{path!r} was touched and not sent"

    def check_keys(self, keys: set[str]) -> None:
        """Hold that a second key was asked for only where the first was spent."""
        given = sorted(stamp_of(key) for key in keys)
        refused = [request.at for request in self.host.server.requests if request.fault in SPENDING]
        for earlier, later in pairwise(given):
            excuses = [at for at in refused + self.steps if earlier <= at + 1 <= later + 2]
            assert later - earlier >= GRANT_S or excuses, "a grant was not kept"

    def check_log(self, rows: list[dict[str, Any]]) -> None:
        """Hold that each version has one ending at most, and only after its record."""
        ended = Counter(display(row["path"]) for row in rows if State(row["state"]) not in LIVE)
        events = Counter(event["path"] for event in self.host.events if event["event"] in ENDINGS)
        assert events <= ended, "more endings than versions"
        delivered = {row["key"] for row in rows if row["state"] == State.DELIVERED}
        keys = [event["key"] for event in self.host.events if event["event"] == "file.delivered"]
        assert set(keys) <= delivered
        assert len(set(keys)) == len(keys), "reported twice"
        assert not [event for event in self.host.events if event.get("error") == "E106"]

    def body(self, key: str) -> bytes:
        """Return the bytes of an object."""
        stored = self.host.server.objects[key]
        place = (key, stored.posts)
        if place not in self.seen:
            self.seen[place] = stored.path.read_bytes()
        return self.seen[place]

    def settle(self) -> None:
        """Let faults stop and everything come to rest."""
        self.host.faults("")
        for path in list(self.folder.files):
            self.folder.finish(path)
        rested = False
        for _ in range(SETTLING_ROUNDS):
            deaths = self.host.deaths
            self.host.pass_by(3700.0)
            self.host.alive(self.host.sweep)
            rested, before = self.host.at_rest(), rested
            # Twice: the work of the first round may have left something to look at.
            if rested and before and self.host.deaths == deaths:
                return
            self.host.alive(self.host.work)
        raise AssertionError(f"it does not come to rest: {self.host.rows()}")

    def judge(self) -> None:
        """Hold that nothing is lost, and nothing sent for nothing."""
        self.nothing_is_doubled()
        rows = self.host.rows()
        for path, file in self.folder.files.items():
            mine = [row for row in rows if row["path"] == path]
            current = [row for row in mine if row["forgotten_at"] is None]
            self.judge_file(path, file, current[-1] if current else None)
        for path in self.folder.ever:
            self.judge_versions([row for row in rows if row["path"] == path])
        if not self.host.deaths:
            events = sum(event["event"] in ENDINGS for event in self.host.events)
            assert events >= sum(State(row["state"]) not in LIVE for row in rows) - sum(
                event["event"] == "operator.acted" for event in self.host.events
            )

    def judge_file(self, path: bytes, file: File, last: dict[str, Any] | None) -> None:
        """Hold that what lies in the folder is delivered, unless held or broken."""
        assert last is not None or not file.whole, f"{path!r} was lost"
        if last is None:
            return
        state = State(last["state"])
        if state is State.HELD:
            assert path in self.held
            return
        if state is State.REJECTED:
            assert not file.whole or (self.too_large and last["error"] == "E505")
            return
        if file.whole:
            assert state is State.DELIVERED, f"{path!r} is {state}"
            assert self.body(last["key"]) == file.content
            assert self.latest(path) == file.content, "the server has another version"

    def latest(self, path: bytes) -> bytes:
        """Return what the server got last of a path."""
        keys = {key for row in self.host.rows() if row["path"] == path for key in keys_of(row)}
        objects = self.host.server.objects
        return self.body(max(keys & objects.keys(), key=lambda k: objects[k].stored_at))

    def judge_versions(self, mine: list[dict[str, Any]]) -> None:
        """Hold that what the server has was not sent to it again."""
        former = None
        for row in mine:
            if row["state"] == State.DELIVERED:
                assert former != row["sha256"], "known content was sent again"
                former = row["sha256"]
            elif row["ambiguous"]:
                former = None
            if row["forgotten_at"] is not None:
                former = None


def stamp_of(key: str) -> float:
    """Return when a key was given, by the server's clock, to the second."""
    stamp = key.removesuffix(".zip").rpartition("_")[2]
    return time.mktime(time.strptime(stamp, "%Y%m%d%H%M%S"))


def keys_of(row: dict[str, Any]) -> set[str]:
    """Return all keys that a version was ever given."""
    earlier = (row["earlier_keys"] or "").split("\n")
    return {item for item in [row["key"], *earlier] if item}


def left_by(former: dict[str, Any] | None, row: dict[str, Any]) -> set[str]:
    """Return the keys of the former version of a path that this one has to name as well.

    An attempt for the former one may have left an object. If that one was forgotten, or has the
    same size, both may have the same content.
    """
    if former is None or former["state"] == State.DELIVERED or not former["ambiguous"]:
        return set()
    alike = former["forgotten_at"] is not None or former["bytes"] == row["bytes"]
    return keys_of(former) if alike else set()


@pytest.mark.slow
@pytest.mark.timeout(3600 if EXAMPLES > 60 else 300)
def test_each_file_arrives_once_after_any_failure(
    record_property: Callable[[str, object], None],
) -> None:
    """Any order of everything loses nothing, doubles nothing, hides nothing."""
    run_state_machine_as_test(
        Delivery,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=list(HealthCheck),
        ),
    )
    for name, number in Delivery.taken.items():
        record_property(name, number)
