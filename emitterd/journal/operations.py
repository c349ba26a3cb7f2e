"""The operator's hand on entries: hold, release, retry, forget.

Each deed is written down with time and user in the transaction that does it. An act
applies to the latest version of a path. What is being uploaded is left alone: its
outcome is not known yet.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from emitterd.errors import JournalError
from emitterd.journal.database import Database
from emitterd.journal.rows import LATEST, known_of
from emitterd.model import (
    LIVE,
    TRANSITIONS,
    State,
    Verb,
)
from emitterd.shutdown import Shutdown
from emitterd.text import display

# What the operator asks for, and what became of it: the hand's words on the wire.


class Operation(StrEnum):
    """What an operator may do with an entry."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """An act on these paths, or on every path whose latest version is in `state`.

    `sudo_user`: who is behind root, as sudo says.
    """

    act: Operation
    paths: tuple[bytes, ...] = ()
    state: State | None = None
    sudo_user: str = ""

    def pack(self) -> bytes:
        """Return it as one line of JSON."""
        return _line(
            {
                "act": self.act,
                "paths": [os.fsdecode(path) for path in self.paths],
                "state": self.state,
                "sudo_user": self.sudo_user,
            }
        )

    @classmethod
    def unpack(cls, line: bytes) -> Self:
        """Read what `pack` wrote; raises `ValueError` for anything else."""
        try:
            said = json.loads(line)
            return cls(
                Operation(said["act"]),
                tuple(os.fsencode(path) for path in said["paths"]),
                _state(said["state"]),
                str(said["sudo_user"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no instruction: {error!r}") from error


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What an instruction did to one path.

    `before` is None where the journal knows nothing of the path; `refusal` says why
    nothing was done, and is empty where it was.
    """

    path: bytes
    before: State | None
    after: State | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class OperationReport:
    """What an instruction did. Of an act on a whole state `deeds` holds the first."""

    done: int
    deeds: tuple[OperationResult, ...]
    trouble: str = ""
    """Why it ended early, if it did; what was done before stays."""

    def pack(self) -> bytes:
        """Return it as one line of JSON."""
        deeds = [
            [os.fsdecode(one.path), one.before, one.after, one.refusal]
            for one in self.deeds
        ]
        return _line({"done": self.done, "deeds": deeds, "trouble": self.trouble})

    @classmethod
    def unpack(cls, line: bytes) -> Self:
        """Read what `pack` wrote; raises `ValueError` for anything else."""
        try:
            said = json.loads(line)
            deeds = tuple(
                OperationResult(
                    os.fsencode(path), _state(before), _state(after), refusal
                )
                for path, before, after, refusal in said["deeds"]
            )
            return cls(said["done"], deeds, said["trouble"])
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no outcome: {error!r}") from error


def _state(text: str | None) -> State | None:
    return None if text is None else State(text)


def _line(value: object) -> bytes:
    # ASCII: what is not UTF-8 in a name goes as a lone surrogate, escaped.
    return json.dumps(value).encode("ascii") + b"\n"


BATCH = 500
"""Deeds a commit, so that workers need not wait for an act on a whole state."""

SHOWN = 1000
"""Deeds of an act on a whole state that are told one by one."""

VERBS: dict[Operation, tuple[Verb, ...]] = {
    Operation.HOLD: (Verb.HOLD,),
    Operation.RELEASE: (Verb.RELEASE,),
    Operation.RETRY: (Verb.RETRY, Verb.REOPEN),
}
"""What an act does, by the state that it meets; forgetting is no change of state."""

REMEDIES: dict[tuple[Operation, State], str] = {
    (Operation.RELEASE, State.DEFERRED): "not held; `retry` tries it now",
    (Operation.RETRY, State.HELD): "`release` it",
    (Operation.RETRY, State.DELIVERED): "`forget` it to send it again",
    (Operation.HOLD, State.DELIVERING): "hold it when the attempt has ended",
}

_OF_STATE = """select id, path from entry where id > ? and id <= ? and state = ?
    and forgotten_at is null and not exists (select 1 from entry later
        where later.path = entry.path and later.id > entry.id)
    order by id limit ?"""


class Operations:
    """Carries out instructions on the journal's database. Thread-safe."""

    def __init__(self, database: Database, shutdown: Shutdown) -> None:
        """`shutdown.now` ends an act on a whole state between two commits."""
        self._database = database
        self._shutdown = shutdown

    def obey(
        self,
        instruction: OperationRequest,
        user: str,
        tell: Callable[[OperationResult], None],
    ) -> OperationReport:
        """Do what is asked, recorded under the name of `user`.

        `tell` is called with each deed once it is on disk. A full journal, or any
        trouble with it, ends it early; the outcome says so, and what was done stays.
        """
        act, done = instruction.act, 0
        shown: list[OperationResult] = []
        try:
            for paths in self._batches(instruction):
                if self._shutdown.now.is_set():
                    return OperationReport(done, tuple(shown), "emitterd is stopping")
                for deed in self._database.write(_OperationRun(act, paths, user)):
                    tell(deed)
                    done += not deed.refusal
                    if instruction.state is None or len(shown) < SHOWN:
                        shown.append(deed)
        except JournalError as error:
            return OperationReport(
                done, tuple(shown), f"{error.code} {error}: {error.hint}"
            )
        return OperationReport(done, tuple(shown))

    def _batches(self, instruction: OperationRequest) -> Iterator[list[bytes]]:
        if instruction.state is None:
            for at in range(0, len(instruction.paths), BATCH):
                yield list(instruction.paths[at : at + BATCH])
            return
        # What comes in meanwhile, be it by this very act, is not meant.
        ((last_id,),) = self._database.read("select coalesce(max(id), 0) from entry")
        after_id = 0
        while rows := self._database.read(
            _OF_STATE, (after_id, last_id, instruction.state, BATCH)
        ):
            after_id = rows[-1][0]
            yield [path for _, path in rows]


class _OperationRun:
    """A batch of deeds as the work of one transaction."""

    def __init__(self, act: Operation, paths: list[bytes], user: str) -> None:
        self._act = act
        self._paths = paths
        self._user = user
        self._now = time.time()

    def __call__(self, connection: sqlite3.Connection) -> list[OperationResult]:
        return [self._do(connection, path) for path in self._paths]

    def _do(self, connection: sqlite3.Connection, path: bytes) -> OperationResult:
        rows = connection.execute(LATEST, (path,)).fetchall()
        if not rows:
            return OperationResult(path, None, None, "the journal does not know it")
        known = known_of(rows[0])
        before = known.state
        if self._act is Operation.RETRY and (
            place := self._moved_to(connection, known.id)
        ):
            where = f"it was moved to {display(place)}: put it back into the folder"
            return OperationResult(path, before, before, where)
        if self._act is Operation.FORGET:
            after = self._forget(connection, known.id, path, before)
        else:
            after = self._move(connection, known.id, before)
        if after is None:
            remedy = REMEDIES.get((self._act, before))
            said = f"it is {before}" + (f": {remedy}" if remedy else "")
            return OperationResult(path, before, before, said)
        connection.execute(
            """insert into action (path, entry, act, state, user, at)
               values (?, ?, ?, ?, ?, ?)""",
            (path, known.id, self._act, before, self._user, self._now),
        )
        return OperationResult(path, before, after)

    def _move(
        self, connection: sqlite3.Connection, entry_id: int, before: State
    ) -> State | None:
        """Apply the act's verb; None where none applies to this state."""
        for verb in VERBS[self._act]:
            sources, after = TRANSITIONS[verb]
            if before in sources:
                # A retry is as good as new: it backs off from the beginning again.
                connection.execute(
                    """update entry set state = :after, changed_at = :now,
                       due_at = null, disposal = null,
                       error = nullif(error, 'E107'),
                       attempts = iif(:act = 'retry', 0, attempts),
                       reason = iif(:after = 'withdrawn',
                           'taken back by retry; before: ' || reason, reason)
                       where id = :id""",
                    {
                        "after": after,
                        "now": self._now,
                        "act": self._act,
                        "id": entry_id,
                    },
                )
                return after
        return None

    def _forget(
        self,
        connection: sqlite3.Connection,
        entry_id: int,
        path: bytes,
        before: State,
    ) -> State | None:
        """Keep all versions as receipts only: the file is a new one from now on."""
        if before is State.DELIVERING:
            return None
        after = State.WITHDRAWN if before in LIVE else before
        connection.execute(
            """update entry set state = ?, changed_at = ?, "grant" = null
               where id = ?""",
            (after, self._now, entry_id),
        )
        connection.execute(
            """update entry set forgotten_at = ?, disposal = null
               where path = ? and forgotten_at is null""",
            (self._now, path),
        )
        return after

    def _moved_to(self, connection: sqlite3.Connection, entry_id: int) -> bytes | None:
        sql = "select moved_to from entry where id = ?"
        ((moved_to,),) = connection.execute(sql, (entry_id,)).fetchall()
        return None if moved_to is None else bytes(moved_to)
