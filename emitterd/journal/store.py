"""What the journal needs of a database: the protocols that each store implements.

`Journal` knows only these. Its SQL is portable: it is that of SQLite, with placeholders `?` or
`:name`, as far as PostgreSQL has it too. A write is a `Work`: a frozen dataclass, so that a store
may run many of one kind as one statement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from emitterd.errors import JournalError

Row = tuple[Any, ...]
Parameters = Sequence[object] | Mapping[str, object]
Read = Callable[[str, Parameters], list[Row]]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Clock(Protocol):
    """The clock whose instants are stored."""

    def now(self) -> float:
        """Return the time in seconds since the epoch."""


class Transaction(Protocol):
    """A transaction that writes. It ends when the work returns or raises."""

    def query(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a statement, also of one with RETURNING."""

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run a statement; return how many rows it changed."""

    def execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Run a statement once for each of `rows`."""


class Work(Protocol[T_co]):
    """A change of the journal: one transaction, or a part of one that several works share."""

    @property
    def durable(self) -> bool:
        """Whether the change must be on disk when `write` returns.

        A power cut may undo other work, until a durable commit follows.
        """

    @property
    def ends(self) -> bool:
        """Whether it records the end of something under way.

        Then it may use the disk reserve, and a store whose database cannot be reached tries again.
        """

    def run(self, transaction: Transaction) -> T_co:
        """Make the change. An exception undoes the changes of this work only."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What keeps a store from writing, and since when."""

    committing_since: float | None = None
    """When the current commit began, monotonic; None while there is none."""
    busy_since: float | None = None
    """Since when another program locks the file, seconds since the epoch."""
    full_since: float | None = None
    """Since when the disk is full, seconds since the epoch."""
    unreachable_since: float | None = None
    """Since when the database cannot be reached, seconds since the epoch."""


class StoreReader(Protocol):
    """A database opened for reading only, perhaps while another process writes."""

    @property
    def clock(self) -> Clock:
        """The clock whose instants are stored."""

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query; the transaction ends with the call, or with `snapshot`.

        Raises `JournalError`.
        """

    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Row]:
        """Yield the rows of a query that has too many for `read`."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Return a context in which all reads see one consistent state. It must be short."""

    def is_running(self) -> bool:
        """Tell whether a daemon, or a command that writes, holds the journal."""

    def close(self) -> None:
        """Close the database."""


class Host(Protocol):
    """One life of a process that shares its journal with other hosts."""

    @property
    def id(self) -> int:
        """Its number in the table `host`. Another life has another one."""

    @property
    def name(self) -> str:
        """The name that it has in the configuration."""

    def holds_lease(self) -> bool:
        """Return whether its claims are still its own, by the boot-time clock and without I/O."""

    def is_sweeper(self) -> bool:
        """Return whether this host sweeps the folder, prunes and tracks for all."""

    def was_sweeper(self) -> bool:
        """Return whether it was the sweeper when the database last answered."""


class Store(Protocol):
    """A database that holds one journal. Thread-safe."""

    @property
    def clock(self) -> Clock:
        """The clock whose instants are stored."""

    @property
    def host(self) -> Host | None:
        """The host of this process; None where no other host can share the journal."""

    @property
    def commits(self) -> int:
        """How many changes there were: while it stays the same, so does the content."""

    @property
    def state(self) -> StoreState:
        """What keeps the store from writing."""

    @property
    def moved(self) -> JournalError | None:
        """The error if the database has another place now, or is gone."""

    @property
    def restored(self) -> bool:
        """Whether the database turned out, when it was opened, to be an older copy."""

    @property
    def reclaimed(self) -> int:
        """How many claims of dead processes were taken back when it was opened."""

    def write(self, work: Work[T]) -> T:
        """Run the work in a transaction, and return its result once that is durable.

        An exception of the work undoes only its own changes and is raised here. Raises
        `JournalFull`, `JournalBusy`, `JournalMoved` and other `JournalError`s; nothing is changed
        then.
        """

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query, which has its own short transaction.

        Raises `JournalError`.
        """

    def snapshot(self) -> AbstractContextManager[Read]:
        """Return a context with a `Read` of one consistent state. It must be short."""

    def on_work(self, call: Callable[[], None]) -> None:
        """Call this when another host has made work for this one. It must not raise."""

    def close(self) -> None:
        """End all writing, and close the database."""
