"""SQLite underneath the journal: one fsync for many, one process, nothing foreign."""

import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from conftest import SmallDisk
from emitterd.codes import Code
from emitterd.errors import JournalDamaged, JournalError, JournalFull, JournalLocked
from emitterd.journal.opening import open_journal
from emitterd.journal.sqlite.connection import APPLICATION_ID, VERSION, open_reader
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.store import Transaction, Work
from emitterd.journal.work import Execute
from support.journal import Run
from support.paths import TESTS
from support.waiting import wait_until

HOLDER = """
import sys
from pathlib import Path
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.work import Execute
database = SqliteStore(Path(sys.argv[1]))
database.write(Execute("insert into fact (name, value) values ('held', '1')"))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "journal.db"


@pytest.fixture
def database(path: Path) -> Iterator[SqliteStore]:
    """Open an empty database; it is closed at the end."""
    with SqliteStore(path) as database:
        yield database


def insert(name: str, value: str = "1") -> Run[str]:
    """Return work that keeps a fact and returns its name."""

    def work(transaction: Transaction) -> str:
        transaction.execute("insert into fact (name, value) values (?, ?)", (name, value))
        return name

    return Run(work)


def names(database: SqliteStore) -> list[str]:
    """Return the names of all facts."""
    return [row[0] for row in database.read("select name from fact order by name")]


class Crowd:
    """Threads whose work is queued while another transaction holds the writer."""

    def __init__(self, database: SqliteStore) -> None:
        self.answers: dict[int, object] = {}
        self._database = database
        self._threads: list[threading.Thread] = []

    def write(self, *works: Work[object]) -> None:
        """Queue all the work, then let it go; `answers` are results and errors."""
        with self._database._group.writing:
            for number, work in enumerate(works):
                thread = threading.Thread(target=self._one, args=(number, work))
                self._threads.append(thread)
                thread.start()
            wait_until(
                lambda: len(self._database._group._queue) == len(works), 20.0, "all is queued"
            )
        for thread in self._threads:
            thread.join(20.0)

    def _one(self, number: int, work: Work[object]) -> None:
        try:
            self.answers[number] = self._database.write(work)
        except BaseException as error:  # noqa: BLE001  it is the answer
            self.answers[number] = error


def test_queued_work_is_one_transaction(database: SqliteStore) -> None:
    """What waits for the writer shares one commit, and each gets its own result."""
    statements: list[str] = []
    database._writer.set_trace_callback(statements.append)
    crowd = Crowd(database)
    crowd.write(*(insert(f"{number:02}") for number in range(32)))
    database._writer.set_trace_callback(None)
    assert crowd.answers == {number: f"{number:02}" for number in range(32)}
    assert statements.count("begin immediate") == 1
    assert statements.count("commit") == 1
    assert len(names(database)) == 32


def test_concurrent_writers_lose_nothing(database: SqliteStore) -> None:
    """Threads that count up one row come to the right sum."""
    database.write(insert("sum", "0"))

    count_up = Execute("update fact set value = value + 1 where name = 'sum'")

    def many() -> None:
        _ = [database.write(count_up) for _ in range(25)]

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert database.read("select value from fact") == [("200",)]


def test_what_raises_undoes_its_own_changes_only(database: SqliteStore) -> None:
    """The others in the batch are committed; the error reaches its owner alone."""

    def fails(transaction: Transaction) -> None:
        insert("lost").run(transaction)
        raise ValueError("mine")

    crowd = Crowd(database)
    crowd.write(insert("a"), Run(fails), insert("b"))
    errors = [answer for answer in crowd.answers.values() if isinstance(answer, Exception)]
    assert [str(error) for error in errors] == ["mine"]
    assert names(database) == ["a", "b"]


def test_broken_constraint_is_its_owners_alone(database: SqliteStore) -> None:
    """A row that SQLite refuses undoes one caller's work, not its neighbours'."""
    crowd = Crowd(database)
    crowd.write(insert("a"), Execute("insert into fact (name, value) values (1, null)"))
    assert names(database) == ["a"]


def test_no_success_is_reported_when_undoing_fails(database: SqliteStore) -> None:
    """Where commit and rollback both fail, each waiting writer gets an error."""

    def deny(action: int, what: str | None, *_: str | None) -> int:
        ends = action == sqlite3.SQLITE_TRANSACTION and what in {"COMMIT", "ROLLBACK"}
        return sqlite3.SQLITE_DENY if ends else sqlite3.SQLITE_OK

    database._writer.set_authorizer(deny)
    crowd = Crowd(database)
    crowd.write(insert("a"), insert("b"))
    database._writer.set_authorizer(None)
    assert names(database) == []
    assert all(isinstance(answer, Exception) for answer in crowd.answers.values())


def test_pragmas_and_mode(path: Path, database: SqliteStore) -> None:
    """The log is write-ahead, each commit is durable, and the files are private."""
    database.write(insert("a"))
    pragma = {
        name: database._writer.execute(f"pragma {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "user_version", "journal_size_limit")
    }
    assert pragma["journal_mode"] == "wal"
    assert pragma["synchronous"] == 2
    assert pragma["user_version"] == VERSION
    files = list(path.parent.iterdir())
    ends = ("", "-wal", "-shm", ".lock", ".ballast")
    assert {file.name for file in files} == {f"journal.db{end}" for end in ends}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_reader_leaves_no_transaction_open(path: Path, database: SqliteStore) -> None:
    """After a read the write-ahead log can be taken over and cut to nothing."""
    for number in range(50):
        database.write(insert(f"{number:02}", "x" * 4000))
        assert len(names(database)) == number + 1
    other = sqlite3.connect(path)
    try:
        cut = other.execute("pragma wal_checkpoint(truncate)")
        assert cut.fetchone() == (0, 0, 0)
    finally:
        other.close()
    assert path.with_name("journal.db-wal").stat().st_size == 0


def test_reader_cannot_write(database: SqliteStore) -> None:
    """The connection that reads refuses to change anything."""
    with pytest.raises(JournalError, match="readonly"):
        database.read("insert into fact (name, value) values ('a', '1')")


def test_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    """One process has the file; killed, it leaves neither a lock nor a lost commit."""
    with subprocess.Popen(  # noqa: S603  our own script
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(JournalLocked, match=f"process {holder.pid}") as caught:
            SqliteStore(path)
        assert caught.value.code is Code.JOURNAL_LOCKED
        holder.kill()
    with SqliteStore(path) as database:
        assert names(database) == ["held"]


def test_lock_of_a_moment_is_waited_for(path: Path) -> None:
    """A daemon that starts while a command holds the journal starts all the same."""
    first = SqliteStore(path)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(SqliteStore, path)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        first.close()

        second.result(20.0).close()


def test_second_opening_in_one_process_is_refused(path: Path) -> None:
    """The lock holds within a process too, and ends with `close`."""
    with SqliteStore(path), pytest.raises(JournalLocked):
        SqliteStore(path)
    SqliteStore(path).close()


def old(path: Path, version: int = 1) -> None:
    """Make a journal of an earlier schema, with an entry in it."""
    script = (TESTS / "support" / "schema_1.sql").read_text("utf-8")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        for number in range(1, version):
            upgrade = files("emitterd.journal.sqlite").joinpath(f"migrations/{number + 1:04}.sql")
            connection.executescript(upgrade.read_text("utf-8"))
        connection.execute(
            """insert into entry (path, state, flow, turn, rank, device, inode, bytes,
               mtime_ns, ctime_ns, admitted_at, changed_at)
               values (x'61', 'queued', 'a', 0, 0, 1, 2, 3, 4, 5, 6.0, 6.0)"""
        )
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {version}")
        connection.commit()


def schema_of(database: SqliteStore) -> set[str]:
    """Return what the schema says, however it is laid out."""
    rows = database.read("select sql from sqlite_schema where sql is not null")
    return {re.sub(r"\s+", " ", sql.replace("( ", "(")).strip() for (sql,) in rows}


def columns_of(database: SqliteStore, table: str) -> list[tuple[object, ...]]:
    """Return name, type and constraints of each column."""
    return database.read(f"pragma table_info({table})")


@pytest.mark.parametrize("version", range(1, VERSION))
def test_old_journal_is_brought_up_to_date(path: Path, tmp_path: Path, version: int) -> None:
    """A journal of an earlier version keeps its rows and gets today's schema."""
    old(path, version)
    with SqliteStore(path) as upgraded, SqliteStore(tmp_path / "new.db") as made:
        rows = upgraded.read("select path, state, findings from entry")
        indexes = [
            {sql for sql in schema_of(item) if not sql.startswith("CREATE TABLE entry")}
            for item in (upgraded, made)
        ]

        assert rows == [(b"a", "queued", None)]
        assert indexes[0] == indexes[1]
        assert columns_of(upgraded, "entry") == columns_of(made, "entry")
        assert upgraded.read("pragma user_version") == [(VERSION,)]


def test_old_deliveries_belong_to_the_first_server(path: Path) -> None:
    """What an earlier version delivered counts as delivered to the server of the first start."""
    old(path, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update entry set state = 'delivered'")
        connection.commit()
    with open_journal(path) as journal:
        assert journal.deliver_to("https://first/data") == 0
        assert journal.deliver_to("https://second/data") == 1


def test_old_journal_gets_the_arrivals_of_its_datasets(path: Path) -> None:
    """The upgrade reads them from the entries; unknown folders have none."""
    old(path, 5)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update entry set state = 'delivered', delivered_at = 8.0")
        connection.execute("update entry set flow = 'pat/periodic_exam_mst'")
        connection.commit()
    with SqliteStore(path) as upgraded:
        rows = upgraded.read("select dataset, admitted_at, delivered_at from arrival")

    assert rows == [("pat/periodic_exam_mst", 6.0, 8.0)]


def test_old_facts_are_facts_of_all_hosts(path: Path) -> None:
    """The upgrade keeps each fact; the name of no host is beside it."""
    old(path, 10)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("insert into fact values ('protocol', '\"emission\"')")
        connection.commit()
    with open_journal(path) as journal:
        assert journal.read_fact("protocol") == "emission"
        assert journal.read("select host, name from fact") == [("", "protocol")]


def test_reader_waits_for_the_upgrade(path: Path) -> None:
    """Who only reads does not change an old journal, and says who will."""
    old(path)

    with pytest.raises(JournalError, match="older emitterd") as caught:
        open_reader(path)

    assert "restart the daemon" in caught.value.remedy


def foreign(path: Path) -> None:
    """Make a database of another program."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table theirs (a)")
    connection.close()


def newer(path: Path) -> None:
    """Make a journal of a later version."""
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"pragma user_version = {VERSION + 1}")
    connection.close()


def garbage(path: Path) -> None:
    """Make a file that is no database."""
    path.write_bytes(b"no database " * 1000)


def zeros(path: Path) -> None:
    """Make what a lost page cache leaves: the right size, and nothing in it."""
    path.write_bytes(b"\0" * 8192)


def torn(path: Path) -> None:
    """Damage a page, with the log beside it that is left by an unclean end."""
    with SqliteStore(path) as database:
        rows = [(f"{n}", "x" * 999) for n in range(99)]
        database.write(Execute("insert into fact (name, value) values (?, ?)", rows))
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    path.with_name("journal.db-wal").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign, "another program"),
        (newer, "newer emitterd"),
        (garbage, "damaged"),
        (zeros, "damaged"),
        (torn, "damaged"),
    ],
)
def test_file_that_is_not_ours_is_refused(
    make: Callable[[Path], None], message: str, path: Path
) -> None:
    """Foreign, newer or damaged: refused with a hint, and left as it is."""
    make(path)
    before = path.read_bytes()
    for open_it in (SqliteStore, open_reader):
        if (make, open_it) == (torn, open_reader):
            continue
        with pytest.raises(JournalError, match=message) as caught:
            open_it(path)
        assert caught.value.code is Code.JOURNAL
        assert caught.value.remedy
        assert path.read_bytes() == before


def test_damage_is_found_at_each_start(path: Path) -> None:
    """A start that refuses leaves file and log as they are, for the next one."""
    torn(path)
    log = path.with_name("journal.db-wal")
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="damaged"):
            SqliteStore(path)

        assert log.exists()


def test_damage_met_while_reading_is_a_journal_error(path: Path) -> None:
    """A page found damaged only now is reported as such, with a hint."""
    torn(path)
    path.with_name("journal.db-wal").unlink()
    with SqliteStore(path) as database, pytest.raises(JournalError, match="damaged"):
        names(database)


def test_reader_of_nothing(tmp_path: Path) -> None:
    """To read a journal that is not there is an error, and makes no file."""
    with pytest.raises(JournalError, match="does not exist") as caught:
        open_reader(tmp_path / "none.db")
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_reader_of_an_empty_file(path: Path) -> None:
    """A file that holds no journal yet is reported as such."""
    path.touch()
    with pytest.raises(JournalError):
        open_reader(path)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A journal below a file is refused with a hint."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open or create") as caught:
        SqliteStore(tmp_path / "file" / "journal.db")
    assert caught.value.remedy


def test_file_that_cannot_grow(database: SqliteStore) -> None:
    """A full database says so, keeps what it has, and goes on once there is room."""
    database.write(insert("kept"))
    pages = database._writer.execute("pragma page_count").fetchone()[0]
    database._writer.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(JournalFull) as caught:
        database.write(insert("big", "x" * 100_000))
    assert caught.value.code is Code.JOURNAL_FULL
    assert names(database) == ["kept"]
    database._writer.execute("pragma max_page_count = 1000000")
    database.write(insert("big", "x" * 100_000))
    assert names(database) == ["big", "kept"]


def test_full_disk_fails_the_whole_batch(small_disk: SmallDisk) -> None:
    """No caller in the batch gets success; with space again all goes on, unopened."""
    with SqliteStore(small_disk.root / "journal.db") as database:
        database.write(insert("kept"))
        small_disk.fill()
        crowd = Crowd(database)
        crowd.write(*(insert(f"lost {n}", "x" * 20_000) for n in range(4)))
        assert [type(answer) for answer in crowd.answers.values()] == [JournalFull] * 4
        assert names(database) == ["kept"]
        small_disk.free()
        database.write(insert("later", "x" * 20_000))
        assert names(database) == ["kept", "later"]


@pytest.mark.parametrize("there", [False, True])
def test_opening_on_a_full_disk(small_disk: SmallDisk, *, there: bool) -> None:
    """A start on a full disk says that it is full, which passes by itself."""
    path = small_disk.root / "journal.db"
    if there:
        SqliteStore(path).close()
    small_disk.fill(spare=False)
    with pytest.raises(JournalFull):
        SqliteStore(path)
