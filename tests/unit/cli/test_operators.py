"""`operator add`, `remove` and `list`, and the check of the operators file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emitterd.cli.commands.check import diagnoses
from emitterd.config.settings import load
from emitterd.web.access.users import Role, verify
from emitterd.web.access.users import load as load_operators
from support.keyboard import Terminal
from support.visitors import OTHER_PASSWORD, PASSWORD, make_user, write_users

LISTEN = "  listen: 127.0.0.1:9464\n"


def configure(folder: Path, web: str = "  operators_file: operators\n" + LISTEN) -> Path:
    """Write a configuration."""
    (folder / "spool").mkdir()
    config = folder / "emitter.yaml"
    config.write_text(
        "emission:\n  url: https://cqube.example.org/data\n  username: emission\n"
        "  password_file: password\nspool:\n  directory: spool\n"
        f"journal:\n  path: state/journal.db\nweb:\n{web}"
    )
    (folder / "password").touch(0o600)
    (folder / "password").write_text("rehearsal")
    return config


def run(config: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `emitterd operator` with this on its standard input."""
    command = [sys.executable, "-m", "emitterd", "operator", *arguments, "-c", str(config)]
    done = subprocess.run(  # noqa: S603
        command, input=given, capture_output=True, text=True, check=False
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_user_is_added_changed_listed_and_removed(tmp_path: Path) -> None:
    """The file is its owner's, and has no password. A new password keeps the role."""
    config, file = configure(tmp_path), tmp_path / "operators"

    done = run(config, "add", "Asha", given=f"{PASSWORD}\n")
    assert (done.returncode, done.stdout) == (0, f"stored asha (operator) in {file}\n"), done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in file.read_text()
    assert verify(load_operators(file)["asha"], PASSWORD)

    run(config, "add", "ravi", "--role", "producer", given=PASSWORD)
    run(config, "add", "ravi", given=OTHER_PASSWORD)
    assert load_operators(file)["ravi"].role is Role.PRODUCER
    assert verify(load_operators(file)["ravi"], OTHER_PASSWORD)
    assert run(config, "list").stdout == "asha operator\nravi producer\n"

    assert run(config, "remove", "asha").stdout == "removed asha\n"
    done = run(config, "remove", "asha")
    assert (done.returncode, done.stderr) == (1, f"{file} has no user asha\n")
    assert set(load_operators(file)) == {"ravi"}


def test_the_first_user_names_what_is_left_to_do(tmp_path: Path) -> None:
    """The keys of the configuration, and that emitterd must read them."""
    config = configure(tmp_path, "")
    done = run(config, "add", "asha", given=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert "set web.listen: 127.0.0.1:9464 in" in done.stdout
    assert "set web.operators_file: operators in" in done.stdout
    assert set(load_operators(tmp_path / "operators")) == {"asha"}


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["add"], PASSWORD, "give a name"),
        (["add", "a:b"], PASSWORD, "is no name of a user"),
        (["add", "asha"], "short", "fewer than 12 characters"),
        (["add", "asha"], "", "fewer than 12 characters"),
        (["remove"], "", "give a name"),
    ],
)
def test_nothing_is_stored_of_a_wrong_command(
    tmp_path: Path, arguments: list[str], given: str, message: str
) -> None:
    """And the message says what to do."""
    done = run(configure(tmp_path), *arguments, given=given)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "operators").exists()


def test_a_broken_file_is_not_replaced(tmp_path: Path) -> None:
    """A new file would lose the other users."""
    config, file = configure(tmp_path), tmp_path / "operators"
    file.touch(0o600)
    file.write_text("asha\n")
    done = run(config, "add", "ravi", given=PASSWORD)
    assert done.returncode == 1
    assert "line 1 is no user: remove the line" in done.stderr
    assert file.read_text() == "asha\n"


def test_a_password_is_typed_twice_and_not_shown(tmp_path: Path) -> None:
    """A short one is asked for again."""
    config = configure(tmp_path)
    command = [sys.executable, "-m", "emitterd", "operator", "add", "asha", "-c", str(config)]
    terminal = Terminal(*command, env={**os.environ, "TERM": "dumb"})
    try:
        terminal.type("", "password: ")
        terminal.type("short\r", "password again: ")
        terminal.type("short\r", "password: ")
        assert "fewer than 12 characters" in terminal.shown
        terminal.type(f"{PASSWORD}\r", "password again: ")
        terminal.type(f"{PASSWORD}\r", "stored asha (operator)")
        assert terminal.wait() == 0
        assert PASSWORD not in terminal.shown
    finally:
        terminal.close()


def web_diagnoses(config: Path) -> list[tuple[str, str, str]]:
    """Return the result of `check` for the operators file."""
    results = diagnoses(load(config, {}))
    return [
        (item.level, item.message, item.remedy)
        for item in results
        if item.subject == "web.operators_file"
    ]


def test_check_looks_at_the_file_as_at_other_secrets(tmp_path: Path) -> None:
    """Users, none, a file that others may read, a broken file, and no file."""
    config, file = configure(tmp_path), tmp_path / "operators"
    write_users(file, make_user("asha"), make_user("ravi", Role.PRODUCER))
    assert web_diagnoses(config) == [("ok", "1 operator, 1 producer", "")]
    file.chmod(0o644)
    ((level, message, remedy),) = web_diagnoses(config)
    assert (level, remedy) == ("error", f"chmod 600 {file}")
    assert "other users may read or change" in message
    file.chmod(0o600)
    file.write_text("asha:operator:secret\n")
    ((level, message, remedy),) = web_diagnoses(config)
    assert (level, message) == ("error", "line 1 is no user; nobody can log in")
    file.write_text("")
    assert web_diagnoses(config)[0][0] == "warning"
    file.unlink()
    ((level, message, remedy),) = web_diagnoses(config)
    assert (level, message) == (
        "error",
        "cannot be read: No such file or directory; nobody can log in",
    )


def test_check_says_where_nobody_can_log_in(tmp_path: Path) -> None:
    """Without the page, and at an address that other machines can reach."""
    config, file = configure(tmp_path, "  operators_file: operators\n"), tmp_path / "operators"
    write_users(file, make_user("asha"))
    assert web_diagnoses(config)[0][1] == "nobody can log in: web.listen is not set"
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("x" * 32)
    text = config.read_text()
    config.write_text(f"{text}  listen: 0.0.0.0:9464\n  token_file: token\n")
    level, message, remedy = web_diagnoses(config)[0]
    assert (level, "0.0.0.0:9464 can be reached" in message) == ("warning", True)
    assert "SSH tunnel" in remedy


def test_a_producer_of_files_cannot_replace_the_file(tmp_path: Path) -> None:
    """It is not in the watched folder."""
    config = configure(tmp_path, "  operators_file: spool/operators\n")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "emitterd", "check", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "web.operators_file" in done.stderr
    assert "is in the watched folder" in done.stderr
