"""The section `alerts`: who is notified. No message quotes a URL, because it is a secret."""

from pathlib import Path

import pytest

from emitterd.config import settings as config
from emitterd.config.settings import Config
from emitterd.errors import ConfigError, Problem

URL = "mailto://user:correct-horse@mail.example.org"
HEAD = """emission: {url: "https://h/data", username: u, password_file: secret}
spool: {directory: drop}
"""


class Folder:
    """A configuration with the lines of its alerts section to choose."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "drop").mkdir()
        self.file("secret", "pw")

    def file(self, name: str, text: str, mode: int = 0o600) -> Path:
        """Write a file."""
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def load(self, *lines: str, **environ: str) -> Config:
        """Load a configuration with these lines in its alerts section."""
        section = "".join(f"  {line}\n" for line in lines)
        path = self.file("emitter.yaml", f"{HEAD}alerts:\n{section}")
        return config.load(path, environ)

    def problem(self, *lines: str, **environ: str) -> Problem:
        """Load it, and return its only problem."""
        with pytest.raises(ConfigError) as caught:
            self.load(*lines, **environ)
        (problem,) = caught.value.problems
        assert "correct-horse" not in repr(problem)
        return problem


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Make a folder for a configuration."""
    return Folder(tmp_path)


def test_urls_have_the_line_and_the_scheme_that_messages_name(folder: Folder) -> None:
    """Comments and blank lines are ignored; the repr shows no URL."""
    folder.file("notify", f"# to the office\n\n  {URL}\r\nTGRAM://token/chat\n")
    loaded = folder.load("notify_file: notify")

    assert [notify.name for notify in loaded.notify_urls] == ["mailto (line 3)", "tgram (line 4)"]
    assert loaded.notify_urls[0].url.reveal() == URL
    assert loaded.alerting
    assert "correct-horse" not in repr(loaded)


def test_no_alert_is_sent_by_default(folder: Folder) -> None:
    """A limit alone is no channel."""
    assert not folder.load("no_success_max: 1h").alerting


def test_systemd_may_pass_the_urls(folder: Folder, tmp_path: Path) -> None:
    """The credential `notify` is used without a key; a lone line end is no credential."""
    folder.file("notify", f"{URL}\n", 0o444)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert len(folder.load("repeat_every: 1d", **environ).notify_urls) == 1
    folder.file("notify", "\n")
    assert folder.load("repeat_every: 1d", **environ).notify_urls == ()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (URL, 0o604, "everybody may read"),
        ("# nobody\n", 0o600, "without a URL"),
        (f"{URL}\ncorrect-horse\n\nx\x07://y", 0o600, "no URL on line 2, 4"),
        (f"{URL}\n" * 11, 0o600, "more than 10 URLs"),
    ],
    ids=["public", "empty", "no URLs", "too many"],
)
def test_a_wrong_file_is_named_and_not_quoted(
    folder: Folder, text: str, mode: int, message: str
) -> None:
    """The problem has the line of the key, and says what to do."""
    folder.file("notify", text, mode)
    problem = folder.problem("repeat_every: 1d", "notify_file: notify")

    assert (problem.key, problem.line) == ("alerts.notify_file", 5)
    assert message in problem.message
    assert problem.remedy


def test_a_missing_file_is_a_problem(folder: Folder) -> None:
    """It is not the same as no channel."""
    assert "cannot be read" in folder.problem("notify_file: nowhere").message


@pytest.mark.parametrize("text", ["[{0}, --to, a b]", '{0} --to "a b"'])
def test_a_command_is_a_list_or_text(folder: Folder, text: str) -> None:
    """Text is split as a shell would; no shell runs it."""
    program = folder.file("alert", "#!/bin/sh\n", 0o700)
    command = folder.load(f"command: {text.format(program)}").alerts.command

    assert command == (str(program), "--to", "a b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[alert]", "absolute path"),
        ("[/nowhere/alert]", "not there"),
        ("[/etc]", "not there"),
        ("[/etc/passwd]", "cannot be executed"),
        ("[]", "is no command"),
        ("[/bin/sh, [x]]", "is no command"),
        ("/bin/sh 'x", "without its end"),
    ],
)
def test_a_command_that_cannot_run_is_a_problem(folder: Folder, text: str, message: str) -> None:
    """A missing program, a folder, and one without the right to execute it."""
    problem = folder.problem(f"command: {text}")

    assert problem.key == "alerts.command"
    assert message in problem.message


def test_a_heartbeat_url_may_have_a_query(folder: Folder) -> None:
    """Some services want one. It is a secret all the same."""
    loaded = folder.load("heartbeat_url: https://up.example.org/api/correct-horse?status=up&ping=")
    assert loaded.alerts.heartbeat_url is not None
    assert loaded.alerts.heartbeat_url.reveal().endswith("?status=up&ping=")
    assert "correct-horse" not in str(config.describe(loaded))


@pytest.mark.parametrize("url", ["ftp://h/correct-horse", "https://h/a#b", "https://h/a?b c", "x"])
def test_a_wrong_heartbeat_url_is_a_problem(folder: Folder, url: str) -> None:
    """It must be one that can be requested as it is."""
    assert "plain URL" in folder.problem(f'heartbeat_url: "{url}"').message


def test_the_environment_overrides_each_key(folder: Folder) -> None:
    """A service without a file is configured by variables."""
    environ = {
        "EMITTERD_ALERTS_COMMAND": "/bin/sh -c true",
        "EMITTERD_ALERTS_HEARTBEAT_URL": "https://h/x",
        "EMITTERD_ALERTS_HEARTBEAT_EVERY": "1m",
        "EMITTERD_ALERTS_REPEAT_EVERY": "2h",
    }
    alerts = folder.load("repeat_every: 1d", **environ).alerts

    assert alerts.command == ("/bin/sh", "-c", "true")
    assert (alerts.heartbeat_every_s, alerts.repeat_every_s) == (60.0, 7200.0)
