"""The emission protocol: log in, ask for a grant, post the file to the bucket.

Source: cQube's views.py and client.py, versions 1.0 to 4.1.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import IO

from emitterd.client.api import ApiClient
from emitterd.client.body import Body, MayFinish, OnSent
from emitterd.client.emission import Digests, NotConfirmed
from emitterd.client.http import HttpClient, Response
from emitterd.client.presigned import grant as grants
from emitterd.client.presigned.grant import EXPIRY_MARGIN_S
from emitterd.client.presigned.login import password_login
from emitterd.client.presigned.lookup import FIRST_BYTE, StoredObject, stored
from emitterd.client.responses import (
    RequestKind,
    as_delivery_errors,
    bucket_error,
    etag_of,
    http_date,
    resend_if_stale,
)
from emitterd.client.server_reader import ServerReader
from emitterd.client.session import Credentials, LockoutStore, Session
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.model import Confirmation, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown

BUCKET_ANSWER_MAX_BYTES = 64 * 1024
# The other redirects turn a POST into a GET: RFC 9110, section 15.4.
REDIRECTS = frozenset({307, 308})

_NO_URL = frozenset(
    {Code.FORBIDDEN, Code.NOT_AN_EMISSION_API, Code.TOKEN_REFUSED}
    | {Code.REQUEST_REFUSED, Code.MALFORMED_ANSWER}
)
"""How an API refuses `download_url`: it has none (cQube 1.0), not for this user (1.1 to 1.6), or
not for this key."""


class PresignedClient(ApiClient):
    """The emission API and its bucket. Thread-safe."""

    steps: Mapping[Stage, str] = {
        Stage.LOGIN: "login",
        Stage.GRANT: "grant",
        Stage.BUCKET: "bucket",
    }

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
        """Send nothing yet. The arguments are those of `open_client`."""
        url = url.rstrip("/")
        session = Session(url, credentials, password_login(http, url), lockouts)
        super().__init__(http, url, session, shutdown)
        self._insecure = insecure
        self.reader = ServerReader(http, url, self._ask_once, insecure=insecure)
        """Reads with the same session what became of uploaded files."""

    def usable(self, grant: Grant, now: float) -> bool:
        """Return whether a pinned grant is this API's and is valid long enough."""
        # After a change of `emission.url` a grant may lead to the former server.
        return grant.issuer == self._url and now <= grant.expires_at - EXPIRY_MARGIN_S

    def exclusive(
        self,
        path: bytes,  # noqa: ARG002
        unconfirmed: Callable[[], Collection[bytes]],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Let all attempts run at once: each has an object key of its own."""
        return nullcontext()

    def check_alone(
        self, grant: Grant, path: bytes, unconfirmed: Callable[[], Collection[bytes]]
    ) -> None:
        """Do nothing, as `exclusive`."""

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
            now=self._session.now(),
            served_at=http_date(answer.headers.get("date", "")),
        )

    def deliver(
        self,
        grant: Grant,
        file: IO[bytes],
        fingerprint: Fingerprint,
        on_sent: OnSent | None = None,
        may_finish: MayFinish | None = None,
    ) -> Receipt:
        """Post the file to its pinned key, as `EmissionClient.deliver`."""

        def new_body() -> Body:
            # A redirect, or another connection, sends the whole body again.
            file.seek(0)
            return Body(file, fingerprint, grant.fields, on_sent=on_sent, may_finish=may_finish)

        receipt, ambiguous = resend_if_stale(lambda: self._deliver(grant, new_body, fingerprint))
        return replace(receipt, ambiguous=ambiguous)

    def _deliver(
        self, grant: Grant, new_body: Callable[[], Body], fingerprint: Fingerprint
    ) -> Receipt:
        def post(url: str) -> tuple[Response, Body]:
            body = new_body()
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

    def look_up(self, grant: Grant, path: bytes, size_bytes: int, digests: Digests) -> Receipt:
        """Return a receipt for the object that the bucket has under a grant's key.

        Raises `NotConfirmed` if there is none, if it is another one, or if this cannot be found
        out, `DeliveryError` if a later attempt may succeed, and what `digests` raises.
        """
        found = self.stored_object(grant)
        # The size first: only then is it worth reading the whole file.
        found.check_size(size_bytes)
        md5, sha256 = digests()
        verified = found.verify(md5, shared_key=grant.key == grants.remote_name(path))
        return Receipt(
            key=grant.key,
            etag=found.etag,
            size_bytes=size_bytes,
            md5=md5,
            sha256=sha256,
            verified=verified,
            confirmed=True,
        )

    def stored_object(self, grant: Grant) -> StoredObject:
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
