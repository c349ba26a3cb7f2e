"""`init`: lays out the dataset folders, `emitter.yaml` and the file of the secret.

It never changes a file or a mode that exists. If a step fails, it removes what it made.
With upstream's `config.py` it takes over the values, and says what changes when
emitterd replaces `client.py`.
"""

import contextlib
import errno
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from emitterd.cli.output import DONE, console
from emitterd.config.rules import inside
from emitterd.config.secrets import read_secret
from emitterd.config.upstream_config import UpstreamConfig, read_upstream_config
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.spool.files import sync
from emitterd.text import printable, shown
from emitterd.yaml_reader import YamlError, load_data

Setting = str | bool | None
"""What a key is set to; None comments it out."""

KEYS = "<dataset>/<name>.zip"
"""The form of the object keys that the server reads."""

_SECTION = re.compile(r"([a-z_]+):")
_KEY = re.compile(r"  (?:# )?([a-z_]+):(?: .*)?")

_SYSTEM = Path("/etc")
_SERVICE_JOURNAL = "/var/lib/emitterd/journal.db"
_JOURNAL, _PASSWORD, _API_KEY = "journal.db", "password", "api-key"

_ELSEWHERE = "name another place, or run init as a user who may write there"
_REMEDIES = {
    errno.EEXIST: "move it away, or name another",
    errno.ENOENT: "create its folder with mkdir -p",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
}


def init(directory: Path, output: Path, from_client: Path | None) -> int:
    """Lay out an installation, and print what is left to do; return the exit code."""
    client = read_upstream_config(from_client) if from_client else None
    datasets = load_catalogue().datasets
    folders = list(dict.fromkeys(dataset.folder for dataset in datasets))
    layout = lay_out(directory, output, folders, client)
    say = partial(console().print, markup=False, soft_wrap=True)
    for path in layout.made:
        say(f"created {shown(path)}")
    for notice in layout.notices:
        say(f"note: {notice}")
    say("next:")
    for number, step in enumerate(layout.next_steps, 1):
        say(f"  {number}. {step}")
    return DONE


@dataclass(frozen=True, slots=True)
class Layout:
    """What `init` made: the paths, and lines for the person who ran it."""

    made: tuple[Path, ...]
    notices: tuple[str, ...]
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `init` makes; the paths are absolute."""

    directory: Path
    output: Path
    datasets: Sequence[str]
    client: UpstreamConfig

    @property
    def secret(self) -> str | None:
        """The API key if there is one, else the password."""
        return self.client.api_key or self.client.password

    @property
    def secret_file(self) -> Path:
        return self.output.with_name(_API_KEY if self.client.api_key else _PASSWORD)

    @property
    def for_service(self) -> bool:
        return inside(self.output, _SYSTEM) is not None

    @property
    def journal(self) -> str:
        """The service's journal, or one beside the configuration for a trial.

        A person who tries emitterd may not write to `/var/lib`.
        """
        return _SERVICE_JOURNAL if self.for_service else _JOURNAL


def lay_out(
    directory: Path,
    output: Path,
    datasets: Sequence[str],
    client: UpstreamConfig | None = None,
) -> Layout:
    """Make the watched folder with its dataset folders, and a configuration for it.

    What exists already stays as it is. Raises `ConfigError` if a place does not fit or
    a step fails; then nothing is left behind.
    """
    plan = _Plan(
        _absolute(directory), _absolute(output), datasets, client or UpstreamConfig()
    )
    if problems := list(_place_problems(plan)):
        raise ConfigError(shown(output), problems)
    made: list[Path] = []
    path = plan.directory
    try:
        for path, make in _steps(plan):
            if make():
                made.append(path)
    except (OSError, ValueProblem) as error:
        for path_made in reversed(made):
            _remove(path_made)
        raise ConfigError(shown(output), [_problem(path, error)]) from error
    return Layout(
        tuple(made),
        tuple(notices(client, plan.directory, datasets)) if client else (),
        tuple(_next_steps(plan)),
    )


def _absolute(path: Path) -> Path:
    """Make a path absolute; follow links only if `..` needs it, as the kernel does."""
    absolute = path.absolute()
    return Path(os.path.realpath(absolute)) if ".." in absolute.parts else absolute


def _place_problems(plan: _Plan) -> Iterator[Problem]:
    output, directory = shown(plan.output), shown(plan.directory)
    if plan.output.name in {_JOURNAL, _PASSWORD, _API_KEY}:
        message = f"{plan.output.name} is the name of another file of emitterd"
        yield Problem("--output", None, message, "name it emitter.yaml")
    try:
        str(plan.directory).encode()
    except UnicodeEncodeError:
        message = f"{directory} is not UTF-8, but emitter.yaml must be"
        yield Problem("DIRECTORY", None, message, "rename the folder, or name another")
    journal = plan.output.parent / plan.journal
    if inside(plan.output, plan.directory) is not None:
        message = f"{output} is in DIRECTORY: producers could replace it"
        yield Problem("--output", None, message, "name a file outside, with --output")
    elif inside(journal, plan.directory) is not None:
        message = f"the journal, {shown(journal)}, would be in it"
        yield Problem("DIRECTORY", None, message, "name a folder of its own")


def _steps(plan: _Plan) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """Yield each path, and what makes it and returns whether it was missing.

    `emitter.yaml` comes last: if it exists, the rest does too.
    """
    folders = [plan.directory / name for name in plan.datasets]
    for folder in (*reversed(plan.directory.parents), plan.directory, *folders):
        yield folder, partial(_make_folder, folder)
    if plan.secret:
        yield plan.secret_file, partial(_make_secret, plan.secret_file, plan.secret)
    text = fill(shipped(), _settings(plan))
    yield plan.output, partial(_create, plan.output, text, 0o666)


def _make_folder(folder: Path) -> bool:
    if os.path.isdir(folder):  # noqa: PTH112  the method raises
        return False
    folder.mkdir()
    return True


def _make_secret(file: Path, secret: str) -> bool:
    try:
        return _create(file, f"{secret}\n", 0o600)
    except FileExistsError:
        if read_secret(file) != secret:
            raise ValueProblem("holds another secret", "move it away") from None
        return False


def _create(path: Path, text: str, mode: int) -> bool:
    """Create a file, whole or not at all; raises `FileExistsError` if it exists.

    Its mode is `mode` less the umask from the start.
    """
    with tempfile.TemporaryDirectory(prefix=".emitterd-", dir=path.parent) as private:
        part = Path(private) / path.name
        part.touch(mode, exist_ok=False)
        with part.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(part)
    sync(path.parent)
    return True


def _remove(path: Path) -> None:
    # A folder that has got a file meanwhile stays.
    with contextlib.suppress(OSError):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _problem(path: Path, error: OSError | ValueProblem) -> Problem:
    if isinstance(error, ValueProblem):
        return error.at(shown(path))
    message = f"cannot be made: {error.strerror}"
    if isinstance(error, FileExistsError):
        message = "exists already, and is never overwritten"
    remedy = _REMEDIES.get(error.errno or 0, "correct that, and run init again")
    return Problem(shown(path), None, message, remedy)


def _settings(plan: _Plan) -> dict[str, Setting]:
    client = plan.client
    settings: dict[str, Setting] = {
        "spool.directory": str(plan.directory),
        "journal.path": plan.journal,
    }
    if client.url:
        settings["emission.url"] = client.url
        if client.url.startswith("http:"):
            settings["emission.allow_insecure_http"] = True
    if client.api_key:
        settings["emission.api_key_file"] = plan.secret_file.name
        settings["emission.username"] = settings["emission.password_file"] = None
        return settings
    settings["emission.password_file"] = plan.secret_file.name
    if client.username:
        settings["emission.username"] = client.username
    return settings


def _next_steps(plan: _Plan) -> Iterator[str]:
    client, output = plan.client, shown(plan.output)
    if not client.url:
        yield f"set emission.url in {output}"
    if not client.api_key and not client.username:
        yield (
            f"set emission.username in {output}; for cQube 1.7 and later set"
            " api_key_file instead, and put # before username and password_file"
        )
    if not os.path.lexists(plan.secret_file):
        yield (
            "put the password into its file, then press Ctrl-D:"
            f" install -m 0600 /dev/stdin {_quoted(plan.secret_file)}"
        )
    if client.password and not client.api_key:
        yield f"set emission.token_scheme to JWT in {output} if the server is cQube 1.0"
    yield (
        "allow a group to drop files:"
        f" find {_quoted(plan.directory)} -type d -exec chgrp GROUP {{}} +"
        " -exec chmod 2770 {} +"
    )
    if plan.for_service:
        yield (
            "let the service read its own files: chown emitterd"
            f" {_quoted(plan.output)} {_quoted(plan.secret_file)}"
        )
    if client != UpstreamConfig():
        yield "remove client.py from cron: it would send everything once more"
    yield f"check the configuration: emitterd check -c {_quoted(plan.output)}"


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))


def shipped() -> str:
    """Return the template: every key, with its default or commented out."""
    return (files("emitterd.config") / "emitter.yaml").read_text("utf-8")


def fill(text: str, settings: Mapping[str, Setting]) -> str:
    """Return the template with these keys set, by key path; its comments stay.

    Raises `LookupError` if the template does not have each key exactly once.
    """
    lines = text.splitlines()
    places: dict[str, list[int]] = {path: [] for path in settings}
    section = ""
    for number, line in enumerate(lines):
        if match := _SECTION.fullmatch(line):
            section = match[1]
        elif (match := _KEY.fullmatch(line)) and f"{section}.{match[1]}" in places:
            places[f"{section}.{match[1]}"].append(number)
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
    """Write a text as a YAML scalar on one line, in quotes only if it needs them."""
    with contextlib.suppress(YamlError):
        if printable(value) == value and load_data(f"key: {value}") == {"key": value}:
            return value
    # YAML reads JSON's escapes, and `printable` escapes the rest as YAML does.
    return printable(json.dumps(value, ensure_ascii=False))


def sent(file_path: str, datasets: Collection[str]) -> tuple[Path, str, str]:
    """Return what `client.py` sent: folder, keys and dataset.

    The folder holds the dataset folders. The keys have the form `KEYS` if they are
    right. The dataset is the only one that was sent, or empty for all. `datasets` are
    the names of the dataset folders.

    Its keys are relative to `os.path.split(file_path)[0]`: to `file_path` itself if
    that ends with a slash, else to the folder above. On Windows the keys have
    backslashes, which are not folders to the server.
    """
    place = Path(file_path)
    if not place.is_absolute():
        return place, KEYS.replace("/", "\\"), ""
    if place.suffix.lower() == ".zip" or os.path.isfile(place):  # noqa: PTH113  raises
        known = place.parent.name in datasets
        return place.parent.parent if known else place.parent, "<name>.zip", ""
    slash = file_path.endswith("/")
    if place.name in datasets:
        return place.parent, "<name>.zip" if slash else KEYS, place.name
    return place, KEYS if slash else f"{shown(place.name)}/{KEYS}", ""


def notices(
    client: UpstreamConfig, directory: Path, datasets: Collection[str]
) -> Iterator[str]:
    """Yield what changes when emitterd replaces this client, each on one line."""
    if client.url and client.url.startswith("http:"):
        yield (
            "emission_url is http://: all of it goes unencrypted, the secret too; set"
            " allow_insecure_http to false once the server has https://"
        )
    if client.api_key and (client.username or client.password):
        yield (
            "access_token is given besides username and password: emitterd uses the"
            " token, which is right for cQube 1.7 and later"
        )
    if not client.api_key and not client.password:
        yield "neither access_token nor password has a value"
    if not client.file_path:
        return
    folder, keys, dataset = sent(client.file_path, datasets)
    if keys != KEYS:
        yield (
            f"client.py sent {shown(client.file_path)} under keys like"
            f" {keys}, but the server reads {KEYS}: it has probably not"
            " processed those files; emitterd sends the right keys"
        )
    if dataset:
        yield (
            f"client.py sent no dataset but {shown(dataset)}; emitterd sends"
            f" all datasets in {shown(directory)}"
        )
    if os.path.realpath(folder) != os.path.realpath(directory):
        yield (
            f"client.py had its dataset folders in {shown(folder)}, emitterd"
            f" has them in {shown(directory)}: move what is still to be sent, and tell"
            " the people who drop files"
        )
