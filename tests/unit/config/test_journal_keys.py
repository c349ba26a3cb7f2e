"""The keys of a journal that hosts share: what they take, and that no text shows a secret."""

import platform
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from emitterd.cli.commands.check import diagnoses
from emitterd.cli.output import Diagnosis
from emitterd.config import settings as config
from emitterd.config.fields import database_url, value_for_people
from emitterd.config.settings import JournalSettings
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.journal.opening import JournalLocation
from support.postgresql import Cluster

SECRET = "correct-horse-battery"
URL = "postgresql://emitterd@db.example.org/emitterd"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a configuration with these keys of the journal."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "secret").chmod(0o640)

    def write(*lines: str, mode: int = 0o644) -> Path:
        path = tmp_path / "emitter.yaml"
        head = ["emission: {url: 'https://h/data', api_key_file: secret}"]
        head += ["spool: {directory: drop}", "journal:"]
        path.write_text("\n".join([*head, *(f"  {line}" for line in lines), ""]))
        path.chmod(mode)
        return path

    return write


def problems(path: Path, environ: dict[str, str] | None = None) -> list[Problem]:
    """Return the problems of a file, in which no secret may stand."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ or {})
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + repr(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgres://db",
        "postgresql:///?service=emitterd",
        "postgresql://db-1:5432,db-2:5433/emitterd?target_session_attrs=read-write",
        "postgresql://u@[2001:db8::1]:5432/emitterd",
        "postgresql://u@%2Frun%2Fpostgresql/emitterd",
        "postgresql://db/emitterd?sslmode=verify-full&sslrootcert=/etc/ssl/certs/db.pem",
    ],
)
def test_a_url_of_postgresql_is_shown_as_it_is(url: str) -> None:
    """Every form of libpq is accepted; without a password it is no secret."""
    read = database_url(url)

    assert read.reveal() == str(read) == url
    assert not read.has_password


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://emitterd:{SECRET}@db.example.org/emitterd",
        f"postgresql://:{SECRET}@db-1,db-2:5433/emitterd?application_name=a",
        f"postgresql://db/emitterd?user=u&password={SECRET}&sslmode=require",
        f"postgresql://db/emitterd?sslkey=/k.pem&sslpassword={SECRET}",
    ],
)
def test_no_text_shows_the_password_of_a_url(url: str) -> None:
    """The rest of the URL is shown, so that people see which database it is."""
    read = database_url(url)
    settings = JournalSettings(url=read)
    texts = [str(read), repr(read), f"{read}", value_for_people("url", read)]
    texts += [repr(settings), repr(settings.location), str(settings.location)]

    assert read.has_password
    assert read.reveal() == settings.location.url == url
    assert not [text for text in texts if SECRET in text]
    assert str(read) == url.replace(SECRET, "********")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/emitterd",
        "db.example.org",
        f"host=db password={SECRET}",
        f"postgresql://u:{SECRET}@{SECRET}@db/emitterd",
        f"postgresql://u:p/{SECRET}@db/emitterd",
        "postgresql://db:port/emitterd",
        "postgresql://db/emitterd#part",
        "postgresql://u@db/two words",
    ],
)
def test_what_is_no_url_of_postgresql_is_refused(url: str) -> None:
    """A password with special characters must be written with percent signs; none is quoted."""
    with pytest.raises(ValueProblem, match="is no URL of a PostgreSQL database") as caught:
        database_url(url)

    assert SECRET not in str(caught.value) + caught.value.remedy


def test_where_the_journal_is() -> None:
    """Without a URL it is the file; with one, the name of the machine is the default for `host`."""
    by_url = JournalSettings(url=database_url(URL)).location
    named = JournalSettings(
        url=database_url(URL), host="hub-1", state_directory=Path("/srv/state")
    ).location

    assert JournalSettings(path=Path("/srv/j.db")).location == JournalLocation(Path("/srv/j.db"))
    assert (by_url.url, by_url.path.parent) == (URL, Path("/var/lib/emitterd"))
    assert by_url.host == platform.node()
    assert (named.host, named.path.parent) == ("hub-1", Path("/srv/state"))


@pytest.mark.parametrize(
    ("lines", "key", "message"),
    [
        ([f"url: {URL}", "path: j.db"], "journal.path", "is given besides url"),
        (["password_file: secret"], "journal.password_file", "is given without url"),
        (["host: hub-1"], "journal.host", "is given without url"),
        (["state_directory: state"], "journal.state_directory", "is given without url"),
        ([f"url: {URL}", "host: hub 1"], "journal.host", "must be a name"),
        (
            [f"url: {URL}", "state_directory: drop/x"],
            "journal.state_directory",
            "is in the watched",
        ),
        ([f"url: {URL}", "password_file: gone"], "journal.password_file", "cannot be read"),
        ([f"url: {URL}", "password_file: open"], "journal.password_file", "everybody may read"),
        ([f"url: {URL}", "password_file: empty"], "journal.password_file", "empty secret"),
        (
            [f"url: postgresql://u:{SECRET}@db/emitterd"],
            "journal.url",
            "holds a secret, and others may read this file",
        ),
    ],
)
def test_keys_that_do_not_fit_together(
    write: Write, tmp_path: Path, lines: list[str], key: str, message: str
) -> None:
    """Each is one problem, with its key and a remedy."""
    (tmp_path / "open").write_text(SECRET)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "empty").chmod(0o600)
    [problem] = problems(write(*lines))

    assert (problem.key, problem.remedy != "") == (key, True)
    assert message in problem.message


def test_two_passwords_are_one_too_many(write: Write) -> None:
    """Neither would be seen to be the wrong one."""
    url = f"url: postgresql://u:{SECRET}@db/emitterd"
    [problem] = problems(write(url, "password_file: secret", mode=0o600))

    assert problem.key == "journal.password_file"
    assert "is given besides a password in url" in problem.message


def test_the_environment_moves_the_journal_into_a_database(write: Write) -> None:
    """`EMITTERD_JOURNAL_URL` replaces the file's `path`, as one secret replaces another."""
    loaded = config.load(write("path: j.db"), {"EMITTERD_JOURNAL_URL": URL})

    assert loaded.journal.location.url == URL


def test_a_password_in_the_url_is_a_warning_of_check(write: Write) -> None:
    """It is accepted in a private file; `check` asks for a file of its own."""
    url = f"url: postgresql://u:{SECRET}@127.0.0.1:1/e"
    loaded = config.load(write(url, mode=0o600), {})
    warning, error = [item for item in diagnoses(loaded) if item.subject == "journal.url"]

    assert (error.level, SECRET in repr(error)) == ("error", False)

    assert (warning.level, SECRET in repr(warning)) == ("warning", False)
    assert "journal.password_file" in warning.remedy
    assert not [pair for pair in config.describe(loaded) if SECRET in pair[1]]


def test_check_looks_at_the_database(write: Write, postgresql: Cluster) -> None:
    """Also before any host has started; a database that is not there is an error with a remedy."""
    name = postgresql.create()

    def found(database: str) -> list[Diagnosis]:
        loaded = config.load(write(f"url: {postgresql.url(database)}"), {})
        return [item for item in diagnoses(loaded) if item.subject == "journal.url"]

    assert [item.level for item in found(name)] == ["ok"]
    [absent] = found("no_such_database")
    assert (absent.level, "createdb" in absent.remedy) == ("error", True)


def test_a_url_without_the_library_is_an_error_with_the_command_to_install_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation for one host has no psycopg."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    [problem] = problems(write(f"url: {URL}"))

    assert problem.key == "journal.url"
    assert "psycopg" in problem.message
    assert "pip install 'emitterd[postgresql]'" in problem.remedy
    assert "apt install python3-psycopg" in problem.remedy
