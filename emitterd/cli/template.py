"""The `emitter.yaml` that is shipped, and how its keys are filled in.

Its comments are the operator's first manual: they stay, whatever is filled in.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files

from emitterd.errors import printable
from emitterd.yaml_reader import YamlError, load_data

Setting = str | bool | None
"""What a key is set to; None comments it out."""

_SECTION = re.compile(r"([a-z_]+):")
_KEY = re.compile(r"  (?:# )?([a-z_]+):(?: .*)?")


def shipped() -> str:
    """Return the template: every key, with its default or commented out."""
    return (files("emitterd.config") / "emitter.yaml").read_text("utf-8")


def fill(text: str, settings: Mapping[str, Setting]) -> str:
    """Return the text with these keys set, by key path.

    Raises `LookupError` where the template does not have each of the keys once.
    """
    lines = text.splitlines()
    places: dict[str, list[int]] = {path: [] for path in settings}
    section = ""
    for number, line in enumerate(lines):
        if found := _SECTION.fullmatch(line):
            section = found[1]
        elif (found := _KEY.fullmatch(line)) and f"{section}.{found[1]}" in places:
            places[f"{section}.{found[1]}"].append(number)
    for path, value in settings.items():
        if len(places[path]) != 1:
            raise LookupError(f"the template has {len(places[path])} lines of {path}")
        (number,) = places[path]
        lines[number] = _line(lines[number], path.rpartition(".")[2], value)
    return "\n".join(lines) + "\n"


def _line(line: str, key: str, value: Setting) -> str:
    if value is None:
        return re.sub(r"^  (?!# )", "  # ", line)
    text = quoted(value) if isinstance(value, str) else json.dumps(value)
    return f"  {key}: {text}"


def quoted(value: str) -> str:
    """Write a text as a YAML scalar on one line, in quotes where it needs them.

    What JSON escapes YAML reads alike, and `printable` escapes the rest as YAML does.
    """
    if printable(value) == value and _reads_as(value):
        return value
    return printable(json.dumps(value, ensure_ascii=False))


def _reads_as(value: str) -> bool:
    try:
        return load_data(f"key: {value}") == {"key": value}
    except YamlError:
        return False
