"""A journal with a past: deliveries copied from one that emitterd itself recorded.

To deliver a million files would take an hour. So one is delivered, and its row is
copied for each other file, with that file's path and fingerprint; columns that this
module does not know stay as emitterd wrote them.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

_OWN = ("path", "key", "device", "inode", "bytes", "mtime_ns", "ctime_ns")
DATED = (*_OWN, "flow", "admitted_at", "changed_at", "delivered_at")
"""The columns of `month`."""

MONTH_S = 30 * 86400.0

Row = tuple[bytes, str, int, int, int, int, int]


def deliveries(journal: Path, rows: Iterable[Sequence[object]], own: Sequence[str] = _OWN) -> None:
    """Add rows of these columns to a journal that nobody has open; it holds one delivery."""
    connection = sqlite3.connect(journal)
    try:
        # A power cut may destroy the journal: it is only for this run.
        connection.execute("pragma synchronous = off")
        connection.execute("pragma cache_size = -500000")
        columns = [row[1] for row in connection.execute("pragma table_info(entry)")]
        others = [name for name in columns if name not in {"id", *own}]
        names = ", ".join(f'"{name}"' for name in (*own, *others))
        copied = ", ".join(f'"{name}"' for name in others)
        like = connection.execute(f"select {copied} from entry limit 1").fetchone()  # noqa: S608  names of the schema
        marks = ", ".join("?" * (len(own) + len(others)))
        connection.executemany(
            f"insert into entry ({names}) values ({marks})",  # noqa: S608  as above
            ((*row, *like) for row in rows),
        )
        connection.commit()
    finally:
        connection.close()


def of_folder(folder: Path) -> Iterable[Row]:
    """Yield a row for each file of a folder."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(directory, name)  # noqa: PTH118  a hundred thousand
            stat = os.stat(path)  # noqa: PTH116
            relative = os.path.relpath(path, folder)
            yield (
                relative.encode(), relative, stat.st_dev, stat.st_ino, stat.st_size,
                stat.st_mtime_ns, stat.st_ctime_ns,
            )  # fmt: skip


def invented(numbers: range) -> Iterable[Row]:
    """Yield rows of files that are gone from the folder since."""
    for number in numbers:
        name = f"student_attendance/student_attendance_past_{number:07d}.zip"
        yield name.encode(), name, 1, number + 1, 8000, number, number


def month(count: int, titles: Sequence[str], now: float) -> Iterable[Sequence[object]]:
    """Yield rows of `DATED`: files of many datasets, which came one after the other until now."""
    for number in range(count):
        title = titles[number % len(titles)]
        name = f"{title}_past_{number:07d}.zip"
        at = now - MONTH_S * (count - number) / count
        yield (name.encode(), name, 1, number + 1, 8000, number, number, title, at, at, at)
