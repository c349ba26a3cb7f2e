"""The emission API: the login, the token that all workers share, and the grant."""

import gc
import json
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from emitterd.client.http import HttpClient
from emitterd.client.presigned.login import TOKEN_LIFETIME_S, TOKEN_LONGEST_S
from emitterd.client.session import Credentials
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.heartbeat import Heartbeat
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from emitterd.text import MASK
from support.client import Listener, answering, asked, emission_to, http_client, proxy_to, together
from support.faults import fault_list
from support.waiting import wait_until

PATH = b"pat/periodic_exam_mst.zip"
AFAR = "http://cqube.example.test/data"
THREADS = 8


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """Yield a client with generous limits."""
    with http_client() as client:
        yield client


def json_answer(value: object) -> bytes:
    """Return an HTTP answer of JSON."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_the_login_is_json_and_its_token_a_bearers(server: RehearsalServer) -> None:
    """User name and password go to /auth, the token to /upload-url, once each."""
    with proxy_to(server) as proxy, http_client(proxy=proxy.url) as client:
        emission = emission_to(client, AFAR)
        grant = emission.grant(PATH)
        emission.grant(b"other.zip")
        login, first, second = proxy.heard

    assert login.line == f"POST {AFAR}/auth HTTP/1.1"
    assert login.headers["content-type"] == "application/json"
    assert "authorization" not in login.headers
    assert json.loads(login.body) == {"username": "emission", "password": "rehearsal"}
    assert first.line == f"POST {AFAR}/upload-url HTTP/1.1"
    assert first.headers["authorization"].startswith("Bearer ")
    assert second.headers["authorization"] == first.headers["authorization"]
    assert json.loads(first.body) == {"filename": PATH.decode()}
    assert grant.url == "http://cqube.example.test/bucket/"
    assert grant.key.startswith("pat/periodic_exam_mst_")


@pytest.mark.parametrize("scheme", ["Bearer", "JWT"])
def test_an_api_key_is_sent_as_it_is(tmp_path: Path, scheme: str) -> None:
    """With an API key nobody logs in, and the configured scheme is used."""
    with (
        RehearsalServer(tmp_path, api_key="key.of.cqube") as server,
        proxy_to(server) as proxy,
        http_client(proxy=proxy.url) as client,
    ):
        emission = emission_to(client, AFAR, username=None, secret="key.of.cqube", scheme=scheme)
        emission.grant(PATH)
        [request] = proxy.heard

    assert request.line == f"POST {AFAR}/upload-url HTTP/1.1"
    assert request.headers["authorization"] == f"{scheme} key.of.cqube"


def test_a_wrong_password_pauses_uploads(server: RehearsalServer, client: HttpClient) -> None:
    """A refusal with HTTP 200 is a refusal; its reason does not hold the password."""
    emission = emission_to(client, server.url, secret="not-the-password")
    with pytest.raises(DeliveryError) as caught:
        emission.grant(PATH)

    assert (caught.value.decision, caught.value.code) == (Decision.PAUSE, Code.CREDENTIALS)
    assert "Invalid user credentials" in caught.value.reason
    assert "not-the-password" not in caught.value.reason


def test_after_a_refused_login_nobody_asks_again(
    server: RehearsalServer, client: HttpClient
) -> None:
    """Eight workers, three tries each, cost one login: accounts lock after five."""
    server.faults = fault_list("auth-error")
    emission = emission_to(client, server.url)
    outcomes = [
        outcome for _ in range(3) for outcome in together(THREADS, lambda: emission.grant(PATH))
    ]

    assert len(outcomes) == 3 * THREADS
    assert all(
        isinstance(outcome, DeliveryError) and outcome.code is Code.CREDENTIALS
        for outcome in outcomes
    )
    assert len(asked(server, "auth")) == 1
    assert server.fired["auth-error"] == 1


def test_one_login_serves_all_workers_at_the_start(
    server: RehearsalServer, client: HttpClient
) -> None:
    """Eight workers that begin at once log in once."""
    emission = emission_to(client, server.url)
    outcomes = together(THREADS, lambda: emission.grant(PATH))

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(asked(server, "auth")) == 1


def test_an_expired_token_costs_one_login(server: RehearsalServer, client: HttpClient) -> None:
    """Eight workers that meet 401 at once log in once, and all go on."""
    emission = emission_to(client, server.url)
    emission.grant(PATH)
    server.logins.tokens.clear()
    # Late answers, so that all eight have sent the dead token before the first 401.
    server.latency_s = 0.2
    outcomes = together(THREADS, lambda: emission.grant(PATH))

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(asked(server, "auth")) == 2
    refused = [request for request in asked(server, "upload-url") if request.status == 401]
    assert len(refused) == THREADS


@pytest.mark.parametrize(
    ("expected", "lifetime_s"),
    [
        ("1800", 1800),
        ("0.5", 0.5),
        ("1e999", TOKEN_LONGEST_S),
        ("1" + "0" * 400, TOKEN_LONGEST_S),
        ("-1", TOKEN_LIFETIME_S),
        ("NaN", TOKEN_LIFETIME_S),
        ('"soon"', TOKEN_LIFETIME_S),
        ("null", TOKEN_LIFETIME_S),
    ],
    ids=["usual", "short", "infinite", "huge", "negative", "none", "text", "null"],
)
def test_how_long_a_token_lives(client: HttpClient, expected: str, lifetime_s: float) -> None:
    """Any number that a login may say is a lifetime, or else the usual one is."""
    body = f'{{"access_token": "t", "expires_in": {expected}}}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
    with Listener(answering((head + body).encode())) as api:
        assert emission_to(client, api.url).login() == lifetime_s


def test_an_api_key_needs_no_login(client: HttpClient) -> None:
    """Nobody is asked, and nothing ends."""
    assert emission_to(client, AFAR, username=None).login() is None


def test_a_token_is_renewed_before_it_ends(tmp_path: Path, client: HttpClient) -> None:
    """No request is wasted on a token that is about to die."""
    with RehearsalServer(tmp_path, token_lifetime_s=2) as server:
        emission = emission_to(client, server.url)

        def renewed() -> bool:
            emission.grant(PATH)
            return len(asked(server, "auth")) > 1

        wait_until(renewed, 20, "a second login")

        assert {request.status for request in asked(server, "upload-url")} == {200}


def test_a_401_after_a_fresh_login_pauses_uploads(
    server: RehearsalServer, client: HttpClient
) -> None:
    """A token that is refused when it is new is no reason for a third login."""
    server.faults = fault_list("api-401")
    emission = emission_to(client, server.url)
    with pytest.raises(DeliveryError) as caught:
        emission.grant(PATH)

    assert (caught.value.decision, caught.value.code) == (Decision.PAUSE, Code.TOKEN_REFUSED)
    assert [request.endpoint for request in server.requests] == ["auth", "upload-url"] * 2
    assert server.fired["api-401"] == 2


@pytest.mark.parametrize("status", [b"503 Busy", b"401 Unauthorized"])
def test_a_failed_login_is_kept_by_nobody(client: HttpClient, status: bytes) -> None:
    """An outage of days, with a login tried each minute, takes no memory."""
    answer = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status
    with Listener(answering(answer)) as api:
        emission = emission_to(client, api.url)
        raised = []
        for _ in range(2):
            try:
                emission.login()
            except DeliveryError as caught:
                raised.append(weakref.ref(caught))
    gc.collect()
    assert [item() for item in raised] == [None, None]


def test_a_refused_api_key_pauses_without_a_login(tmp_path: Path, client: HttpClient) -> None:
    """There is nothing to renew: the key is asked once."""
    with RehearsalServer(tmp_path, api_key="right") as server:
        emission = emission_to(client, server.url, username=None, secret="wrong")
        with pytest.raises(DeliveryError) as caught:
            emission.grant(PATH)

        assert [request.endpoint for request in server.requests] == ["upload-url"]
    assert (caught.value.decision, caught.value.code) == (Decision.PAUSE, Code.TOKEN_REFUSED)


@pytest.mark.parametrize(
    ("menu", "code", "retry_after_s"),
    [
        ("reset-connect", Code.CONNECTION_LOST, None),
        ("auth-error", Code.CREDENTIALS, 60.0),
        ("auth-500", Code.API_TROUBLE, None),
        ("429:1:9", Code.RATE_LIMITED, 9.0),
        ("api-500", Code.API_TROUBLE, None),
        ("api-503:1:7", Code.API_TROUBLE, 7.0),
        ("api-401", Code.TOKEN_REFUSED, None),
        ("api-captive-portal", Code.MALFORMED_ANSWER, None),
        ("malformed-grant", Code.MALFORMED_ANSWER, None),
        pytest.param("grant-missing-fields", Code.MALFORMED_ANSWER, None),
        ("huge-grant", Code.MALFORMED_ANSWER, None),
        ("deep-grant", Code.MALFORMED_ANSWER, None),
        ("hostile-grant", Code.HOSTILE_GRANT, None),
        ("hostile-link-local", Code.HOSTILE_GRANT, None),
    ],
)
def test_failure_of_the_api_pauses_uploads(
    server: RehearsalServer, menu: str, code: Code, retry_after_s: float | None
) -> None:
    """Each fault has its code and pauses uploads, and only the API gets requests."""
    server.faults = fault_list(menu)
    with proxy_to(server) as proxy, http_client(proxy=proxy.url) as client:
        with pytest.raises(DeliveryError) as caught:
            emission_to(client, AFAR).grant(PATH)
        places = {request.line for request in proxy.heard}

    assert server.fired[menu.partition(":")[0]] > 0
    assert (caught.value.decision, caught.value.code) == (Decision.PAUSE, code)
    assert caught.value.retry_after_s == retry_after_s
    assert not caught.value.ambiguous
    assert places <= {f"POST {AFAR}/{name} HTTP/1.1" for name in ("auth", "upload-url")}
    assert not server.objects


def test_an_api_on_this_host_may_not_name_the_metadata_service(
    server: RehearsalServer, client: HttpClient
) -> None:
    """An API behind a local tunnel excuses loopback, not the link's own addresses."""
    server.faults = fault_list("hostile-link-local")
    with pytest.raises(DeliveryError) as caught:
        emission_to(client, server.url).grant(PATH)

    assert caught.value.code is Code.HOSTILE_GRANT


@pytest.mark.parametrize("menu", ["api-500@2", "auth-500@2", "reset-connect@1"])
def test_a_blip_is_tried_again_at_once(server: RehearsalServer, menu: str) -> None:
    """The same attempt survives a failure of some seconds."""
    server.faults = fault_list(menu)
    # Through a proxy: a reset meets us always after the connection stands.
    with proxy_to(server) as proxy, http_client(proxy=proxy.url) as client:
        assert emission_to(client, AFAR).grant(PATH).key

    assert server.fired[menu.partition("@")[0]] == int(menu[-1])


def test_a_wait_the_server_asks_for_is_not_cut_short(
    server: RehearsalServer, client: HttpClient
) -> None:
    """An answer with Retry-After is not tried again inside the attempt."""
    server.faults = fault_list("api-503:1:3")
    with pytest.raises(DeliveryError):
        emission_to(client, server.url).grant(PATH)

    assert server.fired["api-503"] == 1


def test_a_stop_interrupts_the_login() -> None:
    """A daemon that is stopping ends the request, and does not charge the entry."""
    shutdown = Shutdown()
    shutdown.now.set()
    with (
        Listener(answering(json_answer({"access_token": "t"}))) as api,
        http_client(shutdown=shutdown) as client,
        pytest.raises(DeliveryError) as caught,
    ):
        emission_to(client, api.url, shutdown=shutdown).grant(PATH)

    assert caught.value.decision is Decision.INTERRUPT
    assert not caught.value.ambiguous
    assert not api.heard


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_url_may_end_in_a_slash(
    server: RehearsalServer, client: HttpClient, slash: str
) -> None:
    """`emission.url` is one place, with the slash and without."""
    emission_to(client, server.url + slash).grant(PATH)

    assert [request.status for request in server.requests] == [200, 200]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"a/b/c.zip", "a/b/c.zip"),
        (b"pat/caf\xe9.zip", "pat/caf%E9.zip"),
        ("pat/परीक्षा.zip".encode(), "pat/परीक्षा.zip"),
        (b'pat/a "b"\\ %41\n.zip', 'pat/a "b"\\ %2541%0A.zip'),
    ],
)
def test_the_server_is_asked_for_the_relative_path(
    server: RehearsalServer, client: HttpClient, path: bytes, name: str
) -> None:
    """The name is the path below the folder; bytes that are no UTF-8 are escaped."""
    grant = emission_to(client, server.url).grant(path)

    assert asked(server, "upload-url")[0].name == name
    assert grant.key.startswith(name.removesuffix(".zip") + "_")


def test_the_grants_end_is_the_policys(tmp_path: Path, client: HttpClient) -> None:
    """A grant lives as long as its policy says."""
    with RehearsalServer(tmp_path, grant_lifetime_s=600) as server:
        before = time.time()
        grant = emission_to(client, server.url).grant(PATH)

        assert before <= grant.granted_at <= time.time()
        assert abs(grant.expires_at - grant.granted_at - 600) < 30


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/", "http://a\0/"])
def test_a_url_that_is_none_is_malformed(client: HttpClient, url: str) -> None:
    """A grant whose url cannot be parsed pauses uploads; it is not a bug of ours."""
    grant = {"url": url, "fields": {"key": "k", "policy": "p"}}
    with Listener(answering(json_answer(grant))) as api:
        emission = emission_to(client, api.url, username=None)
        with pytest.raises(DeliveryError) as caught:
            emission.grant(PATH)

    assert caught.value.decision is Decision.PAUSE


def identified(secret: str, scheme: str = "Bearer") -> Credentials:
    """Return the credentials of the usual user."""
    return Credentials("emission", lambda: secret, scheme)


def test_other_credentials_serve_the_next_login(
    server: RehearsalServer, client: HttpClient
) -> None:
    """A refusal of the former ones holds nobody back; equal ones are no others."""
    emission = emission_to(client, server.url, secret="wrong")
    with pytest.raises(DeliveryError):
        emission.grant(PATH)
    assert not emission.apply_credentials(identified("wrong"))
    with pytest.raises(DeliveryError):
        emission.grant(PATH)
    assert len(asked(server, "auth")) == 1
    assert emission.apply_credentials(identified("rehearsal"))
    emission.grant(PATH)

    assert len(asked(server, "auth")) == 2


def test_a_token_outlives_the_password(server: RehearsalServer, client: HttpClient) -> None:
    """Another password of the same user needs no login before the token ends."""
    emission = emission_to(client, server.url)
    emission.grant(PATH)
    assert emission.apply_credentials(identified("wrong by now"))
    emission.grant(PATH)

    assert len(asked(server, "auth")) == 1


def test_a_token_is_not_shown_in_another_scheme(
    server: RehearsalServer, client: HttpClient
) -> None:
    """With another scheme, or another user, somebody logs in anew."""
    emission = emission_to(client, server.url)
    emission.grant(PATH)
    emission.apply_credentials(identified("rehearsal", "JWT"))
    emission.grant(PATH)

    assert len(asked(server, "auth")) == 2


def test_credentials_changed_during_a_refused_login(
    server: RehearsalServer, client: HttpClient
) -> None:
    """A login that a reload made obsolete is repeated with the new password."""
    emission = emission_to(client, server.url, secret="wrong")
    server.latency_s = 0.5
    with ThreadPoolExecutor(1) as pool:
        grant = pool.submit(emission.grant, PATH)
        wait_until(lambda: asked(server, "auth"), 20, "a login under way")
        emission.apply_credentials(identified("rehearsal"))
        assert grant.result(20).key

    assert len(asked(server, "auth")) == 2


def signed(heartbeats: Heartbeat, since: float) -> bool:
    """Return whether every loop has given a sign since an instant."""
    return not heartbeats.stalled(since, 0.0)


def test_who_waits_for_a_login_gives_signs(server: RehearsalServer) -> None:
    """Threads that wait for another's slow login have not stalled."""
    shutdown, heartbeats = Shutdown(), Heartbeat()
    server.latency_s = 60.0
    with http_client(shutdown=shutdown) as client, ThreadPoolExecutor(2) as pool:
        emission = emission_to(client, server.url, shutdown=shutdown)

        def ask() -> None:
            with heartbeats.watch("worker"), suppress(DeliveryError):
                emission.grant(PATH)

        asking = [pool.submit(ask) for _ in range(2)]
        wait_until(lambda: len(heartbeats.stalled(1e12, 0.0)) == 2, 20, "both ask")
        wait_until(lambda: asked(server, "auth"), 20, "a login under way")
        for _ in range(3):
            wait_until(partial(signed, heartbeats, time.monotonic()), 20, "two signs")
        [login] = asked(server, "auth")
        assert login.status is None
        assert not any(thread.done() for thread in asking)
        shutdown.now.set()


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_a_password_that_the_login_quotes_is_masked(client: HttpClient, status: str) -> None:
    """Neither a refusal in JSON nor an error page brings the password into a reason."""
    page = "x" * 190 + "geheim-password wrong"
    body = json.dumps({"error": f"<Message>{page}</Message>"}).encode()
    text = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with Listener(answering(text)) as server, pytest.raises(DeliveryError) as caught:
        emission_to(client, server.url, secret="geheim-password").login()

    assert "geheim" not in str(caught.value)
    assert caught.value.reason.count("x") >= 180
    assert MASK[:1] in caught.value.reason


@pytest.mark.parametrize("token", ["", "\ud800", "t\u00f6ken", "two words", "line\r\nX: end"])
def test_a_token_that_no_header_can_have_pauses_uploads(client: HttpClient, token: str) -> None:
    """A broken login is the destination's failure, and nothing is sent with its token."""
    login = json_answer({"access_token": token})
    with Listener(answering(login)) as server, pytest.raises(DeliveryError) as caught:
        emission_to(client, server.url).grant(PATH)

    assert (caught.value.decision, caught.value.code) == (Decision.PAUSE, Code.MALFORMED_ANSWER)
    assert len(server.heard) == 1


def test_a_token_that_upload_url_quotes_is_masked(client: HttpClient) -> None:
    """An API that quotes the token in its error gives nothing away."""
    token = "eyJhbGciOi." * 40
    error = f"<Error><Message>not a token: {token}</Message></Error>".encode()
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(error), error)
    login = json_answer({"access_token": token})
    with Listener(answering(login, refusal)) as server, pytest.raises(DeliveryError) as caught:
        emission_to(client, server.url).grant(PATH)

    assert caught.value.reason == f"upload-url answered 400 (not a token: {MASK})"
    assert str(caught.value) == caught.value.reason
