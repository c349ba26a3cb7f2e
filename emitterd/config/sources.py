"""The file and the environment as one set of raw values, and where each came from.

Knows key paths (`spool.settle`), lines and variables, and nothing of what a value
means: that is `config`.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from emitterd.errors import ConfigError, Problem
from emitterd.text import printable
from emitterd.yaml_reader import (
    Document,
    Duplicate,
    Node,
    YamlError,
    parse,
    read_text,
)

Schema = Mapping[str, Mapping[str, type]]
"""The keys of each section, and what the text of a variable is turned into."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SMALL_NUMBER = re.compile(r"-?[0-9]{1,9}")


class ValueProblem(ValueError):
    """A value cannot be accepted; `remedy` says what to do. Quotes no secret."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given: key path and line, or variable and no line."""

    name: str
    line: int | None


class Problems:
    """The problems found so far, and which keys have none."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self._problems: list[tuple[str, Problem]] = []
        self._unsound: set[str] = set()

    def report(self, key: str, message: str, remedy: str) -> None:
        """Add a problem of a key, under the name and line it was given by."""
        origin = self.origins.get(key, Origin(key, None))
        self._add(key, origin, message, remedy)
        self._unsound.add(key)

    def report_at(self, origin: Origin, message: str, remedy: str) -> None:
        """Add a problem of a place that no known key stands for."""
        self._add(origin.name, origin, message, remedy)

    def _add(self, key: str, origin: Origin, message: str, remedy: str) -> None:
        problem = Problem(origin.name, origin.line, message, remedy)
        self._problems.append((key.partition(".")[0], problem))

    def report_none(self, key: str) -> None:
        """Report a key that has no value, or a required one that nothing gives."""
        if self.given(key):
            remedy = "give it one, in quotes if it begins with #, or remove it"
            self.report(key, "has no value", remedy)
        else:
            remedy = f"give it, or set {variable(*key.split('.'))}"
            self.report(key, "is missing", remedy)

    def given(self, key: str) -> bool:
        """Tell whether the file or the environment gives this key."""
        return key in self.origins

    def in_file(self, key: str) -> bool:
        """Tell whether it is the file that gives this key."""
        return key in self.origins and self.origins[key].line is not None

    def sound(self, *keys: str) -> bool:
        """Tell whether nothing has been found wrong with any of these keys."""
        return self._unsound.isdisjoint(keys)

    def in_order(self, *sections: str) -> list[Problem]:
        """Return every problem, or those of `sections`: by line, then without one."""
        chosen = [
            problem
            for section, problem in self._problems
            if not sections or section in sections
        ]
        return sorted(chosen, key=lambda p: (p.line is None, p.line or 0))


class Sources:
    """Raw values by section and key: the file's, then the environment's over them.

    `alternatives` are groups of key paths of which one stands for the others: where
    the environment gives one, the file's are all set aside.
    """

    def __init__(self, schema: Schema, alternatives: Iterable[frozenset[str]]) -> None:
        self.values: dict[str, dict[str, object]] = {name: {} for name in schema}
        self.findings = Problems()
        self._schema = schema
        self._alternatives = tuple(alternatives)

    def read_document(self, document: Document) -> None:
        """Take over the file's values; report the keys that are unknown or double."""
        for duplicate in document.duplicates:
            self._report_duplicate(duplicate)
        children = document.root.children if document.root else None
        for section, marked in (children or {}).items():
            if section in self._schema:
                self._read_section(section, marked)
            else:
                origin = Origin(_printable(section), marked.line)
                self._report_unknown(origin, self._suggest_section(section))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take over `EMITTERD_<SECTION>_<KEY>`; other variables are not ours."""
        for name in sorted(environ):
            for section in self._schema:
                prefix = variable(section, "")
                if name.startswith(prefix):
                    key = name.removeprefix(prefix).lower()
                    self._read_variable(section, key, name, environ[name])

    def _read_section(self, section: str, marked: Node) -> None:
        # A section whose keys are all commented out reads as null.
        if marked.children is None and marked.value is not None:
            self.findings.report_at(
                Origin(section, marked.line),
                "must be a section of keys",
                "indent its keys by two spaces below it, each as `key: value`",
            )
        for key, child in (marked.children or {}).items():
            path = f"{section}.{key}"
            if key not in self._schema[section]:
                origin = Origin(f"{section}.{_printable(key)}", child.line)
                self._report_unknown(origin, self._suggest_key(section, key))
                continue
            self.findings.origins[path] = Origin(path, child.line)
            if child.children is None:
                self.values[section][key] = child.value
            else:
                self.findings.report(
                    path, "must be a value, not a section", "write it on one line"
                )

    def _read_variable(self, section: str, key: str, name: str, text: str) -> None:
        if name != variable(section, key) or key not in self._schema[section]:
            meant = self._suggest_key(section, key)
            self._report_unknown(
                Origin(name, None), meant and variable(*meant.split("."))
            )
            return
        path = f"{section}.{key}"
        for group in self._alternatives:
            if path in group:
                self._set_aside(group)
        self.findings.origins[path] = Origin(name, None)
        self.values[section][key] = _from_text(text, self._schema[section][key])

    def _set_aside(self, group: Iterable[str]) -> None:
        for path in group:
            if self.findings.in_file(path):
                section, key = path.split(".")
                self.values[section].pop(key, None)
                del self.findings.origins[path]

    def _report_duplicate(self, duplicate: Duplicate) -> None:
        self.findings.report_at(
            Origin(".".join(map(_printable, duplicate.path)), duplicate.second),
            f"is given twice, on line {duplicate.first} and line {duplicate.second}",
            "keep one of the two lines",
        )

    def _report_unknown(self, origin: Origin, meant: str | None) -> None:
        remedy = f"did you mean {meant}?" if meant else "remove it"
        self.findings.report_at(origin, "there is no such key", remedy)

    def _suggest_section(self, word: str) -> str | None:
        near = difflib.get_close_matches(word, self._schema, n=1)
        return near[0] if near else self._suggest_elsewhere(word)

    def _suggest_key(self, section: str, word: str) -> str | None:
        near = difflib.get_close_matches(word, self._schema[section], n=1)
        return f"{section}.{near[0]}" if near else self._suggest_elsewhere(word)

    def _suggest_elsewhere(self, word: str) -> str | None:
        owners = (name for name, keys in self._schema.items() if word in keys)
        return next((f"{owner}.{word}" for owner in owners), None)


_PLACES = (Path("emitter.yaml"), Path("/etc/emitterd/emitter.yaml"))


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file: as named, by the variable, or in its places.

    Raises `ConfigError`, naming the places looked at, where there is none.
    """
    named = explicit or Path(environ.get("EMITTERD_CONFIG", ""))
    places = _PLACES if named == Path() else (named,)
    for place in places:
        if os.path.lexists(place):
            return place
    problem = Problem(
        "--config" if explicit or places is _PLACES else "EMITTERD_CONFIG",
        None,
        f"no configuration file; looked at {' and '.join(map(_shown, places))}",
        "name it with --config, or begin with the emitter.yaml of the sources",
    )
    raise ConfigError(_shown(places[-1]), [problem])


def _shown(place: Path) -> str:
    return printable(str(place))


def read_file(source: Path) -> tuple[Document, bool]:
    """Return the document, and whether nobody but the owner may read its file.

    Raises `YamlError` where there is no mapping to be had.
    """
    text, mode = read_text(source, "configuration")
    document = parse(text)
    root = document.root
    if root is None or (root.children is None and root.value is None):
        raise YamlError("is empty", None, "begin with the emitter.yaml of the sources")
    if root.children is None:
        raise YamlError(
            "is no mapping of sections",
            root.line,
            "begin with a line `emission:`, and its keys indented below it",
        )
    return document, mode & 0o077 == 0


def variable(section: str, key: str) -> str:
    """Name the environment variable that overrides a key."""
    return f"EMITTERD_{section}_{key}".upper()


def _printable(key: str) -> str:
    """Return the key if it looks like one; else it may be a value, and a secret."""
    return key if _WORD.fullmatch(key) else "(no plain word)"


def _from_text(text: str, kind: type) -> object:
    """Turn a variable's text into what the YAML file would have given.

    What does not fit stays text, for the check of types to refuse.
    """
    if kind is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    if kind is int and _SMALL_NUMBER.fullmatch(text):
        return int(text)
    return text
