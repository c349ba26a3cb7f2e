"""Explains to people what the server made of a delivered file: one word, or sentences.

The argument is always `server_side` of a record of the journal, as in `receipts --json`.
"""

from collections.abc import Mapping
from typing import Any

from emitterd.model import ServerState
from emitterd.text import count, local_time, printable

_NEXT = "the server reads each dataset once a day; emitterd asks again at"
_DROPPED = (
    "the server does not say which rows: run `emitterd inspect --full FILE`, have the file"
    " corrected, and drop it again under the same name"
)
_STALLED = (
    "it probably dropped the whole file, for its header, its zip or its types: run"
    " `emitterd inspect --full FILE`, have the file corrected, and drop it again under the same"
    " name; if the inspection finds nothing, ask the server's administrator for the log of this"
    " dataset"
)
_NOT_TAKEN = (
    "if it stays there for more than a day, nothing on the server takes this name: compare it with"
    " `emitterd inspect FILE`, or ask the server's administrator whether the dataset is switched on"
)
_ROWS = {
    "blank": "blank",
    "duplicate": "with a duplicate key",
    "datatype": "with a value of a wrong type",
}


def word(side: Mapping[str, Any] | None) -> str:
    """Return a short text for a table or a list; empty if the file is not tracked."""
    if side is None:
        return ""
    rows = side.get("rows", {})
    if side["state"] == ServerState.PROCESSED and rows.get("dropped"):
        return f"processed, {count(rows['dropped'], 'row')} dropped"
    return str(side["state"]).replace("_", " ")


def sentences(side: Mapping[str, Any], delivered_at: str) -> list[str]:
    """Return what happened, what it means, and what to do."""
    gone = _picked_up(side, delivered_at)
    asks = [f"{_NEXT} {local_time(side['next_look_at'])}"] if "next_look_at" in side else []
    match side["state"]:
        case ServerState.PROCESSED:
            lines = _processed(side)
        case ServerState.WAITING if "seen_at" in side:
            lines = [f"the file waits in the bucket, last seen at {local_time(side['seen_at'])}"]
            lines += [*(asks or ["emitterd has stopped asking"]), _NOT_TAKEN]
        case ServerState.WAITING:
            lines = ["emitterd has no answer yet", *asks]
        case ServerState.PICKED_UP if asks:
            lines = [f"{gone}, and has not ended it", *asks]
        case ServerState.PICKED_UP:
            lines = [f"{gone}; it keeps no log of this dataset, so its rows are not known"]
        case ServerState.STALLED:
            lines = [f"{gone}, began it, and did not end it", _STALLED]
        case _ if "gone_at" in side:
            lines = [f"{gone}; its log does not name the file, and emitterd has stopped asking"]
        case _:
            lines = ["emitterd never saw it leave the bucket, and has stopped asking"]
    return [f"at the server: {lines[0]}", *lines[1:]]


def _picked_up(side: Mapping[str, Any], delivered_at: str) -> str:
    after = local_time(side.get("seen_at", delivered_at))
    until = local_time(side["gone_at"]) if "gone_at" in side else "now"
    return f"the server picked the file up between {after} and {until}"


def _processed(side: Mapping[str, Any]) -> list[str]:
    rows = side.get("rows", {})
    total, accepted, dropped = (rows.get(name) for name in ("total", "accepted", "dropped"))
    ended = f"processed at {local_time(side['ended_at'])} by its clock"
    if total is None or accepted is None:
        return [f"{ended}; it did not count the rows"]
    lines = [f"{ended}; it accepted {accepted:,} of {count(total, 'row')}, by its own count"]
    if dropped:
        parts = [f"{rows[name]:,} {words}" for name, words in _ROWS.items() if rows.get(name)]
        parts += [
            f"{number:,} without a value for {printable(column)}"
            for column, number in rows.get("null_values", {}).items()
        ]
        why = f": {', '.join(parts)}" if parts else ""
        lines += [f"it dropped {count(dropped, 'row')}{why}", _DROPPED]
    return lines
