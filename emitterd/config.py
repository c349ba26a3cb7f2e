"""`emitter.yaml`, checked: every problem at once, with key path, line and remedy.

The only module that imports pydantic. Each section of the file is a model; what a
key is called in the file is the field's alias, or its name. Attributes carry their
unit (`settle_s` in seconds, `minimum_speed_bytes`), keys do not (`settle: 5s`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from emitterd import config_checks as checks
from emitterd import config_values as values
from emitterd.config_layers import Findings, Layers, Refusal, read_file
from emitterd.config_timetable import timetable
from emitterd.endpoint import Endpoint
from emitterd.errors import ConfigError, Problem
from emitterd.secrets_source import Offer, SecretReader
from emitterd.timetable import Timetable
from emitterd.verdict import Limits
from emitterd.yamlmarks import YamlError

_ALTERNATIVES = [
    frozenset({f"emission.{name}", f"emission.{name}_file", f"emission.{name}_env"})
    for name in ("password", "api_key")
]


@dataclass(frozen=True, slots=True)
class _Loading:
    """What the validators have to know of the file that is loaded."""

    findings: Findings
    base: Path


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    base = info.context.base if isinstance(info.context, _Loading) else Path()
    return values.path(value, base)


def _patterns(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise Refusal("must be a list", 'write it as ["**/*.zip"]')
    return tuple(values.pattern(item) for item in value)


def _proxy(value: SecretStr) -> SecretStr:
    return SecretStr(values.proxy_url(value.get_secret_value()))


Duration = Annotated[float, BeforeValidator(values.duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(values.size)]
Text = Annotated[str, AfterValidator(values.text)]
HeaderWord = Annotated[str, AfterValidator(values.http_token)]
Place = Annotated[Path, BeforeValidator(_path)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
Bandwidth = Annotated[Timetable, BeforeValidator(timetable)]
Listen = Annotated[Endpoint, BeforeValidator(values.endpoint)]


class _Section(BaseModel):
    """A section of the file.

    While a file is loaded, a wrong value is reported and left out, so that one load
    finds every problem; what has been built is then thrown away.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )
    section: ClassVar[str]

    @field_validator("*", mode="wrap")
    @classmethod
    def _report(
        cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> object:
        if not isinstance(info.context, _Loading):
            return handler(value)
        findings = info.context.findings
        name = info.field_name or ""
        key = f"{cls.section}.{cls.model_fields[name].alias or name}"
        if value is None:
            findings.report_none(key)
            return None
        try:
            return handler(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            message, remedy = values.explain(first["type"], first.get("ctx", {}))
            findings.report(key, message, remedy)
            return None


class Emission(_Section):
    """The emission API: where it is, who we are, how long we wait for it."""

    section = "emission"

    url: Annotated[str, AfterValidator(values.emission_url)]
    username: Text | None = None
    password_file: Place | None = None
    password_env: Text | None = Field(None, repr=False)
    password: SecretStr | None = None
    api_key_file: Place | None = None
    api_key_env: Text | None = Field(None, repr=False)
    api_key: SecretStr | None = None
    token_scheme: HeaderWord = "Bearer"  # noqa: S105  a scheme, not a token
    ca_file: Place | None = None
    client_cert: Place | None = None
    client_key: Place | None = None
    allow_insecure_http: bool = False
    connect_timeout_s: Duration = Field(10.0, alias="connect_timeout")
    stall_timeout_s: Duration = Field(60.0, alias="stall_timeout")
    minimum_speed_bytes: Size = Field(1024, alias="minimum_speed")
    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None


class Spool(_Section):
    """The watched folder, and which of its files are sent when."""

    section = "spool"

    directory: Place
    include: Annotated[Patterns, Field(min_length=1)] = ("**/*.zip",)
    exclude: Patterns = ()
    settle_s: Duration = Field(5.0, alias="settle")
    sweep_every_s: Duration = Field(30.0, alias="sweep_every")
    incomplete_after_s: Duration = Field(600.0, alias="incomplete_after")
    watcher: Literal["auto", "inotify", "polling"] = "auto"
    catalogue: Literal["off", "warn", "enforce"] = "warn"
    catalogue_file: Place | None = None
    cqube_version: Annotated[str, BeforeValidator(values.cqube_version)] | None = None
    static_datasource: Literal["state", "udise"] | None = None
    inspection_budget_bytes: Size = Field(8 * 1024**2, alias="inspection_budget")
    after_delivery: Literal["keep", "archive", "delete"] = "keep"
    archive_directory: Place | None = None
    rejected_directory: Place | None = None


class Journal(_Section):
    """The journal: where it is, and how long it remembers what was delivered."""

    section = "journal"

    path: Place = Path("/var/lib/emitterd/journal.db")
    retain_s: Duration = Field(400 * 86400.0, alias="retain")


class Delivery(_Section):
    """The workers, what they may send together, and how they back off."""

    section = "delivery"

    workers: Annotated[int | Literal["auto"], BeforeValidator(values.workers)] = "auto"
    bandwidth: Bandwidth | None = None
    backoff_initial_s: Duration = Field(2.0, alias="backoff_initial")
    backoff_max_s: Duration = Field(600.0, alias="backoff_max")
    drain_timeout_s: Duration = Field(30.0, alias="drain_timeout")


class Log(_Section):
    """The log."""

    section = "log"

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: Place | None = None


class Metrics(_Section):
    """Where metrics, health and page are served, and when progress is missed."""

    section = "metrics"

    listen: Listen | None = None
    token_file: Place | None = None
    oldest_waiting_max_s: Duration = Field(3600.0, alias="oldest_waiting_max")
    no_success_max_s: Duration = Field(1800.0, alias="no_success_max")

    @property
    def limits(self) -> Limits:
        """What the verdict goes by."""
        return Limits(self.oldest_waiting_max_s, self.no_success_max_s)


class Config(BaseModel):
    """The whole configuration. Secrets are resolved, paths absolute."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    emission: Emission
    spool: Spool
    journal: Journal
    delivery: Delivery
    log: Log
    metrics: Metrics
    source: Path


SECTIONS: dict[str, type[_Section]] = {
    model.section: model for model in (Emission, Spool, Journal, Delivery, Log, Metrics)
}


def every_key() -> Iterator[tuple[str, str, str]]:
    """Yield every key: its section, its name in the file, its attribute's name."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            yield section, field.alias or name, name


def load(
    path: Path, environ: Mapping[str, str], *, awaits_folder: bool = False
) -> Config:
    """Read the file, with the environment over it, and resolve the secrets.

    `awaits_folder`: for who waits until the watched folder is there. Raises
    `ConfigError` with all problems, in file order.
    """
    config, findings, private = _read(path, environ)
    checks.check_all(config, findings, awaits_folder=awaits_folder)
    emission = _with_secrets(
        config.emission, SecretReader(findings, environ, private=private)
    )
    if problems := findings.in_order():
        raise ConfigError(values.shown(path), problems)
    return config.model_copy(update={"emission": emission})


def load_part(path: Path, environ: Mapping[str, str], *sections: str) -> Config:
    """Read the file for who needs only these sections; the others may be unsound.

    Needs neither the secret nor the folder: one looks at the journal when these fail.
    Raises `ConfigError` where the file cannot be read, or says nothing sound of them.
    """
    config, findings, _ = _read(path, environ)
    if problems := findings.in_order(*sections):
        raise ConfigError(values.shown(path), problems)
    return config


def _read(path: Path, environ: Mapping[str, str]) -> tuple[Config, Findings, bool]:
    source = path.absolute()
    try:
        document, private = read_file(source)
    except YamlError as error:
        problem = Problem(source.name, error.line, str(error), error.remedy)
        raise ConfigError(values.shown(path), [problem]) from None
    layers = Layers(_schema(), _ALTERNATIVES)
    layers.read_document(document)
    layers.read_environment(environ)
    findings = layers.findings
    for section, key, name in every_key():
        if SECTIONS[section].model_fields[name].is_required():
            layers.values[section].setdefault(key, None)
    config = Config.model_validate(
        {**layers.values, "source": source}, context=_Loading(findings, source.parent)
    )
    return config, findings, private


def describe(config: Config) -> list[tuple[str, str]]:
    """Return every key path and its effective value for people, secrets masked."""
    return [
        (f"{section}.{key}", _described(name, getattr(getattr(config, section), name)))
        for section, key, name in every_key()
    ]


def _schema() -> dict[str, dict[str, type]]:
    schema: dict[str, dict[str, type]] = {section: {} for section in SECTIONS}
    for section, key, name in every_key():
        annotation = SECTIONS[section].model_fields[name].annotation
        named = {annotation, get_origin(annotation), *get_args(annotation)}
        fitting = (kind for kind in (bool, int, tuple) if kind in named)
        schema[section][key] = next(fitting, str)
    return schema


def _with_secrets(emission: Emission, reader: SecretReader) -> Emission:
    password, api_key = reader.choose(
        emission.username, _offer(emission, "password"), _offer(emission, "api_key")
    )
    if emission.proxy and "@" in emission.proxy.get_secret_value():
        reader.refuse_public("emission.proxy")
    return emission.model_copy(
        update={
            "password": password and SecretStr(password),
            "api_key": api_key and SecretStr(api_key),
        }
    )


def _offer(emission: Emission, name: str) -> Offer:
    inline: SecretStr | None = getattr(emission, name)
    return Offer(
        key=f"emission.{name}",
        credential=name.replace("_", "-"),
        in_header=name == "api_key",
        inline=inline.get_secret_value() if inline else None,
        file=getattr(emission, f"{name}_file"),
        name=getattr(emission, f"{name}_env"),
    )


def _described(name: str, value: object) -> str:
    masked = isinstance(value, SecretStr)
    return "********" if masked else values.value_for_people(name, value)
