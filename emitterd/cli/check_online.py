"""What `check --online` looks at: name, line, TLS, clock, login, a grant, the bucket.

Nothing is stored: the grant is asked under a name of no dataset, and is never used.
"""

import http.client
import queue
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

from emitterd.cli.output import Diagnosis
from emitterd.client.http import Response
from emitterd.client.responses import RequestKind, http_date, transport_error
from emitterd.client.sockets import Proxy, TransportError, refuses_certificate
from emitterd.codes import Code
from emitterd.config.settings import Config
from emitterd.errors import EmitterError
from emitterd.model import Grant
from emitterd.service.components import open_emission, open_tls, open_wire
from emitterd.shutdown import Shutdown
from emitterd.text import printable
from emitterd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping


# One connection step by step: the name, the address, TLS; nothing is sent over it. What
# the wire tells in one word is told here so that a person can mend it.

SHOWN = 3
"""So many addresses are named; a bucket has more."""

_AUTHORITY = (
    "if it is the right server, add its authority's certificate to emission.ca_file,"
    " which holds those of the API and of the bucket in place of this machine's own"
)
_UNKNOWN = ("the certificate's authority is unknown to this machine", _AUTHORITY)
_HOST = (
    "the certificate is for another host than {host}",
    (
        "call the host by a name that its certificate holds, or have it made for this"
        " name; a bucket's name must have no dot"
    ),
)
_CERTIFICATE: dict[int, tuple[str, str]] = {
    2: ("the certificate's chain is not whole", _AUTHORITY),
    9: ("the certificate is not valid yet", "set this machine's clock"),
    10: (
        "the certificate has expired",
        "have the server's administrator renew it, unless this machine's clock errs",
    ),
    18: ("the certificate vouches for itself, no authority does", _AUTHORITY),
    19: _UNKNOWN,
    20: _UNKNOWN,
    21: _UNKNOWN,
    62: _HOST,
    64: _HOST,
}
"""By OpenSSL's X509_V_ERR code: what it means, and the remedy."""

_CLIENT = (
    "the server accepts no connection without a client certificate that it trusts",
    "set emission.client_cert and client_key to what its administrator issued",
)
_OLD = (
    "the server speaks only versions of TLS that are no longer safe",
    "have its administrator offer TLS 1.2 or later",
)
_CUT = (
    "the connection to {host} is cut in the handshake",
    "look for a firewall that does not let this host's name through",
)
_HANDSHAKE: dict[str, tuple[str, str]] = {
    "WRONG_VERSION_NUMBER": (
        "what answers speaks no TLS",
        "correct scheme and port: http is another port than https",
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the server ends the handshake",
        "it may want a client certificate (emission.client_cert), or be too old",
    ),
    "UNSUPPORTED_PROTOCOL": _OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    # OpenSSL 3 requires RFC 5746, of 2010.
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": (
        "the server's TLS lacks secure renegotiation",
        "have its administrator update the server's TLS library",
    ),
}
"""By OpenSSL's reason: what it means, and the remedy."""


class Unreachable(EmitterError):
    """A step failed; `code` and `hint` say what to do."""


class Address(NamedTuple):
    """An address of a host, as `getaddrinfo` gives it."""

    family: int
    place: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.place[0])


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the server showed; `ends_at` in seconds since the epoch."""

    version: str
    subject: str
    issuer: str
    ends_at: float


def resolve(host: str, port: int, limit_s: float) -> list[Address]:
    """Return the addresses of a host. Raises `Unreachable`."""
    answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(Address(one[0], one[4]) for one in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The resolver takes no limit of ours: who hangs is left behind.
    threading.Thread(target=ask, name="resolver", daemon=True).start()
    silent = "have the DNS servers that /etc/resolv.conf names, or the line, looked at"
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty as error:
        said = f"{host}: the DNS does not answer within {limit_s:g} s"
        raise Unreachable(said, code=Code.DNS, hint=silent) from error
    if isinstance(answer, Exception):
        hint = silent if _again(answer) else ""
        said = f"{host} has no address: {_said(answer)}"
        raise Unreachable(said, code=Code.DNS, hint=hint) from answer
    return answer


def connect(addresses: list[Address], limit_s: float) -> socket.socket:
    """Return a connection to the first address that takes one. Raises `Unreachable`.

    The addresses share the limit, so that one that is silent leaves time for others.
    """
    end = time.monotonic() + limit_s
    failures: list[tuple[Address, OSError]] = []
    for tried, address in enumerate(addresses):
        share_s = (end - time.monotonic()) / (len(addresses) - tried)
        try:
            line = _dial(address, max(share_s, 0.001))
        except OSError as error:
            failures.append((address, error))
        else:
            line.settimeout(limit_s)
            return line
    late = any(isinstance(error, TimeoutError) for _, error in failures)
    port = addresses[0].place[1]
    told = [f"{address} ({_said(error)})" for address, error in failures]
    raise Unreachable(
        f"no connection to port {port} of {listed(told)}",
        code=Code.CONNECT_TIMEOUT if late else Code.REFUSED,
        hint="check that the server is up, and that the firewall lets this host out to"
        f" port {port}",
    )


def secure(line: socket.socket, host: str, tls: ssl.SSLContext) -> Certificate:
    """Shake hands over a connection, close it, and return what the server showed.

    Raises `Unreachable`.
    """
    try:
        with line, tls.wrap_socket(line, server_hostname=host) as secured:
            return _certificate(secured)
    except (OSError, ValueError) as error:
        raise _insecure(error, host) from error


def tunnel(
    proxy: Proxy, host: str, port: int, tls: ssl.SSLContext, limit_s: float
) -> Certificate:
    """Shake hands with a host through a proxy; else as `secure`."""
    there = urlsplit(proxy.origin)
    line = http.client.HTTPSConnection(
        there.hostname or "", there.port or 80, timeout=limit_s, context=tls
    )
    line.set_tunnel(host, port, _authorization(proxy))
    try:
        line.connect()
        return _certificate(cast("ssl.SSLSocket", line.sock))
    except ssl.SSLError as error:
        raise _insecure(error, host) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Python 3.11.2 leaves the proxy's refusal open in a frame of the traceback, and
        # with it the socket.
        clear_frames(error.__traceback__)
        raise Unreachable(
            f"no way through the proxy to {host} port {port}: {_said(error)}",
            code=Code.PROXY,
            hint="check emission.proxy (or HTTPS_PROXY and NO_PROXY), and that the"
            f" proxy lets {host} port {port} through",
        ) from error
    finally:
        line.close()


def listed(addresses: list[str]) -> str:
    """Return a few of them in words, and how many more there are."""
    more = len(addresses) - SHOWN
    return ", ".join(addresses[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def refusal(error: BaseException | None, host: str) -> Unreachable | None:
    """Return what TLS has to do with an error, told for people, or None if nothing."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return _insecure(error, host)
        # httpcore raises `from None`, and leaves the context.
        error = error.__cause__ or error.__context__
    return None


def _dial(address: Address, limit_s: float) -> socket.socket:
    line = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        line.settimeout(limit_s)
        line.connect(address.place)
    except OSError:
        line.close()
        raise
    return line


def _insecure(error: Exception, host: str) -> Unreachable:
    if isinstance(error, TimeoutError):
        said = f"{host} does not answer the TLS handshake in time"
        return Unreachable(said, code=Code.CONNECT_TIMEOUT)
    words = _words(error)
    if words is None:
        return Unreachable(f"no TLS with {host}: {_said(error)}", code=Code.TLS)
    message, hint = words
    return Unreachable(message.format(host=host), code=Code.TLS, hint=hint)


def _words(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(error.verify_code)
    if refuses_certificate(error):
        return _CLIENT
    # Python 3.11.2, Debian 12's, calls an end without a word an orderly one.
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return _CUT
    return _HANDSHAKE.get(getattr(error, "reason", None) or "")


def _certificate(line: ssl.SSLSocket) -> Certificate:
    shown = cast("Mapping[str, Any]", line.getpeercert() or {})
    subject, issuer = (
        {name: value for part in shown.get(whose, ()) for name, value in part}
        for whose in ("subject", "issuer")
    )
    names = [value for _, value in shown.get("subjectAltName", ())]
    return Certificate(
        version=line.version() or "TLS",
        subject=subject.get("commonName") or next(iter(names), "no name"),
        issuer=issuer.get("organizationName") or issuer.get("commonName") or "nobody",
        ends_at=ssl.cert_time_to_seconds(shown["notAfter"]),
    )


def _authorization(proxy: Proxy) -> dict[str, str]:
    if proxy.auth is None:
        return {}
    login = b64encode(":".join(proxy.auth).encode()).decode()
    return {"Proxy-Authorization": f"Basic {login}"}


def _again(error: Exception) -> bool:
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


PATH = b"emitterd_check/check.zip"
"""What the grant is asked for; in no dataset's folder, so nothing would read it."""

DAY_S = 86400.0
RENEWAL_S = 14 * DAY_S
"""A certificate that ends within this is worth a warning."""

SKEW_WARNING_S = 60.0
SKEW_ERROR_S = 900.0
"""S3 refuses what a clock that is off by more has signed (RequestTimeTooSkewed)."""

_REMEDIES = {
    Code.CREDENTIALS: "correct emission.username or the password before the next try:"
    " the server locks an account after five refused ones",
    Code.REQUEST_REFUSED: "the name asked for is sound: check that emission.url leads"
    " to a cQube of version 1.0 to 4.1",
    Code.CONNECTION_LOST: "check again; if it lasts, look for a firewall or a proxy"
    " that cuts connections",
}
"""Where the daemon's own remedy would not help who is checking."""


def online(config: Config) -> Iterator[Diagnosis]:
    """Yield what each step finds as soon as it is known, up to the first that fails.

    A wrong clock ends nothing. A refused login is not tried again, and every wait has
    its configured limit. Raises `OSError` where a TLS file cannot be used.
    """
    check = _Check(config)
    with closing(check.wire):
        try:
            yield from check.steps()
        except _Failed as failed:
            yield from check.clock.said()
            yield failed.diagnosis


class _Failed(Exception):
    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(diagnosis.message)
        self.diagnosis = diagnosis


class _Step(NamedTuple):
    """Where a url leads; `whose` is put before what is said of it."""

    whose: str
    host: str
    port: int
    encrypted: bool

    @classmethod
    def of(cls, url: str, whose: str = "") -> Self:
        parts = urlsplit(url)
        encrypted = parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        return cls(whose, parts.hostname or "", port, encrypted)


@contextmanager
def _step(subject: str, host: str) -> Iterator[None]:
    """Turn what a step raises into the diagnosis that ends the check."""
    try:
        yield
    except EmitterError as error:
        told = (refusal(error, host) if error.code is Code.TLS else None) or error
        message = f"{told.code} {printable(str(told))}"
        remedy = _REMEDIES.get(told.code, told.hint)
        raise _Failed(Diagnosis("error", subject, message, remedy)) from error


def _found(subject: str, message: str) -> Diagnosis:
    return Diagnosis("ok", subject, printable(message))


class _Clock:
    """How far this machine's clock is from the server's."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None
        self._told = False

    def note(self, answer: Response) -> None:
        """Compare, where the answer has a date."""
        served_at = http_date(answer.headers.get("date", ""))
        if served_at is not None:
            self._ahead_s = time.time() - served_at

    def said(self) -> Iterator[Diagnosis]:
        """Yield what was found, once, as soon as there is something."""
        if self._ahead_s is None or self._told:
            return
        self._told = True
        off_s = abs(self._ahead_s)
        if off_s <= SKEW_WARNING_S:
            yield _found("clock", "this machine's agrees with the server's")
            return
        which = "ahead of" if self._ahead_s > 0 else "behind"
        yield Diagnosis(
            "error" if off_s > SKEW_ERROR_S else "warning",
            "clock",
            f"{Code.CLOCK_SKEW} this machine's is {format_duration(round(off_s))}"
            f" {which} the server's",
            Code.CLOCK_SKEW.remedy,
        )


class _Check:
    """The steps, over the daemon's own wire."""

    def __init__(self, config: Config) -> None:
        shutdown = Shutdown()
        self._url = config.emission.url
        self._limit_s = config.emission.connect_timeout_s
        self._tls = open_tls(config)
        self.clock = _Clock()
        self.wire = open_wire(config, self._tls, shutdown, self.clock.note)
        self._emission = open_emission(config, self.wire, shutdown)

    def steps(self) -> Iterator[Diagnosis]:
        """Yield what is found. Raises `_Failed` at the first step that fails."""
        api = _Step.of(self._url)
        yield from self._reach(api, self._proxy(api, self._url, RequestKind.GRANT))
        with _step("login", api.host):
            lifetime_s = self._emission.login()
        yield from self.clock.said()
        if lifetime_s is None:
            yield _found("login", "none: the API key goes with each request")
        else:
            token = format_duration(round(lifetime_s))
            yield _found("login", f"accepted, with a token for {token}")
        with _step("grant", api.host):
            grant = self._emission.grant(PATH)
            bucket = _Step.of(grant.url, "bucket ")
            holds = self._life(grant)
        yield from self.clock.said()
        yield _found("grant", f"for {bucket.host}, to be used within {holds}")
        yield from self._reach(
            bucket, self._proxy(bucket, grant.url, RequestKind.BUCKET)
        )

    def _life(self, grant: Grant) -> str:
        holds = format_duration(max(round(grant.expires_at - grant.granted_at), 0))
        if self._emission.usable(grant, time.time()):
            return holds
        raise EmitterError(
            f"the grant can be used within {holds} only",
            code=Code.GRANT_EXPIRED,
            hint="tell the server's administrator: its clock, or the lifetime that it"
            " gives to its grants, is wrong",
        )

    def _proxy(self, place: _Step, url: str, request: RequestKind) -> Proxy | None:
        with _step(f"{place.whose}proxy", place.host):
            try:
                return self.wire.proxy(url)
            except TransportError as error:
                raise transport_error(
                    request, error.how, str(error), body_sent=False
                ) from error

    def _reach(self, place: _Step, proxy: Proxy | None) -> Iterator[Diagnosis]:
        if proxy is None:
            yield from self._directly(place)
        else:
            yield from self._through(proxy, place)
        if not place.encrypted:
            yield Diagnosis(
                "warning",
                f"{place.whose}TLS",
                "none: what is sent over http can be read on its way",
                "use https wherever the line is not this machine's own",
            )

    def _directly(self, place: _Step) -> Iterator[Diagnosis]:
        whose, host, port, encrypted = place
        with _step(f"{whose}DNS", host):
            addresses = resolve(host, port, self._limit_s)
        yield _found(f"{whose}DNS", _resolved(host, addresses))
        with _step(f"{whose}connection", host):
            line = connect(addresses, self._limit_s)
        with line:
            yield _found(f"{whose}connection", f"port {port} of {host} answers")
            if encrypted:
                with _step(f"{whose}TLS", host):
                    certificate = secure(line, host, self._tls)
                yield _judged(f"{whose}TLS", certificate, time.time())

    def _through(self, proxy: Proxy, place: _Step) -> Iterator[Diagnosis]:
        whose, host, port, encrypted = place
        door = _Step.of(proxy.origin)
        with _step(f"{whose}proxy", door.host):
            connect(resolve(door.host, door.port, self._limit_s), self._limit_s).close()
        said = f"{door.host} port {door.port} answers; it is to find {host} itself"
        yield _found(f"{whose}proxy", said)
        if encrypted:
            with _step(f"{whose}TLS", host):
                certificate = tunnel(proxy, host, port, self._tls, self._limit_s)
            yield _judged(f"{whose}TLS", certificate, time.time())


def _resolved(host: str, addresses: list[Address]) -> str:
    names = [str(one) for one in addresses]
    return f"{host} is {'an address' if host in names else listed(names)}"


def _judged(subject: str, certificate: Certificate, now: float) -> Diagnosis:
    left_s = certificate.ends_at - now
    day = time.strftime("%Y-%m-%d", time.gmtime(certificate.ends_at))
    message = printable(
        f"{certificate.version}; the certificate of {certificate.subject}, issued by"
        f" {certificate.issuer}, ends on {day}, in {left_s // DAY_S:.0f} days"
    )
    if left_s >= RENEWAL_S:
        return Diagnosis("ok", subject, message)
    remedy = "have the server's administrator renew it"
    return Diagnosis("warning", subject, message, remedy)
