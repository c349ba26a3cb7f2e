"""What `check --online` looks at: name, line, TLS, clock, login, a grant, the bucket.

Nothing is stored: the grant is asked under a name of no dataset, and is never used.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from emitterd.cli.check import Diagnosis
from emitterd.cli.handshake import (
    Address,
    Certificate,
    connect,
    listed,
    refusal,
    resolve,
    secure,
    tunnel,
)
from emitterd.client.http import Response
from emitterd.client.responses import RequestKind, http_date, transport_error
from emitterd.client.sockets import Proxy, TransportError
from emitterd.codes import Code
from emitterd.config.settings import Config
from emitterd.errors import EmitterError, printable
from emitterd.meanings import MEANING
from emitterd.model import Grant
from emitterd.service.route import open_emission, open_tls, open_wire
from emitterd.units import format_duration

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
            MEANING[Code.CLOCK_SKEW].remedy,
        )


class _Check:
    """The steps, over the daemon's own wire."""

    def __init__(self, config: Config) -> None:
        stop = threading.Event()
        self._url = config.emission.url
        self._limit_s = config.emission.connect_timeout_s
        self._tls = open_tls(config)
        self.clock = _Clock()
        self.wire = open_wire(config, self._tls, stop, self.clock.note)
        self._emission = open_emission(config, self.wire, stop)

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
