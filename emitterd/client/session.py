"""The login and its token, shared by all workers; and how the API is asked.

Source: cQube's views.py, versions 1.0 to 4.1.
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
from typing import Protocol, Self

import structlog

from emitterd import heartbeat
from emitterd.client import grant as grants
from emitterd.client.http import HttpClient, Response
from emitterd.client.responses import RequestKind, api_trouble, transport_error
from emitterd.client.sockets import POLL_S, Stopped, TransportError
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, JournalFull, Stage
from emitterd.text import iso

# A login that was refused: how long the next one waits, and whose it was. Upstream's
# Keycloak locks an account after five failures, so the wait outlasts the process:
# neither a restart nor `once` from cron may begin anew.

LOGIN_FLOOR_S = 60.0
LOGIN_CEILING_S = 900.0
"""A refused login waits the first of these, then ever longer, up to the second: as
long as upstream's Keycloak locks an account for."""


@dataclass(frozen=True, slots=True)
class LoginLockout:
    """How often in a row a login was refused, and when last, in seconds of the epoch.

    `mark` tells whether credentials are the same, and cannot be turned into them.
    """

    mark: str
    salt: str
    reason: str
    count: int
    at: float

    @classmethod
    def of(cls, account: bytes, reason: str, now: float, before: Self | None) -> Self:
        """Return one more refusal of an account; `before`: its last one."""
        if before is not None:
            return cls(before.mark, before.salt, reason, before.count + 1, now)
        salt = os.urandom(16)
        return cls(_mark(account, salt), salt.hex(), reason, 1, now)

    @classmethod
    def read(cls, fact: object) -> Self | None:
        """Return the refusal that `fact` returned, or None for anything else."""
        if not isinstance(fact, dict):
            return None
        try:
            return cls(**fact)
        except TypeError:
            return None

    def fact(self) -> dict[str, object]:
        """Return it as the journal keeps it."""
        return asdict(self)

    def concerns(self, account: bytes) -> bool:
        """Tell whether it was this account that was refused, with this password."""
        return hmac.compare_digest(_mark(account, bytes.fromhex(self.salt)), self.mark)

    def wait_s(self, now: float) -> float:
        """Return how long the next try must wait, in seconds; 0.0 where it is due."""
        longest_s = min(LOGIN_FLOOR_S * 2.0 ** min(self.count - 1, 8), LOGIN_CEILING_S)
        wait_s = self.at + longest_s - now
        # The clock was set back since: then one try comes too early.
        return wait_s if 0.0 < wait_s <= longest_s else 0.0

    def trouble(self, now: float, *, asked: bool) -> DeliveryError:
        """Return what it means for an attempt; `asked`: it is the server's answer."""
        wait_s = self.wait_s(now)
        reason = self.reason
        if not asked:
            until = iso(now + wait_s)
            reason += f"; not tried again before {until}, or with another password"
        return DeliveryError(
            Decision.PAUSE,
            Code.CREDENTIALS,
            reason,
            stage=Stage.LOGIN,
            retry_after_s=wait_s,
        )


def _mark(account: bytes, salt: bytes) -> str:
    # Slow on purpose: who reads the journal shall not try passwords out on it.
    return hashlib.scrypt(account, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


TOKEN_LIFETIME_S = 300.0
"""Where the login does not say: Flask-JWT's default, which cQube 1.0 has."""

TOKEN_LONGEST_S = 365 * 86400.0
"""As good as for ever; what a login says may be any number."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in; without `username` the secret is a static API key.

    `secret` is called at the moment of use, so that the text is kept nowhere else.
    """

    username: str | None
    secret: Callable[[], str]
    scheme: str

    def alike(self, other: "Credentials") -> bool:
        """Tell whether a server could not tell the one from the other."""
        return (self.username, self.scheme, self.secret()) == (
            other.username,
            other.scheme,
            other.secret(),
        )

    def share_token(self, other: "Credentials") -> bool:
        """Tell whether a token of the one serves the other: the same user's."""
        return (self.username, self.scheme) == (other.username, other.scheme)


class LockoutStore(Protocol):
    """What outlasts the process: the journal's facts."""

    def note(self, name: str, value: object) -> None:
        """Keep a fact in place of the former. Raises `JournalFull`."""

    def noted(self, name: str) -> object:
        """Return a fact, or None where there is none."""


class Session:
    """The token, shared by all workers: one login at a time. Thread-safe."""

    def __init__(
        self,
        wire: HttpClient,
        url: str,
        credentials: Credentials,
        memory: LockoutStore | None,
    ) -> None:
        """`memory` knows of refused logins of other runs; None where that is no use."""
        self._wire = wire
        self._url = url
        self._credentials = credentials
        self._lock = threading.Lock()
        self._authorization = ""
        self._owner = credentials
        self._renew_at = 0.0
        self._memory = memory
        self._refusal = LoginLockout.read(memory.noted("login")) if memory else None
        # Never itself raised: what was keeps its frames, one of which knows the failure
        # before it, and so on without end.
        self._failed: DeliveryError | None = None
        self.lifetime_s: float | None = None
        """How long the last token lives, in seconds; None for an API key."""

    def adopt(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they are others."""
        if credentials.alike(self._credentials):
            return False
        # Not under the lock: a login may hold it for as long as a line stalls.
        self._credentials = credentials
        return True

    @property
    def renewable(self) -> bool:
        """Whether a refused token can be replaced by logging in again."""
        return self._credentials.username is not None

    def authorization(self) -> str:
        """Return the Authorization header, logging in where that is due.

        Raises `DeliveryError` where the login fails.
        """
        while True:
            credentials = self._credentials
            if credentials.username is None:
                return f"{credentials.scheme} {credentials.secret()}"
            before = self._failed
            with self._alone():
                if self._logged_in(credentials):
                    return self._authorization
                if self._failed is not before and self._failed is not None:
                    # Another's login has failed meanwhile: it stands for this one.
                    raise self._failed.copy()
                if self._login(credentials):
                    return self._authorization

    def refused(self, now: float) -> DeliveryError | None:
        """Return why no login is tried now, where one was refused not long ago."""
        refusal, credentials = self._refusal, self._credentials
        if refusal is None or not refusal.wait_s(now):
            return None
        if not refusal.concerns(self._account(credentials)):
            return None
        return refusal.trouble(now, asked=False)

    def expire(self, authorization: str) -> None:
        """Drop the token that was refused, unless another replaced it meanwhile."""
        with self._alone():
            if authorization == self._authorization:
                self._authorization = ""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock. Who waits for another's slow login is at no standstill."""
        while not self._lock.acquire(timeout=POLL_S):
            heartbeat.record()
        try:
            yield
        finally:
            self._lock.release()

    def _logged_in(self, credentials: Credentials) -> bool:
        fresh = self._authorization and time.monotonic() < self._renew_at
        return bool(fresh) and credentials.share_token(self._owner)

    def _login(self, credentials: Credentials) -> bool:
        """Log in; False where others were adopted while these were refused."""
        account = self._account(credentials)
        refusal = self._refusal
        again = refusal if refusal and refusal.concerns(account) else None
        now = time.time()
        # Workers that were under way when the login was refused must not try again,
        # nor must another run: upstream locks an account after five failures.
        if again and again.wait_s(now) > 0:
            raise again.trouble(now, asked=False)
        try:
            answer = self._ask(credentials)
        except DeliveryError as trouble:
            if trouble.code is not Code.CREDENTIALS:
                self._failed = trouble.copy()
                raise
            if again is None:
                log.error(  # noqa: TRY400  an answer, no traceback
                    "auth.refused", error=trouble.code, reason=trouble.reason
                )
            now = time.time()
            refusal = LoginLockout.of(account, trouble.reason, now, again)
            self._remember(refusal)
            if credentials is not self._credentials:
                return False
            self._failed = refusal.trouble(now, asked=True)
            raise self._failed.copy() from trouble
        self._remember(None)
        self._authorization = f"{credentials.scheme} {answer['access_token']}"
        self._owner = credentials
        self.lifetime_s = lifetime_s = _seconds(answer.get("expires_in"))
        # Renewed before it ends, so that no request is wasted on a token just dead.
        self._renew_at = time.monotonic() + lifetime_s - min(60.0, lifetime_s / 5)
        log.info("auth.renewed", lifetime_s=lifetime_s)
        return True

    def _account(self, credentials: Credentials) -> bytes:
        parts = [self._url, credentials.username, credentials.secret()]
        return json.dumps(parts).encode()

    def _remember(self, refusal: LoginLockout | None) -> None:
        if refusal is None and self._refusal is None:
            return
        self._refusal = refusal
        if self._memory is not None:
            # Without room in the journal the next run knows nothing of it.
            with suppress(JournalFull):
                self._memory.note("login", refusal.fact() if refusal else None)

    def _ask(self, credentials: Credentials) -> dict[str, object]:
        body = {"username": credentials.username, "password": credentials.secret()}
        answer = post_json(self._wire, RequestKind.LOGIN, f"{self._url}/auth", body, {})
        trouble = api_trouble(
            RequestKind.LOGIN, answer.status, answer.headers, answer.body
        )
        if trouble is not None:
            raise trouble
        try:
            fields = json.loads(answer.body)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict) and isinstance(fields.get("access_token"), str):
            return fields
        if isinstance(fields, dict) and "error" in fields:
            # Upstream passes Keycloak's refusal on with HTTP 200.
            said = str(fields.get("error_description") or fields["error"])[:200]
            raise _refused(Code.CREDENTIALS, f"the login says: {said}")
        raise _refused(Code.MALFORMED_ANSWER, "the login's answer has no token")


def post_json(
    wire: HttpClient,
    request: RequestKind,
    url: str,
    body: object,
    headers: dict[str, str],
) -> Response:
    """Send one request to the API. Raises `DeliveryError` where no answer came."""
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    try:
        return wire.post(url, content, headers, limit_bytes=grants.ANSWER_MAX_BYTES)
    except TransportError as error:
        raise transport_error(
            request, error.how, str(error), body_sent=False
        ) from error
    except Stopped as error:
        raise interrupted(ambiguous=False) from error


def interrupted(*, ambiguous: bool) -> DeliveryError:
    """Return the trouble of an attempt that the daemon's stop has ended."""
    return DeliveryError(
        Decision.INTERRUPT,
        Code.CONNECTION_LOST,
        "the daemon is stopping",
        ambiguous=ambiguous,
    )


def _refused(code: Code, reason: str) -> DeliveryError:
    return DeliveryError(Decision.PAUSE, code, reason, stage=Stage.LOGIN)


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and value > 0:
        return float(min(value, TOKEN_LONGEST_S))
    return TOKEN_LIFETIME_S
