"""The user that this process runs as, and the commands that help where a permission is missing."""

import grp
import os
import pwd
import shlex
import sys
from pathlib import Path

from emitterd.text import shown

ACCOUNT, PRODUCERS = "emitterd", "emitterd-producers"
"""The user of the service, and the group of the users who drop files."""


def name_of(uid: int) -> str:
    """Return the name of a user, or the number if there is no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def current_user() -> str:
    """Return the name of this process's user."""
    return name_of(os.geteuid())


def as_root() -> str:
    """Return how to run the present command as root."""
    return f"run it as root: {shlex.join(['emitterd', *map(shown, sys.argv[1:])])}"


def permission_command(path: Path, bits: str) -> str:
    """Return the command of root that gives this process `bits`, such as `rx`, on a path.

    Where a folder above it cannot be passed, the command is for that folder.
    """
    for folder in reversed(path.parents):
        if not os.access(folder, os.X_OK):
            path, bits = folder, "x"
            break
    stat, name = path.stat(), shlex.quote(shown(path))
    groups = {os.getegid(), *os.getgroups()}
    if stat.st_uid == os.geteuid():
        return f"as root: chmod u+{bits} {name}"
    if stat.st_gid in groups:
        return f"as root: chmod g+{bits} {name}"
    try:
        is_producer = grp.getgrnam(PRODUCERS).gr_gid in groups
    except KeyError:
        is_producer = False
    if is_producer:
        return f"as root: chgrp {PRODUCERS} {name} && chmod g+{bits} {name}"
    return f"as root: chown {current_user()} {name}"
