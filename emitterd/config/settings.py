"""`emitter.yaml`, checked: every problem at once, with key path, line and remedy.

Each section of the file is a class. A field says how its value is read, and what a key
is called in the file where its own name is longer. Attributes carry their unit
(`settle_s` in seconds, `minimum_speed_bytes`), keys do not (`settle: 5s`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from emitterd.client.timetable import Timetable
from emitterd.config import fields as values
from emitterd.config.fields import timetable
from emitterd.config.secrets import Secret, SecretReader, SecretSource
from emitterd.config.sources import Problems, Sources, ValueProblem, read_file
from emitterd.errors import ConfigError, Problem
from emitterd.monitoring.alarms import AlarmLimits
from emitterd.monitoring.endpoint import Endpoint
from emitterd.units import UnitError
from emitterd.yaml_reader import YamlError

_ALTERNATIVES = [
    frozenset({f"emission.{name}", f"emission.{name}_file", f"emission.{name}_env"})
    for name in ("password", "api_key")
]


Watching = Literal["auto", "inotify", "polling"]
Inspecting = Literal["off", "warn", "enforce"]
Datasource = Literal["state", "udise"]
Disposing = Literal["keep", "archive", "delete"]
Level = Literal["debug", "info", "warning", "error"]

_READ, _NAME = "read", "name"


def _key(
    read: Callable[[object], object],
    default: object = MISSING,
    *,
    name: str | None = None,
    shown: bool = True,
) -> Any:  # noqa: ANN401  as dataclasses.field
    """Declare a key: how it is read, its default, its name in the file if another.

    `read` raises `ValueProblem` or `UnitError`. `shown`: a repr shows the value.
    """
    metadata = {_READ: read, _NAME: name}
    return field(default=default, repr=shown, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmissionSettings:
    """The emission API: where it is, who we are, how long we wait for it."""

    url: str = _key(values.emission_url)
    username: str | None = _key(values.text, None)
    password_file: Path | None = _key(values.path, None)
    password_env: str | None = _key(values.text, None, shown=False)
    password: Secret | None = _key(values.secret, None)
    api_key_file: Path | None = _key(values.path, None)
    api_key_env: str | None = _key(values.text, None, shown=False)
    api_key: Secret | None = _key(values.secret, None)
    token_scheme: str = _key(values.http_token, "Bearer")
    ca_file: Path | None = _key(values.path, None)
    client_cert: Path | None = _key(values.path, None)
    client_key: Path | None = _key(values.path, None)
    allow_insecure_http: bool = _key(values.flag, default=False)
    connect_timeout_s: float = _key(values.duration, 10.0, name="connect_timeout")
    stall_timeout_s: float = _key(values.duration, 60.0, name="stall_timeout")
    minimum_speed_bytes: int = _key(values.size, 1024, name="minimum_speed")
    proxy: Secret | None = _key(values.proxy, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """The watched folder, and which of its files are sent when."""

    directory: Path = _key(values.path)
    include: tuple[str, ...] = _key(values.some_patterns, ("**/*.zip",))
    exclude: tuple[str, ...] = _key(values.patterns, ())
    settle_s: float = _key(values.duration, 5.0, name="settle")
    sweep_every_s: float = _key(values.duration, 30.0, name="sweep_every")
    incomplete_after_s: float = _key(values.duration, 600.0, name="incomplete_after")
    watcher: Watching = _key(values.word(Watching), "auto")
    catalogue: Inspecting = _key(values.word(Inspecting), "warn")
    catalogue_file: Path | None = _key(values.path, None)
    cqube_version: str | None = _key(values.cqube_version, None)
    static_datasource: Datasource | None = _key(values.word(Datasource), None)
    inspection_budget_bytes: int = _key(
        values.size, 8 * 1024**2, name="inspection_budget"
    )
    after_delivery: Disposing = _key(values.word(Disposing), "keep")
    archive_directory: Path | None = _key(values.path, None)
    rejected_directory: Path | None = _key(values.path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """The journal: where it is, and how long it remembers what was delivered."""

    path: Path = _key(values.path, Path("/var/lib/emitterd/journal.db"))
    retain_s: float = _key(values.duration, 400 * 86400.0, name="retain")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The workers, what they may send together, and how they back off."""

    workers: int | Literal["auto"] = _key(values.workers, "auto")
    bandwidth: Timetable | None = _key(timetable, None)
    backoff_initial_s: float = _key(values.duration, 2.0, name="backoff_initial")
    backoff_max_s: float = _key(values.duration, 600.0, name="backoff_max")
    drain_timeout_s: float = _key(values.duration, 30.0, name="drain_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log."""

    level: Level = _key(values.word(Level), "info")
    file: Path | None = _key(values.path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Where metrics, health and page are served, and when progress is missed."""

    listen: Endpoint | None = _key(values.endpoint, None)
    token_file: Path | None = _key(values.path, None)
    oldest_waiting_max_s: float = _key(
        values.duration, 3600.0, name="oldest_waiting_max"
    )
    no_success_max_s: float = _key(values.duration, 1800.0, name="no_success_max")

    @property
    def limits(self) -> AlarmLimits:
        """What the verdict goes by."""
        return AlarmLimits(self.oldest_waiting_max_s, self.no_success_max_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Secrets are resolved, paths absolute."""

    emission: EmissionSettings
    spool: SpoolSettings
    journal: JournalSettings
    delivery: DeliverySettings
    log: LogSettings
    metrics: MetricsSettings
    source: Path


SECTIONS: dict[str, type[Any]] = {
    "emission": EmissionSettings,
    "spool": SpoolSettings,
    "journal": JournalSettings,
    "delivery": DeliverySettings,
    "log": LogSettings,
    "metrics": MetricsSettings,
}


def every_key() -> Iterator[tuple[str, str, str]]:
    """Yield every key: its section, its name in the file, its attribute's name."""
    for section, settings in SECTIONS.items():
        for one in fields(settings):
            yield section, _name(one), one.name


def load(
    path: Path, environ: Mapping[str, str], *, awaits_folder: bool = False
) -> Config:
    """Read the file, with the environment over it, and resolve the secrets.

    `awaits_folder`: for who waits until the watched folder is there. Raises
    `ConfigError` with all problems, in file order.
    """
    from emitterd.config import rules as checks

    config, findings, private = _read(path, environ, SECTIONS)
    checks.check_all(config, findings, awaits_folder=awaits_folder)
    emission = _with_secrets(
        config.emission, SecretReader(findings, environ, private=private)
    )
    if problems := findings.in_order():
        raise ConfigError(values.shown(path), problems)
    return replace(config, emission=emission)


def load_part(path: Path, environ: Mapping[str, str], *sections: str) -> Config:
    """Read the file for who needs only these sections; the others may be unsound.

    Needs neither the secret nor the folder: one looks at the journal when these fail.
    Raises `ConfigError` where the file cannot be read, or says nothing sound of them.
    """
    config, findings, _ = _read(path, environ, sections)
    if problems := findings.in_order(*sections):
        raise ConfigError(values.shown(path), problems)
    return config


def _read(
    path: Path, environ: Mapping[str, str], sections: Collection[str]
) -> tuple[Config, Problems, bool]:
    """Read the file; what is not of these sections counts as not given."""
    source = path.absolute()
    try:
        document, private = read_file(source)
    except YamlError as error:
        problem = Problem(source.name, error.line, str(error), error.remedy)
        raise ConfigError(values.shown(path), [problem]) from None
    layers = Sources(_schema(), _ALTERNATIVES)
    layers.read_document(document)
    layers.read_environment(environ)
    for section in SECTIONS.keys() - sections:
        layers.values[section].clear()
    reading = _Reader(layers.findings, source.parent)
    read = {name: reading.section(name, given) for name, given in layers.values.items()}
    return Config(**read, source=source), layers.findings, private


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes values of what was given; relative paths start at `base`.

    A wrong value is reported and left out, so that one load finds every problem; what
    has been built is then thrown away.
    """

    findings: Problems
    base: Path

    def section(self, section: str, given: Mapping[str, object]) -> Any:  # noqa: ANN401  any of SECTIONS
        read = {}
        for one in fields(SECTIONS[section]):
            key = _name(one)
            if key in given or one.default is MISSING:
                value = given.get(key)
                read[one.name] = self._value(one, f"{section}.{key}", value)
        return SECTIONS[section](**read)

    def _value(self, one: "Field[Any]", key: str, value: object) -> object:
        if value is None:
            self.findings.report_none(key)
            return None
        try:
            read = one.metadata[_READ](value)
        except (ValueProblem, UnitError) as error:
            self.findings.report(key, str(error), error.remedy)
            return None
        return self.base / read if isinstance(read, Path) else read


def _name(one: "Field[Any]") -> str:
    """Return what the key of a field is called in the file."""
    return one.metadata[_NAME] or one.name


def describe(config: Config) -> list[tuple[str, str]]:
    """Return every key path and its effective value for people, secrets masked."""
    return [
        (f"{section}.{key}", _described(name, getattr(getattr(config, section), name)))
        for section, key, name in every_key()
    ]


def _schema() -> dict[str, dict[str, type]]:
    return {
        section: {_name(one): _kind(one.type) for one in fields(settings)}
        for section, settings in SECTIONS.items()
    }


def _kind(annotation: Any) -> type:  # noqa: ANN401  any type
    """Return what the text of a variable is turned into."""
    named = {annotation, get_origin(annotation), *get_args(annotation)}
    return next((kind for kind in (bool, int, tuple) if kind in named), str)


def _with_secrets(emission: EmissionSettings, reader: SecretReader) -> EmissionSettings:
    password, api_key = reader.choose(
        emission.username, _offer(emission, "password"), _offer(emission, "api_key")
    )
    if emission.proxy and "@" in emission.proxy.reveal():
        reader.refuse_public("emission.proxy")
    return replace(
        emission,
        password=Secret(password) if password else None,
        api_key=Secret(api_key) if api_key else None,
    )


def _offer(emission: EmissionSettings, name: str) -> SecretSource:
    inline: Secret | None = getattr(emission, name)
    return SecretSource(
        key=f"emission.{name}",
        credential=name.replace("_", "-"),
        in_header=name == "api_key",
        inline=inline.reveal() if inline else None,
        file=getattr(emission, f"{name}_file"),
        name=getattr(emission, f"{name}_env"),
    )


def _described(name: str, value: object) -> str:
    masked = isinstance(value, Secret)
    return "********" if masked else values.value_for_people(name, value)
