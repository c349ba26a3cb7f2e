"""How events are written: JSON lines, or a console on a terminal."""

import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: str, file: Path | None = None) -> None:
    """Write events of `level` and above to `file`, or to standard output.

    Called again it opens the file anew, and no line of another thread is lost.
    Raises `OSError` where the file cannot be opened.
    """
    stream: TextIO = sys.stdout if file is None else _open(file)
    people = stream.isatty()
    sink = structlog.get_config()["logger_factory"]
    if isinstance(sink, _Sink):
        sink.turn_to(stream)
    else:
        sink = _Sink(stream)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _valued,
    ]
    if people:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [
            _plain,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=False),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=sink,
        cache_logger_on_first_use=False,
    )


def silence() -> None:
    """Write no events: what a command looks at, it tells itself."""
    close()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def close() -> None:
    """Close the file that events are written to, if it is one."""
    sink = structlog.get_config()["logger_factory"]
    if isinstance(sink, _Sink):
        sink.close()


class _Sink:
    """Where lines go; makes structlog's loggers, and is the stream that they write to.

    Its failures are nobody's: deliveries outlive a full log disk.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> structlog.WriteLogger:
        return structlog.WriteLogger(self)  # type: ignore[arg-type]  # it has what is called

    def write(self, text: str) -> None:
        with self._lock, suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with self._lock, suppress(OSError):
            self._stream.flush()

    def turn_to(self, stream: TextIO) -> None:
        """Write elsewhere from now on, and close the file."""
        with self._lock:
            self.close()
            self._stream = stream

    def close(self) -> None:
        """Close the file; standard output stays."""
        if self._stream is not sys.stdout:
            with suppress(OSError):
                self._stream.close()


def _open(file: Path) -> TextIO:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("a", encoding="utf-8", buffering=1)


def _valued(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop what this line has not."""
    return {name: value for name, value in event.items() if value is not None}


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put what every line has first, and shorten seconds to the microsecond."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return first | {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in event.items()
    }
