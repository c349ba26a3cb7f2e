"""`check --online`: tries DNS, connection, TLS, clock, login, grant, and the bucket.

It uses the HTTP client of the daemon, and reports the steps in httpcore's trace. It uploads
nothing: the grant is for a name outside all dataset folders, and is not used.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from emitterd.cli.output import Diagnosis
from emitterd.client.responses import RequestKind, as_delivery_errors, http_date
from emitterd.codes import Code
from emitterd.config.settings import Config
from emitterd.errors import EmitterError, Stage
from emitterd.service.components import open_emission, open_http_client
from emitterd.shutdown import Shutdown
from emitterd.text import local_time, printable
from emitterd.tracking.tracker import ENDED_HINT, ENDS
from emitterd.units import DAY_S, format_age
from emitterd.web.endpoint import is_loopback

REMOTE_NAME = b"emitterd_check/check.zip"
"""The grant is requested for this name. It is in no dataset's folder."""

RENEWAL_S = 14 * DAY_S
"""A certificate that ends within this time is worth a warning."""

SKEW_WARNING_S = 60.0
SKEW_ERROR_S = 900.0
"""S3 refuses signatures of a clock that is off by more (RequestTimeTooSkewed)."""

_SUBJECTS = {
    Code.DNS: "DNS",
    Code.REFUSED: "connection",
    Code.CONNECT_TIMEOUT: "connection",
    Code.TLS: "TLS",
    Code.PROXY: "proxy",
}
"""What an error of a connection is about."""

_REMEDIES = {
    Code.CREDENTIALS: "correct emission.username or the password before the next try:"
    " the server locks an account after five refused ones",
    Code.REQUEST_REFUSED: "the requested name is valid: check that emission.url leads"
    " to a cQube that speaks emission.protocol",
}
"""Used where the code's own remedy is for a daemon that retries."""


def stays_here(url: str) -> bool:
    """Tell whether a connection to the host of a URL stays on this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def online(config: Config) -> Iterator[Diagnosis]:
    """Yield the result of each step as soon as it is known, up to the first failure.

    A wrong clock does not end the check. A refused login is not tried again. Raises `OSError` if a
    TLS file cannot be used.
    """
    check = _Check(config)
    with closing(check.client):
        steps = [check.log_in, check.request_grant, check.reach_bucket]
        for step in steps + [check.ask_tracking] * config.tracking.enabled:
            try:
                step()
            except EmitterError as error:
                check.report_failure(error)
                yield from check.results
                return
            yield from check.results
            check.results.clear()


class _Check:
    """The steps, with the results that are not shown yet."""

    def __init__(self, config: Config) -> None:
        self.results: list[Diagnosis] = []
        shutdown = Shutdown()
        self.client = open_http_client(config, shutdown, self._trace)
        self._emission = open_emission(config, self.client, shutdown)
        self._url = self._api_url = config.emission.url
        self._step = "login"
        self._prefix = ""
        self._subjects: set[str] = set()
        # The host of the connection under way, which may be a proxy's.
        self._host = urlsplit(self._url).hostname or ""

    def log_in(self) -> None:
        """Log in, or do nothing with an API key. Raises `EmitterError`."""
        lifetime_s = self._emission.login()
        if lifetime_s is None:
            self._report("login", "none: the API key goes with each request")
        else:
            token = format_age(lifetime_s)
            self._report("login", f"accepted, with a token for {token}")

    def request_grant(self) -> None:
        """Request a grant. Raises `EmitterError`."""
        self._step = self._emission.steps[Stage.GRANT]
        grant = self._emission.grant(REMOTE_NAME)
        lifetime_s = grant.expires_at - grant.granted_at
        host = urlsplit(grant.url).hostname or ""
        within = f", to be used within {format_age(lifetime_s)}" if lifetime_s > 0 else ""
        self._report(self._step, f"for {host}{within}")
        self._url, self._host = grant.url, host

    def reach_bucket(self) -> None:
        """Connect to the bucket; any answer will do. Raises `EmitterError`."""
        step = self._emission.steps[Stage.BUCKET]
        self._step, self._prefix = step, f"{step} "
        # API and bucket may be one server: the bucket gets a connection of its own.
        self.client.close_thread()
        with as_delivery_errors(RequestKind.BUCKET):
            self.client.request("HEAD", self._url, {}, limit_bytes=0)

    def ask_tracking(self) -> None:
        """Ask whether the server allows tracking. Raises `EmitterError`."""
        self._step, self._prefix = "tracking", ""
        if self._emission.reader is not None:
            self._emission.reader.buckets()
        self._report("tracking", "the server says what became of delivered files")

    def report_failure(self, error: EmitterError) -> None:
        """Report the error of the step under way."""
        subject, message = self._step, f"{error.code} {error}"
        if error.code in _SUBJECTS:
            subject = f"{self._prefix}{_SUBJECTS[error.code]}"
            message = f"{error.code} {self._host}: {error}"
        remedy = _REMEDIES.get(error.code, error.remedy)
        level = "error"
        if self._step == "tracking":
            # Files are delivered without it.
            level = "warning"
            remedy = ENDED_HINT if error.code in ENDS else remedy
        self.results.append(Diagnosis(level, subject, printable(message), remedy))

    def _trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Report the steps of a request; `event` is one of httpcore's trace."""
        step = event.partition(".")[2]
        if step == "connect_tcp.started":
            self._host = details["host"]
        elif step == "connect_tcp.complete":
            address, port = details["return_value"].get_extra_info("server_addr")[:2]
            message = f"{self._host} port {port} answers, at {address}"
            self._report(f"{self._prefix}connection", message)
            if not self._url.startswith("https:"):
                self._report_http()
        elif step == "start_tls.complete":
            connection = details["return_value"].get_extra_info("ssl_object")
            self._report_certificate(connection)
        elif step == "receive_response_headers.complete":
            for name, value in details["return_value"][3]:
                if name.lower() == b"date":
                    self._report_clock(value.decode("latin-1"))

    def _report_http(self) -> None:
        subject = f"{self._prefix}TLS"
        if stays_here(self._url):
            self._report(subject, "none: the connection stays on this machine")
        elif self._api_url.startswith("https:"):
            message = "none: everybody on the way can read the data"
            self._report(subject, message, "warning", "ask the server's administrator for https")
        else:
            # `check` has warned of the API's URL already.
            self._report(subject, "none: http, as emission.url")

    def _report_certificate(self, connection: ssl.SSLSocket) -> None:
        fields: dict[str, Any] = connection.getpeercert() or {}
        subject, issuer = (
            {name: value for part in fields.get(holder, ()) for name, value in part}
            for holder in ("subject", "issuer")
        )
        owner = subject.get("commonName", "no name")
        authority = issuer.get("organizationName") or issuer.get("commonName")
        ends_at = ssl.cert_time_to_seconds(fields["notAfter"])
        left_s = ends_at - time.time()
        message = (
            f"{connection.version()}; the certificate of {owner}, issued by"
            f" {authority}, ends on {local_time(ends_at)},"
            f" in {format_age(left_s)}"
        )
        if left_s >= RENEWAL_S:
            self._report(f"{self._prefix}TLS", message)
        else:
            remedy = "have the server's administrator renew it"
            self._report(f"{self._prefix}TLS", message, "warning", remedy)

    def _report_clock(self, date: str) -> None:
        served_at = http_date(date)
        if served_at is None:
            return
        ahead_s = time.time() - served_at
        if abs(ahead_s) <= SKEW_WARNING_S:
            self._report("clock", "this machine's agrees with the server's")
            return
        off = format_age(abs(ahead_s))
        direction = "ahead of" if ahead_s > 0 else "behind"
        self._report(
            "clock",
            f"{Code.CLOCK_SKEW} this machine's is {off} {direction} the server's",
            "error" if abs(ahead_s) > SKEW_ERROR_S else "warning",
            Code.CLOCK_SKEW.remedy,
        )

    def _report(self, subject: str, message: str, level: str = "ok", remedy: str = "") -> None:
        """Add a result. Only the first connection and date of a server count."""
        if subject not in self._subjects:
            self._subjects.add(subject)
            self.results.append(Diagnosis(level, subject, printable(message), remedy))
