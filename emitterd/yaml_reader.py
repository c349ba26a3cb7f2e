"""YAML with the line of every key, and with duplicate keys found.

The only module that imports yaml. Scalars are read as YAML 1.2 reads them: only
`true` and `false` are booleans, so that `catalogue: off` stays the word `off`, and
`1:30`, `010`, `1_000` and `2024-01-01` are text. `parse_untyped` reads every scalar
as text.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

try:
    from yaml import CBaseLoader as _TextBase
except ImportError:  # built without libyaml
    from yaml import BaseLoader as _TextBase  # type: ignore[assignment]

_REMEDY = (
    "correct the line; indent with spaces, and put a value in quotes that holds"
    " any of : # * & ! % @ { } [ ]"
)
_LARGEST_FILE_BYTES = 1 << 20
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]{0,17})", "-+0123456789"),
    "float": (r"[-+]?[0-9]{1,18}\.[0-9]{1,18}", "-+0123456789"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "merge": (r"<<", "<"),
}


class YamlError(ValueError):
    """The text is not YAML; `line` counts from 1, `remedy` is what to do.

    The message quotes nothing of the text beyond a single character: the line may
    hold a password.
    """

    def __init__(self, message: str, line: int | None, remedy: str = _REMEDY) -> None:
        super().__init__(message)
        self.line = line
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line of its key, counted from 1.

    A mapping has `children` and no `value`; anything else is plain data. The value
    is not in the repr, because it may be a password.
    """

    line: int
    value: object = field(default=None, repr=False)
    children: dict[str, "Node"] | None = None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key that one mapping holds twice, with both lines, counted from 1."""

    path: tuple[str, ...]
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document; `root` is None when there is nothing in it."""

    root: Node | None
    duplicates: tuple[Duplicate, ...]


class _Strict(yaml.composer.Composer):
    """Refuses anchors, aliases and tags: here they are passwords without quotes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Of the parser, which a loader has beside the composer.
        event: yaml.Event = self.peek_event()  # type: ignore[attr-defined]
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases are not supported", line)
        if getattr(event, "tag", None):
            raise YamlError("tags are not supported", line)
        return super().compose_node(parent, index)


class _TypedLoader(_Strict, yaml.SafeLoader):
    """Scalars as YAML 1.2 has them."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  typed by the base class


for _name, (_pattern, _first) in _SCALARS.items():
    _TypedLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(f"(?:{_pattern})$"),
        [*_first, ""] if _name == "null" else list(_first),
    )


class _TextLoader(_Strict, _TextBase):
    """Scalars as text.

    Parsed by libyaml where PyYAML has it, which is ten times as fast, but composed
    in Python: libyaml's binding overruns its stack where the nesting is deep.
    """

    def __init__(self, text: str) -> None:
        _TextBase.__init__(self, text)
        yaml.composer.Composer.__init__(self)


def parse(text: str) -> Document:
    """Parse one document; raises `YamlError` where the text is not YAML."""
    return _parse(text, _TypedLoader)


def parse_untyped(text: str) -> Document:
    """Parse one document as `parse` does, with every scalar as text.

    `1.10` stays `1.10`, and a key without a value has the empty text.
    """
    return _parse(text, _TextLoader)


def load_data(text: str) -> object:
    """Return one document as plain data; raises `YamlError` as `parse` does."""
    with _own_errors(text):
        # A subclass of SafeLoader: it builds nothing but plain data.
        return yaml.load(text, Loader=_TypedLoader)  # noqa: S506


def read_text(source: Path, noun: str) -> tuple[str, int]:
    """Return the text of a file that people wrote, and the file's mode.

    Raises `YamlError` where there is none to be had; `noun` is what it should be.
    """
    try:
        with source.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST_FILE_BYTES)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise YamlError(message, None, "check the path and its mode") from None
    if len(content) == _LARGEST_FILE_BYTES:
        raise YamlError("is larger than 1 MiB", None, f"name a {noun} file")
    try:
        return content.decode("utf-8-sig"), mode
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8 text"
        raise YamlError(message, line, "write the file as UTF-8") from None


def _parse(text: str, loader_of: type[_TypedLoader | _TextLoader]) -> Document:
    with _own_errors(text):
        # What YAML forbids is found here, because libyaml counts bytes.
        yaml.reader.Reader(text)
        loader = loader_of(text)
        try:
            duplicates: list[Duplicate] = []
            node = loader.get_single_node()
            root = _mark(loader, node, 0, (), duplicates) if node else None
        finally:
            loader.dispose()
    return Document(root, tuple(duplicates))


def _mark(
    loader: _TypedLoader | _TextLoader,
    node: yaml.Node,
    line: int,
    path: tuple[str, ...],
    duplicates: list[Duplicate],
) -> Node:
    if not isinstance(node, yaml.MappingNode):
        value = loader.construct_object(node, deep=True)
        for item in node.value if isinstance(node, yaml.SequenceNode) else ():
            if isinstance(item, yaml.MappingNode):
                # For the duplicates in it only.
                _mark(loader, item, item.start_mark.line, path, duplicates)
        return Node(line + 1, value)
    children: dict[str, Node] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError("a key must be a plain word", key_line + 1)
        here = (*path, key_node.value)
        child = _mark(loader, value_node, key_line, here, duplicates)
        first = children.setdefault(key_node.value, child)
        if first is not child:
            duplicates.append(Duplicate(here, first.line, child.line))
    return Node(line + 1, children=children)


@contextmanager
def _own_errors(text: str) -> Iterator[None]:
    """Turn what yaml raises into `YamlError`, without the text that it quotes."""
    try:
        yield
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError("holds a character that YAML forbids", line) from None
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):
            # So PyYAML has it since 6.0.4; before, Python did.
            raise YamlError("is nested too deeply", None) from None
        mark = error.problem_mark or error.context_mark
        line_found = mark.line + 1 if mark else None
        raise YamlError(_without_quotations(error), line_found) from None
    except RecursionError:
        raise YamlError("is nested too deeply", None) from None


def _without_quotations(error: yaml.MarkedYAMLError) -> str:
    """Say what yaml says, less the names it quotes: they may be a password."""
    problem = re.sub(r" '(?!<[a-z ]+>')[^']{2,}'", "", error.problem or "")
    problem = re.sub(r' "[^"]{2,}"', "", problem)
    began = error.context_mark and error.context_mark.line + 1
    ended = error.problem_mark and error.problem_mark.line + 1
    where = f" in what begins on line {began}" if began and began != ended else ""
    return f"is not valid YAML: {problem}{where}"
