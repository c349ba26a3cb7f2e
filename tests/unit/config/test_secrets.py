"""Where secrets may come from, what is refused, and that no message shows one."""

import os
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from emitterd.config import settings as config
from emitterd.config.settings import EmissionSettings
from emitterd.errors import ConfigError, Problem

Env = Mapping[str, str] | None
SECRET = "correct-horse-battery"


class Folder:
    """A configuration with the lines of its emission section to choose."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "drop").mkdir()
        self.secret("secret", f"{SECRET}\n".encode())

    def secret(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        """Write a secret file."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def write(self, *lines: str, mode: int = 0o644) -> Path:
        """Write emitter.yaml with these lines in its emission section."""
        path = self.root / "emitter.yaml"
        head = ("spool: {directory: drop}", "emission:", "  url: https://h/data")
        path.write_text("\n".join([*head, *(f"  {line}" for line in lines), ""]))
        path.chmod(mode)
        return path

    def load(self, *lines: str, mode: int = 0o644, environ: Env = None) -> EmissionSettings:
        """Load it, and return the emission section."""
        return config.load(self.write(*lines, mode=mode), environ or {}).emission

    def problems(self, *lines: str, mode: int = 0o644, environ: Env = None) -> list[Problem]:
        """Load it, and return the problems, in which no secret may stand."""
        with pytest.raises(ConfigError) as caught:
            config.load(self.write(*lines, mode=mode), environ or {})
        shown = "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown + repr(caught.value.problems)
        return caught.value.problems


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Make a folder with a good secret in the file `secret`."""
    return Folder(tmp_path)


def revealed(emission: EmissionSettings) -> tuple[str | None, str | None]:
    """Return password and API key in the clear."""
    password, api_key = emission.password, emission.api_key
    return (password.reveal() if password else None, api_key.reveal() if api_key else None)


@pytest.mark.parametrize(
    ("lines", "mode", "environ"),
    [
        (["password_file: secret"], 0o644, {}),
        (["password_env: CQUBE"], 0o644, {"CQUBE": SECRET}),
        ([f"password: {SECRET}"], 0o600, {}),
        ([], 0o644, {"EMITTERD_EMISSION_PASSWORD": SECRET}),
        ([], 0o644, {"EMITTERD_EMISSION_PASSWORD_FILE": "secret"}),
        (["password_file: gone"], 0o644, {"EMITTERD_EMISSION_PASSWORD": SECRET}),
        (["password: x"], 0o644, {"EMITTERD_EMISSION_PASSWORD_FILE": "secret"}),
    ],
)
def test_a_password_comes_from_one_of_three_places(
    folder: Folder, lines: list[str], mode: int, environ: Mapping[str, str]
) -> None:
    """A file, a variable, or inline; the environment replaces the file's."""
    emission = folder.load("username: u", *lines, mode=mode, environ=environ)
    assert revealed(emission) == (SECRET, None)
    assert SECRET not in repr(emission) + str(asdict(emission))


@pytest.mark.parametrize(
    ("lines", "mode", "environ"),
    [
        (["api_key_file: secret"], 0o644, {}),
        (["api_key_env: CQUBE"], 0o644, {"CQUBE": SECRET}),
        ([f"api_key: {SECRET}"], 0o600, {}),
        ([], 0o644, {"EMITTERD_EMISSION_API_KEY": SECRET}),
    ],
)
def test_an_api_key_replaces_user_and_password(
    folder: Folder, lines: list[str], mode: int, environ: Mapping[str, str]
) -> None:
    """An API key needs no user name."""
    emission = folder.load(*lines, mode=mode, environ=environ)
    assert revealed(emission) == (None, SECRET)


def test_systemd_credentials_are_read_if_none_is_named(folder: Folder) -> None:
    """Their modes are not checked. A source named in the configuration comes first."""
    folder.secret("run/password", f"{SECRET}\n".encode(), 0o444)
    run = {"CREDENTIALS_DIRECTORY": str(folder.root / "run")}
    assert revealed(folder.load("username: u", environ=run)) == (SECRET, None)
    (missing,) = folder.problems(environ=run)
    assert missing.message == "is missing beside the password"
    named = folder.load("username: u", "password_file: run/password", environ=run)
    assert revealed(named) == (SECRET, None)
    folder.secret("run/api-key", b"key", 0o444)
    assert revealed(folder.load("username: u", environ=run)) == (SECRET, None)
    assert revealed(folder.load(environ=run)) == (None, "key")


def test_credential_of_a_lone_line_end_is_none(folder: Folder) -> None:
    """The unit passes it if the file of a secret does not exist."""
    folder.secret("run/password", b"\n", 0o444)
    folder.secret("run/api-key", b"\n", 0o444)
    run = {"CREDENTIALS_DIRECTORY": str(folder.root / "run")}
    (missing,) = folder.problems("username: u", environ=run)
    assert missing.message == "is missing"
    (missing,) = folder.problems(environ=run)
    assert missing.message == "is missing, and so is an API key"


@pytest.mark.parametrize(
    ("lines", "key", "message"),
    [
        ([], "emission.username", "is missing, and so is an API key"),
        (["username: u"], "emission.password", "is missing"),
        (["password_file: secret"], "emission.username", "is missing beside"),
        (
            ["username: u", "api_key_file: secret"],
            "emission.api_key_file",
            "is given besides emission.username",
        ),
        (
            ["username: u", "password_file: secret", "password_env: CQUBE"],
            "emission.password_env",
            "is given besides emission.password_file",
        ),
        (
            ["username: u", f"password_env: {SECRET}"],
            "emission.password_env",
            "names a variable that is not set",
        ),
        (
            ["username: u", f"password_file: {SECRET}"],
            "emission.password_file",
            "cannot be read: No such file or directory",
        ),
        (
            ["username: u", "password_file: drop"],
            "emission.password_file",
            "cannot be read: Is a directory",
        ),
        (
            ["username: u", f"password: {SECRET}"],
            "emission.password",
            "holds a secret, and others may read this file",
        ),
        (["username: u", f"password: [{SECRET}]"], "emission.password", "must be text"),
        (["username:", "password_file: secret"], "emission.username", "has no value"),
        (["username: u", "password_file:"], "emission.password_file", "has no value"),
        (["username: u", "password: #x"], "emission.password", "has no value"),
        (
            ["username: u", "password_file: secret", f"proxy: http://u:{SECRET}@p"],
            "emission.proxy",
            "holds a secret, and others may read this file",
        ),
        (
            ["username: u", "password_file: secret", f"proxy: 'https://:{SECRET}@p'"],
            "emission.proxy",
            "must be an http:// URL",
        ),
        (
            ["api_key_file: secret", "token_scheme: 'Bearer: x'"],
            "emission.token_scheme",
            "must be one word",
        ),
        (
            ["api_key_file: secret", f"'{SECRET}: x': 1"],
            "emission.(no plain word)",
            "there is no such key",
        ),
    ],
)
def test_wrong_credentials_are_one_problem(
    folder: Folder, lines: list[str], key: str, message: str
) -> None:
    """Each is reported once, at the key that is wrong, without the secret."""
    (problem,) = folder.problems(*lines)
    assert problem.key == key
    assert message in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds an empty secret"),
        (b" \n", "holds an empty secret"),
        (f"{SECRET}\nmore\n".encode(), "holds a line break"),
        (f"{SECRET}\0".encode(), "holds a line break, a control character"),
        (f"{SECRET}\xe9".encode("latin-1"), "is not UTF-8 text"),
        (f"{SECRET}é".encode(), "holds more than ASCII"),
    ],
)
def test_a_file_without_a_usable_secret_is_refused(
    folder: Folder, content: bytes, message: str
) -> None:
    """Empty, of several lines, or not text: the key is named, not the content."""
    folder.secret("secret", content)
    (problem,) = folder.problems("api_key_file: secret")
    assert problem.key == "emission.api_key_file"
    assert message in problem.message


@pytest.mark.parametrize("file", ["secret", "gone"])
@pytest.mark.parametrize("name", ["password", "api_key"])
def test_an_empty_secret_names_the_command_that_stores_one(
    folder: Folder, name: str, file: str
) -> None:
    """The installers make an empty file, and `init` makes none."""
    folder.secret("secret", b"")
    user = ["username: u"] if name == "password" else []
    (problem,) = folder.problems(*user, f"{name}_file: {file}")
    assert problem.remedy == f"store it with: emitterd set-{name.replace('_', '-')}"


def test_line_ends_and_byte_order_marks_are_not_part_of_a_secret(folder: Folder) -> None:
    """What editors add around the secret is removed; blanks in it stay."""
    folder.secret("secret", b"\xef\xbb\xbf pass word\xc3\xa9 \r\n\n")
    emission = folder.load("username: u", "password_file: secret")
    assert revealed(emission) == (" pass wordé ", None)


def test_a_secret_file_that_everybody_may_read_is_refused(folder: Folder) -> None:
    """The remedy is a command. A group may read the file."""
    path = folder.secret("secret", SECRET.encode(), 0o644)
    (problem,) = folder.problems("username: u", "password_file: secret")
    assert problem.remedy == f"chmod 600 {path}"
    folder.secret("secret", SECRET.encode(), 0o640)
    folder.load("username: u", "password_file: secret")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_an_inline_secret_needs_a_private_file(folder: Folder, mode: int) -> None:
    """Group and others must have no permission at all."""
    (problem,) = folder.problems(f"api_key: {SECRET}", mode=mode)
    assert (problem.key, problem.line) == ("emission.api_key", 4)
    assert "api_key_file" in problem.remedy


def test_a_proxy_without_a_secret_is_accepted_in_any_file(folder: Folder) -> None:
    """The slash at the end of its URL is removed."""
    emission = folder.load("api_key_file: secret", "proxy: http://proxy:3128/")
    assert emission.proxy is not None
    assert emission.proxy.reveal() == "http://proxy:3128"


def test_a_fifo_for_a_secret_does_not_hang(folder: Folder) -> None:
    """A pipe without a writer is refused at once."""
    os.mkfifo(folder.root / "pipe", 0o600)
    (problem,) = folder.problems("api_key_file: pipe")
    assert problem.message == "is not a regular file"


def test_cqube_5_needs_no_secret(folder: Folder) -> None:
    """Without a token emitterd asks the server for one; a configured one goes first."""
    assert revealed(folder.load("protocol: ingestion")) == (None, None)
    with_token = folder.load("protocol: ingestion", "api_key_file: secret")
    assert revealed(with_token) == (None, SECRET)


def test_cqube_5_has_no_users_and_one_scheme(folder: Folder) -> None:
    """User name, password and another scheme are problems, each with a remedy."""
    problems = folder.problems(
        "protocol: ingestion", "username: emission", "password_file: secret", "token_scheme: JWT"
    )
    assert [problem.key for problem in problems] == [
        "emission.username",
        "emission.password_file",
        "emission.token_scheme",
    ]
    assert all("remove it" in problem.remedy for problem in problems)
