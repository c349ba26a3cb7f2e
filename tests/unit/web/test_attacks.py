"""What an attacker may try against login and actions: docs/security.md lists these tests."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from structlog.testing import capture_logs

from emitterd.journal.journal import Journal
from emitterd.model import State
from emitterd.web.access.sessions import NAME_TRIES, Address
from emitterd.web.access.users import Role, User, hash_password, verify
from emitterd.web.endpoint import Endpoint
from emitterd.web.http_server import CONNECTIONS, FORM_MAX_BYTES, FORM_TYPE, THREADS
from support.page import Desk
from support.visitors import (
    OTHER_PASSWORD,
    PASSWORD,
    ServedPage,
    Visitor,
    make_user,
    serve_page,
    write_users,
)

FILE = "pat/marks.zip"
PUBLIC = "emitterd.office.example"
PAGES = ["/", "/overview", "/explain?path=pat/marks.zip", "/login", "/nothing"]


@pytest.fixture
def site(spool_root: Path, journal: Journal, tmp_path: Path) -> Iterator[ServedPage]:
    """Serve the page with an operator, a producer, a TLS proxy, and one waiting file."""
    operators = tmp_path / "operators"
    write_users(operators, make_user("asha"), make_user("ravi", Role.PRODUCER))
    desk = Desk(
        spool_root,
        journal,
        tmp_path / "state" / "journal.db",
        operators=operators,
        address=Address(
            local=True, public_url=f"https://{PUBLIC}", client_header="X-Client-Address"
        ),
    )
    desk.admit(FILE.encode())
    with serve_page(desk) as site:
        yield site


@pytest.fixture
def asha(site: ServedPage) -> Visitor:
    """Log the operator in, on this machine."""
    browser = site.browser()
    assert browser.log_in().status == 303
    return browser


def state(site: ServedPage) -> State:
    """Return the state of the file."""
    known = site.desk.journal.latest(FILE.encode())
    assert known is not None
    return known.state


def untouched(site: ServedPage) -> bool:
    """Return whether nobody has done anything to a file."""
    return state(site) is State.QUEUED and not site.users()


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        f"http://evil.example/{PUBLIC}",
        f"https://{PUBLIC}",
        f"https://{PUBLIC}.evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost",
    ],
)
def test_forgery_a_form_of_another_site_is_refused(
    site: ServedPage, asha: Visitor, origin: str
) -> None:
    """Even with the cookie and the right token."""
    form = {"form_token": asha.get("/").token, "operation": "hold", "path": FILE}
    for path in ("/act", "/logout", "/login"):
        assert asha.post(path, form, Origin=origin).status == 403
    assert untouched(site)
    assert asha.user == "asha"


@pytest.mark.parametrize("token", ["", "x", "of a visitor", "of another session"])
def test_forgery_a_form_without_the_token_of_its_session_is_refused(
    site: ServedPage, asha: Visitor, token: str
) -> None:
    """A page of another site cannot read the token, with any cookies that the browser adds."""
    other = site.browser()
    if token == "of a visitor":
        token = other.get("/login").token
    elif token == "of another session":
        other.log_in()
        token = other.get("/").token
    assert token != asha.get("/").token
    answer = asha.post("/act", {"form_token": token, "operation": "hold", "path": FILE})

    assert (answer.status, answer.title) == (403, "This form is too old")
    assert untouched(site)


def test_forgery_nobody_is_logged_in_by_a_foreign_form(site: ServedPage) -> None:
    """A login needs the token of a form that this browser has opened."""
    browser = site.browser()
    token = site.browser().get("/login").token
    form = {"form_token": token, "name": "asha", "password": PASSWORD}
    assert browser.post("/login", form).status == 403
    browser.get("/login")
    assert browser.post("/login", form).status == 403
    assert browser.user == ""


def test_forgery_an_action_needs_post(site: ServedPage, asha: Visitor) -> None:
    """A link or an image cannot act, and cannot log out."""
    token = asha.get("/").token
    for path in ("/act", "/logout"):
        query = f"form_token={token}&operation=hold&path={FILE}"
        assert asha.get(f"{path}?{query}").status in {404, 405}
    assert untouched(site)
    assert asha.user == "asha"


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PUBLIC}", f"{PUBLIC}:444", "x"])
def test_rebinding_another_name_for_this_address_gets_nothing(site: ServedPage, host: str) -> None:
    """A page of evil.example whose name leads to this machine reads no page and logs nobody in."""
    browser = site.browser(host)
    for path in PAGES:
        answer = browser.get(path)
        assert answer.status == 421
        assert FILE not in answer.text
    fields = {"form_token": site.browser().get("/login").token, "name": "asha"}
    assert browser.post("/login", fields | {"password": PASSWORD}).status == 421
    assert site.browser(PUBLIC, "https").get("/login").status == 200


def test_fixation_a_login_makes_a_session_that_nobody_knew_before(site: ServedPage) -> None:
    """A cookie that an attacker has put into the browser is not the session's, before or after."""
    browser = site.browser()
    browser.cookies["emitterd_session"] = "known-to-the-attacker"
    browser.log_in()
    first = browser.cookies["emitterd_session"]
    assert first != "known-to-the-attacker"

    second = site.browser()
    second.cookies = dict(browser.cookies)
    fields = {"form_token": second.get("/").token, "name": "asha", "password": PASSWORD}
    second.post("/login", fields)
    assert second.cookies["emitterd_session"] not in {first, "known-to-the-attacker"}
    # The session of before ends with the new login.
    assert browser.user == ""


def test_guessing_the_next_try_waits_longer_and_longer(site: ServedPage) -> None:
    """During the wait the right password is not even looked at, and the page says so."""
    browser = site.browser()
    for _ in range(NAME_TRIES):
        assert browser.log_in(password="wrong").status == 403
    answer = browser.log_in(password=PASSWORD)

    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Too many wrong passwords" in answer.text
    assert browser.user == ""


def test_guessing_in_parallel_gets_no_more_tries(site: ServedPage) -> None:
    """Each try counts before its password is checked."""
    browsers = [site.browser() for _ in range(3 * THREADS)]
    with ThreadPoolExecutor(len(browsers)) as pool:
        statuses = list(pool.map(lambda browser: browser.log_in(password="wrong").status, browsers))
    # Others log in at this moment: 503.
    assert 1 <= statuses.count(403) <= NAME_TRIES
    assert set(statuses) <= {403, 429, 503}


def test_guessing_does_not_lock_the_operator_out(site: ServedPage, asha: Visitor) -> None:
    """A browser that has logged in before does not wait for the wrong passwords of others."""
    asha.post("/logout", {"form_token": asha.get("/").token})
    attacker = site.browser()
    while attacker.log_in(password="wrong").status != 429:
        pass
    assert asha.log_in().status == 303
    assert asha.user == "asha"


def test_guessing_from_one_address_keeps_nobody_else_waiting(site: ServedPage) -> None:
    """Behind a proxy that passes the addresses on, an operator can log in with a new browser."""
    attacker, asha = (site.browser(PUBLIC, "https") for _ in range(2))
    attacker.proxy = {"X-Client-Address": "10.0.0.66"}
    asha.proxy = {"X-Client-Address": "10.0.0.1"}
    while attacker.log_in(password="wrong").status != 429:
        pass
    assert asha.log_in().status == 303
    assert asha.user == "asha"


def test_clickjacking_no_page_can_be_in_a_frame(site: ServedPage, asha: Visitor) -> None:
    """Of nobody, and no page lets a script in."""
    answers = [asha.get("/"), *map(site.browser().get, PAGES)]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "form-action 'self'" in policy


def test_large_forms_are_refused(site: ServedPage, asha: Visitor) -> None:
    """By their size, by their number of fields, and by their type."""
    token = asha.get("/").token
    form = {"form_token": token, "operation": "hold", "path": FILE}
    assert asha.post("/act", form | {"x": "x" * FORM_MAX_BYTES}).status == 413
    assert asha.post("/act", form | {str(n): "" for n in range(1000)}).status == 400
    assert asha.post("/act", form, Content_Type="text/plain").status == 415
    assert asha.post("/act", form, Content_Type="multipart/form-data; boundary=x").status == 415
    assert untouched(site)


def test_slow_forms_keep_nobody_waiting(site: ServedPage, asha: Visitor) -> None:
    """While many clients send a form byte by byte, a page is served and a form accepted.

    More clients than there may be connections, and none has logged in.
    """
    with ExitStack() as stack:
        for _ in range(CONNECTIONS + 10):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            head = f"POST /login HTTP/1.1\r\nHost: {site.local}\r\nContent-Type: {FORM_TYPE}\r\n"
            slow.sendall(f"{head}Content-Length: 1000\r\n\r\nname=a".encode())
        for path in ("/healthz", "/readyz", "/metrics"):
            assert site.browser().get(path).status == 200
        assert asha.user == "asha"
        assert asha.act("hold", FILE).status == 303
    assert state(site) is State.HELD


@pytest.mark.slow
def test_enumeration_an_unknown_name_answers_as_a_wrong_password(site: ServedPage) -> None:
    """By its status, its text, and its waits."""
    answers = {}
    for name in ("asha", "nobody", "आशा"):
        browser = site.browser()
        answer = browser.log_in(name, "wrong")
        text = re.sub(r'value="[^"]*"|<time.*?</time>', "", answer.text)
        answers[name] = (answer.status, text, sorted(browser.cookies))
    assert answers["nobody"] == answers["asha"] == answers["आशा"]


@pytest.mark.slow
def test_enumeration_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    """The time of the processor differs by less than the noise of one hash."""
    known = User("asha", Role.OPERATOR, hash_password(PASSWORD))

    def cost_s(user: User | None) -> float:
        began = time.thread_time()
        assert not verify(user, "wrong")
        return time.thread_time() - began

    pairs = [(cost_s(known), cost_s(None)) for _ in range(2)]
    assert 0.5 < min(one for one, _ in pairs) / min(other for _, other in pairs) < 2


def test_theft_no_script_can_read_a_cookie(site: ServedPage) -> None:
    """And none goes to another site. Through the proxy none goes unencrypted, or to its sisters."""
    local, public = site.browser(), site.browser(PUBLIC, "https")
    for browser in (local, public):
        assert browser.log_in().status == 303
        assert len(browser.set_cookies) == 3
        for cookie in browser.set_cookies:
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert "Path=/" in cookie
            assert "Domain" not in cookie
            secure = browser is public
            assert ("Secure" in cookie) is secure
            assert cookie.startswith("__Host-") is secure
    assert local.user == public.user == "asha"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/%09/evil.example",
        "javascript:alert(1)",
        "explain?path=x\r\nSet-Cookie: a=b",
        "?\r\n\r\n<script>",
        "..//evil.example",
        "explain@evil.example",
        "logout",
        "?\udcff",
    ],
)
def test_redirect_a_login_leads_to_this_site_only(site: ServedPage, target: str) -> None:
    """The form may name any page to go back to."""
    browser = site.browser()
    answer = browser.log_in(next=target)

    assert answer.status == 303
    base = f"http://{site.local}/login"
    assert urlsplit(urljoin(base, answer.location)).netloc == site.local
    assert re.fullmatch(r"\./([a-z]*(\?[!-~]*)?)", answer.location)
    assert answer.location != "./logout"
    assert "a" not in browser.cookies


def test_redirect_a_login_leads_back_to_its_page(site: ServedPage) -> None:
    """A link on the page of a file names that page."""
    browser = site.browser()
    page = browser.get("/explain?path=pat/marks.zip")
    link = re.search(r'href="(login\?next=[^"]*)"', page.text)
    assert link is not None
    form = browser.get(f"/{link[1]}")
    target = re.search(r'name="next" value="([^"]*)"', form.text)
    assert target is not None
    answer = browser.log_in(next=target[1].replace("&amp;", "&"))
    assert answer.location == "./explain?path=pat/marks.zip"


def test_old_sessions_leave_no_page_in_the_browser(site: ServedPage, asha: Visitor) -> None:
    """After a logout its Back button asks again; only the answer to a form is not asked for."""
    kept, not_kept = "private, no-cache", "private, no-store"
    for path in ("/", f"/explain?path={FILE}", "/files", "/nothing"):
        assert asha.get(path).headers["Cache-Control"] == not_kept
        assert site.browser().get(path).headers["Cache-Control"] == kept
    assert asha.act("forget", FILE, confirmation="x").headers["Cache-Control"] == kept


def test_old_sessions_are_worth_nothing_after_logout(site: ServedPage, asha: Visitor) -> None:
    """Nor is a copy of the cookie with a form of before: a replay."""
    copy = site.browser()
    copy.cookies = dict(asha.cookies)
    form = {"form_token": asha.get("/").token, "operation": "hold", "path": FILE}
    assert copy.user == "asha"
    assert asha.post("/logout", {"form_token": form["form_token"]}).status == 303
    assert "emitterd_session" not in asha.cookies

    answer = copy.post("/act", form)

    assert (answer.status, answer.title) == (403, "Only operators may do this")
    assert copy.user == ""
    assert untouched(site)


@pytest.mark.parametrize(
    "now",
    [
        [],
        [make_user("asha", password=OTHER_PASSWORD)],
        [make_user("asha", Role.PRODUCER)],
        ["broken"],
    ],
)
def test_old_sessions_end_with_the_operator(
    site: ServedPage, asha: Visitor, now: list[User | str]
) -> None:
    """Removed, with another password or role, or with a file that cannot be used."""
    form = {"form_token": asha.get("/").token, "operation": "hold", "path": FILE}
    if now == ["broken"]:
        site.operators.write_text("asha:operator\n")
    else:
        write_users(site.operators, *(user for user in now if isinstance(user, User)))

    assert asha.post("/act", form).status == 403
    assert asha.user == ""
    assert untouched(site)


def test_headers_of_a_proxy_are_believed_from_nobody(site: ServedPage) -> None:
    """X-Forwarded-* and their like change neither address, nor origin, nor the count of tries."""
    forged = {
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_For": "10.0.0.1",
        "X_Forwarded_Prefix": "//evil.example",
        "Forwarded": "for=10.0.0.1;host=evil.example;proto=https",
        "X_Real_IP": "10.0.0.1",
        "X_HTTP_Method_Override": "POST",
        "X_Original_URL": "/act",
    }
    browser = site.browser()
    page = browser.get("/login", **forged)
    assert "evil" not in page.text + page.location
    assert "Secure" not in browser.set_cookies[0]
    form = {"form_token": page.token, "name": "asha", "password": "wrong"}
    evil = forged | {"Origin": "https://evil.example"}
    assert browser.post("/login", form, **evil).title == "This form was not sent by this page"
    for number in range(NAME_TRIES):
        forged["X_Forwarded_For"] = f"10.0.0.{number}"
        assert browser.post("/login", form, **forged).status == 403
    assert browser.post("/login", form, **forged).status == 429


@pytest.mark.parametrize("host", ["192.168.1.5", "10.0.0.1:9464", "[2001:db8::1]"])
def test_eavesdropping_no_password_is_asked_for_over_plain_http(
    site: ServedPage, host: str
) -> None:
    """At an address of the network the page can be read, and says how to log in."""
    browser = site.browser(host)
    answer = browser.get("/login")
    assert (answer.status, answer.title) == (403, "You cannot log in at this address")
    assert "SSH tunnel" in answer.text
    assert 'type="password"' not in answer.text
    form = {"form_token": answer.token, "name": "asha", "password": PASSWORD}
    assert browser.post("/login", form).status == 403
    assert "emitterd_session" not in browser.cookies


def test_eavesdropping_an_address_of_the_network_has_no_login(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """Also if the request looks local, or as if it came through the proxy."""
    operators = tmp_path / "operators"
    write_users(operators, make_user("asha"))
    address = Address(local=Endpoint("0.0.0.0", 80).local, public_url=f"https://{PUBLIC}")  # noqa: S104
    place = tmp_path / "state" / "journal.db"
    desk = Desk(spool_root, journal, place, operators=operators, address=address)
    with serve_page(desk) as site:
        for browser in (site.browser(), site.browser(PUBLIC, "https")):
            assert browser.get("/login").title == "You cannot log in at this address"
            assert browser.log_in().status == 403


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        "../outside.zip",
        "/etc/passwd",
        "pat/../../outside.zip",
        "pat/..",
        "a\x00b",
        pytest.param("pat/" + "x" * 5000, id="long"),
        "link/outside.zip",
    ],
)
@pytest.mark.parametrize("operation", ["hold", "forget", "mark-delivered"])
def test_paths_outside_the_folder_are_refused(
    site: ServedPage, asha: Visitor, path: str, operation: str
) -> None:
    """With any operation; nothing is recorded and no file is read."""
    outside = site.desk.root.parent
    (outside / "outside.zip").write_bytes(b"secret")
    (site.desk.root / "link").symlink_to(outside)
    name = path.rpartition("/")[2]
    answer = asha.act(operation, path, confirmation=name)

    assert answer.status in {400, 404, 409}, answer.title
    assert untouched(site)
    assert list(site.desk.journal.read("select count(*) from entry")) == [(1,)]


def test_replay_a_form_that_is_sent_twice_acts_once(site: ServedPage, asha: Visitor) -> None:
    """The second one finds a state that does not allow it."""
    form = {"form_token": asha.get("/").token, "operation": "hold", "path": FILE}
    assert [asha.post("/act", form).status for _ in range(3)] == [303, 409, 409]
    actions = list(site.desk.journal.read("select act, user from action"))
    assert actions == [("hold", "asha (page)")]


@pytest.mark.parametrize("user", ["ravi", ""])
def test_rights_only_an_operator_acts(site: ServedPage, user: str) -> None:
    """A producer and a visitor see no button, and their forms are refused."""
    browser = site.browser()
    if user:
        assert browser.log_in(user).status == 303
    browser.get("/login")
    assert 'action="act"' not in browser.get("/").text
    assert 'action="act"' not in browser.get(f"/explain?path={FILE}").text
    for operation in ("hold", "retry", "release", "forget", "mark-delivered"):
        assert browser.act(operation, FILE, confirmation="marks.zip").status == 403
    assert untouched(site)


def test_log_a_login_leaves_no_secret_and_forges_no_line(site: ServedPage) -> None:
    """A password that is typed as the name is not logged."""
    hostile = "x\n{}\x1b[31m" + PASSWORD
    with capture_logs() as events:
        browser = site.browser()
        assert browser.log_in(hostile, PASSWORD).status == 403
        assert browser.log_in("asha", OTHER_PASSWORD).status == 403
        assert browser.log_in().status == 303

    logins = [event for event in events if "login" in event["event"]]
    assert [(event["event"], event["user"]) for event in logins] == [
        ("web.login_refused", None),
        ("web.login_refused", "asha"),
        ("web.login", "asha"),
    ]
    for secret in (PASSWORD, OTHER_PASSWORD, browser.cookies["emitterd_session"]):
        assert secret not in repr(events)


def test_markup_in_a_login_is_text(site: ServedPage) -> None:
    """The form shows the name again, and nothing of it is markup or the password."""
    answer = site.browser().log_in('"><script>alert(1)</script>', "secret-password")
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "secret-password" not in answer.text


@pytest.mark.slow
def test_flood_logins_at_the_same_time_hash_one_by_one(site: ServedPage) -> None:
    """Each hash takes 16 MiB; pages are served meanwhile."""
    browsers = [site.browser() for _ in range(THREADS)]
    tokens = [browser.get("/login").token for browser in browsers]

    def attack(number: int) -> int:
        form = {"form_token": tokens[number], "name": f"nobody-{number}", "password": "x"}
        return browsers[number].post("/login", form).status

    with ThreadPoolExecutor(len(browsers)) as pool:
        statuses = pool.map(attack, range(len(browsers)))
        assert site.browser().get("/").status == 200
        assert site.browser().get("/healthz").status == 200
        assert set(statuses) <= {403, 503}
