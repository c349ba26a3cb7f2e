"""Which file a person means who knows a part of its name.

By the journal's index only: a name, with or without its folder, or its beginning.
"""

import os
from itertools import islice

from emitterd.journal.connection import Read
from emitterd.model import undisplay
from emitterd.spool.folder import Spool

MATCHES = 20
FOLDERS = 200
"""So many dataset folders are looked through: a catalogue has a fifth of that."""

_BEGINNING = """select distinct path from entry where path >= ? and path < ?
    order by path limit ?"""


def search(spool: Spool, read: Read, said: str) -> list[bytes]:
    """Return paths of the journal that begin so, in their dataset folder or from it."""
    beginnings = [one.lstrip(b"/") for one in undisplay(said)]
    folders = [b"", *_folders(spool)]
    found: dict[bytes, None] = {}
    for beginning in beginnings:
        for folder in folders if beginning else []:
            first = folder + beginning
            # In UTF-8 nothing follows that is as high.
            rows = read(_BEGINNING, (first, first + b"\xff\xff", MATCHES))
            found.update(dict.fromkeys(row[0] for row in rows))
    return list(found)[:MATCHES]


def _folders(spool: Spool) -> list[bytes]:
    """Return the folders right under the root, each with its slash."""
    try:
        with os.scandir(os.fsencode(spool.root)) as scan:
            folders = (one.name for one in scan if one.is_dir(follow_symlinks=False))
            return [name + b"/" for name in islice(folders, FOLDERS)]
    except OSError:
        return []
