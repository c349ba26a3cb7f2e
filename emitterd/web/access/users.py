"""The file of users: who may log in to the page, with which role and password.

A line is `name:role:hash`, as `emitterd operator add` writes it. The hash is scrypt in the PHC
string format. hashlib has scrypt; argon2-cffi would add two compiled packages for the same
strength.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from emitterd.errors import ValueProblem
from emitterd.permissions import current_user, name_of
from emitterd.text import count, display, shown
from emitterd.yaml_reader import read_text

PASSWORD_MIN, PASSWORD_MAX = 12, 256
"""Characters of a password. Only its length counts: no rule about digits or signs."""

USERS_MAX = 200
_FILE_MAX_BYTES = 64 * 1024
_OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""Only the owner may read or write the file: anyone who can add a line to it can log in."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_HASH = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$"
    r"([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)

# Source: OWASP Password Storage Cheat Sheet, the entry of least memory: 16 MiB, 0.3 s here.
_COST_LOG2, _BLOCK, _PASSES = 14, 8, 5
_SALT_BYTES = 16
_MEMORY_MAX_BYTES = 64 * 1024**2
"""A hash in the file cannot take more memory than this."""

log = structlog.get_logger()


class Role(StrEnum):
    """What a user may do on the page."""

    OPERATOR = "operator"
    """Acts on files, and inspects."""

    PRODUCER = "producer"
    """Inspects files before they are sent."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the page. `hash` has a salt, so another password is never the same value."""

    name: str
    role: Role
    hash: str

    @property
    def line(self) -> str:
        """The line of the file."""
        return f"{self.name}:{self.role}:{self.hash}"


def read_name(text: str) -> str:
    """Return a name as the file has it. Raises `ValueProblem` if it cannot be a name."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise ValueProblem("is no name of a user", "use up to 64 letters a-z, digits, and . _ @ -")
    return name


def check_password(password: str, name: str) -> None:
    """Raise `ValueProblem` if a password can be guessed, or is too long to be hashed."""
    if len(password) < PASSWORD_MIN:
        message = f"has fewer than {PASSWORD_MIN} characters"
        raise ValueProblem(message, "several words in a row make a good password")
    if len(password) > PASSWORD_MAX:
        raise ValueProblem(f"has more than {PASSWORD_MAX} characters", "choose a shorter one")
    if name in password.lower() and len(password) - len(name) < PASSWORD_MIN // 2:
        raise ValueProblem("is little more than the name", "choose words that others cannot guess")


def hash_password(password: str) -> str:
    """Return a new hash. Takes 16 MiB and some tenths of a second."""
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _scrypt(password, salt, _COST_LOG2, _BLOCK, _PASSES)
    return f"$scrypt$ln={_COST_LOG2},r={_BLOCK},p={_PASSES}${_encode(salt)}${_encode(key)}"


_ABSENT = f"$scrypt$ln={_COST_LOG2},r={_BLOCK},p={_PASSES}${'A' * 22}${'A' * 43}"
"""The hash of no password, for a name that is not in the file."""


def verify(user: User | None, password: str) -> bool:
    """Return whether this is the user's password.

    Takes the same time if there is no such user, so that time does not show which names exist.
    """
    parts = _HASH.fullmatch(user.hash if user is not None else _ABSENT)
    assert parts is not None  # noqa: S101  parse has checked it
    cost, block, passes = map(int, parts.groups()[:3])
    salt, expected = map(_decode, parts.groups()[3:])
    same = hmac.compare_digest(
        _scrypt(password[:PASSWORD_MAX], salt, cost, block, passes), expected
    )
    return same and user is not None


def parse(text: str) -> dict[str, User]:
    """Return the users of a file by name. Raises `ValueProblem` with the line of a mistake."""
    users: dict[str, User] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user = _parse_line(line.strip())
        if user is None or user.name in users:
            mistake = "is no user" if user is None else "has a name for the second time"
            raise ValueProblem(
                f"line {number} {mistake}", "remove the line, and run: emitterd operator add NAME"
            )
        users[user.name] = user
    if len(users) > USERS_MAX:
        raise ValueProblem(f"has more than {USERS_MAX} users", "remove some")
    return users


def load(path: Path) -> dict[str, User]:
    """Return the users in a file. Raises `ValueProblem` if it is not to be trusted."""
    text, mode = read_text(path, "the file of users", _FILE_MAX_BYTES)
    if mode & _OTHERS:
        message = "names a file that other users may read or change"
        raise ValueProblem(message, f"chmod 600 {shown(path)}")
    owner = path.stat().st_uid
    if os.geteuid() not in {0, owner} and owner != 0:
        message = f"names a file of the user {name_of(owner)}, who could add users"
        raise ValueProblem(message, f"chown {current_user()} {shown(path)}")
    return parse(text)


class UsersFile:
    """The users of a running daemon. Thread-safe.

    emitterd reads the file again when it has changed, so a removed user is out at once. With a
    file that cannot be used nobody can log in. Deliveries do not need it.
    """

    def __init__(self, path: Callable[[], Path | None]) -> None:
        """`path` returns the file, which a reload may change; None if there is no login."""
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self._users: Mapping[str, User] = {}
        self._is_usable = True

    @property
    def enabled(self) -> bool:
        """Whether there is a login at all."""
        return self._path() is not None

    def current(self) -> Mapping[str, User]:
        """Return the users by name; none if the file cannot be used."""
        path = self._path()
        if path is None:
            return {}
        try:
            status = path.stat()
            seen = (path, status.st_dev, status.st_ino, status.st_ctime_ns)
        except OSError:
            seen = (path, 0, 0, 0)
        with self._lock:
            if seen != self._seen:
                self._seen = seen
                users = self._load(path)
                self._users, self._is_usable = users or {}, users is not None
            return self._users

    @property
    def is_usable(self) -> bool:
        """Whether the file could be read, the last time that `current` was called."""
        return self._is_usable

    def reload(self) -> None:
        """Read the file again, whether or not it has changed."""
        with self._lock:
            self._seen = ()
        self.current()

    @staticmethod
    def _load(path: Path) -> Mapping[str, User] | None:
        try:
            users = load(path)
        except ValueProblem as error:
            _report(path, str(error), error.remedy)
            return None
        except OSError as error:
            _report(path, error.strerror or str(error), "look at the file")
            return None
        log.info("web.operators_read", count=len(users))
        return users


def _report(path: Path, reason: str, remedy: str) -> None:
    log.error(
        "web.operators_unusable",
        path=display(os.fsencode(path)),
        reason=f"web.operators_file {reason}",
        hint=f"{remedy}; nobody can log in to the page; deliveries go on",
    )


def format_file(users: Iterable[User]) -> str:
    """Return the text of a file, without the line end of its last line."""
    head = "# Who may log in to the page. Change it with: emitterd operator add|remove"
    return "\n".join([head, *(user.line for user in users)])


def summary(users: Mapping[str, User]) -> str:
    """Return how many there are of each role."""
    roles = [user.role for user in users.values()]
    return ", ".join(count(roles.count(role), role) for role in Role)


def _parse_line(line: str) -> User | None:
    name, role, hash_ = (*line.split(":"), "", "")[:3]
    parts = _HASH.fullmatch(hash_)
    if not _NAME.fullmatch(name) or role not in set(Role) or parts is None:
        return None
    if line.count(":") != 2:  # noqa: PLR2004  name, role, hash
        return None
    cost, block, passes = map(int, parts.groups()[:3])
    usable = cost and block and passes and (128 * block << cost) <= _MEMORY_MAX_BYTES
    return User(name, Role(role), hash_) if usable else None


def _scrypt(password: str, salt: bytes, cost: int, block: int, passes: int) -> bytes:
    # One device types an accent, or a sign of Devanagari, as one character, another as two.
    normal = unicodedata.normalize("NFKC", password)
    return hashlib.scrypt(
        normal.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << cost,
        r=block,
        p=passes,
        # Besides the large table, scrypt needs some small ones.
        maxmem=2 * _MEMORY_MAX_BYTES,
        dklen=32,
    )


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
