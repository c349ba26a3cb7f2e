"""`service install` and `service uninstall`: emitterd as a service of systemd.

The Debian package does the same with its own means, and calls only `service setup`.
"""

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import emitterd
from emitterd.cli.output import DONE, say
from emitterd.cli.setup.as_service import CONFIGURATIONS
from emitterd.cli.setup.machine import (
    HIDDEN,
    SYSCTL,
    UNITS,
    is_booted,
    prepare,
    print_next,
    require_root,
)
from emitterd.config.rules import inside
from emitterd.share import UNITS as UNIT_NAMES
from emitterd.share import places, shared

PREFIX = Path("/usr/local")
PACKAGED = Path("/usr/lib/emitterd")
"""The Debian package has its libraries here."""

INSTANCES = ("emitterd.service", "emitterd@*.service")
NOBODY = 65534

REMEDY = """\
remove it, and as root install it for all users with one of these commands:
  PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install emitterd
  UV_TOOL_DIR=/opt/uv UV_TOOL_BIN_DIR=/usr/local/bin UV_PYTHON_INSTALL_DIR=/opt/uv/python \
uv tool install emitterd
then run: emitterd service install"""


def install() -> int:
    """Install or upgrade the service, and print each step; return the exit code."""
    require_root("install")
    _refuse_package("install", "to upgrade it, run as root: apt install ./emitterd_*.deb")
    if shutil.which("systemctl") is None:
        raise click.ClickException("this machine has no systemd")
    program = _program()
    _refuse_private(program)
    say("compiling the program: this takes some seconds")
    sys.stdout.flush()
    # The service may not write there, so Python would compile at each start.
    compileall.compile_dir(Path(emitterd.__file__).parents[1], quiet=2)
    first = not (UNITS / UNIT_NAMES[0]).exists()
    for path, content in _files(program):
        action = "replaced" if path.exists() else "created "
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        say(f"{action} {path}")
    is_new = prepare()
    _run("journalctl", "--update-catalog")
    if first:
        # Not at an upgrade: the administrator may have disabled it since.
        _run("systemctl", "--quiet", "enable", UNIT_NAMES[0])
    if is_booted():
        _run("systemctl", "try-restart", *INSTANCES)
    print_next(is_new=is_new)
    return DONE


def uninstall() -> int:
    """Stop the service and remove its files, but no data; return the exit code."""
    require_root("uninstall")
    _refuse_package("uninstall", "to remove it, run as root: apt remove emitterd")
    if is_booted():
        _run("systemctl", "--quiet", "stop", *INSTANCES)
    wants = UNITS / "multi-user.target.wants"
    drop_ins = [*UNITS.glob("emitterd.service.d/*"), *UNITS.glob("emitterd@*.service.d/*")]
    ours = {"configured.conf", "notify-reload.conf"}
    for path in (
        *(wants / UNIT_NAMES[0], *wants.glob("emitterd@*.service")),
        *(drop_in for drop_in in drop_ins if drop_in.name in ours),
        *(UNITS / name for name in UNIT_NAMES),
        *(SYSCTL, *places(PREFIX).values()),
    ):
        if os.path.lexists(path):
            path.unlink()
            say(f"removed {path}")
            if path.parent.name.endswith(".service.d") and not any(path.parent.iterdir()):
                path.parent.rmdir()
    if is_booted():
        _run("systemctl", "daemon-reload")
    _run("journalctl", "--update-catalog")
    say(
        f"kept    {CONFIGURATIONS}, /var/lib/emitterd, /var/log/emitterd, the user emitterd, and"
        " the watched folder",
        "next: remove the program, as it was installed, for example: pipx uninstall emitterd",
    )
    return DONE


def _refuse_package(command: str, remedy: str) -> None:
    """Refuse if the Debian package is installed: both would overwrite each other's files."""
    if PACKAGED.exists():
        raise click.ClickException(
            f"the Debian package emitterd is installed, so `service {command}` does nothing;"
            f" {remedy}"
        )


def _program() -> Path:
    """Return the path of the command `emitterd` that is running."""
    path = Path(sys.argv[0]).resolve()
    if path.name != "emitterd":
        raise click.ClickException("run the installed command: emitterd service install")
    return path


def _refuse_private(program: Path) -> None:
    """Refuse a program that the user of the service cannot run."""
    parts = (program, Path(sys.executable), Path(emitterd.__file__))
    hidden = any(inside(part, folder) is not None for part in parts for folder in HIDDEN)
    try:
        done = subprocess.run(  # noqa: S603  ourselves
            [program, "--version"],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        failed = done.returncode != 0
    except OSError:
        failed = True
    if hidden or failed:
        raise click.ClickException(f"the service cannot run {program}: {REMEDY}")


def _files(program: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the path and the content of each file to put in place."""
    for name in UNIT_NAMES:
        text = shared(f"systemd/{name}").read_text("utf-8")
        started = text.replace("ExecStart=/usr/bin/emitterd ", f'ExecStart="{program}" ')
        yield UNITS / name, started.encode()
    for name, path in places(PREFIX).items():
        yield path, shared(name).read_bytes()


def _run(*command: str) -> None:
    subprocess.run(command, check=False)  # noqa: S603  our own arguments
