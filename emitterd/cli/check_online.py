"""`check --online`: tries DNS, connection, TLS, clock, login, grant, and the bucket.

Nothing is stored: the grant is for a name in no dataset's folder, and is not used.
"""

import http.client
import queue
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from traceback import clear_frames
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

from emitterd.cli.output import Diagnosis
from emitterd.client.http import Response
from emitterd.client.responses import (
    RequestKind,
    as_delivery_errors,
    http_date,
)
from emitterd.client.sockets import Proxy, refuses_certificate
from emitterd.codes import Code
from emitterd.config.settings import Config
from emitterd.errors import EmitterError
from emitterd.model import Grant
from emitterd.service.components import open_emission, open_http_client, open_tls
from emitterd.shutdown import Shutdown
from emitterd.text import printable
from emitterd.units import format_duration

REMOTE_NAME = b"emitterd_check/check.zip"
"""The grant is requested for this name. It is in no dataset's folder."""

ADDRESSES_SHOWN = 3
DAY_S = 86400.0
RENEWAL_S = 14 * DAY_S
"""A certificate that ends within this time is worth a warning."""

SKEW_WARNING_S = 60.0
SKEW_ERROR_S = 900.0
"""S3 refuses signatures of a clock that is off by more (RequestTimeTooSkewed)."""

_REMEDIES = {
    Code.CREDENTIALS: "correct emission.username or the password before the next try:"
    " the server locks an account after five refused ones",
    Code.REQUEST_REFUSED: "the requested name is valid: check that emission.url leads"
    " to a cQube of version 1.0 to 4.1",
    Code.CONNECTION_LOST: "check again; if it lasts, look for a firewall or a proxy"
    " that cuts connections",
}
"""Used where the code's own remedy is for a daemon that retries."""

UNENCRYPTED = (
    "none: everybody on the way can read what is sent over http",
    "use https, unless the connection stays on this machine",
)
_DNS_REMEDY = "check the network and the DNS servers in /etc/resolv.conf"
_AUTHORITY_REMEDY = (
    "if it is the right server, add its authority's certificate to emission.ca_file,"
    " which holds those of the API and of the bucket in place of this machine's own"
)
_HOST_REMEDY = (
    "use a host name that the certificate holds, or have a certificate made for this"
    " name; a bucket's name must have no dot"
)
_CERTIFICATE_REMEDIES = {
    9: "set this machine's clock",
    10: "have the server's administrator renew it, unless this machine's clock is"
    " wrong",
    62: _HOST_REMEDY,
    64: _HOST_REMEDY,
}
"""By OpenSSL's X509_V_ERR code; for all others the authority is not trusted."""

_CLIENT_REMEDY = (
    "set emission.client_cert and client_key to what the server's administrator issued"
)
_OLD_TLS_REMEDY = (
    "have the server's administrator update its TLS library: emitterd needs TLS 1.2 or"
    " later, with secure renegotiation (RFC 5746, of 2010)"
)
_HANDSHAKE_REMEDIES = {
    "WRONG_VERSION_NUMBER": "the port does not speak TLS: correct scheme and port of"
    " the url",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server may want a client certificate"
    " (emission.client_cert), or be too old",
    "UNSUPPORTED_PROTOCOL": _OLD_TLS_REMEDY,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS_REMEDY,
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": _OLD_TLS_REMEDY,
}
"""By OpenSSL's reason."""


class Unreachable(EmitterError):
    """A step failed; `code` and `remedy` say what to do."""


class Address(NamedTuple):
    """An address of a host, as `getaddrinfo` gives it."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


Certificate = tuple[str, float]
"""What a server showed: a summary, and its end in seconds since the epoch."""


def online(config: Config) -> Iterator[Diagnosis]:
    """Yield the result of each step as soon as it is known, up to the first failure.

    A wrong clock ends nothing. A refused login is not tried again, and every wait has
    its configured limit. Raises `OSError` if a TLS file cannot be used.
    """
    check = _Check(config)
    with closing(check.client):
        try:
            yield from check.steps()
        except EmitterError as error:
            yield from check.clock()
            yield check.failure(error)


def resolve(host: str, port: int, limit_s: float) -> list[Address]:
    """Return the addresses of a host. Raises `Unreachable`."""
    answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(
                list(dict.fromkeys(Address(info[0], info[4]) for info in infos))
            )
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # getaddrinfo has no time limit. A thread that hangs in it does not delay the exit.
    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty as error:
        message = f"{host}: the DNS does not answer within {limit_s:g} s"
        raise Unreachable(message, code=Code.DNS, remedy=_DNS_REMEDY) from error
    if isinstance(answer, Exception):
        temporary = getattr(answer, "errno", None) == socket.EAI_AGAIN
        message = f"{host} has no address: {_reason(answer)}"
        remedy = _DNS_REMEDY if temporary else ""
        raise Unreachable(message, code=Code.DNS, remedy=remedy) from answer
    return answer


def connect(addresses: list[Address], limit_s: float) -> socket.socket:
    """Return a connection to the first address that accepts one. Raises `Unreachable`.

    The addresses share the time, so that a silent one leaves time for the others.
    """
    ends = time.monotonic() + limit_s
    failures: list[tuple[Address, OSError]] = []
    for tried, address in enumerate(addresses):
        share_s = (ends - time.monotonic()) / (len(addresses) - tried)
        connection = None
        try:
            connection = socket.socket(address.family, socket.SOCK_STREAM)
            connection.settimeout(max(share_s, 0.001))
            connection.connect(address.sockaddr)
        except OSError as error:
            if connection is not None:
                connection.close()
            failures.append((address, error))
        else:
            connection.settimeout(limit_s)
            return connection
    late = any(isinstance(error, TimeoutError) for _, error in failures)
    port = addresses[0].sockaddr[1]
    reasons = [f"{address} ({_reason(error)})" for address, error in failures]
    raise Unreachable(
        f"no connection to port {port} of {_shortened(reasons)}",
        code=Code.CONNECT_TIMEOUT if late else Code.REFUSED,
        remedy="check that the server is up, and that the firewall lets this host out"
        f" to port {port}",
    )


def secure(connection: socket.socket, host: str, tls: ssl.SSLContext) -> Certificate:
    """Do the TLS handshake, close the connection, and return what the server showed.

    Raises `Unreachable`.
    """
    try:
        with connection, tls.wrap_socket(connection, server_hostname=host) as secured:
            return _certificate(secured)
    except (OSError, ValueError) as error:
        raise _tls_failure(error, host) from error


def tunnel(
    proxy: Proxy, host: str, port: int, tls: ssl.SSLContext, limit_s: float
) -> Certificate:
    """Do the TLS handshake with a host through a proxy; otherwise as `secure`."""
    origin = urlsplit(proxy.origin)
    connection = http.client.HTTPSConnection(
        origin.hostname or "", origin.port or 80, timeout=limit_s, context=tls
    )
    headers = {}
    if proxy.auth is not None:
        login = b64encode(":".join(proxy.auth).encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {login}"
    connection.set_tunnel(host, port, headers)
    try:
        connection.connect()
        return _certificate(cast("ssl.SSLSocket", connection.sock))
    except ssl.SSLError as error:
        raise _tls_failure(error, host) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Python 3.11.2 leaves the proxy's refusal open in a frame of the traceback, and
        # with it the socket.
        clear_frames(error.__traceback__)
        raise Unreachable(
            f"no way through the proxy to {host} port {port}: {_reason(error)}",
            code=Code.PROXY,
            remedy="check emission.proxy (or HTTPS_PROXY and NO_PROXY), and that the"
            f" proxy lets {host} port {port} through",
        ) from error
    finally:
        connection.close()


def _certificate(secured: ssl.SSLSocket) -> Certificate:
    fields = cast("dict[str, Any]", secured.getpeercert() or {})
    subject, issuer = (
        {name: value for part in fields.get(holder, ()) for name, value in part}
        for holder in ("subject", "issuer")
    )
    names = [value for _, value in fields.get("subjectAltName", ())]
    owner = subject.get("commonName") or next(iter(names), "no name")
    authority = issuer.get("organizationName") or issuer.get("commonName") or "nobody"
    summary = f"{secured.version()}; the certificate of {owner}, issued by {authority}"
    return summary, ssl.cert_time_to_seconds(fields["notAfter"])


def _tls_failure(error: Exception, host: str) -> Unreachable:
    if isinstance(error, TimeoutError):
        message = f"{host} does not answer the TLS handshake in time"
        return Unreachable(message, code=Code.CONNECT_TIMEOUT)
    reason = getattr(error, "reason", None) or ""
    message = f"TLS with {host} fails: {reason.replace('_', ' ').lower()}"
    remedy = _HANDSHAKE_REMEDIES.get(reason, "")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        message = f"the certificate of {host} is refused: {reason}"
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _AUTHORITY_REMEDY)
    elif refuses_certificate(error):
        remedy = _CLIENT_REMEDY
    # Python 3.11.2, Debian 12's, reports a close without a TLS alert as an orderly one.
    elif isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        message = f"the connection to {host} is cut in the handshake"
        remedy = "look for a firewall that does not let this host's name through"
    elif not reason:
        message = f"TLS with {host} fails: {_reason(error)}"
    return Unreachable(message, code=Code.TLS, remedy=remedy)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _shortened(items: list[str]) -> str:
    more = len(items) - ADDRESSES_SHOWN
    return ", ".join(items[:ADDRESSES_SHOWN]) + (
        f" and {more} more" if more > 0 else ""
    )


class _Target(NamedTuple):
    """Where a url leads; `prefix` is put before the subject of each diagnosis."""

    prefix: str
    host: str
    port: int
    encrypted: bool

    @classmethod
    def of(cls, url: str, prefix: str = "") -> Self:
        parts = urlsplit(url)
        encrypted = parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        return cls(prefix, parts.hostname or "", port, encrypted)


def _ok(subject: str, message: str) -> Diagnosis:
    return Diagnosis("ok", subject, printable(message))


class _Check:
    """The steps, with the daemon's own HTTP client."""

    def __init__(self, config: Config) -> None:
        shutdown = Shutdown()
        self._url = config.emission.url
        self._limit_s = config.emission.connect_timeout_s
        self._tls = open_tls(config)
        # The step under way: its subject and its host.
        self._step = "", ""
        self._ahead_s: float | None = None
        self._clock_reported = False
        self.client = open_http_client(
            config, self._tls, shutdown, self._compare_clocks
        )
        self._emission = open_emission(config, self.client, shutdown)

    def steps(self) -> Iterator[Diagnosis]:
        """Yield each result. Raises `EmitterError` at the first step that fails."""
        api = _Target.of(self._url)
        yield from self._reach(api, self._url, RequestKind.GRANT)
        self._step = "login", api.host
        lifetime_s = self._emission.login()
        yield from self.clock()
        if lifetime_s is None:
            yield _ok("login", "none: the API key goes with each request")
        else:
            token = format_duration(round(lifetime_s))
            yield _ok("login", f"accepted, with a token for {token}")
        self._step = "grant", api.host
        grant = self._emission.grant(REMOTE_NAME)
        bucket = _Target.of(grant.url, "bucket ")
        lifetime = self._lifetime(grant)
        yield from self.clock()
        yield _ok("grant", f"for {bucket.host}, to be used within {lifetime}")
        yield from self._reach(bucket, grant.url, RequestKind.BUCKET)

    def failure(self, error: EmitterError) -> Diagnosis:
        """Return the diagnosis of the step under way, which raised the error."""
        subject, host = self._step
        cause: BaseException | None = error if error.code is Code.TLS else None
        while cause is not None and not isinstance(cause, ssl.SSLError):
            # httpcore raises `from None`, and leaves the context.
            cause = cause.__cause__ or cause.__context__
        failure = error if cause is None else _tls_failure(cause, host)
        message = f"{failure.code} {printable(str(failure))}"
        remedy = _REMEDIES.get(failure.code, failure.remedy)
        return Diagnosis("error", subject, message, remedy)

    def clock(self) -> Iterator[Diagnosis]:
        """Yield the error of this machine's clock, once, as soon as it is known."""
        if self._ahead_s is None or self._clock_reported:
            return
        self._clock_reported = True
        off_s = abs(self._ahead_s)
        if off_s <= SKEW_WARNING_S:
            yield _ok("clock", "this machine's agrees with the server's")
            return
        direction = "ahead of" if self._ahead_s > 0 else "behind"
        yield Diagnosis(
            "error" if off_s > SKEW_ERROR_S else "warning",
            "clock",
            f"{Code.CLOCK_SKEW} this machine's is {format_duration(round(off_s))}"
            f" {direction} the server's",
            Code.CLOCK_SKEW.remedy,
        )

    def _compare_clocks(self, response: Response) -> None:
        served_at = http_date(response.headers.get("date", ""))
        if served_at is not None:
            self._ahead_s = time.time() - served_at

    def _lifetime(self, grant: Grant) -> str:
        lifetime = format_duration(max(round(grant.expires_at - grant.granted_at), 0))
        if self._emission.usable(grant, time.time()):
            return lifetime
        raise EmitterError(
            f"the grant can be used within {lifetime} only",
            code=Code.GRANT_EXPIRED,
            remedy="tell the server's administrator: its clock, or the lifetime that it"
            " gives to its grants, is wrong",
        )

    def _reach(
        self, target: _Target, url: str, kind: RequestKind
    ) -> Iterator[Diagnosis]:
        """Connect to a target, through its proxy if there is one."""
        prefix, host, port, _ = target
        self._step = f"{prefix}proxy", host
        with as_delivery_errors(kind):
            proxy = self.client.proxy(url)
        if proxy is None:
            self._step = f"{prefix}DNS", host
            addresses = resolve(host, port, self._limit_s)
            names = [str(address) for address in addresses]
            resolved = "an address" if host in names else _shortened(names)
            yield _ok(f"{prefix}DNS", f"{host} is {resolved}")
            self._step = f"{prefix}connection", host
            with connect(addresses, self._limit_s) as connection:
                yield _ok(f"{prefix}connection", f"port {port} of {host} answers")
                yield from self._handshake(
                    target, lambda: secure(connection, host, self._tls)
                )
            return
        origin = _Target.of(proxy.origin)
        self._step = f"{prefix}proxy", origin.host
        addresses = resolve(origin.host, origin.port, self._limit_s)
        connect(addresses, self._limit_s).close()
        message = f"{origin.host} port {origin.port} answers; it looks {host} up"
        yield _ok(f"{prefix}proxy", message)
        yield from self._handshake(
            target, lambda: tunnel(proxy, host, port, self._tls, self._limit_s)
        )

    def _handshake(
        self, target: _Target, shake_hands: Callable[[], Certificate]
    ) -> Iterator[Diagnosis]:
        subject = f"{target.prefix}TLS"
        if not target.encrypted:
            yield Diagnosis("warning", subject, *UNENCRYPTED)
            return
        self._step = subject, target.host
        summary, ends_at = shake_hands()
        left_s = ends_at - time.time()
        day = time.strftime("%Y-%m-%d", time.gmtime(ends_at))
        message = printable(f"{summary}, ends on {day}, in {left_s // DAY_S:.0f} days")
        if left_s >= RENEWAL_S:
            yield Diagnosis("ok", subject, message)
        else:
            remedy = "have the server's administrator renew it"
            yield Diagnosis("warning", subject, message, remedy)
