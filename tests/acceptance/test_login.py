"""Operators in a real browser: log in, act, and log out; with the keyboard, axe, and no script."""

from functools import partial

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.visitors import PASSWORD, make_user, write_users
from support.waiting import wait_until
from support.zips import sample

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from selenium.webdriver.common.keys import Keys

from support.browser import DESK, PHONE, Browser
from support.office import Office, look_at

WAITING = "school_category/school_category_master.zip"
WRONG = "school_master/school_mst.zip"
LOGIN = ".login button"


def with_operators(office: Office) -> None:
    """Give the office one operator, and no second try of a failed file."""
    operators = office.folder / "operators"
    write_users(operators, make_user("asha"))
    office.settings["EMITTERD_WEB_OPERATORS_FILE"] = str(operators)
    office.settings["EMITTERD_DELIVERY_BACKOFF_INITIAL"] = "1h"
    office.settings["EMITTERD_DELIVERY_BACKOFF_MAX"] = "1h"


def log_in(browser: Browser, password: str = PASSWORD) -> None:
    """Fill in the login form by the keyboard alone."""
    browser.run("document.querySelector('#name').value = ''")
    browser.find("#name").send_keys("asha", Keys.TAB, password, Keys.ENTER)


def log_out(browser: Browser) -> None:
    """Log out; the Back button does not show the session again."""
    browser.follow("form.who button")
    browser.wait_for("Log in")
    assert "Logged in" not in browser.words()
    assert browser.run("return document.cookie") == ""
    browser.run("history.back()")
    wait_until(lambda: "explain" in str(browser.run("return location.href")), 20, "back")
    browser.wait_for("Log in")
    assert "Logged in" not in browser.words()


def has_language(browser: Browser, language: str) -> bool:
    """Return whether the whole page is there, in a language."""
    script = "return document.readyState + ' ' + document.documentElement.lang"
    return bool(browser.run(script) == f"complete {language}")


def check(browser: Browser, where: str) -> dict[str, list[str]]:
    """Return what axe finds in this page, in both languages and sizes."""
    found = {}
    for language in ("en", "hi"):
        browser.speak(language)
        for size in (DESK, PHONE):
            browser.size(*size)
            browser.reload()
            wait_until(partial(has_language, browser, language), 20, "the page in its language")
            assert browser.overflow() <= 0, (where, language, size)
            if violations := browser.violations():
                found[f"{where} {language} {size}"] = violations
    browser.speak("en")
    browser.size(*DESK)
    browser.reload()
    return found


def act(office: Office, browser: Browser) -> None:
    """Hold the file on its page, release it on the overview, and forget it."""
    browser.follow("form.act button[aria-label^=Hold]")
    browser.wait_for("hold by asha (page)")
    browser.open(office.page())
    browser.follow("#waiting form.act button[aria-label^=Release]")
    browser.wait_for("release by asha (page)")
    # emitterd has tried it again.
    wait_until(lambda: WAITING in office.states("deferred"), 20, "the file waits again")
    browser.open(office.page(f"explain?path={WAITING}"))
    browser.find("details.forget summary").click()
    browser.find("#confirmation").send_keys("school_category_master.zip", Keys.ENTER)
    browser.wait_for("forget by asha (page)")


def test_an_operator_logs_in_acts_and_logs_out(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """The login leads back to the page of the file, and the file's history names the operator."""
    with_operators(office)
    server.faults = fault_list("503")
    with office.visited(browser):
        office.drop(WAITING, sample(WAITING))
        wait_until(lambda: WAITING in office.states("deferred"), 20, "a file waits")
        assert server.fired["503"]
        browser.open(office.page(f"explain?path={WAITING}"))
        assert "Hold" not in browser.words()
        browser.follow(".who a")
        browser.wait_for("If you have forgotten your password")
        violations = check(browser, "login")
        look_at(browser, "login")

        log_in(browser, "a wrong password")
        browser.wait_for("The name or the password is wrong.")
        # The browser's console has the status of this answer.
        browser.complaints()
        log_in(browser)
        browser.wait_for("Logged in as asha")
        assert browser.run("return location.search") == f"?path={WAITING}"
        violations |= check(browser, "file")
        look_at(browser, "operator")

        act(office, browser)
        log_out(browser)
    assert violations == {}


def test_an_operator_acts_without_script(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """Forms are enough, and the lists of the overview have them."""
    with_operators(office)
    with office.visited(browser):
        office.drop(WRONG, b"id|name\n1|one\n")
        wait_until(lambda: WRONG in office.states("rejected"), 20, "a rejection")
        browser.allow_script(on=False)
        browser.open(office.page("login"))
        browser.find("#name").send_keys("asha")
        browser.find("#password").send_keys(PASSWORD)
        browser.follow(LOGIN)
        assert "Logged in as asha" in browser.find("header").text
        browser.follow("#rejected form.act button")
        assert "retry by asha (page)" in browser.find("main").text
        browser.follow("form.who button")
        browser.allow_script(on=True)
    assert not server.objects
