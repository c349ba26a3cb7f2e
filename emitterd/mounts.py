"""Which file system a path lies on."""

from pathlib import Path

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"}
    | {"lustre", "ncpfs", "beegfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"}
    | {"fuse.glusterfs", "fuse.davfs", "davfs", "virtiofs", "vboxsf", "drvfs"}
)
"""File systems that another machine can change without this kernel noticing."""


def file_system(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that `path`, or its nearest parent, is on.

    "unknown" where the kernel does not say. Source: proc_pid_mountinfo(5).
    """
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "unknown"
    target = path.resolve()
    best, kind = Path("/"), "unknown"
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        # A later line of the same mount point lies over the earlier one.
        if target.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, right.split()[0]
    return kind


def is_network(path: Path) -> bool:
    """Tell whether the path lies on a network file system."""
    return file_system(path) in NETWORK
