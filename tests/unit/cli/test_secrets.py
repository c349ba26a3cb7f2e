"""`set-password` and `set-api-key`: what is stored, with which mode, and what is never shown."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.config.settings import load
from support.keyboard import Terminal

SECRET = "correct-horse-battery"
BY_PASSWORD = "username: emission\n  password_file: secret/password"
BY_KEY = "api_key_file: api-key"


def configure(folder: Path, login: str = BY_PASSWORD) -> Path:
    """Write a configuration with its folders."""
    (folder / "secret").mkdir()
    (folder / "spool").mkdir()
    config = folder / "emitter.yaml"
    config.write_text(
        f"emission:\n  url: https://cqube.example.org/data\n  {login}\n"
        "  # api_key_file: /etc/emitterd/api-key\n"
        "spool:\n  directory: spool\njournal:\n  path: state/journal.db\n"
    )
    return config


def command(name: str, config: Path) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "emitterd", name, "-c", str(config)]


def piped(name: str, config: Path, given: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this on its standard input."""
    done = subprocess.run(  # noqa: S603
        command(name, config), input=given, capture_output=True, text=True, check=False
    )
    assert SECRET not in done.stdout + done.stderr
    return done


@contextmanager
def typed(name: str, config: Path) -> Iterator[Terminal]:
    """Run a command on a terminal."""
    terminal = Terminal(*command(name, config), env={**os.environ, "TERM": "dumb"})
    try:
        yield terminal
        assert SECRET not in terminal.shown
    finally:
        terminal.close()


def test_the_first_line_of_a_pipe_is_stored_where_the_configuration_says(tmp_path: Path) -> None:
    """Only the owner can read the file. The output says what to do next."""
    config = configure(tmp_path)

    done = piped("set-password", config, f"{SECRET}\nsecond line\n")

    assert done.returncode == 0, done.stderr
    file = tmp_path / "secret" / "password"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{SECRET}\n", 0o600)
    assert f"emitterd check --online -c {config}" in done.stdout
    password = load(config, {}).emission.password
    assert password is not None
    assert password.reveal() == SECRET


def test_a_password_is_typed_twice_and_not_shown(tmp_path: Path) -> None:
    """If both differ, emitterd asks again."""
    config = configure(tmp_path)
    with typed("set-password", config) as terminal:
        terminal.type("", "password: ")
        terminal.type(f"{SECRET}\r", "password again: ")
        terminal.type("other\r", "password: ")
        terminal.type(f"{SECRET}\r", "password again: ")
        terminal.type(f"{SECRET}\r", "stored")
        assert terminal.wait() == 0
    assert (tmp_path / "secret" / "password").read_text() == f"{SECRET}\n"


def test_a_key_that_cannot_be_sent_is_asked_again(tmp_path: Path) -> None:
    """The message says what is wrong with it."""
    config = configure(tmp_path, BY_KEY)
    with typed("set-api-key", config) as terminal:
        terminal.type("", "API key: ")
        terminal.type("clé\r", "API key again: ")
        terminal.type("clé\r", "API key: ")
        assert "what you typed " in terminal.shown
        terminal.type(f"{SECRET}\r", "API key again: ")
        terminal.type(f"{SECRET}\r", "stored")
        assert terminal.wait() == 0
    assert (tmp_path / "api-key").read_text() == f"{SECRET}\n"


def test_a_replaced_secret_keeps_its_group_and_loses_other_readers(tmp_path: Path) -> None:
    """A link to the file stays a link."""
    config = configure(tmp_path)
    file = tmp_path / "real"
    file.write_text("old\n")
    file.chmod(0o644)
    (tmp_path / "secret" / "password").symlink_to(file)

    assert piped("set-password", config, SECRET).returncode == 0

    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{SECRET}\n", 0o640)
    assert (tmp_path / "secret" / "password").is_symlink()


@pytest.mark.parametrize(
    ("name", "given"),
    [("set-password", ""), ("set-password", "\n"), ("set-password", " \n"), ("set-api-key", "é\n")],
)
def test_what_cannot_be_a_secret_is_not_stored(tmp_path: Path, name: str, given: str) -> None:
    """An empty secret, or an API key that is not ASCII, changes nothing."""
    config = configure(tmp_path, BY_PASSWORD if name == "set-password" else BY_KEY)
    file = tmp_path / ("secret/password" if name == "set-password" else "api-key")
    file.write_text("old\n")

    done = piped(name, config, given)

    assert (done.returncode, file.read_text()) == (2, "old\n")
    assert "nothing was stored" in done.stderr


def test_an_api_key_takes_the_place_of_a_login_if_the_user_agrees(tmp_path: Path) -> None:
    """The configuration changes with the secret, and keeps its mode."""
    config = configure(tmp_path)
    config.chmod(0o640)
    with typed("set-api-key", config) as terminal:
        terminal.type("", "Use an API key instead? [y/N]: ")
        terminal.type("y\r", "API key: ")
        terminal.type(f"{SECRET}\r", "API key again: ")
        terminal.type(f"{SECRET}\r", "next:\r\n  emitterd check")
        assert terminal.wait() == 0
    emission = load(config, {}).emission
    assert emission.api_key is not None
    assert emission.api_key.reveal() == SECRET
    assert emission.username is None
    assert config.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "login", "todo"),
    [
        ("set-api-key", BY_PASSWORD, "put # before username and password_file"),
        ("set-password", BY_KEY, "put # before api_key_file"),
    ],
)
def test_without_a_person_to_ask_the_configuration_stays_as_it_is(
    tmp_path: Path, name: str, login: str, todo: str
) -> None:
    """The message says which lines to change."""
    config = configure(tmp_path, login)
    before = config.read_text()

    done = piped(name, config, f"{SECRET}\n")

    assert (done.returncode, config.read_text()) == (1, before)
    assert todo in done.stderr
    assert not list((tmp_path / "secret").iterdir())


def test_without_a_file_in_the_configuration_the_output_names_the_key(tmp_path: Path) -> None:
    """The file is then beside the configuration."""
    config = configure(tmp_path, "username: emission")

    done = piped("set-password", config, SECRET)

    assert (tmp_path / "password").read_text() == f"{SECRET}\n"
    assert f"set emission.password_file: password in {config}" in done.stdout


def test_cqube_5_has_no_password(tmp_path: Path) -> None:
    """`set-password` stores nothing, and names `set-api-key`; that one stores the token."""
    config = configure(tmp_path, "protocol: ingestion")
    done = piped("set-password", config, f"{SECRET}\n")
    assert done.returncode == 1
    assert "emitterd set-api-key" in done.stderr
    assert not list((tmp_path / "secret").iterdir())

    done = piped("set-api-key", config, f"{SECRET}\n")
    assert done.returncode == 0
    assert (tmp_path / "api-key").read_text() == f"{SECRET}\n"
    assert "set emission.api_key_file: api-key" in done.stdout
