"""The settings of `emitter.yaml`: loads and checks them, and reports all problems.

Each section of the file is a class. A field declares how its value is read. Attribute names end in
their unit (`settle_s` in seconds, `minimum_speed_bytes`); keys do not (`settle: 5s`).
"""

import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from emitterd.client.timetable import Timetable
from emitterd.config import fields as values
from emitterd.config.secrets import DatabaseUrl, NotifyUrl, Secret, SecretReader, read_notify_urls
from emitterd.config.sources import Problems, read_file, variable
from emitterd.errors import ConfigError
from emitterd.journal.opening import JournalLocation
from emitterd.model import WireProtocol
from emitterd.monitoring.alarms import AlarmLimits
from emitterd.monitoring.arrivals import Expectation
from emitterd.text import printable, shown
from emitterd.tracking.policy import TrackingRule
from emitterd.web.endpoint import Endpoint
from emitterd.yaml_reader import Node, YamlError

_ALTERNATIVES = [
    frozenset({f"emission.{name}", f"emission.{name}_file", f"emission.{name}_env"})
    for name in ("password", "api_key")
]
_ALTERNATIVES.append(frozenset({"journal.path", "journal.url"}))
STATE_DIRECTORY = Path("/var/lib/emitterd")
"""What the systemd unit makes."""

Completing = Literal["auto", "quiet"]
Watching = Literal["auto", "inotify", "polling"]
Inspecting = Literal["off", "warn", "enforce"]
Datasource = Literal["state", "udise"]
Disposing = Literal["keep", "archive", "delete"]
LanguageCode = Literal["en", "hi"]
Level = Literal["debug", "info", "warning", "error"]

_READ = "read"
_ENTRY = "entry"


def _key(
    read: Callable[[object], object],
    default: object = MISSING,
    *,
    in_repr: bool = True,
    entry: Callable[[str, Any], object] | None = None,
) -> Any:  # noqa: ANN401  as dataclasses.field
    """Declare a key: how to read it, and its default.

    `read` raises `ValueProblem`. `in_repr`: the repr shows the value. With `entry` the value is a
    mapping: `read` reads each of its values, and `entry` gets it with its name.
    """
    return field(default=default, repr=in_repr, metadata={_READ: read, _ENTRY: entry})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmissionSettings:
    """The emission API: its address, the login, and the time limits."""

    url: str = _key(values.emission_url)
    protocol: WireProtocol = _key(values.word(WireProtocol), "emission")
    username: str | None = _key(values.text, None)
    password_file: Path | None = _key(values.path, None)
    password_env: str | None = _key(values.text, None, in_repr=False)
    password: Secret | None = _key(values.secret, None)
    api_key_file: Path | None = _key(values.path, None)
    api_key_env: str | None = _key(values.text, None, in_repr=False)
    api_key: Secret | None = _key(values.secret, None)
    token_scheme: str = _key(values.http_token, "Bearer")
    ca_file: Path | None = _key(values.path, None)
    client_cert: Path | None = _key(values.path, None)
    client_key: Path | None = _key(values.path, None)
    allow_insecure_http: bool = _key(values.flag, default=False)
    connect_timeout_s: float = _key(values.duration, 10.0)
    stall_timeout_s: float = _key(values.duration, 60.0)
    minimum_speed_bytes: int = _key(values.size, 1024)
    proxy: Secret | None = _key(values.proxy, None)

    @property
    def takes_programs(self) -> bool:
        """Whether the server takes the zips of programs (cQube 5), not those of datasets."""
        return self.protocol == "ingestion"

    @property
    def proxy_url(self) -> str | None:
        """The proxy in the clear, with its password."""
        return self.proxy.reveal() if self.proxy else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """The watched folder: which of its files emitterd sends, and when."""

    directory: Path = _key(values.path)
    include: tuple[str, ...] = _key(values.some_patterns, ("**/*.zip",))
    exclude: tuple[str, ...] = _key(values.patterns, ())
    completion: Completing = _key(values.word(Completing), "auto")
    settle_s: float = _key(values.duration, 5.0)
    sweep_every_s: float = _key(values.duration, 30.0)
    incomplete_after_s: float = _key(values.duration, 600.0)
    watcher: Watching = _key(values.word(Watching), "auto")
    catalogue: Inspecting = _key(values.word(Inspecting), "warn")
    catalogue_file: Path | None = _key(values.path, None)
    cqube_version: str | None = _key(values.cqube_version, None)
    static_datasource: Datasource | None = _key(values.word(Datasource), None)
    inspection_budget_bytes: int = _key(values.size, 8 * 1024**2)
    after_delivery: Disposing = _key(values.word(Disposing), "keep")
    archive_directory: Path | None = _key(values.path, None)
    rejected_directory: Path | None = _key(values.path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """The journal: where it is, and how long it keeps entries that have ended.

    A file at `path`, or the database at `url`, which several hosts can share.
    """

    path: Path = _key(values.path, Path("/var/lib/emitterd/journal.db"))
    url: DatabaseUrl | None = _key(values.database_url, None)
    password_file: Path | None = _key(values.path, None)
    host: str | None = _key(values.host_name, None)
    state_directory: Path | None = _key(values.path, None)
    retain_s: float = _key(values.duration, 400 * 86400.0)

    @property
    def location(self) -> JournalLocation:
        """Where the journal is, with the password of `url` in the clear."""
        if self.url is None:
            return JournalLocation(self.path)
        folder = self.state_directory or STATE_DIRECTORY
        host = self.host or platform.node()
        return JournalLocation(folder / "journal", self.url.reveal(), self.password_file, host)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The workers, the bandwidth they share, and their backoff."""

    workers: int | Literal["auto"] = _key(values.workers, "auto")
    bandwidth: Timetable | None = _key(values.timetable, None)
    backoff_initial_s: float = _key(values.duration, 2.0)
    backoff_max_s: float = _key(values.duration, 600.0)
    drain_timeout_s: float = _key(values.duration, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log: its level and its file."""

    level: Level = _key(values.word(Level), "info")
    file: Path | None = _key(values.path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """The address of page, metrics and health, and who may log in to the page."""

    listen: Endpoint | None = _key(values.endpoint, None)
    token_file: Path | None = _key(values.path, None)
    operators_file: Path | None = _key(values.path, None)
    public_url: str | None = _key(values.public_url, None)
    client_address_header: str | None = _key(values.header_name, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSettings:
    """Whether, and how often, to ask the server what became of delivered files."""

    enabled: bool = _key(values.flag, default=False)
    poll_every_s: float = _key(values.duration, 900.0)
    give_up_after_s: float = _key(values.duration, 8 * 86400.0)

    @property
    def rule(self) -> TrackingRule:
        """The rule that tracking uses."""
        return TrackingRule(self.poll_every_s, self.give_up_after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsSettings:
    """Who is told about alarms, and from which limits on missing progress is one."""

    notify_file: Path | None = _key(values.path, None)
    command: tuple[str, ...] | None = _key(values.command, None)
    heartbeat_url: Secret | None = _key(values.secret_url, None)
    heartbeat_every_s: float = _key(values.duration, 300.0)
    repeat_every_s: float = _key(values.duration, 86400.0)
    language: LanguageCode = _key(values.word(LanguageCode), "en")
    oldest_waiting_max_s: float = _key(values.duration, 3600.0)
    no_success_max_s: float = _key(values.duration, 1800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetsSettings:
    """How often files of a dataset are expected."""

    expect: tuple[Expectation, ...] = _key(values.duration, (), entry=Expectation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Secrets are resolved, paths are absolute.

    `notify_urls`: the content of `alerts.notify_file`, or of systemd's credential.
    """

    emission: EmissionSettings
    spool: SpoolSettings
    journal: JournalSettings
    delivery: DeliverySettings
    log: LogSettings
    web: WebSettings
    tracking: TrackingSettings
    alerts: AlertsSettings
    datasets: DatasetsSettings
    source: Path
    notify_urls: tuple[NotifyUrl, ...] = ()

    @property
    def alerting(self) -> bool:
        """Whether anybody is to be told about alarms."""
        return bool(self.notify_urls or self.alerts.command or self.alerts.heartbeat_url)

    @property
    def alarm_limits(self) -> AlarmLimits:
        """The limits that the alarms use."""
        alerts = self.alerts
        return AlarmLimits(
            alerts.oldest_waiting_max_s, alerts.no_success_max_s, self.datasets.expect
        )


SECTIONS: dict[str, Any] = {
    section.name: section.type
    for section in fields(Config)
    if section.name not in {"source", "notify_urls"}
}


def every_key() -> Iterator[tuple[str, str, str]]:
    """Yield section, key in the file, and attribute name of every setting."""
    for section, settings in SECTIONS.items():
        for declared in fields(settings):
            yield section, _key_name(declared), declared.name


def load(path: Path, environ: Mapping[str, str], *, awaits_folder: bool = False) -> Config:
    """Load the file, with the environment over it, and resolve the secrets.

    `awaits_folder`: the watched folder may be missing now and appear later. Raises `ConfigError`
    with all problems.
    """
    # Imported here, because the commands that only read the journal need no TLS.
    from emitterd.config import rules

    config, problems, private = _read(path, environ, SECTIONS)
    rules.check_all(config, problems, awaits_folder=awaits_folder)
    reader = SecretReader(config.emission, config.journal, problems, environ, private=private)
    password, api_key = reader.read()
    urls = problems.check(
        "alerts.notify_file", read_notify_urls, config.alerts.notify_file, environ
    )
    if reported := problems.reported():
        raise ConfigError(shown(path), reported)
    emission = replace(config.emission, password=password, api_key=api_key)
    return replace(config, emission=emission, notify_urls=urls or ())


def load_part(path: Path, environ: Mapping[str, str], *sections: str) -> Config:
    """Load only these sections, or single keys like `emission.url`; ignore problems in the others.

    A single key that is wrong or missing is None. Needs neither the secret nor the watched folder,
    so that operators can look at the journal while those fail. Raises `ConfigError` with the
    problems of the sections.
    """
    config, problems, _ = _read(path, environ, sections)
    if reported := problems.reported(*sections):
        raise ConfigError(shown(path), reported)
    return config


def describe(config: Config) -> list[tuple[str, str]]:
    """Return every key path with the value in effect; secrets are masked."""
    described = []
    for section, key, name in every_key():
        value = getattr(getattr(config, section), name)
        described.append((f"{section}.{key}", values.value_for_people(name, value)))
    return described


def _read(
    path: Path, environ: Mapping[str, str], sections: Collection[str]
) -> tuple[Config, Problems, bool]:
    """Read the settings; keys of other sections count as not given."""
    source = path.absolute()
    try:
        document, private = read_file(source)
    except YamlError as error:
        raise ConfigError(shown(path), [error.at(source.name, error.line)]) from None
    schema = {
        section: [_key_name(declared) for declared in fields(settings)]
        for section, settings in SECTIONS.items()
    }
    problems = Problems(schema, _ALTERNATIVES)
    problems.read_document(document)
    problems.read_environment(environ)
    for key in list(problems.nodes):
        if key.partition(".")[0] not in sections and key not in sections:
            del problems.nodes[key]
    read = {section: _settings(section, problems, source.parent) for section in SECTIONS}
    return Config(**read, source=source), problems, private


def _settings(section: str, problems: Problems, base: Path) -> Any:  # noqa: ANN401  any of SECTIONS
    """Read one section; relative paths start at `base`.

    A wrong value is reported and becomes None, so that one load finds every problem.
    """
    read = {}
    for declared in fields(SECTIONS[section]):
        key = f"{section}.{_key_name(declared)}"
        if problems.given(key) or declared.default is MISSING:
            value = _value(declared, key, problems)
            read[declared.name] = base / value if isinstance(value, Path) else value
    return SECTIONS[section](**read)


def _value(declared: "Field[Any]", key: str, problems: Problems) -> object:
    node = problems.nodes.get(key)
    entry = declared.metadata[_ENTRY]
    if node and node.children is not None and not entry:
        problems.report(key, "must be a value, not a section", "write it on one line")
    elif node is None:
        remedy = f"give it, or set {variable(*key.split('.'))}"
        problems.report(key, "is missing", remedy)
    elif node.value == "":
        remedy = "give it one, in quotes if it begins with #, or remove it"
        problems.report(key, "has no value", remedy)
    elif entry:
        return _mapping(declared, key, problems)
    else:
        read: Callable[[object], object] = declared.metadata[_READ]
        return problems.check(key, read, node.value)
    return None


def _mapping(declared: "Field[Any]", key: str, problems: Problems) -> object:
    """Read a mapping; a wrong value is reported with its own line and left out."""
    node = problems.nodes[key]
    children = node.children
    if children is None and isinstance(node.value, str) and node.line is None:
        # A variable of the environment.
        pairs = (part.partition(":") for part in node.value.split(","))
        children = {name.strip(): Node("", None, value.strip()) for name, _, value in pairs}
    if children is None:
        problems.report(key, "must be a mapping", "write it like {pat: 35d, sat: 60d}")
        return ()
    entries = []
    for name, child in children.items():
        path = f"{key}.{name}"
        problems.nodes[path] = Node(f"{node.path}.{printable(name)}", child.line, child.value)
        value = problems.check(path, declared.metadata[_READ], child.value)
        if problems.valid(path):
            entries.append(declared.metadata[_ENTRY](name, value))
    return tuple(entries)


def _key_name(declared: "Field[Any]") -> str:
    return declared.name.removesuffix("_s").removesuffix("_bytes")
