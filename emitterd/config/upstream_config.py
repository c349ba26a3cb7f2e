"""Reads upstream's `config.py`: the settings of the client that emitterd replaces.

Upstream means cQube's own script `client.py`. The file is Python, because `client.py`
imports it; here it is parsed and never run. Its names are `emission_url`, `file_path`,
and `access_token` (cQube 1.7 to 4.1) or `username` and `password` (1.0 to 1.6). No
message quotes a value.
"""

import ast
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from emitterd.config import fields as values
from emitterd.config.secrets import clean
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.text import shown
from emitterd.yaml_reader import YamlError, read_text

# A secret file may hold as much, so each secret fits into one.
_LARGEST_BYTES = 64 * 1024
_EXPECTED = "the config.py beside client.py"


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """The values of `config.py`; None for one that is missing or empty.

    The URL is normalised as in `emitter.yaml`. `file_path` is absolute, or a path of
    Windows. A slash at its end is kept, because it decides the object keys.
    """

    url: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    file_path: str | None = None


def read_upstream_config(path: Path) -> UpstreamConfig:
    """Read the values of a `config.py` without running it.

    Raises `ConfigError` with all problems.
    """
    checks: dict[str, tuple[str, Callable[[str], str]]] = {
        "emission_url": ("url", values.emission_url),
        "username": ("username", values.text),
        "password": ("password", partial(clean, in_header=False)),
        "access_token": ("api_key", partial(clean, in_header=True)),
        "file_path": ("file_path", partial(_file_path, folder=path.absolute().parent)),
    }
    try:
        text, _ = read_text(path, _EXPECTED, _LARGEST_BYTES)
        bindings = _bindings(text, checks)
    except YamlError as error:
        problem = error.at(shown(path.name), error.line)
        raise ConfigError(shown(path), [problem]) from None
    problems: list[Problem] = []
    read: dict[str, str] = {}
    for name, (line, value) in bindings.items():
        attribute, check = checks[name]
        if value is None:
            problem = Problem(
                name,
                line,
                "is not a plain text, and config.py is read without being run",
                f'write the value itself in quotes, on a line {name} = "..."',
            )
            problems.append(problem)
            continue
        try:
            if value:
                read[attribute] = check(value)
        except ValueProblem as error:
            problems.append(error.at(name, line))
    if problems:
        raise ConfigError(shown(path), problems)
    return UpstreamConfig(**read)


def _bindings(text: str, names: Collection[str]) -> dict[str, tuple[int, str | None]]:
    """Return the last binding of each name: its line, and its text if it is a literal.

    Raises `YamlError` if the text is not Python, or binds none of the names.
    """
    try:
        with warnings.catch_warnings():
            # Python warns of the backslashes in a path of Windows.
            warnings.simplefilter("ignore")
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Python's own message may quote the line.
        raise YamlError(
            "is not Python 3",
            getattr(error, "lineno", None),
            'correct the line, as in emission_url = "https://host/data"; write a'
            " backslash twice",
        ) from None
    bindings = {
        name: (line, _literal(statement))
        for statement in module.body
        for name, line in _bound_names(statement)
        if name in names
    }
    if not bindings:
        problem = f"gives none of {', '.join(names)}"
        raise YamlError(problem, None, f"name {_EXPECTED}")
    return bindings


def _literal(statement: ast.stmt) -> str | None:
    match statement:
        case ast.Assign(targets=targets, value=ast.Constant(value=str(text))):
            plain = all(isinstance(target, ast.Name) for target in targets)
            return text if plain else None
        case ast.AnnAssign(value=ast.Constant(value=str(text))):
            return text
        case _:
            return None


def _bound_names(statement: ast.stmt) -> Iterator[tuple[str, int]]:
    """Yield the names that a statement assigns, deletes or imports, and their lines."""
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


def _file_path(value: str, folder: Path) -> str:
    values.path(value)
    windows = value[1:3] in {":\\", ":/"} or value.startswith("\\\\")
    # A relative path starts where client.py is run.
    return value if windows else os.path.join(folder, value)  # noqa: PTH118
