"""Sessions, origins and the throttle, as rules of time."""

from collections.abc import Mapping

import pytest

from emitterd.web.access.sessions import (
    ALL_TRIES,
    ALL_WAIT_MAX_S,
    FORGET_S,
    IDLE_S,
    KEYS_MAX,
    LIFETIME_S,
    NAME_TRIES,
    NAME_WAIT_MAX_S,
    SESSIONS_MAX,
    SOURCE_TRIES,
    Address,
    LoginThrottle,
    Sessions,
    is_device,
    is_same,
    new_device,
)
from emitterd.web.access.users import Role, User

ASHA = User("asha", Role.OPERATOR, "$hash")
RAVI = User("ravi", Role.PRODUCER, "$hash")
KNOWN: Mapping[str, User] = {"asha": ASHA, "ravi": RAVI}
LOCAL = Address(local=True)
PROXIED = Address(local=True, public_url="https://emitterd.office.example")
HOST = "emitterd.office.example"


def test_a_session_is_who_logged_in() -> None:
    """Each login gives new secrets, and only they find the session."""
    sessions = Sessions()
    first, second = sessions.open(ASHA, 0.0), sessions.open(RAVI, 0.0)

    viewer, other = sessions.find(first, 1.0, KNOWN.get), sessions.find(second, 1.0, KNOWN.get)

    assert viewer is not None
    assert other is not None
    assert (viewer.name, viewer.role, viewer.is_operator) == ("asha", Role.OPERATOR, True)
    assert (other.name, other.role, other.is_operator) == ("ravi", Role.PRODUCER, False)
    assert len({first, second, viewer.form_token, other.form_token}) == 4
    for wrong in ("", "x", first[:-1], first + "\udcff", viewer.form_token):
        assert sessions.find(wrong, 1.0, KNOWN.get) is None


def test_a_session_ends_after_an_hour_without_a_person() -> None:
    """The page's script asks every few seconds, which does not count."""
    sessions = Sessions()
    identifier = sessions.open(ASHA, 0.0)
    assert sessions.find(identifier, IDLE_S - 1, KNOWN.get, renew=False)
    assert sessions.find(identifier, IDLE_S - 1, KNOWN.get)
    assert sessions.find(identifier, 2 * IDLE_S - 2, KNOWN.get, renew=False)
    assert sessions.find(identifier, 2 * IDLE_S - 1, KNOWN.get) is None
    assert sessions.find(identifier, 2 * IDLE_S - 2, KNOWN.get) is None


def test_a_session_ends_after_twelve_hours() -> None:
    """However busy its user is."""
    sessions = Sessions()
    identifier = sessions.open(ASHA, 0.0)
    now = 0.0
    while now < LIFETIME_S:
        assert sessions.find(identifier, now, KNOWN.get)
        now += IDLE_S / 2
    assert sessions.find(identifier, LIFETIME_S, KNOWN.get) is None


def test_a_session_ends_at_logout() -> None:
    """A copy of the cookie is worth nothing then."""
    sessions = Sessions()
    identifier, other = sessions.open(ASHA, 0.0), sessions.open(ASHA, 0.0)
    sessions.close(identifier)
    sessions.close("unknown")
    assert sessions.find(identifier, 1.0, KNOWN.get) is None
    assert sessions.find(other, 1.0, KNOWN.get)


@pytest.mark.parametrize(
    "now_known",
    [
        {},
        {"asha": User("asha", Role.PRODUCER, "$hash")},
        {"asha": User("asha", Role.OPERATOR, "$new")},
    ],
)
def test_a_session_ends_with_its_line_in_the_file(now_known: dict[str, User]) -> None:
    """The user was removed, or has another role or password; the session does not come back."""
    sessions = Sessions()
    identifier = sessions.open(ASHA, 0.0)
    assert sessions.find(identifier, 1.0, now_known.get) is None
    assert sessions.find(identifier, 1.0, KNOWN.get) is None


def test_the_number_of_sessions_is_bounded() -> None:
    """The user's own one that was not used for the longest time makes room."""
    sessions = Sessions()
    other = sessions.open(RAVI, 0.0)
    first = sessions.open(ASHA, 0.0)
    second = sessions.open(ASHA, 1.0)
    for number in range(SESSIONS_MAX - 2):
        sessions.open(ASHA, 2.0 + number)
    assert sessions.find(first, 1000.0, KNOWN.get)
    sessions.open(ASHA, 1000.0)
    assert sessions.find(first, 1000.0, KNOWN.get)
    assert sessions.find(second, 1000.0, KNOWN.get) is None
    assert sessions.find(other, 1000.0, KNOWN.get)


def test_a_token_is_compared_as_text_and_never_empty() -> None:
    """A form without a token is refused also where nobody has one."""
    assert is_same("a", "a")
    assert not is_same("", "")
    assert not is_same("é", "e")
    assert not is_same("\udcff", "a")
    sessions = Sessions()
    assert sessions.visitor_token("a") != sessions.visitor_token("b")
    assert sessions.visitor_token("a") != Sessions().visitor_token("a")


@pytest.mark.parametrize(
    ("address", "host", "allowed"),
    [
        (LOCAL, "127.0.0.1:9464", True),
        (LOCAL, "[::1]:9464", True),
        (LOCAL, "localhost:9464", True),
        (LOCAL, "192.168.1.5", False),
        (LOCAL, HOST, False),
        (LOCAL, "", False),
        (LOCAL, "[", False),
        (PROXIED, HOST, True),
        (PROXIED, HOST.upper(), True),
        (PROXIED, "127.0.0.1:9464", True),
        (PROXIED, f"{HOST}:8443", False),
        (PROXIED, f"{HOST}.evil.example", False),
        (PROXIED, f"evil.example@{HOST}", False),
        (Address(local=False), "127.0.0.1:9464", False),
        (Address(local=False, public_url=f"https://{HOST}"), HOST, False),
    ],
)
def test_a_login_is_allowed_where_nobody_can_listen(
    address: Address,
    host: str,
    allowed: bool,  # noqa: FBT001  a column of the table
) -> None:
    """On this machine, or through the TLS proxy."""
    assert address.allows_login(host) is allowed


@pytest.mark.parametrize(
    ("host", "origins"),
    [
        ("127.0.0.1:9464", {"http://127.0.0.1:9464", "https://127.0.0.1:9464"}),
        ("192.168.1.5", {"http://192.168.1.5", "https://192.168.1.5"}),
        (HOST, {f"https://{HOST}"}),
        (HOST.upper(), {f"https://{HOST}"}),
        ("", set()),
    ],
)
def test_a_form_comes_from_a_page_of_the_address_that_it_is_sent_to(
    host: str, origins: set[str]
) -> None:
    """Of the proxy's address only by TLS."""
    tried = {
        *(f"{scheme}://{host}" for scheme in ("http", "https", "file")),
        *("", "null", "https://evil.example", f"https://{HOST}", f"http://{HOST}"),
        *("http://127.0.0.1:9464", "http://127.0.0.1:9465", "http://127.0.0.1", "https://"),
    }
    accepted = {origin for origin in tried if PROXIED.is_own_origin(origin, host)}
    assert {origin.lower() for origin in accepted} == origins


def waits(throttle: LoginThrottle, key: str, now: float, *, trusted: bool = False) -> float:
    """Wait as long as the throttle asks, try, and return how long it was."""
    wait_s = throttle.begin(key, now, trusted=trusted)
    if wait_s:
        assert throttle.begin(key, now + wait_s, trusted=trusted) == 0.0
    return wait_s


def test_wrong_passwords_make_the_next_wait_longer_up_to_a_minute() -> None:
    """A few typing errors cost nothing."""
    throttle, now, seen = LoginThrottle(), 0.0, []
    for _ in range(NAME_TRIES + 10):
        wait_s = waits(throttle, "asha", now)
        now += wait_s
        seen.append(wait_s)
    assert seen[:NAME_TRIES] == [0.0] * NAME_TRIES
    assert seen[NAME_TRIES:] == [1, 2, 4, 8, 16, 32, *[NAME_WAIT_MAX_S] * 4]


def test_a_try_that_must_wait_does_not_count() -> None:
    """An attacker who tries again and again does not lengthen the operator's wait."""
    throttle = LoginThrottle()
    for _ in range(NAME_TRIES):
        assert throttle.begin("asha", 0.0, trusted=False) == 0.0
    assert [throttle.begin("asha", 0.5, trusted=False) for _ in range(50)] == [0.5] * 50
    assert throttle.begin("asha", 1.0, trusted=False) == 0.0


def test_tries_at_the_same_time_count_before_their_password_is_checked() -> None:
    """Parallel requests get no more tries than requests in a row."""
    throttle = LoginThrottle()
    free = [throttle.begin("asha", 0.0, trusted=False) for _ in range(20)].count(0.0)
    assert free == NAME_TRIES


def test_the_right_password_ends_the_waits() -> None:
    """Of the name; a right login also does not count among all."""
    throttle = LoginThrottle()
    for _ in range(ALL_TRIES + 20):
        assert throttle.begin("asha", 0.0, trusted=False) == 0.0
        throttle.forgive("asha", 0.0, trusted=False)


def test_wrong_passwords_are_forgotten_after_a_quiet_time() -> None:
    """The first try of the morning does not wait for those of yesterday."""
    throttle = LoginThrottle()
    for _ in range(NAME_TRIES):
        throttle.begin("asha", 0.0, trusted=False)
    assert throttle.begin("asha", 0.0, trusted=False) > 0
    assert throttle.begin("asha", FORGET_S + 1, trusted=False) == 0.0
    assert throttle.begin("asha", FORGET_S + 1, trusted=False) == 0.0


def test_many_names_together_are_slowed_down() -> None:
    """One password tried for each name; the wait is at most ten seconds."""
    throttle, now, seen = LoginThrottle(), 0.0, []
    for number in range(ALL_TRIES + 10):
        wait_s = waits(throttle, f"name-{number}", now)
        now += wait_s
        seen.append(wait_s)
    assert seen[:ALL_TRIES] == [0.0] * ALL_TRIES
    assert seen[ALL_TRIES:] == [1, 2, 4, 8, *[ALL_WAIT_MAX_S] * 6]


def test_an_attack_does_not_lock_out_the_browser_of_an_operator() -> None:
    """It counts its own wrong passwords, and waits for those only."""
    throttle, device = LoginThrottle(), new_device(ASHA)
    for number in range(200):
        throttle.begin("asha", 0.0, trusted=False)
        throttle.begin(f"name-{number}", 0.0, trusted=False)
    assert throttle.begin("asha", 0.0, trusted=False) > 0
    seen = [throttle.begin(device, 0.0, trusted=True) for _ in range(NAME_TRIES + 1)]
    assert seen == [*[0.0] * NAME_TRIES, 1.0]


def test_a_browser_is_known_until_the_password_changes() -> None:
    """Nobody can make such a cookie, or use that of another user."""
    cookie = new_device(ASHA)
    assert is_device(ASHA, cookie)
    assert not is_device(RAVI, cookie)
    assert not is_device(User("asha", Role.OPERATOR, "$new"), cookie)
    assert not is_device(None, cookie)
    for wrong in ("", ".", "x", "x.", cookie[:-1], f"x{cookie}", "\udcff.x"):
        assert not is_device(ASHA, wrong)


def test_the_right_password_leaves_the_waits_of_others_as_they_are() -> None:
    """Neither its number nor its time counts among all."""
    throttle = LoginThrottle()
    for number in range(ALL_TRIES):
        throttle.begin(f"name-{number}", 0.0, trusted=False)
    assert throttle.begin("asha", 0.5, trusted=False) == 0.5
    assert throttle.begin("asha", 1.0, trusted=False) == 0.0
    assert throttle.begin("ravi", 1.5, trusted=False) == 1.5
    throttle.forgive("asha", 1.0, trusted=False)
    assert throttle.begin("ravi", 1.5, trusted=False) == 0.0


def test_the_names_of_an_attack_need_bounded_memory() -> None:
    """A try that must wait takes no room; of the others, the oldest of the fewest goes."""
    throttle = LoginThrottle()
    for number in range(3 * KEYS_MAX):
        throttle.begin(f"name-{number}", 0.1, trusted=False)
    assert len(throttle._names._failures) == ALL_TRIES
    for number in range(3 * KEYS_MAX):
        throttle.begin(f"name-{number}", 0.0, trusted=False, source=f"source-{number}")
    assert len(throttle._names._failures) == len(throttle._sources._failures) == KEYS_MAX


def test_many_names_do_not_push_out_the_one_that_is_attacked() -> None:
    """Its waits go on, however many others fail once."""
    throttle = LoginThrottle()
    for _ in range(2):
        throttle.begin("asha", 0.0, trusted=False)
    for number in range(3 * KEYS_MAX):
        throttle.begin(f"name-{number}", 1.0, trusted=False, source=f"source-{number}")
    assert throttle._names.of("asha").number == 2


def test_an_address_that_has_not_failed_does_not_wait_for_others() -> None:
    """It has a few tries, also while others try without pause."""
    throttle, now = LoginThrottle(), 0.0
    for _ in range(100):
        now += 1.0
        throttle.begin("asha", now, trusted=False, source="10.0.0.1")
        throttle.begin("asha", now, trusted=False)
    assert throttle.begin("asha", now, trusted=False, source="10.0.0.1") > 0
    seen = [throttle.begin("asha", now, trusted=False, source="10.0.0.2") for _ in range(4)]
    assert seen[:SOURCE_TRIES] == [0.0] * SOURCE_TRIES
    assert seen[SOURCE_TRIES] > 0
    assert throttle.begin("asha", now, trusted=False, source="10.0.0.3") == 0.0


def test_an_address_has_its_tries_for_all_names_together() -> None:
    """Another name gives it no further ones while many fail."""
    throttle = LoginThrottle()
    for number in range(2 * ALL_TRIES):
        throttle.begin(f"name-{number}", 0.0, trusted=False)
    waits_s = [
        throttle.begin(f"other-{number}", 0.5, trusted=False, source="10.0.0.1")
        for number in range(SOURCE_TRIES + 1)
    ]
    assert waits_s[:-1] == [0.0] * SOURCE_TRIES
    assert waits_s[-1] > 0


def test_a_login_of_ones_own_gives_no_further_tries() -> None:
    """A right password ends only the waits of its own name."""
    throttle = LoginThrottle()
    for _ in range(2 * NAME_TRIES):
        throttle.begin("asha", 1.0, trusted=False, source="10.0.0.1")
        if throttle.begin("ravi", 1.0, trusted=False, source="10.0.0.1") == 0.0:
            throttle.forgive("ravi", 1.0, trusted=False, source="10.0.0.1")
    assert throttle.begin("asha", 1.0, trusted=False, source="10.0.0.1") > 0


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["10.0.0.1"], "10.0.0.1"),
        (["1.2.3.4, 10.0.0.1"], "10.0.0.1"),
        (["1.2.3.4", "10.0.0.1"], "10.0.0.1"),
        (["2001:db8::1:2"], "2001:db8::/64"),
        (["1.2.3.4, "], ""),
        (["unknown"], ""),
        ([], ""),
    ],
)
def test_the_address_of_a_client_is_what_the_proxy_has_added(
    lines: list[str], expected: str
) -> None:
    """And only behind the proxy."""
    assert PROXIED.client(HOST, lines) == expected
    assert PROXIED.client("127.0.0.1:9464", lines) == ""
    assert LOCAL.client(HOST, lines) == ""
