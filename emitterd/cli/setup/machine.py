"""`service setup`: prepares this machine for /etc/emitterd/*.yaml.

It makes the user, the group, the watched folders and the settings of the units. It can be
repeated, and changes no file or folder that exists, except the owner and mode that the service
needs to read a new configuration.
"""

import grp
import math
import os
import pwd
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from emitterd.cli.output import DONE, complain, print_problems, say
from emitterd.cli.setup.as_service import CONFIGURATIONS, unit_of
from emitterd.cli.setup.init import dataset_folders, replace_file, shipped
from emitterd.config.rules import inside
from emitterd.config.settings import Config, load_part
from emitterd.errors import ConfigError
from emitterd.permissions import ACCOUNT, PRODUCERS
from emitterd.share import shared
from emitterd.spool.watcher import folders_below, watch_limit
from emitterd.text import count, shown

UNITS = Path("/etc/systemd/system")
SYSCTL = Path("/etc/sysctl.d/60-emitterd.conf")

WRITABLE = (Path("/srv"), Path("/var/log/emitterd"))
"""Folders that the units let the service write to."""

HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
"""Folders that the units hide from the service."""

STOP_S = 30
"""The drain_timeout for which TimeoutStopSec= of the units is enough."""

NOTIFY_RELOAD = 253
"""The first version of systemd that knows Type=notify-reload."""

USERS = f"""\
g {PRODUCERS} -
u {ACCOUNT} - "cQube emission" /var/lib/emitterd
m {ACCOUNT} {PRODUCERS}
"""

NEXT = f"""\
next, as root:
  1. set emission.url and emission.username in {CONFIGURATIONS}/emitter.yaml
  2. store the password:          emitterd set-password
  3. allow a user to drop files:  usermod -aG {PRODUCERS} USER
  4. check:                       emitterd check --online
  5. start:                       systemctl start emitterd
To move from client.py, run this instead of 1 to 4:
  emitterd init --from-client CONFIG_PY
If you change a folder or delivery.drain_timeout, run: emitterd service setup"""

NEXT_AGAIN = "next, as root: emitterd check --online && systemctl start emitterd"
"""For a machine that is configured already."""


def setup() -> int:
    """Prepare this machine, and print the next steps; return the exit code."""
    require_root("setup")
    print_next(is_new=prepare())
    return DONE


def require_root(command: str) -> None:
    """Raise a usage error if this is not root. Files that root creates can be read by all."""
    if os.geteuid() != 0:
        raise click.ClickException(f"only root can do this; as root: emitterd service {command}")
    os.umask(0o022)


def prepare() -> bool:
    """Make what is missing, and print that; return whether there was no configuration."""
    for kind, known, name in (("group", _groups, PRODUCERS), ("user", _users, ACCOUNT)):
        if name not in known():
            say(f"created  {kind} {name}")
    _run("systemd-sysusers", "-", given=USERS)
    is_new = _make_configuration()
    configurations = sorted(CONFIGURATIONS.glob("*.yaml"))
    for path in configurations:
        _share_with_service(path)
    watched = sum(map(_configure, configurations))
    _allow_watches(watched)
    _use_notify_reload()
    if is_booted():
        _run("systemctl", "daemon-reload")
    return is_new


def print_next(*, is_new: bool) -> None:
    """Print the next steps, unless the service runs already."""
    active = ("systemctl", "--quiet", "is-active", "emitterd.service")
    if is_booted() and subprocess.run(active, check=False).returncode == 0:  # noqa: S603
        return
    say(NEXT if is_new else NEXT_AGAIN)


def is_booted() -> bool:
    """Return whether systemd runs this machine. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def _groups() -> set[str]:
    return {group.gr_name for group in grp.getgrall()}


def _users() -> set[str]:
    return {user.pw_name for user in pwd.getpwall()}


def _make_configuration() -> bool:
    """Create the first configuration and the file of its password; return whether it is new."""
    CONFIGURATIONS.mkdir(exist_ok=True)
    present = sorted(CONFIGURATIONS.glob("*.yaml"))
    for path in present or [CONFIGURATIONS / "emitter.yaml"]:
        _create(path, shipped(), 0o640, "root")
    _create(CONFIGURATIONS / "password", "", 0o600, ACCOUNT)
    return not present


def _create(path: Path, text: str, mode: int, owner: str) -> None:
    """Create a file of the service's group; an existing one stays."""
    if os.path.lexists(path):
        return
    ids = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(ACCOUNT).gr_gid)
    replace_file(path, text, mode, ids)
    say(f"created  {path}")


def _share_with_service(path: Path) -> None:
    """Let the service read a configuration that is root's alone."""
    stat = path.lstat()
    if stat.st_uid == 0 and stat.st_gid == 0 and path.is_file():
        os.chown(path, 0, grp.getgrnam(ACCOUNT).gr_gid)
        path.chmod(0o640)


def _configure(path: Path) -> int:
    """Prepare the machine for one configuration; return how many folders it watches."""
    try:
        config = load_part(path, {}, "spool", "delivery", "log")
        spool = config.spool
        for folder in (spool.directory, spool.archive_directory, spool.rejected_directory):
            if folder is not None:
                _make_folder(folder)
        _make_datasets(spool.directory)
        _write_drop_in(UNITS / f"{unit_of(path)}.d" / "configured.conf", config)
    except ConfigError as error:
        print_problems(error)
    except OSError as error:
        complain(f"{path}: cannot create {shown(error.filename)}: {error.strerror}")
    else:
        say(f"prepared this machine for {path}")
        return folders_below(spool.directory)
    complain("correct it, then run as root: emitterd service setup")
    return 0


def _make_folder(folder: Path) -> None:
    if any(inside(folder, hidden) is not None for hidden in HIDDEN):
        complain(f"{shown(folder)}: the service cannot see it; use a folder below /srv")
    if folder.exists():
        return
    folder.mkdir(parents=True)
    os.chown(folder, pwd.getpwnam(ACCOUNT).pw_uid, grp.getgrnam(PRODUCERS).gr_gid)
    # setgid gives all content to the producers' group.
    folder.chmod(0o2770)
    set_acl("a+", folder)
    say(f"created  {shown(folder)}")


def set_acl(kind: str, folder: Path) -> None:
    """Let the group read and move all new files, also if the umask of the producer does not.

    `kind`: a+ for this folder, A+ for all below it too. Source: tmpfiles.d(5).
    """
    acl = f'{kind} "{_escaped(folder)}" - - - - default:group::rwx,default:other::---\n'
    _run("systemd-tmpfiles", "--create", "-", given=acl)


def _make_datasets(folder: Path) -> None:
    """Make the dataset folders in a watched folder that has none."""
    if any(entry.is_dir() for entry in os.scandir(folder)):
        return
    stat = folder.stat()
    names = dataset_folders()
    with _acting_as(stat):
        for name in names:
            (folder / name).mkdir(stat.st_mode & 0o777)
    say(f"created  {count(len(names), 'dataset folder')} in {shown(folder)}")


@contextmanager
def _acting_as(owner: os.stat_result) -> Iterator[None]:
    """Act as the owner of a folder: others can put links there, which root would follow."""
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    umask = os.umask(0)
    try:
        yield
    finally:
        os.umask(umask)
        os.seteuid(0)
        os.setegid(0)


def _write_drop_in(path: Path, config: Config) -> None:
    """Write the settings of a unit that depend on its configuration; remove what is not needed."""
    drain_s = math.ceil(config.delivery.drain_timeout_s)
    # emitterd.service explains the sum.
    lines = [f"TimeoutStopSec={drain_s + 15}"] if drain_s > STOP_S else []
    lines += [f'ReadWritePaths="-{_escaped(folder)}"' for folder in _written(config)]
    head = "# Written by `emitterd service setup` from the configuration. Do not edit.\n[Service]\n"
    text = head + "".join(f"{line}\n" for line in lines)
    if not lines:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        unit = path.parent.name.removesuffix(".d")
        say(f"created  {shown(path)}; to apply it: systemctl restart {unit}")


def _written(config: Config) -> Iterator[Path]:
    """Yield the folders that the service writes to and the unit alone does not allow."""
    spool, log = config.spool, config.log.file
    outputs = (spool.archive_directory, spool.rejected_directory)
    written: Iterable[Path | None] = ()
    if any(outputs) or spool.after_delivery != "keep":
        written = (spool.directory, *outputs)
    for folder in filter(None, (*written, log and log.parent)):
        if not any(map(folder.is_relative_to, WRITABLE)):
            yield folder


def _escaped(path: Path) -> str:
    """Return a path for a quoted word in a file of systemd."""
    return re.sub(r'[\\"]', r"\\\g<0>", str(path)).replace("%", "%%")


def _allow_watches(folders: int) -> None:
    """Raise the limit of watches: `check` warns at half of it. One folder needs one watch."""
    limit = watch_limit()
    if limit is None or folders * 2 <= limit:
        return
    key, wanted = "fs.inotify.max_user_watches", max(folders * 4, 524288)
    SYSCTL.parent.mkdir(exist_ok=True)
    SYSCTL.write_text(f"# emitterd watches {folders} folders.\n{key}={wanted}\n", "utf-8")
    say(f"created  {SYSCTL}")
    if subprocess.run(("sysctl", "-q", "-p", SYSCTL), check=False).returncode:  # noqa: S603, S607
        complain(f"cannot raise {key} to {wanted} now; it is raised at the next boot")


def _use_notify_reload() -> None:
    """Add notify-reload.conf where systemd knows it, for `systemctl reload` to wait."""
    version = re.match(r"systemd (\d+)", _run("systemctl", "--version"))
    text = shared("systemd/notify-reload.conf").read_bytes()
    for unit in ("emitterd", "emitterd@"):
        path = UNITS / f"{unit}.service.d" / "notify-reload.conf"
        if version and int(version[1]) >= NOTIFY_RELOAD:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        else:
            path.unlink(missing_ok=True)


def _run(*command: str, given: str = "") -> str:
    """Run a command of systemd; raises `click.ClickException` with its message if it fails."""
    try:
        done = subprocess.run(  # noqa: S603  our own argument list
            command, input=given, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise click.ClickException(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
