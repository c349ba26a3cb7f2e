"""The JSON Schema of emitter.yaml, made from the settings and docs/configuration.md.

The settings classes declare keys, types and defaults; the tables of the document describe them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from emitterd.config import fields as values
from emitterd.config.settings import SECTIONS
from emitterd.config.sources import variable
from emitterd.datasets.catalogue import _VERSION
from emitterd.delivery.concurrency import MOST
from emitterd.units import _DURATIONS, _QUANTITY, _SIZES
from tools.roff import sections, sentence

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NUMBER = _QUANTITY.pattern.partition("([A-Za-z]*)")[0]


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _quantity(units: Mapping[str, object], end: str = "") -> Schema:
    return _pattern(f"{_NUMBER}({'|'.join(units)}){end}")


_TEXT: Schema = {"type": ["string", "number"], "minLength": 1}
"""emitterd reads `username: 4711` as text."""
_PATH: Schema = {"type": "string", "minLength": 1}
_SPEED: Schema = {"anyOf": [_quantity(_SIZES, "/s"), {"const": values.OFF}]}
_TIME: Schema = _pattern(rf"({values._TIME.pattern}|24:00)")  # noqa: SLF001
_PATTERNS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "minLength": 1}}]
}
_RANGE: Schema = {
    "type": "object",
    "properties": {"from": _TIME, "to": _TIME, "limit": _SPEED},
    "required": ["limit"],
    "dependentRequired": {"from": ["to"], "to": ["from"]},
    "additionalProperties": False,
}

_KINDS: dict[Callable[[Any], object], Schema] = {
    values.text: _TEXT,
    values.secret: _TEXT,
    values.flag: {"type": "boolean"},
    values.http_token: _pattern(values._HTTP_TOKEN.pattern),  # noqa: SLF001
    values.header_name: _pattern(values._HTTP_TOKEN.pattern),  # noqa: SLF001
    values.emission_url: _pattern("https?://[^/ ?#@]+(/[^ ?#]*)?"),
    values.public_url: _pattern("https://[^/ ?#@]+/?"),
    values.proxy: _pattern("http://[^ ?#]+"),
    values.database_url: _pattern(values._DATABASE_URL.pattern),  # noqa: SLF001
    values.host_name: _pattern(values._HOST_NAME.pattern),  # noqa: SLF001
    values.path: _PATH,
    values.command: {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ]
    },
    values.secret_url: _pattern("https?://[^ #]+"),
    values.patterns: _PATTERNS,
    values.some_patterns: _PATTERNS | {"minItems": 1},
    values.workers: {
        "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MOST}]
    },
    values.cqube_version: {"type": ["string", "number"], "pattern": f"^{_VERSION.pattern}$"},
    values.endpoint: _pattern("(unix:/.+|[^:]+:[0-9]+|\\[.+\\]:[0-9]+)"),
    values.duration: _quantity(_DURATIONS),
    values.size: _quantity(_SIZES),
    values.timetable: {
        "anyOf": [*_SPEED["anyOf"], {"type": "array", "items": _RANGE, "minItems": 1}]
    },
}
"""The schema of each reader of a value."""


def schema(document: str) -> str:
    """Return the schema as JSON; `document` is docs/configuration.md."""
    meanings = _meanings(document)
    required = {
        section: [key.name for key in fields(settings) if key.default is MISSING]
        for section, settings in SECTIONS.items()
    }
    content = {
        "$schema": DIALECT,
        "title": "emitter.yaml, the configuration of emitterd",
        "type": "object",
        "properties": {
            section: _section(section, settings, required[section], meanings)
            for section, settings in SECTIONS.items()
        },
        "required": [section for section, keys in required.items() if keys],
        "additionalProperties": False,
    }
    return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n"


def _section(name: str, settings: type, required: list[str], meanings: Mapping[str, str]) -> Schema:
    kinds = get_type_hints(settings)
    properties = {}
    for declared in fields(settings):
        key = declared.name.removesuffix("_s").removesuffix("_bytes")
        properties[key] = {
            **_value(declared, kinds[declared.name]),
            **_default(declared),
            "description": f"{meanings[variable(name, key)]} Environment: {variable(name, key)}",
        }
    return {
        # A section with comments only has no value.
        "type": "object" if required else ["object", "null"],
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _value(declared: "Field[Any]", kind: object) -> Schema:
    read, entry = declared.metadata["read"], declared.metadata["entry"]
    if entry:
        return {"type": "object", "additionalProperties": _KINDS[read]}
    if read in _KINDS:
        return _KINDS[read]
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return {"enum": list(get_args(part))}
    raise LookupError(f"no schema for {declared.name}")


def _default(declared: "Field[Any]") -> Schema:
    default = declared.default
    if default is MISSING or default is None:
        return {}
    if isinstance(default, bool | int | str) and not declared.name.endswith("_bytes"):
        return {"default": default}
    if isinstance(default, tuple):
        return {"default": {} if declared.metadata["entry"] else list(default)}
    return {"default": values.value_for_people(declared.name, default)}


def _meanings(document: str) -> dict[str, str]:
    """Return the meaning of each key, by its variable, without Markdown."""
    rows = re.findall(
        r"^\| `\w+` \| .* \| .* \| (.*) \| `(\w+)` \|$",
        "\n".join(sections(document).values()),
        re.MULTILINE,
    )
    return {
        name: sentence(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)).replace("`", "")
        for text, name in rows
    }
