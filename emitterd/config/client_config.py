"""Upstream's `config.py`, as the client that emitterd replaces was set up by it.

It is Python, because `client.py` imports it; here it is parsed and never run. Its
names are `emission_url`, `file_path`, and `access_token` (cQube 1.7 to 4.1) or
`username` and `password` (1.0 to 1.6). No message quotes a value.
"""

import ast
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

from emitterd.config import fields as values
from emitterd.config.secrets import clean
from emitterd.config.sources import Origin, Problems, ValueProblem
from emitterd.errors import ConfigError, Problem

# Less than what a secret file may hold, so that each secret fits into one.
_LARGEST_BYTES = 64 * 1024

_Found = dict[str, tuple[int, str | None]]


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What `config.py` says; None where it says nothing, or an empty text.

    The URL is normalised as the configuration's is. `file_path` is absolute unless it
    is of Windows; a slash at its end is kept, because it decides the keys.
    """

    url: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    file_path: str | None = None


def read_client_config(path: Path) -> ClientConfig:
    """Return what a `config.py` says, without running any of it.

    Raises `ConfigError` with all problems, in file order.
    """
    found, checks = _found(_parsed(path)), _checks(path.absolute().parent)
    if found.keys().isdisjoint(checks):
        _refuse(
            path,
            None,
            f"gives none of {', '.join(checks)}",
            "name the config.py that lies beside client.py",
        )
    findings = Problems()
    checked: dict[str, str] = {}
    for name, check in checks.items():
        if name not in found:
            continue
        line, value = found[name]
        findings.origins[name] = Origin(name, line)
        try:
            if text := _text(name, value):
                checked[name] = check(text)
        except ValueProblem as error:
            findings.report(name, str(error), error.remedy)
    if problems := findings.in_order():
        raise ConfigError(values.shown(path), problems)
    return ClientConfig(
        url=checked.get("emission_url"),
        username=checked.get("username"),
        password=checked.get("password"),
        api_key=checked.get("access_token"),
        file_path=checked.get("file_path"),
    )


def _refuse(path: Path, line: int | None, message: str, remedy: str) -> NoReturn:
    problem = Problem(values.shown(path.name), line, message, remedy)
    raise ConfigError(values.shown(path), [problem]) from None


def _parsed(path: Path) -> ast.Module:
    text = _read(path)
    try:
        with warnings.catch_warnings():
            # A path of Windows holds backslashes that Python warns of.
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        # Its own words are not used, because they may quote the line.
        line = error.lineno
    except (ValueError, RecursionError, MemoryError):
        line = None
    _refuse(
        path,
        line,
        "is not Python 3",
        'correct the line, as in emission_url = "https://host/data"; a backslash is'
        " written twice",
    )


def _read(path: Path) -> str:
    try:
        # Not to hang on a FIFO that nobody writes.
        regular = stat.S_ISREG(path.stat().st_mode)
        content = b""
        if regular:
            with path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        _refuse(path, None, message, "check the path and its permissions")
    if not regular:
        _refuse(path, None, "is not a file", "name the config.py beside client.py")
    if len(content) > _LARGEST_BYTES:
        message = "is larger than 64 KiB"
        _refuse(path, None, message, "name the config.py beside client.py")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _refuse(path, line, "is not UTF-8 text", "write the file as UTF-8")


def _found(module: ast.Module) -> _Found:
    """Return what gives each name its last value: line, and text if it is plain."""
    found: _Found = {}
    for statement in module.body:
        text = _plain_text(statement)
        for name, line in _bound(statement):
            found[name] = line, text
    return found


def _plain_text(statement: ast.stmt) -> str | None:
    match statement:
        case ast.Assign(targets=targets, value=ast.Constant(value=str(text))):
            return text if all(isinstance(one, ast.Name) for one in targets) else None
        case ast.AnnAssign(value=ast.Constant(value=str(text))):
            return text
        case _:
            return None


def _bound(statement: ast.stmt) -> Iterator[tuple[str, int]]:
    """Yield the names that a statement gives a value, deletes or imports."""
    match statement:
        case ast.AnnAssign(value=None):
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name, statement.lineno
            return
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name, node.lineno
            case ast.alias(name=name, asname=asname):
                yield asname or name, node.lineno


def _text(name: str, value: str | None) -> str:
    if value is None:
        raise ValueProblem(
            "is not a plain text, and config.py is read without being run",
            f'write the value itself in quotes, on a line {name} = "..."',
        )
    return value


def _checks(folder: Path) -> dict[str, Callable[[str], str]]:
    return {
        "emission_url": values.emission_url,
        "username": _username,
        "password": partial(clean, in_header=False),
        "access_token": partial(clean, in_header=True),
        "file_path": partial(_file_path, folder=folder),
    }


def _username(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueProblem("must be text in UTF-8", "write it as UTF-8") from None
    return values.text(value)


def _file_path(value: str, folder: Path) -> str:
    values.path(value)
    # A relative one starts where client.py was run.
    return value if _on_windows(value) else os.path.join(folder, value)  # noqa: PTH118


def _on_windows(file_path: str) -> bool:
    return file_path[1:3] in {":\\", ":/"} or file_path.startswith("\\\\")
