"""The emission protocol: log in, ask for a grant, post the file to the bucket.

One attempt a call. What fails raises `Trouble`, which says what the journal should
do; what lasts longer than seconds is never waited for here.
Source: cQube's views.py and client.py, versions 1.0 to 4.1.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO
from urllib.parse import urljoin

import structlog
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from emitterd import grant as grants
from emitterd.classify import Stage, api_trouble, broken, bucket_trouble, http_date
from emitterd.codes import Code
from emitterd.destination import LOGIN_FLOOR_S
from emitterd.entry import Grant, Receipt
from emitterd.errors import Trouble, Verdict
from emitterd.fingerprint import Fingerprint
from emitterd.grant import EXPIRY_MARGIN_S
from emitterd.multipart import Body
from emitterd.sockets import Broken, Stopped
from emitterd.wire import Answer, Wire

TOKEN_LIFETIME_S = 300.0
"""Where the login does not say: Flask-JWT's default, which cQube 1.0 has."""

TOKEN_LONGEST_S = 365 * 86400.0
"""As good as for ever; what a login says may be any number."""

BUCKET_ANSWER_MAX_BYTES = 64 * 1024
REDIRECTS = frozenset({307, 308})
ATTEMPTS = 3
_BLIPS = frozenset({Code.API_TROUBLE, Code.CONNECTION_LOST})
_SEALED = "x-amz-server-side-encryption"
_SEALED_BY_CUSTOMER = f"{_SEALED}-customer-algorithm"
_MD5 = re.compile(r"[0-9a-f]{32}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in; without `username` the secret is a static API key.

    `secret` is called at the moment of use, so that the text is kept nowhere else.
    """

    username: str | None
    secret: Callable[[], str]
    scheme: str


class Session:
    """The token, shared by all workers: one login at a time. Thread-safe."""

    def __init__(self, wire: Wire, url: str, credentials: Credentials) -> None:
        self._wire = wire
        self._url = url
        self._credentials = credentials
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._refused = ""
        self._refused_at = 0.0
        self.lifetime_s: float | None = None
        """How long the last token lives, in seconds; None for an API key."""

    @property
    def renewable(self) -> bool:
        """Whether a refused token can be replaced by logging in again."""
        return self._credentials.username is not None

    def authorization(self) -> str:
        """Return the Authorization header, logging in where that is due.

        Raises `Trouble` where the login fails.
        """
        if not self.renewable:
            return f"{self._credentials.scheme} {self._credentials.secret()}"
        with self._lock:
            if not self._token or time.monotonic() >= self._renew_at:
                self._login()
            return f"{self._credentials.scheme} {self._token}"

    def expire(self, authorization: str) -> None:
        """Drop the token that was refused, unless another replaced it meanwhile."""
        with self._lock:
            if authorization == f"{self._credentials.scheme} {self._token}":
                self._token = ""

    def _login(self) -> None:
        # Workers that were under way when the login was refused must not try again:
        # upstream locks an account after five failures.
        if self._refused and time.monotonic() < self._refused_at + LOGIN_FLOOR_S / 2:
            raise Trouble(Verdict.PARK, Code.CREDENTIALS, self._refused)
        try:
            answer = self._ask()
        except Trouble as trouble:
            if trouble.code is Code.CREDENTIALS:
                if not self._refused:
                    log.error(  # noqa: TRY400  an answer, no traceback
                        "auth.refused", error=trouble.code, reason=trouble.reason
                    )
                self._refused, self._refused_at = trouble.reason, time.monotonic()
            raise
        self._refused = ""
        self._token = str(answer["access_token"])
        self.lifetime_s = lifetime_s = _seconds(answer.get("expires_in"))
        # Renewed before it ends, so that no request is wasted on a token just dead.
        self._renew_at = time.monotonic() + lifetime_s - min(60.0, lifetime_s / 5)
        log.info("auth.renewed", lifetime_s=lifetime_s)

    def _ask(self) -> dict[str, object]:
        body = {
            "username": self._credentials.username,
            "password": self._credentials.secret(),
        }
        answer = _post_json(self._wire, Stage.LOGIN, f"{self._url}/auth", body, {})
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


class Emission:
    """The way to the bucket. Thread-safe."""

    def __init__(
        self,
        wire: Wire,
        url: str,
        credentials: Credentials,
        *,
        insecure: bool,
        stop: threading.Event,
    ) -> None:
        """Make ready; `insecure` allows a grant over http from an API over https."""
        self._wire = wire
        self._url = url.rstrip("/")
        self._insecure = insecure
        self._session = Session(wire, self._url, credentials)
        self._retrying = Retrying(
            stop=stop_any(stop_after_attempt(ATTEMPTS), stop_when_event_set(stop)),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception(_blip),
            sleep=sleep_using_event(stop),
            reraise=True,
        )

    def usable(self, grant: Grant, now: float) -> bool:
        """Tell whether a pinned grant is this API's and holds long enough."""
        return grant.issuer == self._url and now <= grant.expires_at - EXPIRY_MARGIN_S

    def login(self) -> float | None:
        """Log in where that is due, in a single try; return the token's lifetime.

        In seconds; None for an API key, which needs no login. Raises `Trouble`.
        """
        self._session.authorization()
        return self._session.lifetime_s

    def grant(self, path: bytes) -> Grant:
        """Ask for a grant. Raises `Trouble`."""
        body = {"filename": grants.remote_name(path)}
        answer = self._retrying.copy()(self._ask_grant, body)
        if not answer.whole:
            raise Trouble(
                Verdict.PARK, Code.MALFORMED_ANSWER, "the answer to upload-url is huge"
            )
        return grants.parse(
            answer.body,
            api_url=self._url,
            insecure=self._insecure,
            now=time.time(),
            served_at=http_date(answer.headers.get("date", "")),
        )

    def deliver(
        self,
        grant: Grant,
        file: IO[bytes],
        fingerprint: Fingerprint,
        on_sent: Callable[[int], None] | None = None,
    ) -> Receipt:
        """Post the file to its pinned key and return the bucket's receipt.

        `on_sent` is told the size in bytes of each chunk that went out. Raises
        `Trouble`, and `SourceError` where the file changed meanwhile.
        """
        file.seek(0)
        body = Body(file, fingerprint, grant.fields, on_sent=on_sent)
        answer = self._post_body(grant.url, body)
        if answer.status in REDIRECTS:
            location = urljoin(grant.url, answer.headers.get("location", ""))
            grants.refuse_redirect(
                location, url=grant.url, api_url=self._url, insecure=self._insecure
            )
            file.seek(0)
            body = Body(file, fingerprint, grant.fields, on_sent=on_sent)
            answer = self._post_body(location, body)
        trouble = bucket_trouble(answer.status, answer.headers, answer.body)
        if trouble is not None:
            raise trouble
        return _receipt(grant, answer, body, fingerprint)

    def _ask_grant(self, body: dict[str, str]) -> Answer:
        answer, trouble = self._try_grant(body)
        if trouble is not None and trouble.verdict is Verdict.RENEW_TOKEN:
            if self._session.renewable:
                answer, trouble = self._try_grant(body)
            if trouble is not None and trouble.verdict is Verdict.RENEW_TOKEN:
                raise Trouble(Verdict.PARK, Code.TOKEN_REFUSED, trouble.reason)
        if trouble is not None:
            raise trouble
        return answer

    def _try_grant(self, body: dict[str, str]) -> tuple[Answer, Trouble | None]:
        authorization = self._session.authorization()
        answer = _post_json(
            self._wire,
            Stage.GRANT,
            f"{self._url}/upload-url",
            body,
            {"Authorization": authorization},
        )
        trouble = api_trouble(Stage.GRANT, answer.status, answer.headers, answer.body)
        if trouble is not None and trouble.verdict is Verdict.RENEW_TOKEN:
            self._session.expire(authorization)
        return answer, trouble

    def _post_body(self, url: str, body: Body) -> Answer:
        try:
            return self._wire.post(url, body, {}, limit_bytes=BUCKET_ANSWER_MAX_BYTES)
        except Broken as error:
            raise broken(
                Stage.BUCKET, error.how, str(error), body_sent=body.sent
            ) from error
        except Stopped as error:
            raise _interrupted(ambiguous=body.sent) from error


def _post_json(
    wire: Wire, stage: Stage, url: str, body: object, headers: dict[str, str]
) -> Answer:
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    try:
        return wire.post(url, content, headers, limit_bytes=grants.ANSWER_MAX_BYTES)
    except Broken as error:
        raise broken(stage, error.how, str(error), body_sent=False) from error
    except Stopped as error:
        raise _interrupted(ambiguous=False) from error


def _receipt(
    grant: Grant, answer: Answer, body: Body, fingerprint: Fingerprint
) -> Receipt:
    if not body.sent:
        raise Trouble(
            Verdict.DEFER,
            Code.CONNECTION_LOST,
            "the bucket answered before it had the whole body",
        )
    etag = answer.headers["etag"].removeprefix("W/").strip('"')
    # With a key of KMS or of the customer's the ETag is no MD5, however it looks.
    sealed = _SEALED_BY_CUSTOMER in answer.headers or answer.headers.get(
        _SEALED, ""
    ).startswith("aws:kms")
    verified = not sealed and _MD5.fullmatch(etag.lower()) is not None
    if verified and etag.lower() != body.md5.hex():
        raise Trouble(
            Verdict.DEFER,
            Code.ETAG_MISMATCH,
            f"sent bytes of MD5 {body.md5.hex()}, the bucket says {etag}",
            ambiguous=True,
        )
    return Receipt(
        key=grant.key,
        etag=etag,
        size_bytes=fingerprint.size_bytes,
        md5=body.md5,
        sha256=body.sha256,
        verified=verified,
    )


def _interrupted(*, ambiguous: bool) -> Trouble:
    return Trouble(
        Verdict.INTERRUPT,
        Code.CONNECTION_LOST,
        "the daemon is stopping",
        ambiguous=ambiguous,
    )


def _blip(error: BaseException) -> bool:
    return (
        isinstance(error, Trouble)
        and error.code in _BLIPS
        and error.retry_after_s is None
    )


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and value > 0:
        return float(min(value, TOKEN_LONGEST_S))
    return TOKEN_LIFETIME_S
