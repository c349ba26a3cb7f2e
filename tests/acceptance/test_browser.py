"""The page in a real browser, over a real daemon: live, narrow, by keyboard, by ear.

With EMITTERD_SCREENSHOTS=docs the pictures of the documents are made anew.
"""

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.page import admission
from support.trees import MASTERS, TRANSACTIONAL
from support.waiting import wait_until
from support.zips import sample

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from selenium.webdriver.common.keys import Keys

from support.browser import DESK, NAMED, PHONE, Browser, chromium

LARGE = "student_attendance/student_attendance.zip"
ANOTHER = "teacher_attendance/teacher_attendance.zip"
REST = [f"{title}.zip" for title in (*MASTERS, *TRANSACTIONAL[2:])]
WRONG = "school_master/school_mst.zip"
SPEED = 500_000
"""Bytes a second: each large file takes 25 s, so a slow machine too sees it under way."""

DAY = 150


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Open one window for all tests."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def office(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Lay out an installation with a page and a day behind it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = Installation(
        tmp_path,
        server.url,
        web_listen=f"127.0.0.1:{port}",
        spool_catalogue="enforce",
        delivery_backoff_max="2s",
        delivery_drain_timeout="1s",
    )
    remember_a_day(site)
    return site


def remember_a_day(site: Installation) -> None:
    """Have a day's deliveries in the journal, most of them in office hours."""
    chance = random.Random(7)  # noqa: S311  sizes and times, not secrets
    names = [b"diksha/diksha_%03d.zip" % number for number in range(DAY)]
    rows = [
        (time.time() - 90 - 3600 * min(23.0, abs(chance.gauss(4.0, 3.5))), name) for name in names
    ]
    with Journal(site.journal) as journal:
        journal.admit([admission(name, chance.randrange(20_000, 3_000_000)) for name in names])
        journal.write(
            lambda connection: connection.executemany(
                """update entry set state = 'delivered', delivered_at = ?,
                   duration_s = 1, key = 'key' where path = ?""",
                rows,
            )
        )


def url(site: Installation, path: str = "") -> str:
    """Return an address of the page."""
    return f"http://{site.settings['EMITTERD_WEB_LISTEN']}/{path}"


def answers(site: Installation) -> bool:
    """Tell whether somebody listens where the page is."""
    host, port = site.settings["EMITTERD_WEB_LISTEN"].split(":")
    with socket.socket() as caller:
        return caller.connect_ex((host, int(port))) == 0


@contextmanager
def watched(site: Installation, browser: Browser) -> Iterator[None]:
    """Run the daemon and look at it: without complaint, and nowhere else."""
    # The page of the test before asks in vain by now.
    browser.open("about:blank")
    with site.running():
        browser.complaints()
        browser.requests()
        browser.size(*DESK)

        wait_until(lambda: answers(site), 20, "the page answers")
        browser.open(url(site))
        yield
        assert browser.complaints() == []
        asked = set(browser.requests()) - {"data:,"}
        assert {request for request in asked if not request.startswith(url(site))} == set()


def look_at(browser: Browser, name: str) -> None:
    """Hold the page to what it owes every reader, on a desk and on a phone."""
    for kind, size in (("desk", DESK), ("phone", PHONE)):
        browser.size(*size)
        assert browser.overflow() <= 0, kind
        tree = browser.tree()
        assert [role for role, item in tree if role in NAMED and not item.strip()] == []
        assert {"banner", "main", "contentinfo", "search"} <= {role for role, _ in tree}
        folder = os.environ.get("EMITTERD_SCREENSHOTS")
        if folder:
            browser.run("window.scrollTo(0, 0)")
            place = Path(folder, f"page-{kind}-{name}.png")
            browser.shoot(place, 1000 if kind == "desk" else 1500)
    browser.size(*DESK)


def test_a_quiet_day(office: Installation, server: RehearsalServer, browser: Browser) -> None:
    """Files come, are sent and delivered, and the open page tells each step."""
    office.settings["EMITTERD_DELIVERY_WORKERS"] = "2"
    large = {title: sample(title, 60_000) for title in (LARGE, ANOTHER)}
    rest = {title: sample(title) for title in REST}
    with watched(office, browser):
        browser.wait_for("All is well")
        assert ("heading", "All is well") in browser.tree()
        server.faults = fault_list(f"slow-reader@2:{SPEED}")
        for title, data in large.items():
            office.drop(title, data)
        browser.wait_for("Being sent 2")
        sent = progress(browser)
        wait_until(lambda: progress(browser) > sent, 20, "the first bar moves")
        for title, data in rest.items():
            office.drop(title, data)
        browser.wait_for("Next files")
        look_at(browser, "quiet")
        browser.wait_for(f"Delivered {DAY + 2 + len(REST)}")
        browser.wait_for("Nothing waits.")
        assert "Nothing is being sent now." in browser.words()
    assert len(server.objects) == 2 + len(REST)


def progress(browser: Browser) -> float:
    """Return where the first bar is; 0 where there is none."""
    script = "return document.querySelector('progress')?.value ?? 0"
    return float(browser.run(script))


def test_a_day_in_trouble(
    office: Installation, tmp_path: Path, server: RehearsalServer, browser: Browser
) -> None:
    """A rejected file and a dead server are reported with a remedy, so is the end."""
    with watched(office, browser):
        office.drop(WRONG, b"id|name\n1|one\n")
        browser.wait_for("1 file is rejected, and not replaced")
        assert "The header is not the header of the dataset. E233" in browser.words()
        port = server.port
        server.__exit__(None, None, None)
        office.drop(LARGE, sample(LARGE, 40_000))
        browser.wait_for("And 1 more alarm.")
        for title in REST[4:]:
            office.drop(title, sample(title))
        browser.wait_for("Next files")
        browser.wait_for("The connection is refused or unreachable. E302")
        look_at(browser, "trouble")
        office.drop(WRONG, sample(WRONG))
        with RehearsalServer(tmp_path / "again", port=port):
            browser.wait_for("All is well", 40)
            browser.wait_for("Nothing waits.", 40)


def test_keyboard_alone(office: Installation, server: RehearsalServer, browser: Browser) -> None:
    """From the top of the page to a file's story without a mouse, undisturbed by news.

    What was opened stays open, and where the row of the focus goes, its section has it.
    """
    with watched(office, browser):
        browser.press(Keys.TAB)
        assert browser.focused() == "Skip to the content"
        browser.press(Keys.TAB, Keys.TAB)
        assert browser.focused() == "path"
        browser.press(WRONG)
        office.drop(REST[0], sample(REST[0]))
        browser.wait_for(f"Delivered {DAY + 1}")
        assert browser.focused() == "path"
        browser.find("#numbers summary").send_keys(Keys.ENTER)
        browser.run("document.querySelector('#delivered li:last-child a').focus()")
        scrolled = browser.run("window.scrollTo(0, 200); return window.scrollY")
        office.drop(WRONG, sample(WRONG))
        browser.wait_for(f"Delivered {DAY + 2}")
        assert browser.run("return document.querySelector('#numbers').open")
        assert browser.run("return window.scrollY") == scrolled
        assert browser.focused() == "delivered"
        browser.find("#path").send_keys(Keys.ENTER)
        browser.wait_for("Object key")
        words = browser.words()
        assert f"{WRONG} delivered" in words
        assert "school_master/school_mst_" in words
        assert browser.run("return document.querySelector('#path').value") == WRONG
        assert browser.overflow() <= 0
        browser.size(*PHONE)
        assert browser.overflow() <= 0
    assert len(server.objects) == 2


def test_names_are_harmless(
    office: Installation, server: RehearsalServer, browser: Browser
) -> None:
    """A name that is markup is shown as text, before the script and after it."""
    name = "x<img src=/x onerror=alert(1)>\u202e.zip"
    with watched(office, browser):
        office.drop(f"infra_trans/{name}", b"wrong")
        browser.wait_for("infra_trans/x<img src=/x onerror=alert(1)>\\u202e.zip")
        assert browser.run("return document.querySelectorAll('img').length") == 0
        browser.find("#rejected a").click()
        browser.wait_for("What the inspection found")
        assert browser.run("return document.querySelectorAll('img').length") == 0
        assert "\u202e" not in browser.run("return document.body.innerHTML")
    assert not server.objects


def test_a_page_left_alone_says_so(
    office: Installation, server: RehearsalServer, browser: Browser
) -> None:
    """Without the daemon the page says that it is old, until it is back."""
    with watched(office, browser):
        browser.wait_for("This page keeps itself up to date.")
    browser.wait_for("emitterd does not answer: this page is as of")
    browser.complaints()
    with office.running():
        wait_until(lambda: answers(office), 20, "the page answers")
        # Who comes back to the window need not wait for the next look.
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")
        browser.wait_for("This page keeps itself up to date.")
    assert not server.objects
