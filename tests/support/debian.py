"""A Debian machine in a folder: made by debootstrap, booted with systemd by nspawn.

It shares this host's network, so that a server on loopback is reachable, and nothing
else. The root is made once and kept in the user's cache; each machine is a copy.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.debian_root import MACHINE, RootError, copy_root, locked_cache
from support.paths import ROOT
from support.tiers import missing, need
from support.waiting import wait_until

TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv")
BOOT_S = 60.0
HALT_S = 30.0
CALL_S = 120.0

_ENVIRONMENT = ("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb")


class Machine:
    """A booted machine.

    `run` runs a command as root in it; `root` is its file system, `leader` its first process.
    """

    def __init__(self, root: Path) -> None:
        """Boot the system at `root`; skips the test if that is impossible here."""
        self.root = root
        self._console = root.with_name(f"{root.name}.console")
        # Nothing of the machine may outlive a test run that is killed: nobody would end it.
        # The end of nspawn is not enough. So it is the first process of a namespace: the
        # kernel ends all processes of the namespace with it.
        with self._console.open("wb") as console:
            self._unshare = subprocess.Popen(  # noqa: S603  our own argument list
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--pid", "--mount-proc", "--fork", "--kill-child"),
                    *("systemd-nspawn", "--boot", "--quiet", "--console=pipe"),
                    *("--register=no", "--keep-unit", "--link-journal=no"),
                    *(f"--machine=emitterd-{os.getpid()}", f"--directory={root}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # A first process would ask the host's journal to take its errors.
                env=os.environ | {"SYSTEMD_LOG_TARGET": "console"},
                start_new_session=True,
            )
        try:
            self.leader = wait_until(self._first_process, BOOT_S, "the first process")
            wait_until(self._booted, BOOT_S, "systemd")
        except (ChildProcessError, TimeoutError) as error:
            self.halt()
            output = self._console.read_text("utf-8", "replace").strip()
            pytest.skip(f"systemd does not boot here: {error}; {output[-500:]}")

    def _first_process(self) -> int | None:
        self._must_run()
        nspawn = self._nspawn()
        return nspawn and _first_of_namespace(nspawn)

    def _nspawn(self) -> int | None:
        return _first_of_namespace(self._unshare.pid)

    def _must_run(self) -> None:
        if self._unshare.poll() is not None:
            raise ChildProcessError(f"nspawn ended with {self._unshare.returncode}")

    def _booted(self) -> bool:
        self._must_run()
        done = self.call("systemctl", "is-system-running")
        return done.stdout.strip() in {"running", "degraded"}

    def call(
        self, *command: str, user: str | None = None, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root or another user; `typed`: its input."""
        become = ("runuser", "-u", user, "--") if user else ()
        return subprocess.run(  # noqa: S603  our own argument list
            [
                *("nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc"),
                *("--pid", "--net", "--cgroup", "--root", "--wd"),
                *("env", "--ignore-environment", *_ENVIRONMENT, *become, *command),
            ],
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_S,
        )

    def run(self, *command: str, user: str | None = None) -> str:
        """Run a command in the machine, which must end well; return what it printed."""
        done = self.call(*command, user=user)
        assert done.returncode == 0, self._describe(done, command)
        return done.stdout

    def _describe(self, done: subprocess.CompletedProcess[str], command: tuple[str, ...]) -> str:
        """Return what a failed command printed; for systemctl the journal's end too."""
        text = f"{command}: {done.stdout}{done.stderr}"
        if command[0] == "systemctl":
            text += self.call("journalctl", "--lines=40", "--output=short").stdout
        return text

    def show(self, name: str, unit: str = "emitterd.service") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def write(self, path: str, text: str) -> None:
        """Write a file, or overwrite it: owner and mode stay."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def halt(self) -> None:
        """Shut the machine down, or end it if it does not listen."""
        if nspawn := self._nspawn():
            os.kill(nspawn, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._unshare.wait(HALT_S)
        self._unshare.kill()
        self._unshare.wait(HALT_S)
        _remove_control_groups()


def _first_of_namespace(parent: int) -> int | None:
    """Return the child of `parent` that is the first process of a namespace."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            status = Path(f"/proc/{child}/status").read_text().splitlines()
            if any(statu.startswith("NSpid:") and statu.endswith("\t1") for statu in status):
                return int(child)
    except OSError:
        # It has ended between the two.
        return None
    return None


def cannot() -> str | None:
    """Return the reason why no machine can be booted here, or None."""
    if os.getuid() != 0:
        return "only root may boot a machine"
    if reason := missing(*TOOLS):
        return reason
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return f"the kernel refuses namespaces: {done.stderr.strip()}" if done.returncode else None


@contextmanager
def fresh_machine(folder: Path) -> Iterator[Machine]:
    """Boot a fresh machine in `folder`; it is gone at the end. One at a time."""
    # One at a time: the control groups of nspawn have one name.
    with locked_cache("machine-runs.lock"):
        root = folder / "machine"
        try:
            copy_root(MACHINE, root)
        except RootError as error:
            pytest.skip(str(error))
        booted = None
        try:
            booted = Machine(root)
            yield booted
        finally:
            if booted is not None:
                booted.halt()
            shutil.rmtree(root)


def _remove_control_groups() -> None:
    """Remove what nspawn makes below our own control groups and leaves there."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        name = controllers.removeprefix("name=")
        for base in (name, "unified") if name else ("unified", ""):
            for group in ("payload", "supervisor"):
                top = Path("/sys/fs/cgroup", base, own.lstrip("/"), group)
                for folder, _, _ in os.walk(top, topdown=False):
                    with suppress(OSError):
                        Path(folder).rmdir()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Debian package."""
    need("dh")
    folder = tmp_path_factory.mktemp("package")
    done = subprocess.run(  # noqa: S603  our own script
        [ROOT / "debian" / "build-deb", folder],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a fresh machine for the tests of one module."""
    if reason := cannot():
        pytest.skip(reason)
    with fresh_machine(tmp_path_factory.mktemp("debian")) as booted:
        yield booted
