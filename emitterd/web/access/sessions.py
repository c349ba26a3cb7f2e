"""Who is logged in, which requests come from our own pages, and how often a login may be tried.

No I/O. `now` is time.monotonic(): sessions end with the process, and a clock that is set does not
lengthen one.
"""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from emitterd.web.access.users import Role, User
from emitterd.web.endpoint import is_loopback

LIFETIME_S = 12 * 3600.0
IDLE_S = 3600.0
SESSIONS_MAX = 10
"""Sessions of one user. A further one ends the one that was not used for the longest time."""

NAME_TRIES, NAME_WAIT_MAX_S = 5, 60.0
"""Wrong passwords for one name before the first wait, and the longest wait."""

ALL_TRIES, ALL_WAIT_MAX_S = 30, 10.0
"""The same for all names together. Each try costs 0.3 s of a processor."""

FORGET_S = 900.0
"""Wrong passwords no longer count after this time without another one."""

NAMES_MAX = 1000
"""Names whose wrong passwords are counted; a forgotten name costs an attacker as many tries."""

_EXPONENT_MAX = 10


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks for a page. `form_token` must come back with each of the page's forms."""

    name: str | None = None
    role: Role | None = None
    form_token: str = ""
    can_log_in: bool = False
    """Whether there is a login on this page."""

    @property
    def is_operator(self) -> bool:
        """Whether this user may act on files."""
        return self.role is Role.OPERATOR


@dataclass(frozen=True, slots=True)
class Address:
    """Where people reach the page: `public_url` through a TLS proxy, or this machine itself.

    `local`: only this machine can connect. Without that, passwords would cross the network in the
    clear. emitterd reads no X-Forwarded header: anybody can send one.
    """

    local: bool
    public_url: str | None = None

    @property
    def public_host(self) -> str:
        """The Host header of a request that comes through the proxy; empty without one."""
        return urlsplit(self.public_url).netloc if self.public_url else ""

    def is_public(self, host: str) -> bool:
        """Return whether a request came through the TLS proxy."""
        return self.public_host != "" and host.lower() == self.public_host

    def allows_login(self, host: str) -> bool:
        """Return whether a password is safe on its way to a page at this Host header."""
        return self.local and (self.is_public(host) or is_loopback(_name_of(host)))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Return whether a request was sent by a page of ours, by its Origin and Host headers."""
        schemes = ("https",) if self.is_public(host) else ("http", "https")
        return host != "" and origin.lower() in [f"{item}://{host.lower()}" for item in schemes]


def _name_of(host: str) -> str:
    """Return a Host header without its port; empty if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@dataclass(slots=True)
class _Session:
    user: User
    form_token: str
    began_at: float
    used_at: float


class Sessions:
    """The sessions of all users. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[bytes, _Session] = {}
        self._visitor_key = secrets.token_bytes(32)

    def open(self, user: User, now: float) -> str:
        """Begin a session, and return its secret identifier, which is always a new one."""
        identifier, form_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        with self._lock:
            self._sessions = {
                key: session for key, session in self._sessions.items() if _lives(session, now)
            }
            own = [key for key, item in self._sessions.items() if item.user.name == user.name]
            if len(own) >= SESSIONS_MAX:
                del self._sessions[min(own, key=lambda key: self._sessions[key].used_at)]
            self._sessions[_key(identifier)] = _Session(user, form_token, now, now)
        return identifier

    def find(
        self,
        identifier: str,
        now: float,
        known: Callable[[str], User | None],
        *,
        renew: bool = True,
    ) -> Viewer | None:
        """Return who has a session, or None if there is none or it has ended.

        `known` returns the user of a name: the session ends if the file has another role or
        password now. `renew`: the request is one of a person, not of a script.
        """
        with self._lock:
            session = self._sessions.get(_key(identifier))
            if session is None:
                return None
            user = session.user
            if not _lives(session, now) or known(user.name) != user:
                del self._sessions[_key(identifier)]
                return None
            if renew:
                session.used_at = now
            return Viewer(user.name, user.role, session.form_token, can_log_in=True)

    def close(self, identifier: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_key(identifier), None)

    def visitor_token(self, cookie: str) -> str:
        """Return the form token of a browser without a session, which has this cookie."""
        return hmac.new(self._visitor_key, cookie.encode(), hashlib.sha256).hexdigest()


def is_same(given: str, expected: str) -> bool:
    """Compare a form token; an empty one is never right."""
    return expected != "" and hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _lives(session: _Session, now: float) -> bool:
    return now - session.began_at < LIFETIME_S and now - session.used_at < IDLE_S


def _key(identifier: str) -> bytes:
    # The time of a look-up says nothing about a digest's preimage.
    return hashlib.sha256(identifier.encode(errors="replace")).digest()


def new_device(user: User) -> str:
    """Return the cookie of a browser in which this user has logged in.

    Such a browser counts its wrong passwords apart, so that an attacker cannot lock the user
    out. Source: OWASP, Slow Down Online Guessing Attacks with Device Cookies.
    """
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_device_mac(user, nonce)}"


def is_device(user: User | None, cookie: str) -> bool:
    """Return whether a cookie is one of this user's browsers; not after a new password."""
    nonce, _, mac = cookie.partition(".")
    return user is not None and is_same(mac, _device_mac(user, nonce))


def _device_mac(user: User, nonce: str) -> str:
    message = f"device {user.name} {nonce}".encode(errors="replace")
    return hmac.new(user.hash.encode(), message, hashlib.sha256).hexdigest()


@dataclass(slots=True)
class _Failures:
    """Wrong passwords in a row."""

    tries: int
    wait_max_s: float
    number: int = 0
    last_at: float = 0.0

    def wait_s(self, now: float) -> float:
        """Return how long the next try must wait: twice as long after each wrong password."""
        if now - self.last_at > FORGET_S:
            self.number = 0
        excess = self.number - self.tries
        if excess < 0:
            return 0.0
        wait_s = min(self.wait_max_s, 2.0 ** min(excess, _EXPONENT_MAX))
        return max(0.0, self.last_at + wait_s - now)

    def count(self, now: float) -> None:
        self.number, self.last_at = self.number + 1, now


class LoginThrottle:
    """Slows down the guessing of passwords. Thread-safe, and of bounded size.

    A wait is never longer than a minute. A browser in which the user has logged in before has
    waits of its own. In a new browser, an attacker who tries without pause can keep the user
    waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, _Failures] = {}
        self._all = _Failures(ALL_TRIES, ALL_WAIT_MAX_S)

    def begin(self, key: str, now: float, *, trusted: bool) -> float:
        """Return how long this login must wait; at 0 it may go on and counts as a wrong one.

        `key`: the name, or the cookie of a browser that is `trusted`.
        """
        with self._lock:
            failures = self._names.pop(key, None) or _Failures(NAME_TRIES, NAME_WAIT_MAX_S)
            # The last in the dictionary is the latest.
            self._names[key] = failures
            if len(self._names) > NAMES_MAX:
                del self._names[next(iter(self._names))]
            wait_s = failures.wait_s(now)
            if not trusted:
                wait_s = max(wait_s, self._all.wait_s(now))
            if wait_s == 0.0:
                failures.count(now)
                if not trusted:
                    self._all.count(now)
            return wait_s

    def forgive(self, key: str, *, trusted: bool) -> None:
        """Forget the wrong passwords of a name or browser: the password was right."""
        with self._lock:
            self._names.pop(key, None)
            if not trusted:
                self._all.number -= 1
