"""`init --from-client` on a machine with the service: moves a `client.py` installation over.

It writes the configuration and the secret of the service, gives the folder to the service, marks
what `client.py` has sent, and checks the server. It asks before it replaces anything that a person
has changed, and keeps a copy.
"""

import grp
import os
import pwd
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import click

from emitterd.cli.output import say
from emitterd.cli.setup.as_service import CONFIGURATIONS
from emitterd.cli.setup.init import (
    configuration,
    dataset_folders,
    init,
    is_shipped,
    replace_file,
    secret_file,
)
from emitterd.cli.setup.machine import HIDDEN, prepare, set_acl
from emitterd.config.rules import inside
from emitterd.config.upstream_config import UpstreamConfig, read_upstream_config
from emitterd.errors import ValueProblem
from emitterd.journal.opening import JournalLocation, is_running
from emitterd.permissions import ACCOUNT, PRODUCERS
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection
from emitterd.text import count, local_time, shown
from emitterd.units import parse_instant

CRONTABS = ("/etc/crontab", "/etc/cron.d/*", "/var/spool/cron/crontabs/*", "/var/spool/cron/*")

SETTLE_S = 6.0
"""Longer than the default of `spool.settle`."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Service:
    """Where the service has its files, and whose they are."""

    configuration: Path = CONFIGURATIONS / "emitter.yaml"
    state: Path = Path("/var/lib/emitterd")
    account: str = ACCOUNT
    producers: str = PRODUCERS

    def installed(self) -> bool:
        """Tell whether this is root on a machine that has the service."""
        try:
            pwd.getpwnam(self.account)
            grp.getgrnam(self.producers)
        except KeyError:
            return False
        return os.geteuid() == 0 and self.configuration.parent.is_dir()

    @property
    def owner(self) -> tuple[int, int]:
        """The ids of the service's user."""
        account = pwd.getpwnam(self.account)
        return account.pw_uid, account.pw_gid

    @property
    def group(self) -> int:
        """The id of the producers' group."""
        return grp.getgrnam(self.producers).gr_gid


def init_from_client(
    directory: Path | None, output: Path | None, from_client: Path, sent: str | None
) -> int:
    """Create an installation with the values of client.py; return the exit code.

    Without `output`, it is that of the service where there is one. `sent`: what client.py has sent.
    """
    client, service = read_upstream_config(from_client), Service()
    folder = (directory or _client_folder(client, from_client)).absolute()
    if output is None and service.installed():
        return migrate(folder, client, from_client, sent, service)
    if sent is not None:
        raise click.UsageError("--sent is for the service; afterwards: emitterd mark-delivered")
    return init(folder, output or Path("emitter.yaml"), client)


def migrate(
    directory: Path, client: UpstreamConfig, from_client: Path, sent: str | None, service: Service
) -> int:
    """Move an installation of `client.py` over; return the exit code.

    It is that of `mark-delivered`, or else of `check --online`.
    """
    _refuse_hidden(directory, from_client)
    files = _zip_files(directory)
    answer = _ask_sent(directory, client, from_client, files, sent) if files else "none"
    marked = _mark_arguments(answer, directory)
    _write_configuration(directory, client, service)
    former = _owners(directory)
    changed = _give_folder(directory, service)
    say(f"gave {shown(directory)} to the group {service.producers}")
    if service == Service():
        prepare()
    service.state.mkdir(0o700, exist_ok=True)
    os.chown(service.state, *service.owner)
    path = service.configuration
    steps = [*_next_steps(directory, client, service, former)]
    not_marked = 0
    if marked:
        if changed:
            # A file whose permission has changed looks like one that is still written.
            say(f"waiting {SETTLE_S:.0f} s, until the files count as complete (spool.settle)")
            time.sleep(SETTLE_S)
        not_marked = _run("mark-delivered", "--config", str(path), *marked)
    if not_marked:
        # Without this step they are sent once more.
        command = f"emitterd mark-delivered {shlex.join(marked)}"
        steps.insert(0, f"mark what client.py has sent; correct this, see above: {command}")
    code = _run("check", "--online", "--config", str(path))
    say("next, as root:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1)))
    return not_marked or code


def _run(*arguments: str) -> int:
    """Run a command of emitterd that becomes the user of the service; return its exit code."""
    program = Path(sys.argv[0]).resolve()
    command = [program] if program.name == "emitterd" else [sys.executable, "-m", "emitterd"]
    sys.stdout.flush()
    return subprocess.run([*command, *arguments], check=False).returncode  # noqa: S603  ourselves


def _write_configuration(directory: Path, client: UpstreamConfig, service: Service) -> None:
    path = service.configuration
    secret, secret_path = client.api_key or client.password, secret_file(path, client)
    replaced = [
        *([path] if path.exists() and not is_shipped(path) else []),
        *([secret_path] if secret and _holds_other(secret_path, secret) else []),
    ]
    if replaced:
        _confirm(replaced)
    for file in replaced:
        _keep_copy(file)
    replace_file(path, configuration(directory, path, client), 0o640, (0, service.owner[1]))
    say(f"wrote {shown(path)}")
    if secret:
        replace_file(secret_path, f"{secret}\n", 0o600, service.owner)
        say(f"wrote {shown(secret_path)}")


def _client_folder(client: UpstreamConfig, from_client: Path) -> Path:
    """Return the folder that client.py sends; raises a usage error if it is none."""
    if not client.file_path:
        raise click.UsageError("config.py has no file_path: give the folder as DIRECTORY")
    folder = (from_client.absolute().parent / client.file_path).resolve()
    if not folder.is_dir():
        raise click.UsageError(
            f"file_path in config.py is {shown(folder)}, which is no folder: give DIRECTORY"
        )
    return folder


def _mark_arguments(answer: str, directory: Path) -> list[str]:
    """Return the arguments of `mark-delivered` for an answer; none if there is nothing to mark.

    The answer: `all`, `none`, an instant such as 2026-11-24 (files last changed before it), or a
    pattern. Raises a usage error for anything else.
    """
    if answer == "none":
        return []
    if answer == "all":
        return ["--all"]
    if "*" in answer or (directory / answer).exists():
        return [answer]
    try:
        parse_instant(answer, time.time())
    except ValueProblem as error:
        raise click.UsageError(f"{answer} {error}: {error.remedy}") from error
    return ["--all", "--before", answer]


def _zip_files(directory: Path) -> int:
    """Count the files in the folder that emitterd would send."""
    rule = Selection(["**/*.zip"], [])
    walk = Spool(directory).walk(lambda folder: rule.skipped(folder) is not None, lambda *_: None)
    return sum(rule.ignored(path) is None for path, _ in walk)


def _ask_sent(
    directory: Path, client: UpstreamConfig, from_client: Path, files: int, sent: str | None
) -> str:
    if sent is not None:
        return sent
    choices = "all, none, a time such as 2026-11-24, or a pattern such as pat/*.zip"
    question = f"{count(files, 'zip')} in {shown(directory)}. Which has client.py sent already?"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --sent: {choices}")
    say(question, f"  {choices}", "  A time means: all files last changed before it.")
    if client.file_path and not client.file_path.endswith("/"):
        # Upstream takes the path relative to the parent then. Source: client.py, get_file_path.
        say("  file_path does not end in /: then client.py sends under names that the server")
        say("  never reads. If it was always so, answer none.")
    last_run = from_client.absolute().with_name("emission.log")
    if last_run.exists():
        # No default: a file that came while client.py ran was not sent.
        say(f"  client.py last wrote its log at {local_time(last_run.stat().st_mtime)}.")
        say("  Answer with the time at which that run began.")

    def checked(answer: str) -> str:
        _mark_arguments(answer, directory)
        return answer

    # A wrong answer is explained, and the question is asked again.
    answer: str = click.prompt("sent", value_proc=checked)
    return answer


def _refuse_hidden(directory: Path, from_client: Path) -> None:
    if not any(inside(directory, hidden) is not None for hidden in HIDDEN):
        return
    source, client = (shlex.quote(shown(path)) for path in (directory, from_client))
    raise click.ClickException(
        f"the service cannot see {shown(directory)}, because it has no access to home folders;"
        " copy the files, with their times, and name the new folder:\n"
        f"  mkdir -p /srv/cqube_emission && cp -a {source}/. /srv/cqube_emission\n"
        f"  emitterd init /srv/cqube_emission --from-client {client}"
    )


def _holds_other(path: Path, secret: str) -> bool:
    return path.exists() and path.read_text("utf-8").strip() not in {"", secret}


def _confirm(paths: list[Path]) -> None:
    names = " and ".join(map(shown, paths))
    if not sys.stdin.isatty():
        pairs = ((shown(path), f"{shown(path)}.old") for path in paths)
        commands = "\n".join(f"  {shlex.join(['mv', *pair])}" for pair in pairs)
        raise click.ClickException(
            f"{names} was changed, and nobody can be asked here; move it away:\n{commands}"
        )
    click.confirm(f"{names} was changed. Replace it, and keep a copy?", abort=True)


def _keep_copy(path: Path) -> None:
    stat = path.stat()
    copy = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%dT%H%M%S')}")
    owner = (stat.st_uid, stat.st_gid)
    replace_file(copy, path.read_text("utf-8"), stat.st_mode & 0o777, owner)
    say(f"kept the former one as {shown(copy)}")


def _owners(directory: Path) -> set[int]:
    """Return the ids of the users who own the folder or anything in it."""
    owners = set[int]()
    if directory.is_dir():
        for _, _, names, fd in os.fwalk(directory, follow_symlinks=False):
            owners.add(os.fstat(fd).st_uid)
            for name in names:
                with suppress(FileNotFoundError):
                    owners.add(os.lstat(name, dir_fd=fd).st_uid)
    return owners


def _give_folder(directory: Path, service: Service) -> bool:
    """Make what is missing of the folder, and give the service access to all of it.

    No link is followed: other users can put links there. Return whether a file was changed. Raises
    `OSError`.
    """
    changed = False
    for folder in (directory, *(directory / name for name in dataset_folders())):
        folder.mkdir(parents=folder == directory, exist_ok=True)
    uid, _ = service.owner
    for _, _, names, fd in os.fwalk(directory, follow_symlinks=False):
        # setgid gives all content to the producers' group.
        os.fchown(fd, uid, service.group)
        os.fchmod(fd, 0o2770)
        for name in names:
            changed |= _share_file(name, fd, service.group)
    set_acl("A+", directory)
    return changed


def _share_file(name: str, folder: int, group: int) -> bool:
    """Let the group read a file that others cannot read; return whether it was changed."""
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        # A link, or gone.
        return False
    try:
        stat = os.fstat(fd)
        # A second name may be that of a file elsewhere.
        if not S_ISREG(stat.st_mode) or stat.st_nlink > 1 or stat.st_mode & 0o004:
            return False
        os.fchown(fd, -1, group)
        os.fchmod(fd, (stat.st_mode | 0o040) & 0o777)
        return True
    finally:
        os.close(fd)


def _next_steps(
    directory: Path, client: UpstreamConfig, service: Service, former: Iterable[int]
) -> Iterator[str]:
    path = service.configuration
    if not client.url:
        yield f"set emission.url in {shown(path)}"
    if not client.api_key and not client.username:
        yield f"set emission.username in {shown(path)}, or run: emitterd set-api-key"
    if not client.api_key and not client.password:
        yield "store the password: emitterd set-password"
    yield from _group_steps(directory, service, former)
    yield from _cron_steps()
    verb = "restart" if is_running(JournalLocation(service.state / "journal.db")) else "start"
    yield f"{verb} the service: systemctl {verb} emitterd"


def _group_steps(directory: Path, service: Service, former: Iterable[int]) -> Iterator[str]:
    """Yield how the users who own the folder or its files can drop files again."""
    users = set(_names(former)) - {"root", service.account}
    members = grp.getgrnam(service.producers).gr_mem
    for user in sorted(users.difference(members)) if users else ["USER"]:
        who = user if users else "a user"
        command = f"usermod -aG {service.producers} {shlex.quote(user)}"
        yield f"allow {who} to drop files into {shown(directory)}: {command}"


def _names(uids: Iterable[int]) -> Iterator[str]:
    """Yield the names of users; one who is deleted has none."""
    for uid in uids:
        with suppress(KeyError):
            yield pwd.getpwuid(uid).pw_name


def _cron_steps() -> Iterator[str]:
    """Yield how to stop client.py, which would send everything once more."""
    found = False
    for pattern in CRONTABS:
        for path in sorted(Path("/").glob(pattern[1:])):
            if not path.is_file():
                continue
            lines = path.read_text("utf-8", "replace").splitlines()
            if any("client.py" in line and not line.lstrip().startswith("#") for line in lines):
                found = True
                user = path.name if path.is_relative_to("/var/spool/cron") else ""
                place = f"cron: crontab -u {user} -e" if user else shown(path)
                yield f"remove the line of client.py from {place}"
    if not found:
        yield "if a program runs client.py, stop it: client.py would send everything once more"
