"""requirements.lock: what the Debian package installs."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT

LOCK = (ROOT / "requirements.lock").read_text("utf-8")
LOCKED = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE))


def dependencies() -> list[Requirement]:
    """Return what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"]]


def test_every_dependency_has_an_upper_bound() -> None:
    """A later major version is not taken without a test."""
    for requirement in dependencies():
        assert any(part.operator == "<" for part in requirement.specifier), requirement


def test_the_lock_covers_pyproject_and_all_that_it_brings() -> None:
    """Each dependency, also an indirect one, has one version, and it is allowed."""
    todo, seen = dependencies(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in LOCKED, requirement
        assert requirement.specifier.contains(LOCKED[name], prereleases=True), requirement
        if name not in seen:
            seen.add(name)
            below = map(Requirement, requires(name) or ())
            todo += [item for item in below if item.marker is None or item.marker.evaluate()]
    assert len(seen) > len(dependencies())


def test_every_locked_file_has_a_hash_and_no_host() -> None:
    """The lock says what a file contains, and not where it comes from."""
    packages = re.split(r"(?m)^(?=[\w.-]+==)", LOCK)[1:]
    assert len(packages) == len(LOCKED)
    for package in packages:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package
    assert not re.search(r"://|^-", LOCK, re.MULTILINE)


def test_installation_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    """`build-deb` sets it before it creates anything: what is installed is readable by all."""
    lines = (ROOT / "debian" / "build-deb").read_text("utf-8").partition("umask 022\n")
    made = tmp_path / "made"
    text = f"{lines[0]}{lines[1]}mkdir '{made}'\n"
    subprocess.run(  # noqa: S603  our own script
        ["sh", "-c", text],  # noqa: S607
        check=True,
        env=os.environ,
        umask=0o077,
    )
    assert lines[1]
    assert made.stat().st_mode & 0o777 == 0o755
