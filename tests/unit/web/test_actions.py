"""What an operator does to files from the page, and where it is recorded."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import pytest
from structlog.testing import capture_logs

from conftest import NoThreads
from emitterd.codes import Code
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.inspection import InspectionSettings, Inspector
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.journal import Journal
from emitterd.journal.operations import Operation
from emitterd.journal.rows import Admission
from emitterd.journal.work import Execute
from emitterd.model import Fingerprint, State
from emitterd.spool.folder import Spool
from emitterd.text import display
from emitterd.web.access.users import Role
from emitterd.web.actions import offered, seen
from emitterd.web.rendering import ANSWERS_MAX
from support.page import HOSTILE, Desk
from support.visitors import PASSWORD, ServedPage, Visitor, make_user, serve_page, write_users
from support.waiting import wait_until

FILE = "pat/marks.zip"


@pytest.fixture
def site(spool_root: Path, journal: Journal, tmp_path: Path) -> Iterator[ServedPage]:
    """Serve the page with an operator and a producer."""
    operators = tmp_path / "operators"
    write_users(operators, make_user("asha"), make_user("ravi", Role.PRODUCER))
    place = tmp_path / "state" / "journal.db"
    with serve_page(Desk(spool_root, journal, place, operators=operators)) as site:
        yield site


@pytest.fixture
def asha(site: ServedPage) -> Visitor:
    """Log the operator in."""
    browser = site.browser()
    browser.log_in()
    return browser


def drop(site: ServedPage, content: bytes = b"PK") -> None:
    """Put the file into the folder, and admit it."""
    path = site.desk.root / FILE
    path.parent.mkdir()
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    seen = Fingerprint.of(path.stat())
    site.desk.journal.admit([Admission(FILE.encode(), seen, "pat", 0)])


def state(site: ServedPage, path: bytes = FILE.encode()) -> State | None:
    """Return the state of a file."""
    known = site.desk.journal.latest(path)
    return known.state if known else None


def test_each_operation_is_that_of_its_command(site: ServedPage, asha: Visitor) -> None:
    """And is recorded under the user's name, which the file's page shows with the time."""
    drop(site)
    for operation, expected in [
        ("hold", State.HELD),
        ("release", State.QUEUED),
        ("mark-delivered", State.DELIVERED),
    ]:
        answer = asha.act(operation, FILE)
        assert (answer.status, answer.location) == (303, f"./explain?path={FILE}"), answer.title
        assert state(site) is expected
        page = asha.get(f"/explain?path={FILE}").text
        assert f"{operation} by <bdi>asha (page)</bdi>" in page
    assert asha.act("forget", FILE, confirmation="marks.zip").status == 303
    assert state(site) is None
    assert site.users() == {"asha (page)"}
    (row,) = site.desk.journal.read(
        "select confirmation, reason, hex(sha256) from entry limit 1 offset 1"
    )
    assert row[:2] == ("marked", "marked as delivered by asha (page), not sent")


def test_a_failed_or_rejected_file_is_tried_again(site: ServedPage, asha: Visitor) -> None:
    """From the lists of the overview, too."""
    site.desk.reject(FILE.encode())
    page = asha.get("/").text
    assert 'aria-label="Try again now: pat/marks.zip"' in page
    assert asha.act("retry", FILE).status == 303
    assert state(site) is State.WITHDRAWN


def test_what_the_state_does_not_allow_is_refused_with_the_reason(
    site: ServedPage, asha: Visitor
) -> None:
    """The page offers only what the state allows; another one may have been faster."""
    drop(site)
    answer = asha.act("release", FILE)
    assert answer.status == 409
    assert "It is queued" in answer.text
    assert f'<a href="explain?path={FILE}">Back to the file</a>' in answer.text
    answer = asha.act("hold", "pat/unknown.zip")
    assert answer.status == 409
    assert "The journal does not know it" in answer.text
    assert asha.act("explode", FILE).status == 400
    assert site.users() == set()


@pytest.mark.parametrize("typed", ["", "marks", "MARKS.ZIP", FILE])
def test_forget_needs_the_typed_name_of_the_file(
    site: ServedPage, asha: Visitor, typed: str
) -> None:
    """It can send a file a second time."""
    drop(site)
    answer = asha.act("forget", FILE, confirmation=typed)
    assert answer.status == 400
    assert "You did not type the name of the file" in answer.text
    assert state(site) is State.QUEUED


def test_a_name_of_any_bytes_can_be_acted_on(site: ServedPage, asha: Visitor) -> None:
    """The form has each byte of the name."""
    site.desk.admit(HOSTILE)
    page = asha.get("/").text
    assert "<script>alert" not in page
    assert asha.act("hold", HOSTILE).status == 303
    assert state(site, HOSTILE) is State.HELD
    answer = asha.act("forget", HOSTILE, confirmation="x")
    assert "<script>alert" not in answer.text
    name = display(HOSTILE).rpartition("/")[2]
    assert asha.act("forget", HOSTILE, confirmation=name).status == 303


ALIKE = [
    (b"pat/a\xff.zip", b"pat/a\\xff.zip"),
    (b"pat/a\x1b.zip", b"pat/a\\x1b.zip"),
    ("pat/a\x85.zip".encode(), b"pat/a\x85.zip"),
    (b"pat/ a.zip", b"pat/a.zip"),
    (b" a.zip", b"a.zip"),
    (b"pat/a  b.zip", b"pat/a b.zip"),
]
"""Pairs of names that a browser shows alike."""


@pytest.mark.parametrize("pair", [*ALIKE, *(pair[::-1] for pair in ALIKE)], ids=repr)
def test_an_operation_is_on_the_file_of_its_page(
    site: ServedPage, asha: Visitor, pair: tuple[bytes, bytes]
) -> None:
    """Also if another file is shown alike: the links and the forms have each byte of the name."""
    meant, other = pair
    for number, path in enumerate(pair):
        site.desk.admit(path, number=number)
    for place in ("/", "/files"):
        links = re.findall(r'class="name" href="([^"]*)"', asha.get(place).text)
        assert len(set(links)) == 2
        pages = [asha.get("/" + link.replace("&amp;", "&")).text for link in links]
        forms = {re.findall(r'name="path" value="([^"]*)"', page)[0] for page in pages}
        assert {unquote_to_bytes(path) for path in forms} == set(pair)
    assert asha.act("hold", meant).status == 303
    assert (state(site, meant), state(site, other)) == (State.HELD, State.QUEUED)
    name = " ".join(display(meant).rpartition("/")[2].split())
    answer = asha.act("forget", meant, confirmation=name)
    assert answer.status == 303
    assert (state(site, meant), state(site, other)) == (None, State.QUEUED)
    # The page that the answer leads to is that of the file, which is forgotten.
    assert "(forgotten)" in asha.get(answer.location[1:]).text


def test_an_operation_never_falls_back_to_another_name(site: ServedPage, asha: Visitor) -> None:
    """The form of a file that is gone acts on nothing."""
    site.desk.admit(b"pat/a.zip")
    site.desk.admit(b"pat/\xff.zip", number=2)
    for path in (b"pat/ a.zip", b"pat/a.zip ", b"pat/\\xff.zip"):
        assert asha.act("hold", path).status == 409
    assert site.users() == set()


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("\u0915\u093c.zip", "\u0958.zip"),
        ("e\u0301.zip", "\u00e9.zip"),
        ("a  b.zip", "a b.zip"),
        (" a.zip", "a.zip"),
    ],
)
def test_a_name_can_be_typed_as_it_is_seen(
    site: ServedPage, asha: Visitor, name: str, typed: str
) -> None:
    """With each way to type a letter, and any number of spaces."""
    site.desk.admit(name.encode())
    assert asha.act("forget", name, confirmation="x").status == 400
    assert asha.act("forget", name, confirmation=typed).status == 303


def test_a_file_that_is_not_whole_or_changes_is_not_marked(site: ServedPage, asha: Visitor) -> None:
    """The reason is the command's."""
    drop(site)
    (site.desk.root / FILE).unlink()
    answer = asha.act("mark-delivered", FILE)
    assert answer.status == 409
    assert site.users() == set()


def test_a_file_that_the_operator_has_not_seen_is_not_marked(
    site: ServedPage, asha: Visitor
) -> None:
    """An old page of the file cannot mark what has come since under the same name."""
    drop(site)
    shown = asha.get(f"/explain?path={FILE}").text
    [seen] = re.findall(r'name="seen" value="([^"]+)"', shown)
    (site.desk.root / FILE).write_bytes(b"what came later")

    answer = asha.act("mark-delivered", FILE, seen=seen)

    assert answer.status == 409
    assert "The file has changed since you saw it." in answer.text
    assert site.users() == set()


def test_a_file_that_is_gone_is_not_said_to_be_sent_again(site: ServedPage, asha: Visitor) -> None:
    """To forget it then only matters for a file that comes again."""
    promise, address = "Forget this file, and send it again", f"/explain?path={FILE}"
    drop(site)
    assert promise in asha.get(address).text
    (site.desk.root / FILE).unlink()
    gone = asha.get(address)

    assert promise not in gone.text
    assert "If the same file comes again, emitterd sends it" in gone.text
    assert "forget" in gone.operations


def test_a_rejected_file_that_is_not_whole_cannot_be_marked(
    site: ServedPage, asha: Visitor
) -> None:
    """Nor one that is not in the folder; the page does not offer it."""
    path = site.desk.root / FILE
    path.parent.mkdir()
    path.write_bytes(b"PK")
    version = Fingerprint.of(path.stat())
    trouble = DeliveryError(Decision.REJECT, Code.INCOMPLETE, "it has no end record")
    site.desk.journal.admit([Admission(FILE.encode(), version, "pat", 0, trouble)])
    assert state(site) is State.REJECTED
    page = asha.get(f"/explain?path={FILE}")
    assert page.operations == {"retry", "forget"}
    mark = seen(Spool(site.desk.root), FILE.encode())
    answer = asha.act("mark-delivered", FILE, seen=mark)
    assert answer.status == 409
    assert "It is not complete: it has no end record" in answer.text
    assert site.users() == set()

    site.desk.admit(b"pat/gone.zip")
    assert asha.get("/explain?path=pat/gone.zip").operations == {"hold", "forget"}


def test_an_answer_can_be_read_in_the_other_language(site: ServedPage, asha: Visitor) -> None:
    """The switch leads back to the answer of a form, for the user who got it."""
    drop(site)
    answer = asha.act("release", FILE)
    assert "It is queued" in answer.text
    [back] = re.findall(r'name="back" value="(answer[^"]*)"', answer.text)
    switch = {"form_token": answer.token, "language": "hi", "back": back}
    led = asha.post("/language", switch)
    assert led.location == f"./{back}"
    again = asha.get(led.location[1:])
    assert (again.status, again.title) == (200, "कुछ नहीं बदला गया")
    assert f'value="{back}"' in again.text
    assert site.browser().get(led.location[1:]).location == "./"
    assert asha.get("/answer?name=x").location == "./"


def test_a_visitor_who_logs_in_finds_the_way_back(site: ServedPage) -> None:
    """The answer to what was refused leads to the login, and on to the file."""
    drop(site)
    browser = site.browser()
    browser.get("/login")
    answer = browser.act("hold", FILE)
    [target] = re.findall(r'href="login\?next=([^"]*)"', answer.text)
    led = browser.log_in(next=unquote(target)).location
    assert re.fullmatch(r"\./answer\?name=.+", led)
    assert f'<a href="explain?path={FILE}">Back to the file</a>' in browser.get(led[1:]).text


def test_a_wrong_login_can_be_read_in_the_other_language(site: ServedPage) -> None:
    """The form stays one that logs in; afterwards it is of no use."""
    browser = site.browser()
    answer = browser.log_in(password="wrong")
    [back] = re.findall(r'name="back" value="(answer[^"]*)"', answer.text)
    again = browser.get(f"/{back}")
    assert "The name or the password is wrong." in again.text
    form = {"form_token": again.token, "name": "asha", "password": PASSWORD}
    assert browser.post("/login", form).status == 303
    assert browser.get(f"/{back}").location == "./"


def test_a_file_that_was_moved_away_is_not_offered_to_be_tried_again(
    site: ServedPage, asha: Visitor
) -> None:
    """It would be refused: the file must be put back first."""
    site.desk.reject(FILE.encode())
    assert "retry" in asha.get(f"/explain?path={FILE}").operations
    sql = "update entry set moved_to = ?"
    site.desk.journal.store.write(Execute(sql, [(b"/srv/rejected/marks.zip",)]))
    assert "retry" not in asha.get(f"/explain?path={FILE}").operations
    assert asha.get("/").operations == set()
    assert "it was moved to" in asha.act("retry", FILE).text.lower()


def test_few_answers_are_kept(asha: Visitor) -> None:
    """The oldest goes first."""
    backs = list[str]()
    for _ in range(ANSWERS_MAX + 1):
        answer = asha.act("hold", "pat/unknown.zip")
        backs += re.findall(r'name="back" value="(answer[^"]*)"', answer.text)
    assert asha.get(f"/{backs[0]}").location == "./"
    assert asha.get(f"/{backs[1]}").status == 200


def test_at_the_limit_of_threads_a_file_can_be_marked_later(
    site: ServedPage, asha: Visitor, no_threads: NoThreads
) -> None:
    """The operation fails, and does not count as one that still runs."""
    drop(site)
    with no_threads(), capture_logs() as logged:
        assert asha.act("mark-delivered", FILE).status == 500
    assert [record["event"] for record in logged] == ["web.failed"]

    assert asha.act("mark-delivered", FILE).status == 303
    assert state(site) is State.DELIVERED


def test_a_file_that_is_long_to_read_is_marked_after_the_answer(
    spool_root: Path, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of the file says that emitterd reads it; meanwhile no other file is marked."""
    monkeypatch.setattr("emitterd.web.actions.MARK_WAIT_S", 0.01)
    go_on = threading.Event()

    def slow_inspector() -> Inspector:
        go_on.wait(60.0)
        return Inspector(load_catalogue(None), InspectionSettings())

    operators, place = tmp_path / "operators", tmp_path / "state" / "journal.db"
    write_users(operators, make_user("asha"))
    desk = Desk(spool_root, journal, place, operators=operators, inspector=slow_inspector)
    with serve_page(desk) as site:
        drop(site)
        asha = site.browser()
        asha.log_in()
        page, reads = f"/explain?path={FILE}", "This file is being read now"

        assert asha.act("mark-delivered", FILE).location == f".{page}"
        assert reads in asha.get(page).text
        assert "Try again when that is done" in asha.act("mark-delivered", "pat/other.zip").text
        go_on.set()
        wait_until(lambda: reads not in asha.get(page).text, 60.0, "the mark")
        assert state(site) is State.DELIVERED
        assert site.users() == {"asha (page)"}


def test_the_reason_why_a_file_was_not_marked_is_of_that_file(
    spool_root: Path, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stay on the page of a file that has replaced it, or that was delivered since."""
    monkeypatch.setattr("emitterd.web.actions.MARK_WAIT_S", 0.01)
    go_on = threading.Event()

    def broken_inspector() -> Inspector:
        go_on.wait(60.0)
        (spool_root / FILE).write_bytes(b"what came meanwhile")
        return Inspector(load_catalogue(None), InspectionSettings())

    users, place = tmp_path / "operators", tmp_path / "state" / "journal.db"
    write_users(users, make_user("asha"))
    desk = Desk(spool_root, journal, place, operators=users, inspector=broken_inspector)
    with serve_page(desk) as site:
        drop(site)
        asha = site.browser()
        asha.log_in()
        page, remark = f"/explain?path={FILE}", "Not marked as delivered: it changes now"
        assert asha.act("mark-delivered", FILE).status == 303
        go_on.set()
        wait_until(lambda: remark in asha.get(page).text, 60.0, "the reason")
        path = site.desk.root / FILE
        seen = Fingerprint.of(path.stat())
        site.desk.journal.admit([Admission(FILE.encode(), seen, "pat", 0)])
        assert remark in asha.get(page).text
        site.desk.deliver()
        assert remark not in asha.get(page).text
        path.write_bytes(b"what came later")
        assert remark not in asha.get(page).text


def test_buttons_are_those_of_the_state(site: ServedPage, asha: Visitor) -> None:
    """An operator sees them on the page of the file; a producer and a visitor see none."""
    drop(site)
    ravi = site.browser()
    ravi.log_in("ravi")
    page = f"/explain?path={FILE}"
    shown = asha.get(page).operations
    assert shown == {"hold", "mark-delivered", "forget"}
    asha.act("hold", FILE)
    assert asha.get(page).operations == {"release", "mark-delivered", "forget"}
    assert ravi.get(page).operations == site.browser().get(page).operations == set()
    assert "Logged in as ravi" in ravi.get(page).text
    assert 'href="login?next=explain%3Fpath%3Dpat/marks.zip"' in site.browser().get(page).text


@pytest.mark.parametrize("state", [*State, "absent", "ignored"])
def test_an_offered_operation_is_one_that_the_journal_allows(state: State) -> None:
    """Nothing is offered for a file that is being uploaded, and no resend by mistake."""
    operations = set(offered(state))
    if state in {State.DELIVERING, "absent", "ignored"}:
        assert operations == set()
    if state is State.DELIVERED:
        assert operations == {Operation.FORGET}


def test_without_an_operators_file_there_is_no_login(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """No link, no form, and no action."""
    place = tmp_path / "state" / "journal.db"
    with serve_page(Desk(spool_root, journal, place)) as site:
        browser = site.browser()
        assert "login?next" not in browser.get("/").text
        assert (browser.get("/login").status, browser.get("/login").title) == (
            404,
            "There is no login",
        )
        assert browser.log_in().status == 404
        assert browser.act("hold", FILE).status == 403


def test_without_a_usable_file_the_login_says_who_can_help(site: ServedPage) -> None:
    """It tells a file without users from one that cannot be used."""
    for content, title, command in (
        ("", "There are no users", "emitterd operator add"),
        ("broken\n", "The file of users cannot be used", "emitterd check"),
    ):
        site.operators.write_text(content)
        answer = site.browser().get("/login")
        assert (answer.status, answer.title) == (503, title)
        assert f"<code>{command}</code>" in answer.text
    site.operators.unlink()
    assert site.browser().get("/login").title == "The file of users cannot be used"


def test_a_browser_without_cookies_is_told_so(site: ServedPage) -> None:
    """Nobody can log in without."""
    browser = site.browser()
    browser.get("/login")
    browser.cookies.clear()
    form = {"form_token": "x", "name": "asha", "password": "three plain words"}
    answer = browser.post("/login", form)
    assert answer.status == 403
    assert "Allow cookies" in answer.text
