"""The emission protocol: log in, ask for a grant, post the file to the bucket.

One call is one attempt. A failure raises `DeliveryError`, which says what happens to the entry. A
call never waits longer than its time limits. Source: cQube's views.py and client.py, versions 1.0
to 4.1.
"""

import time
from contextlib import closing
from typing import IO

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from emitterd.client import grant as grants
from emitterd.client.body import Body, OnSent
from emitterd.client.grant import EXPIRY_MARGIN_S
from emitterd.client.http import HttpClient, Response
from emitterd.client.lookup import FIRST_BYTE, NotConfirmed, StoredObject, stored
from emitterd.client.responses import (
    RequestKind,
    api_error,
    as_delivery_errors,
    bucket_error,
    etag_of,
    http_date,
    is_stale,
)
from emitterd.client.server_reader import ServerReader
from emitterd.client.session import Credentials, LockoutStore, Session, send_json
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Confirmation, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown

BUCKET_ANSWER_MAX_BYTES = 64 * 1024
# The other redirects turn a POST into a GET: RFC 9110, section 15.4.
REDIRECTS = frozenset({307, 308})
TRIES = 3
"""How often one request to the API is sent, within seconds, where it fails briefly."""

_BRIEF = frozenset({Code.API_TROUBLE, Code.CONNECTION_LOST})
_NO_URL = frozenset(
    {Code.FORBIDDEN, Code.NOT_AN_EMISSION_API, Code.TOKEN_REFUSED}
    | {Code.REQUEST_REFUSED, Code.MALFORMED_ANSWER}
)
"""How an API refuses `download_url`: it has none (cQube 1.0), not for this user (1.1 to 1.6), or
not for this key."""


class EmissionClient:
    """The emission API and its bucket. Thread-safe."""

    def __init__(
        self,
        http: HttpClient,
        url: str,
        credentials: Credentials,
        *,
        insecure: bool,
        shutdown: Shutdown,
        lockouts: LockoutStore | None = None,
    ) -> None:
        """Send nothing yet.

        `insecure` allows a grant over http from an API over https. `lockouts` keeps refused logins
        from run to run, so that a restart does not try them again.
        """
        self._http = http
        self._url = url.rstrip("/")
        self._insecure = insecure
        self._session = Session(http, self._url, credentials, lockouts)
        self.reader = ServerReader(http, self._url, self._ask_once, insecure=insecure)
        """Reads with the same session what became of uploaded files."""
        self._retrying = Retrying(
            # Both for `shutdown.now`: once it is set, `sleep_using_event` waits no more, and
            # without the stop all tries would follow at once.
            stop=stop_any(stop_after_attempt(TRIES), stop_when_event_set(shutdown.now)),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception(_is_brief),
            sleep=sleep_using_event(shutdown.now),
            reraise=True,
        )

    def apply_credentials(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they differ."""
        return self._session.apply_credentials(credentials)

    def close_thread(self) -> None:
        """Close the connections of this thread, which delivers no more."""
        self._http.close_thread()

    def lockout(self, now: float) -> DeliveryError | None:
        """Return why emitterd does not log in now, where a login was refused before."""
        return self._session.lockout(now)

    def usable(self, grant: Grant, now: float) -> bool:
        """Return whether a pinned grant is this API's and is valid long enough."""
        # After a change of `emission.url` a grant may lead to the former server.
        return grant.issuer == self._url and now <= grant.expires_at - EXPIRY_MARGIN_S

    def login(self) -> float | None:
        """Log in if necessary, in a single try; return the token's lifetime.

        In seconds; None for an API key, which needs no login. Raises `DeliveryError`.
        """
        self._session.authorization()
        return self._session.lifetime_s

    def grant(self, path: bytes) -> Grant:
        """Ask for a grant. Raises `DeliveryError`."""
        name = grants.remote_name(path)
        # The key contains the name. The answer for a path of 200 kB would be too long, which looks
        # like a fault of the server.
        grants.check_key(name)
        answer = self._ask(RequestKind.GRANT, {"filename": name})
        if not answer.whole:
            raise grants.malformed("it is too long")
        return grants.parse(
            answer.body,
            api_url=self._url,
            insecure=self._insecure,
            now=time.time(),
            served_at=http_date(answer.headers.get("date", "")),
        )

    def deliver(
        self, grant: Grant, file: IO[bytes], fingerprint: Fingerprint, on_sent: OnSent | None = None
    ) -> Receipt:
        """Post the file to its pinned key and return the bucket's receipt.

        `on_sent` is called with the size in bytes of each part that a socket took: of the file, and
        of the form around it. Raises `DeliveryError`, and `FileError` if the file changed
        meanwhile.
        """
        try:
            return self._deliver(grant, file, fingerprint, on_sent)
        except DeliveryError as error:
            if not is_stale(error):
                raise
            ambiguous = error.ambiguous
        # Neither the file nor the bucket failed: the idle connection had ended.
        try:
            return self._deliver(grant, file, fingerprint, on_sent)
        except DeliveryError as error:
            error.ambiguous = error.ambiguous or ambiguous
            raise

    def _deliver(
        self, grant: Grant, file: IO[bytes], fingerprint: Fingerprint, on_sent: OnSent | None
    ) -> Receipt:
        def post(url: str) -> tuple[Response, Body]:
            # A redirect sends the whole body again.
            file.seek(0)
            body = Body(file, fingerprint, grant.fields, on_sent=on_sent)
            with as_delivery_errors(RequestKind.BUCKET, body), closing(body):
                return self._http.request(
                    "POST", url, {}, body, limit_bytes=BUCKET_ANSWER_MAX_BYTES
                ), body

        answer, body = post(grant.url)
        if answer.status in REDIRECTS:
            location = answer.headers.get("location", "")
            target = grants.redirected(
                grant.url, location, api_url=self._url, insecure=self._insecure
            )
            # Once: `bucket_error` refuses a second redirect.
            answer, body = post(target)
        error = bucket_error(answer.status, answer.headers, answer.body, grant.fields)
        if error is not None:
            raise error
        self.reader.bucket_url = grant.url
        return _receipt(grant, answer, body, fingerprint)

    def look_up(self, grant: Grant) -> StoredObject:
        """Return the object that the bucket has under a grant's key.

        Raises `NotConfirmed` if there is none, or if this cannot be found out, and `DeliveryError`
        if a later attempt may succeed.
        """
        answer = self._ask_download(grant)
        try:
            url = grants.download_url(
                answer.body, near=grant.url, api_url=self._url, insecure=self._insecure
            )
        except DeliveryError as error:
            raise _unknown(f"download_url: {error.reason}") from error
        with as_delivery_errors(RequestKind.BUCKET):
            answer = self._http.request("GET", url, FIRST_BYTE, limit_bytes=BUCKET_ANSWER_MAX_BYTES)
        return stored(answer.status, answer.headers, answer.body)

    def _ask_download(self, grant: Grant) -> Response:
        bucket = grants.bucket(grant)
        if grant.issuer != self._url or bucket is None:
            raise _unknown("the grant is not of this API, or names no bucket")
        body = {"filename": grant.key, "bucket": bucket}
        try:
            answer = self._ask(RequestKind.DOWNLOAD, body)
        except DeliveryError as error:
            if error.code not in _NO_URL:
                raise
            raise _unknown(error.reason) from error
        if not answer.whole:
            raise _unknown("the answer to download_url is too long")
        return answer

    def _ask(self, request: RequestKind, body: dict[str, str]) -> Response:
        """Ask the API; retry brief failures. Raises `DeliveryError`."""
        return self._retrying.copy()(self._ask_once, request, body)

    def _ask_once(
        self,
        request: RequestKind,
        body: dict[str, str] | None,
        limit_bytes: int = grants.ANSWER_MAX_BYTES,
        *,
        renew: bool = True,
    ) -> Response:
        authorization = self._session.authorization()
        headers = {"Authorization": authorization}
        url = f"{self._url}/{request}"
        answer = send_json(self._http, request, url, body, headers, limit_bytes)
        error = api_error(request, answer.status, answer.headers, answer.body)
        if error is None:
            return answer
        if error.decision is not Decision.RENEW_TOKEN:
            raise error
        self._session.expire(authorization)
        # A token may end early, as when the server restarts: log in again, once.
        if renew and self._session.renewable:
            return self._ask_once(request, body, limit_bytes, renew=False)
        raise DeliveryError(Decision.PAUSE, Code.TOKEN_REFUSED, error.reason)


def _receipt(grant: Grant, answer: Response, body: Body, fingerprint: Fingerprint) -> Receipt:
    # The object cannot have bytes that were never sent.
    if not body.sent:
        raise DeliveryError(
            Decision.DEFER, Code.CONNECTION_LOST, "the bucket answered before it had the whole body"
        )
    etag, md5 = etag_of(answer.headers)
    # Ambiguous: an object with other bytes exists. The retry overwrites it.
    if md5 is not None and md5 != body.hashing.md5.hex():
        raise DeliveryError(
            Decision.DEFER,
            Code.ETAG_MISMATCH,
            f"sent bytes of MD5 {body.hashing.md5.hex()}, the bucket says {etag}",
            ambiguous=True,
        )
    return Receipt(
        key=grant.key,
        etag=etag,
        size_bytes=fingerprint.size_bytes,
        md5=body.hashing.md5,
        sha256=body.hashing.sha256,
        verified=md5 is not None,
    )


def _unknown(reason: str) -> NotConfirmed:
    return NotConfirmed(Confirmation.UNKNOWN, reason)


def _is_brief(error: BaseException) -> bool:
    # A server that names a time in `Retry-After` does not want a retry in seconds.
    return isinstance(error, DeliveryError) and error.code in _BRIEF and error.retry_after_s is None
