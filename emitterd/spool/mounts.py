"""Which file system a path is on."""

import ctypes
import os
import re
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
# The kernel writes space, tab, line break and backslash as octal numbers.
_ESCAPE = re.compile(rb"\\([0-7]{3})")

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"}
    | {"lustre", "ncpfs", "beegfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"}
    | {"fuse.glusterfs", "fuse.davfs", "davfs", "virtiofs", "vboxsf", "drvfs"}
)
"""File systems that another machine can change without this kernel noticing."""

_LEASES_PROVE = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x2FC12FC1, 0xF2F52010, 0x01021994, 0xCA451A4E, 0x794C7630}
)
"""ext2/3/4, XFS, Btrfs, ZFS, F2FS, tmpfs, bcachefs, overlayfs: only this kernel writes their files.
Source: linux/magic.h, and OpenZFS."""

_EXPORT = re.compile(r'^[ \t]*(?:"(?=[^"\n]*"))?(/[^"\s]*)', re.MULTILINE)
# A path ends before the first variable of smb.conf (`%U`): the folder above it counts.
_SHARE = re.compile(
    r'^[ \t]*(?:path|directory)[ \t]*=[ \t]*"?(/[^"%\n]*)', re.MULTILINE | re.IGNORECASE
)

_LIBC = ctypes.CDLL(None, use_errno=True)


def leases_prove(fd: int) -> bool:
    """Tell whether the kernel knows every writer of an open file.

    Over a network or FUSE the kernel grants a lease while somebody behind the mount is writing, and
    refuses it where nobody is. So only file systems that are known to be local count.
    """
    # The type is the first field of `struct statfs`, a C long. Source: fstatfs(2).
    result = (ctypes.c_long * 64)()
    done = _LIBC.fstatfs(fd, ctypes.byref(result)) == 0
    # Where a C long has 32 bits, a type above 2**31 is negative.
    return done and result[0] & 0xFFFF_FFFF in _LEASES_PROVE


def file_system(path: Path, mountinfo: Path = MOUNTINFO) -> str:
    """Return the type of the file system of `path`, or "unknown".

    A path that does not exist has the file system of its nearest parent.
    """
    return mount(path, mountinfo)[1]


def mount(path: Path, mountinfo: Path = MOUNTINFO) -> tuple[Path, str]:
    """Return mount point and type of a file system. Source: proc_pid_mountinfo(5)."""
    best, kind = Path("/"), "unknown"
    try:
        lines = mountinfo.read_bytes().split(b"\n")
    except OSError:
        return best, kind
    # Not `resolve`, which raises for a circle of links.
    target = Path(os.path.realpath(path))
    for line in lines:
        left, _, right = line.partition(b" - ")
        if not right:
            continue
        escaped = left.split(b" ")[4]
        raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), escaped)
        point = Path(os.fsdecode(raw))
        # A later line of the same mount point covers the earlier one.
        if target.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, right.split(b" ")[0].decode("ascii", "replace")
    return best, kind


def shared_by(path: Path, etc: Path = Path("/etc")) -> list[str]:
    """Return the file servers of this host that share a folder, or a part or parent of it.

    Sources: exports(5), smb.conf(5).
    """
    sources = {
        "NFS": (_EXPORT, [etc / "exports", *(etc / "exports.d").glob("*.exports")]),
        "SMB": (_SHARE, [etc / "samba" / "smb.conf"]),
    }
    target, servers = Path(os.path.realpath(path)), []
    for server, (pattern, files) in sources.items():
        text = "\n".join(file.read_text("utf-8", "replace") for file in files if file.is_file())
        folders = [Path(os.path.realpath(match[1].strip())) for match in pattern.finditer(text)]
        if any(target.is_relative_to(item) or item.is_relative_to(target) for item in folders):
            servers.append(server)
    return servers
