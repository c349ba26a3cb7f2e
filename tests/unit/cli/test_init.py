"""`init`: what it makes, what it never touches, and that emitterd uses the result."""

import os
import subprocess
import sys
import traceback
from dataclasses import replace
from difflib import ndiff
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import NOBODY, Python, SmallDisk
from emitterd.cli.setup.init import (
    _create,
    _settings,
    dataset_folders,
    lay_out,
    next_steps,
    shipped,
)
from emitterd.config import settings as config
from emitterd.config.settings import Config
from emitterd.config.upstream_config import UpstreamConfig, read_upstream_config
from emitterd.errors import ConfigError, Problem

SECRET = "correct-horse-battery"
URL = "https://cqube.example.org/data"
DATASETS = ["district_master", "pat", "pat"]
LOGIN = UpstreamConfig(url=URL, username="emission", password=SECRET)
KEY = UpstreamConfig(url=URL, api_key=SECRET)

NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."} and len(name.encode()) < 200)


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return every path below a folder, its mode, and its content if it is a file."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


def mode(path: Path) -> int:
    """Return a path's permissions."""
    return path.stat().st_mode & 0o7777


NOBODY_YET = UpstreamConfig()


def laid_out(folder: Path, client: UpstreamConfig = NOBODY_YET) -> list[Path]:
    """Lay out `drop` and `emitter.yaml` in a folder."""
    return lay_out(folder / "drop", folder / "emitter.yaml", DATASETS, client)


def steps_of(folder: Path, client: UpstreamConfig = NOBODY_YET) -> list[str]:
    """Lay out as `laid_out` does, and return the next steps."""
    laid_out(folder, client)
    return list(next_steps(folder / "drop", folder / "emitter.yaml", client))


def refused(
    folder: Path,
    client: UpstreamConfig = NOBODY_YET,
    *,
    drop: str = "drop",
    output: str = "emitter.yaml",
) -> list[Problem]:
    """Return why `init` refuses; it changes no file and shows no secret."""
    before = tree(folder)
    with pytest.raises(ConfigError) as caught:
        lay_out(folder / drop, folder / output, DATASETS, client)
    after = tree(folder)
    assert {path: after[path] for path in before} == before
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value.problems)
    return caught.value.problems


def only(folder: Path, client: UpstreamConfig = NOBODY_YET, **places: str) -> str:
    """Return the message of the one reason why nothing is laid out."""
    (problem,) = refused(folder, client, **places)
    return problem.message


def revealed(loaded: Config) -> tuple[str | None, str | None, str | None]:
    """Return username, password and API key in the clear."""
    emission = loaded.emission
    password, api_key = emission.password, emission.api_key
    return (
        emission.username,
        password.reveal() if password else None,
        api_key.reveal() if api_key else None,
    )


@pytest.mark.parametrize(
    ("text", "login", "url"),
    [
        (
            f"username='emission'\npassword='{SECRET}'\nemission_url='{URL}/'\n",
            ("emission", SECRET, None),
            URL,
        ),
        (f"access_token='{SECRET}'\nemission_url='{URL}'\n", (None, None, SECRET), URL),
        (
            f"access_token='{SECRET}'\nemission_url='http://10.0.0.5:5000/'\n",
            (None, None, SECRET),
            "http://10.0.0.5:5000",
        ),
        (
            f"username='off'\npassword=' # {SECRET}: '\nemission_url='{URL}'\n",
            ("off", f" # {SECRET}: ", None),
            URL,
        ),
        (
            f"username='u'\npassword='p'\naccess_token='{SECRET}'\nemission_url='{URL}'\n",
            (None, None, SECRET),
            URL,
        ),
    ],
    ids=["login", "API key", "http", "odd login", "both"],
)
@pytest.mark.parametrize(
    "drop", ["cqube_emission", "with blank ", "#1: 'a' \"b\"", "इमिशन", "two\nlines", "- a"]
)
def test_the_values_of_config_py_make_a_whole_configuration(
    tmp_path: Path, drop: str, text: str, login: tuple[str | None, ...], url: str
) -> None:
    """The values of config.py are in effect, and nothing is left to correct."""
    source = tmp_path / "config.py"
    source.write_text(text)
    output = tmp_path / "etc" / "emitter.yaml"
    output.parent.mkdir()
    lay_out(tmp_path / drop, output, DATASETS, read_upstream_config(source))
    loaded = config.load(output, {})

    assert revealed(loaded) == login
    assert loaded.emission.url == url
    assert loaded.emission.allow_insecure_http == url.startswith("http:")
    assert loaded.spool.directory == tmp_path / drop
    assert loaded.journal.path == output.parent / "journal.db"


@settings(deadline=None)
@example(drop="0", username="~", password="null", path="")
@given(
    drop=NAME,
    username=st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip),
    password=st.text(st.characters(exclude_categories=["C"])).filter(str.strip),
    path=st.text(st.characters(codec="ascii", exclude_categories=["C"], exclude_characters=" ?#")),
)
def test_any_value_comes_back_from_the_file(
    tmp_path_factory: pytest.TempPathFactory, drop: str, username: str, password: str, path: str
) -> None:
    """Every name of a folder or a user is read back from the file."""
    folder = tmp_path_factory.mktemp("init")
    source = folder / "config.py"
    source.write_text(
        f"username = {username!a}\npassword = {password!a}\n"
        f"emission_url = {'https://h/' + path!a}\n"
    )
    output = folder / "etc" / "emitter.yaml"
    output.parent.mkdir()
    lay_out(folder / f"_{drop}", output, DATASETS, read_upstream_config(source))
    loaded = config.load(output, {})

    assert revealed(loaded) == (username, password, None)
    assert loaded.emission.url == f"https://h/{path}".rstrip("/")
    assert loaded.spool.directory == folder / f"_{drop}"


def test_it_makes_folders_secret_and_configuration(tmp_path: Path) -> None:
    """The folder, each dataset's folder once, the secret, and emitter.yaml last."""
    drop = tmp_path / "srv" / "drop"
    made = lay_out(drop, tmp_path / "emitter.yaml", DATASETS, KEY)

    assert made == [
        drop,
        drop / "district_master",
        drop / "pat",
        tmp_path / "api-key",
        tmp_path / "emitter.yaml",
    ]
    assert set(tree(tmp_path)) == {str(path.relative_to(tmp_path)) for path in (drop.parent, *made)}


def test_the_comments_stay(tmp_path: Path) -> None:
    """Only the lines of the keys that are set differ from the shipped file."""
    laid_out(tmp_path, KEY)
    text = (tmp_path / "emitter.yaml").read_text()
    changed = [line for line in ndiff(shipped().splitlines(), text.splitlines()) if line[0] in "+-"]
    assert changed == [
        "-   username: emission",
        "+   # username: emission",
        "-   password_file: /etc/emitterd/password",
        "+   # password_file: /etc/emitterd/password",
        "-   # api_key_file: /etc/emitterd/api-key",
        "+   api_key_file: api-key",
        "-   directory: /srv/cqube_emission",
        f"+   directory: {tmp_path}/drop",
        "-   path: /var/lib/emitterd/journal.db",
        "+   path: journal.db",
    ]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask_and_the_secret_is_private(tmp_path: Path, umask: int) -> None:
    """Folders and emitter.yaml follow the umask; the secret has mode 0600."""
    before = os.umask(umask)
    try:
        laid_out(tmp_path, LOGIN)
    finally:
        os.umask(before)

    assert mode(tmp_path / "password") == 0o600
    assert (tmp_path / "password").read_text() == f"{SECRET}\n"
    assert mode(tmp_path / "emitter.yaml") == 0o666 & ~umask
    assert mode(tmp_path / "drop") == mode(tmp_path / "drop/pat") == 0o777 & ~umask
    assert SECRET not in (tmp_path / "emitter.yaml").read_text()


def test_existing_files_and_folders_do_not_change(tmp_path: Path) -> None:
    """Folders, their modes, their files, and a file with the same secret stay."""
    (tmp_path / "drop" / "pat").mkdir(parents=True)
    (tmp_path / "drop" / "pat").chmod(0o2770)
    (tmp_path / "drop" / "pat" / "mst.zip").write_bytes(b"data")
    (tmp_path / "password").write_text(f"{SECRET}\n")
    (tmp_path / "password").chmod(0o640)
    before = tree(tmp_path)
    made = laid_out(tmp_path, LOGIN)
    after = tree(tmp_path)

    assert {path: after[path] for path in before} == before
    assert made == [tmp_path / "drop/district_master", tmp_path / "emitter.yaml"]


def test_a_second_run_is_refused_because_of_the_output(tmp_path: Path) -> None:
    """Once emitter.yaml is moved away, it is made again."""
    laid_out(tmp_path, LOGIN)
    assert only(tmp_path, LOGIN) == "exists already, and is never overwritten"
    (tmp_path / "emitter.yaml").unlink()

    assert laid_out(tmp_path, LOGIN) == [tmp_path / "emitter.yaml"]


def test_without_a_client_the_next_steps_say_what_to_edit(tmp_path: Path) -> None:
    """With a URL and a password the configuration is complete."""
    output, password = tmp_path / "emitter.yaml", tmp_path / "password"
    steps = steps_of(tmp_path)

    assert len(steps) == 5
    assert steps[0].startswith("set emission.url")
    assert steps[1].startswith("set emission.username")
    assert "emitterd set-password" in steps[2]
    assert "chgrp" in steps[3]
    assert steps[-1].endswith(f"emitterd check -c {output}")
    password.touch(0o600)
    password.write_text(SECRET)
    assert revealed(config.load(output, {})) == ("emission", SECRET, None)


def test_with_a_client_there_is_little_left_to_do(tmp_path: Path) -> None:
    """Permissions, cron, and `check` are left; nothing is to be edited."""
    steps = steps_of(tmp_path, replace(KEY, file_path="/old\x1b/"))

    assert [step.split(":")[0] for step in steps] == [
        "allow a group to drop files",
        "remove client.py from cron",
        "check the configuration",
    ]
    assert SECRET not in "".join(steps)
    assert "".join(steps).isprintable()


def test_a_value_that_config_py_lacks_stays_the_example(tmp_path: Path) -> None:
    """The next steps name each value that is missing."""
    steps = "\n".join(steps_of(tmp_path, UpstreamConfig(password=SECRET)))
    text = (tmp_path / "emitter.yaml").read_text()

    assert "set emission.url" in steps
    assert "set emission.username" in steps
    assert "store the password" not in steps
    assert "\n  username: emission\n" in text
    assert "\n  url: https://cqube.example.org/data\n" in text


def test_another_secret_is_not_replaced(tmp_path: Path) -> None:
    """A file that holds another secret, or no usable one, is refused."""
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("another\n")
    assert only(tmp_path, LOGIN) == "holds another secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    assert "everybody may read" in only(tmp_path, LOGIN)
    file.unlink()
    os.mkfifo(file)
    assert "not a regular file" in only(tmp_path, LOGIN)
    file.unlink()
    file.symlink_to("nowhere")

    assert "cannot be read" in only(tmp_path, LOGIN)


@pytest.mark.parametrize(
    ("drop", "output", "message"),
    [
        ("drop", "gone/emitter.yaml", "cannot be made: No such file or directory"),
        ("drop", "file/emitter.yaml", "cannot be made: Not a directory"),
        ("drop", "folder", "exists already"),
        ("drop", "link", "exists already"),
        ("file", "emitter.yaml", "exists already"),
        ("file/drop", "emitter.yaml", "cannot be made: Not a directory"),
        ("link", "emitter.yaml", "exists already"),
        ("link/drop", "emitter.yaml", "exists already"),
        ("blocked", "emitter.yaml", "exists already"),
        (".", "emitter.yaml", "is in DIRECTORY"),
        ("folder", "alias/emitter.yaml", "is in DIRECTORY"),
    ],
)
def test_a_failed_run_changes_no_file(tmp_path: Path, drop: str, output: str, message: str) -> None:
    """The run can be repeated: what it made before the step that failed stays."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "alias").symlink_to("folder")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "pat").touch()

    assert message in only(tmp_path, LOGIN, drop=drop, output=output)


@pytest.mark.parametrize("name", ["emitter.yaml", "password", "drop"])
def test_a_problem_names_the_path_and_the_remedy(tmp_path: Path, name: str) -> None:
    """Only the first step that fails is reported."""
    (tmp_path / name).touch()
    (problem,) = refused(tmp_path, LOGIN)

    assert problem.key == str(tmp_path / name)
    assert problem.remedy


def test_a_file_that_another_program_made_is_not_replaced(tmp_path: Path) -> None:
    """Another program may create the file first."""
    file = tmp_path / "emitter.yaml"
    file.write_text("theirs")
    with pytest.raises(FileExistsError):
        _create(file, "ours", 0o666)

    assert {path: content for path, (_, content) in tree(tmp_path).items()} == {
        "emitter.yaml": b"theirs"
    }


def test_the_next_steps_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    """Odd names of folders are quoted."""
    folder = tmp_path / "it's & here"
    folder.mkdir()
    steps = steps_of(folder)
    commands = [step.partition(": ")[2] for step in steps[2:4]]
    script = "\n".join(commands).replace("GROUP", str(os.getgid()))
    script = script.replace("emitterd set", f"{sys.executable} -m emitterd set")
    subprocess.run(  # noqa: S603  the commands under test
        ["/bin/sh", "-ec", script], input=SECRET.encode(), check=True
    )

    assert mode(folder / "drop" / "pat") == mode(folder / "drop") == 0o2770
    assert mode(folder / "password") == 0o600
    assert revealed(config.load(folder / "emitter.yaml", {}))[1] == SECRET


def test_a_service_is_given_its_files(tmp_path: Path) -> None:
    """A configuration below /etc is for a service with its own user and journal."""
    output = Path("/etc/emitterd/emitter.yaml")

    assert "path" not in _settings(tmp_path, output, KEY)
    assert "chown emitterd /etc/emitterd/emitter.yaml /etc/emitterd/api-key" in (
        "\n".join(next_steps(tmp_path, output, KEY))
    )


def test_dots_are_followed_as_the_kernel_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` after a link leads above the link's target."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path / "link")
    lay_out(Path.cwd() / "../drop", Path.cwd() / "emitter.yaml", DATASETS, LOGIN)

    assert (tmp_path / "a" / "drop" / "pat").is_dir()
    loaded = config.load(Path("emitter.yaml"), {})
    assert loaded.spool.directory.samefile(tmp_path / "a" / "drop")


def test_a_refusal_of_the_file_system_is_reported(tmp_path: Path) -> None:
    """The problem names the path, and the reason of the system."""
    drop, long = tmp_path / "drop", "x" * 300
    with pytest.raises(ConfigError) as caught:
        lay_out(drop, tmp_path / "emitter.yaml", ["pat", long], LOGIN)
    (problem,) = caught.value.problems

    assert problem.key == str(drop / long)
    assert problem.message == "cannot be made: File name too long"


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, small_disk: SmallDisk) -> None:
    """The secret is written whole or not at all, and no other file is left."""
    small_disk.fill()
    before = tree(small_disk.root)
    with pytest.raises(ConfigError, match="1 problem") as caught:
        lay_out(tmp_path / "drop", small_disk.root / "emitter.yaml", DATASETS, LOGIN)
    assert "No space left on device" in caught.value.problems[0].message
    assert tree(small_disk.root) == before
    small_disk.free()
    lay_out(tmp_path / "drop", small_disk.root / "emitter.yaml", DATASETS, LOGIN)

    assert config.load(small_disk.root / "emitter.yaml", {}).emission.url == URL


AS_NOBODY = f"""
from pathlib import Path
from emitterd.errors import ConfigError
from emitterd.cli.setup.init import lay_out
from emitterd.config.upstream_config import UpstreamConfig
{NOBODY}
try:
    lay_out(Path("drop").absolute(), Path("emitter.yaml").absolute(), ["pat"],
            UpstreamConfig())
except ConfigError as error:
    for problem in error.problems:
        print(problem.key, problem.message, problem.remedy)
"""


@pytest.mark.parametrize("reachable", [True, False])
def test_a_user_without_permission_gets_a_remedy(
    tmp_path: Path, python: Python, *, reachable: bool
) -> None:
    """That holds too if the user may not even read the folder."""
    folder = Path("/") if reachable else tmp_path
    (line,) = python(AS_NOBODY, cwd=folder).splitlines()

    assert line.startswith("/")
    assert line.endswith(" cannot be made: Permission denied correct it, and run init again")


def test_it_lays_out_an_installation_for_cqube_5(tmp_path: Path) -> None:
    """One folder for programs; the configuration needs no user and loads as it is."""
    drop, output = tmp_path / "drop", tmp_path / "emitter.yaml"
    folders = dataset_folders(programs=True)
    assert folders == ["programs"]
    made = lay_out(drop, output, folders, NOBODY_YET, programs=True)

    assert made == [drop, drop / "programs", output]
    emission = config.load(output, {}).emission
    assert (emission.protocol, emission.username) == ("ingestion", None)
    assert emission.url.endswith("/api/ingestion")
    steps = list(next_steps(drop, output, NOBODY_YET, programs=True))
    assert steps[0].startswith("set emission.url")
    assert "emitterd set-api-key" in steps[1]
    assert not any("password" in step for step in steps)
