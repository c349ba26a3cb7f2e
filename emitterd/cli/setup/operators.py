"""`operator add`, `remove` and `list`: who may log in to the page."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from emitterd.cli.output import DONE, WRONG, complain, say
from emitterd.cli.setup.secrets import ask_secret, default_file, store_secret
from emitterd.config.settings import Config, load_part
from emitterd.config.sources import find
from emitterd.errors import ValueProblem
from emitterd.permissions import as_root
from emitterd.text import shown
from emitterd.web.access.users import (
    Role,
    User,
    check_password,
    format_file,
    hash_password,
    load,
    read_name,
)


def change(config: Path | None, action: str, name: str | None, role: str | None) -> int:
    """Add, remove or list users; 1 if there is none to remove."""
    source = find(config, os.environ)
    settings = load_part(source, os.environ, "web")
    file = settings.web.operators_file or default_file(source.absolute(), "operators")
    users = _load(file)
    if action == "list":
        return _list(users, file)
    known = _name(name)
    former = users.pop(known, None)
    if action == "remove":
        if former is None:
            complain(f"{shown(file)} has no user {known}")
            return WRONG
        done = f"removed {known}"
    else:
        chosen = Role(role) if role else former.role if former else Role.OPERATOR
        users[known] = User(known, chosen, hash_password(_ask(known)))
        done = f"stored {known} ({chosen}) in {shown(file)}"
    try:
        store_secret(file, format_file(users.values()), source)
    except OSError as error:
        message = f"{shown(file)} cannot be written: {error.strerror}; {as_root()}"
        raise click.ClickException(message) from error
    say(done, *_next(source, settings, file))
    return DONE


def _load(file: Path) -> dict[str, User]:
    if not os.path.lexists(file):
        return {}
    try:
        return load(file)
    except ValueProblem as error:
        raise click.ClickException(f"{shown(file)} {error}: {error.remedy}") from error


def _list(users: Mapping[str, User], file: Path) -> int:
    if not users:
        complain(f"{shown(file)} has no users: emitterd operator add NAME")
    say(*(f"{user.name} {user.role}" for user in users.values()))
    return DONE


def _name(name: str | None) -> str:
    if name is None:
        raise click.UsageError("give a name: emitterd operator add NAME")
    try:
        return read_name(name)
    except ValueProblem as error:
        raise click.UsageError(f"{shown(name)} {error}; {error.remedy}") from error


def _ask(name: str) -> str:
    def accept(text: str) -> str:
        password = text.rstrip("\r\n")
        check_password(password, name)
        return password

    return ask_secret("password", accept, lambda error: f"the password {error}: {error.remedy}")


def _next(source: Path, settings: Config, file: Path) -> list[str]:
    """Return what is left to do. emitterd reads a changed file at the next request."""
    web = settings.web
    steps = [] if web.listen else [f"  set web.listen: 127.0.0.1:9464 in {shown(source)}"]
    if web.operators_file is None:
        steps.append(f"  set web.operators_file: {file.name} in {shown(source)}")
    return ["next:", *steps, "  restart or reload emitterd"] if steps else []
