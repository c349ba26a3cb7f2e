"""The file and the environment as one set of raw values, and where each came from.

This module handles key paths (`spool.settle`), lines and variables. `fields` and `rules` interpret
the values.
"""

import difflib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.text import shown
from emitterd.yaml_reader import (
    NO_SECTION,
    Document,
    Node,
    YamlError,
    parse,
    read_text,
    unknown_key,
)

T = TypeVar("T")

Schema = Mapping[str, Collection[str]]
"""The keys of each section."""

_FORMER = "metrics"
"""A section of versions before 0.2: each key in it is reported with its present place."""

_PLACES = (Path("emitter.yaml"), Path("/etc/emitterd/emitter.yaml"))


class Problems:
    """The raw values that are given, and the problems found so far.

    Reads the values of the file, and then those of the environment over them. `alternatives` are
    groups of key paths that replace each other: if the environment gives one of a group, the file's
    are ignored.
    """

    def __init__(self, schema: Schema, alternatives: Iterable[frozenset[str]]) -> None:
        self.nodes: dict[str, Node] = {}
        self._schema: Schema = {**schema, _FORMER: ()}
        self._alternatives = tuple(alternatives)
        self._problems: list[tuple[str, Problem]] = []

    def read_document(self, document: Document) -> None:
        """Take the file's values; report unknown and duplicate keys."""
        for duplicate in document.duplicates:
            self.report_place(duplicate)
        children = document.root.children if document.root else None
        for section, node in (children or {}).items():
            if section not in self._schema:
                self._report_unknown_section(section, node)
                continue
            # A section that has only comments is the empty text.
            if node.children is None and node.value:
                self.report_place(NO_SECTION.at(section, node.line))
            for key, child in (node.children or {}).items():
                if key in self._schema[section]:
                    self.nodes[f"{section}.{key}"] = child
                else:
                    self._report_unknown(child, self._suggest(section, key), section)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take `EMITTERD_<SECTION>_<KEY>`; ignore other variables."""
        for name in sorted(environ):
            for section in self._schema:
                prefix = variable(section, "")
                if name.startswith(prefix):
                    key = name.removeprefix(prefix).lower()
                    self._read_variable(section, key, name, environ[name])

    def _read_variable(self, section: str, key: str, name: str, text: str) -> None:
        if name != variable(section, key) or key not in self._schema[section]:
            meant = self._suggest(section, key)
            suggestion = meant and variable(*meant.split("."))
            self._report_unknown(Node(name, None), suggestion, section)
            return
        path = f"{section}.{key}"
        for group in self._alternatives:
            if path in group:
                for ignored in filter(self.in_file, group):
                    del self.nodes[ignored]
        self.nodes[path] = Node(name, None, text)

    def _report_unknown(self, node: Node, suggestion: str | None, section: str = "") -> None:
        problem = unknown_key(suggestion)
        if section == _FORMER:
            remedy = f"write {suggestion} instead" if suggestion else "remove it"
            problem = ValueProblem(f"the sections web and alerts replace {_FORMER}", remedy)
        self.report_place(problem.at(node.path, node.line))

    def _report_unknown_section(self, name: str, node: Node) -> None:
        section, _, key = name.partition(".")
        if key in self._schema.get(section, ()):
            # So the documents name a key.
            remedy = f"write two lines: {section}: and below it, indented by two spaces, {key}:"
            self.report_place(
                ValueProblem("is two keys: a section and a key in it", remedy).at(name, node.line)
            )
        else:
            self._report_unknown(node, self._suggest("", name))

    def _suggest(self, section: str, word: str) -> str | None:
        """Return the most similar key path, to suggest it. `section` may be empty."""
        known = self._schema[section] if section else self._schema
        for near in difflib.get_close_matches(word, known, n=1):
            return f"{section}.{near}" if section else near
        owners = (name for name, keys in self._schema.items() if word in keys)
        return next((f"{owner}.{word}" for owner in owners), None)

    def report(self, key: str, message: str, remedy: str) -> None:
        """Add a problem of a key, with the name and line that gave it."""
        node = self.nodes.get(key) or Node(key, None)
        problem = ValueProblem(message, remedy).at(node.path, node.line)
        self._problems.append((key, problem))

    def report_place(self, problem: Problem) -> None:
        """Add a problem that belongs to no known key."""
        self._problems.append((problem.key.partition(".")[0], problem))

    def check(self, key: str, rule: Callable[..., T], *values: object) -> T | None:
        """Return what a rule returns; report the `ValueProblem` that it raises."""
        try:
            return rule(*values)
        except ValueProblem as error:
            self.report(key, str(error), error.remedy)
            return None

    def given(self, key: str) -> bool:
        """Tell whether the file or the environment gives this key."""
        return key in self.nodes

    def in_file(self, key: str) -> bool:
        """Tell whether the file gives this key."""
        return key in self.nodes and self.nodes[key].line is not None

    def valid(self, *keys: str) -> bool:
        """Tell whether none of these keys has a problem."""
        return not any(key in keys for key, _ in self._problems)

    def reported(self, *sections: str) -> list[Problem]:
        """Return every problem, or only those of `sections`."""
        return [
            problem
            for key, problem in self._problems
            if not sections or key.partition(".")[0] in sections
        ]


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the path of the configuration file.

    That is the one named explicitly, by `EMITTERD_CONFIG`, or in the usual places. Raises
    `ConfigError` if there is none.
    """
    named = explicit or Path(environ.get("EMITTERD_CONFIG", ""))
    places = _PLACES if named == Path() else (named,)
    for place in places:
        if os.path.lexists(place):
            return place
    problem = Problem(
        "--config" if explicit or places is _PLACES else "EMITTERD_CONFIG",
        None,
        f"no configuration file; looked at {' and '.join(map(shown, places))}",
        "name it with --config, or create one: emitterd init DIRECTORY",
    )
    raise ConfigError(shown(places[-1]), [problem])


def read_file(source: Path) -> tuple[Document, bool]:
    """Return the document, and whether only the owner may read its file.

    Raises `YamlError` if the file is not a mapping.
    """
    text, mode = read_text(source, "a configuration file")
    document = parse(text)
    root = document.root
    if root is None or (root.children is None and not root.value):
        raise YamlError("is empty", None, "create one: emitterd init DIRECTORY")
    if root.children is None:
        raise YamlError(
            "is no mapping of sections",
            root.line,
            "begin with a line `emission:`, and its keys indented below it",
        )
    return document, mode & 0o077 == 0


def variable(section: str, key: str) -> str:
    """Return the environment variable that overrides a key."""
    return f"EMITTERD_{section}_{key}".upper()
