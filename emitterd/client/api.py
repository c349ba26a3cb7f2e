"""The emission protocol: log in, ask for a grant, post the file to the bucket.

One attempt a call. What fails raises `DeliveryError`, which says what the journal
should do; what lasts longer than seconds is never waited for here.
Source: cQube's views.py and client.py, versions 1.0 to 4.1.
"""

import time
from collections.abc import Callable
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
from emitterd.client.body import Body
from emitterd.client.grant import EXPIRY_MARGIN_S
from emitterd.client.http import HttpClient, Response
from emitterd.client.lookup import FIRST_BYTE, NotConfirmed, StoredObject, stored
from emitterd.client.responses import (
    RequestKind,
    api_trouble,
    bucket_trouble,
    etag_of,
    http_date,
    transport_error,
)
from emitterd.client.session import (
    Credentials,
    LockoutStore,
    Session,
    interrupted,
    post_json,
)
from emitterd.client.sockets import Stopped, TransportError
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Confirmation, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown

BUCKET_ANSWER_MAX_BYTES = 64 * 1024
REDIRECTS = frozenset({307, 308})
ATTEMPTS = 3
_BLIPS = frozenset({Code.API_TROUBLE, Code.CONNECTION_LOST})
_NOT_ALLOWED = frozenset({Code.FORBIDDEN, Code.NOT_AN_EMISSION_API, Code.TOKEN_REFUSED})
"""What an API says to `download_url` that has it not (cQube 1.0), or not for this
user (1.1 to 1.6)."""

_NO_URL = frozenset({Code.REQUEST_REFUSED, Code.MALFORMED_ANSWER})


class EmissionClient:
    """The way to the bucket. Thread-safe."""

    def __init__(
        self,
        wire: HttpClient,
        url: str,
        credentials: Credentials,
        *,
        insecure: bool,
        shutdown: Shutdown,
        memory: LockoutStore | None = None,
    ) -> None:
        """Make ready; `insecure` allows a grant over http from an API over https.

        `memory`: where refused logins are kept from run to run, so that they wait.
        """
        self._wire = wire
        self._url = url.rstrip("/")
        self._insecure = insecure
        self._session = Session(wire, self._url, credentials, memory)
        self._shows_nothing = ""
        self._retrying = Retrying(
            stop=stop_any(
                stop_after_attempt(ATTEMPTS), stop_when_event_set(shutdown.now)
            ),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception(_blip),
            sleep=sleep_using_event(shutdown.now),
            reraise=True,
        )

    def adopt(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they are others."""
        others = self._session.adopt(credentials)
        if others:
            self._shows_nothing = ""
        return others

    def leave(self) -> None:
        """Close the connections of this thread, which delivers no more."""
        self._wire.leave()

    def refused(self, now: float) -> DeliveryError | None:
        """Return why no login is tried now, where one was refused not long ago."""
        return self._session.refused(now)

    def usable(self, grant: Grant, now: float) -> bool:
        """Tell whether a pinned grant is this API's and holds long enough."""
        return grant.issuer == self._url and now <= grant.expires_at - EXPIRY_MARGIN_S

    def login(self) -> float | None:
        """Log in where that is due, in a single try; return the token's lifetime.

        In seconds; None for an API key, which needs no login. Raises `DeliveryError`.
        """
        self._session.authorization()
        return self._session.lifetime_s

    def grant(self, path: bytes) -> Grant:
        """Ask for a grant. Raises `DeliveryError`."""
        answer = self._ask(RequestKind.GRANT, {"filename": grants.remote_name(path)})
        if not answer.whole:
            raise DeliveryError(
                Decision.PAUSE,
                Code.MALFORMED_ANSWER,
                "the answer to upload-url is huge",
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
        `DeliveryError`, and `SourceError` where the file changed meanwhile.
        """
        file.seek(0)
        body = Body(file, fingerprint, grant.fields, on_sent=on_sent)
        answer = self._post_body(grant.url, body)
        if answer.status in REDIRECTS:
            location = grants.joined(grant.url, answer.headers.get("location", ""))
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

    def look_up(self, grant: Grant) -> StoredObject:
        """Return what the bucket has under a grant's key.

        Raises `NotConfirmed` where it has nothing, or where that cannot be asked:
        which is remembered if the API gives nobody, or not this user, a url. Raises
        `DeliveryError` where it may be asked later.
        """
        url = self._download_url(grant)
        try:
            grants.check_url(url, api_url=self._url, insecure=self._insecure)
        except DeliveryError as trouble:
            raise _unknown(f"download_url: {trouble.reason}") from trouble
        if not grants.related(url, grant.url):
            raise _unknown("download_url: its url leads to another place than the POST")
        try:
            answer = self._wire.get(
                url, FIRST_BYTE, limit_bytes=BUCKET_ANSWER_MAX_BYTES
            )
        except TransportError as error:
            raise transport_error(
                RequestKind.BUCKET, error.how, str(error), body_sent=False
            ) from error
        except Stopped as error:
            raise interrupted(ambiguous=False) from error
        return stored(answer.status, answer.headers, answer.body)

    def _download_url(self, grant: Grant) -> str:
        bucket = grants.bucket(grant)
        if grant.issuer != self._url or bucket is None:
            raise _unknown("the grant is not of this API, or names no bucket")
        if self._shows_nothing:
            raise _unknown(self._shows_nothing)
        body = {"filename": grant.key, "bucket": bucket}
        try:
            answer = self._ask(RequestKind.DOWNLOAD, body)
        except DeliveryError as trouble:
            if trouble.code in _NOT_ALLOWED:
                self._shows_nothing = trouble.reason
            elif trouble.code not in _NO_URL:
                raise
            raise _unknown(trouble.reason) from trouble
        if not answer.whole:
            raise _unknown("the answer to download_url is huge")
        # The whole answer is the url; upstream labels it as HTML.
        return answer.body.decode("ascii", "replace").strip()

    def _ask(self, request: RequestKind, body: dict[str, str]) -> Response:
        """Ask the API; retry for some seconds. Raises `DeliveryError`."""
        return self._retrying.copy()(self._ask_once, request, body)

    def _ask_once(self, request: RequestKind, body: dict[str, str]) -> Response:
        answer, trouble = self._try(request, body)
        if trouble is not None and trouble.decision is Decision.RENEW_TOKEN:
            if self._session.renewable:
                answer, trouble = self._try(request, body)
            if trouble is not None and trouble.decision is Decision.RENEW_TOKEN:
                raise DeliveryError(Decision.PAUSE, Code.TOKEN_REFUSED, trouble.reason)
        if trouble is not None:
            raise trouble
        return answer

    def _try(
        self, request: RequestKind, body: dict[str, str]
    ) -> tuple[Response, DeliveryError | None]:
        authorization = self._session.authorization()
        answer = post_json(
            self._wire,
            request,
            f"{self._url}/{request}",
            body,
            {"Authorization": authorization},
        )
        trouble = api_trouble(request, answer.status, answer.headers, answer.body)
        if trouble is not None and trouble.decision is Decision.RENEW_TOKEN:
            self._session.expire(authorization)
        return answer, trouble

    def _post_body(self, url: str, body: Body) -> Response:
        try:
            with closing(body):
                return self._wire.post(
                    url, body, {}, limit_bytes=BUCKET_ANSWER_MAX_BYTES
                )
        except TransportError as error:
            raise transport_error(
                RequestKind.BUCKET, error.how, str(error), body_sent=body.sent
            ) from error
        except Stopped as error:
            raise interrupted(ambiguous=body.sent) from error


def _receipt(
    grant: Grant, answer: Response, body: Body, fingerprint: Fingerprint
) -> Receipt:
    if not body.sent:
        raise DeliveryError(
            Decision.DEFER,
            Code.CONNECTION_LOST,
            "the bucket answered before it had the whole body",
        )
    etag, md5 = etag_of(answer.headers)
    if md5 is not None and md5 != body.md5.hex():
        raise DeliveryError(
            Decision.DEFER,
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
        verified=md5 is not None,
    )


def _unknown(reason: str) -> NotConfirmed:
    return NotConfirmed(Confirmation.UNKNOWN, reason)


def _blip(error: BaseException) -> bool:
    return (
        isinstance(error, DeliveryError)
        and error.code in _BLIPS
        and error.retry_after_s is None
    )
