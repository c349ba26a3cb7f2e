"""What every command does at its end: exit codes, complaints, arrays of JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from emitterd.cli.output import print_problems
from emitterd.errors import (
    ConfigError,
    EmitterError,
    IllegalTransition,
    JournalError,
    JournalFull,
    JournalLocked,
)

DONE, WRONG, USAGE, INTERNAL, LOCKED, CONFIGURATION = 0, 1, 2, 70, 75, 78


def reported(work: Callable[[], int]) -> int:
    """Do a command's work; what emitterd reports becomes lines and an exit code."""
    if sys.stdout is None:
        # Started with it closed: `>&-`. Nobody would hear the answer.
        complain("standard output is closed")
        return WRONG
    try:
        code = _told(work)
        sys.stdout.flush()
    except OSError as error:
        return stopped_by(error)
    else:
        return code


def stopped_by(error: OSError) -> int:
    """Report the system error that stopped a command; return the exit code.

    What standard output cannot take is discarded. Python would try again to write it
    at its exit, and end with 120.
    """
    reason = error.strerror or error
    problem = f"cannot go on: {reason}"
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
        problem = f"cannot write to standard output: {reason}"
    if not isinstance(error, BrokenPipeError):
        # At a broken pipe the reader has enough, as `head` has.
        complain(problem)
    return WRONG


def _discard(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except ConfigError as error:
        with _standard_error():
            print_problems(error)
        return CONFIGURATION
    except JournalError as error:
        complain_of(error)
        return _exit_code(error)


@contextmanager
def _standard_error() -> Iterator[None]:
    """Ignore that standard error takes no more; the exit code still tells."""
    try:
        yield
    except OSError:
        _discard(sys.stderr)


def say(*lines: str) -> None:
    """Say what was done, on standard output."""
    for line in lines:
        print(line)


def complain(*lines: str) -> None:
    """Say what is wrong, on standard error."""
    with _standard_error():
        for line in lines:
            print(line, file=sys.stderr)


def complain_of(error: EmitterError) -> None:
    """Say what is wrong, with its code, and what to do about it."""
    complain(f"{error.code} {error}", f"  {error.hint}")


def print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array row by row: a million rows need no memory."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json.dumps(row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_object(said: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(said, indent=2))


def _exit_code(error: JournalError) -> int:
    match error:
        case JournalLocked():
            return LOCKED
        case IllegalTransition():
            return INTERNAL
        case JournalFull():
            # It passes: systemd is to start the daemon again, which 78 forbids.
            return WRONG
        case _:
            return CONFIGURATION
