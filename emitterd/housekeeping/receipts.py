"""Receipts kept outside of the journal: what `receipts --json` printed, or the log."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from emitterd.errors import JournalError, printable
from emitterd.model import undisplay


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """One receipt. `paths`: which it may mean, the likeliest first."""

    paths: list[bytes]
    size_bytes: int
    sha256: bytes
    md5: bytes | None
    key: str
    etag: str | None
    verified: bool
    ambiguous: bool
    delivered_at: float


def kept_receipts(source: Path) -> Iterator[KeptReceipt]:
    """Yield the receipts in a file, in its order; lines of anything else are passed by.

    Raises `OSError`, and `JournalError` where a list is not whole.
    """
    with source.open(encoding="utf-8", errors="replace") as file:
        listed = file.read(1) == "["
        file.seek(0)
        for record in _list(source, file.read()) if listed else map(_parse, file):
            if isinstance(record, dict) and _is_receipt(record):
                # A line that was cut off or altered is no proof.
                with suppress(KeyError, ValueError, TypeError):
                    yield _kept(record)


def _list(source: Path, text: str) -> list[object]:
    try:
        return list(json.loads(text))
    except ValueError as error:
        raise JournalError(
            f"{printable(str(source))} is not a whole list of receipts: {error}",
            hint="print it anew by `emitterd receipts --json`, or give the log",
        ) from error


def _parse(line: str) -> object:
    # journalctl and other programs write lines of their own between.
    with suppress(ValueError):
        return json.loads(line)
    return None


def _is_receipt(record: dict[str, Any]) -> bool:
    if "event" in record:
        return bool(record["event"] == "file.delivered")
    return record.get("state") == "delivered"


def _kept(record: dict[str, Any]) -> KeptReceipt:
    at = record["timestamp"] if "event" in record else record["delivered_at"]
    md5 = record.get("md5")
    return KeptReceipt(
        undisplay(record["path"]),
        int(record["bytes"]),
        _digest(record["sha256"], 32),
        _digest(md5, 16) if md5 else None,
        str(record["key"]),
        record.get("etag"),
        bool(record.get("verified")),
        bool(record.get("ambiguous")),
        datetime.fromisoformat(at).timestamp(),
    )


def _digest(text: str, size_bytes: int) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != size_bytes:
        raise ValueError(f"no digest of {size_bytes} bytes: {text}")
    return digest
