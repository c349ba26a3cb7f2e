"""How events are written: JSON lines, a console on a terminal, or messages to journald.

The log never stops the work: a line that can be written nowhere is counted, and the
count is told when lines can be written again.
"""

import logging
import select
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from emitterd.service import journald

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(
    level: str, file: Path | None = None, *, socket: Path = journald.SOCKET
) -> None:
    """Write events of `level` and above to `file`, or to standard output.

    Where standard output is journald's, they go to its `socket`. May be called again:
    threads that log at the time lose no line. Raises `OSError` where the file cannot
    be opened; all stays as it was then.
    """
    people = file is None and sys.stdout.isatty()
    native = file is None and not people and journald.is_standard_output()
    if file is not None:
        _sink.write_to(_File(file))
    elif native:
        output = _Output(sys.stdout, journald.WriteBudget())
        _sink.write_to(output, journald.Journald(socket))
    else:
        _sink.write_to(_Output(sys.stdout))
    structlog.configure(
        processors=_processors(people=people, native=native),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_sink,
        cache_logger_on_first_use=False,
    )


def reopen() -> None:
    """Open the log's file by its name again, as after a rotation; else do nothing.

    Threads that log at the time lose no line. Raises `OSError` where the file cannot
    be opened; the log goes on in the one that it has then.
    """
    _sink.reopen()


def silence() -> None:
    """Write no events: a command prints its results itself."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    close()


def close() -> None:
    """Close the file that events are written to, if it is one."""
    _sink.write_to(None)


class _Output:
    """Standard output; the budget is for one that journald reads."""

    def __init__(
        self, stream: TextIO, budget: journald.WriteBudget | None = None
    ) -> None:
        self._stream = stream
        self._budget = budget

    def await_room(self) -> None:
        """Wait until a line will not block. Raises `BlockingIOError` after the budget.

        journald's stream is ready with three quarters of its buffer free: some 150 KiB,
        room for a line of each thread.
        """
        if self._budget is None:
            return
        wait_s = self._budget.left_s()
        if not select.select([], [self._stream], [], wait_s)[1]:
            if wait_s:
                self._budget.spend()
            raise BlockingIOError

    def write(self, line: str) -> None:
        """Write a line. Raises `OSError`."""
        self._stream.write(line)
        self._stream.flush()

    def reopen(self) -> None:
        """Do nothing: standard output has no name."""

    def close(self) -> None:
        """Do nothing: standard output stays open."""


class _File:
    """A file that is appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()
        self._torn = False

    def await_room(self) -> None:
        """Do nothing: a write to a full disk fails at once."""

    def write(self, line: str) -> None:
        """Write a line, at once. Raises `OSError`."""
        # Half a line, where the disk was full, does not spoil the next.
        data = (f"\n{line}" if self._torn else line).encode()
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        finally:
            if written:
                self._torn = written < len(data)

    def reopen(self) -> None:
        """Use the file that has the name now. Raises `OSError`."""
        file = self._open()
        self.close()
        self._file, self._torn = file, False

    def close(self) -> None:
        """Close it."""
        with suppress(OSError):
            self._file.close()

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab", buffering=0)


class _Sink:
    """Where lines go, one at a time: structlog's logger, and the factory that makes it.

    There is one for the whole process. If the log is configured again while a thread
    writes a line, the line goes to the new place.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: _Output | _File | None = None
        self._journald: journald.Journald | None = None
        self._lost = self._reported = 0

    def __call__(self, *_: object) -> Self:
        return self

    def write_to(
        self,
        out: _Output | _File | None,
        to_journald: journald.Journald | None = None,
    ) -> None:
        """Write to `out` from now on.

        None drops all lines, and the count of lost ones.
        """
        with self._lock:
            before, self._out, self._journald = self._out, out, to_journald
            if out is None:
                self._lost = self._reported = 0
            if before is not None:
                before.close()

    def reopen(self) -> None:
        """Open a file again. Raises `OSError`."""
        with self._lock:
            if self._out is not None:
                self._out.reopen()

    def log(self, line: str, message: bytes = b"") -> None:
        """Send the message, or write the line; count a failure, and log it later."""
        try:
            self._put(line, message)
        except OSError:
            with self._lock:
                self._lost += 1
            return
        if self._reported != self._lost:
            self._reported = self._lost
            structlog.get_logger().error("log.lost", count=self._reported)

    debug = info = warning = error = critical = log

    def _put(self, line: str, message: bytes) -> None:
        to_journald, out = self._journald, self._out
        if to_journald is not None and message and to_journald.send(message):
            return
        if out is not None:
            out.await_room()
        with self._lock:
            if self._out is not None:
                self._out.write(f"{line}\n")


_sink = _Sink()

_json = structlog.processors.JSONRenderer(sort_keys=False)


def _processors(*, people: bool, native: bool) -> list[Processor]:
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _valued,
    ]
    if people:
        return [*processors, structlog.dev.ConsoleRenderer()]
    return [
        *processors,
        _plain,
        structlog.processors.format_exc_info,
        _with_message if native else _json,
    ]


def _with_message(
    logger: WrappedLogger, name: str, event: EventDict
) -> tuple[tuple[str, bytes], Mapping[str, object]]:
    """Return what the sink takes: the line, and the message for journald."""
    line = str(_json(logger, name, event))
    return (line, journald.message(line, event)), {}


def _valued(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop the fields that are None."""
    return {name: value for name, value in event.items() if value is not None}


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put what every line has first, and shorten seconds to the microsecond."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return first | {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in event.items()
    }
