"""`set-password` and `set-api-key`: store a secret without showing it.

The file is the one that the configuration names. Only these commands replace a secret.
"""

import os
import pwd
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from emitterd.cli.output import DONE, complain, say
from emitterd.cli.setup.as_service import CONFIGURATIONS, unit_of
from emitterd.cli.setup.init import fill, quoted, replace_file
from emitterd.config.rules import inside
from emitterd.config.secrets import clean
from emitterd.config.settings import EmissionSettings, load_part
from emitterd.config.sources import find
from emitterd.errors import ValueProblem
from emitterd.journal.opening import is_running
from emitterd.permissions import ACCOUNT, as_root
from emitterd.text import shown

_NOUNS = {"password": "password", "api_key": "API key"}
_OTHERS = {
    "password": ("password", "password_env", "api_key_file", "api_key", "api_key_env"),
    "api_key": (
        *("api_key", "api_key_env"),
        *("username", "password_file", "password", "password_env"),
    ),
}
"""The keys of `emission` that contradict the file of each secret."""


def set_secret(config: Path | None, name: str) -> int:
    """Ask for the `password` or the `api_key` and store it; return the exit code."""
    source = find(config, os.environ)
    settings = load_part(source, os.environ, "emission", "journal")
    emission = settings.emission
    if name == "password" and emission.takes_programs:
        message = "cQube 5 has no users; if a gateway asks for a token: emitterd set-api-key"
        raise click.ClickException(message)
    named: Path | None = getattr(emission, f"{name}_file")
    file = named or default_file(source.absolute(), name)
    others = [key for key in _OTHERS[name] if getattr(emission, key) is not None]
    new_text = _without(source, name, file, others) if others else None
    secret = _ask(name)
    try:
        store_secret(file, secret, source)
        say(f"stored {shown(file)}")
        if new_text is not None:
            _replace(source, new_text, source.stat())
            say(f"changed {shown(source)}: api_key_file instead of {' and '.join(others)}")
    except OSError as error:
        message = f"{shown(file)} cannot be written: {error.strerror}; {as_root()}"
        raise click.ClickException(message) from error
    in_use = named is not None or new_text is not None
    running = is_running(settings.journal.location)
    say("next:", *_next(source, emission, name, named=in_use, running=running))
    return DONE


def default_file(source: Path, name: str) -> Path:
    """Return the file that systemd gives to the service of a configuration."""
    instance = inside(source, CONFIGURATIONS) is not None and source.stem != "emitter"
    prefix = f"{source.stem}." if instance else ""
    return source.with_name(prefix + name.replace("_", "-"))


def store_secret(file: Path, secret: str, configuration: Path) -> None:
    """Replace the file of a secret at once; who can read it can read the new one.

    The service of a configuration in /etc/emitterd gets a file of its own. Raises `OSError`.
    """
    file = Path(os.path.realpath(file))
    stat = file.stat() if file.exists() else None
    owner = _service_user(configuration)
    mode = 0o600 | (stat.st_mode & 0o040 if stat is not None else 0)
    if owner is not None:
        replace_file(file, f"{secret}\n", mode, (owner.pw_uid, owner.pw_gid))
    elif stat is not None:
        replace_file(file, f"{secret}\n", mode, (stat.st_uid, stat.st_gid))
    else:
        replace_file(file, f"{secret}\n", mode, (os.geteuid(), os.getegid()))


def _replace(path: Path, text: str, stat: os.stat_result) -> None:
    replace_file(path, text, stat.st_mode & 0o777, (stat.st_uid, stat.st_gid))


def _service_user(configuration: Path) -> pwd.struct_passwd | None:
    if os.geteuid() != 0 or inside(configuration, CONFIGURATIONS) is None:
        return None
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def _without(source: Path, name: str, file: Path, others: Sequence[str]) -> str:
    """Return the configuration with the file's key instead of `others`, if the user agrees.

    Raises `click.ClickException`, which says what to change, if there is nobody to ask, or if the
    text has another form than emitterd's own.
    """
    line = f"{name}_file: {quoted(str(file))}"
    todo = f"put # before {' and '.join(others)}, and write below emission:  {line}"
    if name == "password":
        todo += ", and username: the name of the user"
    message = f"{shown(source)} gives {' and '.join(others)}; {todo}"
    if name == "api_key" and sys.stdin.isatty():
        with suppress(LookupError):
            settings = {**dict.fromkeys(others), "api_key_file": quoted(str(file))}
            text = fill(source.read_text("utf-8"), settings)
            question = f"{shown(source)} gives {' and '.join(others)}. Use an API key instead?"
            click.confirm(question, abort=True, err=True)
            return text
    raise click.ClickException(message)


def _ask(name: str) -> str:
    given = "what you typed" if sys.stdin.isatty() else "standard input"
    return ask_secret(
        _NOUNS[name],
        lambda text: clean(text, in_header=name == "api_key"),
        lambda error: f"{given} {error}",
    )


def ask_secret(
    noun: str, accept: Callable[[str], str], describe: Callable[[ValueProblem], str]
) -> str:
    """Read a secret: typed twice without echo, or one line of standard input.

    `accept` returns the secret, or raises `ValueProblem`; `describe` says what is wrong with it.
    Asks a person again. Raises `click.UsageError` where nobody can be asked.
    """
    typed = sys.stdin.isatty()
    while True:
        if typed:
            again = f"{noun} again"
            text = click.prompt(noun, hide_input=True, confirmation_prompt=again, err=True)
        else:
            text = sys.stdin.readline()
        try:
            return accept(text)
        except ValueProblem as error:
            if not typed:
                message = f"{describe(error)}; nothing was stored"
                raise click.UsageError(message) from error
            complain(describe(error))


def _next(
    source: Path, emission: EmissionSettings, name: str, *, named: bool, running: bool
) -> list[str]:
    """Return what is left to do, a line each. `named`: the configuration names the file."""
    steps = []
    option = (
        "" if source == CONFIGURATIONS / "emitter.yaml" else f" -c {shlex.quote(shown(source))}"
    )
    service = inside(source, CONFIGURATIONS)
    if not named and service is None:
        key = f"emission.{name}_file: {name.replace('_', '-')}"
        steps.append(f"set {key} in {shown(source)}")
    if name == "password" and emission.username is None:
        steps.append(f"set emission.username in {shown(source)}")
    steps.append(f"emitterd check --online{option}")
    if running and service is not None:
        unit = unit_of(source).removesuffix(".service")
        # systemd hands over a credential only at the start.
        steps.append(f"systemctl {'reload' if named else 'restart'} {unit}")
    return [f"  {step}" for step in steps]
