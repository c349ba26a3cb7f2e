"""What identifies a version of a file without reading it."""

import os
from typing import NamedTuple, Self


class Fingerprint(NamedTuple):
    """The stat fingerprint: equal means that the content need not be hashed again.

    ctime is in it because `touch -r` can forge mtime but not ctime.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Take the fingerprint out of a stat result."""
        # SQLite's integers are signed; a device or inode number is an unsigned 64.
        return cls(
            stat.st_dev & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_ino & 0x7FFF_FFFF_FFFF_FFFF,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )

    def same_bytes(self, later: Self, links: int) -> bool:
        """Tell whether the descriptor still has the bytes this fingerprint stood for.

        A file that was deleted, or replaced by a rename, while it is read changes
        only its ctime and has no link left; the open descriptor keeps its bytes.
        """
        return self == later or (links == 0 and later.renamed_from(self))

    def renamed_from(self, earlier: Self) -> bool:
        """Tell whether it is the same file under another name: that changes ctime."""
        return self[:4] == earlier[:4]
