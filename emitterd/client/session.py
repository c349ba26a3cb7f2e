"""The login and its token, shared by all workers.

A refused login is not repeated at once. Upstream's Keycloak locks an account after five failures,
so the wait outlasts the process: a restart or `once` from cron does not shorten it. The circuit
breaker takes the longer of this wait and its backoff. How the server is asked for a token differs
by protocol: see `RequestToken`.
"""

import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol, Self

import structlog

from emitterd import heartbeat
from emitterd.client.http import HttpClient, Response
from emitterd.client.responses import RequestKind, as_delivery_errors
from emitterd.client.sockets import POLL_S
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, JournalFull, Stage
from emitterd.text import iso, keep_secret

LOGIN_FLOOR_S = 60.0
LOGIN_CEILING_S = 900.0
"""The first wait after a refused login, and the longest: as long as upstream's Keycloak locks an
account."""

ANSWER_MAX_BYTES = 256 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LoginLockout:
    """How often in a row a login was refused, and when last, in seconds since the epoch.

    `mark` is a salted hash of the account and its password. It shows whether credentials are the
    same, and does not reveal them.
    """

    mark: str
    salt: str
    reason: str
    count: int
    at: float

    @classmethod
    def after(cls, account: bytes, reason: str, now: float, before: Self | None) -> Self:
        """Return the lockout after one more refusal; `before`: the account's last."""
        if before is not None:
            return cls(before.mark, before.salt, reason, before.count + 1, now)
        salt = os.urandom(16)
        return cls(_mark(account, salt), salt.hex(), reason, 1, now)

    @classmethod
    def read(cls, fact: object) -> Self | None:
        """Return the lockout that a fact of the journal holds, or None."""
        try:
            return cls(**fact)  # type: ignore[arg-type]  # else a `TypeError`
        except TypeError:
            return None

    def concerns(self, account: bytes) -> bool:
        """Return whether this account was refused, with this password."""
        return hmac.compare_digest(_mark(account, bytes.fromhex(self.salt)), self.mark)

    def wait_s(self, now: float) -> float:
        """Return how long the next login must wait, in seconds; 0.0 if it is due."""
        longest_s = min(LOGIN_FLOOR_S * 2.0 ** min(self.count - 1, 8), LOGIN_CEILING_S)
        wait_s = self.at + longest_s - now
        # A longer wait shows that the clock was set back. Then one login comes early.
        return wait_s if 0.0 < wait_s <= longest_s else 0.0

    def error(self, now: float, *, asked: bool) -> DeliveryError:
        """Return the error for an attempt; `asked`: the server has just refused the login."""
        wait_s = self.wait_s(now)
        reason = self.reason
        if not asked:
            until = iso(now + wait_s)
            reason += f"; not tried again before {until}, or with another password"
        return DeliveryError(
            Decision.PAUSE, Code.CREDENTIALS, reason, stage=Stage.LOGIN, retry_after_s=wait_s
        )


def _mark(account: bytes, salt: bytes) -> str:
    # Slow on purpose: a reader of the journal must not be able to guess passwords.
    return hashlib.scrypt(account, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in; without `username` the secret is a static API key.

    `secret` is called at each use, so that no other object keeps the text. Without both the server
    makes a token for anybody (cQube 5).
    """

    username: str | None
    secret: Callable[[], str]
    scheme: str

    @property
    def is_token(self) -> bool:
        """Whether the secret is a token, so that there is no login."""
        return self.username is None and bool(self.secret())

    def same_user(self, other: "Credentials") -> bool:
        """Return whether a token of one is valid for the other."""
        users = (self.username, self.scheme, self.is_token)
        return users == (other.username, other.scheme, other.is_token)


class LockoutStore(Protocol):
    """Where a lockout outlasts the process: the journal, whose clock its instants are of."""

    def now(self) -> float:
        """Return the time in seconds since the epoch."""

    def save_fact(self, name: str, value: object) -> None:
        """Save a value in place of the former one. Raises `JournalFull`."""

    def read_fact(self, name: str) -> object:
        """Return a saved value, or None if there is none."""


class Session:
    """The token, shared by all workers: one login at a time. Thread-safe."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        request_token: "RequestToken",
        lockouts: LockoutStore | None,
    ) -> None:
        """`url` is the API's. `request_token` logs in once."""
        self._url = url
        self._request_token = request_token
        self._credentials = credentials
        self._lockouts = lockouts
        self._lockout = LoginLockout.read(lockouts.read_fact("login")) if lockouts else None
        self._lock = threading.Lock()
        self._authorization = ""
        self._token_of = credentials
        self._renew_at = 0.0
        # Only copies of it are raised. A raised exception keeps its frames, one of which holds the
        # failure before it, and so on without end.
        self._last_failure: DeliveryError | None = None
        self.lifetime_s: float | None = None
        """How long the last token lives, in seconds; None for an API key."""

    def apply_credentials(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they differ."""
        current = self._credentials
        if credentials.same_user(current) and credentials.secret() == current.secret():
            return False
        # Not under the lock: a login may hold it for as long as a line stalls.
        self._credentials = credentials
        return True

    @property
    def renewable(self) -> bool:
        """Whether another login can replace a refused token."""
        return not self._credentials.is_token

    def now(self) -> float:
        """Return the time in seconds since the epoch, by the journal's clock if there is one."""
        return self._lockouts.now() if self._lockouts else time.time()

    def authorization(self) -> str:
        """Return the Authorization header; log in first if necessary.

        Raises `DeliveryError` if the login fails.
        """
        while True:
            credentials = self._credentials
            keep_secret("password", credentials.secret())
            if credentials.is_token:
                return f"{credentials.scheme} {credentials.secret()}"
            failure = self._last_failure
            with self._locked():
                valid = self._authorization and time.monotonic() < self._renew_at
                if valid and credentials.same_user(self._token_of):
                    return self._authorization
                if self._last_failure is not failure and self._last_failure is not None:
                    # Another thread's login failed while this one waited for the lock. It counts
                    # for both, so that N workers are one failure, not N.
                    raise self._last_failure.copy()
                if self._login(credentials):
                    return self._authorization

    def lockout(self, now: float) -> DeliveryError | None:
        """Return why emitterd does not log in now, where a login was refused before."""
        lockout, credentials = self._lockout, self._credentials
        if lockout is None or not lockout.wait_s(now):
            return None
        if not lockout.concerns(self._account(credentials)):
            return None
        return lockout.error(now, asked=False)

    def expire(self, authorization: str) -> None:
        """Drop the token that was refused, unless another one replaced it meanwhile."""
        with self._locked():
            if authorization == self._authorization:
                self._authorization = ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A thread that waits for another's slow login has not stalled.
        while not self._lock.acquire(timeout=POLL_S):
            heartbeat.record()
        try:
            yield
        finally:
            self._lock.release()

    def _login(self, credentials: Credentials) -> bool:
        """Log in; return False where a reload brought other credentials meanwhile."""
        account = self._account(credentials)
        lockout = self._lockout
        before = lockout if lockout and lockout.concerns(account) else None
        now = self.now()
        # Neither workers that were under way when the login was refused may try again, nor another
        # run.
        if before and before.wait_s(now) > 0:
            raise before.error(now, asked=False)
        try:
            token = self._request_token(credentials)
        except DeliveryError as error:
            if error.code is not Code.CREDENTIALS:
                self._last_failure = error.copy()
                raise
            if before is None:
                log.error(  # noqa: TRY400  an answer, no traceback
                    "auth.refused", error=error.code, reason=error.reason
                )
            now = self.now()
            lockout = LoginLockout.after(account, error.reason, now, before)
            self._keep(lockout)
            # A reload has replaced them: the refusal says nothing about the new ones.
            if credentials is not self._credentials:
                return False
            self._last_failure = lockout.error(now, asked=True)
            raise self._last_failure.copy() from error
        self._keep(None)
        keep_secret("token", token.text)
        self._authorization = f"{credentials.scheme} {token.text}"
        self._token_of = credentials
        self.lifetime_s = lifetime_s = token.lifetime_s
        # Renewed early, so that no request is wasted on a token that has just ended.
        self._renew_at = time.monotonic() + lifetime_s - min(60.0, lifetime_s / 5)
        log.info("auth.renewed", lifetime_s=lifetime_s)
        return True

    def _account(self, credentials: Credentials) -> bytes:
        parts = [self._url, credentials.username, credentials.secret()]
        return json.dumps(parts).encode()

    def _keep(self, lockout: LoginLockout | None) -> None:
        if lockout is None and self._lockout is None:
            return
        self._lockout = lockout
        if self._lockouts is not None:
            # While the disk is full, only the next run does not know of it.
            with suppress(JournalFull):
                self._lockouts.save_fact("login", asdict(lockout) if lockout else None)


class Token(NamedTuple):
    """The answer to a login. `lifetime_s`: how long the token lives, in seconds."""

    text: str
    lifetime_s: float


RequestToken = Callable[[Credentials], Token]
"""Logs in, in a single try. Raises `DeliveryError`."""


def send_json(
    http: HttpClient,
    request: RequestKind,
    url: str,
    body: object,
    headers: dict[str, str],
    limit_bytes: int = ANSWER_MAX_BYTES,
) -> Response:
    """Send one request to the API: a GET where `body` is None, else a POST.

    Raises `DeliveryError` if no answer came.
    """
    content = None
    if body is not None:
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
    with as_delivery_errors(request):
        method = "GET" if content is None else "POST"
        return http.request(method, url, headers, content, limit_bytes=limit_bytes)
