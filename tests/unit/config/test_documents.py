"""emitter.yaml and docs/configuration.md agree with the settings classes."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import yaml

from emitterd.config import settings as config
from emitterd.config.fields import value_for_people
from emitterd.config.sources import variable
from support.paths import ROOT

REFERENCE = ROOT / "emitter.yaml"
MINIMAL = ROOT / "emitterd" / "config" / "minimal.yaml"
MANUAL = ROOT / "docs" / "configuration.md"


def default(section: str, name: str) -> str:
    """Return the default of a key as text, or `required` if it has none."""
    declared = {key.name: key.default for key in fields(config.SECTIONS[section])}
    value = declared[name]
    return "required" if value is MISSING else value_for_people(name, value)


def test_the_reference_has_every_key_and_its_default(tmp_path: Path) -> None:
    """Keys with a default are in emitter.yaml; others may be commented out."""
    text = REFERENCE.read_text()
    every = yaml.safe_load(re.sub(r"(?m)^  # ([a-z_]+: )(?=\S+$)", r"  \1", text))
    assert {(s, k) for s, keys in every.items() for k in keys} == {
        (section, key) for section, key, _ in config.every_key()
    }
    environ = {"EMITTERD_SPOOL_DIRECTORY": str(tmp_path), "EMITTERD_EMISSION_PASSWORD": "x"}
    described = dict(config.describe(config.load(REFERENCE, environ)))
    given = {"emission.url", "emission.username", "emission.password", "spool.directory"}
    for section, key, name in config.every_key():
        if f"{section}.{key}" not in given:
            assert described[f"{section}.{key}"] == default(section, name), key
    plain = yaml.safe_load(text)
    for section, key, name in config.every_key():
        if default(section, name) not in {"not set", "required"}:
            assert key in plain[section]


def test_the_minimal_file_is_as_the_reference(tmp_path: Path) -> None:
    """It is short, and has the values of emitter.yaml; `emitterd` accepts it."""
    text = MINIMAL.read_text()
    reference = yaml.safe_load(REFERENCE.read_text())
    environ = {"EMITTERD_SPOOL_DIRECTORY": str(tmp_path), "EMITTERD_EMISSION_PASSWORD": "x"}
    config.load(MINIMAL, environ)
    for section, keys in yaml.safe_load(text).items():
        assert keys.items() <= reference[section].items()
    settings = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert len(settings) == 8


def test_the_manual_has_every_key_type_default_and_variable() -> None:
    """docs/configuration.md has one row for each key, with its real default."""
    text = MANUAL.read_text()
    rows = {}
    for part in text.split("\n## ")[1:]:
        section = part.split("\n", 1)[0]
        for row in re.findall(r"(?m)^\| (`.*) \|$", part):
            key, _, shown, _, override = [cell.strip("` ") for cell in row.split(" | ")]
            rows[section, key] = (shown, override)
    assert rows == {
        (section, key): (default(section, name), variable(section, key))
        for section, key, name in config.every_key()
    }
