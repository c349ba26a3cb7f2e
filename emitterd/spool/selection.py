"""Which names are candidates: temporary names, then `exclude`, then `include`."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pathspec import PathSpec

from emitterd.text import printable
from emitterd.translation.text import Text

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
"""Names that programs use while they write; matched against the base name."""

SYSTEM_FOLDER = re.compile(
    rb"""
    \.                          # hidden: also .Trash-1000, .snapshot
    | [#@]recycle$ | \$RECYCLE\.BIN$ | RECYCLER$
    | [#@](?:recently-)?snapshot$
    | @eaDir$ | @tmp$ | System\ Volume\ Information$ | lost\+found$
    | .*\.download$             # Safari's x.zip.download/x.zip
    | .*\.sb-[0-9a-f]{8}-\w+$   # macOS saves to x.zip.sb-1a2b3c4d-AbCdEf/x.zip
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Names of folders that a program or a file server keeps for itself."""


AT_THE_TOP = Text("it is at the top of the watched folder, not in a dataset folder")


def at_the_top(path: bytes) -> bool:
    """Tell whether a file is in no folder: no version of the server has a route for it."""
    return b"/" not in path


class Selection:
    """Decides by name alone whether a path under the watched folder is a candidate.

    Patterns are those of gitignore: `**/*.zip`, `old/`, `!keep.zip`. Paths are relative to the
    watched folder, as bytes, with `/`.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include = PathSpec.from_lines("gitignore", include)
        lines = list(exclude)
        self._exclude = PathSpec.from_lines("gitignore", lines)
        self._patterns = [printable(line) for line in lines]
        self._reincludes = any(line.startswith("!") for line in lines)

    def ignored(self, path: bytes) -> str | None:
        """Return why the path is not a candidate, or None if it is one."""
        *folders, base = path.split(b"/")
        if any(SYSTEM_FOLDER.match(folder) for folder in folders):
            return Text("it is in a hidden folder, or in one of the system")
        if TEMPORARY.match(base):
            return Text("its name is that of a temporary file")
        excluded = self._excluded(path)
        if excluded is None and not self._include.match_file(_text(path)):
            return Text("spool.include does not name it")
        return excluded

    def wrong_ending(self, path: bytes) -> str | None:
        """Return why a path would be a candidate if its ending were in lower case.

        `DATA.ZIP` is a zip to the person who dropped it, but not to the server. None for all other
        paths.
        """
        base = path.rpartition(b"/")[2]
        if base.endswith(b".zip") or not base.lower().endswith(b".zip"):
            return None
        if self.ignored(path[:-4] + b".zip") is not None:
            return None
        return Text("the server takes names ending in .zip only, in lower case")

    def skipped(self, folder: bytes) -> str | None:
        """Return why a folder is skipped whole, or None if it is not.

        With a pattern like `!keep.zip` an excluded folder may have a candidate.
        """
        if SYSTEM_FOLDER.match(folder.rpartition(b"/")[2]):
            return Text("a hidden folder, or one of the system")
        # The slash marks a folder: without it the pattern `old/` does not match.
        return None if self._reincludes else self._excluded(folder + b"/")

    def _excluded(self, path: bytes) -> str | None:
        excluded = self._exclude.check_file(_text(path))
        if excluded.include and excluded.index is not None:
            return f"spool.exclude names it: {self._patterns[excluded.index]}"
        return None


def path_matcher(patterns: Iterable[str], root: Path | None = None) -> Callable[[bytes], bool]:
    """Return a function that tells whether a path is named by patterns, as in a gitignore.

    A folder names everything below it. A pattern may be absolute, below the folder `root`. Hidden
    and temporary names are matched like all others.
    """
    below = f"{root}/"
    spec = PathSpec.from_lines(
        "gitignore",
        # As below the root of a gitignore: anchored.
        (
            f"/{pattern.removeprefix(below)}" if pattern.startswith(below) else pattern
            for pattern in patterns
        ),
    )
    return lambda path: spec.match_file(_text(path))


def _text(path: bytes) -> str:
    # pathspec's `**` is a regular expression's dot, which no newline matches.
    return path.decode("utf-8", "surrogateescape").replace("\n", "\N{SYMBOL FOR NEWLINE}")
