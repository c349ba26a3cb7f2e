"""Moving a file: cases that the tests of the disposal do not reach."""

import errno
import os
from pathlib import Path

import pytest

from conftest import NOBODY, SKIP, Python
from emitterd.spool import files
from emitterd.spool.files import put_back

PUT_BACK = f"""
from pathlib import Path
from emitterd.spool.files import put_back
folder = Path(".")
{NOBODY}
try:
    (folder / "link").hardlink_to(folder / ".emitterd-1")
except PermissionError:
    put_back(folder / ".emitterd-1", folder / "a.zip")
else:
    os._exit({SKIP})
"""
"""The kernel refuses links to another user's file, as if there were no links."""


@pytest.mark.parametrize("newer", [False, True])
def test_name_is_given_back_without_links(tmp_path: Path, python: Python, *, newer: bool) -> None:
    """A file that cannot be linked is renamed back, and never replaces a newer one."""
    folder = tmp_path / "spool"
    folder.mkdir()
    aside = folder / ".emitterd-1"
    aside.write_bytes(b"earlier")
    aside.chmod(0o600)
    if newer:
        (folder / "a.zip").write_bytes(b"later")
    folder.chmod(0o777)
    python(PUT_BACK, cwd=folder)

    assert [file.name for file in folder.iterdir()] == ["a.zip"]
    content = (folder / "a.zip").read_bytes()
    assert content == (b"later" if newer else b"earlier")


@pytest.mark.parametrize("newer", [False, True])
def test_name_is_given_back_without_links_and_renameat2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, newer: bool
) -> None:
    """FUSE has neither: the file is renamed back if its name is free."""
    (tmp_path / ".emitterd-1").write_bytes(b"earlier")
    if newer:
        (tmp_path / "a.zip").write_bytes(b"later")

    def link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(files, "_LIBC", object())
    put_back(tmp_path / ".emitterd-1", tmp_path / "a.zip")

    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == (b"later" if newer else b"earlier")


def test_name_is_given_back(tmp_path: Path) -> None:
    """A file that was set aside gets its name back."""
    aside = tmp_path / ".emitterd-1"
    aside.write_bytes(b"it")
    put_back(aside, tmp_path / "a.zip")

    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]
