"""Who is logged in, which requests come from our own pages, and how often a login may be tried.

No I/O. `now` is time.monotonic(): sessions end with the process, and a clock that is set does not
lengthen one.
"""

import hashlib
import hmac
import ipaddress
import secrets
import threading
from collections.abc import Callable, Sequence
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

SOURCE_TRIES = 3
"""Wrong passwords from one network address before it also waits for those of others."""

KEYS_MAX = 1000
"""Names, and network addresses, whose wrong passwords are counted."""

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
    clear. `client_header`: where the proxy writes the network address of its client, if it does.
    emitterd reads no other header of a proxy, and this one only to slow down the guessing of
    passwords: anybody on this machine can send it.
    """

    local: bool
    public_url: str | None = None
    client_header: str | None = None

    @property
    def public_host(self) -> str:
        """The Host header of a request that comes through the proxy; empty without one."""
        return urlsplit(self.public_url).netloc if self.public_url else ""

    def is_public(self, host: str) -> bool:
        """Return whether a request came through the TLS proxy."""
        return self.public_host != "" and host.lower() == self.public_host

    def client(self, host: str, lines: Sequence[str]) -> str:
        """Return the network address of a client behind the proxy; empty if it is not known.

        `lines`: the values of `client_header` in a request with this Host header.
        """
        if not lines or not self.is_public(host):
            return ""
        try:
            # What stands before the last comma comes from the client.
            address = ipaddress.ip_address(lines[-1].rpartition(",")[2].strip())
        except ValueError:
            return ""
        if address.version == 4:  # noqa: PLR2004
            return str(address)
        # One machine has all addresses of such a network.
        return str(ipaddress.ip_network((address, 64), strict=False))

    def names_this_machine(self, host: str) -> bool:
        """Return whether a Host header is that of a browser on this machine.

        A proxy without `public_url` may pass on that of its own address, or replace it by this one.
        """
        return is_loopback(_name_of(host))

    def allows_login(self, host: str) -> bool:
        """Return whether a password is safe on its way to a page at this Host header."""
        return self.local and (self.is_public(host) or self.names_this_machine(host))

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
    _before_at: float = 0.0

    def current(self, now: float) -> int:
        """Return how many count."""
        if now - self.last_at > FORGET_S:
            self.number = 0
        return self.number

    def wait_s(self, now: float) -> float:
        """Return how long the next try must wait: twice as long after each wrong password."""
        excess = self.current(now) - self.tries
        if excess < 0:
            return 0.0
        wait_s = min(self.wait_max_s, 2.0 ** min(excess, _EXPONENT_MAX))
        return max(0.0, self.last_at + wait_s - now)

    def count(self, now: float) -> None:
        self.number, self._before_at, self.last_at = self.number + 1, self.last_at, now

    def take_back(self, now: float) -> None:
        """Undo `count`: the password was right."""
        self.number = max(0, self.number - 1)
        if self.last_at == now:
            self.last_at = self._before_at


class _FailuresByKey:
    """Wrong passwords by name, or by network address. Only what has failed takes room."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failures] = {}

    def of(self, key: str) -> _Failures:
        return self._failures.get(key) or _Failures(NAME_TRIES, NAME_WAIT_MAX_S)

    def count(self, key: str, now: float) -> None:
        failures = self.of(key)
        if key not in self._failures and len(self._failures) >= KEYS_MAX:
            # What an attacker could repeat with the fewest tries.
            least = min(
                self._failures.items(), key=lambda item: (item[1].current(now), item[1].last_at)
            )
            del self._failures[least[0]]
        self._failures[key] = failures
        failures.count(now)

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)

    def take_back(self, key: str, now: float) -> None:
        failures = self.of(key)
        failures.take_back(now)
        if failures.number == 0:
            self.forget(key)


class LoginThrottle:
    """Slows down the guessing of passwords. Thread-safe, and of bounded size.

    A wait is never longer than a minute. An attacker does not keep others waiting: a browser in
    which the user has logged in before has waits of its own, and the first tries from a network
    address wait for nobody. There is one exception: the user has a new browser, and the attacker
    has the same address or hundreds of others, or the address is not known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names = _FailuresByKey()
        self._sources = _FailuresByKey()
        self._all = _Failures(ALL_TRIES, ALL_WAIT_MAX_S)

    def begin(self, key: str, now: float, *, trusted: bool, source: str = "") -> float:
        """Return how long this login must wait; at 0 it may go on and counts as a wrong one.

        `key`: the name, or the cookie of a browser that is `trusted`. `source`: the network address
        of the client; empty if it is not known.
        """
        with self._lock:
            wait_s = self._names.of(key).wait_s(now)
            if not trusted:
                # Of any name, so that many names give no further tries.
                is_new = source and self._sources.of(source).current(now) < SOURCE_TRIES
                wait_s = 0.0 if is_new else max(wait_s, self._all.wait_s(now))
            if wait_s == 0.0:
                self._names.count(key, now)
                if not trusted:
                    self._all.count(now)
                    if source:
                        self._sources.count(source, now)
            return wait_s

    def forgive(self, key: str, now: float, *, trusted: bool, source: str = "") -> None:
        """Forget the wrong passwords of a name or browser: the password was right.

        `now` is that of `begin`. Those of the source, and of all names, stay: an attacker may have
        a login too.
        """
        with self._lock:
            self._names.forget(key)
            if not trusted:
                self._all.take_back(now)
                if source:
                    self._sources.take_back(source, now)
