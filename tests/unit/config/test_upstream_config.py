"""Upstream's config.py: what is read, what is refused, and that nothing runs."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emitterd.config.upstream_config import UpstreamConfig, read_upstream_config
from emitterd.errors import ConfigError, Problem

SECRET = "correct-horse-battery"
LOGIN = f"""\
username="emission"
password="{SECRET}"
file_path="/home/ubuntu/cqube_emission/"
emission_url="http://10.0.0.5:5000/"
"""
KEY = f"""\
access_token="{SECRET}"   #API Key
file_path="/home/ubuntu/cqube_emission/"      #'/home/ubuntu/cqube_emission/'
emission_url="https://cqube.example.org/data/"   #http://ip:5000/
"""

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a config.py."""

    def to_file(content: str | bytes) -> Path:
        path = tmp_path / "config.py"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def problems(path: Path) -> list[Problem]:
    """Return what is refused; no secret may stand in it."""
    with pytest.raises(ConfigError) as caught:
        read_upstream_config(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + repr(caught.value.problems)
    return caught.value.problems


def only(path: Path) -> Problem:
    """Return the one thing that is refused."""
    (problem,) = problems(path)
    return problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            LOGIN,
            UpstreamConfig(
                url="http://10.0.0.5:5000",
                username="emission",
                password=SECRET,
                file_path="/home/ubuntu/cqube_emission/",
            ),
        ),
        (
            KEY,
            UpstreamConfig(
                url="https://cqube.example.org/data",
                api_key=SECRET,
                file_path="/home/ubuntu/cqube_emission/",
            ),
        ),
        ("username = ''\nemission_url = ''\n", UpstreamConfig()),
        ("other = print\nusername = 'one'\n", UpstreamConfig(username="one")),
        ("username = 'one' 'two'\n", UpstreamConfig(username="onetwo")),
        ("username = (\n 'one'\n 'two')\n", UpstreamConfig(username="onetwo")),
        ("username = 'one'\nusername = 'two'\n", UpstreamConfig(username="two")),
        ("import os\nusername = os.sep\nusername = 'two'", UpstreamConfig("", "two")),
        ("def f():\n username = 1\npassword = 'p'\n", UpstreamConfig(password="p")),
        ("\ufeffusername = 'one'\r\n", UpstreamConfig(username="one")),
        (f"password = '{SECRET}\\n'\n", UpstreamConfig(password=SECRET)),
        ("file_path = r'C:\\data\\e'\n", UpstreamConfig(file_path="C:\\data\\e")),
        ("file_path = 'C:\\data\\e'\n", UpstreamConfig(file_path="C:\\data\\e")),
        ("file_path = 'D:/e/'\n", UpstreamConfig(file_path="D:/e/")),
        ("file_path = r'\\\\nas\\e'\n", UpstreamConfig(file_path="\\\\nas\\e")),
    ],
    ids=[
        "1.0 to 1.6",
        "1.7 to 4.1",
        "empty",
        "unknown names",
        "joined",
        "in brackets",
        "last wins",
        "last wins over a call",
        "a function's own names",
        "byte order mark and CRLF",
        "line end in a secret",
        "raw",
        "backslashes that Python warns of",
        "Windows drive",
        "Windows share",
    ],
)
def test_plain_texts_are_read(write: Write, text: str, expected: UpstreamConfig) -> None:
    """The last plain text of each name counts, as in Python; an empty one does not."""
    client = read_upstream_config(write(text))

    assert client == UpstreamConfig(
        expected.url or None,
        expected.username,
        expected.password,
        expected.api_key,
        expected.file_path,
    )
    assert SECRET not in repr(client)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip))
def test_any_text_is_read_as_python_reads_it(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Every notation of a Python text gives its value."""
    path = tmp_path_factory.mktemp("client") / "config.py"
    path.write_text(f"username = {name!r}\nfile_path = {'/' + name!a}\n", "utf-8")
    client = read_upstream_config(path)

    assert (client.username, client.file_path) == (name, f"/{name}")


@pytest.mark.parametrize(
    "value",
    [
        f"os.environ['{SECRET}']",
        f"f'{SECRET}'",
        f"'{SECRET}' + suffix",
        f"str('{SECRET}')",
        f"b'{SECRET}'",
        "None",
        "42",
        f"['{SECRET}']",
        f"'{SECRET}' if 1 else ''",
    ],
)
@pytest.mark.parametrize(
    "name", ["emission_url", "username", "password", "access_token", "file_path"]
)
def test_a_value_that_is_not_a_plain_text_is_a_problem(write: Write, name: str, value: str) -> None:
    """Only running the file could compute it."""
    problem = only(write(f"import os\n{name} = {value}\n"))

    assert (problem.key, problem.line) == (name, 2)
    assert problem.message.startswith("is not a plain text")
    assert "in quotes" in problem.remedy


def test_all_problems_come_at_once(write: Write) -> None:
    """They are in the order of the file."""
    reported = problems(
        write(
            "emission_url = 'cqube.example.org'\n"
            "username = ' '\n"
            f"password = '{SECRET}\\n{SECRET}'\n"
            "access_token = 'गुप्त'\n"
            "file_path = ' '\n"
        )
    )
    assert [(problem.line, problem.key, problem.message) for problem in reported] == [
        (1, "emission_url", "is not a plain URL"),
        (2, "username", "is empty"),
        (3, "password", "holds a line break, a control character, or broken UTF-8"),
        (4, "access_token", "holds more than ASCII"),
        (5, "file_path", "is empty"),
    ]


@pytest.mark.parametrize(
    "name", ["emission_url", "username", "password", "access_token", "file_path"]
)
def test_a_lone_surrogate_is_a_problem(write: Write, name: str) -> None:
    """Python's texts may hold one, but UTF-8 cannot encode it."""
    assert only(write(f"{name} = 'http://x\\ud800'\n")).key == name


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (f"username = 'one'\nprint '{SECRET}'\n", 2, "is not Python 3"),
        (f"password = {SECRET}\nusername = '\n", 2, "is not Python 3"),
        ("file_path = 'C:\\users'\n", 1, "is not Python 3"),
        (f"password = '{SECRET}\\N{{nothing}}'", 1, "is not Python 3"),
        (f"password = '{SECRET}'\0", None, "is not Python 3"),
        (f"# {SECRET}\nusername = '".encode() + b"\xe9'\n", 2, "is not UTF-8 text"),
        ("#" * 64 * 1024 + "\n", None, "has 64 KiB or more"),
        ("", None, "gives none of emission_url, username, "),
        ("import os\n", None, "gives none of emission_url, username, "),
    ],
    ids=[
        "Python 2",
        "quote left open",
        "escape of a Windows path",
        "unknown character",
        "NUL",
        "Latin-1",
        "huge",
        "empty",
        "another file",
    ],
)
def test_another_kind_of_file_is_a_problem(
    write: Write, content: str | bytes, line: int | None, message: str
) -> None:
    """The problem has the name of the file, and the line if there is one."""
    problem = only(write(content))

    assert (problem.key, problem.line or line) == ("config.py", line)
    assert problem.message.startswith(message)
    assert problem.remedy


@pytest.mark.parametrize(
    "expression", ["(" * 9000, "-" * 60000 + "1", "1+" * 30000 + "1", "[[" * 90]
)
def test_a_nested_file_is_a_problem_and_no_crash(write: Write, expression: str) -> None:
    """Python's parser fails on it with different errors."""
    assert problems(write(f"username = {expression}\n"))


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file, a folder, and a FIFO, which must not block."""
    os.mkfifo(tmp_path / "fifo")

    assert only(tmp_path / "gone.py").message == ("cannot be read: No such file or directory")
    assert only(tmp_path).message == "cannot be read: Is a directory"
    assert only(tmp_path / "fifo").message == "is not a regular file"
    assert only(tmp_path / "gone\n.py").key == "gone\\n.py"


def test_nothing_is_run(write: Write, tmp_path: Path) -> None:
    """A line with a side effect is ignored."""
    ran = tmp_path / "ran"
    path = write(f"open({str(ran)!r}, 'w')\n__import__('os').mkdir({str(ran)!r})\n{KEY}")
    assert read_upstream_config(path).api_key == SECRET
    assert not ran.exists()
    assert os.listdir(tmp_path) == ["config.py"]  # noqa: PTH208  no __pycache__


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text("uf='\"\\(:+\n #px").map(str.encode))
def test_no_file_makes_it_crash(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    """Any file is read or refused."""
    path = tmp_path_factory.mktemp("client") / "config.py"
    path.write_bytes(f"password = '{SECRET}'\n".encode() + tail)
    try:
        text = repr(read_upstream_config(path))
    except ConfigError as error:
        text = f"{error} {error.problems}"
    assert SECRET not in text
