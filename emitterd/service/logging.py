"""How events are written: JSON lines, a console on a terminal, or messages to journald.

The log never stops the work: a line that can be written nowhere is counted, and the count is logged
when lines can be written again.
"""

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from emitterd.service import journald
from emitterd.service.journald import PAUSE_S, WAIT_S

_Arguments = tuple[tuple[str, EventDict], dict[str, Any]]


def configure(level: str, file: Path | None = None, *, socket: Path = journald.SOCKET) -> None:
    """Write events of `level` and above to `file`, or to standard output.

    If standard output is journald's, they go to its `socket`; if it is a terminal, to the output
    that `show_on_terminal` has named. May be called again: threads that log at the time lose no
    line. Raises `OSError` if the file cannot be opened; the former log stays in use.
    """
    if file is not None:
        _sink.write_to(_File(file))
    elif _terminal is not None and sys.stdout.isatty():
        _sink.write_to(_terminal)
    elif journald.is_standard_output() and socket.exists():
        _sink.write_to(journald.Journald(socket))
    else:
        sys.stdout.flush()
        _sink.write_to(LogStream(sys.stdout.fileno()))
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_sink,
        cache_logger_on_first_use=False,
    )


def show_on_terminal(output: "LogOutput") -> None:
    """Name the output for events on a terminal; `configure` uses it from then on."""
    global _terminal  # noqa: PLW0603  a reload configures the log again
    _terminal = output


def reopen() -> None:
    """Open the log's file by its name again, as after a rotation; else do nothing.

    Threads that log at the time lose no line. Raises `OSError` if the file cannot be opened; the
    former file stays in use.
    """
    _sink.reopen()


def silence() -> None:
    """Write no events: a command prints its results itself."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    close()


def close() -> None:
    """Close the file that events are written to, if it is one."""
    _sink.write_to(None)


class LogOutput(Protocol):
    """Where lines go, one at a time."""

    def write(self, line: str, event: Mapping[str, object]) -> None:
        """Write a line, which shows this event. Raises `OSError`."""

    def close(self) -> None:
        """Close what this output has opened."""


class LogStream:
    """A file descriptor. A reader that does not read costs one wait in `PAUSE_S`, then lines."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False
        self._wait_from = 0.0
        """No line waits before this monotonic time."""

    def write(self, line: str, event: Mapping[str, object]) -> None:  # noqa: ARG002
        """Write a line. Raises `OSError`."""
        # Half a line, where the disk was full, does not spoil the next.
        data = (f"\n{line}\n" if self._torn else f"{line}\n").encode("utf-8", "backslashreplace")
        written = 0
        try:
            while written < len(data):
                self._wait()
                # A pipe that has room takes this much at once.
                written += os.write(self._fd, data[written : written + select.PIPE_BUF])
        finally:
            if written:
                self._torn = written < len(data)

    def _wait(self) -> None:
        """Wait until it takes more. Raises `BlockingIOError`."""
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        waits = time.monotonic() >= self._wait_from
        if not ready.poll(WAIT_S * 1000 if waits else 0):
            if waits:
                self._wait_from = time.monotonic() + PAUSE_S
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def close(self) -> None:
        """Leave standard output open."""


class _File(LogStream):
    """A file that is appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(self._open())

    def reopen(self) -> None:
        fd = self._open()
        self.close()
        self._fd, self._torn = fd, False

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._fd)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not blocking: it may be a named pipe that nobody reads.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._path, flags, 0o666)


class _Sink:
    """Where lines go, one at a time: structlog's logger, and the factory that makes it.

    There is one for the whole process. If the log is configured again while a thread writes a line,
    the line goes to the new place.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: LogOutput | None = None
        self._lost = self._reported = 0

    def __call__(self, *_: object) -> Self:
        return self

    def write_to(self, out: LogOutput | None) -> None:
        """Write to `out`; None drops all lines, and the count of lost ones."""
        with self._lock:
            before, self._out = self._out, out
            if out is None:
                self._lost = self._reported = 0
            if before is not None:
                before.close()

    def reopen(self) -> None:
        """Open a file again. Raises `OSError`."""
        with self._lock:
            if isinstance(self._out, _File):
                self._out.reopen()

    def log(self, line: str, event: Mapping[str, object]) -> None:
        """Write the line; count a failure, and log it later."""
        with self._lock:
            try:
                if self._out is not None:
                    self._out.write(line, event)
            except OSError:
                self._lost += 1
                return
            lost, self._reported = self._lost - self._reported, self._lost
        if lost:
            structlog.get_logger().error("log.lost", count=self._reported)

    debug = info = warning = error = critical = log


_sink = _Sink()
_terminal: LogOutput | None = None


def _valued(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if value is not None}


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put what every line has first, and shorten seconds to the microsecond."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return first | {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in event.items()
    }


_as_json = structlog.processors.JSONRenderer(sort_keys=False)


def _rendered(logger: WrappedLogger, name: str, event: EventDict) -> _Arguments:
    """Return the arguments of `_Sink.log`."""
    return (str(_as_json(logger, name, event)), event), {}


_PROCESSORS: list[Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _valued,
    _plain,
    structlog.processors.format_exc_info,
    _rendered,
]
