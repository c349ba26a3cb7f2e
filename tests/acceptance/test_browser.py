"""The page in a real browser, over a real daemon: live, narrow, by keyboard, by ear.

With EMITTERD_SCREENSHOTS=docs the pictures of the documents are made anew.
"""

from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.trees import MASTERS, TRANSACTIONAL
from support.waiting import wait_until
from support.zips import sample

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from selenium.webdriver.common.keys import Keys

from support.browser import PHONE, Browser
from support.office import DAY, Office, look_at

LARGE = "student_attendance/student_attendance.zip"
ANOTHER = "teacher_attendance/teacher_attendance.zip"
REST = [f"{title}.zip" for title in (*MASTERS, *TRANSACTIONAL[2:])]
WRONG = "school_master/school_mst.zip"
SPEED = 500_000
"""Bytes a second: each large file takes 25 s, so a slow machine too sees it under way."""


def test_a_quiet_day(office: Office, server: RehearsalServer, browser: Browser) -> None:
    """Files come, are sent and delivered, and the open page shows each step."""
    office.settings["EMITTERD_DELIVERY_WORKERS"] = "2"
    large = {title: sample(title, 60_000) for title in (LARGE, ANOTHER)}
    rest = {title: sample(title) for title in REST}
    with office.visited(browser):
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
    office: Office, tmp_path: Path, server: RehearsalServer, browser: Browser
) -> None:
    """A rejected file and a dead server are reported with a remedy, so is the end."""
    with office.visited(browser):
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


def test_keyboard_alone(office: Office, server: RehearsalServer, browser: Browser) -> None:
    """From the top of the page to a file's story without a mouse, undisturbed by news.

    What was opened stays open, and where the row of the focus goes, its section has it.
    """
    with office.visited(browser):
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


def test_names_are_harmless(office: Office, server: RehearsalServer, browser: Browser) -> None:
    """A name that is markup is shown as text, before the script and after it."""
    name = "x<img src=/x onerror=alert(1)>\u202e.zip"
    with office.visited(browser):
        office.drop(f"infra_trans/{name}", b"wrong")
        browser.wait_for("infra_trans/x<img src=/x onerror=alert(1)>\\u202e.zip")
        assert browser.run("return document.querySelectorAll('img').length") == 0
        browser.follow("#rejected a")
        browser.wait_for("What the inspection found")
        assert browser.run("return document.querySelectorAll('img').length") == 0
        assert "\u202e" not in browser.run("return document.body.innerHTML")
    assert not server.objects


def test_a_page_left_alone_says_so(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """Without the daemon the page says that it is old, until it is back."""
    with office.visited(browser):
        browser.wait_for("This page keeps itself up to date.")
    browser.wait_for("emitterd does not answer: this page is as of")
    browser.complaints()
    with office.running():
        wait_until(office.answers, 20, "the page answers")
        # Who comes back to the window need not wait for the next look.
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")
        browser.wait_for("This page keeps itself up to date.")
    assert not server.objects
