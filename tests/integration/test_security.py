"""Files that mean harm, and secrets that must not show, through the whole daemon."""

import json
import os
import sqlite3
import struct
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conftest import Python
from emitterd.client.presigned.grant import remote_name
from emitterd.model import Grant, State
from emitterd.rehearsal.server import RehearsalServer
from emitterd.text import display
from support.command import emitterd
from support.faults import fault_list
from support.installation import DEADLINE_S, Installation
from support.waiting import wait_until
from support.zip_writer import Member, deflated, end
from support.zips import make_zip, raw, repeated, zip_bytes, zipped

MIB = 1024 * 1024
MEMORY_MAX_BYTES = 160 * MIB
"""For a daemon with eight workers, on any input; it starts with some 60 MiB."""

COMPOSED = unicodedata.normalize("NFC", "é").encode()
NAMES = [
    b"new\nline.zip",
    b'{"event": "file.delivered"}.zip',
    b"\x1b[31mred.zip",
    "right\u202eto\u200fleft.zip".encode(),
    b"caf\xe9.zip",
    b"\xff\xfe\xfd.zip",
    COMPOSED + b".zip",
    unicodedata.normalize("NFD", "é").encode() + b".zip",
    b'quo"te\\back\\slash.zip',
    b"100%.zip",
    b"%41.zip",
    b"-rf.zip",
    b"..zip..zip",
    b"...zip",
    b" .zip",
    "\U0001f4da.zip".encode(),
    b"x" * 251 + b".zip",
    b"\t\r\x7f.zip",
    b"semi;colon&amp$(id)`id`.zip",
]


def test_names_that_mean_harm_arrive(site: Installation, server: RehearsalServer) -> None:
    """Each has an object under its escaped name, and its bytes in the journal."""
    visible = [name for name in NAMES if not name.startswith(b".")]
    folder = os.fsencode(site.spool / "pat")
    Path(os.fsdecode(folder)).mkdir()
    with site.running():
        for number, name in enumerate(visible):
            content = zip_bytes(b"%d" % number)
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(content)
        site.wait_delivered(len(visible))
    with closing(sqlite3.connect(site.journal)) as journal:
        rows = dict(journal.execute("select path, key from entry").fetchall())

    assert set(rows) == {b"pat/" + name for name in visible}
    for number, name in enumerate(visible):
        path = b"pat/" + name
        stem, _, stamp = rows[path].rpartition("_")
        assert (stem + ".zip", len(stamp)) == (remote_name(path), 18)
        stored = server.objects[rows[path]]
        assert stored.path.read_bytes() == zip_bytes(b"%d" % number)
    assert {event["path"] for event in site.events("file.delivered")} == {
        display(path) for path in rows
    }
    assert site.log.read_text("ascii").isascii()


def claimed_entries(path: Path, entries: int) -> None:
    """Make a sparse zip whose directory is said to have so many entries."""
    at, size = 100, entries * 47
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(at)
        file.write(b"PK\1\2")
        file.seek(at + size)
        file.write(wide + locator + end(0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF))


def lying() -> bytes:
    """Return a zip whose sizes are a lie."""
    sound = raw()
    return Member(sound.packed, 2**31, sound.crc).zip()


def encrypted() -> bytes:
    """Return a zip that wants a password."""
    sound = raw()
    return Member(sound.packed, sound.size, sound.crc, flags=1).zip()


BOMBS: dict[str, tuple[Callable[[], bytes], State, str]] = {
    "bomb": (lambda: repeated(b"", b"0" * MIB, 1024), State.DELIVERED, "E2"),
    "many": (lambda: zipped(dict.fromkeys(map(str, range(20_000)), b"")), State.DELIVERED, "E226"),
    "lying": (lying, State.DELIVERED, "E229"),
    "encrypted": (encrypted, State.DELIVERED, "E227"),
    "nested": (lambda: zipped({"in.zip": zipped({"b": b"0" * MIB})}), State.DELIVERED, "E230"),
    "empty": (lambda: end(0, 0, 0), State.DELIVERED, "E225"),
    "nothing": (lambda: b"", State.REJECTED, "E201"),
    "junk": (lambda: zip_bytes() + b"\1junk", State.REJECTED, "E201"),
    "unpacked": (lambda: deflated(b"0" * 50 * MIB), State.REJECTED, "E201"),
}
"""What each is made of, and by `catalogue: warn` its end, and the reported code."""


@pytest.mark.slow
def test_zips_that_mean_harm_take_little_memory(tmp_path: Path, server: RehearsalServer) -> None:
    """Bombs and absurd directories end as any file does, and cost no more."""
    site = Installation(
        tmp_path, server.url, spool_incomplete_after="500ms", spool_catalogue="warn"
    )
    folder = site.spool / "student_attendance"
    folder.mkdir()
    for name, (make, _, _) in BOMBS.items():
        (folder / f"{name}.zip").write_bytes(make())
    claimed_entries(folder / "absurd.zip", 2_000_000)
    with site.running() as daemon:
        wait_until(
            lambda: not site.counts()["queued"] and sum(site.counts().values()) == len(BOMBS) + 1,
            DEADLINE_S,
            "all of them ended",
        )
        site.wait_delivered(1 + sum(bomb[1] == "delivered" for bomb in BOMBS.values()))
        peak_bytes = daemon.peak_bytes
    events = {
        event["path"]: json.dumps(event)
        for name in ("file.admitted", "file.rejected")
        for event in site.events(name)
    }

    ended = {entry["path"]: entry["state"] for entry in site.entries()}
    for name, (_, state, code) in BOMBS.items():
        path = f"student_attendance/{name}.zip"
        assert (name, ended[path]) == (name, state)
        assert code in events[path], name
    assert "E226" in events["student_attendance/absurd.zip"]
    assert peak_bytes < MEMORY_MAX_BYTES


SWAPS = 2000


def swap(root: Path, secret: Path, number: int) -> None:
    """Turn a file and its folder into links out of the root, and back into files."""
    folder, target, link = root / "pat", root / "pat" / "a.zip", root / "link"
    link.symlink_to(secret)
    link.rename(target)
    folder.rename(root / "aside")
    folder.symlink_to(secret.parent)
    folder.unlink()
    (root / "aside").rename(folder)
    make_zip(root / "new", b"%d" % number).rename(target)


@pytest.mark.slow
def test_links_swapped_in_under_a_daemon(tmp_path: Path, server: RehearsalServer) -> None:
    """While a file and its folder turn into links and back, nothing outside is sent."""
    site = Installation(tmp_path, server.url, spool_sweep_every="100ms")
    secret = make_zip(tmp_path / "outside" / "a.zip", b"of this host")
    make_zip(site.spool / "pat" / "a.zip", b"0")
    over = threading.Event()
    rounds: list[int] = []

    def swapping() -> None:
        while not over.is_set():
            swap(site.spool, secret, len(rounds))
            rounds.append(1)

    def raced() -> bool:
        events = site.events()
        refused = [event for event in events if event.get("error") == "E207"]
        admitted = [event for event in events if event["event"] == "file.admitted"]
        return bool(len(rounds) > SWAPS and refused and admitted)

    swapper = threading.Thread(target=swapping)
    with site.running():
        swapper.start()
        try:
            wait_until(raced, DEADLINE_S, "the race")
        finally:
            over.set()
            swapper.join()
        # On a busy machine each upload may find that the file has changed, as long as it does.
        wait_until(lambda: site.events("file.delivered"), DEADLINE_S, "the last file is sent")

    sent = {item.path.read_bytes() for item in server.objects.values()}
    assert sent
    assert zip_bytes(b"of this host") not in sent


PASSWORD = "pa55word-of-the-test"
API_KEY = "api-key-of-the-test"
COMMANDS = [
    ["check"],
    ["check", "--online"],
    ["status"],
    ["status", "--json"],
    ["list"],
    ["list", "--json"],
    ["list", "--skipped"],
    ["explain", "pat/a.zip"],
    ["explain", "pat/a.zip", "--json"],
    ["receipts"],
    ["receipts", "--json"],
    ["receipts", "--csv"],
    ["hold", "pat/b.zip"],
    ["release", "pat/b.zip"],
    ["retry", "pat/b.zip"],
    ["forget", "pat/c.zip"],
    ["inspect", "{spool}/pat/a.zip"],
]
BAD_DAY = "expired@1,signature@1,503@1,lost-answer@2,no-such-bucket@1,api-401@1"


def secrets_of(site: Installation, server: RehearsalServer) -> set[str]:
    """Return what nobody may read: of the login, and of each grant that is pinned."""
    found = {PASSWORD, API_KEY, *server.logins.tokens}
    with closing(sqlite3.connect(site.journal)) as journal:
        pinned = journal.execute('select "grant" from entry where "grant" is not null')
        for (packed,) in pinned.fetchall():
            fields = Grant.unpack(packed).fields
            found |= {fields["policy"], fields["x-amz-signature"]}
    return found


def everything_readable(site: Installation) -> Iterator[bytes]:
    """Yield all text that the daemon leaves: its log, its journal, other files."""
    with closing(sqlite3.connect(site.journal)) as journal:
        journal.text_factory = bytes
        tables = journal.execute("select name from sqlite_schema where type = 'table'")
        for (table,) in tables.fetchall():
            for row in journal.execute(f"select * from {os.fsdecode(table)}"):  # noqa: S608
                yield b"\n".join(
                    item if isinstance(item, bytes) else str(item).encode() for item in row
                )
    for item in site.folder.glob("*"):
        if item.is_file() and item.name not in {"password", "api-key"}:
            yield item.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("login", ["password", "api-key"])
def test_no_secret_is_shown(tmp_path: Path, login: str) -> None:
    """Log, journal, process list, and what every command prints, are free of them."""
    key = API_KEY if login == "api-key" else None
    with RehearsalServer(tmp_path / "server", password=PASSWORD, api_key=key) as server:
        site = installed(tmp_path, server, login)
        for name in "abcdefgh":
            site.drop(f"pat/{name}.zip", name.encode())
        server.faults = fault_list(BAD_DAY)
        reported: list[bytes] = []
        with site.running() as daemon:
            names = {item.partition("@")[0] for item in BAD_DAY.split(",")}
            wait_until(lambda: names <= set(server.fired), DEADLINE_S, "a bad day")
            server.faults = fault_list("request-timeout")
            site.drop("pat/late.zip", b"late")
            wait_until(lambda: site.entries(State.DEFERRED), DEADLINE_S, "a grant")
            reported.append(Path(f"/proc/{daemon.pid}/cmdline").read_bytes())
            for command in COMMANDS:
                done = site.call(*(item.format(spool=site.spool) for item in command))
                reported += [done.stdout.encode(), done.stderr.encode()]
            secrets = secrets_of(site, server)
        reported.append(site.call("once", "--wait", "1s").stderr.encode())
        reported += everything_readable(site)

    assert len(secrets) >= 4
    assert all(len(secret) > 10 for secret in secrets)
    text = b"\n".join(reported)
    assert b"pat/a.zip" in text
    assert not [secret for secret in secrets if secret.encode() in text]


def installed(folder: Path, server: RehearsalServer, login: str) -> Installation:
    """Lay out an installation with a password or a key of the test's own."""
    site = Installation(folder, server.url, log_level="debug", delivery_workers="2")
    (folder / "password").write_text(PASSWORD)
    if login == "api-key":
        (folder / "api-key").touch(0o600)
        (folder / "api-key").write_text(API_KEY)
        text = site.config.read_text().replace("password_file: password", "")
        text = text.replace("username: emission", "api_key_file: api-key")
        site.config.write_text(text)
    return site


BUG = """
import os, sys
from pathlib import Path
from emitterd.service import logging as logs
from emitterd.config.settings import load
from emitterd.service.daemon import Daemon
from emitterd.monitoring.uploads import UploadTracker

class Buggy(UploadTracker):
    def sent(self, size_bytes):
        raise RuntimeError("a bug")

logs.configure("debug")
print(Daemon(load(Path(sys.argv[1]), os.environ), Buggy()).once(0.0).code)
"""


def test_no_secret_is_in_a_traceback(tmp_path: Path, python: Python) -> None:
    """A bug in the middle of an upload names its place, and no data."""
    with RehearsalServer(tmp_path / "server", password=PASSWORD) as server:
        site = installed(tmp_path, server, "password")
        site.drop("pat/a.zip")
        output = python(BUG, site.config, cwd=tmp_path)
        secrets = secrets_of(site, server)

    assert "RuntimeError: a bug" in output
    assert "E106" in output
    assert len(secrets) >= 4
    assert not [secret for secret in secrets if secret in output]


@pytest.mark.slow
def test_no_secret_of_a_wrong_configuration_is_quoted(tmp_path: Path) -> None:
    """What is wrong is reported by its key, without what may be a secret in it."""
    config = tmp_path / "emitter.yaml"
    config.write_text(
        f"emission:\n  url: https://user:{PASSWORD}@cqube.example.org/data\n"
        f"  password: {PASSWORD}\n  username: [{PASSWORD}]\n"
        f"  proxy: http://user:{PASSWORD}@proxy:3128\n  pasword: {PASSWORD}\n"
    )
    reported = ""
    for command in ("check", "run"):
        done = emitterd(command, "-c", str(config), cwd=tmp_path)
        assert done.returncode == 78
        reported += done.stdout + done.stderr

    assert "emission.url" in reported
    assert PASSWORD not in reported
