"""The file of users: what is a user, what is a password, and when the file is refused."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from emitterd.errors import ValueProblem
from emitterd.web.access.users import (
    Role,
    User,
    UsersFile,
    check_password,
    format_file,
    hash_password,
    load,
    parse,
    read_name,
    verify,
)

PASSWORD = "three plain words"
OTHER = "another long password"
HASH = hash_password(PASSWORD)
ASHA = User("asha", Role.OPERATOR, HASH)


def write(path: Path, *users: User, mode: int = 0o600) -> Path:
    """Replace the file as `emitterd operator` does."""
    part = path.with_name("part")
    part.write_text(format_file(users) + "\n")
    part.chmod(mode)
    part.rename(path)
    return path


def test_a_file_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    """A comment and a blank line do not count."""
    ravi = User("school-7@block.in", Role.PRODUCER, hash_password(OTHER))
    path = write(tmp_path / "operators", ASHA, ravi)
    path.write_text(path.read_text() + "\n# the end\n")

    assert load(path) == {"asha": ASHA, "school-7@block.in": ravi}


def test_only_the_right_password_of_a_known_user_is_right() -> None:
    """Two hashes of one password differ. Letters outside ASCII count, however they are typed."""
    assert verify(ASHA, PASSWORD)
    assert not verify(ASHA, PASSWORD.upper())
    assert not verify(None, PASSWORD)
    assert not verify(None, "")
    hindi = User("asha", Role.OPERATOR, hash_password("तीन सरल शब्द यहाँ"))
    assert verify(hindi, "तीन सरल शब्द यहाँ")
    assert not verify(hindi, "तीन सरल शब्द यहा")
    composed = User("asha", Role.OPERATOR, hash_password("एक caf\u00e9 \u0929 \u0958"))
    assert verify(composed, "एक cafe\u0301 \u0928\u093c \u0915\u093c")
    assert hash_password(PASSWORD) != HASH


@pytest.mark.parametrize(
    "line",
    [
        "asha",
        f"asha:{HASH}",
        f"asha:admin:{HASH}",
        f"Asha:operator:{HASH}",
        f"as/ha:operator:{HASH}",
        f"asha:operator:{HASH}:x",
        "asha:operator:three plain words",
        f"asha:operator:{HASH[:-1]}",
        "asha:operator:" + HASH.replace("ln=14", "ln=0"),
        # 16 GiB of memory.
        "asha:operator:" + HASH.replace("ln=14", "ln=24"),
        "asha:operator:" + HASH.replace("r=8", "r=99").replace("ln=14", "ln=16"),
    ],
    ids=[
        *("name only", "no role", "unknown role", "upper case", "slash", "fourth part"),
        *("no hash", "short hash", "cost of none", "cost of 16 GiB", "block of 99"),
    ],
)
def test_a_line_that_is_no_user_is_named_by_its_number(line: str) -> None:
    """The message has neither the line nor the hash: it may hold a password."""
    with pytest.raises(ValueProblem, match=r"^line 2 is no user$") as caught:
        parse(f"# users\n{line}\n")
    assert HASH not in str(caught.value)


def test_a_name_is_in_the_file_once() -> None:
    """Nobody can have two roles."""
    with pytest.raises(ValueProblem, match="line 2 has a name for the second time"):
        parse(f"{ASHA.line}\nasha:producer:{HASH}\n")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o606])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    """Who can write it can add users; who can read it can guess passwords."""
    path = write(tmp_path / "operators", ASHA, mode=mode)
    with pytest.raises(ValueProblem, match="other users may read or change") as caught:
        load(path)
    assert caught.value.remedy == f"chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.system
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Except by root, and except root's."""
    path = write(tmp_path / "operators", ASHA)
    os.chown(path, 1234, 1234)
    assert load(path)
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ValueProblem):
            load(path)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("short", "fewer than 12"),
        ("x" * 257, "more than 256"),
        ("asha-asha-2026"[5:] + "-ash", "little more"),
        ("asha12345678", None),
        (PASSWORD, None),
        ("तीन सरल शब्द यहाँ", None),
    ],
)
def test_a_password_is_refused_only_for_its_length(password: str, problem: str | None) -> None:
    """Or because it is the name with a few signs."""
    name = "asha-2026" if problem == "little more" else "ravi"
    if problem is None:
        check_password(password, name)
        return
    with pytest.raises(ValueProblem, match=problem):
        check_password(password, name)


@pytest.mark.parametrize("text", ["", "a b", "-a", "a:b", "आशा", "a" * 65, "a\n"[:1] + "\x00"])
def test_what_cannot_be_a_name(text: str) -> None:
    """A name goes into the log and into a line with colons."""
    with pytest.raises(ValueProblem):
        read_name(text)


def test_a_name_is_read_without_regard_to_case() -> None:
    """A phone begins a name with a capital letter."""
    assert read_name(" Asha ") == "asha"


def test_a_changed_file_is_read_again_at_once(tmp_path: Path) -> None:
    """A removed operator is out without a reload."""
    path = write(tmp_path / "operators", ASHA)
    users = UsersFile(lambda: path)

    assert set(users.current()) == {"asha"}
    first = users.current()
    assert users.current() is first
    write(path, User("ravi", Role.PRODUCER, HASH))
    assert set(users.current()) == {"ravi"}


def test_a_broken_file_is_one_event_and_no_login_until_it_is_corrected(tmp_path: Path) -> None:
    """Each request asks for the users; the log has one line for each change."""
    path = write(tmp_path / "operators", ASHA)
    users = UsersFile(lambda: path)
    assert users.current()
    with capture_logs() as events:
        path.write_text("asha:operator:secret-in-the-wrong-place\n")
        assert [dict(users.current()) for _ in range(3)] == [{}] * 3
        path.unlink()
        assert [dict(users.current()) for _ in range(3)] == [{}] * 3
        write(path, ASHA)
        assert set(users.current()) == {"asha"}

    names = [event["event"] for event in events]
    assert names == ["web.operators_unusable", "web.operators_unusable", "web.operators_read"]
    assert "line 1 is no user" in events[0]["reason"]
    assert "emitterd operator add" in events[0]["hint"]
    assert "secret-in-the-wrong-place" not in repr(events)


def test_without_a_file_there_is_no_login() -> None:
    """The key is not set."""
    users = UsersFile(lambda: None)
    assert not users.enabled
    assert users.current() == {}
