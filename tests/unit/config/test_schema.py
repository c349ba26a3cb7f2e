"""The JSON Schema of emitter.yaml judges a file as emitterd does."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from emitterd.cli.setup.init import shipped
from emitterd.config import settings as config
from emitterd.errors import Problem
from support.paths import ROOT

SCHEMA = json.loads((ROOT / "docs" / "emitter.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD = {"emission": ["url: https://h/data", "username: u"], "spool": ["directory: drop"]}


class Core(yaml.SafeLoader):
    """Reads YAML 1.2, as editors do: `off` is text."""


Core.yaml_implicit_resolvers = {
    first: kinds for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if first not in set("yYnNoO")
}  # fmt: skip


def places(text: str) -> set[str]:
    """Return where the schema finds something wrong; the top is empty."""
    errors = VALIDATOR.iter_errors(yaml.load(text, Core))  # noqa: S506  a SafeLoader
    return {".".join(map(str, error.absolute_path)) for error in errors}


def with_line(line: str) -> str:
    """Return a right configuration with one line of a section replaced or added."""
    section, _, text = line.partition(".")
    key = text.partition(":")[0]
    lines = {name: list(keys) for name, keys in HEAD.items()}
    kept = [item for item in lines.get(section, []) if not item.startswith(f"{key}:")]
    lines[section] = [*kept, text]
    return "".join(f"{name}:\n" + "".join(f"  {key}\n" for key in lines[name]) for name in lines)


def problems(text: str, folder: Path) -> list[Problem]:
    """Return the problems that emitterd finds, without those across keys."""
    file = folder / "emitter.yaml"
    file.write_text(text)
    return config._read(file, {}, config.SECTIONS)[1].reported()


def test_the_schema_itself_is_right() -> None:
    """It is a schema of draft 2020-12, and has every key with a description."""
    Draft202012Validator.check_schema(SCHEMA)
    for section, key, _ in config.every_key():
        assert SCHEMA["properties"][section]["properties"][key]["description"]


@pytest.mark.parametrize("name", ["emitter.yaml", "emitterd/config/minimal.yaml"])
def test_the_shipped_files_are_right(name: str) -> None:
    """The reference and the minimal file have no problem."""
    assert places((ROOT / name).read_text()) == set()


def test_a_new_configuration_names_the_schema_for_editors() -> None:
    """yaml-language-server reads the first line; the path needs no network."""
    comment, _, path = shipped().splitlines()[0].partition("=")

    assert comment == "# yaml-language-server: $schema"
    assert json.loads(Path(path).read_text()) == SCHEMA


@pytest.mark.parametrize(
    "line",
    [
        "emission.username: 4711",
        "emission.url: http://10.0.0.5:5000/a@b",
        "emission.minimum_speed: 0B",
        "emission.proxy: http://u:p@proxy:3128",
        "spool.settle: 500ms",
        "spool.settle: 1.5s",
        "spool.include: '*.zip, *.ZIP'",
        "spool.exclude: []",
        "spool.cqube_version: 3.7",
        "spool.catalogue: off",
        "delivery.workers: 8",
        "delivery.workers: auto",
        "delivery.bandwidth: 512KiB/s",
        "delivery.bandwidth: off",
        'delivery.bandwidth: [{from: "08:00", to: "24:00", limit: off}, {limit: 2MiB/s}]',
        "log.level: debug",
        "journal.url: postgresql://u@db-1,db-2:5433/emitterd?sslmode=require",
        "journal.host: hub-1",
        "web.listen: 127.0.0.1:9464",
        "web.listen: '[::1]:9464'",
        "web.listen: unix:/run/emitterd/page.sock",
        "tracking.enabled: true",
        "alerts.command: [/usr/local/bin/alert, --now]",
        "alerts.command: /usr/local/bin/alert --now",
        "alerts.heartbeat_url: https://hc-ping.com/abc?x=1",
        "datasets.expect: {pat: 35d, school_master/school_mst: 200d}",
    ],
)
def test_what_emitterd_reads_is_right(tmp_path: Path, line: str) -> None:
    """A value that emitterd accepts has no problem."""
    assert problems(with_line(line), tmp_path) == []
    assert places(with_line(line)) == set()


@pytest.mark.parametrize(
    "line",
    [
        "emission.url: cqube.example.org/data",
        "emission.url: https://u@h/data",
        "emission.usrname: u",
        "emission.password:",
        "emission.token_scheme: two words",
        "emission.allow_insecure_http: yes",
        "emission.minimum_speed: 1024",
        "emission.proxy: https://proxy:3128",
        "spool.settle: 5",
        "spool.settle: 5 s",
        "spool.settle: 5min",
        "spool.include: []",
        "spool.completion: lease",
        "spool.cqube_version: three",
        "delivery.workers: 0",
        "delivery.workers: 65",
        "delivery.workers: many",
        "delivery.bandwidth: 2MiB",
        'delivery.bandwidth: [{from: "08:00", limit: 2MiB/s}]',
        'delivery.bandwidth: [{from: "25:00", to: "26:00", limit: 2MiB/s}]',
        "log.level: verbose",
        "journal.url: mysql://db",
        "journal.host: hub 1",
        "web.listen: 9464",
        "web.listen: unix:page.sock",
        "alerts.command: []",
        "alerts.heartbeat_url: ftp://h",
        "datasets.expect: {pat: 35}",
        "metrics.listen: 127.0.0.1:9464",
        "spol.settle: 5s",
    ],
)
def test_what_emitterd_refuses_is_wrong(tmp_path: Path, line: str) -> None:
    """A value that emitterd refuses is a problem of its key, or of the section."""
    assert problems(with_line(line), tmp_path)
    section, _, text = line.partition(".")
    key = f"{section}.{text.partition(':')[0]}"
    found = places(with_line(line))
    assert found
    assert all(place in {"", section} or place.startswith(key) for place in found)


@pytest.mark.parametrize("section", ["emission", "spool"])
def test_a_required_section_is_missed(section: str) -> None:
    """The file must give the address and the folder."""
    assert places("".join(f"{s}: {{url: https://h}}\n" for s in HEAD if s != section))
