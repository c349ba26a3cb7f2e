"""What the operator asks for, and what became of it: the hand's words on the wire."""

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from emitterd.model import State


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
