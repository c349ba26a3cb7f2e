"""Connecting to the journal's database: what ends a start, and what is waited for."""

import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

import support.postgresql
from conftest import Python
from emitterd.errors import JournalError, JournalFull, JournalUnreachable
from emitterd.journal.postgresql import schema
from emitterd.journal.postgresql.connection import (
    Connection,
    DatabaseAddress,
    connect,
    translate_error,
)
from emitterd.journal.postgresql.schema import prepare
from support.ports import free_port
from support.postgresql import Cluster, need_postgresql
from support.waiting import wait_until

DEADLINE_S = 60.0
TESTS = Path(support.postgresql.__file__).parents[1]


@pytest.fixture
def address(postgresql: Cluster, empty_database: str) -> DatabaseAddress:
    """Return the address of an empty database."""
    return DatabaseAddress(postgresql.url(empty_database))


@pytest.fixture
def connection(address: DatabaseAddress) -> Iterator[Connection]:
    """Connect to an empty database."""
    with closing(connect(address)) as connection:
        yield connection


@pytest.fixture
def secured() -> Iterator[Cluster]:
    """Start a cluster that asks for passwords."""
    need_postgresql()
    with Cluster(port=True) as cluster:
        rules = cluster.data / "pg_hba.conf"
        rules.write_text("local all postgres trust\nhost all emitterd all scram-sha-256\n")
        with cluster.connect() as superuser:
            superuser.execute("alter role emitterd password 'correct horse'")
            superuser.execute("select pg_reload_conf()")
        yield cluster


def test_hosts_that_start_at_once_make_one_schema(address: DatabaseAddress) -> None:
    """However many hosts start with an empty database, one of them makes the schema."""
    found, begun = [], threading.Barrier(6)

    def start() -> None:
        with closing(connect(address)) as connection:
            begun.wait(DEADLINE_S)
            found.append(prepare(connection, address))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.version for version in found] == [schema.VERSION] * 6
    assert len({version.id for version in found}) == 1


def test_a_database_of_another_program_is_left_alone(
    address: DatabaseAddress, connection: Connection
) -> None:
    """Where other tables are, emitterd makes none."""
    connection.execute("create table pupil (id int)")
    with pytest.raises(JournalError, match="another program") as refused:
        prepare(connection, address)
    assert "a database of its own" in refused.value.remedy
    connection.execute("create table meta (version int)")
    with pytest.raises(JournalError, match="another program"):
        prepare(connection, address)


def test_a_newer_schema_stops_only_hosts_that_are_too_old_for_it(
    address: DatabaseAddress, connection: Connection
) -> None:
    """A host goes on beside newer ones, until the schema says that it must not."""
    prepare(connection, address)
    connection.execute("update meta set version = version + 1")
    assert prepare(connection, address).version == schema.VERSION + 1
    connection.execute("update meta set writers_from = version")
    with pytest.raises(JournalError, match="newer emitterd"):
        prepare(connection, address)


def test_a_user_without_rights_is_told_what_is_missing(
    postgresql: Cluster, empty_database: str
) -> None:
    """A user who may not create tables gets one line with the remedy."""
    with postgresql.connect() as superuser:
        superuser.execute("create role guest login")
    try:
        address = DatabaseAddress(postgresql.url(empty_database, user="guest"))
        with (
            pytest.raises(JournalError, match="permission denied") as refused,
            closing(connect(address)) as connection,
        ):
            prepare(connection, address)
    finally:
        with postgresql.connect() as superuser:
            superuser.execute("drop role guest")
    assert not isinstance(refused.value, JournalFull)
    assert "owner of the database" in refused.value.remedy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"user": "nobody-else"}, 'role "nobody-else" does not exist'),
    ],
)
def test_a_wrong_name_in_the_url_ends_the_start(
    change: dict[str, str], reason: str, postgresql: Cluster
) -> None:
    """A database or a user that does not exist is an error of the configuration."""
    url = postgresql.url(change.get("database", "postgres"), user=change.get("user", "emitterd"))
    with pytest.raises(JournalError, match=reason) as refused:
        connect(DatabaseAddress(url))
    assert not isinstance(refused.value, JournalFull)
    assert "create" in refused.value.remedy


@pytest.mark.parametrize("url", ["postgresql://user:s3cret%zz@db/x", "sqlite:///x", "host=a b"])
def test_what_is_no_url_is_refused_without_quoting_it(url: str) -> None:
    """The error says how a URL looks, and quotes no password."""
    with pytest.raises(JournalError, match="not a connection URL") as refused:
        connect(DatabaseAddress(url))
    assert "s3cret" not in f"{refused.value} {refused.value.remedy}"


def test_the_name_in_messages_holds_no_password() -> None:
    """Messages name the database and its servers only."""
    address = DatabaseAddress("postgresql://emitterd:s3cret@db1.test,db2.test/journal")
    assert address.name == "journal on db1.test,db2.test"


def test_the_password_comes_from_its_file_each_time(secured: Cluster, tmp_path: Path) -> None:
    """A wrong password ends the start; after the file is corrected, the next try connects."""
    file = tmp_path / "password"
    address = DatabaseAddress(secured.tcp_url("postgres"), file)
    with pytest.raises(JournalError, match=r"cannot read .*No such file"):
        connect(address)
    file.write_text("wrong\n")
    with pytest.raises(JournalError, match="password authentication failed") as refused:
        connect(address)
    assert not isinstance(refused.value, JournalFull)
    file.write_text("correct horse\n")
    connect(address).close()


def test_a_server_that_is_off_is_waited_for(tmp_path: Path) -> None:
    """Neither a closed port nor a missing socket is an error of the configuration."""
    for where in (f"127.0.0.1:{free_port()}", f"?host={tmp_path}"):
        with pytest.raises(JournalUnreachable) as refused:
            connect(DatabaseAddress(f"postgresql://{where}"))
        assert "emitterd then continues" in refused.value.remedy


def test_a_server_that_accepts_no_writes_is_waited_for(postgresql: Cluster) -> None:
    """A standby, or a server that was made read-only, is not the one to write to."""
    name = postgresql.create()
    with postgresql.connect() as superuser:
        superuser.execute(f"alter database {name} set default_transaction_read_only = on")
    with pytest.raises(JournalUnreachable, match="read-only"):
        connect(DatabaseAddress(postgresql.url(name)))
    postgresql.drop(name)


def test_a_connection_that_the_server_ends_is_unreachable(
    postgresql: Cluster, address: DatabaseAddress, connection: Connection
) -> None:
    """The end of a connection is told from errors of a statement."""
    pid = connection.info.backend_pid
    with postgresql.connect() as superuser:
        superuser.execute("select pg_terminate_backend(%s)", (pid,))
    for _ in range(2):
        with pytest.raises(psycopg.Error) as ended:
            connection.execute("select 1")
        assert isinstance(translate_error(ended.value, address), JournalUnreachable)


def test_a_server_that_is_too_old_ends_the_start() -> None:
    """PostgreSQL 14 lacks what the schema needs."""
    with serving_version("14.9") as port, pytest.raises(JournalError, match="14 is too old") as old:
        connect(DatabaseAddress(f"postgresql://emitterd@127.0.0.1:{port}/x?sslmode=disable"))
    assert "PostgreSQL 15 or later" in old.value.remedy


@contextmanager
def serving_version(version: str) -> Iterator[int]:
    """Answer one connection as a server of this version does, at the port that is yielded."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body

    parameters = {"server_version": version, "in_hot_standby": "off"}
    parameters["default_transaction_read_only"] = "off"
    answers = [message(b"R", struct.pack("!i", 0))]
    answers += [message(b"S", f"{key}\0{value}\0".encode()) for key, value in parameters.items()]
    answers.append(message(b"Z", b"I"))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(10_000)
            client.sendall(b"".join(answers))
            client.recv(10_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_sessions_do_not_depend_on_the_settings_of_the_server(
    postgresql: Cluster, empty_database: str
) -> None:
    """A server that acknowledges before it writes does not do so for emitterd."""
    with postgresql.connect() as superuser:
        superuser.execute(f"alter database {empty_database} set synchronous_commit = off")
    with closing(connect(DatabaseAddress(postgresql.url(empty_database)))) as connection:
        ((commit,),) = connection.execute("show synchronous_commit").fetchall()
    assert commit == "on"


def test_integers_and_sums_are_python_integers(connection: Connection) -> None:
    """Sums of large integers are no decimals, and small ones need no statement of their own."""
    sql = "select sum(n), sum(n)::numeric / 2, %s from generate_series(1, 3) n"
    row = connection.execute(sql.replace("(1, 3) n", "(1::bigint, 3) n"), (7,)).fetchone()
    assert row == (6, 3.0, 7)
    assert type(row[0]) is int


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, python: Python) -> None:
    """A test run that is killed leaves no server behind."""
    need_postgresql()
    script = """
import sys
sys.path.append(sys.argv[1])
from support.postgresql import Cluster
cluster = Cluster().__enter__()
print(cluster.directory, cluster._process.pid, flush=True)
"""
    folder, pid = python(script, TESTS, cwd=tmp_path).split()
    try:
        wait_until(lambda: not Path("/proc", pid).exists(), DEADLINE_S, "the server has ended")
    finally:
        shutil.rmtree(folder)
