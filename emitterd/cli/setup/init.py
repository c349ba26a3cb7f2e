"""`init`: creates the dataset folders, `emitter.yaml` and the file of the secret.

It never changes an existing file or mode, so a run that failed can be repeated. From upstream's
`config.py` it copies the values.
"""

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from emitterd.cli.output import DONE, say
from emitterd.config.rules import inside
from emitterd.config.secrets import read_secret
from emitterd.config.upstream_config import UpstreamConfig
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.spool.files import sync
from emitterd.text import count, printable, shown

_PLAIN = re.compile(r"(https?:/)?/[\w./-]*[\w/]", re.ASCII)
_INGESTION_URL = "https://cqube.example.org/api/ingestion"
_SYSTEM = Path("/etc")
"""A configuration below this folder is for a service, which runs as another user."""


def init(directory: Path, output: Path, client: UpstreamConfig, *, programs: bool = False) -> int:
    """Create an installation, and print the next steps; return the exit code.

    `programs`: for cQube 5.
    """
    directory, output = directory.absolute(), output.absolute()
    folders = dataset_folders(programs=programs)
    made = lay_out(directory, output, folders, client, programs=programs)
    datasets = [path for path in made if path.parent == directory]
    say(*(f"created {shown(path)}" for path in made if path not in datasets))
    if datasets:
        say(f"created {count(len(datasets), 'dataset folder')} in {shown(directory)}")
    say("next:")
    for number, step in enumerate(next_steps(directory, output, client, programs=programs), 1):
        say(f"  {number}. {step}")
    return DONE


def dataset_folders(*, programs: bool = False) -> list[str]:
    """Return the names of the dataset folders; `programs`: of cQube 5."""
    datasets = load_catalogue(programs=programs).datasets
    return list(dict.fromkeys(dataset.folder for dataset in datasets))


def lay_out(
    directory: Path,
    output: Path,
    datasets: Iterable[str],
    client: UpstreamConfig,
    *,
    programs: bool = False,
) -> list[Path]:
    """Make the watched folder with its dataset folders, and a configuration for it.

    `programs`: for cQube 5. The paths are absolute. Returns what was made, `output` last. Raises
    `ConfigError` at the first step that fails.
    """
    made: list[Path] = []
    path = directory
    if inside(output, directory) is not None:
        message = "is in DIRECTORY: producers could replace it"
        problem = Problem(shown(output), None, message, "name another with --output")
        raise ConfigError(shown(output), [problem])
    try:
        for path in (directory, *(directory / name for name in datasets)):
            if not os.path.isdir(path):  # noqa: PTH112  the method raises
                path.mkdir(parents=True)
                made.append(path)
        path, secret = secret_file(output, client), client.api_key or client.password
        if secret and _make_secret(path, secret):
            made.append(path)
        path = output
        _create(path, configuration(directory, output, client, programs=programs), 0o666)
        return [*made, path]
    except ValueProblem as error:
        problem = error.at(shown(path))
    except FileExistsError:
        message = "exists already, and is never overwritten"
        problem = Problem(shown(path), None, message, "move it away, or name another")
    except OSError as error:
        message = f"cannot be made: {error.strerror}"
        problem = Problem(shown(path), None, message, "correct it, and run init again")
    raise ConfigError(shown(output), [problem])


def _make_secret(file: Path, secret: str) -> bool:
    try:
        _create(file, f"{secret}\n", 0o600)
        return True
    except FileExistsError:
        if read_secret(file) != secret:
            raise ValueProblem("holds another secret", "move it away") from None
        return False


def _create(path: Path, text: str, mode: int) -> None:
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


def configuration(
    directory: Path, output: Path, client: UpstreamConfig, *, programs: bool = False
) -> str:
    """Return the text of the configuration `output` for a watched folder."""
    settings = _settings(directory, output, client)
    if programs:
        settings |= {"protocol": "ingestion", "url": _INGESTION_URL}
        settings |= dict.fromkeys(("username", "password_file"))
    return fill(shipped(), settings)


def replace_file(path: Path, text: str, mode: int, owner: tuple[int, int]) -> None:
    """Replace a file, whole or not at all. Raises `OSError`."""
    fd, part = tempfile.mkstemp(prefix=".emitterd-", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(part, path)  # noqa: PTH105  the name of mkstemp is text
    except BaseException:
        os.unlink(part)  # noqa: PTH108
        raise
    sync(path.parent)


def secret_file(output: Path, client: UpstreamConfig) -> Path:
    """Return the file beside the configuration that is for its secret."""
    return output.with_name("api-key" if client.api_key else "password")


def _settings(directory: Path, output: Path, client: UpstreamConfig) -> dict[str, str | None]:
    settings: dict[str, str | None] = {"directory": quoted(str(directory))}
    if inside(output, _SYSTEM) is None:
        # A person who tries emitterd may not write to the service's folder in /var/lib.
        settings["path"] = "journal.db"
    if client.url:
        settings["url"] = quoted(client.url)
        if client.url.startswith("http:"):
            settings["allow_insecure_http"] = "true"
    if client.api_key:
        settings["api_key_file"] = "api-key"
        settings["username"] = settings["password_file"] = None
        return settings
    settings["password_file"] = "password"  # noqa: S105  a file's name
    if client.username:
        settings["username"] = quoted(client.username)
    return settings


def next_steps(
    directory: Path, output: Path, client: UpstreamConfig, *, programs: bool = False
) -> Iterator[str]:
    """Yield the next steps for the user after `lay_out`, each on one line."""
    secret = output.with_name("api-key") if programs else secret_file(output, client)
    if not client.url:
        yield f"set emission.url in {shown(output)}"
    if programs:
        yield (
            "only if a gateway in front of cQube 5 asks for a token:"
            f" emitterd set-api-key -c {_quoted(output)}"
        )
    elif not client.api_key and not client.username:
        yield (
            f"set emission.username in {shown(output)}; for cQube 1.7 and later store an API"
            f" key instead: emitterd set-api-key -c {_quoted(output)}"
        )
    if not programs and not os.path.lexists(secret):
        yield f"store the password: emitterd set-password -c {_quoted(output)}"
    yield (
        "allow a group to drop files:"
        f" find {_quoted(directory)} -type d -exec chgrp GROUP {{}} +"
        " -exec chmod 2770 {} +"
    )
    if inside(output, _SYSTEM) is not None:
        files = [output] if programs and not os.path.lexists(secret) else [output, secret]
        names = " ".join(map(_quoted, files))
        yield f"let the service read its own files: chown emitterd {names}"
    if client.file_path:
        yield (
            "remove client.py from cron: it would send everything once more; then mark what it has"
            f" sent: emitterd mark-delivered --all -c {_quoted(output)}"
        )
    yield f"check the configuration: emitterd check -c {_quoted(output)}"


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))


def shipped() -> str:
    """Return the template: the keys that nearly every installation sets."""
    folder = files("emitterd.config")
    text = (folder / "minimal.yaml").read_text("utf-8")
    # Editors check the file with the schema of this installation, also without a network.
    return re.sub(r"(?<=schema=).+", str(folder / "emitter.schema.json"), text, count=1)


def is_shipped(path: Path) -> bool:
    """Tell whether nobody has changed the configuration since the installation."""
    versions = (path.read_text("utf-8"), shipped())
    first, second = (re.sub(r"(?<=schema=).+", "", text, count=1) for text in versions)
    return first == second


def fill(text: str, settings: Mapping[str, str | None]) -> str:
    """Return the template with these keys set to YAML; None comments a key out.

    Raises `LookupError` if the template does not have each key exactly once.
    """
    for key, value in settings.items():
        line = re.compile(rf"^  (?:# )?({key}: .*)$", re.MULTILINE)
        matches = line.findall(text)
        if len(matches) != 1:
            raise LookupError(f"the template has {len(matches)} lines of {key}")
        new = f"  # {matches[0]}" if value is None else f"  {key}: {value}"
        text = line.sub(lambda _, new=new: new, text)  # type: ignore[misc]
    return text


def quoted(value: str) -> str:
    """Write a text as a YAML scalar on one line; a plain path or URL has no quotes."""
    if _PLAIN.fullmatch(value):
        return value
    # YAML reads JSON's escapes, and `printable` escapes the rest as YAML does.
    return printable(json.dumps(value, ensure_ascii=False))
