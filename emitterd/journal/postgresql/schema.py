"""Create, recognise and migrate the schema of the journal's database.

Several hosts may start at once, and hosts of two versions may run side by side. A migration leads
to version N + 1, and usually leaves `writers_from` as it is: hosts of version N go on. One that
they cannot live with raises `writers_from` itself; their next look at the schema ends them.
"""

from dataclasses import dataclass
from importlib.resources import files
from uuid import UUID

from psycopg import errors

from emitterd.errors import JournalError
from emitterd.failpoints import Point, reach
from emitterd.journal.postgresql.connection import Connection, DatabaseAddress, translated

VERSION = 1
"""The version of `schema.sql`; `migrations/N.sql` leads to version N."""

_LOCK = 0x454D4954
"""The number of the advisory lock. It ends with its transaction, so pgbouncer does not matter."""


class NoTables(JournalError):
    """No host has written to the database yet."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What the database says of itself. `id` is that of the journal."""

    id: UUID
    version: int
    writers_from: int


def prepare(connection: Connection, address: DatabaseAddress) -> Schema:
    """Create or migrate the schema if that is needed.

    Raises `JournalError`, also for a database of another program or of a newer version.
    """
    with translated(address):
        return _prepare(connection, address)


def _prepare(connection: Connection, address: DatabaseAddress) -> Schema:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise JournalError(
            f"{address.name} has the encoding {encoding}",
            remedy="create the database with: createdb --encoding=UTF8 --template=template0",
        )
    schema = identify(connection, address)
    if schema is not None and schema.version >= VERSION:
        return schema
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        # Another host may have done it meanwhile.
        schema = identify(connection, address)
        if schema is None or schema.version < VERSION:
            _migrate(connection, schema.version if schema is not None else 0)
        reach(Point.SCHEMA_MADE)
    reach(Point.SCHEMA_COMMITTED)
    schema = identify(connection, address)
    if schema is None:
        raise JournalError(f"{address.name} has lost its tables", remedy="start emitterd again")
    return schema


def identify(connection: Connection, address: DatabaseAddress) -> Schema | None:
    """Return the schema; None if the database is empty.

    Raises `JournalError` for a database of another program, and for a version that this program
    must not write to.
    """
    sql = """select current_schema(), count(*), count(*) filter (where relname = 'meta')
        from pg_class where relnamespace = current_schema()::regnamespace and relkind = 'r'"""
    ((name, tables, meta),) = connection.execute(sql).fetchall()
    if name is None:
        raise JournalError(
            f"{address.name} has no schema that this user may use",
            remedy="make the user of journal.url owner of the database",
        )
    if not tables:
        return None
    foreign = JournalError(
        f"{address.name} is a database of another program",
        remedy="create a database of its own for emitterd, and name it in journal.url",
    )
    if not meta:
        raise foreign
    try:
        rows = connection.execute(
            "select id, version, writers_from from meta where program = 'emitterd'"
        ).fetchall()
    except errors.UndefinedColumn:
        raise foreign from None
    if not rows:
        raise foreign
    schema = Schema(*rows[0])
    if schema.writers_from > VERSION:
        raise JournalError(
            f"{address.name} was written by a newer emitterd (schema {schema.version})",
            remedy="install that version on this host too; this one would damage the journal",
        )
    return schema


def _migrate(connection: Connection, version: int) -> None:
    folder = files("emitterd.journal.postgresql")
    if version == 0:
        connection.execute(folder.joinpath("schema.sql").read_bytes())
        sql = "insert into meta (version, writers_from) values (%s, %s)"
        connection.execute(sql, (VERSION, VERSION))
        return
    for step in range(version + 1, VERSION + 1):
        connection.execute(folder.joinpath("migrations", f"{step:04}.sql").read_bytes())
    connection.execute("update meta set version = %s", (VERSION,))
