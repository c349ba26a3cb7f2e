"""Portable SQL on a connection of psycopg.

The schema has functions and types of SQLite's names: `instr`, `lower` for bytes, `blob`. The rest
that differs is translated here.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from emitterd.journal.postgresql.connection import Connection
from emitterd.journal.store import Parameters, Row

_TOKEN = re.compile(
    r"""(?P<literal>'(?:[^']|'')*'|"[^"]*") | (?P<mark>\?) | :(?P<name>[a-z_][a-z0-9_]*)
    | (?P<percent>%) | (?P<hint>\ indexed\ by\ \w+) | (?P<json>\bjson_object\b)""",
    re.VERBOSE,
)


@lru_cache(maxsize=1000)
def translated_sql(sql: str) -> str:
    """Return portable SQL as psycopg and PostgreSQL read it, which knows no hints."""
    return _TOKEN.sub(_placeholder, sql)


def _placeholder(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "mark":
            return "%s"
        case "name":
            return f"%({token['name']})s"
        case "hint":
            return ""
        case "json":
            return "json_build_object"
        case _:
            return token[0].replace("%", "%%")


class PostgresqlTransaction:
    """A `Transaction`: one that `connection` is in, or else one for each statement."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def query(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a statement, also of one with RETURNING."""
        return self.connection.execute(translated_sql(sql), parameters).fetchall()

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run a statement; return how many rows it changed."""
        return self.connection.execute(translated_sql(sql), parameters).rowcount

    def execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Run a statement once for each of `rows`."""
        with self.connection.cursor() as cursor:
            cursor.executemany(translated_sql(sql), rows)
