"""Entries, grants and receipts for a journal, and shortcuts to its operations."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.journal import Journal
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import Admission
from emitterd.journal.sqlite.connection import SqliteReader
from emitterd.journal.sqlite.store import SqliteStore
from emitterd.journal.store import T_co, Transaction
from emitterd.model import Entry, Fingerprint, Grant, Receipt, State

PATH = b"pat/periodic_exam.zip"


LOST = DeliveryError(Decision.DEFER, Code.ANSWER_LOST, "no answer", ambiguous=True)


BROKE = DeliveryError(Decision.DEFER, Code.CONNECTION_LOST, "broke")


NOW = time.time()


def seen(version: int = 1, size: int = 10) -> Fingerprint:
    """Return the fingerprint of a version of a file."""
    return Fingerprint(1, 2, size, version, version)


def admission(
    path: bytes = PATH, version: int = 1, *, flow: str = "pat", rank: int = 0
) -> Admission:
    """Return a complete file as the intake admits it."""
    return Admission(path, seen(version), flow, rank)


def admit(journal: Journal, *files: Admission) -> list[str]:
    """Admit files; return the answers, `+` where an older version was withdrawn."""
    answers = journal.admit(list(files))
    return [answer.result + "+" * (answer.replaced_bytes is not None) for answer in answers]


def take(journal: Journal, version: int = 1, path: bytes = PATH) -> Entry:
    """Admit a version and claim it."""
    assert admit(journal, admission(path, version))[0].startswith("admitted")
    entry = journal.claim(time.time())
    assert entry is not None
    return entry


def grant(key: str = "key-1") -> Grant:
    """Return a grant with a secret in it."""
    fields = {"key": key, "policy": "cG9saWN5", "x-amz-signature": "5ec2e7"}
    return Grant("https://bucket.test/", fields, NOW, NOW + 3600)


def receipt(sha256: bytes = b"s" * 32, key: str = "key-1") -> Receipt:
    """Return what a delivery proves."""
    return Receipt(key, "e" * 32, 10, b"m" * 16, sha256, verified=True)


def deliver(journal: Journal, entry: Entry) -> None:
    """Record a delivery, under a key of its own."""
    journal.deliver(entry, receipt(key=f"key-{entry.id}"), duration_s=1.0, dispose=False)


def row(journal: Journal, entry_id: int, columns: str) -> tuple[Any, ...]:
    """Return columns of an entry as they are on disk."""
    sql = f"select {columns} from entry where id = ?"  # noqa: S608  names are ours
    return journal.read(sql, (entry_id,))[0]


def counted(journal: Journal) -> dict[State, int]:
    """Count the entries by state, the slow way."""
    rows = journal.read("select state, count(*) from entry group by state")
    return dict.fromkeys(State, 0) | {State(state): count for state, count in rows}


def entry(number: int, size_bytes: int = 1000, attempts: int = 0) -> Entry:
    """Return an entry as a worker gets it from the journal."""
    fingerprint = Fingerprint(1, number, size_bytes, 1, 1)
    return Entry(number, b"pat/%d.zip" % number, fingerprint, attempts, None, None, False)  # noqa: FBT003


@dataclass(frozen=True, slots=True)
class Run(Generic[T_co]):
    """Work of the journal that is a function."""

    do: Callable[[Transaction], T_co]
    durable: bool = True
    ends: bool = False

    def run(self, transaction: Transaction) -> T_co:
        """Make the change."""
        return self.do(transaction)


def sqlite_store(journal: Journal) -> SqliteStore:
    """Return the store of a journal that is a SQLite file."""
    assert isinstance(journal.store, SqliteStore)
    return journal.store


def sqlite_reader(reader: JournalReader) -> SqliteReader:
    """Return the file that a reader reads."""
    assert isinstance(reader._store, SqliteReader)
    return reader._store
