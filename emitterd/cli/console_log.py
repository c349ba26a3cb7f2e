"""The log on a terminal: one short line an event; trouble also has its reason and its hint.

The JSON log has more fields, such as keys and digests.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from emitterd.cli.output import Bars
from emitterd.cli.terminal import cells, coloured, shorten, width, wrapped
from emitterd.service.logging import LogStream
from emitterd.text import printable
from emitterd.units import format_duration, format_size

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_EVENT_COLUMNS = 15
_INDENT = 9
"""Where a line goes on: below the event."""

_PATH_COLUMNS = 20
"""A path is not cut shorter than this."""

_OMITTED = {"attempt", "etag", "key", "lifetime_s", "sent_bytes", "sha256", "verified"}
_LONG = ("exception", "stack")


class ConsoleLog:
    """Writes events to the terminal that is standard output, above progress bars if given."""

    def __init__(self, bars: Bars | None = None) -> None:
        self._bars = bars
        self._stream = LogStream(sys.stdout.fileno())

    def write(self, line: str, event: Mapping[str, object]) -> None:
        """Write one event. Raises `OSError`."""
        # The log never stops the work: the JSON line is better than no line.
        with suppress(TypeError, ValueError, LookupError):
            line = event_line(event)
        if self._bars is not None:
            self._bars.print(line)
        else:
            self._stream.write(line, event)

    def close(self) -> None:
        """Leave standard output open."""


def event_line(event: Mapping[str, Any]) -> str:
    """Return an event as text for a terminal; a traceback follows in lines of its own."""
    fields = dict(event)
    at = datetime.fromisoformat(fields.pop("timestamp")).astimezone()
    level, name = fields.pop("level"), fields.pop("event")
    traces = [str(fields.pop(field)).splitlines() for field in _LONG if field in fields]
    path, hint = printable(str(fields.pop("path", ""))), fields.pop("hint", "")
    facts = [printable(fact) for fact in _facts(level, fields)]
    head = f"{at:%H:%M:%S} {name:{_EVENT_COLUMNS}} "
    # A reason goes on in the next line; anything else fits beside a shorter path.
    beside = [] if "reason" in event else facts
    room = width() - cells("  ".join([head, *beside]))
    words = [shorten(path, max(room, _PATH_COLUMNS), middle=True), *facts]
    lines = wrapped(head + "  ".join(filter(None, words)), width(), _INDENT)
    lines[0] = f"{head[:_INDENT]}{_name(level, name)}{lines[0][_INDENT + len(name) :]}"
    if hint:
        lines += wrapped(" " * _INDENT + printable(str(hint)), width(), _INDENT)
    return "\n".join([*lines, *(printable(line) for trace in traces for line in trace)])


def _name(level: str, name: str) -> str:
    colour = "green" if name == "file.delivered" else _COLOURS.get(level)
    return coloured(name, colour) if colour else name


def _facts(level: str, fields: dict[str, Any]) -> Iterator[str]:
    """Yield what people need of an event's fields: size, duration, others, and the reason."""
    if (size_bytes := fields.pop("bytes", None)) is not None:
        yield format_size(size_bytes)
    if (duration_s := fields.pop("duration_s", None)) is not None:
        yield format_duration(duration_s)
    error, reason = fields.pop("error", ""), fields.pop("reason", "")
    for name, value in fields.items():
        if value and name not in _OMITTED:
            yield f"{name}={_value(name, value)}"
    if problem := f"{error} {reason}".strip():
        yield f"{level}: {problem}" if level in _COLOURS else problem


def _value(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, str):
        return f"{datetime.fromisoformat(value).astimezone():%H:%M:%S}"
    if name == "bytes_s" and isinstance(value, int):
        return f"{format_size(value)}/s"
    if name.endswith("_s") and isinstance(value, float):
        return format_duration(value)
    if isinstance(value, dict):
        return ",".join(f"{key}:{item}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
