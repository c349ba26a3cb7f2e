"""What the mounts and the file servers of this host say about a folder."""

from pathlib import Path

import pytest

from emitterd.spool.mounts import shared_by


@pytest.mark.parametrize(
    ("exports", "smb", "servers"),
    [
        ("/srv 10.0.0.0/8(rw)\n", "", ["NFS"]),
        ('"/srv/drop" *(rw)\n', "", ["NFS"]),
        ("/srv/drop/pat *(ro)\n", "[drop]\n  Path = /srv/drop\n", ["NFS", "SMB"]),
        ("", "[home]\n  path = /srv/%U\n", ["SMB"]),
        ("# /srv\n/srv2 *(rw)\n/srv/drop2 *(rw)\n", "; path = /srv\n#path=/srv\n", []),
        ("", "", []),
    ],
)
def test_a_folder_that_this_host_shares_is_recognised(
    tmp_path: Path, exports: str, smb: str, servers: list[str]
) -> None:
    """The folder itself, its parent or a part of it, in the usual notations."""
    (tmp_path / "samba").mkdir()
    (tmp_path / "exports.d").mkdir()
    (tmp_path / "exports.d" / "a.exports").write_text(exports)
    (tmp_path / "samba" / "smb.conf").write_text(smb)

    assert shared_by(Path("/srv/drop"), tmp_path) == servers


def test_without_file_servers_nothing_is_shared(tmp_path: Path) -> None:
    """The files need not exist."""
    assert shared_by(Path("/srv/drop"), tmp_path) == []
