"""Reads YAML with the key path and line of every value, and finds duplicate keys.

Only this module uses yaml. Every scalar is text, so `catalogue: off` stays the word `off`,
and `1.10` is not `1.1`. The code that reads a value converts it to its type.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from emitterd.errors import Problem, ValueProblem
from emitterd.permissions import ACCOUNT, as_root, current_user, permission_command
from emitterd.units import format_size

try:
    from yaml import CBaseLoader as _TextBase
except ImportError:  # built without libyaml
    from yaml import BaseLoader as _TextBase  # type: ignore[assignment]

_REMEDY = (
    "correct the line; indent with spaces, and put a value in quotes that holds"
    " any of : # * & ! % @ { } [ ]"
)
_NULLS = frozenset({"~", "null", "Null", "NULL"})
"""How YAML writes no value. Source: YAML 1.1, "Null Language-Independent Type"."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class YamlError(ValueProblem):
    """The text is not YAML; `line` counts from 1.

    The message quotes at most a single character, because the line may hold a password.
    """

    def __init__(self, message: str, line: int | None, remedy: str = _REMEDY) -> None:
        super().__init__(message, remedy)
        self.line = line


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its key path and the line of its key, counted from 1.

    A mapping has `children` and no `value`; other values are plain data. `line` is None if the
    value does not come from a file. The value is not in the repr, because it may be a password.
    """

    path: str
    line: int | None
    value: object = field(default=None, repr=False)
    children: dict[str, "Node"] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document: its root, None if it is empty, and its duplicate keys."""

    root: Node | None
    duplicates: tuple[Problem, ...]


NO_SECTION = ValueProblem(
    "must be a section of keys", "indent its keys by two spaces below it, each as `key: value`"
)


def unknown_key(suggestion: str | None) -> ValueProblem:
    """Return the problem of a key that does not exist."""
    remedy = f"did you mean {suggestion}?" if suggestion else "remove it"
    return ValueProblem("there is no such key", remedy)


class _Strict(yaml.composer.Composer):
    """Refuses anchors, aliases and tags: mostly a password that lacks its quotes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A method of the parser, the other base class of the loader.
        event: yaml.Event = self.peek_event()  # type: ignore[attr-defined]
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases are not supported", line)
        if getattr(event, "tag", None):
            raise YamlError("tags are not supported", line)
        return super().compose_node(parent, index)


class _Loader(_Strict, _TextBase):
    """Reads scalars as text.

    libyaml parses, if PyYAML has it: that is ten times as fast. Python composes the nodes, because
    libyaml's binding overflows its stack on deep nesting.
    """

    def __init__(self, text: str) -> None:
        _TextBase.__init__(self, text)
        yaml.composer.Composer.__init__(self)


def plain_word(key: str) -> str:
    """Return a key that looks like one; others may be a value, even a secret."""
    return key if _WORD.fullmatch(key) else "(no plain word)"


def parse(text: str, show_key: Callable[[str], str] = plain_word) -> Document:
    """Parse one document; raises `YamlError` if the text is not YAML.

    A key without a value, or with `~` or `null`, has the empty text. `show_key` makes keys
    printable: by default it hides one that is not a plain word, because it may be a password.
    """
    with _own_errors(text):
        # libyaml counts bytes, so forbidden characters are searched here.
        yaml.reader.Reader(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, ())
            walker = _Walker(loader, show_key)
            root = walker.read(node, "", 1)
        finally:
            loader.dispose()
    return Document(root, tuple(walker.duplicates))


def load_texts(text: str) -> object:
    """Return a document of the package as plain data, with every scalar as text."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  builds text only


def read_text(source: Path, expected: str, largest_bytes: int = 1 << 20) -> tuple[str, int]:
    """Return the text and the mode of a file that people wrote.

    `expected` says in a remedy which file to name. Raises `YamlError` if the file cannot be read,
    is no regular file, is too large or is not UTF-8.
    """
    try:
        with open(source, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(largest_bytes) if stat.S_ISREG(mode) else b""
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        remedy = "create the file, or correct the path"
        if isinstance(error, PermissionError):
            is_service = current_user() in {ACCOUNT, "root"}
            remedy = permission_command(source.absolute(), "r") if is_service else as_root()
        raise YamlError(message, None, remedy) from None
    if not stat.S_ISREG(mode):
        raise YamlError("is not a regular file", None, f"name {expected}")
    if len(content) == largest_bytes:
        size = format_size(largest_bytes)
        raise YamlError(f"has {size} or more", None, f"name {expected}")
    try:
        return content.decode("utf-8-sig"), mode
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        remedy = "write the file as UTF-8"
        raise YamlError("is not UTF-8 text", line, remedy) from None


def _open_at_once(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


@dataclass(slots=True)
class _Walker:
    """Turns the nodes of PyYAML into `Node`s and collects the duplicate keys."""

    loader: _Loader
    show_key: Callable[[str], str]
    duplicates: list[Problem] = field(default_factory=list)

    def read(self, node: yaml.Node, path: str, line: int) -> Node:
        if not isinstance(node, yaml.MappingNode):
            value = self.loader.construct_object(node, deep=True)
            # In quotes it is a text: a user may be called "null".
            if isinstance(node, yaml.ScalarNode) and not node.style and value in _NULLS:
                value = ""
            for item in node.value if isinstance(node, yaml.SequenceNode) else ():
                if isinstance(item, yaml.MappingNode):
                    # Only to find duplicate keys.
                    self.read(item, path, item.start_mark.line + 1)
            return Node(path, line, value)
        children: dict[str, Node] = {}
        for key, value in node.value:
            key_line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key must be a plain word", key_line)
            shown = self.show_key(key.value)
            child = self.read(value, f"{path}.{shown}" if path else shown, key_line)
            first = children.setdefault(key.value, child)
            if first is not child:
                message = f"is given twice, on line {first.line} and line {child.line}"
                problem = ValueProblem(message, "keep one of the two lines")
                self.duplicates.append(problem.at(child.path, child.line))
        return Node(path, line, children=children)


@contextmanager
def _own_errors(text: str) -> Iterator[None]:
    """Turn errors of yaml into `YamlError`, without the text that they quote."""
    try:
        yield
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError("holds a character that YAML forbids", line) from None
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):
            # Since PyYAML 6.0.4; older versions raise RecursionError.
            raise YamlError("is nested too deeply", None) from None
        mark = error.problem_mark or error.context_mark
        line_found = mark.line + 1 if mark else None
        raise YamlError(_without_quotations(error), line_found) from None
    except RecursionError:
        raise YamlError("is nested too deeply", None) from None


def _without_quotations(error: yaml.MarkedYAMLError) -> str:
    """Return yaml's message without the names it quotes: they may be a password."""
    problem = re.sub(r" '(?!<[a-z ]+>')[^']{2,}'", "", error.problem or "")
    problem = re.sub(r' "[^"]{2,}"', "", problem)
    began = error.context_mark and error.context_mark.line + 1
    ended = error.problem_mark and error.problem_mark.line + 1
    where = f" in what begins on line {began}" if began and began != ended else ""
    return f"is not valid YAML: {problem}{where}"
