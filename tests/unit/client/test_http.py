"""One request: its answer, its bounds in size, proxies, cookies, and TLS."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from emitterd.client.http import tls_context
from emitterd.client.responses import TransportError
from emitterd.client.sockets import TransferLimits
from emitterd.codes import Code
from emitterd.text import MASK
from support.client import (
    OK,
    Identity,
    Listener,
    answering,
    http_client,
    make_identity,
    post,
    proxying,
    silent_port,
)

AFAR = "http://cqube.example.test/data"
pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Return a server's certificate."""
    return make_identity(tmp_path_factory.mktemp("tls"), "server")


def test_the_answer_is_returned() -> None:
    """Status, headers in lower case and body come back as the server gave them."""
    text = b"HTTP/1.1 418 Teapot\r\nX-Tea: Green\r\nContent-Length: 3\r\n\r\ntea"
    with Listener(answering(text)) as server, http_client() as client:
        answer = client.request("POST", server.url, {"X-Own": "yes"}, b'{"a": 1}', limit_bytes=100)
        [request] = server.heard

    assert (answer.status, answer.body, answer.whole) == (418, b"tea", True)
    assert answer.headers["x-tea"] == "Green"
    assert request.line == "POST / HTTP/1.1"
    assert request.headers["x-own"] == "yes"
    assert request.headers["user-agent"].startswith("emitterd/")
    assert request.body == b'{"a": 1}'


@pytest.mark.parametrize(("size", "whole"), [(99, True), (100, True), (101, False)])
def test_an_answer_is_bounded(size: int, *, whole: bool) -> None:
    """Of a longer answer only `limit_bytes` are returned, and it says so."""
    body = b"x" * size
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    with Listener(answering(head + body)) as server, http_client() as client:
        answer = post(client, server.url, limit=100)

    assert answer.body == body[:100]
    assert answer.whole is whole


def test_an_endless_answer_is_cut() -> None:
    """An answer without an end is dropped at its limit, and the next one is right."""

    def endless(server: Listener, connection: socket.socket) -> None:
        server.hear(connection)
        if len(server.heard) > 1:
            connection.sendall(OK)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.over.is_set():
            connection.sendall(b"y" * 65536)

    with Listener(endless) as server, http_client() as client:
        first = post(client, server.url, limit=1000)
        second = post(client, server.url, limit=1000)

    assert (first.body, first.whole) == (b"y" * 1000, False)
    assert second.body == b"ok"


def test_a_compressed_answer_is_not_asked_for() -> None:
    """A small answer cannot unfold into a huge one."""
    with Listener(answering(OK)) as server, http_client() as client:
        post(client, server.url)
        [request] = server.heard

    assert request.headers["accept-encoding"] == "identity"


def test_one_connection_serves_several_posts() -> None:
    """The next request uses the same connection."""
    with Listener(answering(OK)) as server, http_client() as client:
        for _ in range(5):
            assert post(client, server.url).status == 200

        assert len(server.heard) == 5
        assert server.lines == 1


def test_a_redirect_is_not_followed() -> None:
    """Following is for the caller to decide: a 307 is an answer."""
    text = b"HTTP/1.1 307 T\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n"
    with Listener(answering(text)) as server, http_client() as client:
        answer = post(client, server.url)

        assert (answer.status, answer.headers["location"]) == (307, "/else")
        assert len(server.heard) == 1


def test_cookies_of_one_answer_reach_no_other_request() -> None:
    """A cookie that was set is forgotten."""
    text = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: spy=1; Path=/\r\n\r\n")
    with Listener(answering(text)) as server, http_client() as client:
        post(client, server.url)
        post(client, server.url)

        assert len(server.heard) == 2
        assert not any("cookie" in request.headers for request in server.heard)


def test_the_configured_proxy_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy in the configuration NO_PROXY and its like do not matter."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Listener(answering(OK)) as server, Listener(proxying(server.port)) as proxy:
        address = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        with http_client(proxy=address) as client:
            answer = post(client, f"{AFAR}/upload-url")
        [asked], [arrived] = proxy.heard, server.heard

    assert answer.body == b"ok"
    assert asked.line == f"POST {AFAR}/upload-url HTTP/1.1"
    assert asked.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert arrived.line == "POST /data/upload-url HTTP/1.1"


def test_old_tls_is_not_spoken() -> None:
    """TLS 1.2 is the lowest version, also where Python leaves that to OpenSSL."""
    assert tls_context(None, None, None).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_the_environment_names_a_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one in the configuration the environment's proxy is used."""
    with Listener(answering(OK)) as server, Listener(proxying(server.port)) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        with http_client() as client:
            assert post(client, AFAR).body == b"ok"

        assert len(proxy.heard) == len(server.heard) == 1


def test_a_proxy_without_a_scheme_is_taken_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HTTP_PROXY=proxy.example.org:3128` means what it means to every other client."""
    with Listener(answering(OK)) as server, Listener(proxying(server.port)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        with http_client() as client:
            assert post(client, AFAR).body == b"ok"


def test_a_proxy_of_another_kind_is_a_proxy_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy in the environment is an error of the proxy."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with http_client() as client, pytest.raises(TransportError) as broken:
        post(client, AFAR)

    assert broken.value.code is Code.PROXY


@pytest.mark.parametrize(
    ("exempt", "direct"),
    [
        ("127.0.0.1", True),
        ("localhost,127.0.0.1", True),
        ("*", True),
        ("10.0.0.0/8, 127.0.0.0/8", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.1:1", False),
        ("127.0.1.0/24,::1/128,nothing/8,[::1]:{port}", False),
    ],
)
def test_no_proxy_is_honoured(
    exempt: str, monkeypatch: pytest.MonkeyPatch, *, direct: bool
) -> None:
    """A host that NO_PROXY names, alone or with its port or its network, is reached directly."""
    with Listener(answering(OK)) as server, Listener(proxying(server.port)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", exempt.format(port=server.port))
        with http_client() as client:
            assert post(client, server.url).body == b"ok"

        assert len(proxy.heard) == (not direct)
        assert len(server.heard) == 1


@pytest.mark.parametrize(
    ("exempt", "direct"),
    [("[::1]:{port}", True), ("::1", True), ("[::1]", True), ("::/64", True), ("[::1]:1", False)],
)
def test_no_proxy_is_honoured_for_ipv6(
    exempt: str, monkeypatch: pytest.MonkeyPatch, *, direct: bool
) -> None:
    """An address in brackets, with or without a port, and an IPv6 network count too."""
    with silent_port() as port, Listener(answering(OK)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", exempt.format(port=port))
        # Nobody listens on ::1.
        with http_client() as client, suppress(TransportError):
            post(client, f"http://[::1]:{port}/")

        assert len(proxy.heard) == (not direct)


def test_a_proxy_in_capital_letters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme of a URL may be written in any case."""
    with Listener(answering(OK)) as server, Listener(proxying(server.port)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"HTTP://127.0.0.1:{proxy.port}")
        with http_client() as client:
            assert post(client, AFAR).body == b"ok"

        assert len(proxy.heard) == 1


def test_a_proxy_that_quotes_its_password_gives_nothing_away() -> None:
    """The password of the proxy is masked in the proxy's own refusal."""
    refusal = b"HTTP/1.1 407 wrong: user geheim-p%40ss geheim-p@ss dXNlcjpnZWhlaW0tcEBzcw==\r\n\r\n"
    with Listener(proxying(0, refusal)) as proxy:
        address = f"http://user:geheim-p%40ss@127.0.0.1:{proxy.port}"
        with http_client(proxy=address) as client, pytest.raises(TransportError) as broken:
            post(client, "https://cqube.example.test/data")

    assert str(broken.value) == f"407 wrong: user {MASK} {MASK} {MASK}=="


def test_https_goes_through_a_tunnel(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request over https the proxy learns the host, and nothing else."""
    secure = Listener(answering(OK), identity.server_context())
    with secure as server, Listener(proxying(server.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with http_client(tls=tls_context(identity.certificate, None, None)) as client:
            assert post(client, f"{server.url}secret").body == b"ok"
        [asked], [arrived] = proxy.heard, server.heard

    assert asked.line == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
    assert asked.body == b""
    assert arrived.line == "POST /secret HTTP/1.1"


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad"])
def test_a_tunnel_that_is_refused_is_the_proxys_failure(status: str) -> None:
    """A proxy's refusal of CONNECT is not taken for an answer of the server."""
    refusal = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with Listener(proxying(0, refusal)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        with http_client(proxy=address) as client, pytest.raises(TransportError) as broken:
            post(client, "https://cqube.example.test/data")

    assert broken.value.code is Code.PROXY
    assert status[:3] in str(broken.value)


def test_a_407_without_a_tunnel_is_an_answer() -> None:
    """Over plain http the proxy's 407 is returned for the caller to classify."""
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with Listener(proxying(0, refusal)) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        with http_client(proxy=address) as client:
            assert post(client, AFAR).status == 407


def test_a_client_certificate_is_shown(identity: Identity, tmp_path: Path) -> None:
    """A server that demands a certificate gets the configured one."""
    shown = make_identity(tmp_path, "client")
    context = identity.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(shown.certificate)
    ours = tls_context(identity.certificate, shown.certificate, shown.key)
    with Listener(answering(OK), context) as server, http_client(tls=ours) as client:
        assert post(client, server.url).body == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, pytest.param(ssl.TLSVersion.TLSv1_3)])
def test_a_missing_client_certificate_is_a_tls_failure(
    identity: Identity, version: ssl.TLSVersion
) -> None:
    """A server that demands a certificate and gets none fails the handshake."""
    context = identity.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(identity.certificate)
    context.maximum_version = version
    ours = tls_context(identity.certificate, None, None)
    with Listener(answering(OK), context) as server, http_client(tls=ours) as client:
        with pytest.raises(TransportError) as broken:
            post(client, server.url)
        assert not server.heard

    assert broken.value.code is Code.TLS


@pytest.mark.parametrize("host", ["cqube..example.org", "x" * 64 + ".example.org"])
def test_an_impossible_host_name_is_a_dns_failure(host: str) -> None:
    """A label that is empty or too long cannot be resolved, and that is all."""
    with http_client() as client, pytest.raises(TransportError) as broken:
        post(client, f"http://{host}/")

    assert broken.value.code is Code.DNS


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/", "http://a\0/"])
def test_an_unusable_url_is_broken_like_any_other(url: str) -> None:
    """A url that httpx cannot parse raises `TransportError`."""
    with http_client() as client, pytest.raises(TransportError):
        post(client, url)


def test_other_limits_hold_from_the_next_request_on() -> None:
    """A shorter limit ends the next request."""

    def silent(listener: Listener, connection: socket.socket) -> None:
        listener.hear(connection)
        connection.recv(1)

    with Listener(silent) as server, http_client() as client:
        client.apply_settings(TransferLimits(5.0, 0.3, 0), None)
        with pytest.raises(TransportError) as broken:
            post(client, server.url)

    assert broken.value.code is Code.TOO_SLOW
