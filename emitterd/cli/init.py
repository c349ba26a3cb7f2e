"""What `init` lays out: the dataset folders, `emitter.yaml`, and the secret's file.

Everything is looked at before anything is made. No file that exists is written to
and no mode is changed. `emitter.yaml` comes last: a layout that was broken off is
finished by doing it again.
"""

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

from emitterd.cli.error_codes import UnknownCodeError, all_codes, explain
from emitterd.cli.output import (
    DONE,
    USAGE,
    complain,
    console,
    print_array,
    print_codes,
    print_object,
)
from emitterd.config.client_config import ClientConfig, read_client_config
from emitterd.config.rules import inside
from emitterd.config.secrets import read_secret
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.spool.files import sync
from emitterd.text import printable, shown
from emitterd.yaml_reader import YamlError, load_data

# The `emitter.yaml` that is shipped, and how its keys are filled in. Its comments are
# the operator's first manual: they stay, whatever is filled in.

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


# From `client.py` to emitterd: what the one did, and what changes with the other.

KEYS = "<dataset>/<name>.zip"
"""The form of the object keys that the server looks for."""


@dataclass(frozen=True, slots=True)
class SentFiles:
    """What `client.py` made of its `file_path`.

    `folder` is the one that the dataset folders lie in; `keys` the form of the object
    keys asked for, right if it equals `KEYS`; `dataset` the only one sent, or None.
    """

    folder: Path
    keys: str = KEYS
    dataset: str | None = None


def sent(file_path: str, datasets: Collection[str]) -> SentFiles:
    """Tell what `client.py` sent; `datasets` are the names of the dataset folders.

    Its keys start at `os.path.split(file_path)[0]`: at `file_path` itself only where
    that ends with a slash, else at the folder above. On Windows it puts backslashes
    into them, which the server does not take for folders.
    """
    place = Path(file_path)
    if not place.is_absolute():
        return SentFiles(place, KEYS.replace("/", "\\"))
    if place.suffix.lower() == ".zip" or os.path.isfile(place):  # noqa: PTH113  raises
        known = place.parent.name in datasets
        return SentFiles(place.parent.parent if known else place.parent, "<name>.zip")
    slash = file_path.endswith("/")
    if place.name in datasets:
        return SentFiles(place.parent, "<name>.zip" if slash else KEYS, place.name)
    return (
        SentFiles(place) if slash else SentFiles(place, f"{shown(place.name)}/{KEYS}")
    )


def notices(
    client: ClientConfig, directory: Path, datasets: Collection[str]
) -> Iterator[str]:
    """Yield what should be known of a client that is taken over, a line each."""
    login = client.username or client.password
    if client.url and client.url.startswith("http:"):
        yield (
            "emission_url is http://: what is sent goes unencrypted, the password or"
            " API key too; allow_insecure_http: true permits it until the server has"
            " https://"
        )
    if client.api_key and login:
        yield (
            "access_token is given besides username and password: the token is taken,"
            " which is right for cQube 1.7 and later"
        )
    if not client.api_key and not client.password:
        yield "neither access_token nor password has a value"
    if client.file_path:
        yield from _changes(client.file_path, directory, datasets)


def _changes(
    file_path: str, directory: Path, datasets: Collection[str]
) -> Iterator[str]:
    was = sent(file_path, datasets)
    if was.keys != KEYS:
        yield (
            f"client.py sent {shown(file_path)} under keys like {was.keys}, but the"
            f" server looks for {KEYS}, as emitterd sends it: what was sent has hardly"
            " ever been processed, whatever client.py said"
        )
    if was.dataset:
        yield (
            f"client.py sent no dataset but {shown(was.dataset)}; emitterd sends all"
            f" that lie in {shown(directory)}"
        )
    if os.path.realpath(was.folder) != os.path.realpath(directory):
        yield (
            f"client.py had its dataset folders in {shown(was.folder)}, emitterd has"
            f" them in {shown(directory)}: move what is still to be sent, and tell"
            " those who drop files"
        )


_SYSTEM = Path("/etc")
_SERVICE_JOURNAL = "/var/lib/emitterd/journal.db"
_JOURNAL, _PASSWORD, _API_KEY = "journal.db", "password", "api-key"


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What was laid out: the paths made, and lines for the person who asked for it."""

    made: tuple[Path, ...]
    notices: tuple[str, ...]
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be there in the end, with absolute paths."""

    directory: Path
    output: Path
    datasets: Sequence[str]
    client: ClientConfig

    @property
    def folders(self) -> list[Path]:
        """The dataset folders."""
        return [self.directory / name for name in self.datasets]

    @property
    def secret(self) -> str | None:
        """The API key if there is one, else the password."""
        return self.client.api_key or self.client.password

    @property
    def secret_file(self) -> Path:
        """Where the secret belongs."""
        return self.output.with_name(_API_KEY if self.client.api_key else _PASSWORD)

    @property
    def for_service(self) -> bool:
        """Whether the configuration lies where a service has it."""
        return inside(self.output, _SYSTEM) is not None

    @property
    def journal(self) -> str:
        """The service's own place; beside the configuration for anybody else.

        Whoever tries it out may not write to `/var/lib`.
        """
        return _SERVICE_JOURNAL if self.for_service else _JOURNAL


def lay_out(
    directory: Path,
    output: Path,
    datasets: Sequence[str],
    client: ClientConfig | None = None,
) -> Skeleton:
    """Make the watched folder with its dataset folders, and a configuration for it.

    What is there already is left as it is. Raises `ConfigError`: with everything that
    stands in the way, before anything is made; or with what was made so far, where
    the file system refuses in the midst of it.
    """
    plan = _Plan(
        _absolute(directory), _absolute(output), datasets, client or ClientConfig()
    )
    if problems := list(_problems(plan)):
        raise ConfigError(shown(output), problems)
    made: list[Path] = []
    for path, make in _steps(plan):
        try:
            make()
        except OSError as error:
            problem = _interrupted(path, error, made)
            raise ConfigError(shown(output), [problem]) from error
        made.append(path)
    return Skeleton(
        tuple(made),
        tuple(notices(client, plan.directory, datasets)) if client else (),
        tuple(_next_steps(plan)),
    )


def _absolute(path: Path) -> Path:
    """Make a path absolute; links are followed only where `..` would mislead."""
    absolute = path.absolute()
    return Path(os.path.realpath(absolute)) if ".." in absolute.parts else absolute


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  raises


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))


def _problems(plan: _Plan) -> Iterator[Problem]:
    yield from _output_problems(plan.output)
    if plan.secret and os.path.lexists(plan.secret_file):
        yield from _secret_problems(plan.secret_file, plan.secret)
    yield from _place_problems(plan)
    yield from _folder_problems(plan.directory, plan.folders)


def _output_problems(output: Path) -> Iterator[Problem]:
    key, folder = "--output", output.parent
    if output.name in {_JOURNAL, _PASSWORD, _API_KEY}:
        message = f"{output.name} is the name of a file that goes beside it"
        yield Problem(key, None, message, "name it emitter.yaml")
    elif _is_folder(output):
        message = f"{shown(output)} is a folder"
        yield Problem(key, None, message, "name a file in it")
    elif os.path.lexists(output):
        message = f"{shown(output)} exists already, and is never overwritten"
        yield Problem(key, None, message, "move it away, or name another with --output")
    if not _is_folder(folder):
        message = f"{shown(folder)} is no folder, or not within this user's reach"
        yield Problem(key, None, message, f"create it with: mkdir -p {_quoted(folder)}")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield _unwritable(key, folder)


def _secret_problems(file: Path, secret: str) -> Iterator[Problem]:
    try:
        same = read_secret(file) == secret
        why = "it holds another secret"
    except ValueProblem as error:
        same, why = False, f"it {error}"
    if not same:
        message = f"exists already, and {why}"
        yield Problem(shown(file), None, message, "move it away")


def _place_problems(plan: _Plan) -> Iterator[Problem]:
    """Yield what is wrong with where DIRECTORY is, whatever is there."""
    try:
        str(plan.directory).encode()
    except UnicodeEncodeError:
        message = f"{shown(plan.directory)} is not UTF-8, as emitter.yaml has to be"
        yield Problem("DIRECTORY", None, message, "rename the folder, or name another")
    journal = plan.output.parent / plan.journal
    if inside(plan.output, plan.directory) is not None:
        message = f"{shown(plan.output)} lies in DIRECTORY: producers could replace it"
        yield Problem("--output", None, message, "name a file outside, with --output")
    elif inside(journal, plan.directory) is not None:
        message = f"the journal's place, {shown(journal)}, lies in it"
        yield Problem("DIRECTORY", None, message, "name a folder of its own")


def _folder_problems(directory: Path, datasets: Sequence[Path]) -> Iterator[Problem]:
    """Yield why the folders that are not there cannot be made."""
    missing = [path for path in (directory, *datasets) if not _is_folder(path)]
    above = directory
    while not os.path.lexists(above):
        above = above.parent
    for path in dict.fromkeys([above, *missing]):
        if os.path.lexists(path) and not _is_folder(path):
            message = f"{shown(path)} is not a folder"
            remedy = "move it away, or name another folder"
            yield Problem("DIRECTORY", None, message, remedy)
    if missing and _is_folder(above) and not os.access(above, os.W_OK | os.X_OK):
        yield _unwritable("DIRECTORY", above)


def _unwritable(key: str, folder: Path) -> Problem:
    return Problem(
        key,
        None,
        f"{shown(folder)} cannot be written by this user",
        "name another folder, or do it as a user who may",
    )


def _interrupted(path: Path, error: OSError, made: Sequence[Path]) -> Problem:
    so_far = ", ".join(map(shown, made)) or "nothing"
    return Problem(
        shown(path),
        None,
        f"cannot be made: {error.strerror}; made so far: {so_far}",
        "mend that and do it again; what is there already is left as it is",
    )


def _steps(plan: _Plan) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield what is not there yet, in order, and what makes it.

    Each is looked for when its turn comes: a folder may be named more than once.
    """
    text = fill(shipped(), _settings(plan))
    above = reversed(plan.directory.parents)
    for folder in (*above, plan.directory, *plan.folders):
        if not _is_folder(folder):
            yield folder, folder.mkdir
    if plan.secret and not os.path.lexists(plan.secret_file):
        line = f"{plan.secret}\n"
        yield plan.secret_file, partial(_create, plan.secret_file, line, 0o600)
    yield plan.output, partial(_create, plan.output, text, 0o666)


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


def _create(path: Path, text: str, mode: int) -> None:
    """Create a file, whole or not at all; raises `FileExistsError` where one is.

    It never has more than `mode`, less the umask.
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
            "put the password into its file, then Ctrl-D:"
            f" install -m 0600 /dev/stdin {_quoted(plan.secret_file)}"
        )
    if client.password and not client.api_key:
        yield f"set emission.token_scheme to JWT in {output} if the server is cQube 1.0"
    yield (
        "let a group drop files:"
        f" find {_quoted(plan.directory)} -type d -exec chgrp GROUP {{}} +"
        " -exec chmod 2770 {} +"
    )
    if plan.for_service:
        yield (
            "let the service read what is its own: chown emitterd"
            f" {_quoted(plan.output)} {_quoted(plan.secret_file)}"
        )
    if client != ClientConfig():
        yield "take client.py out of cron: it would send everything once more"
    yield f"look for what is still wrong: emitterd check -c {_quoted(plan.output)}"


# For who is new to it: `init` lays out an installation, `explain-error` tells a code.
# Functions return the exit code.


def init(directory: Path, output: Path, from_client: Path | None) -> int:
    """Lay out folder and configuration; says what it made and what is left to do."""
    client = read_client_config(from_client) if from_client else None
    datasets = load_catalogue().datasets
    folders = list(dict.fromkeys(dataset.folder for dataset in datasets))
    laid_out = lay_out(directory, output, folders, client)
    say = partial(console().print, markup=False, soft_wrap=True)
    for path in laid_out.made:
        say(f"made {shown(path)}")
    for notice in laid_out.notices:
        say(f"note: {notice}")
    say("next:")
    for number, step in enumerate(laid_out.next_steps, 1):
        say(f"  {number}. {step}")
    return DONE


def explain_error(code: str | None, *, as_json: bool) -> int:
    """Say what an error code means, or list all codes."""
    if code is None:
        plays = all_codes()
        if as_json:
            print_array(play.record() for play in plays)
        else:
            print_codes((play.code, play.title) for play in plays)
        return DONE
    try:
        play = explain(code)
    except UnknownCodeError as error:
        complain(str(error))
        return USAGE
    if as_json:
        print_object(play.record())
    else:
        console().print(play.text(), markup=False, soft_wrap=True)
    return DONE
