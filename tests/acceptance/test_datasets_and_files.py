"""An office works with the pages: which data are missing, which file is where, and the proof."""

import csv
import io
import urllib.request
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.waiting import wait_until
from support.zips import sample

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from support.browser import Browser
from support.office import DAY, Office, look_at

GOOD = "school_category/school_category_master.zip"
WRONG = "school_master/school_mst.zip"
PAGE = 50


def test_missing_data_lead_to_the_files(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """The overdue dataset is on top; a dataset leads to its files, a file to its history."""
    office.settings["EMITTERD_DATASETS_EXPECT"] = "pat:1s,school_category:30d"
    with office.visited(browser):
        office.drop(GOOD, sample(GOOD))
        office.drop(WRONG, b"id|name\n1|one\n")
        wait_until(lambda: GOOD in office.states("delivered"), 20, "a delivery")
        wait_until(lambda: WRONG in office.states("rejected"), 20, "a rejection")
        browser.follow("nav a[href=datasets]")

        def overdue() -> bool:
            browser.open(office.page("datasets"))
            return "The data of 1 dataset are missing" in browser.words()

        wait_until(overdue, 20, "pat is overdue")
        words = browser.words()
        assert words.index("Put the zip into the folder pat") < words.index("All datasets")
        marks = "return [...document.querySelectorAll('.strip path')].map(r => r.className.baseVal)"
        assert sorted(browser.run(marks)) == ["delivered", "delivered", "rejected"]
        look_at(browser)
        browser.follow("tbody th a")
        assert "Files, the newest first" in browser.words()
        browser.follow("table.listing a")
        assert "Versions in the journal" in browser.words()
    assert len(server.objects) == 1


def test_files_are_found_without_script(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """Pages, filters and downloads need only links and a form."""
    with office.visited(browser):
        browser.allow_script(on=False)
        browser.follow("nav a[href=files]")
        assert f"{PAGE} of {DAY} files." in browser.find("main").text
        pages = 1
        while browser.find(".pages").text.endswith("Older files"):
            browser.follow("a[rel=next]")
            pages += 1
        assert pages == DAY / PAGE
        browser.follow("a[rel=prev]")
        assert f"{PAGE} of {DAY} files." in browser.find("main").text
        browser.find("#state option[value=delivered]").click()
        browser.find("#q").send_keys("DIKSHA_14")
        browser.follow(".filter button")
        browser.allow_script(on=True)
        assert browser.run("return document.querySelector('#state').value") == "delivered"
        names = browser.run("return [...document.querySelectorAll('.name')].map(a => a.innerText)")
        assert sorted(names) == [f"diksha/diksha_{number}.zip" for number in range(140, 150)]
        look_at(browser)
        address = browser.run("return document.querySelector('a[href^=\"receipts.csv\"]').href")
        with urllib.request.urlopen(address) as answer:  # noqa: S310  loopback
            rows = list(csv.DictReader(io.StringIO(answer.read().decode("utf-8-sig"))))
        assert sorted(row["path"] for row in rows) == sorted(names)
    assert not server.objects


def test_a_file_that_is_never_sent_is_explained(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """It is in no list of the journal: the page reads the folder."""
    Path(office.spool, "pat").mkdir()
    Path(office.spool, "pat", "half.zip").write_bytes(b"PK\x03\x04half")
    with office.visited(browser, "files"):
        browser.follow("a[href=skipped]")

        def shown() -> bool:
            browser.open(office.page("skipped"))
            return "pat/half.zip" in browser.words()

        wait_until(shown, 20, "the file is shown")
        assert "What to do:" in browser.words()
        look_at(browser)
    assert not server.objects
