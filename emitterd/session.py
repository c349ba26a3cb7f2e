"""The login and its token, shared by all workers; and how the API is asked.

Source: cQube's views.py, versions 1.0 to 4.1.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from emitterd import grant as grants
from emitterd.classify import Stage, api_trouble, broken
from emitterd.codes import Code
from emitterd.destination import LOGIN_FLOOR_S
from emitterd.errors import Trouble, Verdict
from emitterd.pulse import beat
from emitterd.sockets import POLL_S, Broken, Stopped
from emitterd.wire import Answer, Wire

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


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A login that was refused: of whom, in which words, and when (monotonic)."""

    credentials: Credentials
    reason: str
    at: float


class Session:
    """The token, shared by all workers: one login at a time. Thread-safe."""

    def __init__(self, wire: Wire, url: str, credentials: Credentials) -> None:
        self._wire = wire
        self._url = url
        self._credentials = credentials
        self._lock = threading.Lock()
        self._authorization = ""
        self._owner = credentials
        self._renew_at = 0.0
        self._refusal: _Refusal | None = None
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

        Raises `Trouble` where the login fails.
        """
        while True:
            credentials = self._credentials
            if credentials.username is None:
                return f"{credentials.scheme} {credentials.secret()}"
            with self._alone():
                if self._logged_in(credentials) or self._login(credentials):
                    return self._authorization

    def expire(self, authorization: str) -> None:
        """Drop the token that was refused, unless another replaced it meanwhile."""
        with self._alone():
            if authorization == self._authorization:
                self._authorization = ""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock. Who waits for another's slow login is at no standstill."""
        while not self._lock.acquire(timeout=POLL_S):
            beat()
        try:
            yield
        finally:
            self._lock.release()

    def _logged_in(self, credentials: Credentials) -> bool:
        fresh = self._authorization and time.monotonic() < self._renew_at
        return bool(fresh) and credentials.share_token(self._owner)

    def _login(self, credentials: Credentials) -> bool:
        """Log in; False where others were adopted while these were refused."""
        before = self._refusal
        again = before is not None and before.credentials is credentials
        # Workers that were under way when the login was refused must not try again:
        # upstream locks an account after five failures.
        if before and again and time.monotonic() < before.at + LOGIN_FLOOR_S / 2:
            raise Trouble(Verdict.PARK, Code.CREDENTIALS, before.reason)
        try:
            answer = self._ask(credentials)
        except Trouble as trouble:
            if trouble.code is not Code.CREDENTIALS:
                raise
            if not again:
                log.error(  # noqa: TRY400  an answer, no traceback
                    "auth.refused", error=trouble.code, reason=trouble.reason
                )
            self._refusal = _Refusal(credentials, trouble.reason, time.monotonic())
            if credentials is not self._credentials:
                return False
            raise
        self._refusal = None
        self._authorization = f"{credentials.scheme} {answer['access_token']}"
        self._owner = credentials
        self.lifetime_s = lifetime_s = _seconds(answer.get("expires_in"))
        # Renewed before it ends, so that no request is wasted on a token just dead.
        self._renew_at = time.monotonic() + lifetime_s - min(60.0, lifetime_s / 5)
        log.info("auth.renewed", lifetime_s=lifetime_s)
        return True

    def _ask(self, credentials: Credentials) -> dict[str, object]:
        body = {"username": credentials.username, "password": credentials.secret()}
        answer = post_json(self._wire, Stage.LOGIN, f"{self._url}/auth", body, {})
        trouble = api_trouble(Stage.LOGIN, answer.status, answer.headers, answer.body)
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
            raise Trouble(Verdict.PARK, Code.CREDENTIALS, f"the login says: {said}")
        raise Trouble(
            Verdict.PARK, Code.MALFORMED_ANSWER, "the login's answer has no token"
        )


def post_json(
    wire: Wire, stage: Stage, url: str, body: object, headers: dict[str, str]
) -> Answer:
    """Send one request to the API. Raises `Trouble` where no answer came."""
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    try:
        return wire.post(url, content, headers, limit_bytes=grants.ANSWER_MAX_BYTES)
    except Broken as error:
        raise broken(stage, error.how, str(error), body_sent=False) from error
    except Stopped as error:
        raise interrupted(ambiguous=False) from error


def interrupted(*, ambiguous: bool) -> Trouble:
    """Return the trouble of an attempt that the daemon's stop has ended."""
    return Trouble(
        Verdict.INTERRUPT,
        Code.CONNECTION_LOST,
        "the daemon is stopping",
        ambiguous=ambiguous,
    )


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and value > 0:
        return float(min(value, TOKEN_LONGEST_S))
    return TOKEN_LIFETIME_S
