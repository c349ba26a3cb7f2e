"""Every page for every reader: axe in each language and scheme, a phone, print, no script."""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.page import Desk
from support.waiting import wait_until
from support.zips import sample

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from support.browser import DESK, PHONE, Browser
from support.office import Office, look_at, take_picture

GOOD = "school_category/school_category_master.zip"
WRONG = "school_master/school_mst.zip"
HELD = "district_master/district_mst.zip"
WAITING = "block_master/block_mst.zip"

PAGES = (
    "",
    "datasets",
    "files",
    "files?state=none",
    f"explain?path={WRONG}",
    "explain?path=none.zip",
    "skipped",
    "inspect",
    "login",
    "nothing",
)
OPERATOR_PAGES = ("", f"explain?path={WRONG}", f"explain?path={HELD}", "inspect", "nothing")
OPEN_DETAILS = "document.querySelectorAll('details').forEach((item) => (item.open = true))"
PICTURES = {
    "datasets": "datasets",
    "files": "files",
    f"explain?path={WRONG}": "file",
    "skipped": "",
    "inspect": "",
}
"""The name of the picture of each page; some have none in the documents."""

DOWNLOADS = {f"/{name}.{ending}" for name in ("files", "receipts") for ending in ("csv", "json")}
# test_login.py looks at the login, which is here only with operators; `/answer` shows again what
# the answer to a form has shown.
NO_PAGES = {"/metrics", "/healthz", "/readyz", "/overview", "/favicon.svg", "/answer", *DOWNLOADS}
LANGUAGES = ("en", "hi")
WELL_WASH = "#e6f2eb"
BAR = "#2f7fb3"


@contextmanager
def full(office: Office, server: RehearsalServer, browser: Browser) -> Iterator[None]:
    """Run an office whose pages show something in every part."""
    office.remember_a_month()
    office.add_operator()
    office.settings["EMITTERD_DELIVERY_BACKOFF_INITIAL"] = "1h"
    office.settings["EMITTERD_DELIVERY_BACKOFF_MAX"] = "1h"
    with office.visited(browser):
        office.drop(GOOD, sample(GOOD))
        office.drop(WRONG, b"id|name\n1|one\n")
        browser.wait_for("1 file is rejected")
        wait_until(lambda: GOOD in office.states("delivered"), 20, "a delivery")
        server.faults = fault_list("503")
        office.drop(HELD, sample(HELD))
        wait_until(lambda: HELD in office.states("deferred"), 20, "a file waits")
        assert server.fired["503"]
        assert office.call("hold", HELD).returncode == 0
        office.drop(WAITING, sample(WAITING))
        wait_until(lambda: WAITING in office.states("deferred"), 20, "another file waits")
        yield


def test_no_page_is_left_out(spool_root: Path, journal: Journal, tmp_path: Path) -> None:
    """The tests here look at every page that the server has."""
    desk = Desk(spool_root, journal, tmp_path / "state" / "journal.db")
    seen = {f"/{page.partition('?')[0]}" for page in PAGES}

    assert desk.paths - NO_PAGES - {"/{path:path}"} == seen - {"/nothing"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", LANGUAGES)
def test_axe_finds_nothing(
    office: Office, server: RehearsalServer, browser: Browser, language: str
) -> None:
    """No page violates a rule of accessibility: in each language, light and dark, on a phone."""
    violations = []
    with full(office, server, browser):
        browser.speak(language)
        for scheme, size in (("light", DESK), ("dark", DESK), ("light", PHONE)):
            browser.prefer(prefers_color_scheme=scheme)
            browser.size(*size)
            for page in PAGES:
                browser.open(office.page(page))
                violations += [(page, scheme, size, browser.violations())]
                assert browser.overflow() <= 0, (page, size)
        # Two pages are errors, and a filter is wrong; nothing else is reported.
        assert [item for item in browser.complaints() if " status of 4" not in item] == []
    assert [item for item in violations if item[-1]] == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", LANGUAGES)
def test_axe_finds_nothing_that_an_operator_sees(
    office: Office, server: RehearsalServer, browser: Browser, language: str
) -> None:
    """The buttons of operators, a typed confirmation, and the answers to actions."""
    violations = []
    with full(office, server, browser):
        office.log_in(browser)
        browser.speak(language)
        for size in (DESK, PHONE):
            browser.size(*size)
            for page in OPERATOR_PAGES:
                browser.open(office.page(page))
                assert browser.run("return document.querySelectorAll('form.who').length") == 1
                browser.run(OPEN_DETAILS)
                violations += [(page, size, browser.violations())]
                assert browser.overflow() <= 0, (page, size)
        browser.open(office.page())
        look_at(browser, "overview-operator" if language == "en" else "")
        violations += [("answer", DESK, item) for item in violations_of_answers(office, browser)]
        # The confirmation is wrong, and one page does not exist.
        assert [item for item in browser.complaints() if " status of 4" not in item] == []
    assert [item for item in violations if item[-1]] == []


def violations_of_answers(office: Office, browser: Browser) -> Iterator[list[str]]:
    """Yield what axe finds in the answer to an action, and in that to a wrong confirmation."""
    browser.open(office.page(f"explain?path={HELD}"))
    browser.run(OPEN_DETAILS)
    browser.find("#confirmation").send_keys("another name")
    browser.follow(".forget button")
    assert not browser.run("return document.querySelector('#confirmation')")
    yield browser.violations()
    browser.open(office.page(f"explain?path={HELD}"))
    browser.follow("form:has([value=release]) button")
    assert not browser.run("return document.querySelector('form:has([value=release])')")
    yield browser.violations()


def colours(document: bytes) -> set[str]:
    """Return the colours that a PDF fills with."""
    found = set()
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", document, re.DOTALL):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            continue
        for parts in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg", text):
            found.add("#" + "".join(f"{round(255 * float(part)):02x}" for part in parts))
    return found


def test_a_printed_page_keeps_its_bars(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """A dark screen prints on white paper, with bars, without forms, and with the time."""
    with office.visited(browser):
        browser.prefer(prefers_color_scheme="dark")
        browser.wait_for("This page keeps itself up to date.")
        printed = colours(browser.printed())
        browser.prefer()
        assert browser.words().count("As of") <= 1
    assert {WELL_WASH, BAR} <= printed
    assert not server.objects


def test_a_page_works_without_script(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """Links and forms are enough to find a file."""
    with office.visited(browser):
        browser.allow_script(on=False)
        browser.open(office.page())
        assert "Times are UTC." in browser.find("footer").text
        browser.find("#path").send_keys("diksha/diksha_001.zip")
        browser.follow("[role=search] button")
        assert "diksha/diksha_001.zip" in browser.find("main").text
        browser.allow_script(on=True)
    assert not server.objects


def test_each_page_fits(office: Office, server: RehearsalServer, browser: Browser) -> None:
    """Each page has its landmarks and names, on a desk and on a phone, also in Hindi."""
    with full(office, server, browser):
        for page, name in PICTURES.items():
            browser.open(office.page(page))
            look_at(browser, name)
        browser.speak("hi")
        for page in ("", "datasets"):
            browser.open(office.page(page))
            assert browser.run("return document.documentElement.lang") == "hi"
            look_at(browser, "" if page else "hindi")
        browser.speak("en")
        browser.prefer(prefers_color_scheme="dark")
        browser.open(office.page())
        look_at(browser, "dark")
        browser.prefer()
        browser.print_preview(on=True)
        take_picture(browser, "page-print.png")
        browser.print_preview(on=False)
