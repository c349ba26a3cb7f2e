"""One HTTP request, its answer bounded in size: the only module that knows httpx.

Its requests, answers and transports are used without its client, which would add what
must not be here (redirects, cookies, credentials out of a url) and a fifth of the time
of a small request.
"""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib import request as environment

import httpx

from emitterd import __version__
from emitterd.client.bandwidth import Throttle
from emitterd.client.body import Body
from emitterd.client.responses import BrokenConnection
from emitterd.client.sockets import (
    ConnectionTarget,
    Pools,
    Proxy,
    TransferLimits,
    TransportError,
    watched,
)
from emitterd.shutdown import Shutdown

if TYPE_CHECKING:
    import httpcore

PLACES = 64
"""So many urls, and hosts' proxies, are remembered; there are two, API and bucket."""

_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": f"emitterd/{__version__}",
}


@dataclass(frozen=True, slots=True)
class Response:
    """What the server said; header names in lower case.

    `body` holds the first `limit_bytes`; `whole` whether that is all of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


class _Transport(httpx.BaseTransport):
    """httpx over the watched sockets."""

    def __init__(self, pools: Pools, proxy: str | None) -> None:
        self._pools = pools
        self._proxy = proxy
        # To read the environment takes longer than all else here.
        self._route = lru_cache(PLACES)(self._find_route)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self._pools.send(
            request.method,
            ConnectionTarget(url.raw_scheme, url.raw_host, url.port, url.raw_path),
            request.headers.raw,
            request.stream,  # type: ignore[arg-type]  # the sync half of httpx
            extensions=request.extensions,
            proxy=self.proxy(url),
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_ResponseStream(answer)
        )

    def proxy(self, url: httpx.URL) -> Proxy | None:
        return self._route(url.scheme, url.host)

    def _find_route(self, scheme: str, host: str) -> Proxy | None:
        proxy = self._proxy or _environment_proxy(scheme, host)
        return _split(proxy) if proxy else None

    def leave(self) -> None:
        self._pools.leave()

    def close(self) -> None:
        self._pools.close()


class _ResponseStream(httpx.SyncByteStream):
    def __init__(self, answer: "httpcore.Response") -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class HttpClient:
    """Sends requests, one at a time a thread. Thread-safe."""

    def __init__(
        self,
        limits: TransferLimits,
        *,
        tls: ssl.SSLContext,
        proxy: str | None,
        shutdown: Shutdown,
        on_answer: Callable[[Response], None] | None = None,
    ) -> None:
        """Make ready; nothing is connected before the first request.

        `proxy`: an http:// proxy for everything; without it the environment's
        HTTPS_PROXY, HTTP_PROXY and NO_PROXY hold. `shutdown.now` ends what is
        under way. `on_answer` is told of each answer.
        """
        self._limits = limits
        self.throttle = Throttle()
        """What bodies share; the API's requests, some hundred bytes, pass it by."""
        self._shutdown = shutdown
        # Hardly ever another one than before; and it is not changed by use.
        self._parsed = lru_cache(PLACES)(httpx.URL)
        self._on_answer = on_answer or (lambda _: None)
        self._transport = _Transport(Pools(tls), proxy)

    def adopt(self, limits: TransferLimits) -> None:
        """Bound what begins from now on by other limits."""
        self._limits = limits

    def post(
        self,
        url: str,
        content: bytes | Body,
        headers: dict[str, str],
        *,
        limit_bytes: int,
    ) -> Response:
        """Send one POST and return its answer, whatever its status.

        Raises `TransportError` where none came, `Stopped` where the daemon stops, and
        what the body raises.
        """
        if isinstance(content, Body):
            headers = {
                **headers,
                "Content-Type": content.content_type,
                "Content-Length": str(content.size_bytes),
            }
        return self._send("POST", url, content, headers, limit_bytes)

    def get(self, url: str, headers: dict[str, str], *, limit_bytes: int) -> Response:
        """Send one GET and return its answer, whatever its status.

        Raises `TransportError` where none came, and `Stopped` where the daemon stops.
        """
        return self._send("GET", url, None, headers, limit_bytes)

    def _send(
        self,
        method: str,
        url: str,
        content: bytes | Body | None,
        headers: dict[str, str],
        limit_bytes: int,
    ) -> Response:
        limits = self._limits
        try:
            request = httpx.Request(
                method,
                self._parsed(url),
                headers={**_HEADERS, **headers},
                content=content,
                extensions={"timeout": {"connect": limits.connect_s}},
            )
            throttle = self.throttle if isinstance(content, Body) else None
            with watched(limits, self._shutdown, throttle):
                answer = self._exchange(request, limit_bytes)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransportError(BrokenConnection.LOST, str(error)) from error
        self._on_answer(answer)
        return answer

    def proxy(self, url: str) -> Proxy | None:
        """Return the proxy that a request to `url` goes through, or None.

        Raises `TransportError` where it, or the url, cannot be used.
        """
        try:
            return self._transport.proxy(httpx.URL(url))
        except UnicodeError as error:
            raise TransportError(BrokenConnection.DNS, str(error)) from error
        except httpx.InvalidURL as error:
            raise TransportError(BrokenConnection.LOST, str(error)) from error

    def leave(self) -> None:
        """Close the connections of this thread, which sends no more."""
        self._transport.leave()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _exchange(self, request: httpx.Request, limit_bytes: int) -> Response:
        response = self._transport.handle_request(request)
        try:
            body = bytearray()
            whole = True
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > limit_bytes:
                    whole = False
                    break
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Response(
                response.status_code, headers, bytes(body[:limit_bytes]), whole
            )
        finally:
            response.close()


def tls_context(
    ca_file: str | None, client_cert: str | None, client_key: str | None
) -> ssl.SSLContext:
    """Return a verifying context: the system's authorities, or only `ca_file`.

    Raises `OSError` and `ssl.SSLError` where a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    # Not every Python does so by itself: Debian's leaves it to OpenSSL.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert is not None:
        context.load_cert_chain(client_cert, client_key)
    return context


def _environment_proxy(scheme: str, host: str) -> str | None:
    proxies = environment.getproxies_environment()
    bypass = environment.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed has it not
    if not proxies or bypass(host, proxies):
        return None
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy:
        return None
    # As curl and httpx take it.
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith("http://"):
        raise TransportError(
            BrokenConnection.PROXY,
            f"a proxy that is not http: {httpx.URL(proxy).scheme}",
        )
    return proxy


def _split(proxy: str) -> Proxy:
    url = httpx.URL(proxy)
    auth = (url.username, url.password) if url.username else None
    return Proxy(str(url.copy_with(username=None, password=None)), auth)
