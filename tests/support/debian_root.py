"""Debian root folders made by debootstrap, and the cache that keeps them.

The tests boot copies of one (`debian.py`). `.ci/fresh-debian` runs README's commands
in copies of another. Nothing beyond the standard library is needed.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

DEBIAN = "bookworm"

_NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")


class RootError(Exception):
    """A root cannot be made here. The text says why."""


class Kind(NamedTuple):
    """A kind of root.

    `packages` come on top of debootstrap's minimal set. Change `version` to make the
    root again.
    """

    name: str
    packages: tuple[str, ...]
    version: str
    suite: str = DEBIAN


MACHINE = Kind(
    "machine",
    (
        *("ca-certificates", "dbus", "logrotate", "pipx"),
        *("python3-markupsafe", "python3-yaml", "systemd", "systemd-sysv"),
    ),
    "5",
    os.environ.get("DEBIAN", DEBIAN),
)
"""A usual Debian with systemd, what the package depends on, and pipx.

The variable DEBIAN names another release.
"""

FRESH = Kind("fresh", ("python3-venv",), "1")
"""The machine of README's first line: nothing but python3-venv."""


@contextmanager
def locked_cache(name: str) -> Iterator[Path]:
    """Hold the lock `name` of the cache, and give the cache's folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "emitterd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def copy_root(kind: Kind, target: Path) -> None:
    """Copy a root of this kind to `target`; make it first if the cache has none."""
    with locked_cache(f"{kind.name}.lock") as cache:
        subprocess.run(  # noqa: S603  our own argument list
            ["cp", "--archive", "--reflink=auto", _cached(kind, cache), target],  # noqa: S607
            check=True,
        )


def _cached(kind: Kind, cache: Path) -> Path:
    """Return the root in the cache. Older versions of it are removed."""
    base = cache / f"debian-{kind.name}-{kind.suite}-{kind.version}"
    if base.is_dir():
        return base
    for old in cache.glob(f"debian-{kind.name}-{kind.suite}-*"):
        shutil.rmtree(old)
    new = cache / f"new-{kind.name}-{kind.suite}"
    shutil.rmtree(new, ignore_errors=True)
    done = subprocess.run(  # noqa: S603  our own argument list
        [
            # The mounts end with the namespace, also when debootstrap is interrupted.
            *("unshare", "--mount", "debootstrap", "--variant=minbase"),
            f"--include={','.join(kind.packages)}",
            *(kind.suite, str(new), *_mirror(kind.suite)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(new, ignore_errors=True)
        output = f"{done.stdout[-500:]}{done.stderr[-500:]}"
        raise RootError(f"debootstrap failed: {output}")
    for path in (new / "var/cache/apt").glob("**/*.*"):
        path.unlink()
    (new / "etc/machine-id").unlink(missing_ok=True)
    for name in _NOT_NEEDED:
        shutil.rmtree(new / name)
    return new.rename(base)


def _mirror(suite: str) -> list[str]:
    """Return the archive that apt uses for this suite, or else for its own suite.

    An empty list leaves the choice to debootstrap.
    """
    done = subprocess.run(  # noqa: S603
        [
            *("apt-get", "indextargets", "--format"),
            "$(ORIGIN) $(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    targets = [line.split(" ") for line in done.stdout.splitlines()]
    archives = {
        codename: uri
        for origin, label, component, codename, uri in targets
        if (origin, label, component) == ("Debian", "Debian", "main")
    }
    if not archives:
        return []
    return [archives.get(suite, next(iter(archives.values())))]
