"""Which names are candidates: temporary names, then `exclude`, then `include`."""

import re
from collections.abc import Iterable

from pathspec import PathSpec

from emitterd.text import printable

TEMPORARY = re.compile(
    rb"""
    \.                          # dot files: editors, rsync's .x.zip.AbC123, .~lock
    | zi[A-Za-z0-9]{6}$         # Info-ZIP's working file
    | ~                         # office and editor working copies
    | .*\.(?:part|partial|filepart|crdownload|download|tmp|temp|swp)$
    | .*~$
    | .*\.syncthing\..*
    """,
    re.VERBOSE | re.DOTALL,
)
"""Names that producers use while they write; matched against the base name."""


class Selection:
    """Decides by name alone whether a path under the watched folder is a candidate.

    Patterns are those of gitignore: `**/*.zip`, `old/`, `!keep.zip`. Paths are
    relative to the watched folder, as bytes, with `/`.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include = PathSpec.from_lines("gitignore", include)
        lines = list(exclude)
        self._exclude = PathSpec.from_lines("gitignore", lines)
        self._patterns = [printable(line) for line in lines]

    def ignored(self, path: bytes) -> str | None:
        """Return why the path is no candidate, or None where it is one."""
        parts = path.split(b"/")
        for part in parts[:-1]:
            if part.startswith(b"."):
                return "it lies in a hidden folder"
        if TEMPORARY.match(parts[-1]):
            return "its name is that of a temporary file"
        # pathspec's `**` is a regular expression's dot, which no newline matches.
        text = path.decode("utf-8", "surrogateescape").replace(
            "\n", "\N{SYMBOL FOR NEWLINE}"
        )
        excluded = self._exclude.check_file(text)
        if excluded.include and excluded.index is not None:
            return f"spool.exclude names it: {self._patterns[excluded.index]}"
        if not self._include.match_file(text):
            return "spool.include does not name it"
        return None

    def overlooked(self, path: bytes) -> str | None:
        """Return why an ignored path is to be told all the same, or None.

        `DATA.ZIP` is a zip to whoever dropped it, and none to the server.
        """
        base = path.rpartition(b"/")[2]
        if base.endswith(b".zip") or not base.lower().endswith(b".zip"):
            return None
        renamed = path[:-4] + b".zip"
        if self.ignored(renamed) is not None:
            return None
        return "the server takes names ending in .zip only, in lower case"

    def hidden(self, folder: bytes) -> bool:
        """Tell whether a folder is passed over whole: its name begins with a dot."""
        return folder.rpartition(b"/")[2].startswith(b".")
