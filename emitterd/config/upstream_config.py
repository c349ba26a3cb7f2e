"""Reads upstream's `config.py`: the settings of the client that emitterd replaces.

Upstream means cQube's own script `client.py`. The file is Python, because `client.py` imports it;
here it is parsed and never run: only lines like `name = "text"` count. Its names are
`emission_url`, `file_path`, and `access_token` (cQube 1.7 to 4.1) or `username` and `password` (1.0
to 1.6). No message quotes a value.
"""

import ast
import warnings
from collections.abc import Callable
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
_CHECKS: dict[str, tuple[str, Callable[[str], str]]] = {
    "emission_url": ("url", values.emission_url),
    "username": ("username", values.text),
    "password": ("password", partial(clean, in_header=False)),
    "access_token": ("api_key", partial(clean, in_header=True)),
    "file_path": ("file_path", values.text),
}
"""By name: the attribute, and what checks the value."""


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """The values of `config.py`; None for one that is missing or empty.

    The URL is normalised as in `emitter.yaml`.
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
    try:
        text, _ = read_text(path, _EXPECTED, _LARGEST_BYTES)
        lines = _assignments(text)
    except YamlError as error:
        problem = error.at(shown(path.name), error.line)
        raise ConfigError(shown(path), [problem]) from None
    problems: list[Problem] = []
    read: dict[str, str] = {}
    for name in _CHECKS.keys() & lines.keys():
        attribute, check = _CHECKS[name]
        line, value = lines[name]
        try:
            if text := _literal(value):
                read[attribute] = check(text)
        except ValueProblem as error:
            problems.append(error.at(name, line))
    if not _CHECKS.keys() & lines.keys():
        message = f"gives none of {', '.join(_CHECKS)}"
        problems.append(Problem(shown(path.name), None, message, f"name {_EXPECTED}"))
    if problems:
        raise ConfigError(shown(path), problems)
    return UpstreamConfig(**read)


def _assignments(text: str) -> dict[str, tuple[int, ast.expr]]:
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
            'correct the line, as in emission_url = "https://host/data"; write a backslash twice',
        ) from None
    lines = {}
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                lines[name] = statement.lineno, value
    return lines


def _literal(value: ast.expr) -> str:
    match value:
        case ast.Constant(value=str(text)):
            return text
    raise ValueProblem(
        "is not a plain text, and config.py is read without being run",
        "write the value itself in quotes",
    )
