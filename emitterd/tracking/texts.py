"""Explains to people what the server made of a delivered file: one word, or sentences.

The argument is always `server_side` of a record of the journal, as in `receipts --json`.
"""

from collections.abc import Mapping
from typing import Any

from emitterd.model import ServerState
from emitterd.text import local_time, printable
from emitterd.translation.text import Text, joined, plural

_DROPPED = Text(
    "the server does not say which rows: run `emitterd inspect --full FILE`, have the file"
    " corrected, and drop it again under the same name"
)
_DROPPED_INTO = Text(
    "the server has these rows in {file}: ask its administrator for it, have the file corrected,"
    " and drop it again under the same name"
)
_STALLED = Text(
    "it probably dropped the whole file, for its header, its zip or its types: run"
    " `emitterd inspect --full FILE`, have the file corrected, and drop it again under the same"
    " name; if the inspection finds nothing, ask the server's administrator for the log of this"
    " dataset"
)
_NOT_TAKEN = Text(
    "if it stays there for more than a day, nothing on the server takes this name: compare it with"
    " `emitterd inspect FILE`, or ask the server's administrator whether the dataset is switched on"
)
_STOPPED = Text("emitterd has stopped asking")
_ROWS = {
    "blank": Text("{number} blank"),
    "duplicate": Text("{number} with a duplicate key"),
    "datatype": Text("{number} with a value of a wrong type"),
}
_WORDS = {
    ServerState.WAITING: Text("waiting"),
    ServerState.PICKED_UP: Text("picked up"),
    ServerState.PROCESSED: Text("processed"),
    ServerState.STALLED: Text("stalled"),
    ServerState.UNKNOWN: Text("unknown"),
}


def word(side: Mapping[str, Any] | None) -> str:
    """Return a short text for a table or a list; empty if the file is not tracked."""
    if side is None:
        return ""
    dropped = (side.get("rows") or {}).get("dropped")
    if side["state"] == ServerState.PROCESSED and dropped:
        return plural(
            "processed, {number} row dropped", "processed, {number} rows dropped", number=dropped
        )
    return _WORDS[ServerState(side["state"])]


def sentences(side: Mapping[str, Any], delivered_at: str) -> list[str]:
    """Return what happened, what it means, and what to do."""
    gone = _picked_up(side, delivered_at)
    asks = [_next(side["next_look_at"])] if "next_look_at" in side else []
    lines: list[str]
    match side["state"]:
        case ServerState.PROCESSED:
            lines = _processed(side)
        case ServerState.WAITING if "seen_at" in side:
            seen_at = local_time(side["seen_at"])
            lines = [Text("the file waits in the bucket, last seen at {time}", time=seen_at)]
            lines += [*(asks or [_STOPPED]), _NOT_TAKEN]
        case ServerState.WAITING:
            lines = [Text("emitterd has no answer yet"), *asks]
        case ServerState.PICKED_UP if asks:
            lines = [Text("{picked_up}, and has not ended it", picked_up=gone), *asks]
        case ServerState.PICKED_UP:
            unlogged = Text("it keeps no log of this dataset, so its rows are not known")
            lines = [joined([gone, unlogged])]
        case ServerState.STALLED:
            lines = [Text("{picked_up}, began it, and did not end it", picked_up=gone), _STALLED]
        case _ if "gone_at" in side:
            unnamed = Text("its log does not name the file, and emitterd has stopped asking")
            lines = [joined([gone, unnamed])]
        case _:
            lines = [Text("emitterd never saw it leave the bucket, and has stopped asking")]
    return [Text("at the server: {words}", words=lines[0]), *lines[1:]]


def _next(at: str) -> Text:
    return Text(
        "the server reads each dataset once a day; emitterd asks again at {time}",
        time=local_time(at),
    )


def _picked_up(side: Mapping[str, Any], delivered_at: str) -> Text:
    after = local_time(side.get("seen_at", delivered_at))
    if "gone_at" not in side:
        return Text("the server picked the file up between {after} and now", after=after)
    return Text(
        "the server picked the file up between {after} and {before}",
        after=after,
        before=local_time(side["gone_at"]),
    )


def _processed(side: Mapping[str, Any]) -> list[str]:
    rows = side.get("rows", {})
    total, accepted, dropped = (rows.get(name) for name in ("total", "accepted", "dropped"))
    if "ended_at" in side:
        ended = Text("processed at {time} by its clock", time=local_time(side["ended_at"]))
    else:
        ended = Text("processed before {time}", time=local_time(side["looked_at"]))
    if total is None or accepted is None:
        return [joined([ended, Text("it did not count the rows")])]
    counted = plural(
        "it accepted {accepted} of {number} row, by its own count",
        "it accepted {accepted} of {number} rows, by its own count",
        number=total,
        accepted=accepted,
    )
    lines: list[str] = [joined([ended, counted])]
    if dropped:
        file = rows.get("errors_file")
        where = Text(_DROPPED_INTO, file=file) if file else _DROPPED
        lines += [_why_dropped(rows, dropped), where]
    return lines


def _why_dropped(rows: Mapping[str, Any], dropped: int) -> Text:
    parts = [Text(words, number=rows[name]) for name, words in _ROWS.items() if rows.get(name)]
    parts += [
        Text("{number} without a value for {column}", number=number, column=printable(column))
        for column, number in rows.get("null_values", {}).items()
    ]
    words = plural("it dropped {number} row", "it dropped {number} rows", number=dropped)
    return Text("{words}: {reasons}", words=words, reasons=joined(parts)) if parts else words
