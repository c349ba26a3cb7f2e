"""The ingestion protocol: ask for a token, post the zip, and wait for its final status.

An upload is identified by the pid that the service gives it. emitterd notes the newest pid of the
program before it uploads; the first higher one is that of its upload. So only one upload of a
program may be under way. A second one at the same time would also kill the service. Source:
ingestion-ms 5.0.5.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote

from emitterd import heartbeat
from emitterd.client.api import ApiClient
from emitterd.client.body import Body, MayFinish, OnSent
from emitterd.client.emission import Digests, NotConfirmed
from emitterd.client.http import HttpClient, Response
from emitterd.client.ingestion.status import UploadStatus, parse, program_of
from emitterd.client.responses import (
    RequestKind,
    api_error,
    as_delivery_errors,
    interrupted,
    resend_if_stale,
    upload_error,
)
from emitterd.client.session import (
    ANSWER_MAX_BYTES,
    Credentials,
    LockoutStore,
    RequestToken,
    Session,
    Token,
    send_json,
)
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.failpoints import Point, reach
from emitterd.model import Confirmation, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown
from emitterd.text import display, masked
from emitterd.units import DAY_S

NAME_BUSY_S = 2.0
"""How long a file waits, on average, for another upload of the same name."""

_NO_RECORDS = b"No records found"
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the client waits for the service, in seconds."""

    first_s: float = 0.2
    """Between two looks at the status; each wait is half as long again, up to `longest_s`."""
    longest_s: float = 15.0
    final_s: float = 120.0
    """For the final status, before the file waits in the queue."""
    absent_s: float = 30.0
    """For the service to track an upload whose answer was lost."""
    abandoned_s: float = 3600.0
    """For a status that never becomes final: the service has died while it processed the file."""


class IngestionClient(ApiClient):
    """The ingestion service of cQube 5. Thread-safe."""

    reader = None
    steps: Mapping[Stage, str] = {
        Stage.LOGIN: "login",
        Stage.GRANT: "file status",
        Stage.BUCKET: "upload",
    }

    def __init__(
        self,
        http: HttpClient,
        url: str,
        credentials: Credentials,
        *,
        shutdown: Shutdown,
        lockouts: LockoutStore | None = None,
        waits: Waits | None = None,
    ) -> None:
        """Send nothing yet. Without a secret in `credentials` the service makes the tokens."""
        url = url.rstrip("/")
        session = Session(url, credentials, token_login(http, url), lockouts)
        super().__init__(http, url, session, shutdown)
        self._stop = shutdown.now
        self._waits = waits or Waits()
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._unfinished: dict[str, tuple[int, float]] = {}
        """For each program: the pid of its newest upload, which is not final, and since when."""

    def usable(self, grant: Grant, now: float) -> bool:  # noqa: ARG002
        """Return False: the newest pid may have changed since the grant was pinned."""
        return False

    @contextmanager
    def exclusive(
        self, path: bytes, unconfirmed: Callable[[], Collection[bytes]]
    ) -> Iterator[None]:
        """Let only one attempt run for each program, also from another folder.

        Entering raises `DeliveryError` while another upload is, or may be, under way.
        """
        program = program_of(path)
        with self._lock:
            if program in self._under_way:
                raise _busy(program)
            self._under_way.add(program)
        try:
            _check_others(program, unconfirmed())
            yield
        finally:
            with self._lock:
                self._under_way.discard(program)

    def check_alone(
        self, grant: Grant, path: bytes, unconfirmed: Callable[[], Collection[bytes]]
    ) -> None:
        """Check again for other uploads, and that the newest pid is still the pinned one.

        As `EmissionClient.check_alone`.
        """
        program = program_of(path)
        _check_others(program, unconfirmed())
        newest = self._status(program)
        if (newest.pid if newest is not None else 0) != int(grant.fields["pid"]):
            raise _busy(program)

    def grant(self, path: bytes) -> Grant:
        """Return the newest pid of the path's program, before an upload.

        Raises `DeliveryError` if the service has not finished with the last upload.
        """
        program = program_of(path)
        newest = self._status(program)
        if newest is not None and not newest.final and not self._is_abandoned(program, newest):
            raise _unfinished(program, newest)
        pid = newest.pid if newest is not None else 0
        now = self._session.now()
        fields = {"key": f"{program}/after-{pid}", "program": program, "pid": str(pid)}
        return Grant(f"{self._url}/{RequestKind.UPLOAD}", fields, now, now, self._url)

    def deliver(
        self,
        grant: Grant,
        file: IO[bytes],
        fingerprint: Fingerprint,
        on_sent: OnSent | None = None,
        may_finish: MayFinish | None = None,
    ) -> Receipt:
        """Upload the file, and wait until the service has processed it.

        As `EmissionClient.deliver`; a file without a processed row is rejected.
        """

        def new_body() -> Body:
            # Another token, or another connection, sends the whole body again.
            file.seek(0)
            name = f"{grant.fields['program']}.zip"
            return Body(
                file, fingerprint, {}, file_name=name, on_sent=on_sent, may_finish=may_finish
            )

        body, _ = resend_if_stale(lambda: self._post(grant, new_body), overwrites=False)
        md5, sha256 = body.hashing.md5, body.hashing.sha256
        reach(Point.ACCEPTED)
        try:
            status = self._wait(grant, self._waits.final_s)
        except DeliveryError as error:
            # The service has the file, and may process it, also if something fails now.
            error.ambiguous = True
            raise
        if status is None:
            reason = "the server accepted the file, and file-status does not name it"
            raise DeliveryError(
                Decision.REFUSE, Code.NOT_FINISHED, reason, stage=Stage.BUCKET, ambiguous=True
            )
        return _receipt(grant, status, fingerprint.size_bytes, (md5, sha256), confirmed=False)

    def look_up(
        self,
        grant: Grant,
        path: bytes,  # noqa: ARG002
        size_bytes: int,
        digests: Digests,
    ) -> Receipt:
        """Return the receipt of an upload after the pinned pid.

        Raises `NotConfirmed` if there is none, or if the service never finishes with it;
        `DeliveryError` if it has not finished yet or has processed no row; and what `digests`
        raises.
        """
        if grant.issuer != self._url or "pid" not in grant.fields:
            raise NotConfirmed(Confirmation.UNKNOWN, "the upload was to another server")
        status = self._wait(grant, 0.0, absent_s=self._waits.absent_s)
        if status is None:
            raise NotConfirmed(Confirmation.ABSENT, "file-status does not name the upload")
        if not status.final:
            raise NotConfirmed(
                Confirmation.UNKNOWN, f"the status of pid {status.pid} stays {status.state}"
            )
        if not status.good:
            error = status.error()
            if error.decision is Decision.REJECT:
                raise error
            # The service failed, so another upload may succeed.
            raise NotConfirmed(Confirmation.ABSENT, error.reason)
        return _receipt(grant, status, size_bytes, digests(), confirmed=True)

    def _post(self, grant: Grant, new_body: Callable[[], Body]) -> Body:
        """Send the file; return the body that the service has accepted."""
        bodies: list[Body] = []

        def send(headers: dict[str, str]) -> Response:
            body = new_body()
            bodies.append(body)
            with as_delivery_errors(RequestKind.UPLOAD, body), closing(body):
                return self._http.request(
                    "POST", grant.url, headers, body, limit_bytes=ANSWER_MAX_BYTES
                )

        self._authorized(RequestKind.UPLOAD, send)
        body = bodies[-1]
        if not body.sent:
            reason = "national_programs answered before it had the whole body"
            raise DeliveryError(Decision.DEFER, Code.CONNECTION_LOST, reason)
        return body

    def _wait(
        self, grant: Grant, final_s: float, absent_s: float | None = None
    ) -> UploadStatus | None:
        """Return the final status of the upload after the pinned pid.

        None if there is no such upload within `absent_s`, or within `final_s` without it. A status
        that never becomes final is returned as it is. Raises `DeliveryError` if it is not final
        within `final_s`.
        """
        program, before = grant.fields["program"], int(grant.fields["pid"])
        begun = time.monotonic()
        wait_s, doubted = self._waits.first_s, None
        while True:
            status = self._status(program)
            if status is not None and status.pid <= before:
                status = None
            # No processed row is the end of the file: the counts must be the same twice.
            if status is not None and (status.good or (status.final and status == doubted)):
                return status
            passed_s = time.monotonic() - begun
            if status is None and passed_s >= (final_s if absent_s is None else absent_s):
                return None
            if status is not None and not status.final and passed_s >= final_s:
                if self._is_abandoned(program, status):
                    return status
                raise _unfinished(program, status, ambiguous=True)
            doubted = status
            self._pause(wait_s)
            wait_s = min(1.5 * wait_s, self._waits.longest_s)

    def _pause(self, wait_s: float) -> None:
        with heartbeat.silence(wait_s):
            stopped = self._stop.wait(wait_s)
        if stopped:
            raise interrupted(ambiguous=True)

    def _status(self, program: str) -> UploadStatus | None:
        """Return the status of the newest upload of a program, or None if there is none."""
        name = quote(program, safe="")
        query = f"?filename={name}.zip&ingestion_type=event&ingestion_name={name}"
        answer = self._ask(RequestKind.STATUS, None, query)
        if answer.status == _BAD_REQUEST:
            return None
        return parse(answer.body, program)

    def _is_abandoned(self, program: str, status: UploadStatus) -> bool:
        """Tell whether a status that is not final has been the same for very long."""
        now = time.monotonic()
        with self._lock:
            pid, since = self._unfinished.get(program, (0, now))
            if pid != status.pid:
                pid, since = status.pid, now
            self._unfinished[program] = pid, since
        return now - since >= self._waits.abandoned_s

    def _error(self, request: RequestKind, answer: Response) -> DeliveryError | None:
        if request is RequestKind.UPLOAD:
            return upload_error(answer.status, answer.headers, answer.body)
        unknown = answer.status == _BAD_REQUEST and _NO_RECORDS in answer.body
        return None if unknown else super()._error(request, answer)


def token_login(http: HttpClient, url: str) -> RequestToken:
    """Return the login of cQube 5 at the API with this URL: anybody gets a token."""

    def request_token(_: Credentials) -> Token:
        request = RequestKind.TOKEN
        answer = send_json(http, request, f"{url}/{request}", None, {})
        error = api_error(request, answer.status, answer.headers, answer.body)
        if error is not None:
            raise error
        text = answer.body.decode("ascii", "replace").strip().strip('"')
        if not _JWT.fullmatch(text):
            reason = f"the answer to {request} is no token: {masked(text)[:80]}"
            raise DeliveryError(Decision.PAUSE, Code.MALFORMED_ANSWER, reason, stage=Stage.LOGIN)
        # It has no end; a refused one is replaced at once.
        return Token(text, DAY_S)

    return request_token


def _receipt(
    grant: Grant,
    status: UploadStatus,
    size_bytes: int,
    digests: tuple[bytes, bytes],
    *,
    confirmed: bool,
) -> Receipt:
    """Return the receipt of a final status. Raises `DeliveryError` if no row was processed."""
    if not status.good:
        raise status.error()
    program = grant.fields["program"]
    md5, sha256 = digests
    return Receipt(
        key=f"{program}/{status.pid}",
        etag="",
        size_bytes=size_bytes,
        md5=md5,
        sha256=sha256,
        verified=False,
        confirmed=confirmed,
        rows=status.rows(program),
    )


def _check_others(program: str, unconfirmed: Collection[bytes]) -> None:
    for other in unconfirmed:
        if program_of(other) == program:
            raise _busy(program, other)


def _busy(program: str, other: bytes | None = None) -> DeliveryError:
    reason = f"another upload of {program}.zip must end first"
    if other is not None:
        reason += (
            f": that of {display(other)}, which another host makes, or whose answer was lost; if it"
            " is held, release it"
        )
    # Two hosts that saw each other must not try again at the same time.
    wait_s = NAME_BUSY_S * random.uniform(0.5, 1.5)  # noqa: S311  no secret
    return DeliveryError(
        Decision.WAIT, Code.NOT_FINISHED, reason, stage=Stage.GRANT, retry_after_s=wait_s
    )


def _unfinished(program: str, status: UploadStatus, *, ambiguous: bool = False) -> DeliveryError:
    reason = f"the server has not finished with {program}.zip: pid {status.pid} is {status.state}"
    return DeliveryError(
        Decision.REFUSE, Code.NOT_FINISHED, reason, stage=Stage.GRANT, ambiguous=ambiguous
    )
