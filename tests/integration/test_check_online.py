"""`check --online`: the result of each step, and what it never does."""

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest

from emitterd.cli.commands.check import diagnoses
from emitterd.cli.commands.check_online import online, stays_here
from emitterd.cli.output import Diagnosis
from emitterd.config.settings import Config, load
from emitterd.rehearsal.server import RehearsalServer
from support.client import (
    LOOPBACK,
    Identity,
    Listener,
    answering,
    asked,
    make_identity,
    need_localhost,
    proxy_to,
    proxying,
    silent_port,
)
from support.faults import fault_list

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")

PASSWORD = "rehearsal"
DIRECT = ["connection", "TLS", "clock", "login", "grant"]
BUCKET = ["bucket connection", "bucket TLS"]
LOGIN = f"username: emission\n  password: {PASSWORD}"
SECRETS = {"token-of-the-test", "policy-of-the-test", "signature-of-the-test", PASSWORD}


def configured(folder: Path, url: str, *more: str, login: str = LOGIN) -> Config:
    """Load a configuration; `more` are lines of its section `emission`."""
    (folder / "cqube_emission").mkdir(exist_ok=True)
    file = folder / "emitter.yaml"
    file.touch(0o600)
    lines = "\n  ".join([f"url: {url}", login, "allow_insecure_http: true", *more])
    file.write_text(
        f"emission:\n  {lines}\nspool:\n  directory: cqube_emission\njournal:\n  path: journal.db\n"
    )
    return load(file, {})


def checked(config: Config) -> list[Diagnosis]:
    """Check; every diagnosis has no secret, no forged line, and a remedy if needed."""
    results = list(online(config))
    for result in results:
        text = f"{result.subject} {result.message} {result.remedy}"
        assert text.isprintable()
        assert not [secret for secret in SECRETS if secret in text]
        assert bool(result.remedy) == (result.level != "ok")
    return results


def failed(config: Config) -> Diagnosis:
    """Run a check that must end in an error; return the error."""
    *before, last = checked(config)
    assert {result.level for result in before} <= {"ok", "warning"}
    assert last.level == "error"
    return last


def subjects(found: list[Diagnosis]) -> list[str]:
    """Return the subjects of the diagnoses."""
    return [result.subject for result in found]


def answer(body: object, *, date: str = "") -> bytes:
    """Return an HTTP answer; text goes as it is, all else as JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    dated = f"Date: {date}\r\n" if date else ""
    return f"HTTP/1.1 200 OK\r\n{dated}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def speaking(bucket: str, *, date: str = "") -> list[bytes]:
    """Return the answers of an API to a login and to a request for a grant."""
    fields = {
        "key": "emitterd_check/check_1.zip",
        "policy": "policy-of-the-test",
        "x-amz-signature": "signature-of-the-test",
    }
    return [
        answer({"access_token": "token-of-the-test", "expires_in": 300}, date=date),
        answer({"url": bucket, "fields": fields}, date=date),
    ]


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Return a server's certificate that holds for long."""
    return make_identity(tmp_path_factory.mktemp("tls"), "cqube", days=90)


@pytest.fixture
def bucket(identity: Identity) -> Iterator[Listener]:
    """Run a bucket over https."""
    with Listener(answering(answer("")), identity.server_context()) as bucket:
        yield bucket


def test_all_is_well_over_http(server: RehearsalServer, tmp_path: Path) -> None:
    """Every step has a result in order, http to this machine is no risk, and nothing is stored."""
    config = configured(tmp_path, server.url)
    found = checked(config)

    assert subjects(found) == DIRECT + BUCKET
    assert {result.level for result in [*found, *diagnoses(config)]} == {"ok"}
    messages = {result.subject: result.message for result in found}
    assert "30m" in messages["login"]
    assert LOOPBACK in messages["grant"]
    assert "1h" in messages["grant"]
    endpoints = [request.endpoint for request in server.requests]
    assert endpoints == ["auth", "upload-url", "object"]
    assert server.requests[1].name == "emitterd_check/check.zip"
    assert not server.objects


@pytest.mark.parametrize(
    ("fault", "level", "message", "remedy"),
    [
        ("", "ok", "the server says what became of delivered files", ""),
        ("no-role", "warning", "E402", "docs/tracking.md"),
        ("no-lists", "warning", "E404", "docs/tracking.md"),
        ("read-500", "warning", "E408", "administrator"),
    ],
)
def test_the_server_is_asked_whether_it_lets_itself_be_tracked(
    server: RehearsalServer, tmp_path: Path, fault: str, level: str, message: str, remedy: str
) -> None:
    """One request, and only if tracking is enabled; files are delivered without it."""
    server.faults = fault_list(fault)
    config = configured(tmp_path, server.url)
    config = replace(config, tracking=replace(config.tracking, enabled=True))
    found = checked(config)[-1]
    assert (found.subject, found.level) == ("tracking", level)
    assert message in found.message
    assert remedy in found.remedy
    assert len(asked(server, "list_s3_buckets")) == 1 + (fault == "no-role")


def test_all_is_well_over_https(tmp_path: Path, identity: Identity, bucket: Listener) -> None:
    """The result summarises the certificates; the bucket gets no file."""
    date = formatdate(usegmt=True)
    api = Listener(answering(*speaking(bucket.url, date=date)), identity.server_context())
    with api:
        config = configured(tmp_path, api.url, f"ca_file: {identity.certificate}")
        found = checked(config)

    assert subjects(found) == DIRECT + BUCKET
    assert {result.level for result in found} == {"ok"}
    messages = {result.subject: result.message for result in found}
    for name in ("TLS", "bucket TLS"):
        assert messages[name].startswith("TLSv1.3; the certificate of cqube, issued by")
        assert messages[name].endswith("in 89d")
    paths = [request.line.split()[1] for request in api.heard]
    assert paths == ["/auth", "/upload-url"]
    assert bucket.lines == 1
    assert [(request.line, request.body) for request in bucket.heard] == [("HEAD / HTTP/1.1", b"")]


def test_a_step_is_reported_before_the_next_begins(server: RehearsalServer, tmp_path: Path) -> None:
    """Each result is shown before the next step begins."""
    steps = online(configured(tmp_path, server.url))

    assert [next(steps).subject for _ in range(4)] == DIRECT[:4]
    assert [request.endpoint for request in server.requests] == ["auth"]


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    """Without an address there is no further step."""
    found = checked(configured(tmp_path, "https://name.invalid/data"))

    assert subjects(found) == ["DNS"]
    assert found[0].level == "error"
    assert found[0].message.startswith("E301 name.invalid: login: ")


def test_a_name_is_resolved(server: RehearsalServer, tmp_path: Path) -> None:
    """The result has the name and its addresses."""
    need_localhost()
    url = server.url.replace(LOOPBACK, "localhost")
    first, *_ = checked(configured(tmp_path, url))

    assert first.subject == "connection"
    assert first.message.startswith("localhost port ")
    assert LOOPBACK in first.message


@pytest.mark.parametrize("host", ["cqube..example.org", "x" * 64 + ".example.org"])
def test_an_impossible_name(tmp_path: Path, host: str) -> None:
    """A name that no resolver takes is a finding, not a bug."""
    last = failed(configured(tmp_path, f"https://{host}/data"))

    assert last.message.startswith("E301 ")


def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    """A refused connection names the host, and the remedy the firewall."""
    with Listener(answering()) as gone:
        url = gone.url
    last = failed(configured(tmp_path, url))

    assert last.subject == "connection"
    assert last.message.startswith(f"E302 {LOOPBACK}: ")
    assert "firewall" in last.remedy


def test_a_host_that_is_silent(tmp_path: Path) -> None:
    """A firewall that drops packets is given up at connect_timeout."""
    with silent_port() as port:
        url = f"http://{LOOPBACK}:{port}/data"
        last = failed(configured(tmp_path, url, "connect_timeout: 300ms"))

    assert last.subject == "connection"
    assert last.message.startswith("E304 ")


def test_a_handshake_that_hangs(tmp_path: Path) -> None:
    """A server that takes the connection and says nothing is given up."""

    def deaf(server: Listener, connection: socket.socket) -> None:
        del connection
        server.over.wait()

    with Listener(deaf) as server:
        url = server.url.replace("http:", "https:")
        last = failed(configured(tmp_path, url, "connect_timeout: 300ms"))

    assert last.subject == "connection"
    assert last.message.startswith("E304 ")


@pytest.mark.parametrize(
    ("days", "holder", "name", "trusted", "reason"),
    [
        (-1, LOOPBACK, LOOPBACK, True, "has expired"),
        (90, "127.0.0.2", LOOPBACK, True, f"is not valid for '{LOOPBACK}'"),
        (90, LOOPBACK, "localhost", True, "is not valid for 'localhost'"),
        (90, LOOPBACK, LOOPBACK, False, "self-signed certificate"),
    ],
    ids=["expired", "wrong address", "wrong name", "unknown authority"],
)
def test_a_certificate_that_is_refused(
    tmp_path: Path, days: int, holder: str, name: str, reason: str, *, trusted: bool
) -> None:
    """The reason is OpenSSL's, and no login is sent to a refused server."""
    if name == "localhost":
        need_localhost()
    shown = make_identity(tmp_path, "shown", days=days, host=f"IP:{holder}")
    more = [f"ca_file: {shown.certificate}"] if trusted else []
    served = answering(*speaking("https://unused/"))
    with Listener(served, shown.server_context()) as api:
        url = api.url.replace(LOOPBACK, name)
        last = failed(configured(tmp_path, url, *more))

        assert not api.heard
    assert last.subject == "TLS"
    assert last.message.startswith(f"E303 {name}: ")
    assert reason in last.message


def test_a_certificate_of_an_authority_that_is_not_in_ca_file(
    tmp_path: Path, identity: Identity
) -> None:
    """An authority that is not in ca_file is unknown."""
    issued = tmp_path / "issued"
    issued.mkdir()
    leaf = make_identity(issued, "leaf", issuer=identity)
    other = make_identity(issued, "other")
    with Listener(answering(), leaf.server_context()) as api:
        last = failed(configured(tmp_path, api.url, f"ca_file: {other.certificate}"))

    assert last.message.startswith(f"E303 {LOOPBACK}: ")
    assert "unable to get local issuer certificate" in last.message
    assert "emission.ca_file" in last.remedy


def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    """Below 14 days it is a warning, and the check goes on."""
    shown = make_identity(tmp_path, "shown", days=13)
    api = Listener(answering(*speaking("http://unused.invalid/")), shown.server_context())
    with api:
        found = checked(configured(tmp_path, api.url, f"ca_file: {shown.certificate}"))

    [messages] = [result for result in found if result.subject == "TLS"]
    assert messages.level == "warning"
    assert messages.message.endswith("in 12d")
    assert "login" in subjects(found)


def test_a_port_that_speaks_no_tls(server: RehearsalServer, tmp_path: Path) -> None:
    """An https url that leads to an http server says so."""
    last = failed(configured(tmp_path, server.url.replace("http:", "https:")))

    assert last.subject == "TLS"
    assert last.message.startswith(f"E303 {LOOPBACK}: ")
    assert "wrong version number" in last.message.lower().replace("_", " ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_demanded(
    tmp_path: Path, identity: Identity, version: ssl.TLSVersion
) -> None:
    """Whenever the server says that it wants one, the remedy names the key."""
    context = identity.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(identity.certificate)
    context.maximum_version = version
    with Listener(answering(*speaking("https://unused/")), context) as api:
        last = failed(configured(tmp_path, api.url, f"ca_file: {identity.certificate}"))

        assert not api.heard
    assert last.message.startswith(f"E303 {LOOPBACK}: ")
    assert "client_cert" in last.remedy


def test_nginx_demands_a_client_certificate(tmp_path: Path) -> None:
    """It shakes hands all the same, and says so in a page of its own."""
    page = "<html><center>No required SSL certificate was sent</center></html>"
    refusal = answer(page).replace(b"200 OK", b"400 Bad Request")
    with Listener(answering(refusal)) as api:
        last = failed(configured(tmp_path, api.url))

    assert last.subject == "TLS"
    assert last.message == (f"E303 {LOOPBACK}: login: the server wants a client certificate")
    assert "client_cert" in last.remedy


def test_a_client_certificate_is_shown(
    tmp_path: Path, identity: Identity, bucket: Listener
) -> None:
    """With the one that the server trusts all is well."""
    client = make_identity(tmp_path, "client")
    context = identity.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client.certificate)
    lines = {
        "ca_file": identity.certificate,
        "client_cert": client.certificate,
        "client_key": client.key,
    }
    more = [f"{key}: {file}" for key, file in lines.items()]
    with Listener(answering(*speaking(bucket.url)), context) as api:
        found = checked(configured(tmp_path, api.url, *more))

    assert {result.level for result in found} == {"ok"}


def test_a_wrong_password(server: RehearsalServer, tmp_path: Path) -> None:
    """It is refused once and not tried again: the server counts."""
    login = "username: emission\n  password: not-the-password"
    last = failed(configured(tmp_path, server.url, login=login))

    assert (last.subject, last.message) == (
        "login",
        "E401 the login says: Invalid user credentials",
    )
    assert "locks" in last.remedy
    assert [request.endpoint for request in server.requests] == ["auth"]


@pytest.mark.parametrize(("menu", "code"), [("auth-error", "E401"), ("auth-500", "E408")])
def test_a_login_is_tried_once(
    server: RehearsalServer, tmp_path: Path, menu: str, code: str
) -> None:
    """Even if it fails, one check is one login."""
    server.faults = fault_list(menu)
    last = failed(configured(tmp_path, server.url))

    assert last.message.startswith(code)
    assert server.fired[menu] == len(server.requests) == 1


def test_a_wrong_path(server: RehearsalServer, tmp_path: Path) -> None:
    """A 404 is no emission API, and the remedy speaks of the path."""
    last = failed(configured(tmp_path, server.url.replace("/data", "/dato")))

    message = "E404 login answered 404 (no Route matched with those values)"
    assert (last.subject, last.message) == ("login", message)
    assert "/data" in last.remedy


def test_a_captive_portal(tmp_path: Path) -> None:
    """A web page instead of a token has its own error."""
    with Listener(answering(answer("<html>Accept the terms</html>"))) as portal:
        last = failed(configured(tmp_path, portal.url))

        assert len(portal.heard) == 1
    assert last.subject == "login"
    assert last.message.startswith("E406 ")
    assert "captive portal" in last.remedy


def test_words_of_the_server_forge_nothing(tmp_path: Path) -> None:
    """A refusal that would colour the terminal is escaped."""
    refusal = {"error": "x", "error_description": "\x1b[32mok\nbucket  ok"}
    with Listener(answering(answer(refusal))) as api:
        last = failed(configured(tmp_path, api.url))

    assert r"\x1b[32mok\nbucket" in last.message


def test_cqube_5(tmp_path: Path) -> None:
    """The steps have the names of its protocol, a token is asked for, and nothing is uploaded."""
    with RehearsalServer(tmp_path / "server", protocol="ingestion") as server:
        config = configured(tmp_path, server.url, login="protocol: ingestion")
        found = checked(config)
        endpoints = [request.endpoint for request in server.requests]

    assert {result.level for result in found} == {"ok"}
    direct = ["connection", "TLS", "clock", "login", "file status"]
    assert subjects(found) == [*direct, "upload connection", "upload TLS"]
    assert endpoints[:2] == ["generatejwt", "file-status"]
    assert not server.ingestion.files


def test_an_api_key(tmp_path: Path) -> None:
    """With a key nobody logs in; the clock is compared at the grant."""
    with RehearsalServer(tmp_path / "server", api_key="key.of.cqube") as server:
        config = configured(tmp_path, server.url, login="api_key: key.of.cqube")
        found = checked(config)

        endpoints = [request.endpoint for request in server.requests]
    assert endpoints == ["upload-url", "object"]
    order = ["login", "connection", "TLS", "clock", "grant"]
    assert subjects(found) == order + BUCKET
    assert "API key" in found[0].message


def test_a_refused_api_key(tmp_path: Path) -> None:
    """It is asked once."""
    with RehearsalServer(tmp_path / "server", api_key="right") as server:
        last = failed(configured(tmp_path, server.url, login="api_key: wrong"))

        assert len(server.requests) == 1
    assert last.subject == "grant"
    assert last.message.startswith("E402 ")


@pytest.mark.parametrize(
    ("server_ahead_s", "level", "expected"),
    [
        (-50, "ok", "agrees"),
        (50, "ok", "agrees"),
        (-80, "warning", "s ahead of the server's"),
        (80, "warning", "s behind the server's"),
        (-800, "warning", "m ahead of the server's"),
        (-1000, "error", "m ahead of the server's"),
        (1000, "error", "m behind the server's"),
    ],
)
def test_the_clock(tmp_path: Path, server_ahead_s: int, level: str, expected: str) -> None:
    """A wrong clock has its direction, and does not end the check."""
    date = formatdate(time() + server_ahead_s, usegmt=True)
    with Listener(answering(*speaking("http://unused.invalid/", date=date))) as api:
        found = checked(configured(tmp_path, api.url))

    [clock] = [result for result in found if result.subject == "clock"]
    assert clock.level == level
    assert expected in clock.message
    assert clock.message.startswith("E509 ") == (level != "ok")
    assert subjects(found)[2:5] == ["clock", "login", "grant"]


def test_the_clock_is_reported_with_a_refused_login(
    server: RehearsalServer, tmp_path: Path
) -> None:
    """A refusal has a date too, and a wrong clock may be its reason."""
    server.faults = fault_list("auth-error")
    found = checked(configured(tmp_path, server.url))

    assert subjects(found)[2:] == ["clock", "login"]


@pytest.mark.parametrize(
    ("menu", "code"),
    [
        ("hostile-grant", "E407"),
        ("hostile-link-local", "E407"),
        ("malformed-grant", "E406"),
        ("huge-grant", "E406"),
        ("api-captive-portal", "E406"),
        ("api-401", "E402"),
        ("api-500", "E408"),
        ("429", "E409"),
    ],
)
def test_a_grant_that_is_none(
    server: RehearsalServer, tmp_path: Path, menu: str, code: str
) -> None:
    """What is wrong with a grant ends the check with its code."""
    server.faults = fault_list(menu)
    last = failed(configured(tmp_path, server.url))

    assert last.subject == "grant"
    assert last.message.startswith(f"{code} ")
    assert not asked(server, "bucket")


def test_a_name_that_the_server_refuses(tmp_path: Path) -> None:
    """A 400 is not blamed on the name, which is ours."""
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"
    with Listener(answering(speaking("")[0], refusal)) as api:
        last = failed(configured(tmp_path, api.url))

    assert last.message == "E405 upload-url answered 400"
    assert "emission.url" in last.remedy


@pytest.mark.parametrize(
    ("url", "subject", "code"),
    [
        ("http://bucket.invalid/", "bucket DNS", "E301"),
        (f"http://{LOOPBACK}:1/", "bucket connection", "E302"),
        ("https://bad_host..invalid/", "bucket DNS", "E301"),
        ("https://a b/", "bucket DNS", "E301"),
    ],
)
def test_a_bucket_out_of_reach(tmp_path: Path, url: str, subject: str, code: str) -> None:
    """The error names the bucket if only the bucket cannot be reached."""
    with Listener(answering(*speaking(url))) as api:
        last = failed(configured(tmp_path, api.url))

    assert last.subject == subject
    assert last.message.startswith(code)


def test_a_bucket_of_another_authority(tmp_path: Path, bucket: Listener) -> None:
    """A ca_file without the bucket's authority is an error of the bucket."""
    own = make_identity(tmp_path, "own", days=90)
    with Listener(answering(*speaking(bucket.url)), own.server_context()) as api:
        last = failed(configured(tmp_path, api.url, f"ca_file: {own.certificate}"))

    assert last.subject == "bucket TLS"
    assert last.message.startswith("E303 ")
    assert "emission.ca_file" in last.remedy


def test_a_proxy_finds_the_host(server: RehearsalServer, tmp_path: Path) -> None:
    """With a proxy no name is resolved here, and its password is not shown."""
    with proxy_to(server) as proxy:
        address = f"http://user:{PASSWORD}@{LOOPBACK}:{proxy.port}"
        url = "http://cqube.example.test/data"
        found = checked(configured(tmp_path, url, f"proxy: {address}"))

        assert len(proxy.heard) == 3
    assert subjects(found) == DIRECT + BUCKET
    assert f"port {proxy.port} answers" in found[0].message


def test_http_to_another_machine_is_one_warning(server: RehearsalServer, tmp_path: Path) -> None:
    """`check` warns of emission.url; `--online` does not repeat it for each connection."""
    with proxy_to(server) as proxy:
        address = f"proxy: http://{LOOPBACK}:{proxy.port}"
        config = configured(tmp_path, "http://cqube.example.test/data", address)
        warnings = [result for result in [*diagnoses(config), *checked(config)] if result.remedy]

    assert [warning.subject for warning in warnings] == ["emission.url"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.8.0.1:8642/data", True),
        ("http://[::1]:8642/data", True),
        ("http://localhost/data", True),
        ("http://localhost.example.org/data", False),
        ("http://10.0.0.5/data", False),
    ],
)
def test_a_connection_that_stays_on_this_machine(url: str, *, expected: bool) -> None:
    """Only the host decides."""
    assert stays_here(url) is expected


def test_tls_through_a_proxy(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's proxy is tunnelled through, to the bucket too."""
    elsewhere = f"https://{LOOPBACK}:9/"
    api = Listener(answering(*speaking(elsewhere)), identity.server_context())
    more = f"ca_file: {identity.certificate}"
    with api, Listener(proxying(api.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://a:b@{LOOPBACK}:{proxy.port}")
        found = checked(configured(tmp_path, api.url, more))
        heard = list(proxy.heard)

    assert subjects(found)[:2] == DIRECT[:2]
    assert subjects(found)[-2:] == BUCKET
    assert {result.level for result in found} == {"ok"}
    assert {request.line.split()[0] for request in heard} == {"CONNECT"}
    assert {request.headers["proxy-authorization"] for request in heard} == {"Basic YTpi"}


def test_an_unknown_authority_behind_a_proxy(tmp_path: Path, bucket: Listener) -> None:
    """A proxy that decrypts TLS is an unknown authority."""
    with Listener(proxying(bucket.port)) as proxy:
        more = f"proxy: http://{LOOPBACK}:{proxy.port}"
        last = failed(configured(tmp_path, bucket.url, more))

    assert last.subject == "TLS"
    assert last.message.startswith("E303 ")


def test_a_proxy_that_refuses(tmp_path: Path) -> None:
    """The error has the proxy's answer."""
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with Listener(proxying(0, refusal)) as proxy:
        more = f"proxy: http://{LOOPBACK}:{proxy.port}"
        last = failed(configured(tmp_path, "https://cqube.example.test/data", more))

    assert last.subject == "proxy"
    assert last.message.startswith("E308 ")
    assert "407" in last.message


def test_a_proxy_that_is_gone(tmp_path: Path) -> None:
    """A proxy that does not answer is the first error."""
    with Listener(answering()) as gone:
        more = f"proxy: {gone.url}"
    last = failed(configured(tmp_path, "https://cqube.example.test/data", more))

    assert last.subject == "connection"
    assert last.message.startswith(f"E302 {LOOPBACK}: ")


def test_a_proxy_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy in the environment is an error."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    last = failed(configured(tmp_path, "https://cqube.example.test/data"))

    assert last.subject == "proxy"
    assert last.message.startswith("E308 ")


def test_a_bucket_whose_name_no_proxy_rule_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is no IDNA is a finding, not a bug."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with Listener(answering(*speaking("https://xn--a/"))) as api:
        last = failed(configured(tmp_path, api.url))

    assert last.subject == "bucket DNS"
    assert last.message.startswith("E301 ")


def test_no_proxy_is_honoured(
    server: RehearsalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that NO_PROXY names is looked at directly."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    found = checked(configured(tmp_path, server.url))

    assert subjects(found) == DIRECT + BUCKET
