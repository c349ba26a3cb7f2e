"""Sends one HTTP request and limits the size of its answer. Only this module uses httpx.

httpx parses urls and builds requests. Its client is not used: that would follow redirects, keep
cookies, read credentials from urls, and take a fifth of the time of a small request.
"""

import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from urllib import request as environment

import httpx

from emitterd import __version__
from emitterd.client.bandwidth import Throttle
from emitterd.client.body import Body
from emitterd.client.responses import TransportError
from emitterd.client.sockets import Deadlines, Pools, Proxy, Trace, TransferLimits
from emitterd.client.timetable import Timetable
from emitterd.codes import Code
from emitterd.shutdown import Shutdown
from emitterd.text import keep_secret

CACHED_URLS = 64
"""Room in the caches of urls and proxies. API and bucket need two entries."""

_HEADERS = {
    "Accept": "*/*",
    # Not compressed: a small answer cannot unpack to a huge one.
    "Accept-Encoding": "identity",
    "User-Agent": f"emitterd/{__version__}",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A server's answer; header names in lower case.

    `body` holds the first `limit_bytes`; `whole` tells whether that is all of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


class HttpClient:
    """Sends requests, one at a time in each thread. Thread-safe."""

    def __init__(
        self,
        limits: TransferLimits,
        *,
        tls: ssl.SSLContext,
        proxy: str | None,
        shutdown: Shutdown,
        bandwidth: Timetable | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Connect to nothing yet.

        `proxy`: an http:// proxy for everything. Without it the environment's HTTPS_PROXY,
        HTTP_PROXY and NO_PROXY apply. `shutdown.now` ends requests under way. `bandwidth`: what
        bodies share; the API's small requests do not count. `trace` is called with the events of
        httpcore's trace extension.
        """
        self._throttle = Throttle()
        self.apply_settings(limits, bandwidth)
        self._shutdown = shutdown
        self._configured_proxy = proxy
        self._pools = Pools(tls, trace)
        # There are hardly ever other urls than API and bucket. To parse them, and to read the
        # environment, takes longer than the rest of a request.
        self._parse_url = lru_cache(CACHED_URLS)(httpx.URL)
        self._find_proxy = lru_cache(CACHED_URLS)(self._proxy_of)

    def apply_settings(self, limits: TransferLimits, bandwidth: Timetable | None) -> None:
        """Use this bandwidth at once, and the limits for requests that begin later."""
        self._limits = limits
        self._throttle.apply_timetable(bandwidth)

    def apply_tls(self, tls: ssl.SSLContext) -> None:
        """Use other certificates for requests that begin later."""
        self._pools.apply_tls(tls)

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: bytes | Body | None = None,
        *,
        limit_bytes: int,
    ) -> Response:
        """Send one request and return its answer, with any status.

        Raises `TransportError` if no answer came, `Stopped` at a stop, `Withheld`, and the body's.
        """
        parsed, proxy = self._route(url)
        host = parsed.netloc.decode("ascii")
        fields = {"Host": host, **_HEADERS, **headers}
        deadlines = Deadlines(self._limits, self._shutdown, limit_bytes)
        if isinstance(content, Body):
            deadlines.throttle, deadlines.on_sent = self._throttle, content.on_sent
            deadlines.may_finish = content.may_finish
            deadlines.body_left_bytes = content.size_bytes
            fields["Content-Type"] = content.content_type
            fields["Content-Length"] = str(content.size_bytes)
        elif content is not None:
            fields["Content-Length"] = str(len(content))
        status, answer_headers, body = self._pools.send(
            method,
            (parsed.raw_scheme, parsed.raw_host, parsed.port, parsed.raw_path),
            fields,
            content,
            proxy,
            deadlines,
        )
        return Response(
            status,
            # Repeated headers are joined by a comma: two ETags are no well-formed one.
            dict(httpx.Headers(answer_headers)),
            bytes(body[:limit_bytes]),
            whole=len(body) <= limit_bytes,
        )

    def close_thread(self) -> None:
        """Close the connections of this thread, which sends no more."""
        self._pools.close_thread()

    def close(self) -> None:
        """Close all connections."""
        self._pools.close()

    def _route(self, url: str) -> tuple[httpx.URL, Proxy | None]:
        try:
            parsed = self._parse_url(url)
            port = parsed.port or (443 if parsed.scheme == "https" else 80)
            return parsed, self._find_proxy(parsed.scheme, parsed.host, port)
        except UnicodeError as error:
            # Python's codec for host names refuses an impossible name.
            raise TransportError(Code.DNS, str(error)) from error
        except httpx.InvalidURL as error:
            raise TransportError(Code.CONNECTION_LOST, str(error)) from error

    def _proxy_of(self, scheme: str, host: str, port: int) -> Proxy | None:
        proxy = self._configured_proxy or _environment_proxy(scheme, host, port)
        if not proxy:
            return None
        url = httpx.URL(proxy)
        auth = (url.username, url.password) if url.username else None
        keep_secret("proxy", url.password)
        keep_secret("proxy login", f"{url.username}:{url.password}" if url.password else "")
        return Proxy(str(url.copy_with(username=None, password=None)), auth)


def tls_context(
    ca_file: str | None, client_cert: str | None, client_key: str | None
) -> ssl.SSLContext:
    """Return a verifying context: the system's authorities, or only `ca_file`.

    Raises `OSError` and `ssl.SSLError` where a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    # Debian's Python leaves the lowest version to OpenSSL's configuration.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert is not None:
        context.load_cert_chain(client_cert, client_key)
    return context


def _environment_proxy(scheme: str, host: str, port: int) -> str | None:
    proxies = environment.getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or _is_exempt(host, port, proxies):
        return None
    # curl and httpx also take a proxy without a scheme for http.
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    kind = httpx.URL(proxy).scheme
    if kind != "http":
        raise TransportError(Code.PROXY, f"a proxy that is not http: {kind}")
    return proxy


def _is_exempt(host: str, port: int, proxies: dict[str, str]) -> bool:
    """Return whether NO_PROXY names a host: by name, domain, `host:port` or network."""
    bypass = environment.proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed
    if bypass(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxies):
        return True
    with suppress(ValueError):
        address = ip_address(host)
        for entry in proxies.get("no", "").split(","):
            with suppress(ValueError):
                if address in ip_network(entry.strip().strip("[]"), strict=False):
                    return True
    return False
