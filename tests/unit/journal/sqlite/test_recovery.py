"""A damaged journal: what is saved of it, and that nothing is sent twice unasked."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emitterd.journal.opening import open_journal
from emitterd.journal.rows import Admission, Salvaged
from emitterd.journal.sqlite.salvage import salvage
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.model import Fingerprint, Receipt, State
from emitterd.rehearsal.server import RehearsalServer
from support.installation import Installation

PAGE = 4096
ENTRIES = 1500
FILES = [f"pat/{number}.zip" for number in range(40)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a journal with many delivered entries, as a file's bytes."""
    path = tmp_path_factory.mktemp("original") / "journal.db"
    with open_journal(path) as journal:
        for begin in range(0, ENTRIES, 500):
            journal.admit(
                [
                    Admission(b"pat/%06d.zip" % n, Fingerprint(1, n, 3, 4, 5), "a", 0)
                    for n in range(begin, begin + 500)
                ]
            )
        for number in range(0, ENTRIES, 2):
            entry = journal.claim(9e9)
            assert entry is not None
            key, digest = f"pat/{number}", number.to_bytes(32, "big")
            receipt = Receipt(key, f'"{number}"', 3, digest[:16], digest, verified=True)
            journal.deliver(entry, receipt, duration_s=1.0, dispose=False)
    return path.read_bytes()


def pages_of(content: bytes, folder: Path, name: str) -> list[int]:
    """Return the pages of a table or index, its root first, as numbers from 0.

    They are recognised by what they hold once the root is blank: SQLite has no better way
    in every build.
    """
    path = folder / "probe.db"
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as connection:
        ((root,),) = connection.execute(
            "select rootpage from sqlite_schema where name = ?", (name,)
        )
    pages = []
    queue = [root]
    while queue:
        number = queue.pop(0)
        pages.append(number - 1)
        page = content[(number - 1) * PAGE : number * PAGE]
        if page[0] in {2, 5}:
            cells = int.from_bytes(page[3:5], "big")
            offsets = [
                int.from_bytes(page[12 + 2 * number : 14 + 2 * number], "big")
                for number in range(cells)
            ]
            queue += [int.from_bytes(page[at : at + 4], "big") for at in offsets]
            queue.append(int.from_bytes(page[8:12], "big"))
    return pages


def spoil(content: bytes, *pages: int) -> bytes:
    """Overwrite pages with what is none."""
    spoilt = bytearray(content)
    for page in pages:
        spoilt[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
    return bytes(spoilt)


def saved(content: bytes, folder: Path) -> tuple[Salvaged, list[tuple[Any, ...]]]:
    """Return what is saved of a file, and all entries of the new journal."""
    path = folder / "damaged.db"
    path.write_bytes(content)
    with SqliteStore(folder / "fresh.db") as fresh:
        salvaged = salvage(path, fresh)
        rows = fresh.read("select * from entry order by id")
        assert fresh.read("pragma integrity_check") == [("ok",)]
        assert fresh.read("select sum(entries) from tally") == [(len(rows),)]
    assert path.read_bytes() == content
    return salvaged, rows


def test_sound_journal_is_saved_whole(original: bytes, tmp_path: Path) -> None:
    """Row by row it is the same journal."""
    salvaged, rows = saved(original, tmp_path)
    with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection:
        before = connection.execute("select * from entry order by id").fetchall()

    assert salvaged == Salvaged(ENTRIES, ENTRIES, whole=True)
    assert rows == before


@pytest.mark.parametrize("index", ["entry_path", "entry_delivered", "entry_live"])
def test_damaged_index_loses_nothing(index: str, original: bytes, tmp_path: Path) -> None:
    """Indexes are made anew."""
    spoilt = spoil(original, *pages_of(original, tmp_path, index))
    salvaged, rows = saved(spoilt, tmp_path)

    assert salvaged == Salvaged(ENTRIES, ENTRIES, whole=True)
    assert len(rows) == ENTRIES


LEAVES: dict[str, Callable[[list[int]], list[int]]] = {
    "first": lambda leaves: leaves[:1],
    "in the middle": lambda leaves: leaves[5:6],
    "last": lambda leaves: leaves[-1:],
    "several": lambda leaves: leaves[3:30:5],
    "all but one": lambda leaves: leaves[:7] + leaves[8:],
}


@pytest.mark.parametrize(
    "which", [*list(LEAVES)[:-1], pytest.param("all but one", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("index", ["entry_path", None], ids=["no index", "index"])
def test_damaged_pages_cost_their_rows_only(
    which: str, index: str | None, original: bytes, tmp_path: Path
) -> None:
    """All that lies on other pages is saved, also where the end cannot be asked."""
    root, *leaves = pages_of(original, tmp_path, "entry")
    assert len(leaves) > 30
    chosen = LEAVES[which](leaves)
    rows_of = {item: original[item * PAGE + 3 : item * PAGE + 5] for item in chosen}
    lost = sum(int.from_bytes(item, "big") for item in rows_of.values())
    also = pages_of(original, tmp_path, index) if index else []
    salvaged, rows = saved(spoil(original, *chosen, *also), tmp_path)

    assert salvaged == Salvaged(ENTRIES - lost, ENTRIES, whole=False)
    assert len(rows) == ENTRIES - lost
    assert root not in chosen


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"\0" * len(content),
        lambda _: b"no database " * 1000,
        lambda content: spoil(content, 0),
        lambda content: content[: PAGE // 2],
    ],
    ids=["zeros", "garbage", "no header", "half a page"],
)
def test_nothing_left(harm: Callable[[bytes], bytes], original: bytes, tmp_path: Path) -> None:
    """Where nothing can be read nothing is saved, and that is reported."""
    assert saved(harm(original), tmp_path) == (Salvaged(0, None, whole=False), [])


@pytest.mark.slow
def test_truncated_journal(original: bytes, tmp_path: Path) -> None:
    """Of a file cut in half what is left is saved, and the loss is reported."""
    salvaged, rows = saved(original[: len(original) // 2 // PAGE * PAGE], tmp_path)

    assert 0 < len(rows) < ENTRIES
    assert salvaged == Salvaged(len(rows), ENTRIES, whole=False)


def test_rows_that_are_none_of_ours(original: bytes, tmp_path: Path) -> None:
    """A row that today's schema refuses is lost alone, and counted."""
    path = tmp_path / "altered.db"
    path.write_bytes(original)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute("update entry set state = 'sent' where id in (7, 8)")
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")
    salvaged, rows = saved(path.read_bytes(), tmp_path)

    assert len(rows) == ENTRIES - 2
    assert not salvaged.whole


@pytest.fixture
def delivered(site: Installation) -> Installation:
    """Return an installation that has delivered many files."""
    for path in FILES:
        site.drop(path, path.encode() * 20)
    done = site.call("once")
    assert done.returncode == 0, done.stderr
    site.log.write_text(done.stdout)
    return site


def damage(site: Installation, *, everything: bool = False) -> int:
    """Damage the journal as a disk does; return how many entries are lost."""
    content = site.journal.read_bytes()
    if everything:
        site.journal.write_bytes(b"\0" * len(content))
        return len(FILES)
    leaf = pages_of(content, site.folder, "entry")[2]
    site.journal.write_bytes(spoil(content, leaf))
    site.journal.with_name("journal.db-wal").touch()
    return int.from_bytes(content[leaf * PAGE + 3 : leaf * PAGE + 5], "big")


def posts(server: RehearsalServer) -> int:
    """Return how many objects were stored, and how often."""
    return sum(item.posts for item in server.objects.values())


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_daemon_refuses_and_says_what_to_do(
    delivered: Installation, server: RehearsalServer, *, everything: bool
) -> None:
    """A damaged journal ends the start with 78, is not reset, and nothing is sent."""
    damage(delivered, everything=everything)
    before = delivered.journal.read_bytes()
    for _ in range(2):
        done = delivered.call("once")
        assert done.returncode == 78
        assert "damaged" in done.stderr
        assert "emitterd rebuild" in done.stderr

    assert delivered.journal.read_bytes() == before
    assert posts(server) == len(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_what_may_have_been_delivered_is_held(
    delivered: Installation, server: RehearsalServer, *, everything: bool
) -> None:
    """Rebuilt, nothing is sent again unasked; what is dropped later is sent as ever."""
    lost = damage(delivered, everything=everything)
    before = delivered.journal.read_bytes()
    done = delivered.call("rebuild")

    assert done.returncode == 1, done.stderr
    assert "files in the folder may or may not" in done.stdout
    [aside] = delivered.folder.glob("journal.db.before-*Z")
    assert aside.read_bytes() == before
    delivered.drop("pat/new.zip", b"new")
    assert delivered.call("once").returncode == 1
    counts = delivered.counts()
    assert counts[State.HELD] == lost
    assert counts[State.DELIVERED] == len(FILES) - lost + 1
    assert posts(server) == len(FILES) + 1
    held = delivered.entries(State.HELD)
    assert {item["error"] for item in held} == {"E107"}
    output = delivered.call("explain", held[0]["path"])
    assert "held: E107" in output.stdout
    check = delivered.call("status", "--check")
    assert (check.returncode, "held, because" in check.stdout) == (1, True)

    assert delivered.call("release", held[0]["path"]).returncode == 0
    delivered.call("once")
    assert posts(server) == len(FILES) + 2
    assert delivered.counts()[State.HELD] == lost - 1


@pytest.mark.slow
def test_lost_journal(delivered: Installation, server: RehearsalServer) -> None:
    """Where the file is gone a rebuild keeps the folder from being sent again."""
    delivered.journal.unlink()
    done = delivered.call("rebuild")

    assert "there was no journal" in done.stdout
    delivered.call("once")
    assert delivered.counts()[State.HELD] == len(FILES)
    assert posts(server) == len(FILES)


@pytest.mark.slow
def test_sound_journal_is_left_alone(delivered: Installation) -> None:
    """Nothing is rebuilt that can be used."""
    before = delivered.journal.read_bytes()
    done = delivered.call("rebuild")

    assert (done.returncode, "is not damaged" in done.stdout) == (0, True)
    assert delivered.journal.read_bytes() == before
    assert not list(delivered.folder.glob("journal.db.*-*"))


def make_foreign(path: Path) -> None:
    """Put another program's database there."""
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table theirs (a)")
        connection.commit()


def make_newer(path: Path) -> None:
    """Let a later version have written it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma user_version = 99")
        connection.commit()


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_foreign, make_newer])
def test_what_is_not_ours_is_not_rebuilt(
    make: Callable[[Path], None], delivered: Installation
) -> None:
    """Another program's file, or a later version's, is refused and left as it is."""
    make(delivered.journal)
    before = delivered.journal.read_bytes()
    done = delivered.call("rebuild")

    assert done.returncode == 78
    assert delivered.journal.read_bytes() == before
    assert not list(delivered.folder.glob("journal.db.*-*"))


@pytest.mark.slow
def test_running_daemon_is_not_rebuilt(site: Installation) -> None:
    """A daemon's journal is its own."""
    with site.running():
        assert site.call("rebuild").returncode == 75
