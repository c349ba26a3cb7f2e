"""Commands that change the machine, tried on a copy of it that nobody else sees.

Only root can make such a copy, and not in every container. What a command writes is in memory, and
gone when it ends. systemd cannot be reached from there, as on a machine that is not booted.
"""

import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_MOUNTS = """\
mount -t tmpfs scratch /mnt
for folder in etc opt srv usr/local var; do
    mkdir -p /mnt/$folder/new /mnt/$folder/work
    mount -t overlay scratch /$folder -o "lowerdir=/$folder,upperdir=/mnt/$folder/new\
,workdir=/mnt/$folder/work"
done
mount -t tmpfs -o mode=755 scratch /run
"""

_PROGRAM = """\
rm -rf /etc/emitterd /srv/cqube_emission
sed -i /^emitterd/d /etc/passwd /etc/shadow /etc/group /etc/gshadow
venv=/opt/pipx/venvs/emitterd
/usr/bin/python3 -m venv --without-pip $venv
mkdir /opt/libraries
mount --bind "$1" /opt/libraries
packages=$(echo $venv/lib/python3*/site-packages)
echo /opt/libraries > $packages/libraries.pth
cp -rL "$2/emitterd" $packages
printf '#!%s\nfrom emitterd.__main__ import main\nmain()\n' $venv/bin/python3 \
    > $venv/bin/emitterd
chmod 755 $venv/bin/emitterd
ln -sf $venv/bin/emitterd /usr/local/bin/emitterd
shift 2
cd /root
exec env -u VIRTUAL_ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""
"""Installs emitterd for all users, as pipx does. Its libraries are those of this environment."""


def is_possible() -> bool:
    """Tell whether this user can have a copy of the machine here."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(_unshare(_MOUNTS), capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0


def in_scratch(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command on a copy of this machine with emitterd."""
    libraries = sysconfig.get_path("purelib")
    return [*_unshare(_MOUNTS + _PROGRAM), "sh", libraries, str(ROOT), *command]


def _unshare(script: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-ec", script]
